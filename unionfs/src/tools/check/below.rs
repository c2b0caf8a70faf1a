//! What the branches below have for a path.

use crate::tools::ToolError;
use crate::tools::changes::walk;
use crate::types::{FileKind, Ino};
use crate::union::Union;

/// What the branches below have where a directory of the upper is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Below {
    /// Nobody said which they are.
    Unknown,
    /// No directory that shows through.
    Nothing,
    /// This directory of their union.
    Dir(Ino),
}

/// The path of the directory that a path is in.
pub(super) fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |at| &path[..at])
}

/// The directory that a redirect leads to, held.
pub(super) fn follow(base: &Union, target: &[u8]) -> Result<Option<Ino>, ToolError> {
    match walk(base, target)? {
        Some((node, FileKind::Directory)) => Ok(Some(node)),
        Some((node, _)) => {
            base.forget(node, 1);
            Ok(None)
        }
        None => Ok(None),
    }
}
