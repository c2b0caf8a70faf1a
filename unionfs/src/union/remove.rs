//! Names that go away: unlink and rmdir.

use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use rustix::fs::{AtFlags, unlinkat};

use super::Union;
use super::read::{Seen, saturate};
use crate::dir::{DirBody, Found, Listing};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Link, Node, Site};
use crate::types::{BranchIndex, FileKind, Ino, Name};

/// How often a directory is locked again because it changed while it was prepared.
const TRIES: usize = 16;

/// A directory locked to lose a name.
struct Closing<'a> {
    dir: &'a Arc<Node>,
    body: RwLockWriteGuard<'a, Body>,
    found: Found,
    seen: Seen,
    /// The writable branch on which the name goes.
    branch: BranchIndex,
}

impl Union {
    /// Removes a name that is no directory. A lower file's name is hidden, and nothing is copied for it.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EISDIR`, `EROFS`, or what the branch said.
    pub fn unlink(&self, dir: Ino, name: Name<'_>) -> Result<()> {
        let dir = self.dir_node(dir)?;
        let mut closing = self.close_name(&dir, name)?;
        if closing.found.kind == FileKind::Directory {
            return Err(Error::rule("unlink", Errno::ISDIR));
        }
        let node = self.inodes.get(closing.seen.ino);
        let mut file = node.as_ref().map(|node| node.body.write());
        if let (Some(node), Some(body)) = (&node, file.as_deref_mut()) {
            self.keep_open(node, body, &dir, name)?;
        }
        self.remove_from_disk(&closing, name)?;
        self.drop_link(&closing.seen, closing.branch);
        if let Some(node) = node.as_ref().filter(|node| node.is_linked_as(&dir, name.as_bytes())) {
            self.relink(node, Link::default());
        }
        closing.forget_name(self, name)
    }

    /// Removes a directory that is empty in the merged view.
    ///
    /// # Errors
    ///
    /// `ENOTEMPTY` if the merged directory, not just its upper part, has a visible child; `ENOTDIR`, `EROFS`.
    pub fn rmdir(&self, dir: Ino, name: Name<'_>) -> Result<()> {
        let dir = self.dir_node(dir)?;
        let entry = self.lookup(dir.ino, name)?.ok_or(Error::rule("rmdir", Errno::NOENT))?;
        let removed = self.rmdir_node(&dir, name, entry.node);
        self.forget(entry.node, 1);
        removed
    }

    fn rmdir_node(&self, dir: &Arc<Node>, name: Name<'_>, child: Ino) -> Result<()> {
        let child = self.dir_node(child)?;
        let mut closing = self.close_name(dir, name)?;
        if closing.seen.ino != child.ino && !child.is_linked_as(dir, name.as_bytes()) {
            return Err(Error::rule("rmdir", Errno::STALE));
        }
        let mut body = self.write_body(&child)?;
        let state = body.dir_mut()?;
        self.must_be_empty(&child, state)?;
        let gone = self.dirfd(&child, state.top())?;
        let (branch, bytes) = (closing.branch, name.as_bytes());
        let fd = self.dirfd(dir, branch)?;
        match (closing.found.top == branch, closing.hides()) {
            (true, true) => self.hide_dir(branch, &fd, bytes)?,
            (true, false) => self.discard_dir(branch, &fd, bytes)?,
            (false, _) => self.hide(branch, &fd, bytes, false)?,
        }
        self.bury(&child, state, gone);
        closing.forget_name(self, name)
    }

    pub(super) fn must_be_empty(&self, dir: &Node, state: &mut DirBody) -> Result<()> {
        self.list(dir, state)?;
        if state.listing.as_ref().is_some_and(Listing::is_empty) {
            Ok(())
        } else {
            Err(Error::rule("rmdir", Errno::NOTEMPTY))
        }
    }

    /// A directory without a name lives on, empty, for those who have it open.
    pub(super) fn bury(&self, dir: &Node, state: &mut DirBody, gone: Arc<std::os::fd::OwnedFd>) {
        self.evict_dir(dir.ino, state);
        *state = DirBody {
            candidates: [state.top()].into(),
            layers: Some(Vec::new()),
            listing: Some(Listing::default()),
            gone: Some(gone),
            ..DirBody::default()
        };
        self.relink(dir, Link::default());
    }

