//! A directory of the host as a thing under test: a plain one, or a mount.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, Uid, XattrFlags};
use unionfs::{Errno, RenameFlags};

use super::layer::try_set_mtime;
use super::ops::{Action, Slot, Subject};
use super::tree::{Tree, read_tree};

/// The tree under a path, changed by system calls.
pub(crate) struct Dir {
    root: PathBuf,
    open: BTreeMap<Slot, File>,
    remount: Box<dyn FnMut()>,
}

impl Dir {
    /// The tree under `root`; `remount` is called for [`Action::Remount`], with no file open.
    pub(crate) fn new(root: &Path, remount: impl FnMut() + 'static) -> Self {
        // The model's modes are exact, and so the same whatever umask the tests were started with.
        rustix::process::umask(Mode::empty());
        Self { root: root.into(), open: BTreeMap::new(), remount: Box::new(remount) }
    }

    /// Closes the files that are held open.
    pub(crate) fn close(&mut self) {
        self.open.clear();
    }

    fn open_for_writing(&self, path: &Path) -> Result<File, Errno> {
        OpenOptions::new().read(true).write(true).open(self.root.join(path)).map_err(errno)
    }

    fn rename(&self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        let flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        rustix::fs::renameat_with(CWD, self.root.join(from), CWD, self.root.join(to), flags)
    }
}

fn errno(error: io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or_else(|| panic!("no errno in {error}"))
}

impl Subject for Dir {
    fn apply(&mut self, action: &Action) -> Result<(), Errno> {
        let full = |path: &PathBuf| self.root.join(path);
        match action {
            Action::Create(path, mode) => OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(*mode)
                .open(full(path))
                .map(drop)
                .map_err(errno),
            Action::Mkdir(path, mode) => rustix::fs::mkdirat(CWD, full(path), Mode::from_raw_mode(*mode)),
            Action::Fifo(path, mode) => {
                rustix::fs::mknodat(CWD, full(path), FileType::Fifo, Mode::from_raw_mode(*mode), 0)
            }
            Action::Symlink(path, target) => symlink(target, full(path)).map_err(errno),
            Action::Write { path, at, data } => {
                self.open_for_writing(path)?.write_all_at(data, *at as u64).map_err(errno)
            }
            Action::Truncate(path, size) => self.open_for_writing(path)?.set_len(*size as u64).map_err(errno),
            Action::Punch { path, at, len } => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                rustix::fs::fallocate(self.open_for_writing(path)?, how, *at as u64, *len as u64)
            }
            Action::Unlink(path) => rustix::fs::unlinkat(CWD, full(path), AtFlags::empty()),
            Action::Rmdir(path) => rustix::fs::unlinkat(CWD, full(path), AtFlags::REMOVEDIR),
            Action::Link(from, to) => rustix::fs::linkat(CWD, full(from), CWD, full(to), AtFlags::empty()),
            Action::Rename(from, to, flags) => self.rename(from, to, *flags),
            Action::Chmod(path, mode) => {
                fs::set_permissions(full(path), fs::Permissions::from_mode(*mode)).map_err(errno)
            }
            Action::Chown(path, uid, gid) => {
                let (uid, gid) = (Some(Uid::from_raw(*uid)), Some(Gid::from_raw(*gid)));
                rustix::fs::chownat(CWD, full(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            Action::Utimes(path, seconds) => try_set_mtime(&full(path), *seconds),
            Action::SetXattr(path, name, value) => {
                rustix::fs::lsetxattr(full(path), name, value, XattrFlags::empty())
            }
            Action::RemoveXattr(path, name) => rustix::fs::lremovexattr(full(path), name),
            Action::Open(slot, path) => {
                let file = self.open_for_writing(path)?;
                self.open.insert(*slot, file);
                Ok(())
            }
            Action::WriteOpen { slot, at, data } => {
                self.open[slot].write_all_at(data, *at as u64).map_err(errno)
            }
            Action::Remount => {
                self.close();
                (self.remount)();
                Ok(())
            }
        }
    }

    fn tree(&mut self) -> Tree {
        read_tree(&self.root)
    }

    fn open_files(&mut self) -> BTreeMap<Slot, Vec<u8>> {
        self.open.iter().map(|(slot, file)| (*slot, read_all(file))).collect()
    }
}

fn read_all(file: &File) -> Vec<u8> {
    let size = usize::try_from(file.metadata().expect("fstat").len()).expect("small");
    let mut content = vec![0; size];
    file.read_exact_at(&mut content, 0).expect("pread of an open file");
    content
}
