//! Making a layer of the store from a blob, checking all digests on the way.

use std::io::{self, BufReader, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{self as rfs, AtFlags, Mode};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::compress::{self, Compression, Unpacked, Whole};
use super::digest::{DiffId, Digest, Hashing};
use super::error::{Error, Fault, Result};
use super::frame::FrameWriter;
use super::tar::{Stream, TarReader};
use super::tree;
use super::unpack::{self, Rights, Site, Tally};

/// What the store knows of a layer: `layer.json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    /// Its identity.
    pub(super) diff_id: DiffId,
    /// Bytes of its tar stream.
    pub(super) tar: u64,
    /// Bytes of file content in it.
    pub(super) content: u64,
    /// Entries in it.
    pub(super) entries: u32,
}

/// What a blob is known to be before it is read.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// Its digest as it is stored.
    pub(super) blob: Option<Digest>,
    /// Its length as it is stored.
    pub(super) len: Option<u64>,
    /// The digest of its tar stream. Without it nothing but the end mark tells a whole stream from one cut short.
    pub(super) diff_id: Option<DiffId>,
}

/// A blob as it is stored, digested if it is compressed, else only counted.
type Raw<R> = Hashing<Whole<R>>;
type Decoded<R> = BufReader<Hashing<Unpacked<Raw<R>>>>;

/// Unpacks a blob to the new directory `name` of `session` as a layer, `what` being its name in errors.
///
/// The directory is only whole if this succeeds.
pub(super) fn make<R: Read>(
    session: &OwnedFd,
    name: &str,
    blob: R,
    what: &str,
    expected: &Expected,
    rights: Rights,
) -> Result<LayerRecord> {
    let cannot = |errno| Error::os("cannot make the layer of", what)(errno);
    let (kind, whole) = compress::peek(blob, what)?;
    // Without compression the blob is the tar stream, and is digested as that.
    let raw = if kind == Compression::Plain { Hashing::counting(whole) } else { Hashing::new(whole) };
    let decoder = Unpacked::new(kind, raw).map_err(Error::io("cannot read", what))?;
    let layer = tree::make_dir(session, name).map_err(cannot)?;
    let frame = tree::create_file(&layer, "frame.zst").map_err(cannot)?;
    let frame = FrameWriter::new(frame).map_err(Error::io("cannot keep the headers of", what))?;
    let source = Stream(BufReader::with_capacity(1 << 16, Hashing::new(decoder)));
    let mut reader = TarReader::new(source, frame);
    let unpacked = fill(&layer, &mut reader, what, expected, rights);
    let (Stream(decoded), frame) = reader.into_parts();
    let record = match check(decoded, kind, what, expected) {
        // Damage is told as damage, not as the odd header it makes.
        Err(mismatch @ (Error::Mismatch { .. } | Error::Length { .. })) => return Err(mismatch),
        checked => {
            let tally = unpacked?;
            let (diff_id, tar) = checked?;
            LayerRecord { diff_id, tar, content: tally.content, entries: tally.entries }
        }
    };
    frame.finish().map_err(Error::io("cannot keep the headers of", what))?;
    let text =
        serde_json::to_vec(&record).map_err(|source| Error::Json { what: "layer.json".into(), source })?;
    tree::write_file(&layer, "layer.json", &text).map_err(Error::io("cannot make the layer of", what))?;
    Ok(record)
}

/// Unpacks all of the stream into the directories of a layer.
fn fill<R: Read>(
    layer: &OwnedFd,
    reader: &mut TarReader<Stream<Decoded<R>>, FrameWriter>,
    what: &str,
    expected: &Expected,
    rights: Rights,
) -> Result<Tally> {
    let cannot = |errno| Error::os("cannot make the layer of", what)(errno);
    let diff = tree::make_dir(layer, "diff").map_err(cannot)?;
    rfs::fchmod(&diff, Mode::from_raw_mode(0o755)).map_err(cannot)?;
    let replaced = tree::make_dir(layer, "replaced").map_err(cannot)?;
    let trash = tree::make_dir(layer, "trash").map_err(cannot)?;
    let wrong = |at| Error::Archive { archive: what.to_owned(), at };
    let tally = unpack::unpack(reader, Site { diff, replaced, trash }, rights).map_err(wrong)?;
    let marked = reader.finish().map_err(wrong)?;
    if !marked && expected.diff_id.is_none() {
        let at = super::error::At { entry: None, offset: reader.offset(), fault: Fault::NoEndMark };
        return Err(wrong(at));
    }
    tree::remove_tree(layer, b"trash").map_err(cannot)?;
    match rfs::unlinkat(layer, "replaced", AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(tally),
        Err(errno) => Err(cannot(errno)),
    }
}

/// Reads on to the end of the blob, compares its digests, and tells identity and length of its tar stream.
fn check<R: Read>(
    decoded: Decoded<R>,
    kind: Compression,
    what: &str,
    expected: &Expected,
) -> Result<(DiffId, u64)> {
    let mut decoded = decoded.into_inner();
    // If the stream cannot be decoded to its end, the digest of the blob tells whether it is damaged.
    let undecoded = io::copy(&mut decoded, &mut io::sink());
    let (diff_id, tar) = decoded.so_far();
    let raw = decoded.into_inner().drain().map_err(Error::io("cannot read", what))?;
    let (blob, len) = if kind == Compression::Plain { (diff_id, tar) } else { raw.so_far() };
    if let Some(expected) = expected.len.filter(|&expected| expected != len) {
        return Err(Error::Length { what: what.to_owned(), expected, found: len });
    }
    compare(what, expected.blob, blob)?;
    undecoded.map_err(Error::io("cannot unpack", what))?;
    compare(&format!("the tar stream of {what}"), expected.diff_id.map(|id| id.0), diff_id)?;
    Ok((DiffId(diff_id), tar))
}

/// Compares a digest with the one that is wanted, if one is.
pub(super) fn compare(what: &str, expected: Option<Digest>, found: Digest) -> Result<()> {
    match expected {
        Some(expected) if expected != found => {
            Err(Error::Mismatch { what: what.to_owned(), expected, found })
        }
        _ => Ok(()),
    }
}
