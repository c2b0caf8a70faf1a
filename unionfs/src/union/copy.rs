//! A copy of one object, complete and durable, before anybody sees it: content, owner, mode, attributes, times, and the
//! record of its origin.
//!
//! As little data moves as the case allows: none (it is cut off, or stays below: [`super::metacopy`]), shared blocks,
//! or range by range with the holes kept.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
    copy_file_range, fstat, ftruncate, ioctl_ficlone, mknodat, openat, seek, symlinkat,
};

use super::{Union, xattr};
use crate::error::{At, Errno, Result};
use crate::inode::{Data, FileBody, Node, Site};
use crate::place::Place;
use crate::types::{BranchIndex, FileKind, Ino};
use crate::work::{Temp, times_of};

/// How much of an object is to be on a writable branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    /// All but a file's data, which may stay below where the format can say so.
    Metadata,
    /// All of it.
    Whole,
    /// A file with so many bytes of its data, changed now.
    Cut(u64),
}

/// One step of a copy through memory.
const CHUNK: usize = 128 * 1024;

/// An object to be copied: its branch, its place, what it is meant to be.
type Origin<'a> = (BranchIndex, &'a Place, &'a Stat);

/// A copy that has its content, under a temporary name, and lacks the rest.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    temp: Temp<'a>,
    copy: Place,
    to: BranchIndex,
    extent: Extent,
    data: Data,
}

impl Union {
    /// Makes a complete and durable copy of an object, which lies at `source`, under a temporary name of another
    /// branch.
    pub(super) fn copy_object(
        &self,
        node: &Node,
        from: &FileBody,
        source: &Place,
        to: BranchIndex,
        extent: Extent,
    ) -> Result<(Temp<'_>, Shown)> {
        let stat = source.stat().during("statx")?;
        let draft = self.copy_content(node, from, (source, &stat), to, extent)?;
        self.copy_rest(node, (from.branch, source, stat), draft)
    }

    /// Begins a copy with its content.
    pub(super) fn copy_content(
        &self,
        node: &Node,
        from: &FileBody,
        (source, stat): (&Place, &Stat),
        to: BranchIndex,
        extent: Extent,
    ) -> Result<Draft<'_>> {
        let meant = self.meant(from.branch, source, *stat);
        let temp = self.must_work(to)?.temp();
        let form = self.disk_form(to, FileKind::from_mode(meant.st_mode));
        let copy = make_object(source, form, meant.st_rdev, &temp).at("copy-up", to)?;
        let left = match extent {
            Extent::Metadata if node.kind == FileKind::Regular => {
                self.leave_content(node, (from, stat), (to, &copy))?
            }
            _ => None,
        };
        if node.kind == FileKind::Regular && left.is_none() && extent != Extent::Cut(0) {
            let content = self.open_content(source, from)?;
            let target = copy.file().at("copy-up", to)?;
            copy_data(&content, target, extent).at("copy-up", to)?;
        }
        Ok(Draft { temp, copy, to, extent, data: left.unwrap_or_default() })
    }

    /// Completes a copy with all but its content; nobody may change the origin's metadata meanwhile.
    pub(super) fn copy_rest<'a>(
        &self,
        node: &Node,
        (from, source, stat): (BranchIndex, &Place, Stat),
        draft: Draft<'a>,
    ) -> Result<(Temp<'a>, Shown)> {
        let Draft { temp, copy, to, extent, data } = draft;
        let meant = self.meant(from, source, stat);
        self.copy_metadata((from, source, &meant), (to, &copy)).at("copy-up", to)?;
        if matches!(extent, Extent::Cut(_)) {
            copy.utimens(&CHANGED_NOW).at("utimensat", to)?;
        }
        let real = copy.stat().at("statx", to)?.st_ino;
        let links = self.inode_links(node.ino, from, &stat);
        self.record_origin(to, &copy, node.ino, real, links > 1).at("setxattr", to)?;
        if !self.options.volatile && data.is_own() && stat.st_size > 0 && node.kind == FileKind::Regular {
            self.must_work(to)?.settle(copy.file().at("fsync", to)?).at("fsync", to)?;
        }
        let key = self.links_key(node.ino, from, &stat);
        let file = match copy {
            Place::File(file)
                if node.kind == FileKind::Regular && data.is_own() && extent != Extent::Metadata =>
            {
                Some(file)
            }
            _ => None,
        };
        Ok((temp, Shown { real, links, key, data, file }))
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
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) real: u64,
    /// How many names its origin's inode has in its branch, whether they show or not.
    pub(super) links: u32,
    /// What its origin is counted by.
    pub(super) key: Option<Ino>,
    pub(super) data: Data,
    /// The copy of a file whose data is to be changed, open for it.
    pub(super) file: Option<Arc<OwnedFd>>,
}

impl Shown {
    /// Whether names of the file must lead to its copy other than the one that the copy is given.
    pub(super) fn needs_index(&self, file: &FileBody) -> bool {
        match &file.site {
            Site::Linked => self.links > 1,
            Site::Indexed => true,
            Site::Pinned(_) => !file.nameless && self.links > 0,
        }
    }
}

/// Makes an object that is no directory under a temporary name; a file is empty yet, and open.
fn make_object(source: &Place, form: FileType, device: u64, temp: &Temp<'_>) -> Result<Place, Errno> {
    let (name, mode) = (temp.name.as_slice(), Mode::RUSR | Mode::WUSR);
    match form {
        FileType::RegularFile => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            return openat(temp.dir(), name, flags, mode).map(|file| Place::File(Arc::new(file)));
        }
        FileType::Symlink => symlinkat(source.readlink()?, temp.dir(), name)?,
        form => mknodat(temp.dir(), name, form, mode, device)?,
    }
    Ok(temp.place())
}

/// The times of a file whose content changes now.
const CHANGED_NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};

/// Copies content: shared blocks if the filesystem can, else range by range with the holes kept.
fn copy_data(source: &OwnedFd, target: &OwnedFd, extent: Extent) -> Result<(), Errno> {
    let size = u64::try_from(fstat(source)?.st_size).unwrap_or_default();
    let new_size = if let Extent::Cut(size) = extent { size } else { size };
    if new_size >= size && size > 0 && ioctl_ficlone(target, source).is_ok() {
        return if new_size == size { Ok(()) } else { ftruncate(target, new_size) };
    }
    let end = size.min(new_size);
    let (mut at, mut written) = (0, 0);
    while at < end {
        let data = match seek(source, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            Ok(_) | Err(Errno::NXIO) => break,
            // A filesystem that does not know holes has none.
            Err(_) => at,
        };
        let hole = seek(source, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        written = copy_range(source, target, data, hole)?;
        at = hole;
    }
    if written == new_size { Ok(()) } else { ftruncate(target, new_size) }
}

/// Copies the bytes of a range, and returns where it came to: its end, unless the file became shorter meanwhile.
fn copy_range(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> Result<u64, Errno> {
    let (mut read_at, mut write_at) = (from, from);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), left) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                return copy_through_memory(source, target, read_at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(write_at)
}

fn copy_through_memory(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> Result<u64, Errno> {
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
    Ok(at)
}
