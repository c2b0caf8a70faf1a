//! Which lower object a copy came from: its identity, recorded so that `st_ino` survives copy-up and remount.
//!
//! The record is the extended attribute `trusted.unionfs.origin` (or `user.` without privilege): the identity, and
//! the inode number of the copy itself, so that a record which travelled with `cp -a` is not believed.

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
        let own = self.devices.ino(stat.st_dev, stat.st_ino);
        if self.is_bottom(branch) { own } else { self.recorded_origin(branch, place, stat).unwrap_or(own) }
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
        parse_origin(&value[..len]).filter(|(_, real)| *real == stat.st_ino).map(|(ino, _)| ino)
    }

    /// Records the identity of a fresh copy, where its branch can store that.
    pub(super) fn record_origin(
        &self,
        branch: BranchIndex,
        copy: &Place,
        ino: Ino,
        real: u64,
    ) -> Result<(), Errno> {
        let name = match self.work(branch).map(|work| work.own) {
            Some(OwnXattrs::Trusted) => TRUSTED,
            Some(OwnXattrs::User) => USER,
            _ => return Ok(()),
        };
        let value = format!("{}@{real}", ino.get());
        match copy.setxattr(name, value.as_bytes(), XattrFlags::empty()) {
            // A symbolic link or a device takes no user attributes; then the number changes at a remount.
            Err(Errno::PERM | Errno::OPNOTSUPP) => Ok(()),
            done => done,
        }
    }
}

/// The attributes that may hold the record.
pub(crate) const ORIGINS: [&[u8]; 2] = [TRUSTED, USER];

/// What a record says: the identity, and the number of the inode that it belongs to.
pub(crate) fn parse_origin(value: &[u8]) -> Option<(Ino, u64)> {
    let (ino, real) = std::str::from_utf8(value).ok()?.split_once('@')?;
    Some((Ino::new(ino.parse().ok()?)?, real.parse().ok()?))
}
