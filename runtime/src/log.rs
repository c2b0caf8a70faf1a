//! The output of a container, a line of JSON for each line of it, as Docker's json-file driver writes it.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::{On, Result};

/// The longest line kept whole; a longer one is cut into several entries, all but the last without a newline.
const LINE_MAX: usize = 16 * 1024;

/// One entry.
#[derive(Debug, Serialize, Deserialize)]
pub struct Entry {
    /// The line, with its newline if it has one. Bytes that are not UTF-8 have been replaced.
    pub log: String,
    /// `stdout` or `stderr`.
    pub stream: String,
    /// When it was read, in RFC 3339.
    pub time: String,
}

/// The file being written.
#[derive(Debug)]
pub(crate) struct Log {
    file: Option<File>,
}

impl Log {
    /// Appends to `path`, or keeps nothing.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let open = |path: &Path| File::options().create(true).append(true).open(path).on("open", path);
        Ok(Self { file: path.map(open).transpose()? })
    }

    /// Adds the complete lines of `buffer` and takes them out of it; with `end` the rest as well.
    pub(crate) fn take_lines(&mut self, stream: &'static str, buffer: &mut Vec<u8>, end: bool) {
        let Some(file) = &mut self.file else { return buffer.clear() };
        let mut out = Vec::new();
        let mut taken = 0;
        while let Some(length) = next_line(&buffer[taken..], end) {
            let line = &buffer[taken..taken + length];
            let entry = Entry {
                log: String::from_utf8_lossy(line).into_owned(),
                stream: stream.to_owned(),
                time: clock::now(),
            };
            if serde_json::to_writer(&mut out, &entry).is_ok() {
                out.push(b'\n');
            }
            taken += length;
        }
        buffer.drain(..taken);
        // One write for whole entries, so that a reader never sees a half. A full disk must not stop the container.
        if !out.is_empty()
            && let Err(error) = file.write_all(&out)
        {
            tracing::warn!(%error, "output is lost to the log");
        }
    }
}

/// The length of the next entry in `bytes`, if there is one yet.
fn next_line(bytes: &[u8], end: bool) -> Option<usize> {
    let window = &bytes[..bytes.len().min(LINE_MAX)];
    match window.iter().position(|byte| *byte == b'\n') {
        Some(newline) => Some(newline + 1),
        None if window.len() == LINE_MAX || (end && !window.is_empty()) => Some(window.len()),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_line_by_buffer() {
        let long = vec![b'a'; LINE_MAX + 5];
        for (case, bytes, end, want) in [
            ("nothing", &b""[..], true, None),
            ("a line", b"ab\ncd", false, Some(3)),
            ("no line yet", b"cd", false, None),
            ("the last, without newline", b"cd", true, Some(2)),
            ("too long", &long, false, Some(LINE_MAX)),
        ] {
            assert_eq!(next_line(bytes, end), want, "{case}");
        }
    }

    #[test]
    fn take_lines_leaves_the_rest() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut log = Log::open(Some(file.path())).unwrap();
        let mut buffer = b"one\n\xfftwo\nthr".to_vec();
        log.take_lines("stdout", &mut buffer, false);
        assert_eq!(buffer, b"thr");
        log.take_lines("stdout", &mut buffer, true);
        let text = std::fs::read_to_string(file.path()).unwrap();
        let lines: Vec<String> =
            text.lines().map(|line| serde_json::from_str::<Entry>(line).unwrap().log).collect();
        assert_eq!(lines, ["one\n", "\u{fffd}two\n", "thr"]);
    }
}
