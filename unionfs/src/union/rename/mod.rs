//! Renames, with all flags of renameat2(2), over any layers.
//!
//! A lower or merged directory is renamed without copying what is in it: its copy on the writable branch gets a
//! redirect mark, which leads to where the branches below have it. With several writable branches all is done on the
//! one that [`super::placement`] finds: both names of an exchange are brought to the higher of their branches, as is
//! the source of a rename to a name that a higher branch has or hides. Every step on disk leaves the tree as it was
//! until the one rename that makes it the new one:
//!
//! 1. source and the directories are copied up, the moved directory gets its mark (which says what is so already);
//! 2. a whiteout is put beside the source (of its own layer, so it hides nothing yet);
//! 3. an empty directory in the target's place is cleared of marks, under a whiteout that keeps it empty;
//! 4. renameat2;
//! 5. the target's whiteout goes.

mod exchange;
mod marks;
mod replace;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;

use super::Union;
use super::copy::Extent;
use super::create::link_to;
use super::placement::Seat;
use super::read::Seen;
use crate::dir::Found;
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Link, Moved, Node};
use crate::types::{BranchIndex, Ino, Name, RenameFlags};
use crate::work::keeping_times;

/// One side of a rename.
#[derive(Clone, Copy)]
struct Side<'a> {
    dir: &'a Arc<Node>,
    name: Name<'a>,
}

/// A name in the open directory of a branch.
type Entry<'a> = (&'a OwnedFd, Name<'a>);

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
        self.again("rename", || {
            let branch = self.rename_branch(from, &source, to, target.as_ref(), how)?;
            self.rename_on(branch, (from, &source), (to, target.as_ref()), how)
        })
    }

    /// The branch on which a rename can be carried out.
    fn rename_branch(
        &self,
        from: Side<'_>,
        source: &Arc<Node>,
        to: Side<'_>,
        target: Option<&Arc<Node>>,
        how: RenameFlags,
    ) -> Result<BranchIndex> {
        let over = self.found_now(to.dir, to.name)?;
        let mut lowest = over.map_or_else(|| self.bottom(), |over| over.top);
        let mut passengers = Vec::with_capacity(2);
        for node in
            [Some(source), target.filter(|_| how.contains(RenameFlags::EXCHANGE))].into_iter().flatten()
        {
            let mut passenger = self.passenger(node)?;
            if node.is_dir()
                && let Some(mark) = self.highest_mark(node)
            {
                // A copy is a merged directory, which gets a mark.
                passenger.copies.retain(|one| one.branch <= mark);
                if self.is_merged(node)? {
                    lowest = lowest.min(mark);
                }
            }
            passengers.push(passenger);
        }
        self.seat(&Seat { op: "rename", dirs: &[to.dir, from.dir], lowest, passengers })
    }

    fn is_merged(&self, dir: &Node) -> Result<bool> {
        Ok(self.read_body(dir)?.dir()?.layers.as_ref().is_some_and(|layers| layers.len() > 1))
    }

    fn rename_on(
        &self,
        branch: BranchIndex,
        (from, source): (Side<'_>, &Arc<Node>),
        (to, target): (Side<'_>, Option<&Arc<Node>>),
        how: RenameFlags,
    ) -> Result<()> {
        let exchange = how.contains(RenameFlags::EXCHANGE);
        self.bring_named(source, branch)?;
        self.dir_on(from.dir, branch)?;
        self.dir_on(to.dir, branch)?;
        if let Some(target) = target.filter(|_| exchange) {
            self.bring_named(target, branch)?;
        }
        let mut locked = self.lock_both(from.dir, to.dir)?;
        if from.dir.ino != to.dir.ino {
            locked.to().dir_mut()?.pure = false;
            locked.from.dir_mut()?.pure &= !exchange;
        }
        let mut here = self.here(&locked.from, from, source)?;
        let mut there = target.map(|target| self.here(locked.to(), to, target)).transpose()?;
        self.have_on(branch, &mut locked.from, from, &mut here)?;
        if let Some(there) = there.as_mut().filter(|_| exchange) {
            self.have_on(branch, locked.to(), to, there)?;
        }
        let over = match &there {
            Some(there) => Some(there.found.clone()),
            None => self.find(to.dir, locked.to().dir()?, to.name)?,
        };
        if over.as_ref().is_some_and(|over| over.top < branch || over.visible != there.is_some()) {
            return Err(Error::rule("rename", Errno::AGAIN));
        }
        self.take_redirect_along(&here.node, branch, to.dir, locked.to().dir_mut()?)?;
        if let Some(there) = there.as_ref().filter(|_| exchange) {
            self.take_redirect_along(&there.node, branch, from.dir, locked.from.dir_mut()?)?;
        }
        match there {
            Some(there) if exchange => self.exchange(&mut locked, (from, &here), (to, &there), branch)?,
            _ if exchange => return Err(Error::rule("rename", Errno::NOENT)),
            there => self.replace(&mut locked, (from, &here), (to, there.as_ref(), over), branch, how)?,
        }
        self.touched(from.dir, locked.from.dir()?, branch);
        self.touched(to.dir, locked.to().dir()?, branch);
        Ok(())
    }

    /// Brings an object for a name that it is to have. A file with several names gets the next one from its copy, which
    /// has its data therefore.
    fn bring_named(&self, node: &Arc<Node>, branch: BranchIndex) -> Result<()> {
        self.bring(node, branch, Extent::Metadata)?;
        if self.groups.get(node.ino, self.bottom()).is_some() {
            self.bring(node, branch, Extent::Whole)
        } else {
            Ok(())
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
        if here.found.top == branch {
            return Ok(());
        }
        let file = here.node.body.read();
        // Since the branch was chosen the object was copied to a higher one.
        if here.found.top < branch || !matches!(&*file, Body::File(file) if file.branch == branch) {
            return Err(Error::rule("rename", Errno::AGAIN));
        }
        let dir = self.dirfd(side.dir, branch)?;
        let place = self.place(&here.node, &file)?;
        keeping_times(&dir, || link_to(&place, &dir, side.name.as_bytes())).at("linkat", branch)?;
        here.found.copied_to(branch);
        let state = body.dir_mut()?;
        state.pure = false;
        if let Some(listing) = &mut state.listing {
            listing.set(self.hash, side.name.as_bytes(), Some(here.found.clone()));
        }
        Ok(())
    }
}

/// Locks two files, or what of the two is there: the one with the lower number first.
fn lock_files<'n>(one: Option<&'n Node>, other: Option<&'n Node>) -> [Option<RwLockWriteGuard<'n, Body>>; 2] {
    let lock = |node: Option<&'n Node>| node.map(|node| node.body.write());
    match (one, other) {
        (Some(one), Some(other)) if other.ino < one.ino => {
            let other = lock(Some(other));
            [lock(Some(one)), other]
        }
        _ => {
            let one = lock(one);
            [one, lock(other)]
        }
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
