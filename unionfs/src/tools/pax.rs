//! The archive format of a layer: ustar headers, and pax records for what those cannot hold (POSIX.1-2017, pax).
//!
//! The same objects give the same bytes: no time of writing, no names of users, records in the order of their keys.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use tar::{Builder, EntryType, Header};

use crate::types::{Attr, FileKind, Time};

/// Longest name and link target of a ustar header in bytes.
const SHORT: usize = 100;
/// Largest value of seven octal digits: `uid`, `gid` and device numbers.
const SEVEN: u64 = 0o777_7777;
/// Largest value of eleven octal digits: `size` and `mtime`.
const ELEVEN: u64 = 0o777_7777_7777;

/// A layer that is being written.
pub(super) struct Archive<W: Write> {
    out: Builder<W>,
}

/// An entry's header and records.
#[derive(Debug)]
pub(super) struct Item {
    header: Header,
    records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Item {
    /// An entry without content for an object; a directory's name is to end in a slash.
    pub(super) fn new(name: &[u8], attr: &Attr) -> Self {
        let mut item = Self { header: Header::new_ustar(), records: BTreeMap::new() };
        item.name(name);
        item.header.set_mode(attr.mode & 0o7777);
        item.header.set_entry_type(match attr.kind() {
            FileKind::Directory => EntryType::Directory,
            FileKind::Symlink => EntryType::Symlink,
            FileKind::Fifo => EntryType::Fifo,
            FileKind::CharDevice => EntryType::Char,
            FileKind::BlockDevice => EntryType::Block,
            FileKind::Regular | FileKind::Socket => EntryType::Regular,
        });
        let uid = item.number("uid", attr.uid.into(), SEVEN);
        let gid = item.number("gid", attr.gid.into(), SEVEN);
        item.header.set_uid(uid);
        item.header.set_gid(gid);
        item.time(attr.mtime);
        item.header.set_size(0);
        item
    }

    /// An empty file that marks something: root's, of no time.
    pub(super) fn mark(name: &[u8]) -> Self {
        let none = Time::default();
        let attr = Attr {
            ino: 0,
            mode: libc::S_IFREG | 0o444,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 0,
            blocks: 0,
            blksize: 0,
            atime: none,
            mtime: none,
            ctime: none,
        };
        Self::new(name, &attr)
    }

    fn name(&mut self, name: &[u8]) {
        if name.len() > SHORT {
            self.records.insert(b"path".to_vec(), name.to_vec());
        }
        let short = &name[..name.len().min(SHORT)];
        self.header.as_old_mut().name[..short.len()].copy_from_slice(short);
    }

    /// The value for the header; one that does not fit goes into a record.
    fn number(&mut self, key: &str, value: u64, most: u64) -> u64 {
        if value <= most {
            return value;
        }
        self.records.insert(key.as_bytes().to_vec(), value.to_string().into_bytes());
        0
    }

    fn time(&mut self, time: Time) {
        let whole = u64::try_from(time.sec).ok().filter(|&sec| sec <= ELEVEN);
        self.header.set_mtime(whole.unwrap_or_default());
        if whole.is_none() || time.nsec != 0 {
            self.records.insert(b"mtime".to_vec(), decimal(time).into_bytes());
        }
    }

    /// Where a symbolic link leads, or the entry that a hard link is another name of.
    pub(super) fn target(&mut self, target: &[u8]) {
        if target.len() > SHORT {
            self.records.insert(b"linkpath".to_vec(), target.to_vec());
        }
        let short = &target[..target.len().min(SHORT)];
        self.header.as_old_mut().linkname[..short.len()].copy_from_slice(short);
    }

    /// The entry is another name of an earlier one.
    pub(super) fn hard_link(&mut self, target: &[u8]) {
        self.header.set_entry_type(EntryType::Link);
        self.target(target);
    }

    /// An extended attribute, as GNU tar, libarchive and the container tools write it.
    pub(super) fn xattr(&mut self, name: &[u8], value: Vec<u8>) {
        self.records.insert([b"SCHILY.xattr.", name].concat(), value);
    }

    /// The number of a device.
    pub(super) fn device(&mut self, device: u64) -> io::Result<()> {
        self.header.set_device_major(rustix::fs::major(device))?;
        self.header.set_device_minor(rustix::fs::minor(device))
    }
}

/// A time as pax writes it: a decimal number of seconds, which is negative before 1970.
fn decimal(time: Time) -> String {
    let whole = i128::from(time.sec) * 1_000_000_000 + i128::from(time.nsec);
    let (sign, whole) = if whole < 0 { ("-", -whole) } else { ("", whole) };
    let text = format!("{sign}{}.{:09}", whole / 1_000_000_000, whole % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

impl<W: Write> Archive<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out: Builder::new(out) }
    }

    /// Writes an entry without content.
    pub(super) fn add(&mut self, item: Item) -> io::Result<()> {
        self.write(item, io::empty())
    }

    /// Writes an entry with `size` bytes of content, which `content` must give.
    pub(super) fn add_file(&mut self, mut item: Item, size: u64, content: impl Read) -> io::Result<()> {
        let shown = item.number("size", size, ELEVEN);
        item.header.set_size(shown);
        let mut content = Counted { content: content.take(size), given: 0 };
        self.write(item, &mut content)?;
        if content.given == size {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"))
    }

    fn write(&mut self, mut item: Item, content: impl Read) -> io::Result<()> {
        let records: Vec<u8> = item.records.iter().flat_map(|(key, value)| record(key, value)).collect();
        if !records.is_empty() {
            let mut header = Header::new_ustar();
            header.as_old_mut().name[..14].copy_from_slice(b"PaxHeaders/pax");
            header.set_mode(0o644);
            header.set_entry_type(EntryType::XHeader);
            header.set_size(records.len() as u64);
            header.set_cksum();
            self.out.append(&header, records.as_slice())?;
        }
        item.header.set_cksum();
        self.out.append(&item.header, content)
    }

    /// Ends the archive.
    pub(super) fn finish(self) -> io::Result<W> {
        self.out.into_inner()
    }
}

/// A record is its own length, a key and a value: `30 mtime=1350244992.023960108\n`.
fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    [len.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Content that is counted.
struct Counted<R> {
    content: R,
    given: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.content.read(buf)?;
        self.given += len as u64;
        Ok(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        for (key, value, want) in [
            ("mtime", "1350244992.023960108", "30 mtime=1350244992.023960108\n"),
            ("a", "", "5 a=\n"),
            ("a", "1234", "9 a=1234\n"),
            ("a", "12345", "11 a=12345\n"),
        ] {
            assert_eq!(String::from_utf8(record(key.as_bytes(), value.as_bytes())).expect("text"), want);
        }
    }

    #[test]
    fn times_are_decimal_numbers() {
        for (sec, nsec, want) in [
            (1, 500_000_000, "1.5"),
            (0, 0, "0"),
            (10, 0, "10"),
            (-1, 500_000_000, "-0.5"),
            (-2, 1, "-1.999999999"),
            (8_589_934_592, 1, "8589934592.000000001"),
        ] {
            assert_eq!(decimal(Time { sec, nsec }), want, "{sec} {nsec}");
        }
    }
}
