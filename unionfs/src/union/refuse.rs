//! Unions that cannot be made.

use std::path::PathBuf;

use super::Options;
use crate::branch::{Branch, BranchError};
use crate::error::Errno;
use crate::marks::Format;

/// Why a union could not be made.
#[derive(Debug, thiserror::Error)]
pub enum NewError {
    /// No branch at all.
    #[error("no branches: name at least one directory")]
    NoBranches,
    /// More than the indexes can count.
    #[error("{0} branches: at most 32767 can be united")]
    TooMany(usize),
    /// One is another, or lies inside another.
    #[error(
        "branch {inner:?} is or lies inside branch {outer:?}: a change of one would change the other (unite directories that do not overlap)"
    )]
    #[allow(missing_docs)]
    Overlap { inner: PathBuf, outer: PathBuf },
    /// Metadata-only copies in a format that has no mark for them.
    #[error(
        "metacopy=on: the aufs format has no mark for a file whose data is in a branch below (add format=overlay)"
    )]
    Metacopy,
    /// inotify is not to be had.
    #[error("udba=notify: inotify_init1: {0} (see fs.inotify.max_user_instances, or use udba=reval)")]
    Watch(Errno),
    /// One of them cannot be used.
    #[error(transparent)]
    Branch(#[from] BranchError),
}

pub(super) fn refuse_overlaps(branches: &[Branch]) -> Result<(), NewError> {
    for (at, inner) in branches.iter().enumerate() {
        let others = branches.iter().enumerate().filter(|(other, _)| *other != at);
        if let Some((_, outer)) = others.into_iter().find(|(_, other)| inner.overlaps(other)) {
            let path = |branch: &Branch| branch.spec().path.clone();
            return Err(NewError::Overlap { inner: path(inner), outer: path(outer) });
        }
    }
    Ok(())
}

/// The aufs format has no mark for a file whose data is elsewhere.
pub(super) fn refuse_metacopy(branches: &[Branch], options: &Options) -> Result<(), NewError> {
    let written = !options.read_only && branches.iter().any(Branch::writable);
    if written && options.metacopy && options.format == Format::Aufs {
        Err(NewError::Metacopy)
    } else {
        Ok(())
    }
}
