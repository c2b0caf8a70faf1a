//! The frame of a layer: everything in its tar stream but the content of its files.
//!
//! A layer is stored as a tree, yet its identity is the digest of its tar stream, byte for byte. The frame keeps what a
//! tree cannot tell (the headers' form, their order, padding, entries that later ones replaced), so that the very
//! stream can be put together again. It is one zstd stream, `frame.zst`, of these records, integers little-endian:
//!
//! | record | bytes |
//! |---|---|
//! | magic | `uctr-frame-1\n` |
//! | raw | `0`, u32 length, the bytes |
//! | content | `1`, u32 number, u64 offset, u64 length, u16 length of path, path: that stretch of a file below `diff/`, or of `replaced/<number>` if that exists |

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::tar::{Segment, Tap};
use super::tree;

const MAGIC: &[u8] = b"uctr-frame-1\n";
const RAW: u8 = 0;
const CONTENT: u8 = 1;
/// Raw bytes are gathered to records of this length.
const GATHER: usize = 1 << 16;
/// Headers repeat so much that the fastest level already takes them to a few bytes each.
const LEVEL: i32 = 1;

/// Writes a frame.
pub(super) struct FrameWriter {
    out: zstd::Encoder<'static, BufWriter<File>>,
    pending: Vec<u8>,
}

impl FrameWriter {
    /// Begins a frame in this file.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let mut out = zstd::Encoder::new(BufWriter::new(file), LEVEL)?;
        out.write_all(MAGIC)?;
        Ok(Self { out, pending: Vec::with_capacity(GATHER) })
    }

    /// Tells that a stretch of the file at `path` comes next; `number` is that of its entry.
    pub(super) fn content(&mut self, number: u32, path: &[u8], stretch: Segment) -> io::Result<()> {
        self.flush_raw()?;
        let path_len = u16::try_from(path.len()).map_err(|_| io::Error::from(Errno::NAMETOOLONG))?;
        self.out.write_all(&[CONTENT])?;
        self.out.write_all(&number.to_le_bytes())?;
        self.out.write_all(&stretch.offset.to_le_bytes())?;
        self.out.write_all(&stretch.len.to_le_bytes())?;
        self.out.write_all(&path_len.to_le_bytes())?;
        self.out.write_all(path)
    }

    /// Ends the frame.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.flush_raw()?;
        self.out.finish()?.flush()
    }

    fn flush_raw(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let len = u32::try_from(self.pending.len()).map_err(io::Error::other)?;
        self.out.write_all(&[RAW])?;
        self.out.write_all(&len.to_le_bytes())?;
        self.out.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

impl Tap for FrameWriter {
    fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= GATHER { self.flush_raw() } else { Ok(()) }
    }
}

impl std::fmt::Debug for FrameWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameWriter").finish_non_exhaustive()
    }
}

/// What comes next in a stream that is put together again.
enum Next {
    Raw(VecDeque<u8>),
    Content { file: File, at: u64, left: u64 },
}

/// Reads a layer as the tar stream it came from.
pub(super) struct Replay {
    frame: BufReader<zstd::Decoder<'static, BufReader<File>>>,
    diff: OwnedFd,
    replaced: Option<OwnedFd>,
    next: Next,
}

impl Replay {
    /// The stream of the layer whose directory is `layer`.
    pub(super) fn new(layer: &OwnedFd) -> io::Result<Self> {
        let mut frame = BufReader::new(zstd::Decoder::new(tree::open_file(layer, "frame.zst")?)?);
        let mut magic = [0; MAGIC.len()];
        frame.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame.zst is of another version"));
        }
        let replaced = match tree::open_dir(layer, "replaced") {
            Ok(dir) => Some(dir),
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(errno.into()),
        };
        Ok(Self { frame, diff: tree::open_dir(layer, "diff")?, replaced, next: Next::Raw(VecDeque::new()) })
    }

    /// Takes up the next record; `None` at the end.
    fn record(&mut self) -> io::Result<Option<Next>> {
        let mut tag = [0];
        if self.frame.read(&mut tag)? == 0 {
            return Ok(None);
        }
        if tag[0] == RAW {
            let len = u32::from_le_bytes(self.array()?);
            let mut raw = Vec::new();
            self.frame.by_ref().take(len.into()).read_to_end(&mut raw)?;
            return Ok(Some(Next::Raw(raw.into())));
        }
        let number = u32::from_le_bytes(self.array()?);
        let at = u64::from_le_bytes(self.array()?);
        let left = u64::from_le_bytes(self.array()?);
        let mut path = vec![0; u16::from_le_bytes(self.array()?).into()];
        self.frame.read_exact(&mut path)?;
        Ok(Some(Next::Content { file: self.open(number, &path)?, at, left }))
    }

    fn open(&self, number: u32, path: &[u8]) -> io::Result<File> {
        let kept = self.replaced.as_ref().map(|dir| tree::open_file(dir, number.to_string()));
        if let Some(kept) = kept.filter(|kept| !matches!(kept, Err(Errno::NOENT))) {
            return Ok(kept?);
        }
        Ok(tree::open_plain(&self.diff, path, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK)?.into())
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.frame.read_exact(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Replay {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.next {
                Next::Raw(bytes) if !bytes.is_empty() => return bytes.read(buffer),
                Next::Content { file, at, left } if *left > 0 => {
                    let want = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    let count = file.read_at(&mut buffer[..want], *at)?;
                    if count == 0 && want > 0 {
                        return Err(io::Error::new(
                            io::ErrorKind::UnexpectedEof,
                            "a file of the layer was cut",
                        ));
                    }
                    *at += count as u64;
                    *left -= count as u64;
                    return Ok(count);
                }
                _ => match self.record()? {
                    Some(next) => self.next = next,
                    None => return Ok(0),
                },
            }
        }
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replay").finish_non_exhaustive()
    }
}
