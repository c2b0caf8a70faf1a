//! The work directory of a writable branch: where objects are made before one rename shows them.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{
    AtFlags, CWD, FileType, FlockOperation, Mode, OFlags, RawDir, Stat, Timespec, Timestamps, XattrFlags,
    flock, fstat, futimens, mkdirat, openat, statat, unlinkat,
};

use crate::branch::{Branch, BranchError, DIR_FLAGS};
use crate::error::Errno;
use crate::marks::{Format, WORK};
use crate::place::{Place, ShortName};

/// Where temporaries are made.
pub(crate) const TEMP: &str = "work";
/// In the work directory while `unionfs convert` changes the branch: a symbolic link whose target is the new format.
pub(crate) const CONVERTING: &str = "converting";
/// Where hard-linked files that were copied up are found by the identity of their origin.
pub(crate) const LINKS: &str = "links";
/// In there, how the name of a copy ends that has no group: it could bear no record of its origin.
pub(crate) const ALONE: &str = ".p";
/// In there, how the name of an inode ends whose number a file took along to another branch.
pub(crate) const LEFT: &str = ".r";

/// The prefix of our own extended attributes that the branch can store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OwnXattrs {
    /// `trusted.`: on every kind of object, with CAP_SYS_ADMIN.
    Trusted,
    /// `user.`: on files and directories only.
    User,
    /// The branch stores none.
    Absent,
}

/// How a filesystem is made to have a file's content on disk before its new name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    /// ext4 with a journal and `data=ordered`: the transaction that has the rename is not written before the blocks
    /// that were allocated up to it (ext4(5), "data=ordered"), so they only need to be allocated now. This is what
    /// ext4 does by itself for a rename over an old file (`auto_da_alloc`).
    ByOrder,
    /// Any other: fsync(2).
    BySync,
}

impl Durable {
    fn probe(dir: &OwnedFd) -> Self {
        let ordered = fstat(dir).ok().and_then(|stat| Self::ordered(stat.st_dev)).unwrap_or_default();
        if ordered { Self::ByOrder } else { Self::BySync }
    }

    /// Whether the filesystem of a device is such an ext4, by what /proc and /sys tell.
    fn ordered(device: u64) -> Option<bool> {
        let number = format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device));
        let table = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
        let mount = table.lines().find(|line| line.split(' ').nth(2) == Some(&number))?;
        let (_, superblock) = mount.split_once(" - ")?;
        let mut fields = superblock.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1)?);
        let name = std::fs::canonicalize(format!("/sys/dev/block/{number}")).ok()?;
        // The process that writes the journal, or `<none>`.
        let journal = Path::new("/sys/fs/ext4").join(name.file_name()?).join("journal_task");
        let journal = std::fs::read_to_string(journal).is_ok_and(|task| !task.starts_with('<'));
        let mode = options.split(',').find_map(|option| option.strip_prefix("data="));
        Some(kind == "ext4" && journal && mode.is_none_or(|mode| mode == "ordered"))
    }
}

/// An opened and locked work directory, empty of what a crash left.
#[derive(Debug)]
pub(crate) struct Work {
    dir: OwnedFd,
    temp: Arc<OwnedFd>,
    links: Arc<OwnedFd>,
    next: AtomicU64,
    pub(crate) own: OwnXattrs,
    durable: Durable,
    /// Set when the directory lies in the branch itself and so should vanish when it is empty.
    inside: Option<OwnedFd>,
}

impl Work {
    /// Opens `path`, or the default inside the branch, locks it and removes what an earlier union left in it.
    pub(crate) fn open(branch: &Branch, path: Option<&Path>) -> Result<Self, BranchError> {
        let shown = path.map_or_else(|| branch.spec().path.join(OsBytes(WORK).as_path()), Path::to_path_buf);
        let fail = |op: &'static str| {
            let path = shown.clone();
            move |errno| BranchError { path, op, errno, hint: hint(op, errno) }
        };
        let dir = loop {
            let dir = match path {
                Some(path) => open_or_make(CWD, path),
                None => keeping_times(branch.root(), || open_or_make(branch.root(), OsBytes(WORK).as_path())),
            }
            .map_err(fail("open work directory"))?;
            if fstat(&dir).map_err(fail("fstat"))?.st_dev != branch.device() {
                return Err(fail("work directory")(Errno::XDEV));
            }
            lock(&dir).map_err(fail("flock"))?;
            // The server that had it may have removed it in the meantime, as its last act.
            if fstat(&dir).map_err(fail("fstat"))?.st_nlink > 0 {
                break dir;
            }
        };
        let temp = Arc::new(open_private(&dir, TEMP).map_err(fail("mkdir"))?);
        let links = Arc::new(open_private(&dir, LINKS).map_err(fail("mkdir"))?);
        remove_children(&temp).map_err(fail("clean"))?;
        clean_links(&links).map_err(fail("clean"))?;
        let own = probe_xattrs(&temp);
        let durable = Durable::probe(&temp);
        let inside = path.is_none().then(|| branch.root().try_clone()).transpose();
        let inside = inside.map_err(|_| fail("dup")(Errno::MFILE))?;
        Ok(Self { dir, temp, links, next: AtomicU64::new(0), own, durable, inside })
    }

    /// A fresh name in the work directory.
    pub(crate) fn temp(&self) -> Temp<'_> {
        let name = format!("{}", self.next.fetch_add(1, Ordering::Relaxed)).into_bytes().into();
        Temp { work: self, name, keep: false }
    }

    pub(crate) const fn links(&self) -> &Arc<OwnedFd> {
        &self.links
    }

    pub(crate) const fn dir(&self) -> &OwnedFd {
        &self.dir
    }
}

