//! Where an object is for the next system call: a name in an open directory, or a descriptor of its own.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, Stat, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fstat,
    futimens, openat, readlinkat, statat, utimensat,
};
use rustix::path::Arg;
use smallvec::SmallVec;

use crate::error::Errno;
use crate::sys;

/// A name kept beside the descriptor of its directory, without an allocation while it is short.
pub(crate) type ShortName = SmallVec<[u8; 32]>;

/// The place of one object, good for as long as its node's lock is held.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// A name in a directory.
    Name(Arc<OwnedFd>, ShortName),
    /// An object that has no name any more, or a directory: a descriptor, often `O_PATH`.
    Fd(Arc<OwnedFd>),
    /// A file that is open for reading and writing.
    File(Arc<OwnedFd>),
}

type Outcome<T> = Result<T, Errno>;

impl Place {
    pub(crate) fn stat(&self) -> Outcome<Stat> {
        match self {
            Self::Name(dir, name) => statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW),
            Self::Fd(fd) | Self::File(fd) => fstat(fd),
        }
    }

    /// Opens the object itself; it must be a regular file, for a fifo would block and a device act.
    pub(crate) fn open(&self, flags: OFlags) -> Outcome<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC;
        match self {
            Self::Name(dir, name) => openat(dir, name.as_slice(), flags | OFlags::NOFOLLOW, Mode::empty()),
            Self::Fd(_) | Self::File(_) => openat(CWD, self.proc_path(), flags, Mode::empty()),
        }
    }

    /// A descriptor that keeps the object alive and reachable whatever becomes of its name.
    pub(crate) fn pin(&self) -> Outcome<Arc<OwnedFd>> {
        match self {
            Self::Name(dir, name) => {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                openat(dir, name.as_slice(), flags, Mode::empty()).map(Arc::new)
            }
            Self::Fd(fd) | Self::File(fd) => Ok(Arc::clone(fd)),
        }
    }

    /// The descriptor of an open file.
    ///
    /// # Errors
    ///
    /// `EBADF` for any other place.
    pub(crate) fn file(&self) -> Outcome<&OwnedFd> {
        if let Self::File(file) = self { Ok(file) } else { Err(Errno::BADF) }
    }

    pub(crate) fn readlink(&self) -> Outcome<Vec<u8>> {
        let target = match self {
            Self::Name(dir, name) => readlinkat(dir, name.as_slice(), Vec::new()),
            Self::Fd(fd) | Self::File(fd) => readlinkat(fd, c"", Vec::new()),
        };
        target.map(std::ffi::CString::into_bytes)
    }

    /// Sets permission bits; never asked of a symbolic link, which has none.
    pub(crate) fn chmod(&self, mode: u32) -> Outcome<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        match self {
            Self::Name(dir, name) => chmodat(dir, name.as_slice(), mode, AtFlags::empty()),
            Self::Fd(_) => chmodat(CWD, self.proc_path(), mode, AtFlags::empty()),
            Self::File(fd) => fchmod(fd, mode),
        }
    }

    pub(crate) fn chown(&self, uid: Option<u32>, gid: Option<u32>) -> Outcome<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        match self {
            Self::Name(dir, name) => chownat(dir, name.as_slice(), uid, gid, AtFlags::SYMLINK_NOFOLLOW),
            Self::Fd(fd) | Self::File(fd) => chownat(fd, c"", uid, gid, AtFlags::EMPTY_PATH),
        }
    }

    pub(crate) fn utimens(&self, times: &Timestamps) -> Outcome<()> {
        match self {
            Self::Name(dir, name) => utimensat(dir, name.as_slice(), times, AtFlags::SYMLINK_NOFOLLOW),
            Self::Fd(_) => utimensat(CWD, self.proc_path(), times, AtFlags::empty()),
            Self::File(fd) => futimens(fd, times),
        }
    }

    pub(crate) fn getxattr(&self, name: &[u8], value: &mut [u8]) -> Outcome<usize> {
        match self {
            Self::Name(dir, at) if sys::has_xattrat() => at
                .as_slice()
                .into_with_c_str(|at| name.into_with_c_str(|name| sys::getxattrat(dir, at, name, value))),
            Self::Name(..) => rustix::fs::lgetxattr(self.proc_path(), name, value),
            Self::Fd(_) => rustix::fs::getxattr(self.proc_path(), name, value),
            Self::File(fd) => rustix::fs::fgetxattr(fd, name, value),
        }
    }

    /// The whole value of an attribute, however long.
    pub(crate) fn read_xattr(&self, name: &[u8]) -> Outcome<Vec<u8>> {
        let mut buf = vec![0; 256];
        loop {
            match self.getxattr(name, &mut buf) {
                Ok(len) => {
                    buf.truncate(len);
                    return Ok(buf);
                }
                Err(Errno::RANGE) if buf.len() < XATTR_SIZE_MAX => buf.resize(XATTR_SIZE_MAX, 0),
                Err(errno) => return Err(errno),
            }
        }
    }

    /// Attribute names, each ended by NUL.
    pub(crate) fn list_xattrs(&self) -> Outcome<Vec<u8>> {
        let mut buf = vec![0; 1024];
        loop {
            let listed = match self {
                Self::Name(dir, at) if sys::has_xattrat() => {
                    at.as_slice().into_with_c_str(|at| sys::listxattrat(dir, at, &mut buf))
                }
                Self::Name(..) => rustix::fs::llistxattr(self.proc_path(), &mut *buf),
                Self::Fd(_) => rustix::fs::listxattr(self.proc_path(), &mut *buf),
                Self::File(fd) => rustix::fs::flistxattr(fd, &mut *buf),
            };
            match listed {
                Ok(len) => {
                    buf.truncate(len);
                    return Ok(buf);
                }
                Err(Errno::RANGE) if buf.len() < XATTR_SIZE_MAX => buf.resize(XATTR_SIZE_MAX, 0),
                Err(errno) => return Err(errno),
            }
        }
    }

    pub(crate) fn setxattr(&self, name: &[u8], value: &[u8], flags: XattrFlags) -> Outcome<()> {
        match self {
            Self::Name(..) => rustix::fs::lsetxattr(self.proc_path(), name, value, flags),
            Self::Fd(_) => rustix::fs::setxattr(self.proc_path(), name, value, flags),
            Self::File(fd) => rustix::fs::fsetxattr(fd, name, value, flags),
        }
    }

    pub(crate) fn removexattr(&self, name: &[u8]) -> Outcome<()> {
        match self {
            Self::Name(..) => rustix::fs::lremovexattr(self.proc_path(), name),
            Self::Fd(_) => rustix::fs::removexattr(self.proc_path(), name),
            Self::File(fd) => rustix::fs::fremovexattr(fd, name),
        }
    }

    /// The object through /proc, for the calls that take no descriptor, on older kernels or on all (proc_pid_fd(5)).
    pub(crate) fn proc_path(&self) -> Vec<u8> {
        let (fd, name) = match self {
            Self::Name(dir, name) => (dir.as_fd(), name.as_slice()),
            Self::Fd(fd) | Self::File(fd) => (fd.as_fd(), &[][..]),
        };
        let mut path = format!("/proc/self/fd/{}", fd.as_raw_fd()).into_bytes();
        if !name.is_empty() {
            path.push(b'/');
            path.extend_from_slice(name);
        }
        path
    }
}

/// Longest value of an attribute, and longest list of names (linux/limits.h).
const XATTR_SIZE_MAX: usize = 65536;
