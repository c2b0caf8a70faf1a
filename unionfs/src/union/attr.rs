//! Changing attributes.

use std::sync::Arc;

use rustix::fs::{Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, ftruncate};

use super::Union;
use super::copy::Extent;
use super::owners::branch_of;
use crate::error::{At, Errno, Error, Result};
use crate::inode::Node;
use crate::types::{Attr, FileKind, Ino, SetAttr, TimeChange};

impl Union {
    /// Changes attributes, copying the object up first, and tells the new ones.
    ///
    /// # Errors
    ///
    /// `EROFS` where no branch above takes changes, or what the branch said.
    pub fn setattr(&self, node: Ino, change: &SetAttr) -> Result<Attr> {
        let node = self.node(node)?;
        if self.changes_nothing(&node, change)? {
            return self.attr_now(&node, &node.body.read());
        }
        if let Some(size) = change.size {
            self.truncate(&node, size)?;
        } else {
            self.promote(&node, Extent::Metadata)?;
        }
        let body = node.body.read();
        let place = self.place(&node, &body)?;
        self.change_owner(branch_of(&body), &place, change)?;
        if change.atime.is_some() || change.mtime.is_some() {
            let times =
                Timestamps { last_access: timespec(change.atime), last_modification: timespec(change.mtime) };
            place.utimens(&times).during("utimensat")?;
        }
        self.attr_now(&node, &body)
    }

    /// Whether a change asks for nothing but the times that the object has. With the writeback cache the kernel sends
    /// such a one before it unlinks or renames (`fuse_flush_times`); a lower file must not be copied up for it.
    fn changes_nothing(&self, node: &Node, change: &SetAttr) -> Result<bool> {
        let SetAttr { mode: None, uid: None, gid: None, size: None, kill_suidgid: false, atime, mtime } =
            *change
        else {
            return Ok(false);
        };
        if atime.is_none() && mtime.is_none() {
            return Ok(true);
        }
        let now = self.attr_now(node, &node.body.read())?;
        let same =
            |change: Option<TimeChange>, time| change.is_none_or(|change| change == TimeChange::To(time));
        Ok(same(atime, now.atime) && same(mtime, now.mtime))
    }

    fn truncate(&self, node: &Arc<Node>, size: u64) -> Result<()> {
        if node.kind != FileKind::Regular {
            return Err(Error::rule("truncate", if node.is_dir() { Errno::ISDIR } else { Errno::INVAL }));
        }
        // The copy of a lower file is made of the new size: no step shows anything between old and new.
        if self.promote(node, Extent::Cut(size))? {
            return Ok(());
        }
        let held = self.hold_to_write(node)?;
        ftruncate(&held.file.fd, size).during("ftruncate")
    }

    /// Clears set-user-ID and set-group-ID as a write by a user without CAP_FSETID does (inode(7)); the server has
    /// that capability, so its own writes do not.
    pub(super) fn kill_suidgid(&self, node: &Node) -> Result<()> {
        let body = node.body.read();
        let place = self.place(node, &body)?;
        let change = SetAttr { kill_suidgid: true, ..SetAttr::default() };
        self.change_owner(branch_of(&body), &place, &change)
    }
}

fn timespec(change: Option<TimeChange>) -> Timespec {
    match change {
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
        Some(TimeChange::Now) => Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
        Some(TimeChange::To(time)) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() },
    }
}
