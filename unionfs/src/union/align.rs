//! What several copies of one directory must have in common. A user sees the highest: it has the metadata, and changes
//! of metadata go to it. A copy further down that takes a new object is what the branch's filesystem sees.

use rustix::fs::{Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags};

use super::Union;
use super::create::DEFAULT_ACL;
use crate::dir::DirBody;
use crate::error::{At, Errno, Result};
use crate::inode::Node;
use crate::place::Place;
use crate::types::BranchIndex;

impl Union {
    /// Gives a directory's copy on `branch` what new objects inherit (inode(7), "set-group-ID"; acl(5)), as the copy
    /// that is seen has it.
    pub(super) fn align_dir(&self, dir: &Node, state: &DirBody, branch: BranchIndex) -> Result<()> {
        let top = state.top();
        if top == branch {
            return Ok(());
        }
        let (seen, copy) = (Place::Fd(self.dirfd(dir, top)?), Place::Fd(self.dirfd(dir, branch)?));
        let want = self.meant(top, &seen, seen.stat().at("statx", top)?);
        let have = self.meant(branch, &copy, copy.stat().at("statx", branch)?);
        let owner = |stat: &Stat| (stat.st_uid, stat.st_gid, stat.st_mode);
        if owner(&want) != owner(&have) {
            self.copy_owner(branch, &want, &copy).at("fchownat", branch)?;
        }
        align_acl(&seen, &copy).at("setxattr", branch)
    }

    /// Names in a directory were changed on `branch`: the copy that is seen tells the time.
    pub(super) fn touched(&self, dir: &Node, state: &DirBody, branch: BranchIndex) {
        let top = state.top();
        if top == branch || !self.is_writable(top) {
            return;
        }
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        let same = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        let times = Timestamps { last_access: same, last_modification: now };
        let told = self.dirfd(dir, top).and_then(|fd| Place::Fd(fd).utimens(&times).at("utimensat", top));
        // The change itself is made.
        told.unwrap_or_else(|error| tracing::warn!(%error, "the time of a directory's change is not told"));
    }
}

fn align_acl(seen: &Place, copy: &Place) -> Result<(), Errno> {
    let read = |place: &Place| match place.read_xattr(DEFAULT_ACL) {
        Ok(acl) => Ok(Some(acl)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    };
    let aligned = match (read(seen)?, read(copy)?) {
        (want, have) if want == have => Ok(()),
        (Some(acl), _) => copy.setxattr(DEFAULT_ACL, &acl, XattrFlags::empty()),
        (None, _) => copy.removexattr(DEFAULT_ACL),
    };
    match aligned {
        // As with copies: what a branch cannot store does not make it unchangeable.
        Err(Errno::OPNOTSUPP | Errno::PERM) => Ok(()),
        done => done,
    }
}
