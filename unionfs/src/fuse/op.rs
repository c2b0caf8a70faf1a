//! The operations of the protocol as values.

use std::ffi::OsStr;

use super::message::Rest;
use super::wire;
use crate::types::{FileKind, Ino, Name, NewNode, RenameFlags, Seek, SetAttr};

/// One operation the kernel asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op<'a> {
    Lookup {
        dir: Ino,
        name: Name<'a>,
    },
    Forget {
        node: Ino,
        count: u64,
    },
    BatchForget(Forgets<'a>),
    Getattr {
        node: Ino,
    },
    Setattr {
        node: Ino,
        change: SetAttr,
    },
    Readlink {
        node: Ino,
    },
    Symlink {
        dir: Ino,
        name: Name<'a>,
        target: &'a OsStr,
        new: NewNode,
    },
    Mknod {
        dir: Ino,
        name: Name<'a>,
        kind: FileKind,
        rdev: u32,
        new: NewNode,
    },
    Mkdir {
        dir: Ino,
        name: Name<'a>,
        new: NewNode,
    },
    Create {
        dir: Ino,
        name: Name<'a>,
        new: NewNode,
        open: Open,
    },
    Tmpfile {
        dir: Ino,
        new: NewNode,
        open: Open,
    },
    Unlink {
        dir: Ino,
        name: Name<'a>,
    },
    Rmdir {
        dir: Ino,
        name: Name<'a>,
    },
    Rename {
        dir: Ino,
        name: Name<'a>,
        to_dir: Ino,
        to: Name<'a>,
        flags: RenameFlags,
    },
    Link {
        node: Ino,
        dir: Ino,
        name: Name<'a>,
    },
    Open {
        node: Ino,
        open: Open,
    },
    Release {
        node: Ino,
        handle: u64,
    },
    Opendir,
    Releasedir,
    Read {
        node: Ino,
        offset: u64,
        size: u32,
    },
    Write {
        node: Ino,
        offset: u64,
        data: &'a [u8],
        kill_suidgid: bool,
    },
    Readdir {
        dir: Ino,
        after: u64,
        size: u32,
        plus: bool,
    },
    Statfs,
    Fsync {
        node: Ino,
        datasync: bool,
    },
    Fsyncdir {
        node: Ino,
    },
    Syncfs,
    Getxattr {
        node: Ino,
        name: &'a OsStr,
        size: u32,
    },
    Listxattr {
        node: Ino,
        size: u32,
    },
    Setxattr {
        node: Ino,
        name: &'a OsStr,
        value: &'a [u8],
        flags: u32,
        kill_sgid: bool,
    },
    Removexattr {
        node: Ino,
        name: &'a OsStr,
    },
    Fallocate {
        node: Ino,
        mode: u32,
        offset: u64,
        len: u64,
    },
    Lseek {
        node: Ino,
        offset: u64,
        whence: Seek,
    },
    CopyFileRange {
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
        wide: bool,
    },
    Ioctl {
        node: Ino,
        cmd: u32,
        data: &'a [u8],
        out_size: u32,
    },
    Destroy,
    /// Refused with `ENOSYS`, which the kernel remembers for most kinds and asks no more.
    Refused,
}

impl Op<'_> {
    /// The same of the files that the kernel means by its numbers, but for what is about the numbers: OPEN, RELEASE,
    /// FORGET, and what looks at the content that they are open by. A directory has but one.
    pub(crate) fn of_files(mut self, file: impl Fn(Ino) -> Ino) -> Self {
        match &mut self {
            Self::Getattr { node }
            | Self::Setattr { node, .. }
            | Self::Link { node, .. }
            | Self::Read { node, .. }
            | Self::Write { node, .. }
            | Self::Fsync { node, .. }
            | Self::Getxattr { node, .. }
            | Self::Listxattr { node, .. }
            | Self::Setxattr { node, .. }
            | Self::Removexattr { node, .. }
            | Self::Fallocate { node, .. }
            | Self::Ioctl { node, .. } => *node = file(*node),
            Self::CopyFileRange { to, .. } => *to = file(*to),
            _ => {}
        }
        self
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Open {
    /// Flags of open(2); only CREATE brings `O_CREAT` and `O_EXCL`, and `O_TRUNC` is here only if that was agreed.
    pub(crate) flags: i32,
    /// Truncating clears set-user-ID and set-group-ID.
    pub(crate) kill_suidgid: bool,
}

impl Open {
    /// Whether the file is to be written.
    pub(crate) const fn writes(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }

    /// Whether the file can be mapped shared and writable (mmap(2) asks for read access too).
    pub(crate) const fn maps(self) -> bool {
        self.flags & libc::O_ACCMODE == libc::O_RDWR
    }

    /// Whether the file is to be empty.
    pub(crate) const fn truncates(self) -> bool {
        self.flags & libc::O_TRUNC != 0
    }

    /// Whether the file must not exist yet.
    pub(crate) const fn exclusive(self) -> bool {
        self.flags & libc::O_EXCL != 0
    }

    /// Whether the file is to be run: `__FMODE_EXEC`, which execve(2) alone sets (include/linux/fs.h).
    pub(crate) const fn runs(self) -> bool {
        const FMODE_EXEC: i32 = 0x20;
        self.flags & FMODE_EXEC != 0
    }

    /// The open of a file that has just been made: there is nothing to truncate.
    pub(crate) const fn of_new(self) -> Self {
        Self { flags: self.flags & !libc::O_TRUNC, ..self }
    }
}

/// The nodes of a BATCH_FORGET, each with the references given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forgets<'a> {
    left: u32,
    rest: Rest<'a>,
}

impl<'a> Forgets<'a> {
    /// The first `count` records of `rest`, or as many as there are.
    pub(super) const fn new(count: u32, rest: Rest<'a>) -> Self {
        Self { left: count, rest }
    }
}

impl Iterator for Forgets<'_> {
    type Item = (Ino, u64);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            self.left = self.left.checked_sub(1)?;
            let one: wire::ForgetOne = self.rest.fixed().ok()?;
            if let Some(node) = Ino::new(one.nodeid) {
                return Some((node, one.nlookup));
            }
        }
    }
}
