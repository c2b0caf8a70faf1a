//! Sizes, processor shares and processor lists, as Docker writes them.

/// Bytes from a number with an optional binary unit: `512k`, `1.5g`, `64MiB`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let lower = text.to_ascii_lowercase();
    let end = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(end);
    let shift = match unit.trim_start_matches(' ') {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let whole = decimal(whole)?.checked_mul(1 << shift)?;
    whole.checked_add(fraction_of(fraction, 1 << shift)?)
}

/// Microseconds of each [`crate::cgroup::CPU_PERIOD`] from a number of processors: `0.2` is 20000.
pub(crate) fn cpu_quota(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let whole = if whole.is_empty() { 0 } else { decimal(whole)? };
    let period = crate::cgroup::CPU_PERIOD;
    whole.checked_mul(period)?.checked_add(fraction_of(fraction, period)?)
}

/// The processors in a list such as `0-2,4`, in its order.
pub(crate) fn cpu_list(text: &str) -> Option<Vec<u32>> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (small(first)?, small(last)?);
        if first > last {
            return None;
        }
        cpus.extend(first..=last);
    }
    Some(cpus)
}

/// Digits only: no sign, no space, as `str::parse` would allow.
fn decimal(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok())?
}

/// A processor's number; 8192 is the most that Linux can be built for.
fn small(text: &str) -> Option<u32> {
    decimal(text).and_then(|number| u32::try_from(number).ok()).filter(|number| *number < 8192)
}

/// The part of `unit` that the decimals after a point stand for, rounded down.
fn fraction_of(decimals: &str, unit: u64) -> Option<u64> {
    decimal(decimals)?;
    let digits = &decimals[..decimals.len().min(9)];
    let scale = 10u128.pow(u32::try_from(digits.len()).ok()?);
    u64::try_from(u128::from(decimal(digits)?) * u128::from(unit) / scale).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_by_unit() {
        for (text, want) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("512k", Some(512 << 10)),
            ("128M", Some(128 << 20)),
            ("1.5g", Some(3 << 29)),
            ("64MiB", Some(64 << 20)),
            ("1kb", Some(1024)),
            ("", None),
            ("m", None),
            ("-1", None),
            ("12x", None),
            ("1.2.3", None),
            ("1 2", None),
            ("99999999999999999999", None),
            ("99999999999t", None),
        ] {
            assert_eq!(bytes(text), want, "{text:?}");
        }
    }

    #[test]
    fn cpu_quota_is_exact() {
        for (text, want) in [
            ("0.2", Some(20_000)),
            ("1", Some(100_000)),
            (".5", Some(50_000)),
            ("1.25", Some(125_000)),
            ("0.3333333333333", Some(33_333)),
            ("", Some(0)),
            ("-1", None),
            ("1e3", None),
            ("0.", None),
            ("two", None),
        ] {
            assert_eq!(cpu_quota(text), want, "{text:?}");
        }
    }

    #[test]
    fn cpu_list_by_syntax() {
        for (text, want) in [
            ("0", Some(vec![0])),
            ("0-2,4", Some(vec![0, 1, 2, 4])),
            ("", None),
            ("2-1", None),
            ("0,", None),
            ("a", None),
            ("-1", None),
            ("0-99999", None),
        ] {
            assert_eq!(cpu_list(text), want, "{text:?}");
        }
    }
}
