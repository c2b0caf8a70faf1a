//! What stat(2) and statfs(2) tell, in the union's words.

use rustix::fs::{Stat, fstatvfs};

use super::Union;
use crate::error::{At, Result};
use crate::inode::Body;
use crate::types::{Attr, BranchIndex, Ino, NAME_MAX, StatFs, Time};

impl Union {
    /// Space and inodes: those of the branch that new objects go to.
    ///
    /// # Errors
    ///
    /// What the branch said.
    pub fn statfs(&self) -> Result<StatFs> {
        let at = self.works.iter().position(Option::is_some).unwrap_or_default();
        let told = fstatvfs(self.branches[at].root()).at("fstatvfs", super::index(at))?;
        let small = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
        Ok(StatFs {
            blocks: told.f_blocks,
            bfree: told.f_bfree,
            bavail: told.f_bavail,
            files: told.f_files,
            ffree: told.f_ffree,
            bsize: small(told.f_bsize),
            frsize: small(told.f_frsize),
            namelen: u32::try_from(NAME_MAX).unwrap_or(u32::MAX),
        })
    }

    /// The inode behind a node that is no directory: its branch, and its number there.
    pub(crate) fn inode_of(&self, node: Ino) -> Result<Option<(BranchIndex, u64)>> {
        match &*self.node(node)?.body.read() {
            Body::File(file) => Ok(Some((file.branch, file.real))),
            Body::Dir(_) => Ok(None),
        }
    }

    /// What stat(2) tells of an inode, as the union shows it.
    pub(super) fn attr_of(&self, ino: Ino, stat: &Stat, nlink: u32) -> Attr {
        let (uid, gid) = self.shown_ids(stat);
        Attr {
            ino: self.shown_ino(ino),
            mode: stat.st_mode,
            nlink,
            uid,
            gid,
            rdev: encode_device(stat.st_rdev),
            size: u64::try_from(stat.st_size).unwrap_or_default(),
            blocks: u64::try_from(stat.st_blocks).unwrap_or_default(),
            blksize: u32::try_from(stat.st_blksize).unwrap_or(4096),
            atime: Time { sec: stat.st_atime, nsec: saturate(stat.st_atime_nsec) },
            mtime: Time { sec: stat.st_mtime, nsec: saturate(stat.st_mtime_nsec) },
            ctime: Time { sec: stat.st_ctime, nsec: saturate(stat.st_ctime_nsec) },
        }
    }

    /// `st_ino` of a node.
    pub(super) fn shown_ino(&self, ino: Ino) -> u64 {
        let raw = ino.get();
        if self.options.ino32 { (raw ^ raw >> 32) & u64::from(u32::MAX) } else { raw }
    }
}

pub(super) fn saturate(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// The kernel's 32-bit form of a device number (include/linux/kdev_t.h, `new_encode_dev`).
fn encode_device(device: u64) -> u32 {
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    minor & 0xff | major << 8 | (minor & !0xff) << 12
}

/// The device number in the kernel's 32-bit form (`new_decode_dev`).
pub(crate) fn decode_device(encoded: u32) -> u64 {
    rustix::fs::makedev((encoded & 0xf_ff00) >> 8, encoded & 0xff | (encoded >> 12) & 0xf_ff00)
}
