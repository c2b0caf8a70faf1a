//! Images as text: Docker's columns, units and words.

use std::fmt::Write as _;

use serde_json::{Value, json};
use uctr::image::{Loaded, Reference, Removed, Step, Summary};

/// The space between columns.
const GAP: usize = 3;
/// The narrowest column, its gap not counted.
const NARROWEST: usize = 7;
/// The widest command in a history.
const WIDEST_COMMAND: usize = 45;

/// One line of a list: an image under one of its names.
#[derive(Debug)]
pub(super) struct Row {
    repository: String,
    tag: String,
    id: String,
    created: Option<String>,
    size: u64,
    digest: String,
}

impl Row {
    /// Its fields, as templates and `--format json` name them.
    pub(super) fn value(&self) -> Value {
        json!({
            "Containers": "N/A",
            "CreatedAt": self.created.as_deref().unwrap_or("N/A"),
            "CreatedSince": since(self.created.as_deref()),
            "Digest": self.digest,
            "ID": self.id,
            "Repository": self.repository,
            "SharedSize": "N/A",
            "Size": size(self.size),
            "Tag": self.tag,
            "UniqueSize": "N/A",
            "VirtualSize": size(self.size),
        })
    }
}

/// The lines of a list, one for each name.
pub(super) fn rows(images: &[Summary], only: Option<&str>, whole: bool) -> Vec<Row> {
    let mut rows = Vec::new();
    for image in images {
        let row = |repository: &str, tag: &str| Row {
            repository: repository.to_owned(),
            tag: tag.to_owned(),
            id: if whole { image.id.to_string() } else { image.id.0.short() },
            created: image.created.clone(),
            size: image.size,
            digest: image.digest.map_or_else(|| "<none>".to_owned(), |digest| digest.to_string()),
        };
        if image.names.is_empty() && only.is_none() {
            rows.push(row("<none>", "<none>"));
        }
        let chosen = image.names.iter().filter(|name| only.is_none_or(|only| is_meant(name, only)));
        rows.extend(chosen.map(|name| row(name.familiar_repository(), name.tag())));
    }
    rows
}

/// Whether a name is meant by a repository, or by a whole name.
fn is_meant(name: &Reference, only: &str) -> bool {
    let tagged = only.rfind(':').is_some_and(|colon| !only[colon..].contains('/'));
    only.parse().is_ok_and(|meant: Reference| {
        meant.familiar_repository() == name.familiar_repository() && (!tagged || meant.tag() == name.tag())
    })
}

/// Identities alone, each once.
pub(super) fn identities(rows: &[Row]) -> String {
    let mut seen = Vec::new();
    for row in rows {
        if !seen.contains(&&row.id) {
            seen.push(&row.id);
        }
    }
    seen.into_iter().map(|id| format!("{id}\n")).collect()
}

/// The table.
pub(super) fn table(rows: &[Row], digests: bool) -> String {
    let mut lines = vec![cells(["REPOSITORY", "TAG", "DIGEST", "IMAGE ID", "CREATED", "SIZE"])];
    for row in rows {
        let (since, size) = (since(row.created.as_deref()), size(row.size));
        lines.push(cells([&row.repository, &row.tag, &row.digest, &row.id, &since, &size]));
    }
    if !digests {
        lines.iter_mut().for_each(|line| drop(line.remove(2)));
    }
    align(&lines)
}

fn cells<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).into()
}

/// The steps of an image's making.
pub(super) fn history(steps: &[Step], whole: bool) -> String {
    let mut lines = vec![cells(["CREATED", "CREATED BY", "SIZE", "COMMENT"])];
    for Step { history, size: bytes } in steps {
        let command = history.created_by.split_whitespace().collect::<Vec<_>>().join(" ");
        let command = if whole { command } else { shorten(command) };
        let (since, size) = (since(history.created.as_deref()), size(*bytes));
        lines.push(cells([&since, &command, &size, &history.comment]));
    }
    align(&lines)
}

fn shorten(text: String) -> String {
    if text.chars().count() <= WIDEST_COMMAND {
        return text;
    }
    text.chars().take(WIDEST_COMMAND - 1).chain(['…']).collect()
}

/// What a load brought.
pub(super) fn loaded(loaded: &[Loaded]) -> String {
    let mut text = String::new();
    for image in loaded {
        for name in &image.names {
            let _infallible = writeln!(text, "Loaded image: {}", name.familiar());
        }
        if image.names.is_empty() {
            let _infallible = writeln!(text, "Loaded image ID: {}", image.id);
        }
    }
    text
}

/// What a removal did.
pub(super) fn removed(removed: &[Removed]) -> String {
    removed.iter().map(super::line).collect()
}

/// Cells in columns, as wide as they must be.
fn align(lines: &[Vec<String>]) -> String {
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
fn size(bytes: u64) -> String {
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

/// How long ago that was.
fn since(created: Option<&str>) -> String {
    let Some(created) = created.and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return "N/A".into();
    };
    ago(jiff::Timestamp::now().as_second() - created.as_second())
}

/// Seconds in the words of Docker (go-units, HumanDuration).
fn ago(seconds: i64) -> String {
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
