//! Renames, with all flags of renameat2(2), over any layers.
//!
//! A lower or merged directory is renamed without copying what is in it: its copy on the writable branch gets a
//! redirect mark, which leads to where the branches below have it. Every step on disk leaves the tree as it was until
//! the one rename that makes it the new one:
//!
//! 1. source and the directories are copied up, the moved directory gets its mark (which says what is so already);
//! 2. a whiteout is put beside the source (of its own layer, so it hides nothing yet);
//! 3. an empty directory in the target's place is cleared of marks, under a whiteout that keeps it empty;
//! 4. renameat2;
//! 5. the target's whiteout goes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use rustix::fs::{RenameFlags as Flags, renameat_with};

use super::copyup::ALL_DATA;
use super::create::link_to;
use super::read::Seen;
use super::{Union, path_below, path_on};
use crate::branch::is_overlay_whiteout;
use crate::dir::Found;
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Link, Moved, Node};
use crate::marks::Format;
use crate::types::{BranchIndex, FileKind, Ino, Name, RenameFlags};
use crate::work::{keeping_times, read_names, remove_tree};

/// One side of a rename.
#[derive(Clone, Copy)]
struct Side<'a> {
    dir: &'a Arc<Node>,
    name: Name<'a>,
}

/// Both directories locked, once if they are one.
struct Locked<'a> {
    from: RwLockWriteGuard<'a, Body>,
    to: Option<RwLockWriteGuard<'a, Body>>,
}

/// What a side's name is at the moment.
struct Here {
    found: Found,
    seen: Seen,
    node: Arc<Node>,
}

impl Locked<'_> {
    fn to(&mut self) -> &mut Body {
        self.to.as_deref_mut().unwrap_or(&mut self.from)
    }
}

impl Union {
    /// Renames `name` of `dir` to `to` of `to_dir`.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `EEXIST` (with `NOREPLACE`), `ENOTEMPTY`, `ENOTDIR`, `EISDIR`, `EINVAL` for a directory into
    /// itself or flags that exclude each other, `EROFS`, or what the branch said.
    pub fn rename(
        &self,
        dir: Ino,
        name: Name<'_>,
        to_dir: Ino,
        to: Name<'_>,
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.contains(RenameFlags::EXCHANGE) && flags != RenameFlags::EXCHANGE {
            return Err(Error::rule("renameat2 flags", Errno::INVAL));
        }
        let (dir, to_dir) = (self.dir_node(dir)?, self.dir_node(to_dir)?);
        let (from, to) = (Side { dir: &dir, name }, Side { dir: &to_dir, name: to });
        if self.is_reserved(from.name) {
            return Err(Error::rule("rename", Errno::NOENT));
        }
        if self.is_reserved(to.name) {
            return Err(Error::rule("reserved name", Errno::PERM));
        }
        // Only one rename between directories at a time, so that "above" means something while it lasts
        // (the kernel's s_vfs_rename_mutex).
        let _alone = (dir.ino != to_dir.ino).then(|| self.crossing.lock());
        let source = self.lookup(dir.ino, name)?.ok_or(Error::rule("rename", Errno::NOENT))?;
        let target = self.lookup(to_dir.ino, to.name);
        let done = match &target {
            Ok(target) => self.rename_nodes(from, source.node, to, target.map(|entry| entry.node), flags),
            Err(error) => Err(*error),
        };
        self.forget(source.node, 1);
        if let Ok(Some(target)) = target {
            self.forget(target.node, 1);
        }
        done
    }

