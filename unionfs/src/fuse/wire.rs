//! The FUSE wire format: the structures of the kernel's `include/uapi/linux/fuse.h`, protocol 7.
//!
//! Every structure is plain data in host byte order, padded to eight bytes by the protocol itself. Names follow
//! the header without the `fuse_` prefix; fields that this server neither reads nor fills are kept for the layout.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Declares operation codes with their names, so that statistics and logs can tell them.
macro_rules! opcodes {
    ($($name:ident = $code:literal),+ $(,)?) => {
        #[allow(missing_docs)]
        impl Opcode {
            $(pub const $name: Self = Self($code);)+

            /// The name as in the kernel's header, without `FUSE_`.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    _ => "UNKNOWN",
                }
            }
        }
    };
}

/// What a request asks for (`enum fuse_opcode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Opcode(pub u32);

opcodes! {
    LOOKUP = 1, FORGET = 2, GETATTR = 3, SETATTR = 4, READLINK = 5, SYMLINK = 6, MKNOD = 8, MKDIR = 9,
    UNLINK = 10, RMDIR = 11, RENAME = 12, LINK = 13, OPEN = 14, READ = 15, WRITE = 16, STATFS = 17,
    RELEASE = 18, FSYNC = 20, SETXATTR = 21, GETXATTR = 22, LISTXATTR = 23, REMOVEXATTR = 24, FLUSH = 25,
    INIT = 26, OPENDIR = 27, READDIR = 28, RELEASEDIR = 29, FSYNCDIR = 30, GETLK = 31, SETLK = 32,
    SETLKW = 33, ACCESS = 34, CREATE = 35, INTERRUPT = 36, BMAP = 37, DESTROY = 38, IOCTL = 39, POLL = 40,
    NOTIFY_REPLY = 41, BATCH_FORGET = 42, FALLOCATE = 43, READDIRPLUS = 44, RENAME2 = 45, LSEEK = 46,
    COPY_FILE_RANGE = 47, SETUPMAPPING = 48, REMOVEMAPPING = 49, SYNCFS = 50, TMPFILE = 51, STATX = 52,
    COPY_FILE_RANGE_64 = 53,
}

/// Flags of single fields, by the structure that carries them.
pub(crate) mod flag {
    pub(crate) const FATTR_MODE: u32 = 1 << 0;
    pub(crate) const FATTR_UID: u32 = 1 << 1;
    pub(crate) const FATTR_GID: u32 = 1 << 2;
    pub(crate) const FATTR_SIZE: u32 = 1 << 3;
    pub(crate) const FATTR_ATIME: u32 = 1 << 4;
    pub(crate) const FATTR_MTIME: u32 = 1 << 5;
    pub(crate) const FATTR_ATIME_NOW: u32 = 1 << 7;
    pub(crate) const FATTR_MTIME_NOW: u32 = 1 << 8;
    pub(crate) const FATTR_KILL_SUIDGID: u32 = 1 << 11;

    pub(crate) const FOPEN_DIRECT_IO: u32 = 1 << 0;
    pub(crate) const FOPEN_KEEP_CACHE: u32 = 1 << 1;
    pub(crate) const FOPEN_NOFLUSH: u32 = 1 << 5;
    pub(crate) const FOPEN_PASSTHROUGH: u32 = 1 << 7;

    pub(crate) const OPEN_KILL_SUIDGID: u32 = 1 << 0;

    pub(crate) const WRITE_KILL_SUIDGID: u32 = 1 << 2;
    pub(crate) const FSYNC_FDATASYNC: u32 = 1 << 0;
    pub(crate) const SETXATTR_ACL_KILL_SGID: u32 = 1 << 0;
    pub(crate) const IOCTL_UNRESTRICTED: u32 = 1 << 1;
}