impl Work {
    /// Sees to it that a rename after this cannot be on disk without the content of the file that is renamed.
    pub(crate) fn settle(&self, file: impl AsFd) -> Result<(), Errno> {
        match self.durable {
            Durable::ByOrder => crate::sys::start_writing(file),
            Durable::BySync => rustix::fs::fsync(file),
        }
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Each fails where something is left in it, and then it must stay.
        for name in [TEMP, LINKS] {
            unlinkat(&self.dir, name, AtFlags::REMOVEDIR).unwrap_or_default();
        }
        if let Some(branch) = &self.inside {
            keeping_times(branch, || unlinkat(branch, WORK, AtFlags::REMOVEDIR)).unwrap_or_default();
        }
    }
}

/// The index of hard links in a work directory that is not to be changed, if there is one.
pub(crate) fn find_links(branch: &Branch, path: Option<&Path>) -> Option<Arc<OwnedFd>> {
    let dir = match path {
        Some(path) => openat(CWD, path, DIR_FLAGS.difference(OFlags::NOFOLLOW), Mode::empty()),
        None => openat(branch.root(), WORK, DIR_FLAGS, Mode::empty()),
    };
    openat(dir.ok()?, LINKS, DIR_FLAGS, Mode::empty()).ok().map(Arc::new)
}

/// Refuses to take `.wh.` names for a user's while a conversion between the formats is unfinished.
pub(crate) fn refuse_unfinished(branch: &Branch, path: Option<&Path>) -> Result<(), BranchError> {
    let inside = Path::new(OsBytes(WORK).as_path()).join(CONVERTING);
    let found = [Some((branch.root().as_fd(), inside)), path.map(|path| (CWD, path.join(CONVERTING)))];
    let there = |(dir, path)| rustix::fs::statat(dir, path, AtFlags::SYMLINK_NOFOLLOW).is_ok();
    if !found.into_iter().flatten().any(there) {
        return Ok(());
    }
    Err(BranchError {
        path: branch.spec().path.clone(),
        op: "format",
        errno: Errno::BUSY,
        hint: " (its conversion was interrupted: run 'unionfs convert' again, or mount it with format=aufs)",
    })
}

/// A name in the work directory; what is made under it vanishes unless it is moved away.
#[derive(Debug)]
pub(crate) struct Temp<'a> {
    work: &'a Work,
    pub(crate) name: ShortName,
    keep: bool,
}

impl Temp<'_> {
    pub(crate) fn dir(&self) -> &Arc<OwnedFd> {
        &self.work.temp
    }

    pub(crate) fn place(&self) -> Place {
        Place::Name(Arc::clone(&self.work.temp), self.name.clone())
    }

    /// It was moved to its place: nothing is left to remove.
    pub(crate) fn moved(mut self) {
        self.keep = true;
    }
}

impl Drop for Temp<'_> {
    fn drop(&mut self) {
        if !self.keep {
            // The next mount cleans what cannot be removed now.
            remove_tree(&self.work.temp, &self.name).unwrap_or_default();
        }
    }
}

struct OsBytes(&'static [u8]);

impl OsBytes {
    fn as_path(&self) -> &Path {
        use std::os::unix::ffi::OsStrExt;
        Path::new(std::ffi::OsStr::from_bytes(self.0))
    }
}

fn hint(op: &str, errno: Errno) -> &'static str {
    match (op, errno) {
        ("flock", Errno::AGAIN) => " (another union is mounted with this writable branch: unmount it first)",
        (_, Errno::XDEV) => " (it must be on the filesystem of its branch)",
        (_, Errno::ROFS) => " (the branch is on a read-only filesystem: give it as =ro)",
        (_, Errno::ACCESS | Errno::PERM) => " (the branch must be writable for you, or be given as =ro)",
        _ => "",
    }
}

