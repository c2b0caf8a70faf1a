//! The fields of one 512-byte header block: v7, ustar and GNU alike.

use tar::Header;

use super::super::error::Fault;
use super::BLOCK;

/// A header block whose checksum is right.
pub(super) struct Block(Header);

impl Block {
    /// Checks the checksum, which counts the checksum field itself as spaces; some old writers sum signed bytes.
    pub(super) fn new(raw: &[u8; BLOCK]) -> Result<Self, Fault> {
        let stored = number(&raw[148..156]).ok_or(Fault::Checksum)?;
        let plain =
            raw.iter().enumerate().map(|(at, &byte)| if (148..156).contains(&at) { b' ' } else { byte });
        let unsigned: i64 = plain.clone().map(i64::from).sum();
        let signed: i64 = plain.map(|byte| i64::from(byte.cast_signed())).sum();
        if stored != unsigned && stored != signed {
            return Err(Fault::Checksum);
        }
        Ok(Self(Header::from_byte_slice(raw).clone()))
    }

    /// The type flag as it stands.
    pub(super) fn kind(&self) -> u8 {
        self.0.as_bytes()[156]
    }

    /// The name: the ustar prefix and the name field.
    pub(super) fn path(&self) -> Vec<u8> {
        self.0.path_bytes().into_owned()
    }

    /// The target of a link.
    pub(super) fn link(&self) -> Vec<u8> {
        self.0.link_name_bytes().map(Vec::from).unwrap_or_default()
    }

    /// Bytes of content that follow.
    pub(super) fn size(&self) -> Result<u64, Fault> {
        self.unsigned(124..136, "the size")
    }

    /// Permission bits, 07777.
    pub(super) fn mode(&self) -> Result<u32, Fault> {
        let mode = self.unsigned(100..108, "the mode")?;
        Ok(u32::try_from(mode & 0o7777).unwrap_or_default())
    }

    /// The owner.
    pub(super) fn uid(&self) -> Result<u64, Fault> {
        self.unsigned(108..116, "the owner")
    }

    /// The group.
    pub(super) fn gid(&self) -> Result<u64, Fault> {
        self.unsigned(116..124, "the group")
    }

    /// Last change of content, in seconds since the epoch.
    pub(super) fn mtime(&self) -> Result<i64, Fault> {
        number(&self.0.as_bytes()[136..148]).ok_or(Fault::Number("the time of change"))
    }

    /// Major and minor number of a device.
    pub(super) fn device(&self) -> Result<(u64, u64), Fault> {
        if self.0.as_ustar().is_none() && self.0.as_gnu().is_none() {
            return Ok((0, 0));
        }
        Ok((self.unsigned(329..337, "the device")?, self.unsigned(337..345, "the device")?))
    }

    /// The four sparse records of an old GNU sparse header, whether more follow, and the size with holes.
    pub(super) fn sparse(&self) -> Result<(&[u8], bool, u64), Fault> {
        let raw = self.0.as_bytes();
        Ok((&raw[386..482], raw[482] != 0, self.unsigned(483..495, "the size")?))
    }

    fn unsigned(&self, field: std::ops::Range<usize>, what: &'static str) -> Result<u64, Fault> {
        let value = number(&self.0.as_bytes()[field]).ok_or(Fault::Number(what))?;
        u64::try_from(value).map_err(|_| Fault::Number(what))
    }
}

/// A numeric field: octal digits padded with spaces and NULs, or GNU's base-256 if the first bit is set (a
/// two's complement number of all the field's other bits). An empty field is 0.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field.first()? & 0x80 != 0 {
        return base256(field);
    }
    let digits = field.split(|&byte| byte == 0).next()?.trim_ascii();
    if !digits.iter().all(|digit| (b'0'..=b'7').contains(digit)) {
        return None;
    }
    digits.iter().try_fold(0i64, |value, digit| value.checked_mul(8)?.checked_add(i64::from(digit - b'0')))
}

fn base256(field: &[u8]) -> Option<i64> {
    // The second bit of the first byte is the sign; the first one only tells the format.
    let negative = field[0] & 0x40 != 0;
    let first = if negative { i64::from(field[0]) - 0x100 } else { i64::from(field[0] & 0x7f) };
    field[1..].iter().try_fold(first, |value, &byte| value.checked_mul(256)?.checked_add(i64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_by_field() {
        for (case, field, want) in [
            ("octal", &b"0000644\0"[..], Some(0o644)),
            ("spaces", b"   644 \0", Some(0o644)),
            ("empty", b"\0\0\0\0\0\0\0\0", Some(0)),
            ("not octal", b"0000689\0", None),
            ("rubbish", b"xyz\0\0\0\0\0", None),
            ("what follows a NUL is padding", b"7\x00999999", Some(7)),
            ("base 256", b"\x80\0\0\0\0\0\x01\0", Some(256)),
            ("base 256 negative", b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            ("base 256 too large", b"\x80\x01\0\0\0\0\0\0\0\0\0\0", None),
            ("octal too large", b"777777777777777777777777", None),
        ] {
            assert_eq!(number(field), want, "{case}");
        }
    }
}
