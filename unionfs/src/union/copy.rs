//! A copy of one object, complete and durable, before anybody sees it: content, owner, mode, attributes, times, and the
//! record of its origin.

use std::os::fd::OwnedFd;

use rustix::fs::{
    FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
    copy_file_range, fstat, ftruncate, ioctl_ficlone, mknodat, seek, symlinkat,
};

use super::stat::saturate;
use super::{Union, xattr};
use crate::error::{At, Errno, Result};
use crate::inode::{Located, Node};
use crate::place::Place;
use crate::types::{BranchIndex, FileKind};
use crate::work::{Temp, times_of};

/// All of a file's content still matters.
pub(super) const ALL_DATA: u64 = u64::MAX;
/// One step of a copy through memory.
const CHUNK: usize = 128 * 1024;

/// An object to be copied: its branch, its place, what it is meant to be.
type Origin<'a> = (BranchIndex, &'a Place, &'a Stat);

impl Union {
    /// Makes a complete and durable copy of an object, under a temporary name of another branch.
    pub(super) fn copy_object(
        &self,
        node: &Node,
        (from, source): (BranchIndex, &Place),
        data: Option<&Located>,
        to: BranchIndex,
        size: u64,
    ) -> Result<(Temp<'_>, Shown)> {
        let stat = source.stat().during("statx")?;
        let meant = self.meant(from, source, stat);
        let temp = self.must_work(to)?.temp();
        let form = self.disk_form(to, FileKind::from_mode(meant.st_mode));
        make_object(source, form, meant.st_rdev, &temp).at("copy-up", to)?;
        if node.kind == FileKind::Regular && size > 0 {
            let content = match data {
                Some(data) => self.open_located(data)?,
                None => source.open(OFlags::RDONLY).during("open")?,
            };
            let target = temp.place().open(OFlags::WRONLY).at("open", to)?;
            copy_data(&content, &target, size).at("copy-up", to)?;
        }
        self.copy_metadata((from, source, &meant), (to, &temp.place())).at("copy-up", to)?;
        if size != ALL_DATA {
            temp.place().utimens(&CHANGED_NOW).at("utimensat", to)?;
        }
        let real = temp.place().stat().at("statx", to)?.st_ino;
        self.record_origin(to, &temp.place(), node.ino, real).at("setxattr", to)?;
        if !self.options.volatile && stat.st_size > 0 && node.kind == FileKind::Regular {
            let file = temp.place().open(OFlags::RDONLY).at("open", to)?;
            self.must_work(to)?.settle(&file).at("fsync", to)?;
        }
        Ok((temp, Shown { real, links: saturate(stat.st_nlink) }))
    }

    /// Gives a copy its origin's owner, mode, extended attributes and times, in the order in which none undoes
    /// another.
    pub(super) fn copy_metadata(
        &self,
        origin: Origin<'_>,
        (to, copy): (BranchIndex, &Place),
    ) -> Result<(), Errno> {
        let (from, source, meant) = origin;
        self.copy_owner(to, meant, copy)?;
        self.copy_xattrs((from, source), (to, copy))?;
        copy.utimens(&times_of(meant))
    }

    fn copy_xattrs(
        &self,
        (from, source): (BranchIndex, &Place),
        (to, copy): (BranchIndex, &Place),
    ) -> Result<(), Errno> {
        let names = match source.list_xattrs() {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            names => names?,
        };
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && !xattr::is_private(name))
        {
            let shown = self.xattr_shown(from, name);
            let Some(Ok(target)) = shown.map(|shown| self.xattr_on_disk(to, shown.to_vec())) else {
                continue;
            };
            let value = match source.read_xattr(name) {
                Err(Errno::NODATA) => continue,
                value => value?,
            };
            match copy.setxattr(&target, &value, XattrFlags::empty()) {
                // A branch that cannot store an attribute must not make its files unchangeable.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// What is known of a finished copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) real: u64,
    /// How many names its origin has.
    pub(super) links: u32,
}

/// Makes an object that is no directory under a temporary name, a file empty yet.
fn make_object(source: &Place, form: FileType, device: u64, temp: &Temp<'_>) -> Result<(), Errno> {
    let (name, mode) = (temp.name.as_slice(), Mode::RUSR | Mode::WUSR);
    match form {
        FileType::Symlink => symlinkat(source.readlink()?, temp.dir(), name),
        FileType::RegularFile => mknodat(temp.dir(), name, form, mode, 0),
        form => mknodat(temp.dir(), name, form, mode, device),
    }
}

/// The times of a file whose content changes now.
const CHANGED_NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};

/// Copies content, `want` bytes of it or all: shared blocks if the filesystem can, else range by range with the holes
/// kept.
fn copy_data(source: &OwnedFd, target: &OwnedFd, want: u64) -> Result<(), Errno> {
    let size = u64::try_from(fstat(source)?.st_size).unwrap_or_default();
    let new_size = if want == ALL_DATA { size } else { want };
    if want >= size && size > 0 && ioctl_ficlone(target, source).is_ok() {
        return if new_size == size { Ok(()) } else { ftruncate(target, new_size) };
    }
    let end = size.min(new_size);
    let mut at = 0;
    while at < end {
        let data = match seek(source, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            Ok(_) | Err(Errno::NXIO) => break,
            // A filesystem that does not know holes has none.
            Err(_) => at,
        };
        let hole = seek(source, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        copy_range(source, target, data, hole)?;
        at = hole;
    }
    ftruncate(target, new_size)
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (from, from);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), left) {
            // The file became shorter under our hands.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                return copy_through_memory(source, target, read_at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_through_memory(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> Result<(), Errno> {
    let mut buf = vec![0; CHUNK];
    let mut at = from;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let got = rustix::io::pread(source, &mut buf[..want], at)?;
        if got == 0 {
            break;
        }
        let mut done = 0;
        while done < got {
            done += rustix::io::pwrite(target, &buf[done..got], at + done as u64)?;
        }
        at += got as u64;
    }
    Ok(())
}
