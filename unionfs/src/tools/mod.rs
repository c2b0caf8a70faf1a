//! The offline tools: what a writable branch (an upper) holds, looked at from outside a mount.
//!
//! They read every format of marks, never change a lower branch, and see
//! merged content through a read-only [`Union`] of the same branches, so that one set of rules decides what a file is.
//!
//! | module | command | what it answers |
//! |---|---|---|
//! | [`diff`] | `unionfs diff` | which paths were added, changed and deleted |
//! | [`export`] | `unionfs export` | the same as an OCI layer |
//! | [`check`] | `unionfs check` | what a crash or a foreign hand has left in it, and repairs that |
//! | [`convert`] | `unionfs convert` | nothing: it rewrites the upper's marks in the other format |
//! | [`whereis`] | `unionfs where` | which branch holds a path, and what lies beneath |

mod changes;
pub mod check;
pub mod convert;
pub mod diff;
pub mod export;
mod hold;
mod layer;
mod links;
mod pax;
mod rewrite;
mod subject;
pub mod whereis;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::error::{Errno, Error};
#[cfg(doc)]
use crate::union::Union;
use crate::union::{NewError, joined};
pub use subject::{Given, Subject};

/// Why a tool could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// A system call on a branch failed.
    #[error("{path:?}: {op}: {source}{hint}")]
    Branch {
        /// The object, by its path in the branch.
        path: PathBuf,
        /// The system call.
        op: &'static str,
        /// Why.
        source: Errno,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// The merged view could not be read.
    #[error("{path:?} in the merged view: {source}")]
    Merged {
        /// The object, by its path from the root of the union.
        path: PathBuf,
        /// Why.
        source: Error,
    },
    /// The branches could not be united.
    #[error(transparent)]
    Unite(#[from] NewError),
    /// A rule says no.
    #[error("{path:?}: {why}")]
    Refused {
        /// The object that stands in the way.
        path: PathBuf,
        /// The rule, and what to do about it.
        why: &'static str,
    },
    /// The archive could not be written.
    #[error("cannot write the archive: {0}")]
    Output(#[from] std::io::Error),
}

impl ToolError {
    /// A system call on the object at `path` failed.
    fn branch(path: &[u8], op: &'static str) -> impl FnOnce(Errno) -> Self {
        move |source| Self::Branch { path: shown(path), op, source, hint: "" }
    }

    /// The union could not read the object at `path`.
    fn merged(path: &[u8]) -> impl FnOnce(Error) -> Self {
        move |source| Self::Merged { path: shown(path), source }
    }

    /// A rule concerning `path` says no.
    fn refused(path: &[u8], why: &'static str) -> Self {
        Self::Refused { path: shown(path), why }
    }
}

/// A path from the root of the union as users write it.
fn shown(path: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(&[b"/", path].concat()))
}
