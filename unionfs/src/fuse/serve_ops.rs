//! The operations of [`Service`] that need more than one line.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use super::api::Core;
use super::op::Open;
use super::opens::{Opens, WALK_AGAIN};
use super::reply::{Opened, Reply, Timeout};
use super::serve::{Service, nothing};
use super::wire::flag;
use crate::error::{Errno, Error, Result};
use crate::types::{Entry, FsXattr, Ino, Name, NewNode, Seek, SetAttr};

/// `FS_IOC_GETFLAGS` of a 64-bit kernel, which the kernel sends whatever the caller is (`fs/fuse/ioctl.c`).
const FS_IOC_GETFLAGS: u32 = 0x8008_6601;
/// `FS_IOC_SETFLAGS`, likewise.
const FS_IOC_SETFLAGS: u32 = 0x4008_6602;

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`. The kernel also sends the first of them before it sets flags
/// (`vfs_fileattr_set` in `fs/file_attr.c`).
const FS_IOC_FSGETXATTR: u32 = 0x801c_581f;
const FS_IOC_FSSETXATTR: u32 = 0x401c_5820;

impl<C: Core> Service<C> {
    pub(super) fn lookup(&self, dir: Ino, name: Name<'_>, out: Reply<'_>) -> Result<usize> {
        match self.core.lookup(dir, name)? {
            Some(entry) => self.entry(entry, out),
            None => out.absent(self.policy.name_for),
        }
    }

    pub(super) fn entry(&self, entry: Entry, out: Reply<'_>) -> Result<usize> {
        let (entry, attr_for) = self.told(entry);
        out.entry(&entry, self.policy.name_for, attr_for)
    }

    /// An entry as the kernel is told of it: with the number that it knows the file by, and how long the attributes
    /// are valid.
    fn told(&self, entry: Entry) -> (Entry, Timeout) {
        let file = entry.node;
        (self.numbered(entry), self.attr_for(file))
    }

    fn numbered(&self, entry: Entry) -> Entry {
        let number = self.opens.as_ref().map_or(entry.node, |opens| opens.aliases().tell(entry.node));
        Entry { node: number, ..entry }
    }

    /// Takes references back that the kernel had by a number.
    pub(super) fn forget(&self, number: Ino, count: u64) {
        let file = self.opens.as_ref().map_or(number, |opens| opens.aliases().forget(number, count));
        self.core.forget(file, count);
    }

    /// How long a file's attributes are valid.
    pub(super) fn attr_for(&self, file: Ino) -> Timeout {
        let unsure = |opens: &Opens| opens.aliases().has(file) || opens.changes_by_itself(file);
        if self.opens.as_ref().is_some_and(unsure) { Timeout::NONE } else { self.policy.attr_for }
    }

    /// Opens a node; if OPEN is refused for good, this is CREATE or TMPFILE, and no RELEASE will come.
    pub(super) fn open(&self, node: Ino, open: Open) -> Result<Opened> {
        match &self.opens {
            Some(opens) => opens.open(&*self.core, node, open),
            None => Ok(Opened { flags: flag::FOPEN_KEEP_CACHE | flag::FOPEN_NOFLUSH, ..Opened::default() }),
        }
    }

    pub(super) fn release(&self, node: Ino, handle: u64) -> usize {
        if let Some(opens) = &self.opens {
            opens.release(node, handle);
        }
        0
    }

    pub(super) fn created(&self, entry: Entry, open: Open, out: Reply<'_>) -> Result<usize> {
        let file = entry.node;
        let entry = self.numbered(entry);
        let opened = self.open(entry.node, open.of_new()).inspect_err(|_| self.forget(entry.node, 1))?;
        // Only now: who may map it makes them change by themselves.
        out.created(&entry, opened, self.policy.name_for, self.attr_for(file))
    }

    /// Creates and opens a file that the kernel believes absent.
    ///
    /// If it exists all the same and the caller did not ask for `O_EXCL`, the answer is `ESTALE`: the kernel walks
    /// the path once more without trusting its names (`do_filp_open`), finds the object and opens it as what it is.
    pub(super) fn create(
        &self,
        dir: Ino,
        name: Name<'_>,
        new: &NewNode,
        open: Open,
        out: Reply<'_>,
    ) -> Result<usize> {
        let entry = self.core.create(dir, name, new).map_err(|refused| {
            let retry = refused.errno == Errno::EXIST && !open.exclusive();
            if retry { WALK_AGAIN } else { refused }
        })?;
        self.created(entry, open, out)
    }

    pub(super) fn readdir(
        &self,
        dir: Ino,
        after: u64,
        size: u32,
        plus: bool,
        out: Reply<'_>,
    ) -> Result<usize> {
        let mut listing = out.listing(size, plus);
        self.core.read_dir(dir, after, !plus, &mut |entry| listing.push(&entry))?;
        listing.describe(self.policy.name_for, |name| {
            // A name that went or cannot be looked up just now is listed without attributes.
            let entry = self.core.lookup(dir, Name::from_bytes(name).ok()?).ok()??;
            Some(self.told(entry))
        });
        Ok(listing.len())
    }

    /// Sets an attribute. The mode that an access ACL implies is the branch's business, but only the kernel knows
    /// whether the caller may keep the set-group-ID bit, so `kill_sgid` takes it away afterwards.
    pub(super) fn setxattr(
        &self,
        node: Ino,
        name: &OsStr,
        value: &[u8],
        flags: u32,
        kill_sgid: bool,
    ) -> Result<usize> {
        self.core.setxattr(node, name, value, flags)?;
        if kill_sgid {
            let mode = self.core.getattr(node)?.mode;
            if mode & libc::S_ISGID != 0 {
                let mode = Some(mode & 0o7777 & !libc::S_ISGID);
                self.core.setattr(node, &SetAttr { mode, ..SetAttr::default() })?;
            }
        }
        Ok(0)
    }

    /// The file that the kernel means by a number, and the one that is open by it if that is another.
    fn read_by(&self, number: Ino) -> Result<(Ino, Option<Arc<OwnedFd>>)> {
        match &self.opens {
            Some(opens) => Ok((opens.aliases().file(number), opens.kept(&*self.core, number)?)),
            None => Ok((number, None)),
        }
    }

    /// Finds data or a hole of what is read by a number.
    pub(super) fn lseek(&self, number: Ino, offset: u64, whence: Seek) -> Result<u64> {
        match self.read_by(number)? {
            (file, None) => self.core.lseek(file, offset, whence),
            (_, Some(kept)) => crate::union::seek_in(&kept, offset, whence),
        }
    }

    /// Copies between two files. The older message counts what was copied in 32 bits, so it copies less at a time. What
    /// is read by a number that keeps an old file, the kernel reads itself (`EXDEV`; `fuse_copy_file_range`).
    pub(super) fn copy_file_range(
        &self,
        (from, from_offset): (Ino, u64),
        (to, to_offset): (Ino, u64),
        len: u64,
        wide: bool,
        out: Reply<'_>,
    ) -> Result<usize> {
        const NARROW_MAX: u64 = 0xffff_f000;
        let len = if wide { len } else { len.min(NARROW_MAX) };
        let (from, None) = self.read_by(from)? else {
            return Err(Error::rule("copy_file_range", Errno::XDEV));
        };
        let copied = self.core.copy_file_range(from, from_offset, to, to_offset, len)?;
        if wide { out.copied(copied) } else { out.written(copied) }
    }

    /// The inode flags of chattr(1); any other command is not one of this filesystem.
    pub(super) fn ioctl(
        &self,
        node: Ino,
        cmd: u32,
        data: &[u8],
        out_size: u32,
        out: Reply<'_>,
    ) -> Result<usize> {
        const SHORT: Error = Error::rule("ioctl size", Errno::INVAL);
        match cmd {
            FS_IOC_GETFLAGS if out_size < 4 => Err(SHORT),
            FS_IOC_GETFLAGS => out.ioctl(&self.core.inode_flags(node)?.to_ne_bytes()),
            FS_IOC_SETFLAGS => {
                let flags = data.first_chunk().ok_or(SHORT)?;
                self.core.set_inode_flags(node, u32::from_ne_bytes(*flags)).map(nothing)?;
                out.ioctl(&[])
            }
            FS_IOC_FSGETXATTR if (out_size as usize) < size_of::<FsXattr>() => Err(SHORT),
            FS_IOC_FSGETXATTR => out.ioctl(&self.core.inode_attributes(node)?),
            FS_IOC_FSSETXATTR => {
                let attr = data.first_chunk().ok_or(SHORT)?;
                self.core.set_inode_attributes(node, attr).map(nothing)?;
                out.ioctl(&[])
            }
            _ => Err(Error::rule("ioctl", Errno::NOTTY)),
        }
    }
}
