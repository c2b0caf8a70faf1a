//! `unionfs diff`: what was added, changed and deleted.
//!
//! A path is *changed* if the branches below show an object by it, be it of another kind, and *added* if they do not.
//! A directory that was copied up because something in it changed is listed as changed, as `docker diff` lists it. Of
//! a directory that was deleted only its own path is listed, of one that was renamed all that is in it.
//!
//! Where the branches below are not known, it is guessed: an object is *changed* if it bears the record of a copy-up
//! (`*.unionfs.origin`, `*.overlay.origin`) and *added* if not, and every whiteout is a deletion. So a file that was
//! deleted and made anew counts as added, and so does a copy on a branch that stores no extended attributes.

use std::fmt;

use super::changes::{Hidden, Object, Visitor, Walk};
use super::{Subject, ToolError};
use crate::union::Union;

/// How a path differs from what the branches below show.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It is new.
    Added,
    /// There was an object before.
    Changed,
    /// It is gone.
    Deleted,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Added => "A",
            Self::Changed => "C",
            Self::Deleted => "D",
        })
    }
}

/// One line of the difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// How it differs.
    pub kind: Kind,
    /// The path from the root of the union, with a leading slash.
    pub path: Vec<u8>,
}

/// The changes that the upper brings, a directory before what is in it, names in the order of their bytes.
///
/// # Errors
///
/// A branch that cannot be read, or a renamed directory while the branches below are not known.
pub fn diff(subject: &Subject) -> Result<Vec<Change>, ToolError> {
    let layer = subject.layer()?;
    let (merged, base) = (subject.merged()?, subject.base()?);
    let mut changes = Collected(Vec::new());
    Walk::new(subject, &layer, &merged, base.as_ref())?.run(&mut changes)?;
    changes.0.sort_by(|one, other| in_order(&one.path).cmp(in_order(&other.path)));
    Ok(changes.0)
}

/// The components of a path: `a/b` comes before `a.b`.
fn in_order(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|&byte| byte == b'/')
}

struct Collected(Vec<Change>);

impl Collected {
    fn add(&mut self, kind: Kind, path: &[u8]) {
        self.0.push(Change { kind, path: [b"/", path].concat() });
    }
}

impl Visitor for Collected {
    fn object(&mut self, _: &Union, object: &Object<'_>) -> Result<(), ToolError> {
        if !object.path.is_empty() {
            self.add(if object.before { Kind::Changed } else { Kind::Added }, object.path);
        }
        Ok(())
    }

    fn opaque(&mut self, _: &[u8]) -> Result<(), ToolError> {
        Ok(())
    }

    fn hidden(&mut self, hidden: &Hidden<'_>) -> Result<(), ToolError> {
        if hidden.before {
            self.add(Kind::Deleted, hidden.path);
        }
        Ok(())
    }
}
