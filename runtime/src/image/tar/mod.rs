//! Reading tar streams: v7, ustar, PAX and GNU, sparse files included.
//!
//! Where the formats leave a choice, it is made as in Go's `archive/tar`, which made most layers there are: entries
//! that can have no content have none whatever their size field says, a PAX size is only that of the next real
//! entry, and global headers are ignored. So nobody can hide an entry from one reader and show it to another.

mod entry;
mod header;
mod pax;
mod sparse;

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;

use super::error::{At, Fault};
pub(crate) use entry::{Entry, Kind, Time};
use entry::{Merged, Pending, merge};
use header::Block;
use sparse::PaxSparse;
pub(crate) use sparse::Segment;

/// Bytes of a block: all in a tar stream is padded to it.
pub(crate) const BLOCK: usize = 512;

/// The longest extended header that is taken, in bytes: it is held in memory.
const MAX_HEADER: u64 = 1 << 20;

/// What a tar stream is read from.
pub(crate) trait Source: Read {
    /// Passes over `len` bytes and tells how many there were, fewer only at the end.
    fn skip(&mut self, len: u64) -> io::Result<u64>;
}

/// Any reader, passed over by reading.
#[derive(Debug)]
pub(crate) struct Stream<R>(pub(crate) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, len: u64) -> io::Result<u64> {
        io::copy(&mut self.0.by_ref().take(len), &mut io::sink())
    }
}

/// Hears of every byte that is not the content of a file that was taken out.
pub(crate) trait Tap {
    /// Whether it wants to hear anything.
    const LISTENS: bool = true;
    /// These came next.
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Tap for () {
    const LISTENS: bool = false;
    fn raw(&mut self, _bytes: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

/// A tar stream being read.
#[derive(Debug)]
pub(crate) struct TarReader<S, T = ()> {
    source: S,
    /// Hears what is not taken as content.
    pub(crate) tap: T,
    offset: u64,
    left: u64,
    padding: u64,
    marked: bool,
}

impl<S: Source, T: Tap> TarReader<S, T> {
    /// Reads `source` from its start.
    pub(crate) fn new(source: S, tap: T) -> Self {
        Self { source, tap, offset: 0, left: 0, padding: 0, marked: false }
    }

    /// Bytes read or passed over.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// The next entry, `None` at the end. Content that was not read is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, At> {
        self.pass(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut pending = Pending::default();
        loop {
            let at = self.offset;
            let Some(block) = self.block()? else {
                let dangling = pending.pax.is_some() || pending.name.is_some() || pending.link.is_some();
                return if dangling { Err(self.fault(Fault::Dangling)) } else { Ok(None) };
            };
            match block.kind() {
                b'x' => pending.pax = Some(self.special(&block)?),
                b'L' => pending.name = Some(until_nul(self.special(&block)?)),
                b'K' => pending.link = Some(until_nul(self.special(&block)?)),
                b'g' => {
                    let size = block.size().map_err(|fault| self.fault(fault))?;
                    self.pass(padded(size).ok_or_else(|| self.fault(Fault::Number("the size")))?)?;
                }
                _ => return self.entry(&block, pending, at).map(Some),
            }
        }
    }

    /// Reads up to `buffer.len()` bytes of the entry's content; 0 at its end. The tap hears nothing of them.
    pub(crate) fn content(&mut self, buffer: &mut [u8]) -> Result<usize, At> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if want == 0 {
            return Ok(0);
        }
        let count = retry(|| self.source.read(&mut buffer[..want])).map_err(|error| self.unread(error))?;
        if count == 0 {
            return Err(self.fault(Fault::Truncated));
        }
        self.offset += count as u64;
        self.left -= count as u64;
        Ok(count)
    }

    /// What it reads from, and what listened.
    pub(crate) fn into_parts(self) -> (S, T) {
        (self.source, self.tap)
    }

    /// Reads on to the end of the source, and tells whether the end mark was there.
    pub(crate) fn finish(&mut self) -> Result<bool, At> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = retry(|| self.source.read(&mut buffer)).map_err(|error| self.unread(error))?;
            if count == 0 {
                return Ok(self.marked);
            }
            self.tap.raw(&buffer[..count]).map_err(|error| self.unkept(error))?;
            self.offset += count as u64;
        }
    }

    /// The next header block; `None` at the end mark, or where the source ends without one.
    fn block(&mut self) -> Result<Option<Block>, At> {
        let Some(raw) = self.read_block()? else { return Ok(None) };
        if raw != [0; BLOCK] {
            let start = self.offset - BLOCK as u64;
            return Block::new(&raw).map(Some).map_err(|fault| At { entry: None, offset: start, fault });
        }
        match self.read_block()? {
            Some(second) if second != [0; BLOCK] => Err(self.fault(Fault::LoneZeroBlock)),
            second => {
                self.marked = second.is_some();
                Ok(None)
            }
        }
    }

    /// Reads a whole block, `None` if the source is at its end.
    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, At> {
        let (mut raw, mut filled) = ([0; BLOCK], 0);
        while filled < BLOCK {
            let count = retry(|| self.source.read(&mut raw[filled..])).map_err(|error| self.unread(error))?;
            match (count, filled) {
                (0, 0) => return Ok(None),
                (0, _) => return Err(self.fault(Fault::Truncated)),
                _ => filled += count,
            }
        }
        self.tap.raw(&raw).map_err(|error| self.unkept(error))?;
        self.offset += BLOCK as u64;
        Ok(Some(raw))
    }