/// Locks a work directory. The server of a union that was just unmounted may take a moment to let go of it.
pub(crate) fn lock(dir: &OwnedFd) -> Result<(), Errno> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let since = Instant::now();
    loop {
        match flock(dir, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::AGAIN) if since.elapsed() < PATIENCE => std::thread::sleep(Duration::from_millis(5)),
            done => return done,
        }
    }
}

fn open_or_make(dir: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    match mkdirat(&dir, path, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(dir, path, DIR_FLAGS.difference(OFlags::NOFOLLOW), Mode::empty())
}

/// A directory in which objects lie that their own modes do not protect yet, or not by this path.
fn open_private(dir: &OwnedFd, name: &str) -> Result<OwnedFd, Errno> {
    let opened = open_or_make(dir, Path::new(name))?;
    rustix::fs::fchmod(&opened, Mode::RWXU)?;
    Ok(opened)
}

fn probe_xattrs(dir: &Arc<OwnedFd>) -> OwnXattrs {
    let place = Place::Fd(Arc::clone(dir));
    for (own, name) in
        [(OwnXattrs::Trusted, &b"trusted.unionfs.probe"[..]), (OwnXattrs::User, b"user.unionfs.probe")]
    {
        if place.setxattr(name, b"y", XattrFlags::empty()).is_ok() && place.removexattr(name).is_ok() {
            return own;
        }
    }
    OwnXattrs::Absent
}

/// Removes copies from an index that a crash has left without a name, and content that had to go.
fn clean_links(links: &OwnedFd) -> Result<(), Errno> {
    for (name, ..) in read_names(links)? {
        if name.ends_with(ALONE.as_bytes()) {
            if statat(links, &*name, AtFlags::SYMLINK_NOFOLLOW)?.st_nlink == 1 {
                unlinkat(links, &*name, AtFlags::empty())?;
            }
        } else if name.ends_with(LEFT.as_bytes()) {
            let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let left = openat(links, &*name, flags, Mode::empty());
            // It takes space, and does no harm.
            left.and_then(|left| rustix::fs::ftruncate(left, 0)).unwrap_or_default();
        }
    }
    Ok(())
}

/// Removes all a directory holds.
pub(crate) fn remove_children(dir: impl AsFd) -> Result<(), Errno> {
    let list = openat(&dir, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for (name, _, _) in read_names(&list)? {
        remove_tree(&dir, &name)?;
    }
    Ok(())
}

/// Removes a name and all below it.
pub(crate) fn remove_tree(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    remove_children(openat(&dir, name, DIR_FLAGS, Mode::empty())?)?;
    unlinkat(&dir, name, AtFlags::REMOVEDIR)
}

/// All entries of an open directory but `.` and `..`: name, type as the filesystem tells it, inode number.
pub(crate) fn read_names(dir: impl AsFd) -> Result<Vec<(Vec<u8>, FileType, u64)>, Errno> {
    let mut names = Vec::new();
    // The descriptor may have been read before.
    rustix::fs::seek(&dir, rustix::fs::SeekFrom::Start(0)).map_err(unreadable)?;
    let mut buf = Vec::with_capacity(32 * 1024);
    let mut entries = RawDir::new(&dir, buf.spare_capacity_mut());
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push((name.to_vec(), entry.file_type(), entry.ino()));
        }
    }
    Ok(names)
}

/// A descriptor got with `O_PATH` is one of a directory that may not be read.
fn unreadable(errno: Errno) -> Errno {
    if errno == Errno::BADF { Errno::ACCESS } else { errno }
}

/// A file's times as utimensat(2) takes them.
pub(crate) fn times_of(stat: &Stat) -> Timestamps {
    let time = |sec, nsec| Timespec { tv_sec: sec, tv_nsec: i64::try_from(nsec).unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

/// Runs what changes a directory on disk but not in the merged view, and puts its times back.
pub(crate) fn keeping_times<T>(dir: &OwnedFd, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let before = fstat(dir)?;
    let done = act()?;
    // Times that cannot be put back are no reason to fail what was done.
    futimens(dir, &times_of(&before)).unwrap_or_default();
    Ok(done)
}

/// Where the work directory of a branch is unless another was named.
pub(crate) fn default_workdir(branch: &Path, format: Format) -> PathBuf {
    match format {
        Format::Aufs => branch.join(OsBytes(WORK).as_path()),
        Format::Overlay => beside(branch),
    }
}

/// The path a branch's work directory gets when none is named and it must not lie inside.
pub(crate) fn beside(branch: &Path) -> PathBuf {
    let mut name = branch.file_name().unwrap_or_default().to_owned();
    name.push(".work");
    branch.with_file_name(name)
}
