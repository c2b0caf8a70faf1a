//! Names that go away: unlink and rmdir.

use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use rustix::fs::{AtFlags, unlinkat};

use super::Union;
use super::read::Seen;
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
        let leaving = self.leaving(&closing.seen)?;
        self.remove_from_disk(&closing, name)?;
        let last = self.left(leaving, &closing.seen);
        if let Some(Body::File(file)) = file.as_deref_mut() {
            file.nameless |= last;
        }
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
        self.again("name", || {
            let there = self.found_now(dir, name)?.filter(|found| found.visible).ok_or(absent)?;
            let branch = self.removal_branch(dir, &there)?;
            self.dir_on(dir, branch)?;
            let body = self.write_body(dir)?;
            let found = self.find(dir, body.dir()?, name)?.filter(|found| found.visible).ok_or(absent)?;
            if found.top != there.top {
                return Err(Error::rule("name", Errno::AGAIN));
            }
            let seen = self.look(dir, body.dir()?, name, &found)?;
            Ok(Closing { dir, body, found, seen, branch })
        })
    }

    /// Tries an act again and again while something it was prepared for has changed (`EAGAIN`).
    pub(super) fn again<T>(&self, op: &'static str, mut act: impl FnMut() -> Result<T>) -> Result<T> {
        for _ in 0..TRIES {
            match act() {
                Err(Error { errno: Errno::AGAIN, .. }) => {}
                done => return done,
            }
        }
        Err(Error::rule(op, Errno::AGAIN))
    }

    /// What a directory, which is not locked, says of a name at this moment.
    pub(super) fn found_now(&self, dir: &Node, name: Name<'_>) -> Result<Option<Found>> {
        let body = self.read_body(dir)?;
        self.find(dir, body.dir()?, name)
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
        let last = matches!(file.site, Site::Indexed) && self.counted(node.ino)? <= 1;
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
}

impl Closing<'_> {
    /// Whether a whiteout must take the name's place.
    fn hides(&self) -> bool {
        self.found.needs_whiteout(self.branch)
    }

    /// The listing no longer shows the name.
    fn forget_name(&mut self, union: &Union, name: Name<'_>) -> Result<()> {
        let left = self.found.taken_away(self.branch);
        let state = self.body.dir_mut()?;
        if let Some(listing) = &mut state.listing {
            listing.set(union.hash, name.as_bytes(), left);
        }
        union.touched(self.dir, state, self.branch);
        Ok(())
    }
}
