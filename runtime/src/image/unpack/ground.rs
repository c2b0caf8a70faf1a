//! The tree that a layer is unpacked to: finding the place of an entry, and clearing it.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::rc::Rc;

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags, Timestamps};
use rustix::io::Errno;

use super::super::error::Fault;
use super::super::tree;
use super::rights::{self, Object};

/// A directory entries are put in.
#[derive(Debug)]
struct Parent {
    /// As the archive names it.
    named: Vec<u8>,
    /// As it is, without links: frames speak of it so.
    real: Vec<u8>,
    fd: Rc<OwnedFd>,
}

/// The tree of one layer while it grows. Nobody else can reach it: the session's directory is only ours.
#[derive(Debug)]
pub(super) struct Ground {
    root: OwnedFd,
    real_root: Vec<u8>,
    /// Content that later entries replaced, by the number of its entry: `replaced/` of the layer.
    replaced: OwnedFd,
    trash: OwnedFd,
    lifted: u64,
    /// Entries come in the order of a walk, so most have the parent of the one before.
    last: Option<Parent>,
    /// Which entry's content an inode holds.
    contents: HashMap<u64, u32>,
    /// Times to be set at the end, since each new name in a directory changes them.
    directories: HashMap<u64, (Vec<u8>, Timestamps)>,
}

impl Ground {
    /// The tree below `diff`; `replaced` and `trash` are empty directories beside it.
    pub(super) fn new(diff: OwnedFd, replaced: OwnedFd, trash: OwnedFd) -> Result<Self, Fault> {
        let real_root = real_path(&diff)?;
        Ok(Self {
            root: diff,
            real_root,
            replaced,
            trash,
            lifted: 0,
            last: None,
            contents: HashMap::new(),
            directories: HashMap::new(),
        })
    }

    /// The layer's root.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens the directory at `dir`, making what is missing of it. Links on the way are followed as a process whose
    /// root the layer is would follow them, so none leads out of it. `times` are those of a directory made.
    ///
    /// Also tells the directory's true path.
    pub(super) fn enter(&mut self, dir: &[u8], times: &Timestamps) -> Result<(Rc<OwnedFd>, Vec<u8>), Fault> {
        if let Some(last) = self.last.as_ref().filter(|last| last.named == dir) {
            return Ok((last.fd.clone(), last.real.clone()));
        }
        let fd = match self.open(dir) {
            Err(Errno::NOENT) => self.make(dir, times)?,
            opened => opened.map_err(blame(dir))?,
        };
        let (real, fd) = (self.real(dir, &fd)?, Rc::new(fd));
        self.last = Some(Parent { named: dir.to_vec(), real: real.clone(), fd: fd.clone() });
        Ok((fd, real))
    }

    /// Opens the directory at `dir` if it is there.
    pub(super) fn open(&self, dir: &[u8]) -> Result<OwnedFd, Errno> {
        let path = if dir.is_empty() { b"." } else { dir };
        tree::open_in(&self.root, path, OFlags::PATH | OFlags::DIRECTORY)
    }

    /// Notes the number of the entry whose content an inode has.
    pub(super) fn note_content(&mut self, inode: u64, number: u32) {
        self.contents.insert(inode, number);
    }

    /// Notes the times that a directory is to have at the end.
    pub(super) fn note_times(&mut self, inode: u64, path: Vec<u8>, times: Timestamps) {
        self.directories.insert(inode, (path, times));
    }