    /// Locks a directory, present on the branch where the change will be made, and finds the name in it.
    fn close_name<'a>(&self, dir: &'a Arc<Node>, name: Name<'_>) -> Result<Closing<'a>> {
        let absent = Error::rule("name", Errno::NOENT);
        if self.is_reserved(name) {
            return Err(absent);
        }
        for _ in 0..TRIES {
            let (top, branch) = {
                let body = self.read_body(dir)?;
                let found = self.find(dir, body.dir()?, name)?.filter(|found| found.visible).ok_or(absent)?;
                (found.top, self.removal_branch(body.dir()?, &found)?)
            };
            self.dir_on(dir, branch)?;
            let body = self.write_body(dir)?;
            let found = self.find(dir, body.dir()?, name)?.filter(|found| found.visible).ok_or(absent)?;
            if found.top == top {
                let seen = self.look(dir, body.dir()?, name, &found)?;
                return Ok(Closing { dir, body, found, seen, branch });
            }
        }
        Err(Error::rule("name", Errno::AGAIN))
    }

    /// Before the last name by which a node is found goes, it gets a descriptor instead.
    pub(super) fn keep_open(
        &self,
        node: &Arc<Node>,
        body: &mut Body,
        dir: &Node,
        name: Name<'_>,
    ) -> Result<()> {
        let Body::File(file) = body else { return Ok(()) };
        let by_name = matches!(file.site, Site::Linked) && node.is_linked_as(dir, name.as_bytes());
        let last = matches!(file.site, Site::Indexed)
            && self.groups.get(node.ino).and_then(|group| group.nlink).is_some_and(|nlink| nlink <= 1);
        if by_name || last {
            let fd = self.file_place(node, file)?.pin().at("open", file.branch)?;
            file.site = Site::Pinned(fd);
        }
        Ok(())
    }

    fn remove_from_disk(&self, closing: &Closing<'_>, name: Name<'_>) -> Result<()> {
        let (branch, bytes) = (closing.branch, name.as_bytes());
        let fd = self.dirfd(closing.dir, branch)?;
        let there = closing.found.top == branch;
        if closing.hides() {
            self.hide(branch, &fd, bytes, there)?;
        } else {
            unlinkat(&fd, bytes, AtFlags::empty()).at("unlinkat", branch)?;
        }
        if there && closing.found.kind == FileKind::CharDevice {
            Self::unmark_device(&fd, bytes);
        }
        Ok(())
    }

    /// Counts one link less of a group of hard links of which not all are on the writable branch.
    pub(super) fn drop_link(&self, seen: &Seen, branch: BranchIndex) {
        let lower = seen.group.is_some() || (!self.is_writable(seen.branch) && seen.stat.st_nlink > 1);
        if !lower {
            return;
        }
        let counted = self.groups.get(seen.ino).and_then(|group| group.nlink);
        match (counted.unwrap_or_else(|| saturate(seen.stat.st_nlink)), self.work(branch)) {
            (0 | 1, Some(work)) => self.groups.remove(seen.ino, work),
            (links, _) => self.count_links(seen.ino, branch, links - 1),
        }
    }

    /// Records the links of a group. The name that changed has changed already, so a record that cannot be made is
    /// no failure of the caller's: the count is right until the next mount.
    pub(super) fn count_links(&self, group: Ino, branch: BranchIndex, links: u32) {
        let Some(work) = self.work(branch) else { return };
        if let Err(errno) = self.groups.set_nlink(group, work, links) {
            tracing::warn!(%errno, group = group.get(), "links are not counted on disk");
        }
    }
}

impl Closing<'_> {
    /// Whether a whiteout must take the name's place.
    fn hides(&self) -> bool {
        self.found.top != self.branch || self.found.below
    }

    /// The listing no longer shows the name.
    fn forget_name(&mut self, union: &Union, name: Name<'_>) -> Result<()> {
        let hidden = self.hides() || self.found.whiteout;
        if let Some(listing) = &mut self.body.dir_mut()?.listing {
            listing.set(union.hash, name.as_bytes(), hidden.then(|| Found::hidden(self.branch)));
        }
        Ok(())
    }
}
