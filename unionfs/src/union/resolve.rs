//! How a name is found: the layers of a directory, and what they say.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::{RwLockReadGuard, RwLockWriteGuard};
use rustix::fs::{AtFlags, FileType, statat};

use super::Union;
use super::path::{joined, path_below, split};
use super::udba::Udba;
use crate::dir::{DirBody, Found, Listing, Says};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Located, Moved, Node};
use crate::marks::{DEVICE_PREFIX, DirMarks, Format, Means, meaning, read_small, whiteout_by, whiteout_name};
use crate::place::Place;
use crate::tally::CacheStats;
use crate::types::{BranchIndex, FileKind, Ino, Name};
use crate::work::read_names;

/// Lookups that a directory answers by asking its layers before it is worth reading them whole.
const PROBES: u32 = 4;
/// Redirects that may lead to one another (there are no loops unless somebody made them by hand).
pub(super) const REDIRECTS: usize = 40;

/// Which marks of a branch count.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reads {
    /// `.wh.` files: aufs's, OCI's.
    pub(super) files: bool,
    /// Devices and extended attributes: kernel overlay's.
    pub(super) overlay: bool,
}

impl Body {
    pub(super) fn dir(&self) -> Result<&DirBody> {
        match self {
            Self::Dir(body) => Ok(body),
            Self::File(_) => Err(Error::rule("node", Errno::NOTDIR)),
        }
    }

    pub(super) fn dir_mut(&mut self) -> Result<&mut DirBody> {
        match self {
            Self::Dir(body) => Ok(body),
            Self::File(_) => Err(Error::rule("node", Errno::NOTDIR)),
        }
    }
}

