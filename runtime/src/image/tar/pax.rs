//! Extended headers: `LENGTH KEY=VALUE\n` records (pax(1), "pax Extended Header").
//!
//! The length rules, not the newline: the value of an xattr may hold any byte.

use super::super::error::Fault;
use super::entry::Time;

/// One record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    /// All before the first `=`.
    pub(super) key: &'a [u8],
    /// All after it but for the newline.
    pub(super) value: &'a [u8],
}

/// Splits an extended header into its records.
pub(super) fn records(mut rest: &[u8]) -> Result<Vec<Record<'_>>, Fault> {
    let mut records = Vec::new();
    // A NUL ends the list: some writers pad with them.
    while !rest.is_empty() && rest[0] != 0 {
        let space = rest.iter().position(|&byte| byte == b' ').ok_or(Fault::Pax)?;
        let length =
            decimal(&rest[..space]).and_then(|length| usize::try_from(length).ok()).ok_or(Fault::Pax)?;
        if length <= space + 1 || length > rest.len() {
            return Err(Fault::Pax);
        }
        let (record, after) = rest.split_at(length);
        let record = record[space + 1..].strip_suffix(b"\n").ok_or(Fault::Pax)?;
        let equals = record.iter().position(|&byte| byte == b'=').ok_or(Fault::Pax)?;
        records.push(Record { key: &record[..equals], value: &record[equals + 1..] });
        rest = after;
    }
    Ok(records)
}

/// An unsigned decimal number and nothing else.
pub(super) fn decimal(text: &[u8]) -> Option<u64> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time: seconds since the epoch, perhaps negative, perhaps with a fraction.
pub(super) fn time(text: &[u8]) -> Option<Time> {
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let sec = i64::try_from(decimal(whole)?).ok()?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digit = |place: usize| fraction.get(place).map_or(0, |digit| u32::from(digit - b'0'));
    let nsec = (0..9).fold(0, |nsec, place| nsec * 10 + digit(place));
    Some(match (negative, nsec) {
        (false, _) => Time { sec, nsec },
        (true, 0) => Time { sec: -sec, nsec },
        (true, _) => Time { sec: -sec - 1, nsec: 1_000_000_000 - nsec },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_by_text() {
        for (case, text, want) in [
            ("one", &b"8 a=xyz\n"[..], Some(vec![(&b"a"[..], &b"xyz"[..])])),
            ("newline in value", b"8 a=x\nz\n", Some(vec![(b"a", b"x\nz")])),
            ("equals in value", b"8 a=x=z\n", Some(vec![(b"a", b"x=z")])),
            ("two", b"6 a=b\n6 c=d\n", Some(vec![(b"a", b"b"), (b"c", b"d")])),
            ("padded", b"6 a=b\n\0\0", Some(vec![(b"a", b"b")])),
            ("none", b"", Some(vec![])),
            ("too long", b"9 a=xyz\n", None),
            ("length of nothing", b"2 a=b\n", None),
            ("huge length", b"99999999999999999999999 a=b\n", None),
            ("no newline", b"7 a=xyz", None),
            ("no equals", b"6 abc\n", None),
            ("no length", b"a=b\n", None),
        ] {
            let found = records(text).ok();
            let found =
                found.map(|list| list.iter().map(|record| (record.key, record.value)).collect::<Vec<_>>());
            assert_eq!(found, want, "{case}");
        }
    }

    #[test]
    fn time_by_text() {
        for (case, text, want) in [
            ("whole", "12", Some((12, 0))),
            ("fraction", "12.5", Some((12, 500_000_000))),
            ("finer than a nanosecond", "1.0000000019", Some((1, 1))),
            ("negative", "-3", Some((-3, 0))),
            ("negative fraction", "-1.25", Some((-2, 750_000_000))),
            ("no number", "x", None),
            ("two dots", "1.2.3", None),
            ("empty", "", None),
            ("too large", "9223372036854775808", None),
        ] {
            assert_eq!(time(text.as_bytes()), want.map(|(sec, nsec)| Time { sec, nsec }), "{case}");
        }
    }
}
