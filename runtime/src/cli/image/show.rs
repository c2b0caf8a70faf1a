//! Images as text: Docker's columns, units and words.

use std::fmt::Write as _;

use super::super::text::{ago, align, cells, size};
use serde_json::{Value, json};
use uctr::image::{ImageId, Loaded, Reference, Removed, Step, Summary};

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
            "CreatedAt": at(self.created.as_deref()),
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

/// The steps of an image's making.
pub(super) fn history(id: ImageId, steps: &[Step], whole: bool) -> String {
    let mut lines = vec![cells(["IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"])];
    // Only the last step has an image; what it stands on may never have had one here.
    let mut image = if whole { id.to_string() } else { id.0.short() };
    for Step { history, size: bytes } in steps {
        let command = history.created_by.split_whitespace().collect::<Vec<_>>().join(" ");
        let command = if whole { command } else { shorten(command) };
        let (since, size) = (since(history.created.as_deref()), size(*bytes));
        lines.push(cells([&image, &since, &command, &size, &history.comment]));
        image = "<missing>".into();
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

/// When that was, in Go's way to write a time.
fn at(created: Option<&str>) -> String {
    let time = created.and_then(|text| text.parse::<jiff::Timestamp>().ok());
    time.map_or_else(|| "N/A".to_owned(), |time| time.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string())
}

/// How long ago that was.
fn since(created: Option<&str>) -> String {
    let Some(created) = created.and_then(|text| text.parse::<jiff::Timestamp>().ok()) else {
        return "N/A".into();
    };
    ago(jiff::Timestamp::now().as_second() - created.as_second())
}
