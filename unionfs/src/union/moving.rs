//! A file whose branch is full moves on to a writable branch with room (mergerfs's `moveonenospc`).

use std::os::fd::OwnedFd;
use std::sync::Arc;

use dashmap::DashMap;
use rustix::fs::{AtFlags, OFlags, renameat, unlinkat};

use super::Union;
use super::copy::Extent;
use super::hide::unlink_if_there;
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, BuildInoHasher, Data, FileBody, Node, Site};
use crate::place::{Place, ShortName};
use crate::types::{BranchIndex, FileKind, Ino, Name};
use crate::work::{LEFT, keeping_times, read_names};

/// Numbers that files took along from the branches on which they were born. The inode that has such a number stays,
/// empty, as `ID.r` in `links/`, or its filesystem would give the number to the next file.
#[derive(Debug, Default)]
pub(crate) struct Numbers {
    kept: DashMap<Ino, Keeper, BuildInoHasher>,
}

#[derive(Debug)]
enum Keeper {
    /// The entry in `links/` of this branch.
    Entry(BranchIndex),
    /// The file has lost its names, and is still open.
    Open(#[allow(dead_code, reason = "it is held, not used")] OwnedFd),
}

impl Numbers {
    /// Reads the indexes of all branches.
    pub(crate) fn load(
        indexes: &[Option<Arc<OwnedFd>>],
        understand: impl Fn(BranchIndex, &str) -> Option<Ino>,
    ) -> Self {
        let numbers = Self::default();
        for (at, links) in indexes.iter().enumerate() {
            let (Some(links), branch) = (links, super::index(at)) else { continue };
            for (name, ..) in read_names(links).unwrap_or_default() {
                let origin = std::str::from_utf8(&name).ok().and_then(|text| text.strip_suffix(LEFT));
                if let Some(ino) = origin.and_then(|origin| understand(branch, origin)) {
                    numbers.kept.insert(ino, Keeper::Entry(branch));
                }
            }
        }
        numbers
    }

    /// Nobody knows the file any more.
    pub(crate) fn let_go(&self, ino: Ino) {
        if !self.kept.is_empty() {
            self.kept.remove_if(&ino, |_, keeper| matches!(keeper, Keeper::Open(_)));
        }
    }
}

impl Union {
    /// Whether a file that got no space should move on to a branch that has some.
    pub(super) fn moves_on(&self, node: &Node, errno: Errno) -> bool {
        self.options.move_on_enospc
            && node.kind == FileKind::Regular
            && matches!(errno, Errno::NOSPC | Errno::DQUOT)
    }

    /// Moves a file whose branch is full to a branch with room, under the same name.
    ///
    /// Both branches have the whole file for a moment; whichever shows, it is the same.
    pub(super) fn move_on(&self, node: &Arc<Node>) -> Result<()> {
        let stays = Error::rule("move on", Errno::NOSPC);
        let parent = node.parent().ok_or(stays)?;
        let from = self.branch_of(node)?;
        let to = self.roomier_branch(&parent, from).map_err(|_| stays)?.ok_or(stays)?;
        self.dir_on(&parent, to)?;
        let mut above = self.write_body(&parent)?;
        // Nobody writes to the file while this is held.
        let mut body = node.body.write();
        let name = node.link.lock().name.clone();
        let name = Name::from_bytes(&name)?;
        let mut found =
            self.find(&parent, above.dir()?, name)?.filter(|found| found.top == from).ok_or(stays)?;
        let Body::File(file @ FileBody { site: Site::Linked, .. }) = &*body else { return Err(stays) };
        if file.branch != from
            || !node.is_linked_as(&parent, name.as_bytes())
            || (to > from && found.covers())
        {
            return Err(stays);
        }
        let source = self.place(node, &body)?;
        let stat = source.stat().at("statx", from)?;
        let own = self.devices.ino(stat.st_dev, stat.st_ino);
        let (temp, shown) = self.copy_object(node, file, &source, to, Extent::Whole)?;
        if shown.links > 1 {
            return Err(Error { op: "move on with hard links", branch: Some(from), errno: Errno::NOSPC });
        }
        let (old, new) = (self.dirfd(&parent, from)?, self.dirfd(&parent, to)?);
        keeping_times(&new, || renameat(temp.dir(), temp.name.as_slice(), &new, name.as_bytes()))
            .at("renameat", to)?;
        temp.moved();
        keeping_times(&old, || self.leave(node.ino, (from, &old), name, own)).at("unlinkat", from)?;
        *body = Body::File(FileBody {
            branch: to,
            site: Site::Linked,
            real: shown.real,
            nameless: false,
            data: Data::Own,
        });
        self.files.remove(&node.ino);
        let state = above.dir_mut()?;
        state.pure = false;
        if let Some(listing) = &mut state.listing {
            found.moved_to(to);
            listing.set(self.hash, name.as_bytes(), Some(found));
        }
        Ok(())
    }

    /// Takes away the name of a file that was moved; its inode stays if the file keeps that inode's number.
    fn leave(
        &self,
        ino: Ino,
        (from, dir): (BranchIndex, &OwnedFd),
        name: Name<'_>,
        own: Ino,
    ) -> Result<(), Errno> {
        if own != ino {
            return unlinkat(dir, name.as_bytes(), AtFlags::empty());
        }
        let work = self.work(from).ok_or(Errno::ROFS)?;
        let kept = self.left_name(ino, from);
        renameat(dir, name.as_bytes(), work.links(), kept.as_slice())?;
        self.numbers.kept.insert(ino, Keeper::Entry(from));
        let left = Place::Name(Arc::clone(work.links()), kept);
        self.files.remove(&ino);
        if let Err(errno) = empty(&left) {
            tracing::info!(%errno, "what a moved file has left takes space until the next mount");
        }
        Ok(())
    }

    fn left_name(&self, ino: Ino, branch: BranchIndex) -> ShortName {
        format!("{}{LEFT}", self.record_name(ino, branch)).into_bytes().into()
    }

    /// A file has lost its last name: its number is free as soon as nobody has it open.
    pub(super) fn release_number(&self, ino: Ino) {
        if self.numbers.kept.is_empty() {
            return;
        }
        let Some((_, Keeper::Entry(branch))) = self.numbers.kept.remove(&ino) else { return };
        let Some(work) = self.work(branch) else { return };
        let left = Place::Name(Arc::clone(work.links()), self.left_name(ino, branch));
        if self.inodes.get(ino).is_some()
            && let Ok(fd) = left.open(OFlags::PATH)
        {
            self.numbers.kept.insert(ino, Keeper::Open(fd));
        }
        unlink_if_there(work.links(), &self.left_name(ino, branch)).unwrap_or_default();
    }

    /// The branch with the most room, other than the one that is full, in which a directory is or can be.
    fn roomier_branch(&self, dir: &Arc<Node>, full: BranchIndex) -> Result<Option<BranchIndex>> {
        let others = self.reach(dir)?.into_iter().map(|reached| reached.branch).filter(|&at| at != full);
        let room = others.map(|at| (self.room(at), at)).filter(|&(free, _)| free > self.options.min_free);
        Ok(room.max().map(|(_, at)| at))
    }
}

/// Takes the content from a file that only its number is kept for; not while somebody is still reading there.
fn empty(left: &Place) -> Result<(), Errno> {
    left.chmod(0o600)?;
    let file = left.open(OFlags::WRONLY)?;
    if crate::sys::is_unshared(&file) { rustix::fs::ftruncate(file, 0) } else { Err(Errno::BUSY) }
}
