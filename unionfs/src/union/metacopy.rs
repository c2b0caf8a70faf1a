//! Copies of a file's metadata only: kernel overlay's "metadata only copy up" (overlayfs.rst), whose content is looked
//! for further down.
//!
//! Those that we make hold the path of their content in the branches below from the start, and have one name; so a
//! rename changes nothing in them, and when the data comes a whole copy takes their place in one rename.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{OFlags, Stat, XattrFlags, ftruncate};

use super::Union;
use super::data::open_lower;
use super::path::{joined, path_below, path_on, split};
use super::resolve::{REDIRECTS, absolute};
use crate::dir::{DirBody, Says};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Data, FileBody, Located, Node, Site};
use crate::marks::read_metacopy;
use crate::place::Place;
use crate::types::{BranchIndex, FileKind, Name};
use crate::work::OwnXattrs;

/// What fails where a file's content should be further down, and is not there.
pub(crate) const CONTENT_LOST: &str = "content of a metadata-only copy";

impl Union {
    /// Where the content of the file `name` on `branch` is.
    pub(super) fn data_of(
        &self,
        dir: &Node,
        state: &DirBody,
        name: Name<'_>,
        branch: BranchIndex,
        place: &Place,
    ) -> Result<Data> {
        let Some(redirect) = read_metacopy(place) else { return Ok(Data::Own) };
        let below = {
            let _still = self.topology.read();
            let layers = state.layers.iter().flatten().filter(|&&layer| layer > branch);
            layers.map(|&layer| (layer, path_on(dir, layer).into())).collect()
        };
        self.find_content((branch, below), name.as_bytes().to_vec(), redirect)
    }

    /// Follows a redirect, or the name itself, down to a file that has its content; `below` are the directories to look
    /// into for a name, below the branch beside them.
    fn find_content(
        &self,
        (mut branch, mut below): (BranchIndex, Vec<Located>),
        mut name: Vec<u8>,
        mut redirect: Option<Vec<u8>>,
    ) -> Result<Data> {
        for _ in 0..REDIRECTS {
            match redirect {
                Some(target) if target.starts_with(b"/") => {
                    let path = absolute(&[], &target);
                    let (parent, file) = split(&path);
                    (below, name) = (self.follow(branch, parent, REDIRECTS)?, file.to_vec());
                }
                Some(target) => name = target,
                None => {}
            }
            let Some(at) = self.first_file(&below, &name)? else { return Ok(Data::below(None)) };
            let (layer, parent) = below[at].clone();
            let here = Place::Name(
                Arc::new(self.branch(layer).open_dir(&parent).at("openat2", layer)?),
                name.as_slice().into(),
            );
            let Some(next) = read_metacopy(&here) else {
                return Ok(Data::below(Some((layer, joined(&parent, &name).into()))));
            };
            (branch, redirect) = (layer, next);
            below.drain(..=at);
        }
        Err(Error { op: "redirect", branch: Some(branch), errno: Errno::LOOP })
    }

    /// The first of merged directories that has a name, if it is a regular file there.
    fn first_file(&self, dirs: &[Located], name: &[u8]) -> Result<Option<usize>> {
        let name = Name::from_bytes(name)?;
        for (at, (branch, path)) in dirs.iter().enumerate() {
            let dir = Arc::new(self.branch(*branch).open_dir(path).at("openat2", *branch)?);
            match self.ask(*branch, &dir, name, false)? {
                (Some(Says::Object(FileKind::Regular)), _) => return Ok(Some(at)),
                (None, false) => {}
                _ => break,
            }
        }
        Ok(None)
    }

    fn located(&self, (branch, path): &Located) -> Result<Place> {
        let (parent, name) = split(path);
        let dir = self.branch(*branch).open_dir(parent).at("openat2", *branch)?;
        Ok(Place::Name(Arc::new(dir), name.into()))
    }

    /// Opens the content of a file, which lies at `place`, for reading.
    pub(super) fn open_content(&self, place: &Place, file: &FileBody) -> Result<OwnedFd> {
        let Data::Below(at) = &file.data else { return open_lower(place).at("open", file.branch) };
        match &**at {
            Some(at) => open_lower(&self.located(at)?).at("open", at.0),
            None => Err(Error { op: CONTENT_LOST, branch: Some(file.branch), errno: Errno::IO }),
        }
    }

