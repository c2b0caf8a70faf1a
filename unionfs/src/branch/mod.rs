//! One branch: a directory tree held by its root's descriptor, in which every act is relative to a descriptor.

mod spec;

use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::Errno;
use crate::override_stat::Key;
use crate::place::Place;
pub use spec::{Access, BranchSpec, Perm, SpecError};

/// How often a path is tried again that a rename elsewhere on the host disturbed (`EAGAIN` of openat2(2)).
const RETRIES: usize = 128;
/// Longest path handed to one openat2(2); longer ones are walked (`PATH_MAX` is 4096).
const PATH_STEP: usize = 4000;

/// How a directory is opened: readable where it may be, so that one descriptor lists it too.
pub(crate) const DIR_FLAGS: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How the root of a branch is opened: here, and only here, a symbolic link is followed.
const ROOT_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// An opened branch.
#[derive(Debug)]
pub struct Branch {
    spec: BranchSpec,
    root: OwnedFd,
    /// `st_dev` and `st_ino` of its root.
    id: (u64, u64),
    /// Those of the directories it lies in.
    above: Vec<(u64, u64)>,
    /// The attribute that its root has in the place of owner and mode; looked for when somebody asks.
    override_key: OnceLock<Option<Key>>,
}

/// A branch that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("branch {path:?}: {op}: {errno}{hint}")]
pub struct BranchError {
    /// The directory as it was named.
    pub path: PathBuf,
    /// The system call or rule that refused.
    pub op: &'static str,
    /// Why.
    pub errno: Errno,
    /// What to do about it, or nothing.
    pub hint: &'static str,
}

impl Branch {
    /// Opens the directory a branch names.
    ///
    /// A branch that is not written is seen through a mount of its own where that is permitted: read-only by the
    /// kernel's word, without what is mounted inside (the union's own mount point, say), and leaving no access times.
    ///
    /// # Errors
    ///
    /// What open(2) said of the directory.
    pub fn open(spec: BranchSpec) -> Result<Self, BranchError> {
        let fail = |op, source: Errno| {
            let hint = match source {
                Errno::NOENT => " (make the directory first)",
                Errno::NOTDIR => " (a branch is a directory)",
                _ => "",
            };
            BranchError { path: spec.path.clone(), op, errno: source, hint }
        };
        let named =
            openat(CWD, &spec.path, ROOT_FLAGS, Mode::empty()).map_err(|errno| fail("open", errno))?;
        let stat = fstat(&named).map_err(|errno| fail("fstat", errno))?;
        let above = ancestors(&named).map_err(|errno| fail("open ..", errno))?;
        let path = std::fs::canonicalize(&spec.path).unwrap_or_else(|_| spec.path.clone());
        let root = if spec.perm.writable() { named } else { read_only_view(&named).unwrap_or(named) };
        let (id, override_key) = ((stat.st_dev, stat.st_ino), OnceLock::new());
        Ok(Self { spec: BranchSpec { path, ..spec }, root, id, above, override_key })
    }

    /// Whether the branch is another, or lies inside it: then a change of one would change the other.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        other.id == self.id || self.above.contains(&other.id)
    }

    /// What the branch was named, its path made absolute.
    pub const fn spec(&self) -> &BranchSpec {
        &self.spec
    }

    /// Its permission and attributes.
    pub const fn perm(&self) -> Perm {
        self.spec.perm
    }

    /// Whether it takes changes.
    pub const fn writable(&self) -> bool {
        self.spec.perm.writable()
    }

    /// The descriptor of its root.
    pub(crate) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// `st_dev` of its root.
    pub(crate) const fn device(&self) -> u64 {
        self.id.0
    }

    /// What the filesystem of its root calls itself: `f_fsid` of statvfs(3), 0 if it has none.
    pub(crate) fn label(&self) -> u64 {
        rustix::fs::fstatvfs(&self.root).map_or(0, |told| told.f_fsid)
    }

    /// Its root as an object.
    pub(crate) fn root_place(&self) -> Result<Place, Errno> {
        Ok(Place::Fd(Arc::new(rustix::io::fcntl_dupfd_cloexec(&self.root, 0)?)))
    }

    /// The attribute that objects of the branch are to be read by: the one its root has.
    pub(crate) fn override_key(&self) -> Option<Key> {
        *self.override_key.get_or_init(|| Key::of(&self.root_place().ok()?))
    }

    /// Opens a directory by its path below the root, following no symbolic link.
    pub(crate) fn open_dir(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        open_below(&self.root, path)
    }
}

/// The identities of the directories above one, up to the root of the tree.
fn ancestors(dir: &OwnedFd) -> Result<Vec<(u64, u64)>, Errno> {
    let mut above = Vec::new();
    let mut last = fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))?;
    let mut here = openat(dir, c"..", DIR_FLAGS | OFlags::PATH, Mode::empty())?;
    loop {
        let id = fstat(&here).map(|stat| (stat.st_dev, stat.st_ino))?;
        if id == last {
            return Ok(above);
        }
        above.push(id);
        last = id;
        here = openat(&here, c"..", DIR_FLAGS | OFlags::PATH, Mode::empty())?;
    }
}

/// The directory in a read-only mount of its own, attached nowhere (open_tree(2), mount_setattr(2)); `None` without
/// CAP_SYS_ADMIN, or on a kernel before 5.12.
fn read_only_view(dir: &OwnedFd) -> Option<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(dir, c"", flags).ok()?;
    crate::sys::make_mount_read_only(&tree).ok()?;
    openat(&tree, c".", ROOT_FLAGS, Mode::empty()).ok()
}

/// Opens the directory `path` (relative, of any length; empty for `root` itself), following no symbolic link.
pub(crate) fn open_below(root: impl AsFd, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut dir: Option<OwnedFd> = None;
    let mut rest = path;
    loop {
        let (step, next) = split_path(rest);
        let step = if step.is_empty() { b"." } else { step };
        let here = dir.as_ref().map_or_else(|| root.as_fd(), |dir| dir.as_fd());
        let opened = open_step(here, step, DIR_FLAGS)?;
        if next.is_empty() {
            return Ok(opened);
        }
        rest = next;
        dir = Some(opened);
    }
}

/// The part of `path` that fits one system call, and the rest.
fn split_path(path: &[u8]) -> (&[u8], &[u8]) {
    if path.len() <= PATH_STEP {
        return (path, &[]);
    }
    match path[..PATH_STEP].iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (path, &[]),
    }
}

fn open_step(dir: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..RETRIES {
        match openat2(&dir, path, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            // A directory that may be searched but not read still serves for all but listing.
            Err(Errno::ACCESS) if !flags.contains(OFlags::PATH) => {
                return open_step(dir, path, flags.difference(OFlags::RDONLY) | OFlags::PATH);
            }
            // Kernels before 5.6, and seccomp profiles of their time.
            Err(Errno::NOSYS | Errno::PERM) => return walk(dir.as_fd(), path, flags),
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// openat2(2) by hand: a component at a time, none of them a symbolic link.
fn walk(root: rustix::fd::BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let mut dir: Option<OwnedFd> = None;
    for name in path.split(|&byte| byte == b'/') {
        let here = dir.as_ref().map_or(root, |dir| dir.as_fd());
        dir = Some(openat(here, name, flags, Mode::empty())?);
    }
    dir.ok_or(Errno::INVAL)
}

/// Whether an inode is kernel overlay's whiteout: a character device 0:0 (overlayfs.rst, "whiteouts and opaque directories").
pub(crate) fn is_overlay_whiteout(stat: &Stat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}
