//! Maps of sparse files: the old GNU header and the three PAX forms (GNU tar manual, "Storing Sparse Files").

use super::super::error::Fault;
use super::header::number;
use super::pax::{Record, decimal};

/// Most segments that a map may have: it is held in memory.
const MAX_SEGMENTS: usize = 1 << 20;

/// A stretch of a file that is stored; what lies between is a hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Bytes from the file's start.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) len: u64,
}

/// Adds the records of an old GNU header or of one of its extension blocks; an empty one ends them.
pub(super) fn old_records(raw: &[u8], segments: &mut Vec<Segment>) -> Result<(), Fault> {
    for record in raw.chunks_exact(24) {
        if record[0] == 0 {
            break;
        }
        push(segments, field(&record[..12])?, field(&record[12..])?)?;
    }
    Ok(())
}

fn field(raw: &[u8]) -> Result<u64, Fault> {
    number(raw).and_then(|value| u64::try_from(value).ok()).ok_or(Fault::Number("a hole"))
}

fn push(segments: &mut Vec<Segment>, offset: u64, len: u64) -> Result<(), Fault> {
    if segments.len() == MAX_SEGMENTS {
        return Err(Fault::Sparse("it has more than 1,048,576 segments"));
    }
    segments.push(Segment { offset, len });
    Ok(())
}

/// What PAX records say of a sparse file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    /// The file's size with its holes.
    pub(super) size: Option<u64>,
    /// The file's name; that of the header is made up.
    pub(super) name: Option<Vec<u8>>,
    /// The segments, if the records have them (versions 0.0 and 0.1).
    pub(super) segments: Option<Vec<Segment>>,
    /// The map stands before the content (version 1.0).
    pub(super) map_in_content: bool,
}

impl PaxSparse {
    /// Gathers the `GNU.sparse.*` records; `None` if they tell of no map.
    pub(super) fn gather(records: &[Record<'_>]) -> Result<Option<Self>, Fault> {
        let (mut sparse, mut version, mut offset) = (Self::default(), (None, None), None);
        for Record { key, value } in records {
            let Some(key) = key.strip_prefix(b"GNU.sparse.") else { continue };
            let number = || decimal(value).ok_or(Fault::Number("a hole"));
            match key {
                b"major" => version.0 = Some(number()?),
                b"minor" => version.1 = Some(number()?),
                b"name" => sparse.name = Some(value.to_vec()),
                b"size" | b"realsize" => sparse.size = Some(number()?),
                b"offset" => offset = Some(number()?),
                b"numbytes" => {
                    let offset = offset.take().ok_or(Fault::Sparse("a length without an offset"))?;
                    push(sparse.segments.get_or_insert_default(), offset, number()?)?;
                }
                b"map" => sparse.segments = Some(pairs(value.split(|&byte| byte == b','))?),
                // numblocks says nothing that is needed.
                _ => {}
            }
        }
        sparse.map_in_content = version == (Some(1), Some(0));
        // Other readers know no sparse file without a map, and so none of its other names.
        Ok((sparse.map_in_content || sparse.segments.is_some()).then_some(sparse))
    }
}

fn pairs<'a>(mut numbers: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Segment>, Fault> {
    let mut segments = Vec::new();
    while let Some(offset) = numbers.next() {
        let len = numbers.next().ok_or(Fault::Sparse("an offset without a length"))?;
        let number = |text| decimal(text).ok_or(Fault::Number("a hole"));
        push(&mut segments, number(offset)?, number(len)?)?;
    }
    Ok(segments)
}

/// Reads the map of version 1.0: a count, then pairs, each number on a line, padded to whole blocks that `next` gives.
pub(super) fn map<E: From<Fault>>(mut next: impl FnMut() -> Result<[u8; 512], E>) -> Result<Vec<Segment>, E> {
    let (mut text, mut start) = (Vec::new(), 0);
    let mut number = || loop {
        if let Some(len) = text[start..].iter().position(|&byte| byte == b'\n') {
            let value = decimal(&text[start..start + len]).ok_or(Fault::Number("a hole"))?;
            start += len + 1;
            return Ok::<_, E>(value);
        }
        if text.len() - start > 20 {
            return Err(Fault::Number("a hole").into());
        }
        text.drain(..start);
        start = 0;
        text.extend_from_slice(&next()?);
    };
    let count = number()?;
    let mut segments = Vec::new();
    for _ in 0..count {
        let (offset, len) = (number()?, number()?);
        push(&mut segments, offset, len)?;
    }
    Ok(segments)
}

/// Checks that segments ascend without overlap inside of `size`, and tells how many bytes they hold.
pub(super) fn check(segments: &[Segment], size: u64) -> Result<u64, Fault> {
    let (mut end, mut stored) = (0, 0);
    for Segment { offset, len } in segments {
        if *offset < end {
            return Err(Fault::Sparse("its segments overlap or are out of order"));
        }
        end = offset.checked_add(*len).ok_or(Fault::Sparse("a segment ends beyond 2^64"))?;
        stored += len;
    }
    if end > size {
        return Err(Fault::Sparse("a segment ends beyond the end of the file"));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(text: &str) -> [u8; 512] {
        let mut block = [0; 512];
        block[..text.len()].copy_from_slice(text.as_bytes());
        block
    }

    #[test]
    fn map_of_version_1() {
        let mut blocks = [block("2\n0\n5\n"), block("")].into_iter();
        blocks.next_back();
        let mut long = block("2\n0\n5\n1000\n7\n");
        let segments = map(|| Ok::<_, Fault>(std::mem::replace(&mut long, [b'x'; 512]))).unwrap();
        assert_eq!(segments, [Segment { offset: 0, len: 5 }, Segment { offset: 1000, len: 7 }]);
        assert!(map(|| blocks.next().ok_or(Fault::Truncated)).is_err(), "fewer numbers than counted");
        assert!(map(|| Ok::<_, Fault>([b'1'; 512])).is_err(), "a number without end");
    }

    #[test]
    fn map_across_blocks() {
        let mut text: String = "100\n".into();
        for at in 0..100 {
            text += &format!("{}\n1\n", at * 1000);
        }
        let mut chunks = text.as_bytes().chunks(512);
        let segments = map(|| {
            let mut block = [0; 512];
            let chunk = chunks.next().ok_or(Fault::Truncated)?;
            block[..chunk.len()].copy_from_slice(chunk);
            Ok::<_, Fault>(block)
        });
        assert_eq!(segments.unwrap().last(), Some(&Segment { offset: 99_000, len: 1 }));
    }

    #[test]
    fn check_by_segments() {
        for (case, segments, size, want) in [
            ("none", &[][..], 10, Some(0)),
            ("two", &[(0, 2), (5, 5)], 10, Some(7)),
            ("touching", &[(0, 5), (5, 5)], 10, Some(10)),
            ("overlap", &[(0, 6), (5, 5)], 10, None),
            ("backwards", &[(5, 1), (0, 1)], 10, None),
            ("beyond the end", &[(5, 6)], 10, None),
            ("beyond 2^64", &[(u64::MAX, 2)], u64::MAX, None),
        ] {
            let segments: Vec<_> = segments.iter().map(|&(offset, len)| Segment { offset, len }).collect();
            assert_eq!(check(&segments, size).ok(), want, "{case}");
        }
    }
}
