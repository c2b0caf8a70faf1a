//! Mounts as values: made detached, given their flags, and attached last (mount_setattr(2), move_mount(2)).
//!
//! A mount that is never attached vanishes with its descriptor, so nothing half made is ever visible.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use crate::error::{On, Result};
use crate::sys::{self, MountAttr};

pub(crate) use rustix::mount::MountAttrFlags as Attr;

/// How often an openat2 that raced with a rename is tried again.
const MAX_RETRIES: usize = 128;

/// A mount that has no place yet.
#[derive(Debug)]
pub(crate) struct Detached {
    fd: OwnedFd,
    what: PathBuf,
}

impl Detached {
    /// A new filesystem of this kind; an option without `=` is a flag.
    pub(crate) fn filesystem(kind: &str, options: &[&str], attr: MountAttrFlags) -> Result<Self> {
        let make = || -> Result<OwnedFd, Errno> {
            let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
            fsconfig_set_string(context.as_fd(), "source", kind)?;
            for option in options {
                match option.split_once('=') {
                    Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
                    None => fsconfig_set_flag(context.as_fd(), *option)?,
                }
            }
            fsconfig_create(context.as_fd())?;
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr)
        };
        Ok(Self { fd: make().on("mount a filesystem of type", kind)?, what: kind.into() })
    }

    /// A copy of the mount tree at `path`, for a bind.
    pub(crate) fn clone_of(path: &Path) -> Result<Self> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        Ok(Self { fd: open_tree(CWD, path, flags).on("open_tree", path)?, what: path.into() })
    }

    /// A copy of the one mount that `place` lies on, beginning at `place`.
    pub(crate) fn clone_at(place: impl AsFd, what: &Path) -> Result<Self> {
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        Ok(Self { fd: open_tree(place, "", flags).on("open_tree", what)?, what: what.into() })
    }

    /// Sets attributes, and the propagation if not 0, here and with `recursive` below.
    pub(crate) fn set(self, set: MountAttrFlags, propagation: u64, recursive: bool) -> Result<Self> {
        let attr = MountAttr { set: u64::from(set.bits()), propagation, ..MountAttr::default() };
        sys::mount_setattr(&self.fd, &attr, recursive).on("mount_setattr", &self.what)?;
        Ok(self)
    }

    /// The root of the mount, as a place to open files from.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Puts the mount on `target`.
    pub(crate) fn attach(&self, target: BorrowedFd<'_>) -> Result<()> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&self.fd, "", target, "", flags).on("move_mount", &self.what)
    }
}

/// Changes the flags of the mount at `place`.
pub(crate) fn set_at(place: BorrowedFd<'_>, what: &Path, set: MountAttrFlags) -> Result<()> {
    let attr = MountAttr { set: u64::from(set.bits()), ..MountAttr::default() };
    sys::mount_setattr(place, &attr, false).on("mount_setattr", what)
}

/// Opens `path` as a process with `root` as its root directory would, following no magic link (openat2(2)).
pub(crate) fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_resolving(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path` below `root` where no component may be a symbolic link: for the places whose meaning the image
/// must not change, such as `/proc`.
pub(crate) fn open_plain(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    open_resolving(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn open_resolving(
    root: BorrowedFd<'_>,
    path: &Path,
    flags: OFlags,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    for _ in 0..MAX_RETRIES {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {} // a rename or mount raced, anywhere on the host
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// What is to be made where a mount point is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A directory.
    Directory,
    /// An empty file, for a bind of anything that is no directory.
    File,
}

impl Kind {
    /// The kind of mount point that a bind of `source` needs.
    pub(crate) fn of(source: impl AsFd) -> Result<Self, Errno> {
        let mode = rustix::fs::fstat(source)?.st_mode;
        let directory = FileType::from_raw_mode(mode) == FileType::Directory;
        Ok(if directory { Self::Directory } else { Self::File })
    }
}

/// How many links that lead to nothing yet are followed to one place (`MAXSYMLINKS`, namei.h).
const MAX_LINKS: usize = 40;

/// The place `path` in `root` as an `O_PATH` descriptor, made with its parents where it is missing.
///
/// A link on the way that leads to nothing is followed within `root`, and its target is made.
pub(crate) fn ensure_in_root(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd, Errno> {
    ensure_below(root, path, kind, &mut 0)
}

fn ensure_below(root: BorrowedFd<'_>, path: &Path, kind: Kind, links: &mut usize) -> Result<OwnedFd, Errno> {
    match open_in_root(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        found => return found,
    }
    let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::NOENT) };
    let parent = ensure_below(root, above, Kind::Directory, links)?;
    let made = match kind {
        Kind::Directory => rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)),
        Kind::File => {
            rustix::fs::mknodat(&parent, name, FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
        }
    };
    match made {
        Ok(()) => open_in_root(root, path, OFlags::PATH),
        Err(Errno::EXIST) if *links < MAX_LINKS => {
            *links += 1;
            let target = rustix::fs::readlinkat(&parent, name, Vec::new())?;
            let target = above.join(OsStr::from_bytes(target.as_bytes())); // an absolute one replaces all of it
            ensure_below(root, &target, kind, links)
        }
        Err(errno) => Err(errno),
    }
}