impl Union {
    /// The directory's state for reading, its layers known.
    pub(super) fn read_body<'a>(&self, dir: &'a Node) -> Result<RwLockReadGuard<'a, Body>> {
        let body = dir.body.read();
        if body.dir()?.layers.is_some() {
            return Ok(body);
        }
        drop(body);
        Ok(RwLockWriteGuard::downgrade(self.write_body(dir)?))
    }

    /// The directory's state for changing, its layers known.
    pub(super) fn write_body<'a>(&self, dir: &'a Node) -> Result<RwLockWriteGuard<'a, Body>> {
        let mut body = dir.body.write();
        let state = body.dir_mut()?;
        if state.layers.is_none() {
            self.resolve_layers(dir, state)?;
        }
        Ok(body)
    }

    /// Finds which of the candidates are merged: down to the first opaque mark, and on where a redirect leads.
    fn resolve_layers(&self, dir: &Node, state: &mut DirBody) -> Result<()> {
        let mut layers = Vec::with_capacity(state.candidates.len());
        state.noted.clear();
        let mut cut = state.cut;
        for &branch in &state.candidates {
            layers.push(branch);
            let marks = self.marks(branch, &self.dirfd(dir, branch)?)?;
            state.noted.extend(marks.note().map(|note| (branch, note)));
            if self.is_bottom(branch) {
                break;
            }
            if marks.redirect.is_some() || marks.opaque {
                cut = Some(branch.next());
                if let Some(target) = marks.redirect {
                    layers.extend(self.resolve_redirect(dir, state, branch, &target)?);
                }
                break;
            }
        }
        state.cut = cut;
        if self.options.udba == Udba::Notify {
            for &branch in &layers {
                self.watch(dir, branch, &*self.dirfd(dir, branch)?);
            }
        }
        state.layers = Some(layers);
        Ok(())
    }

    /// The layers that a redirect mark leads to.
    fn resolve_redirect(
        &self,
        dir: &Node,
        state: &mut DirBody,
        branch: BranchIndex,
        target: &[u8],
    ) -> Result<Vec<BranchIndex>> {
        let parent = dir.parent().map(|parent| {
            let _still = self.topology.read();
            path_below(&parent, branch)
        });
        let target = absolute(&parent.unwrap_or_default(), target);
        let located = self.follow(branch, &target, REDIRECTS)?;
        for (layer, path) in &located {
            let fd = Arc::new(self.branch(*layer).open_dir(path).at("openat2", *layer)?);
            state.noted.extend(self.marks(*layer, &fd)?.note().map(|note| (*layer, note)));
        }
        let layers = located.iter().map(|(layer, _)| *layer).collect();
        dir.link.lock().moved = Some(Box::new(Moved { marked: branch, target: target.into(), located }));
        Ok(layers)
    }

    /// Which marks count in a branch.
    ///
    /// All that are known, whatever wrote them; but in a writable branch of kernel overlay's format, names that begin
    /// with `.wh.` are the user's.
    pub(super) fn reads(&self, branch: BranchIndex) -> Reads {
        let marked = self.branch(branch).perm().whiteouts;
        let own = self.options.format == Format::Overlay && self.branch(branch).writable();
        Reads { files: marked && !own, overlay: marked }
    }

    /// The marks of a directory, where its branch's marks count.
    pub(super) fn marks(&self, branch: BranchIndex, dir: &Arc<OwnedFd>) -> Result<DirMarks> {
        let reads = self.reads(branch);
        if reads.overlay {
            DirMarks::read(dir, reads.files).at("opaque mark", branch)
        } else {
            Ok(DirMarks::default())
        }
    }

    /// Where the branches below `branch` have the directory `path`.
    pub(super) fn follow(&self, branch: BranchIndex, path: &[u8], left: usize) -> Result<Vec<Located>> {
        if left == 0 {
            return Err(Error { op: "redirect", branch: Some(branch), errno: Errno::LOOP });
        }
        let below = branch.index() + 1..self.branches.len();
        let mut located: Vec<Located> = below.map(|at| (super::index(at), Box::default())).collect();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            located = self.descend(&located, name, left)?;
        }
        Ok(located)
    }

    /// One step down from merged directories, which need not be known as nodes.
    fn descend(&self, dirs: &[Located], name: &[u8], left: usize) -> Result<Vec<Located>> {
        let name = Name::from_bytes(name)?;
        let mut found = Vec::new();
        for (branch, path) in dirs {
            let dir = Arc::new(self.branch(*branch).open_dir(path).at("openat2", *branch)?);
            match self.ask(*branch, &dir, name, false)? {
                (Some(Says::Object(FileKind::Directory)), hidden) => {
                    let path = joined(path, name.as_bytes());
                    let child = Arc::new(self.branch(*branch).open_dir(&path).at("openat2", *branch)?);
                    let marks = self.marks(*branch, &child)?;
                    found.push((*branch, path.clone().into()));
                    if let Some(target) = marks.redirect {
                        let target = absolute(split(&path).0, &target);
                        found.extend(self.follow(*branch, &target, left - 1)?);
                        break;
                    }
                    if marks.opaque || hidden {
                        break;
                    }
                }
                (None, false) => {}
                _ => break,
            }
        }
        Ok(found)
    }

    /// What the merged directory says of a name; `None` if no layer knows it.
    pub(super) fn find(&self, dir: &Node, state: &DirBody, name: Name<'_>) -> Result<Option<Found>> {
        let listing = state.listing.as_ref().filter(|_| self.options.udba != Udba::Reval);
        self.searches.count(listing.is_some());
        match listing {
            Some(listing) => Ok(listing.get(self.hash, name.as_bytes()).cloned()),
            None => self.probe(dir, state, name),
        }
    }

    /// How often the caches had what was asked for.
    pub fn cache_stats(&self) -> Vec<CacheStats> {
        vec![
            self.searches.stats("listings"),
            self.dirs.stats("directory descriptors"),
            self.files.stats("file descriptors"),
            self.ahead.asked.stats("files read in a row"),
        ]
    }

    /// As [`Self::find`], asking every layer anew.
    pub(super) fn probe(&self, dir: &Node, state: &DirBody, name: Name<'_>) -> Result<Option<Found>> {
        let mut found: Option<Found> = None;
        for &branch in state.layers.as_deref().unwrap_or_default() {
            let fd = self.dirfd(dir, branch)?;
            let (object, hidden) = self.ask(branch, &fd, name, state.note(branch).xwhiteouts)?;
            for says in object.into_iter().chain(hidden.then_some(Says::Whiteout)) {
                match &mut found {
                    Some(found) => found.add(says, branch),
                    None => found = Some(Found::first(says, branch)),
                }
            }
            if found.as_ref().is_some_and(Found::is_closed) {
                break;
            }
        }
        Ok(found)
    }

    /// The directory's state to look a name up in: read whole once that is cheaper than asking again and again.
    pub(super) fn searched_body<'a>(&self, dir: &'a Node) -> Result<RwLockReadGuard<'a, Body>> {
        let body = self.read_body(dir)?;
        let state = body.dir()?;
        let probes = self.options.udba == Udba::Reval || state.listing.is_some();
        if probes || state.probes.fetch_add(1, Ordering::Relaxed) < PROBES {
            return Ok(body);
        }
        drop(body);
        self.listed_body(dir, false)
    }

    /// What one layer says of a name: its object, and whether a whiteout of the name lies there.
    pub(super) fn ask(
        &self,
        branch: BranchIndex,
        dir: &Arc<OwnedFd>,
        name: Name<'_>,
        xwhiteouts: bool,
    ) -> Result<(Option<Says>, bool)> {
        let reads = self.reads(branch);
        let whiteout = || exists(dir, &whiteout_name(name.as_bytes())).at("statx", branch);
        let stat = match statat(dir, name.as_bytes(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok((None, reads.files && whiteout()?)),
            Err(errno) => return Err(errno).at("statx", branch),
        };
        if reads.overlay {
            let is_device = || exists(dir, &[DEVICE_PREFIX, name.as_bytes()].concat());
            let place = || Place::Name(Arc::clone(dir), name.as_bytes().into());
            if whiteout_by(&stat, xwhiteouts, place, is_device).at("statx", branch)?.is_some() {
                return Ok((Some(Says::Whiteout), false));
            }
        }
        Ok((Some(Says::Object(FileKind::from_mode(stat.st_mode))), reads.files && whiteout()?))
    }

    /// Reads all layers of a directory into its listing, if that was not done yet.
    pub(super) fn list(&self, dir: &Node, state: &mut DirBody) -> Result<()> {
        if state.listing.is_some() {
            return Ok(());
        }
        let mut listing = Listing::default();
        for &branch in state.layers.as_deref().unwrap_or_default() {
            let fd = self.dirfd(dir, branch)?;
            self.list_layer(branch, &fd, state.note(branch).xwhiteouts, &mut |name, says, _| {
                listing.fold(self.hash, name, says, branch);
            })?;
        }
        self.listings.made(dir.ino, listing.len(), |other| self.drop_listing(other));
        state.listing = Some(listing);
        Ok(())
    }

    /// Counts the names of a listing that has grown.
    pub(super) fn grown(&self, dir: Ino, listing: &Listing) {
        const OFTEN: usize = 256;
        if listing.len() % OFTEN == 1 {
            self.listings.made(dir, listing.len(), |other| self.drop_listing(other));
        }
    }

    /// Drops the listing of a directory that nobody is looking at; false if somebody is.
    fn drop_listing(&self, dir: Ino) -> bool {
        let Some(node) = self.inodes.get(dir) else { return true };
        let Some(mut body) = node.body.try_write() else { return false };
        if let Body::Dir(state) = &mut *body
            && !state.is_dead()
        {
            state.listing = None;
            state.probes = 0.into();
        }
        true
    }

    /// Tells what one layer says of each name, and the inode number that the listing has (0 for a whiteout).
    pub(super) fn list_layer(
        &self,
        branch: BranchIndex,
        dir: &Arc<OwnedFd>,
        xwhiteouts: bool,
        fold: &mut dyn FnMut(&[u8], Says, u64),
    ) -> Result<()> {
        let reads = self.reads(branch);
        // A branch whose marks do not count has its `.wh.` names hidden all the same.
        let meaning = |name| if reads.overlay && !reads.files { Means::Object } else { meaning(name) };
        let names = read_names(dir).at("getdents64", branch)?;
        let devices: Vec<&[u8]> = names.iter().filter_map(|(name, ..)| device_of(name)).collect();
        for (name, kind, real) in &names {
            if meaning(name) != Means::Object {
                continue;
            }
            let kind = self.kind_of(branch, dir, name, *kind)?;
            let may_hide =
                reads.overlay && (kind == FileKind::CharDevice || xwhiteouts && kind == FileKind::Regular);
            let says = if may_hide && !devices.contains(&name.as_slice()) {
                let proven = Name::from_bytes(name)?;
                self.ask(branch, dir, proven, xwhiteouts)?.0.unwrap_or(Says::Whiteout)
            } else {
                Says::Object(kind)
            };
            fold(name, says, *real);
        }
        // After the objects: of one layer the whiteout hides what lies below, not what lies beside it.
        for (name, ..) in names.iter().filter(|_| reads.files) {
            match meaning(name) {
                Means::Whiteout(hidden) => fold(hidden, Says::Whiteout, 0),
                Means::LongWhiteout => {
                    let hidden = read_small(dir, name).at("whiteout", branch)?;
                    fold(&hidden, Says::Whiteout, 0);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The kind of an entry; asked for where the filesystem does not tell it while listing.
    fn kind_of(
        &self,
        branch: BranchIndex,
        dir: &Arc<OwnedFd>,
        name: &[u8],
        kind: FileType,
    ) -> Result<FileKind> {
        if kind == FileType::Unknown {
            let stat = statat(dir, name, AtFlags::SYMLINK_NOFOLLOW).at("statx", branch)?;
            return Ok(FileKind::from_mode(stat.st_mode));
        }
        Ok(FileKind::from_mode(kind.as_raw_mode()))
    }
}

/// The path from the root that a redirect in a child of `parent` names, without a leading slash.
pub(crate) fn absolute(parent: &[u8], target: &[u8]) -> Vec<u8> {
    match target.strip_prefix(b"/") {
        Some(path) => path.to_vec(),
        None => joined(parent, target),
    }
}

fn device_of(name: &[u8]) -> Option<&[u8]> {
    match meaning(name) {
        Means::Device(name) => Some(name),
        _ => None,
    }
}

fn exists(dir: &OwnedFd, name: &[u8]) -> std::result::Result<bool, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        // `.wh.` before a name of more than 251 bytes is no name: such a whiteout cannot exist.
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(false),
        Err(errno) => Err(errno),
    }
}