    fn rename_nodes(
        &self,
        from: Side<'_>,
        source: Ino,
        to: Side<'_>,
        target: Option<Ino>,
        how: RenameFlags,
    ) -> Result<()> {
        let source = self.node(source)?;
        let target = target.map(|target| self.node(target)).transpose()?;
        self.refuse_rename(&source, target.as_deref(), from, to, how)?;
        if target.as_ref().is_some_and(|target| target.ino == source.ino) {
            // Two names of one file: nothing happens (rename(2)).
            return Ok(());
        }
        self.promote(&source, ALL_DATA)?;
        let branch = self.branch_of(&source)?;
        self.dir_on(from.dir, branch)?;
        self.dir_on(to.dir, branch)?;
        if let Some(target) = target.as_ref().filter(|_| how.contains(RenameFlags::EXCHANGE)) {
            self.promote(target, ALL_DATA)?;
            if self.branch_of(target)? != branch {
                return Err(Error {
                    op: "exchange between branches",
                    branch: Some(branch),
                    errno: Errno::XDEV,
                });
            }
        }
        let mut locked = self.lock_both(from.dir, to.dir)?;
        if from.dir.ino != to.dir.ino {
            locked.to().dir_mut()?.pure = false;
            locked.from.dir_mut()?.pure &= !how.contains(RenameFlags::EXCHANGE);
        }
        let mut here = self.here(&locked.from, from, &source)?;
        let mut there = target.map(|target| self.here(locked.to(), to, &target)).transpose()?;
        self.have_on(branch, &mut locked.from, from, &mut here)?;
        if let Some(there) = there.as_mut().filter(|_| how.contains(RenameFlags::EXCHANGE)) {
            self.have_on(branch, locked.to(), to, there)?;
        }
        if there.is_none()
            && self.find(to.dir, locked.to().dir()?, to.name)?.is_some_and(|found| found.visible)
        {
            return Err(Error::rule("rename", Errno::AGAIN));
        }
        if how.contains(RenameFlags::EXCHANGE) {
            let there = there.ok_or(Error::rule("rename", Errno::NOENT))?;
            self.exchange(&mut locked, (from, &here), (to, &there), branch)
        } else {
            self.replace(&mut locked, (from, &here), to, there.as_ref(), branch, how)
        }
    }

    /// What must not be renamed, told before anything is copied.
    fn refuse_rename(
        &self,
        source: &Arc<Node>,
        target: Option<&Node>,
        from: Side<'_>,
        to: Side<'_>,
        how: RenameFlags,
    ) -> Result<()> {
        let refuse = |errno| Err(Error::rule("rename", errno));
        if source.is_dir() && is_at_or_above(source, to.dir) {
            return refuse(Errno::INVAL);
        }
        let exchange = how.contains(RenameFlags::EXCHANGE);
        let Some(target) = target else {
            return if exchange { refuse(Errno::NOENT) } else { Ok(()) };
        };
        if how.contains(RenameFlags::NOREPLACE) {
            return refuse(Errno::EXIST);
        }
        if target.is_dir() && is_at_or_above(target, from.dir) {
            return refuse(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if exchange {
            return Ok(());
        }
        match (source.is_dir(), target.is_dir()) {
            (true, false) => refuse(Errno::NOTDIR),
            (false, true) => refuse(Errno::ISDIR),
            (true, true) => self.must_be_empty(target, self.write_body(target)?.dir_mut()?),
            (false, false) => Ok(()),
        }
    }

    fn branch_of(&self, node: &Node) -> Result<BranchIndex> {
        match &*self.any_body(node)? {
            Body::Dir(state) => Ok(state.top()),
            Body::File(file) => Ok(file.branch),
        }
    }

    fn any_body<'a>(&self, node: &'a Node) -> Result<parking_lot::RwLockReadGuard<'a, Body>> {
        if node.is_dir() { self.read_body(node) } else { Ok(node.body.read()) }
    }

    /// Locks the higher directory first, unrelated ones by their numbers.
    fn lock_both<'a>(&self, from: &'a Arc<Node>, to: &'a Arc<Node>) -> Result<Locked<'a>> {
        if from.ino == to.ino {
            return Ok(Locked { from: self.write_body(from)?, to: None });
        }
        let to_first = is_at_or_above(to, from) || (!is_at_or_above(from, to) && to.ino < from.ino);
        if to_first {
            let to = self.write_body(to)?;
            return Ok(Locked { from: self.write_body(from)?, to: Some(to) });
        }
        let from = self.write_body(from)?;
        Ok(Locked { from, to: Some(self.write_body(to)?) })
    }

