//! Compressed streams, told by their first bytes, not by what a label says of them.

use std::io::{self, BufReader, Chain, Cursor, Read};

use flate2::bufread::MultiGzDecoder;

use super::error::{Error, Result};

/// Bytes that tell a compression apart.
const MAGIC: usize = 6;

/// A compression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compression {
    /// None.
    Plain,
    /// gzip (RFC 1952), of one member or several.
    Gzip,
    /// Zstandard (RFC 8878), of one frame or several.
    Zstd,
}

/// The compression of a stream that begins so; `what` names the stream in an error.
pub(super) fn detect(start: &[u8], what: &str) -> Result<Compression> {
    let unknown = |kind, fix| Err(Error::Compression { what: what.to_owned(), kind, fix });
    match start {
        [0x1f, 0x8b, ..] => Ok(Compression::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Compression::Zstd),
        // A frame that a decoder skips (RFC 8878, 3.1.2); zstd:chunked may begin with one.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Compression::Zstd),
        [b'B', b'Z', b'h', ..] => unknown("bzip2", "bzip2 -d"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => unknown("xz", "xz -d"),
        _ => Ok(Compression::Plain),
    }
}

/// A stream whose first bytes were read and put back.
pub(super) type Whole<R> = Chain<Cursor<Vec<u8>>, R>;

/// Reads as much of a stream as tells its compression, and puts it back.
pub(super) fn peek<R: Read>(mut raw: R, what: &str) -> Result<(Compression, Whole<R>)> {
    let mut start = Vec::with_capacity(MAGIC);
    raw.by_ref().take(MAGIC as u64).read_to_end(&mut start).map_err(Error::io("cannot read", what))?;
    Ok((detect(&start, what)?, Cursor::new(start).chain(raw)))
}

/// A stream without its compression.
pub(super) enum Unpacked<R: Read> {
    /// It had none.
    Plain(BufReader<R>),
    /// gzip.
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    /// Zstandard.
    Zstd(zstd::Decoder<'static, BufReader<R>>),
}

impl<R: Read> Unpacked<R> {
    /// Takes this compression off the stream.
    pub(super) fn new(kind: Compression, raw: R) -> io::Result<Self> {
        let raw = BufReader::with_capacity(1 << 16, raw);
        Ok(match kind {
            Compression::Plain => Self::Plain(raw),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(raw))),
            Compression::Zstd => Self::Zstd(zstd::Decoder::with_buffer(raw)?),
        })
    }

    /// Gives back what it reads from, after reading on to the end of that.
    pub(super) fn drain(self) -> io::Result<R> {
        let mut raw = match self {
            Self::Plain(raw) => raw,
            Self::Gzip(decoder) => decoder.into_inner(),
            Self::Zstd(decoder) => decoder.finish(),
        };
        io::copy(&mut raw, &mut io::sink())?;
        Ok(raw.into_inner())
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(raw) => raw.read(buffer),
            Self::Gzip(decoder) => decoder.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn open_by_magic() {
        let zstd = |content: &[u8]| zstd::encode_all(content, 1).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, b'x', b'y'][..], &zstd(b"hello")].concat();
        for (case, raw, kind) in [
            ("plain", b"hello".to_vec(), Compression::Plain),
            ("gzip", gzip(b"hello"), Compression::Gzip),
            ("gzip of two members", [gzip(b"hel"), gzip(b"lo")].concat(), Compression::Gzip),
            ("zstd", zstd(b"hello"), Compression::Zstd),
            ("zstd of two frames", [zstd(b"hel"), zstd(b"lo")].concat(), Compression::Zstd),
            ("zstd after a frame to skip", skippable, Compression::Zstd),
        ] {
            let (found, whole) = peek(&raw[..], "it").unwrap();
            let mut unpacked = Unpacked::new(found, whole).unwrap();
            let mut text = String::new();
            unpacked.read_to_string(&mut text).unwrap();
            assert_eq!((found, text.as_str()), (kind, "hello"), "{case}");
            assert_eq!(unpacked.drain().unwrap().into_inner().1.len(), 0, "{case}");
        }
        let (kind, mut nothing) = peek(&b""[..], "it").unwrap();
        assert_eq!((kind, nothing.read(&mut [0; 9]).unwrap()), (Compression::Plain, 0));
    }

    #[test]
    fn detect_names_the_fix() {
        let text = detect(b"\xfd7zXZ\0", "x.tar.xz").unwrap_err().to_string();
        assert!(text.contains("x.tar.xz") && text.contains("`xz -d`"), "{text}");
        assert!(detect(b"BZh91A", "x").unwrap_err().to_string().contains("bzip2"));
    }
}