    /// The file itself, open, if a writable branch has the metadata only.
    pub(super) fn open_hollow(&self, node: &Node) -> Result<Option<OwnedFd>> {
        match &*node.body.read() {
            Body::File(file) if !file.data.is_own() && self.is_writable(file.branch) => {
                self.file_place(node, file)?.open(OFlags::RDONLY).at("open", file.branch).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// The blocks of a file are those of its content (fs/overlayfs/inode.c, `ovl_getattr`).
    pub(super) fn count_blocks(&self, data: &Data, stat: &mut Stat) {
        if let Data::Below(at) = data
            && let Some(at) = &**at
            && let Ok(content) = self.located(at).and_then(|place| place.stat().at("statx", at.0))
        {
            stat.st_blocks = content.st_blocks;
        }
    }

    /// Makes a fresh copy on branch `to` one of the metadata only, where options, branch and origin allow it; tells
    /// where its content is then.
    pub(super) fn leave_content(
        &self,
        node: &Node,
        (from, stat): (&FileBody, &Stat),
        (to, copy): (BranchIndex, &Place),
    ) -> Result<Option<Data>> {
        let apt = self.options.metacopy
            && stat.st_size > 0
            && stat.st_nlink == 1
            && self.groups.get(node.ino, from.branch).is_none();
        if !apt || self.is_writable(from.branch) {
            return Ok(None);
        }
        let Some((redirect, data)) = self.content_of(node, from, to) else { return Ok(None) };
        if !self.mark_hollow(to, copy, &redirect)? {
            return Ok(None);
        }
        ftruncate(copy.file().at("ftruncate", to)?, u64::try_from(stat.st_size).unwrap_or_default())
            .at("ftruncate", to)?;
        Ok(Some(data))
    }

    /// Where the content of a file is: its path in the union of the branches below `to`, and its place.
    fn content_of(&self, node: &Node, from: &FileBody, to: BranchIndex) -> Option<(Vec<u8>, Data)> {
        if !matches!(from.site, Site::Linked) {
            return None;
        }
        let (parent, name) = {
            let link = node.link.lock();
            (link.parent.clone()?, link.name.to_vec())
        };
        // The rule for marks (`super::placement`).
        if self.highest_mark(&parent).is_some_and(|mark| mark < to) {
            return None;
        }
        let _still = self.topology.read();
        let data = match &from.data {
            Data::Own => {
                Data::below(Some((from.branch, joined(&path_on(&parent, from.branch), &name).into())))
            }
            Data::Below(at) if at.is_none() => return None,
            Data::Below(at) => Data::Below(Arc::clone(at)),
        };
        Some(([b"/", joined(&path_below(&parent, to), &name).as_slice()].concat(), data))
    }

    /// Writes the marks of a copy of the metadata only; false where the branch cannot hold them.
    fn mark_hollow(&self, branch: BranchIndex, copy: &Place, redirect: &[u8]) -> Result<bool> {
        let Some(prefix) = self.overlay_prefix(branch)? else { return Ok(false) };
        // The metacopy mark last: the others alone say nothing. An origin without a handle is one that is not known
        // (fs/overlayfs/copy_up.c, `ovl_set_origin_fh`).
        for (mark, value) in [("redirect", redirect), ("origin", b""), ("metacopy", b"")] {
            match copy.setxattr(&mark_name(prefix, mark), value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE | Errno::OPNOTSUPP | Errno::PERM) => {
                    return Ok(false);
                }
                Err(errno) => return Err(errno).at("setxattr", branch),
            }
        }
        Ok(true)
    }

    /// Makes a directory tell that it may have copies of the metadata only, before it gets one.
    pub(super) fn mark_impure(
        &self,
        branch: BranchIndex,
        dir: &Arc<OwnedFd>,
        state: &mut DirBody,
    ) -> Result<()> {
        if state.note(branch).metacopies {
            return Ok(());
        }
        if let Some(prefix) = self.overlay_prefix(branch)? {
            let set =
                Place::Fd(Arc::clone(dir)).setxattr(&mark_name(prefix, "impure"), b"y", XattrFlags::empty());
            set.at("setxattr", branch)?;
        }
        let note = crate::marks::Note { metacopies: true, ..state.note(branch) };
        state.noted.retain(|(noted, _)| *noted != branch);
        state.noted.push((branch, note));
        Ok(())
    }

    /// Before a copy of the metadata only moves to `dir`, it holds the whole path of its content, and `dir` tells of it.
    pub(super) fn take_redirect_along(
        &self,
        node: &Node,
        branch: BranchIndex,
        dir: &Node,
        state: &mut DirBody,
    ) -> Result<()> {
        let body = node.body.read();
        let Body::File(file) = &*body else { return Ok(()) };
        if file.data.is_own() {
            return Ok(());
        }
        let place = self.file_place(node, file)?;
        let redirect = read_metacopy(&place).flatten();
        if !redirect.as_ref().is_some_and(|target| target.starts_with(b"/"))
            && let Some(prefix) = self.overlay_prefix(branch)?
        {
            let (parent, name) = {
                let link = node.link.lock();
                (link.parent.clone().ok_or(Error::rule("link", Errno::STALE))?, link.name.to_vec())
            };
            let _still = self.topology.read();
            let target = joined(&path_below(&parent, branch), &redirect.unwrap_or(name));
            place
                .setxattr(
                    &mark_name(prefix, "redirect"),
                    &[b"/", target.as_slice()].concat(),
                    XattrFlags::empty(),
                )
                .at("setxattr", branch)?;
        }
        self.mark_impure(branch, &self.dirfd(dir, branch)?, state)
    }

    /// What the names of kernel overlay's marks begin with on a writable branch; `None` if it can hold none.
    fn overlay_prefix(&self, branch: BranchIndex) -> Result<Option<&'static str>> {
        Ok(match self.must_work(branch)?.own {
            OwnXattrs::Trusted => Some("trusted"),
            OwnXattrs::User => Some("user"),
            OwnXattrs::Absent => None,
        })
    }
}

fn mark_name(prefix: &str, mark: &str) -> Vec<u8> {
    format!("{prefix}.overlay.{mark}").into_bytes()
}