    /// Looks at a side again, now that its directory is locked.
    fn here(&self, body: &Body, side: Side<'_>, node: &Arc<Node>) -> Result<Here> {
        let state = body.dir()?;
        Self::must_be_alive(state)?;
        let found = self.find(side.dir, state, side.name)?.filter(|found| found.visible);
        let found = found.ok_or(Error::rule("rename", Errno::NOENT))?;
        let seen = self.look(side.dir, state, side.name, &found)?;
        Ok(Here { found, seen, node: Arc::clone(node) })
    }

    /// Of a file that was copied up under another of its names, makes this name too.
    fn have_on(&self, branch: BranchIndex, body: &mut Body, side: Side<'_>, here: &mut Here) -> Result<()> {
        if here.node.is_dir() || here.found.top == branch {
            return Ok(());
        }
        let dir = self.dirfd(side.dir, branch)?;
        let place = self.place(&here.node, &here.node.body.read())?;
        keeping_times(&dir, || link_to(&place, &dir, side.name.as_bytes())).at("linkat", branch)?;
        here.found.copied_up(branch);
        if let Some(listing) = &mut body.dir_mut()?.listing {
            listing.set(self.hash, side.name.as_bytes(), Some(here.found.clone()));
        }
        Ok(())
    }

    fn replace(
        &self,
        locked: &mut Locked<'_>,
        (from, here): (Side<'_>, &Here),
        to: Side<'_>,
        there: Option<&Here>,
        branch: BranchIndex,
        how: RenameFlags,
    ) -> Result<()> {
        let over = match there {
            Some(there) => Some(there.found.clone()),
            None => self.find(to.dir, locked.to().dir()?, to.name)?,
        };
        let (from_fd, to_fd) = (self.dirfd(from.dir, branch)?, self.dirfd(to.dir, branch)?);
        let moved = self.mark_moved(&here.node, branch, over.is_some())?;
        let mut target = there.map(|there| there.node.body.write());
        let gone = self.prepare_target(there, target.as_deref_mut(), to, &to_fd, branch)?;
        let device = self.prepare_device(here, branch, &from_fd, from.name, &to_fd, to.name, how)?;
        let leave = self.leave_behind(here, branch, &from_fd, from.name, how)?;
        {
            let _topology = here.node.is_dir().then(|| self.topology.write());
            self.rename_on_disk(branch, (&from_fd, from.name), (&to_fd, to.name), leave, over.as_ref())?;
            self.relink(&here.node, linked(to, moved));
        }
        if over.is_some() {
            self.unhide(branch, &to_fd, to.name.as_bytes());
        }
        if device {
            Self::unmark_device(&from_fd, from.name.as_bytes());
        }
        if let (Some(there), Some(body)) = (there, target.as_deref_mut()) {
            self.displaced(there, body, to, gone, branch)?;
        }
        drop(target);
        self.retell(locked, (from, here), to, over.as_ref(), branch, how)
    }

    /// What is in the target's place goes: a file is kept open, an empty directory cleared of its marks.
    fn prepare_target(
        &self,
        there: Option<&Here>,
        body: Option<&mut Body>,
        to: Side<'_>,
        to_fd: &Arc<OwnedFd>,
        branch: BranchIndex,
    ) -> Result<Option<Arc<OwnedFd>>> {
        let (Some(there), Some(body)) = (there, body) else { return Ok(None) };
        if !there.node.is_dir() {
            self.keep_open(&there.node, body, to.dir, to.name)?;
            return Ok(None);
        }
        let gone = self.dirfd(&there.node, body.dir()?.top())?;
        if there.found.top == branch {
            let left = read_names(&gone).at("getdents64", branch)?;
            if !left.is_empty() {
                self.clear_marks(branch, to_fd, to.name, &gone, &left)?;
            }
        }
        Ok(Some(gone))
    }

    /// Empties a directory that shows nothing of what only marks; all the while it shows nothing.
    fn clear_marks(
        &self,
        branch: BranchIndex,
        parent: &Arc<OwnedFd>,
        name: Name<'_>,
        dir: &Arc<OwnedFd>,
        left: &[(Vec<u8>, rustix::fs::FileType, u64)],
    ) -> Result<()> {
        match self.options.format {
            Format::Aufs => self.hide_beside(branch, parent, name)?,
            Format::Overlay => self.mark_dir(branch, dir, None)?,
        }
        left.iter().try_for_each(|(name, ..)| remove_tree(dir, name).at("unlinkat", branch))
    }

    /// A directory that merges with lower ones is told where they stay; one that moves over something becomes opaque.
    fn mark_moved(&self, node: &Node, branch: BranchIndex, over: bool) -> Result<Option<Box<Moved>>> {
        if !node.is_dir() {
            return Ok(None);
        }
        let body = self.read_body(node)?;
        let state = body.dir()?;
        let below: Vec<_> = state.layers.iter().flatten().copied().filter(|&layer| layer != branch).collect();
        if below.is_empty() {
            if over {
                self.mark_dir(branch, &self.dirfd(node, branch)?, None)?;
            }
            return Ok(None);
        }
        if let Some(moved) = &node.link.lock().moved {
            return Ok(Some(moved.clone()));
        }
        let (target, located) = {
            let _still = self.topology.read();
            let located = below.iter().map(|&layer| (layer, path_on(node, layer).into())).collect();
            (path_below(node, branch), located)
        };
        let fd = self.dirfd(node, branch)?;
        self.mark_dir(branch, &fd, Some(&[b"/", target.as_slice()].concat()))?;
        Ok(Some(Box::new(Moved { marked: branch, target: target.into(), located })))
    }

    /// Makes sure that the source's name shows nothing of lower branches; tells the flag that renameat2 needs for it.
    fn leave_behind(
        &self,
        here: &Here,
        branch: BranchIndex,
        fd: &OwnedFd,
        name: Name<'_>,
        how: RenameFlags,
    ) -> Result<Flags> {
        if how.contains(RenameFlags::WHITEOUT) {
            self.mark_device(branch, fd, name.as_bytes())?;
            return Ok(Flags::WHITEOUT);
        }
        if !here.found.below {
            return Ok(Flags::empty());
        }
        match self.options.format {
            Format::Aufs => self.hide_beside(branch, fd, name).map(|()| Flags::empty()),
            Format::Overlay => Ok(Flags::WHITEOUT),
        }
    }

    /// A device 0:0 takes its mark along; true if there is one to remove afterwards.
    #[allow(clippy::too_many_arguments)]
    fn prepare_device(
        &self,
        here: &Here,
        branch: BranchIndex,
        from: &OwnedFd,
        name: Name<'_>,
        to: &OwnedFd,
        to_name: Name<'_>,
        how: RenameFlags,
    ) -> Result<bool> {
        if !is_overlay_whiteout(&here.seen.stat) {
            return Ok(false);
        }
        self.mark_device(branch, to, to_name.as_bytes())?;
        let one = std::ptr::eq(from, to) && name == to_name;
        Ok(!one && !how.contains(RenameFlags::WHITEOUT))
    }

    fn rename_on_disk(
        &self,
        branch: BranchIndex,
        (from, name): (&OwnedFd, Name<'_>),
        (to, to_name): (&OwnedFd, Name<'_>),
        flags: Flags,
        over: Option<&Found>,
    ) -> Result<()> {
        let renamed = renameat_with(from, name.as_bytes(), to, to_name.as_bytes(), flags);
        // A whiteout device lies in the directory's way: swap them, then let it hide the source, or go.
        if renamed == Err(Errno::NOTDIR) && over.is_some_and(|over| over.whiteout && over.top == branch) {
            renameat_with(from, name.as_bytes(), to, to_name.as_bytes(), Flags::EXCHANGE)
                .at("renameat2", branch)?;
            if !flags.contains(Flags::WHITEOUT) {
                rustix::fs::unlinkat(from, name.as_bytes(), rustix::fs::AtFlags::empty())
                    .at("unlinkat", branch)?;
            }
            return Ok(());
        }
        renamed.at("renameat2", branch)
    }

    /// The node that was in the target's place has lost that name.
    fn displaced(
        &self,
        there: &Here,
        body: &mut Body,
        to: Side<'_>,
        gone: Option<Arc<OwnedFd>>,
        branch: BranchIndex,
    ) -> Result<()> {
        if let Some(gone) = gone {
            self.bury(&there.node, body.dir_mut()?, gone);
            return Ok(());
        }
        self.drop_link(&there.seen, branch);
        if there.node.is_linked_as(to.dir, to.name.as_bytes()) {
            self.relink(&there.node, Link::default());
        }
        Ok(())
    }

    /// Both listings tell what is so now.
    fn retell(
        &self,
        locked: &mut Locked<'_>,
        (from, here): (Side<'_>, &Here),
        to: Side<'_>,
        over: Option<&Found>,
        branch: BranchIndex,
        how: RenameFlags,
    ) -> Result<()> {
        let left = if how.contains(RenameFlags::WHITEOUT) {
            Some(Found::made(FileKind::CharDevice, branch, Some(&here.found)))
        } else {
            (here.found.below || here.found.whiteout).then(|| Found::hidden(branch))
        };
        let arrived = self.arrived(&here.node, here.found.kind, branch, over)?;
        if let Some(listing) = &mut locked.from.dir_mut()?.listing {
            listing.set(self.hash, from.name.as_bytes(), left);
        }
        if let Some(listing) = &mut locked.to().dir_mut()?.listing {
            listing.set(self.hash, to.name.as_bytes(), Some(arrived));
        }
        Ok(())
    }

    fn arrived(
        &self,
        node: &Node,
        kind: FileKind,
        branch: BranchIndex,
        over: Option<&Found>,
    ) -> Result<Found> {
        let mut found = Found::made(kind, branch, over);
        if node.is_dir() {
            let layers = self.read_body(node)?.dir()?.layers.clone().unwrap_or_default();
            found.dirs = (layers.len() > 1).then(|| layers.into());
        }
        Ok(found)
    }

    fn exchange(
        &self,
        locked: &mut Locked<'_>,
        (from, here): (Side<'_>, &Here),
        (to, there): (Side<'_>, &Here),
        branch: BranchIndex,
    ) -> Result<()> {
        let (from_fd, to_fd) = (self.dirfd(from.dir, branch)?, self.dirfd(to.dir, branch)?);
        let moved = self.mark_moved(&here.node, branch, there.found.below)?;
        let moved_back = self.mark_moved(&there.node, branch, here.found.below)?;
        for (here, fd, name) in [(here, &to_fd, to.name), (there, &from_fd, from.name)] {
            if is_overlay_whiteout(&here.seen.stat) {
                self.mark_device(branch, fd, name.as_bytes())?;
            }
        }
        {
            let _topology = (here.node.is_dir() || there.node.is_dir()).then(|| self.topology.write());
            renameat_with(&from_fd, from.name.as_bytes(), &to_fd, to.name.as_bytes(), Flags::EXCHANGE)
                .at("renameat2", branch)?;
            self.relink(&here.node, linked(to, moved));
            self.relink(&there.node, linked(from, moved_back));
        }
        let arrived = self.arrived(&here.node, here.found.kind, branch, Some(&there.found))?;
        let returned = self.arrived(&there.node, there.found.kind, branch, Some(&here.found))?;
        if let Some(listing) = &mut locked.from.dir_mut()?.listing {
            listing.set(self.hash, from.name.as_bytes(), Some(returned));
        }
        if let Some(listing) = &mut locked.to().dir_mut()?.listing {
            listing.set(self.hash, to.name.as_bytes(), Some(arrived));
        }
        Ok(())
    }
}

/// How a node is reached after it moved.
fn linked(to: Side<'_>, moved: Option<Box<Moved>>) -> Link {
    Link { parent: Some(Arc::clone(to.dir)), name: to.name.as_bytes().into(), moved }
}

/// Whether a directory is another one, or above it.
fn is_at_or_above(above: &Node, below: &Arc<Node>) -> bool {
    let mut next = Some(Arc::clone(below));
    while let Some(node) = next {
        if node.ino == above.ino {
            return true;
        }
        next = node.parent();
    }
    false
}
