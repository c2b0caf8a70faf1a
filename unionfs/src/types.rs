//! The vocabulary of the core: identities, names, attributes and what a request may ask to change.

use std::ffi::OsStr;
use std::fmt;
use std::num::{NonZeroU16, NonZeroU64};
use std::os::unix::ffi::OsStrExt;

use crate::error::{Errno, Error, Result};

/// The identity of an object in the merged view: its node number to the kernel and its `st_ino`.
///
/// It is derived from the inode an object was born with, so it survives copy-up, rename and remount.
/// The root is always node 1, whatever `st_ino` it reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ino(NonZeroU64);

impl Ino {
    /// The root of the union (`FUSE_ROOT_ID`).
    pub const ROOT: Self = Self(NonZeroU64::MIN);

    /// An identity from a raw number, if it can be one.
    pub const fn new(raw: u64) -> Option<Self> {
        match NonZeroU64::new(raw) {
            Some(raw) => Some(Self(raw)),
            None => None,
        }
    }

    /// The raw number.
    pub const fn get(self) -> u64 {
        self.0.get()
    }
}

/// The place of a branch in the list; 0 is the highest priority.
///
/// Kept as one more than it is, so that `Option<BranchIndex>` is no larger.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BranchIndex(NonZeroU16);

impl BranchIndex {
    /// The branch at this place of the list.
    pub const fn new(index: u16) -> Self {
        Self(NonZeroU16::MIN.saturating_add(index))
    }

    /// The place in the list.
    pub const fn get(self) -> u16 {
        self.0.get() - 1
    }

    /// The next one further down.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The place in the list, to index with.
    pub const fn index(self) -> usize {
        self.get() as usize
    }
}

impl fmt::Debug for BranchIndex {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_tuple("BranchIndex").field(&self.get()).finish()
    }
}

/// The longest name of a directory entry in bytes (`NAME_MAX`, limits.h).
pub const NAME_MAX: usize = 255;

/// One component of a path: not empty, not `.` or `..`, no `/`, no NUL, at most 255 bytes, any bytes otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name<'a>(&'a OsStr);

impl<'a> Name<'a> {
    /// Proves that `raw` is one component.
    ///
    /// # Errors
    ///
    /// `ENAMETOOLONG` over 255 bytes, `EINVAL` for what is not one component.
    pub fn new(raw: &'a OsStr) -> Result<Self> {
        let bytes = raw.as_bytes();
        if bytes.len() > NAME_MAX {
            return Err(Error::rule("name", Errno::NAMETOOLONG));
        }
        if matches!(bytes, b"" | b"." | b"..") || bytes.iter().any(|byte| matches!(byte, 0 | b'/')) {
            return Err(Error::rule("name", Errno::INVAL));
        }
        Ok(Self(raw))
    }

    /// The component from raw bytes, under the same rules.
    ///
    /// # Errors
    ///
    /// As [`Name::new`].
    pub fn from_bytes(raw: &'a [u8]) -> Result<Self> {
        Self::new(OsStr::from_bytes(raw))
    }

    /// The component as the operating system takes it.
    pub fn as_os_str(self) -> &'a OsStr {
        self.0
    }

    /// The component's bytes.
    pub fn as_bytes(self) -> &'a [u8] {
        self.0.as_bytes()
    }
}

/// The kind of an object (`S_IFMT`, inode(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum FileKind {
    Regular,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
}

impl FileKind {
    /// The kind in the type bits of an `st_mode`.
    pub const fn from_mode(mode: u32) -> Self {
        match mode & libc::S_IFMT {
            libc::S_IFDIR => Self::Directory,
            libc::S_IFLNK => Self::Symlink,
            libc::S_IFIFO => Self::Fifo,
            libc::S_IFSOCK => Self::Socket,
            libc::S_IFCHR => Self::CharDevice,
            libc::S_IFBLK => Self::BlockDevice,
            _ => Self::Regular,
        }
    }

    /// The type bits of an `st_mode`.
    pub const fn mode_bits(self) -> u32 {
        match self {
            Self::Regular => libc::S_IFREG,
            Self::Directory => libc::S_IFDIR,
            Self::Symlink => libc::S_IFLNK,
            Self::Fifo => libc::S_IFIFO,
            Self::Socket => libc::S_IFSOCK,
            Self::CharDevice => libc::S_IFCHR,
            Self::BlockDevice => libc::S_IFBLK,
        }
    }

