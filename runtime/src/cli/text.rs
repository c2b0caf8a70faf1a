//! Columns, units and spans of time, as Docker writes them.

/// The space between columns.
const GAP: usize = 3;
/// The narrowest column, its gap not counted.
const NARROWEST: usize = 7;
/// The cells of a line.
pub(crate) fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// Cells in columns, as wide as they must be.
pub(crate) fn align(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(|column| width(column).max(NARROWEST) + GAP).collect();
    let mut text = String::new();
    for line in lines {
        let cells: String = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.trim_end());
        text.push('\n');
    }
    text
}

/// Bytes in decimal units, three digits.
pub(crate) fn size(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss)] // Three digits are shown.
    let (mut value, mut unit) = (bytes as f64, 0);
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    // 999.5 would be shown as 1000.
    while value >= 999.5 && unit + 1 < units.len() {
        value /= 1000.0;
        unit += 1;
    }
    let places = match value {
        _ if unit == 0 => 0,
        value if value < 9.995 => 2,
        value if value < 99.95 => 1,
        _ => 0,
    };
    let mut text = format!("{value:.places$}");
    if places > 0 {
        text.truncate(text.trim_end_matches('0').trim_end_matches('.').len());
    }
    text + units[unit]
}

/// Seconds in the words of Docker (go-units, HumanDuration).
pub(crate) fn ago(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    let span = match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 14 => format!("{} days", hours / 24),
        _ if hours < 24 * 60 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 730 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    };
    span + " ago"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_by_bytes() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1000, "1kB"),
            (4_261_550, "4.26MB"),
            (117_000_000, "117MB"),
            (1_500, "1.5kB"),
            (999_499, "999kB"),
            (999_500, "1MB"),
            (12_340_000_000, "12.3GB"),
            (u64::MAX, "18.4EB"),
        ] {
            assert_eq!(size(bytes), want, "{bytes}");
        }
    }

    #[test]
    fn ago_by_seconds() {
        for (seconds, want) in [
            (0, "Less than a second ago"),
            (1, "1 second ago"),
            (59, "59 seconds ago"),
            (60, "About a minute ago"),
            (119, "About a minute ago"),
            (3599, "59 minutes ago"),
            (3600, "About an hour ago"),
            (47 * 3600, "47 hours ago"),
            (48 * 3600, "2 days ago"),
            (14 * 86400, "2 weeks ago"),
            (60 * 86400, "2 months ago"),
            (730 * 86400, "2 years ago"),
        ] {
            assert_eq!(ago(seconds), want, "{seconds}");
        }
    }

    #[test]
    fn align_by_width() {
        let lines = [cells(["REPOSITORY", "TAG", "SIZE"]), cells(["a", "latest", "1B"])];
        assert_eq!(align(&lines), "REPOSITORY   TAG       SIZE\na            latest    1B\n");
    }
}