    /// The content of an extended header.
    fn special(&mut self, block: &Block) -> Result<Vec<u8>, At> {
        let size = block.size().map_err(|fault| self.fault(fault))?;
        if size > MAX_HEADER {
            return Err(self.fault(Fault::LongHeader(MAX_HEADER)));
        }
        let size = usize::try_from(size).unwrap_or_default();
        let mut content = Vec::with_capacity(size.next_multiple_of(BLOCK));
        while content.len() < size {
            content.extend_from_slice(&self.read_block()?.ok_or_else(|| self.fault(Fault::Truncated))?);
        }
        content.truncate(size);
        Ok(content)
    }

    /// Passes over bytes, telling the tap of them.
    fn pass(&mut self, mut len: u64) -> Result<(), At> {
        if !T::LISTENS {
            let passed = self.source.skip(len).map_err(|error| self.unread(error))?;
            self.offset += passed;
            return if passed < len { Err(self.fault(Fault::Truncated)) } else { Ok(()) };
        }
        let mut buffer = [0; 8192];
        while len > 0 {
            let want = buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            let count =
                retry(|| self.source.read(&mut buffer[..want])).map_err(|error| self.unread(error))?;
            if count == 0 {
                return Err(self.fault(Fault::Truncated));
            }
            self.tap.raw(&buffer[..count]).map_err(|error| self.unkept(error))?;
            self.offset += count as u64;
            len -= count as u64;
        }
        Ok(())
    }

    /// Puts the entry together and stands before its content.
    fn entry(&mut self, block: &Block, pending: Pending, at: u64) -> Result<Entry, At> {
        let name = pending.name.clone().unwrap_or_else(|| block.path());
        let here = |fault| At { entry: Some(OsString::from_vec(name.clone())), offset: at, fault };
        let mut merged = merge(block, &pending).map_err(here)?;
        merged.entry.at = at;
        let stored =
            if matches!(merged.entry.kind, Kind::File | Kind::Label) { merged.entry.size } else { 0 };
        self.left = stored;
        self.padding = padded(stored).ok_or_else(|| here(Fault::Number("the size")))? - stored;
        self.holes(block, &mut merged).map_err(|mut at| {
            at.entry.get_or_insert_with(|| OsString::from_vec(name.clone()));
            at
        })?;
        Ok(merged.entry)
    }

    /// Finds out which parts of a file the content is.
    fn holes(&mut self, block: &Block, merged: &mut Merged) -> Result<(), At> {
        let entry = &mut merged.entry;
        let at = entry.at;
        let wrong = |fault| At { entry: None, offset: at, fault };
        match (block.kind(), merged.sparse.take()) {
            (b'S', _) => {
                let (records, mut more, size) = block.sparse().map_err(wrong)?;
                sparse::old_records(records, &mut entry.segments).map_err(wrong)?;
                entry.size = size;
                while more {
                    let raw = self.read_block()?.ok_or_else(|| wrong(Fault::Truncated))?;
                    sparse::old_records(&raw[..504], &mut entry.segments).map_err(wrong)?;
                    more = raw[504] != 0;
                }
            }
            (_, Some(pax)) if pax.map_in_content => {
                entry.segments = sparse::map(|| self.map_block())?;
                entry.size = pax.size.unwrap_or(entry.size);
            }
            (_, Some(PaxSparse { segments: Some(segments), size, .. })) => {
                entry.segments = segments;
                entry.size = size.unwrap_or(entry.size);
            }
            _ if entry.kind == Kind::File && entry.size > 0 => {
                entry.segments = vec![Segment { offset: 0, len: entry.size }];
            }
            _ => {}
        }
        let stored = sparse::check(&entry.segments, entry.size).map_err(wrong)?;
        if stored > self.left {
            return Err(wrong(Fault::Sparse("it speaks of more bytes than there are")));
        }
        Ok(())
    }

    /// A block of the map that stands before the content.
    fn map_block(&mut self) -> Result<[u8; BLOCK], At> {
        let short = Fault::Sparse("it is longer than the content it stands in");
        let Some(left) = self.left.checked_sub(BLOCK as u64) else { return Err(self.fault(short)) };
        let block = self.read_block()?.ok_or_else(|| self.fault(Fault::Truncated))?;
        self.left = left;
        Ok(block)
    }

    fn fault(&self, fault: Fault) -> At {
        At { entry: None, offset: self.offset, fault }
    }

    fn unread(&self, source: io::Error) -> At {
        self.fault(if source.kind() == io::ErrorKind::UnexpectedEof {
            Fault::Truncated
        } else {
            Fault::Io { act: "cannot read the archive", source }
        })
    }

    fn unkept(&self, source: io::Error) -> At {
        self.fault(Fault::Io { act: "cannot keep the archive's headers", source })
    }
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
    text.truncate(end);
    text
}

/// The size with its padding, `None` beyond what a stream can be.
fn padded(size: u64) -> Option<u64> {
    size.checked_next_multiple_of(BLOCK as u64)
}

/// A read that is begun again when a signal stopped it.
fn retry(mut read: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match read() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}
