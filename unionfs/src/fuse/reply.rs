//! Replies written: values of the core into a buffer that the transport owns and uses again.
//!
//! A [`Reply`] is the room for what follows the head of a reply. Each way to fill it returns how many bytes it
//! took; the head is the transport's business, because a ring entry keeps it elsewhere. Nothing here allocates.

use std::time::Duration;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::wire::{self, Dirent, EntryOut, WireAttr, record_size};
use crate::error::{Errno, Error, Result};
use crate::types::{Attr, DirEntry, Entry, StatFs};

/// How long the kernel may believe an entry or attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Timeout {
    sec: u64,
    nsec: u32,
}

impl Timeout {
    /// For what only this server changes: 2^30 seconds, 34 years; the kernel counts in jiffies of a `u64`.
    pub(crate) const FOREVER: Self = Self { sec: 1 << 30, nsec: 0 };
    /// For what may change at any time.
    pub(crate) const NONE: Self = Self { sec: 0, nsec: 0 };
}

impl From<Duration> for Timeout {
    fn from(time: Duration) -> Self {
        Self { sec: time.as_secs().min(Self::FOREVER.sec), nsec: time.subsec_nanos() }
    }
}

/// How an opened file is to be treated (`struct fuse_open_out`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) handle: u64,
    /// `FOPEN_*`.
    pub(crate) flags: u32,
    /// What reads and writes go to, with `FOPEN_PASSTHROUGH`.
    pub(crate) backing_id: i32,
}

/// The room for a reply's payload.
#[derive(Debug)]
pub(crate) struct Reply<'b> {
    room: &'b mut [u8],
}

/// The reply needs more room than the kernel can have offered.
const NO_ROOM: Error = Error::rule("reply", Errno::IO);

impl<'b> Reply<'b> {
    /// A reply into `room`.
    pub(crate) fn into(room: &'b mut [u8]) -> Self {
        Self { room }
    }

    /// The first `size` bytes of room, or all there is.
    pub(crate) fn room(self, size: u32) -> &'b mut [u8] {
        let size = usize::try_from(size).unwrap_or(usize::MAX).min(self.room.len());
        &mut self.room[..size]
    }

    fn put<T: IntoBytes + Immutable>(self, value: &T) -> Result<usize> {
        value.write_to_prefix(self.room).map_err(|_| NO_ROOM)?;
        Ok(size_of::<T>())
    }

    /// Bytes as they are.
    pub(crate) fn bytes(self, bytes: &[u8]) -> Result<usize> {
        self.room.get_mut(..bytes.len()).ok_or(NO_ROOM)?.copy_from_slice(bytes);
        Ok(bytes.len())
    }

    /// A name that exists.
    pub(crate) fn entry(self, entry: &Entry, name_for: Timeout, attr_for: Timeout) -> Result<usize> {
        self.put(&entry_out(entry, name_for, attr_for))
    }

    /// A name that does not exist, which the kernel remembers like one that does.
    pub(crate) fn absent(self, name_for: Timeout) -> Result<usize> {
        self.put(&EntryOut {
            entry_valid: name_for.sec,
            entry_valid_nsec: name_for.nsec,
            ..EntryOut::default()
        })
    }

    /// A new name and its opened file (CREATE, TMPFILE).
    pub(crate) fn created(
        self,
        entry: &Entry,
        opened: Opened,
        name_for: Timeout,
        attr_for: Timeout,
    ) -> Result<usize> {
        let (head, tail) = self.room.split_at_mut_checked(size_of::<EntryOut>()).ok_or(NO_ROOM)?;
        let head = Reply::into(head).entry(entry, name_for, attr_for)?;
        Ok(head + Reply::into(tail).opened(opened)?)
    }

    /// An opened file.
    pub(crate) fn opened(self, opened: Opened) -> Result<usize> {
        let Opened { handle, flags, backing_id } = opened;
        self.put(&wire::OpenOut { fh: handle, open_flags: flags, backing_id })
    }

    /// Attributes.
    pub(crate) fn attr(self, attr: &Attr, attr_for: Timeout) -> Result<usize> {
        self.put(&wire::AttrOut {
            attr_valid: attr_for.sec,
            attr_valid_nsec: attr_for.nsec,
            dummy: 0,
            attr: wire_attr(attr),
        })
    }

    /// How many bytes were written; the protocol counts them in 32 bits.
    pub(crate) fn written(self, bytes: usize) -> Result<usize> {
        self.put(&wire::WriteOut { size: u32::try_from(bytes).map_err(|_| NO_ROOM)?, padding: 0 })
    }

    /// How many bytes were copied (COPY_FILE_RANGE_64).
    pub(crate) fn copied(self, bytes: usize) -> Result<usize> {
        self.put(&wire::CopyFileRangeOut { bytes_copied: bytes as u64 })
    }

    /// An offset.
    pub(crate) fn offset(self, offset: u64) -> Result<usize> {
        self.put(&wire::LseekOut { offset })
    }

    /// An extended attribute or the list of them: its size if `asked` is 0, else its bytes (getxattr(2)).
    ///
    /// # Errors
    ///
    /// `ERANGE` if it is larger than was asked for.
    pub(crate) fn xattr(self, value: &[u8], asked: u32) -> Result<usize> {
        let size = u32::try_from(value.len()).map_err(|_| NO_ROOM)?;
        match asked {
            0 => self.put(&wire::GetxattrOut { size, padding: 0 }),
            asked if asked < size => Err(Error::rule("xattr size", Errno::RANGE)),
            _ => self.bytes(value),
        }
    }

    /// What an ioctl(2) returned with success.
    pub(crate) fn ioctl(self, data: &[u8]) -> Result<usize> {
        let head = size_of::<wire::IoctlOut>();
        let (front, back) = self.room.split_at_mut_checked(head).ok_or(NO_ROOM)?;
        Reply::into(front).put(&wire::IoctlOut::default())?;
        Ok(head + Reply::into(back).bytes(data)?)
    }

    /// What statfs(2) tells.
    pub(crate) fn statfs(self, stat: &StatFs) -> Result<usize> {
        self.put(&wire::StatfsOut {
            blocks: stat.blocks,
            bfree: stat.bfree,
            bavail: stat.bavail,
            files: stat.files,
            ffree: stat.ffree,
            bsize: stat.bsize,
            namelen: stat.namelen,
            frsize: stat.frsize,
            ..wire::StatfsOut::default()
        })
    }

    /// A listing of at most `size` bytes.
    pub(crate) fn listing(self, size: u32, plus: bool) -> Listing<'b> {
        Listing { room: self.room(size), used: 0, plus }
    }
}

