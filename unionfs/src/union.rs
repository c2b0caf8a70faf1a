//! The union: what a user sees, over branches. (API as agreed; the rules are being written.)
#![allow(clippy::unused_self, missing_docs, unused_variables, clippy::missing_errors_doc)]

use std::ffi::{OsStr, OsString};

use crate::error::{Errno, Error, Result};
use crate::types::*;

const LATER: Error = Error::rule("not yet", Errno::NOSYS);

#[derive(Debug)]
pub struct Union {}

/// Every method takes `&self` and may be called from any thread at once.
impl Union {
    /// Counts one reference when it finds something. `Ok(None)` is a miss (whiteouts included).
    pub fn lookup(&self, dir: Ino, name: Name<'_>) -> Result<Option<Entry>> {
        Err(LATER)
    }
    pub fn forget(&self, node: Ino, count: u64) {}
    pub fn getattr(&self, node: Ino) -> Result<Attr> {
        Err(LATER)
    }
    pub fn setattr(&self, node: Ino, change: &SetAttr) -> Result<Attr> {
        Err(LATER)
    }
    pub fn readlink(&self, node: Ino) -> Result<OsString> {
        Err(LATER)
    }
    /// `rdev` in the kernel's 32-bit encoding, `kind` one of regular, fifo, socket, devices.
    pub fn mknod(&self, dir: Ino, name: Name<'_>, kind: FileKind, rdev: u32, new: &NewNode) -> Result<Entry> {
        Err(LATER)
    }
    pub fn mkdir(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry> {
        Err(LATER)
    }
    pub fn symlink(&self, dir: Ino, name: Name<'_>, target: &OsStr, new: &NewNode) -> Result<Entry> {
        Err(LATER)
    }
    /// A regular file that must not exist yet.
    pub fn create(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry> {
        Err(LATER)
    }
    /// A regular file with no name yet (O_TMPFILE); `link` may give it one.
    pub fn tmpfile(&self, dir: Ino, new: &NewNode) -> Result<Entry> {
        Err(LATER)
    }
    pub fn link(&self, node: Ino, dir: Ino, name: Name<'_>) -> Result<Entry> {
        Err(LATER)
    }
    pub fn unlink(&self, dir: Ino, name: Name<'_>) -> Result<()> {
        Err(LATER)
    }
    pub fn rmdir(&self, dir: Ino, name: Name<'_>) -> Result<()> {
        Err(LATER)
    }
    pub fn rename(
        &self,
        dir: Ino,
        name: Name<'_>,
        to_dir: Ino,
        to: Name<'_>,
        flags: RenameFlags,
    ) -> Result<()> {
        Err(LATER)
    }
    /// Calls `sink` for each entry after offset `after` (0: from the start) until it returns false (full; that
    /// entry was not taken). Offsets are stable: across opens, changes and evictions of caches.
    pub fn read_dir(&self, dir: Ino, after: u64, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        Err(LATER)
    }
    /// Data is read and written by node, not by handle: an fd opened before copy-up sees later writes.
    pub fn read(&self, node: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        Err(LATER)
    }
    /// The first write copies a lower file up. `kill_suidgid`: FUSE_WRITE_KILL_SUIDGID.
    pub fn write(&self, node: Ino, offset: u64, data: &[u8], kill_suidgid: bool) -> Result<usize> {
        Err(LATER)
    }
    pub fn fsync(&self, node: Ino, datasync: bool) -> Result<()> {
        Err(LATER)
    }
    pub fn fsync_dir(&self, node: Ino) -> Result<()> {
        Err(LATER)
    }
    pub fn syncfs(&self) -> Result<()> {
        Err(LATER)
    }
    /// `mode` is that of fallocate(2).
    pub fn fallocate(&self, node: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        Err(LATER)
    }
    pub fn lseek(&self, node: Ino, offset: u64, whence: Seek) -> Result<u64> {
        Err(LATER)
    }
    pub fn copy_file_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<usize> {
        Err(LATER)
    }
    pub fn statfs(&self) -> Result<StatFs> {
        Err(LATER)
    }
    pub fn getxattr(&self, node: Ino, name: &OsStr) -> Result<Vec<u8>> {
        Err(LATER)
    }
    /// Names, each ended by NUL, as listxattr(2) gives them.
    pub fn listxattr(&self, node: Ino) -> Result<Vec<u8>> {
        Err(LATER)
    }
    /// `flags`: XATTR_CREATE, XATTR_REPLACE.
    pub fn setxattr(&self, node: Ino, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
        Err(LATER)
    }
    pub fn removexattr(&self, node: Ino, name: &OsStr) -> Result<()> {
        Err(LATER)
    }
    /// FS_IOC_GETFLAGS.
    pub fn inode_flags(&self, node: Ino) -> Result<u32> {
        Err(LATER)
    }
    /// FS_IOC_SETFLAGS.
    pub fn set_inode_flags(&self, node: Ino, flags: u32) -> Result<()> {
        Err(LATER)
    }
}