/// Declares structures of the wire, all with the same derives and layout.
macro_rules! wire {
    ($($(#[$doc:meta])* $name:ident {
        $($(#[$note:meta])* $field:ident: $type:ty),+ $(,)?
    })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable)]
        #[repr(C)]
        pub(crate) struct $name { $($(#[$note])* pub(crate) $field: $type),+ }
    )+};
}

wire! {
    /// The head of every request.
    InHeader {
        len: u32, opcode: u32, unique: u64, nodeid: u64, uid: u32, gid: u32, pid: u32,
        /// In units of eight bytes, at the end of the request.
        total_extlen: u16,
        padding: u16,
    }
    /// The head of every reply; `error` is 0 or a negated errno.
    OutHeader { len: u32, error: i32, unique: u64 }
    /// What stat(2) tells.
    WireAttr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64, atimensec: u32, mtimensec: u32,
        ctimensec: u32, mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, blksize: u32, flags: u32,
    }
    /// A name, what it leads to, and how long both may be believed.
    EntryOut {
        /// 0: in a LOOKUP, the name does not exist; in a READDIRPLUS, no attributes are given.
        nodeid: u64,
        generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: WireAttr,
    }
    AttrOut { attr_valid: u64, attr_valid_nsec: u32, dummy: u32, attr: WireAttr }
    OpenOut { fh: u64, open_flags: u32, backing_id: i32 }
    WriteOut { size: u32, padding: u32 }
    GetxattrOut { size: u32, padding: u32 }
    LseekOut { offset: u64 }
    CopyFileRangeOut { bytes_copied: u64 }
    IoctlOut { result: i32, flags: u32, in_iovs: u32, out_iovs: u32 }
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, bsize: u32, namelen: u32, frsize: u32,
        padding: u32, spare: [u32; 6],
    }
    /// One name of a listing; the name follows, padded to eight bytes.
    Dirent { ino: u64, off: u64, namelen: u32, kind: u32 }
    ForgetIn { nlookup: u64 }
    ForgetOne { nodeid: u64, nlookup: u64 }
    BatchForgetIn { count: u32, dummy: u32 }
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    MkdirIn { mode: u32, umask: u32 }
    RenameIn { newdir: u64 }
    Rename2In { newdir: u64, flags: u32, padding: u32 }
    LinkIn { oldnodeid: u64 }
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atimensec: u32, mtimensec: u32, ctimensec: u32, mode: u32, unused4: u32, uid: u32, gid: u32, unused5: u32,
    }
    OpenIn { flags: u32, open_flags: u32 }
    CreateIn { flags: u32, mode: u32, umask: u32, open_flags: u32 }
    ReleaseIn { fh: u64, flags: u32, release_flags: u32, lock_owner: u64 }
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    FsyncIn { fh: u64, fsync_flags: u32, padding: u32 }
    /// The short form, without `FUSE_SETXATTR_EXT`.
    SetxattrIn { size: u32, flags: u32 }
    /// What `FUSE_SETXATTR_EXT` adds behind [`SetxattrIn`].
    SetxattrExt { setxattr_flags: u32, padding: u32 }
    SetxattrLong { head: SetxattrIn, ext: SetxattrExt }
    GetxattrIn { size: u32, padding: u32 }
    IoctlIn { fh: u64, flags: u32, cmd: u32, arg: u64, in_size: u32, out_size: u32 }
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    CopyFileRangeIn {
        fh_in: u64, off_in: u64, nodeid_out: u64, fh_out: u64, off_out: u64, len: u64, flags: u64,
    }
}

/// Rounds a record of a listing up to eight bytes (`FUSE_REC_ALIGN`).
pub(crate) const fn record_size(bytes: usize) -> usize {
    bytes.next_multiple_of(8)
}

/// A notification that has no payload: its code takes the place of an errno, and it answers no request.
pub(super) fn notification(code: i32) -> [u8; size_of::<OutHeader>()] {
    let len = u32::try_from(size_of::<OutHeader>()).unwrap_or_default();
    zerocopy::transmute!(OutHeader { len, error: code, unique: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sizes that `pahole` and the protocol's own compatibility constants give.
    #[test]
    fn structures_have_the_size_of_the_kernels() {
        for (name, size, want) in [
            ("in_header", size_of::<InHeader>(), 40),
            ("out_header", size_of::<OutHeader>(), 16),
            ("attr", size_of::<WireAttr>(), 88),
            ("entry_out", size_of::<EntryOut>(), 128),
            ("attr_out", size_of::<AttrOut>(), 104),
            ("open_out", size_of::<OpenOut>(), 16),
            ("statfs_out", size_of::<StatfsOut>(), 80),
            ("dirent", size_of::<Dirent>(), 24),
            ("setattr_in", size_of::<SetattrIn>(), 88),
            ("read_in", size_of::<ReadIn>(), 40),
            ("write_in", size_of::<WriteIn>(), 40),
            ("ioctl_in", size_of::<IoctlIn>(), 32),
            ("copy_file_range_in", size_of::<CopyFileRangeIn>(), 56),
            ("release_in", size_of::<ReleaseIn>(), 24),
            ("create_in", size_of::<CreateIn>(), 16),
            ("rename2_in", size_of::<Rename2In>(), 16),
        ] {
            assert_eq!(size, want, "{name}");
        }
    }

    #[test]
    fn opcode_has_the_name_of_the_header() {
        assert_eq!(Opcode::COPY_FILE_RANGE_64.name(), "COPY_FILE_RANGE_64");
        assert_eq!(Opcode(7).name(), "UNKNOWN");
    }
}