fn entry_out(entry: &Entry, name_for: Timeout, attr_for: Timeout) -> EntryOut {
    EntryOut {
        nodeid: entry.node.get(),
        generation: 0, // an identity is not used again while the kernel knows it
        entry_valid: name_for.sec,
        attr_valid: attr_for.sec,
        entry_valid_nsec: name_for.nsec,
        attr_valid_nsec: attr_for.nsec,
        attr: wire_attr(&entry.attr),
    }
}

fn wire_attr(attr: &Attr) -> WireAttr {
    WireAttr {
        ino: attr.ino,
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.sec.cast_unsigned(),
        mtime: attr.mtime.sec.cast_unsigned(),
        ctime: attr.ctime.sec.cast_unsigned(),
        atimensec: attr.atime.nsec,
        mtimensec: attr.mtime.nsec,
        ctimensec: attr.ctime.nsec,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

/// The records of a READDIR or READDIRPLUS being written.
///
/// Records of the latter begin with an [`EntryOut`] that stays zero ("no attributes given") until
/// [`Listing::describe`] fills it. So names are taken first and looked up afterwards: no lookup happens inside the
/// core's listing, and none is made for a name that did not fit, so none has to be taken back.
#[derive(Debug)]
pub(crate) struct Listing<'b> {
    room: &'b mut [u8],
    used: usize,
    plus: bool,
}

impl Listing<'_> {
    const fn head(&self) -> usize {
        if self.plus { size_of::<EntryOut>() } else { 0 }
    }

    /// Adds one name; false if it does not fit any more.
    pub(crate) fn push(&mut self, entry: &DirEntry<'_>) -> bool {
        let name = entry.name.as_encoded_bytes();
        let fixed = self.head() + size_of::<Dirent>();
        let size = record_size(fixed + name.len());
        let Some(record) = self.room.get_mut(self.used..self.used + size) else {
            return false;
        };
        let Ok(namelen) = u32::try_from(name.len()) else {
            return false;
        };
        let dirent = Dirent { ino: entry.ino, off: entry.next, namelen, kind: entry.kind.d_type() };
        record.fill(0);
        let at = fixed - size_of::<Dirent>();
        record[at..fixed].copy_from_slice(dirent.as_bytes());
        record[fixed..fixed + name.len()].copy_from_slice(name);
        self.used += size;
        true
    }

    /// Asks `lookup` for each name of a READDIRPLUS but `.` and `..`, and adds what it finds.
    ///
    /// The kernel counts one reference for each record with a node, except for `.` and `..`
    /// (`fuse_direntplus_link` in `readdir.c`).
    pub(crate) fn describe(
        &mut self,
        name_for: Timeout,
        mut lookup: impl FnMut(&[u8]) -> Option<(Entry, Timeout)>,
    ) {
        let mut at = 0;
        while self.plus && at < self.used {
            let (entry, dirent) = self.room[at..self.used].split_at_mut(size_of::<EntryOut>());
            let Ok((Dirent { namelen, .. }, names)) = Dirent::read_from_prefix(&*dirent) else {
                return;
            };
            let namelen = namelen as usize;
            let name = &names[..namelen];
            if name != b"."
                && name != b".."
                && let Some((found, attr_for)) = lookup(name)
            {
                entry.copy_from_slice(entry_out(&found, name_for, attr_for).as_bytes());
                // The first field of the record that follows is `d_ino`.
                dirent[..size_of::<u64>()].copy_from_slice(&found.attr.ino.to_ne_bytes());
                // And the last one before the name is `d_type`.
                let kind = size_of::<Dirent>() - size_of::<u32>()..size_of::<Dirent>();
                dirent[kind].copy_from_slice(&found.attr.kind().d_type().to_ne_bytes());
            }
            at += record_size(size_of::<EntryOut>() + size_of::<Dirent>() + namelen);
        }
    }

    /// How many bytes the records take.
    pub(crate) const fn len(&self) -> usize {
        self.used
    }
}
