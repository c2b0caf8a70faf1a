//! The times of a directory while marks in it are exchanged, kept where a crash does not lose them.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Stat, Timespec, Timestamps, XattrFlags, fstat, futimens};

use crate::error::Errno;
use crate::place::Place;
use crate::work::{OwnXattrs, times_of};

/// The attributes that keep them.
pub(super) const NAMES: [&[u8]; 2] = [b"trusted.unionfs.times", b"user.unionfs.times"];

/// Times to be put back.
pub(in crate::tools) struct Kept {
    dir: Arc<OwnedFd>,
    times: Timestamps,
    name: Option<&'static [u8]>,
}

impl Kept {
    /// Keeps a directory's times, or takes up those that an interrupted conversion has kept.
    pub(in crate::tools) fn save(dir: &Arc<OwnedFd>, own: OwnXattrs) -> Result<Self, Errno> {
        let place = Place::Fd(Arc::clone(dir));
        let name = match own {
            OwnXattrs::Trusted => Some(NAMES[0]),
            OwnXattrs::User => Some(NAMES[1]),
            OwnXattrs::Absent => None,
        };
        let old = name.and_then(|name| parse(&place.read_xattr(name).ok()?));
        let stat = fstat(dir)?;
        if let Some(name) = name.filter(|_| old.is_none()) {
            place.setxattr(name, shown(&stat).as_bytes(), XattrFlags::empty())?;
        }
        Ok(Self { dir: Arc::clone(dir), times: old.unwrap_or_else(|| times_of(&stat)), name })
    }

    /// Puts them back.
    pub(in crate::tools) fn restore(self) -> Result<(), Errno> {
        futimens(&self.dir, &self.times)?;
        match self.name.map(|name| Place::Fd(self.dir).removexattr(name)) {
            Some(Err(errno)) if errno != Errno::NODATA => Err(errno),
            _ => Ok(()),
        }
    }
}

fn shown(stat: &Stat) -> String {
    format!("{} {} {} {}", stat.st_atime, stat.st_atime_nsec, stat.st_mtime, stat.st_mtime_nsec)
}

fn parse(text: &[u8]) -> Option<Timestamps> {
    let mut words = std::str::from_utf8(text).ok()?.split(' ').map(|word| word.parse().ok());
    let mut time = || Some(Timespec { tv_sec: words.next()??, tv_nsec: words.next()?? });
    Some(Timestamps { last_access: time()?, last_modification: time()? })
}
