//! Times of day as text (RFC 3339), as Docker's JSON has them.

use jiff::Timestamp;

/// The present in UTC, to the nanosecond.
pub(crate) fn now() -> String {
    format!("{:.9}", Timestamp::now())
}

/// A time in seconds since the epoch.
pub fn at(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.unwrap_or_default().to_string()
}

/// Seconds since the epoch of a text that the program itself wrote.
pub fn parse(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<Timestamp>().ok()?.as_second()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn now_is_parsed_and_has_nine_decimals() {
        let now = now();
        assert_eq!(now.len(), "2026-11-24T08:32:29.383476259Z".len(), "{now}");
        assert!(parse(&now).is_some_and(|seconds| seconds > 1_700_000_000), "{now}");
        assert_eq!(parse("yesterday"), None);
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
    }
}