    /// The `d_type` of readdir(3), which is `S_IFMT >> 12`.
    pub const fn d_type(self) -> u32 {
        self.mode_bits() >> 12
    }
}

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time {
    /// Whole seconds; negative before 1970.
    pub sec: i64,
    /// Nanoseconds, below 10^9.
    pub nsec: u32,
}

/// What stat(2) tells of an object of the merged view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attr {
    /// `st_ino`: for all but the root the same as the node's [`Ino`].
    pub ino: u64,
    /// Type and permission bits (`st_mode`).
    pub mode: u32,
    /// Links in the merged view; a merged directory's is constantly 1, "not counted".
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number, in the kernel's 32-bit encoding (`new_encode_dev`).
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    /// Preferred size of one I/O in bytes.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of the inode.
    pub ctime: Time,
}

impl Attr {
    /// The kind of the object.
    pub const fn kind(&self) -> FileKind {
        FileKind::from_mode(self.mode)
    }
}

/// A name that exists: which node it leads to, and what that node looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The node; the caller now holds one reference to it, to be given back by `forget`.
    pub node: Ino,
    /// Its attributes.
    pub attr: Attr,
}

/// How a time is to be set (utimensat(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeChange {
    /// To the present, as the branch's filesystem sees it.
    Now,
    /// To this time.
    To(Time),
}

/// What one SETATTR changes; `None` leaves a field alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct SetAttr {
    /// Permission bits, 07777.
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<TimeChange>,
    pub mtime: Option<TimeChange>,
    /// Clear set-user-ID and set-group-ID as truncate(2) by an unprivileged user does (`FATTR_KILL_SUIDGID`).
    pub kill_suidgid: bool,
}

/// Who makes a new object, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewNode {
    /// Permission bits asked for, 07777, before the umask.
    pub mode: u32,
    /// The caller's umask; ignored where the directory has a default ACL (acl(5)).
    pub umask: u32,
    /// The caller's filesystem user.
    pub uid: u32,
    /// The caller's filesystem group; a set-group-ID directory overrides it.
    pub gid: u32,
}

/// One name of a directory listing.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The name; `.` and `..` are among them.
    pub name: &'a OsStr,
    /// `d_ino`, or 0 where [`crate::Union::read_dir`] was not asked for it.
    pub ino: u64,
    /// `d_type`.
    pub kind: FileKind,
    /// Where the next read continues: what `d_off` tells.
    pub next: u64,
}

/// What statfs(2) tells (struct statvfs, in units of `frsize`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct StatFs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub frsize: u32,
    pub namelen: u32,
}

/// Where a file is sought to (lseek(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seek {
    /// The next data at or after the offset.
    Data,
    /// The next hole at or after the offset.
    Hole,
}

bitflags::bitflags! {
    /// How a rename treats an existing target (renameat2(2)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        /// Fail with `EEXIST` if the target exists.
        const NOREPLACE = libc::RENAME_NOREPLACE;
        /// Swap source and target.
        const EXCHANGE = libc::RENAME_EXCHANGE;
        /// Leave a character device 0:0 at the source, as a nested kernel overlay asks for.
        const WHITEOUT = libc::RENAME_WHITEOUT;
    }
}

/// The bytes of a `struct fsxattr` (`linux/fs.h`): inode flags in other words than chattr(1)'s, and the project.
pub type FsXattr = [u8; 28];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_accepts_one_component_only() {
        let long = [b'a'; 256];
        for (case, raw, want) in [
            ("empty", &b""[..], Some(Errno::INVAL)),
            ("dot", b".", Some(Errno::INVAL)),
            ("dot dot", b"..", Some(Errno::INVAL)),
            ("slash", b"a/b", Some(Errno::INVAL)),
            ("nul", b"a\0", Some(Errno::INVAL)),
            ("256 bytes", &long, Some(Errno::NAMETOOLONG)),
            ("255 bytes", &long[..255], None),
            ("not UTF-8", b"\xff\n", None),
            ("three dots", b"...", None),
        ] {
            assert_eq!(Name::from_bytes(raw).err().map(|error| error.errno), want, "{case}");
        }
    }
}