    /// Removes what has the name `name` in `dir`, so that a later entry can have it.
    pub(super) fn clear(&mut self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
        let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.drop_file(dir, name, stat.st_ino),
            FileType::Directory => {
                let lifted = tree::lift(dir, name, &self.trash, &mut self.lifted)?;
                self.empty_trash(lifted)?;
            }
            _ => rfs::unlinkat(dir, name, AtFlags::empty())?,
        }
        // A path may have led through it.
        self.last = None;
        Ok(())
    }

    /// Removes directories one by one; those inside are lifted out first, so that depth costs no descriptors.
    fn empty_trash(&mut self, first: Vec<u8>) -> Result<(), Errno> {
        let mut queue = VecDeque::from([first]);
        while let Some(name) = queue.pop_front() {
            let dir = tree::open_dir(&self.trash, tree::os(&name))?;
            self.directories.remove(&rfs::fstat(&dir)?.st_ino);
            for (child, told) in tree::list(&dir)? {
                match tree::kind_of(&dir, &child, told)? {
                    FileType::Directory => {
                        queue.push_back(tree::lift(&dir, &child, &self.trash, &mut self.lifted)?)
                    }
                    FileType::RegularFile => {
                        let stat = rfs::statat(&dir, tree::os(&child), AtFlags::SYMLINK_NOFOLLOW)?;
                        self.drop_file(dir.as_fd(), &child, stat.st_ino)?;
                    }
                    _ => rfs::unlinkat(&dir, tree::os(&child), AtFlags::empty())?,
                }
            }
            rfs::unlinkat(&self.trash, tree::os(&name), AtFlags::REMOVEDIR)?;
        }
        Ok(())
    }

    /// Removes a file from the tree; content that the frame speaks of is kept aside.
    fn drop_file(&mut self, dir: BorrowedFd<'_>, name: &[u8], inode: u64) -> Result<(), Errno> {
        match self.contents.remove(&inode) {
            Some(number) => rfs::renameat(dir, tree::os(name), &self.replaced, number.to_string()),
            None => rfs::unlinkat(dir, tree::os(name), AtFlags::empty()),
        }
    }

    /// Sets the times of all directories, when nothing more is put in them.
    pub(super) fn settle(self) -> Result<(), (Vec<u8>, Fault)> {
        for (inode, (path, times)) in &self.directories {
            let opened = if path.is_empty() {
                self.root.try_clone().map_err(Fault::io("cannot open it"))
            } else {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY;
                tree::open_plain(&self.root, path, flags).map_err(Fault::os("cannot open it again"))
            };
            let set = opened.and_then(|fd| {
                let stat = rfs::fstat(&fd).map_err(Fault::os("cannot look at it again"))?;
                debug_assert_eq!(stat.st_ino, *inode, "a directory is noted under its true path");
                rights::set_times(Object::Open(fd.as_fd()), times)
            });
            set.map_err(|fault| (path.clone(), fault))?;
        }
        Ok(())
    }

    /// Makes the directories that lead to `dir`: root's, 0755, as tar(1) and containerd do.
    fn make(&mut self, dir: &[u8], times: &Timestamps) -> Result<OwnedFd, Fault> {
        let cannot = "cannot make its parent";
        let ends = dir.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        let (mut above, mut start) = (self.open(b"").map_err(Fault::os(cannot))?, 0);
        for end in ends.chain([dir.len()]) {
            let (path, name) = (&dir[..end], tree::os(&dir[start..end]));
            let next = match self.open(path) {
                Err(Errno::NOENT) => {
                    rfs::mkdirat(&above, name, Mode::RWXU).map_err(|errno| match errno {
                        Errno::EXIST => Fault::DanglingParent(std::ffi::OsString::from_vec(path.to_vec())),
                        errno => Fault::os(cannot)(errno),
                    })?;
                    let made = tree::open_dir(&above, name).map_err(Fault::os(cannot))?;
                    rfs::fchmod(&made, Mode::from_raw_mode(0o755)).map_err(Fault::os(cannot))?;
                    let stat = rfs::fstat(&made).map_err(Fault::os(cannot))?;
                    let real = self.real(path, &made)?;
                    self.note_times(stat.st_ino, real, times.clone());
                    made
                }
                opened => opened.map_err(blame(path))?,
            };
            (above, start) = (next, end + 1);
        }
        Ok(above)
    }

    /// The path of an open directory below the root, without links.
    fn real(&self, named: &[u8], fd: &OwnedFd) -> Result<Vec<u8>, Fault> {
        // Most paths have no link in them, and then the name is the path.
        if named.is_empty() || tree::open_plain(&self.root, named, OFlags::PATH | OFlags::DIRECTORY).is_ok() {
            return Ok(named.to_vec());
        }
        let path = real_path(fd)?;
        let below = path.strip_prefix(self.real_root.as_slice()).unwrap_or_default();
        Ok(below.strip_prefix(b"/").unwrap_or(below).to_vec())
    }
}

/// The path of an open directory, as the kernel knows it (proc(5), /proc/pid/fd).
fn real_path(fd: &OwnedFd) -> Result<Vec<u8>, Fault> {
    let link = format!("/proc/self/fd/{}", fd.as_raw_fd());
    let path = rfs::readlink(link, Vec::new()).map_err(Fault::os("cannot find out its path in /proc"))?;
    Ok(path.into_bytes())
}

/// What is wrong with a parent that cannot be opened.
pub(super) fn blame(dir: &[u8]) -> impl FnOnce(Errno) -> Fault {
    let dir = std::ffi::OsString::from_vec(dir.to_vec());
    move |errno| match errno {
        Errno::NOTDIR => Fault::FileParent(dir),
        Errno::LOOP => Fault::LoopParent(dir),
        errno => Fault::os("cannot open its parent")(errno),
    }
}
