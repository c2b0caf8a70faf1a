//! A rename to a name that is free, or whose object goes.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, RenameFlags as Flags, renameat_with, unlinkat};

use super::{Entry, Here, Locked, Side, linked, lock_files};
use crate::dir::Found;
use crate::error::{At, Errno, Result};
use crate::inode::{Body, Link, Node};
use crate::types::{BranchIndex, FileKind, RenameFlags};
use crate::union::Union;
use crate::union::census::Leaving;
use crate::work::read_names;

impl Union {
    /// Renames, all that is needed being on `branch`; `over` is what the target's name is now, `there` its object.
    pub(super) fn replace(
        &self,
        locked: &mut Locked<'_>,
        (from, here): (Side<'_>, &Here),
        (to, there, over): (Side<'_>, Option<&Here>, Option<Found>),
        branch: BranchIndex,
        how: RenameFlags,
    ) -> Result<()> {
        let (from_fd, to_fd) = (self.dirfd(from.dir, branch)?, self.dirfd(to.dir, branch)?);
        let leaving = match there {
            Some(there) if !there.node.is_dir() => self.leaving(&there.seen)?,
            _ => None,
        };
        let moved = self.mark_moved(&here.node, branch, over.is_some())?;
        // Nobody may look for the file between its move on disk and the node's.
        let file = Some(&*here.node).filter(|node| !node.is_dir());
        let [file, mut target] = lock_files(file, there.map(|there| &*there.node));
        let gone = self.prepare_target(there, target.as_deref_mut(), to, &to_fd, branch)?;
        let sides = ((&*from_fd, from.name), (&*to_fd, to.name));
        let device = self.prepare_device(here, branch, sides, how)?;
        let leave = self.leave_behind(here, branch, &from_fd, from.name, how)?;
        let still = self.still();
        {
            let _topology = here.node.is_dir().then(|| self.topology.write());
            self.rename_on_disk(branch, sides, leave, over.as_ref())?;
            self.relink(&here.node, linked(to, moved));
        }
        if over.is_some() {
            self.unhide(branch, &to_fd, to.name.as_bytes());
        }
        if device {
            Self::unmark_device(&from_fd, from.name.as_bytes());
        }
        if let (Some(there), Some(body)) = (there, target.as_deref_mut()) {
            self.displaced(there, body, to, gone, leaving)?;
        }
        drop((still, target, file));
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

    fn rename_on_disk(
        &self,
        branch: BranchIndex,
        ((from, name), (to, to_name)): (Entry<'_>, Entry<'_>),
        flags: Flags,
        over: Option<&Found>,
    ) -> Result<()> {
        let renamed = renameat_with(from, name.as_bytes(), to, to_name.as_bytes(), flags);
        // A whiteout device lies in the directory's way: swap them, then let it hide the source, or go.
        if renamed == Err(Errno::NOTDIR) && over.is_some_and(|over| over.whiteout && over.top == branch) {
            renameat_with(from, name.as_bytes(), to, to_name.as_bytes(), Flags::EXCHANGE)
                .at("renameat2", branch)?;
            if !flags.contains(Flags::WHITEOUT) {
                unlinkat(from, name.as_bytes(), AtFlags::empty()).at("unlinkat", branch)?;
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
        leaving: Option<Leaving<'_>>,
    ) -> Result<()> {
        if let Some(gone) = gone {
            self.bury(&there.node, body.dir_mut()?, gone);
            return Ok(());
        }
        let last = self.left(leaving, &there.seen);
        if let Body::File(file) = body {
            file.nameless |= last;
        }
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
            here.found.taken_away(branch)
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

    /// What the target's name is known to be now.
    pub(super) fn arrived(
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
}
