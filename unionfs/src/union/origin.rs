//! Which lower object a copy came from: its identity, recorded so that `st_ino` survives copy-up and remount.
//!
//! The record is the extended attribute `trusted.unionfs.origin` (or `user.` without privilege): the identity as
//! [`crate::devices`] tells it, and the inode number of the copy itself, so that a record which travelled with `cp -a`
//! is not believed. A copy that can bear no attribute is linked into `links/` instead (see [`super::groups`]).

use rustix::fs::{Stat, XattrFlags};

use super::Union;
use crate::error::Errno;
use crate::place::Place;
use crate::types::{BranchIndex, Ino};
use crate::work::OwnXattrs;

const TRUSTED: &[u8] = b"trusted.unionfs.origin";
const USER: &[u8] = b"user.unionfs.origin";

impl Union {
    /// The identity of the object at `place`, whose stat is given.
    pub(super) fn identity(&self, branch: BranchIndex, place: &Place, stat: &Stat) -> Ino {
        let own = || self.devices.ino(stat.st_dev, stat.st_ino);
        // What is at the bottom came from nowhere else, unless it moved there.
        if self.is_bottom(branch) && !(self.options.move_on_enospc && self.is_writable(branch)) {
            return own();
        }
        let recorded = self.recorded_origin(branch, place, stat);
        recorded.or_else(|| self.groups.origin_of(branch, stat.st_ino)).unwrap_or_else(own)
    }

    fn recorded_origin(&self, branch: BranchIndex, place: &Place, stat: &Stat) -> Option<Ino> {
        let names: &[&[u8]] = match self.work(branch).map(|work| work.own) {
            Some(OwnXattrs::Absent) => &[],
            Some(OwnXattrs::Trusted) => &[TRUSTED],
            Some(OwnXattrs::User) => &[USER],
            None => &[TRUSTED, USER],
        };
        let mut value = [0; 64];
        let len = names.iter().find_map(|name| place.getxattr(name, &mut value).ok())?;
        let (origin, _) = parse_origin(&value[..len]).filter(|(_, real)| *real == stat.st_ino)?;
        self.devices.understand(origin, self.branch(branch).device())
    }

    /// Records the identity of a fresh copy; of one that will be found by `links/` anyway only where that is cheap.
    pub(super) fn record_origin(
        &self,
        branch: BranchIndex,
        copy: &Place,
        ino: Ino,
        real: u64,
        indexed: bool,
    ) -> Result<(), Errno> {
        let value = format!("{}@{real}", self.record_name(ino, branch));
        let set = |name| copy.setxattr(name, value.as_bytes(), XattrFlags::empty());
        let recorded = match self.work(branch).map(|work| work.own) {
            Some(OwnXattrs::Trusted) => set(TRUSTED),
            Some(OwnXattrs::User) => set(USER),
            _ => Err(Errno::OPNOTSUPP),
        };
        match recorded {
            Err(Errno::PERM | Errno::OPNOTSUPP) if indexed => Ok(()),
            Err(Errno::PERM | Errno::OPNOTSUPP) => {
                self.keep_alone(branch, copy, ino, real);
                Ok(())
            }
            done => done,
        }
    }

    /// An identity as records on a branch name it.
    pub(crate) fn record_name(&self, ino: Ino, branch: BranchIndex) -> String {
        self.devices.tell(ino, self.branch(branch).device())
    }
}

/// The attributes that may hold the record.
pub(crate) const ORIGINS: [&[u8]; 2] = [TRUSTED, USER];

/// What a record says: the identity, and the number of the inode that it belongs to.
pub(crate) fn parse_origin(value: &[u8]) -> Option<(&str, u64)> {
    let (origin, real) = std::str::from_utf8(value).ok()?.split_once('@')?;
    Some((origin, real.parse().ok()?))
}
