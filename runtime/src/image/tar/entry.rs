//! What the headers before an entry's content say of it, put together.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use super::super::error::{At, Fault};
use super::header::Block;
use super::pax;
use super::sparse::{PaxSparse, Segment};

/// Seconds and nanoseconds since the epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time {
    /// Whole seconds; negative before 1970.
    pub(crate) sec: i64,
    /// Nanoseconds, below 10^9.
    pub(crate) nsec: u32,
}

/// What an entry makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// Another name for an earlier entry.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A directory.
    Directory,
    /// A fifo.
    Fifo,
    /// Nothing: the label of a volume.
    Label,
}

/// One entry, put together from all its headers.
#[derive(Debug)]
pub(crate) struct Entry {
    /// Its name, byte for byte.
    pub(crate) path: Vec<u8>,
    /// The target of a link.
    pub(crate) link: Vec<u8>,
    /// What it makes.
    pub(crate) kind: Kind,
    /// Permission bits, 07777.
    pub(crate) mode: u32,
    /// Owner.
    pub(crate) uid: u64,
    /// Group.
    pub(crate) gid: u64,
    /// Last change of content.
    pub(crate) mtime: Time,
    /// Last access, if it is told.
    pub(crate) atime: Option<Time>,
    /// Major and minor number.
    pub(crate) device: (u64, u64),
    /// Extended attributes.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of a file with its holes, in bytes.
    pub(crate) size: u64,
    /// What of the file is stored.
    pub(crate) segments: Vec<Segment>,
    /// Where its header stands, in bytes from the stream's start.
    pub(crate) at: u64,
}

impl Entry {
    /// Puts a fault beside the entry it is of.
    pub(crate) fn fault(&self, fault: Fault) -> At {
        At { entry: Some(OsString::from_vec(self.path.clone())), offset: self.at, fault }
    }
}

impl From<Fault> for At {
    fn from(fault: Fault) -> Self {
        Self { entry: None, offset: 0, fault }
    }
}

/// What the headers before an entry say of it.
#[derive(Default)]
pub(super) struct Pending {
    /// The PAX records.
    pub(super) pax: Option<Vec<u8>>,
    /// GNU's long name.
    pub(super) name: Option<Vec<u8>>,
    /// GNU's long link target.
    pub(super) link: Option<Vec<u8>>,
}

/// An entry, and what it says of its holes.
pub(super) struct Merged {
    /// The entry, its segments not known yet.
    pub(super) entry: Entry,
    /// The map of holes, or where it is.
    pub(super) sparse: Option<PaxSparse>,
}

/// One entry from its header and what the extended headers before it say.
pub(super) fn merge(block: &Block, pending: &Pending) -> Result<Merged, Fault> {
    let records = pax::records(pending.pax.as_deref().unwrap_or_default())?;
    let last = |key: &str| {
        let mut found = records.iter().rev().filter(|record| record.key == key.as_bytes());
        found.next().map(|record| record.value).filter(|value| !value.is_empty())
    };
    let number = |key: &str, what, plain: Result<u64, Fault>| match last(key) {
        Some(text) => pax::decimal(text).ok_or(Fault::Number(what)),
        None => plain,
    };
    let time = |key: &str, what| last(key).map(|text| pax::time(text).ok_or(Fault::Number(what))).transpose();
    let sparse = PaxSparse::gather(&records)?;
    let sparse_name = sparse.as_ref().and_then(|sparse| sparse.name.clone());
    let long = sparse_name.or_else(|| pending.name.clone()).or_else(|| last("path").map(<[u8]>::to_vec));
    let path = long.unwrap_or_else(|| block.path());
    let link = pending.link.clone().or_else(|| last("linkpath").map(<[u8]>::to_vec));
    let mtime = match time("mtime", "the time of change")? {
        Some(time) => time,
        None => Time { sec: block.mtime()?, nsec: 0 },
    };
    let kind = kind(block.kind(), &path)?;
    let entry = Entry {
        kind,
        link: link.unwrap_or_else(|| block.link()),
        mode: block.mode()?,
        uid: number("uid", "the owner", block.uid())?,
        gid: number("gid", "the group", block.gid())?,
        mtime,
        atime: time("atime", "the time of access")?,
        device: if matches!(kind, Kind::Char | Kind::Block) { block.device()? } else { (0, 0) },
        xattrs: xattrs(&records),
        size: number("size", "the size", block.size())?,
        segments: Vec::new(),
        at: 0,
        path,
    };
    Ok(Merged { entry, sparse })
}

fn kind(flag: u8, path: &[u8]) -> Result<Kind, Fault> {
    Ok(match flag {
        // The oldest tar knew no directories: a slash at the end made one.
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::Char,
        b'4' => Kind::Block,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'V' => Kind::Label,
        other => return Err(Fault::Type(char::from(other))),
    })
}

fn xattrs(records: &[pax::Record<'_>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let named =
        records.iter().filter_map(|record| Some((record.key.strip_prefix(b"SCHILY.xattr.")?, record.value)));
    named.map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
}
