//! `unionfs check`: what a crash, a copy or a foreign hand has left in an upper, and its repair.
//!
//! The upper must not be mounted. Without the branches below only what the upper tells by itself is found: whether a
//! whiteout hides anything, where a redirect leads, and which names the index of hard links serves, those branches know.
//! A repair never changes what a union of these branches shows, and removes no file that has content.

mod below;
mod format;
mod index;
mod tree;

use std::fmt;
use std::path::PathBuf;

use self::format::common_format;
use self::tree::TreeCheck;
use super::hold::{Held, Workdirs, refuse_mounted};
use super::layer::Layer;
use super::rewrite::Editor;
use super::{Subject, ToolError, shown};
use crate::branch::Branch;
use crate::marks::Format;
use crate::union::NewError;

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A conversion between the formats was interrupted.
    Unfinished,
    /// Something in the work directory that was being made when the server died.
    Temporary,
    /// A whiteout that hides nothing.
    Dangling,
    /// A whiteout beside an object of its own layer; beside a directory it makes it opaque.
    Beside,
    /// A `.wh.` name that is no empty file.
    NoWhiteout,
    /// A whiteout of a long name whose hash is not that of its content.
    Stray,
    /// The mark of a device 0:0 that is not there.
    DeviceMark,
    /// A directory merges with this path of the branches below, and they have no such directory.
    Redirect(Vec<u8>),
    /// A directory is both opaque and renamed.
    TwoMarks,
    /// A mark by an attribute whose value means nothing.
    BadMark(Vec<u8>),
    /// So many marks of the format that the rest of the upper does not have.
    OtherFormat(usize, Format),
    /// The record of an origin that is of another inode, or none at all: the branch was copied, or a user wrote it.
    ForeignOrigin,
    /// The record of an origin that this other object has too.
    SharedOrigin(Vec<u8>),
    /// A copy of metadata whose content is not below.
    LostContent,
    /// Times that an interrupted conversion has kept.
    KeptTimes,
    /// An entry of the index of hard links that no name leads to.
    Orphan,
    /// Something in the index of hard links that is none.
    ForeignEntry,
    /// The index has another file for the origin that this object records.
    IndexConflict,
    /// Both formats' work directories have an index of hard links.
    TwoIndexes,
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unfinished => out.write_str("a conversion was interrupted"),
            Self::Temporary => out.write_str("left over in the work directory"),
            Self::Dangling => out.write_str("dangling whiteout: there is nothing to hide"),
            Self::Beside => out.write_str("whiteout beside an object of its own branch"),
            Self::NoWhiteout => out.write_str("named like a whiteout, but it is no empty file"),
            Self::Stray => out.write_str("whiteout of a long name that does not fit its content"),
            Self::DeviceMark => out.write_str("mark of a character device 0:0 that is gone"),
            Self::Redirect(target) => {
                write!(
                    out,
                    "broken redirect: the branches below have no directory {}",
                    shown(target).display()
                )
            }
            Self::TwoMarks => out.write_str("both opaque and redirected"),
            Self::BadMark(name) => {
                write!(out, "attribute {} has no value that is a mark", String::from_utf8_lossy(name))
            }
            Self::OtherFormat(1, format) => {
                write!(out, "a mark of another format than {format}, which the branch has")
            }
            Self::OtherFormat(count, format) => {
                write!(out, "{count} marks of another format than {format}, which the branch has")
            }
            Self::ForeignOrigin => out.write_str("record of an origin that is not its own"),
            Self::SharedOrigin(other) => {
                write!(out, "record of the same origin as {} has", shown(other).display())
            }
            Self::LostContent => {
                out.write_str("has only metadata, and the branches below have no content for it")
            }
            Self::KeptTimes => out.write_str("times kept by an interrupted conversion"),
            Self::Orphan => out.write_str("orphan in the index of hard links"),
            Self::ForeignEntry => out.write_str("no entry of an index of hard links"),
            Self::IndexConflict => out.write_str("the index of hard links has another file for its origin"),
            Self::TwoIndexes => out.write_str("a second index of hard links"),
        }
    }
}

impl Kind {
    /// What a repair does, or else what the user can do.
    pub const fn remedy(&self) -> Result<&'static str, &'static str> {
        match self {
            Self::Unfinished => Err("run 'unionfs convert' again"),
            Self::Temporary
            | Self::Dangling
            | Self::Beside
            | Self::Stray
            | Self::DeviceMark
            | Self::BadMark(_) => Ok("removed"),
            Self::NoWhiteout => Err("rename or remove it"),
            Self::Redirect(_) => Ok("made opaque"),
            Self::TwoMarks => Err("remove one of the marks"),
            Self::OtherFormat(_, Format::Aufs) => Ok("rewritten"),
            Self::OtherFormat(_, Format::Overlay) => Err("run 'unionfs convert --to overlay'"),
            Self::ForeignOrigin | Self::SharedOrigin(_) => Ok("record removed"),
            Self::LostContent => Err("name all branches below, or restore the file"),
            Self::KeptTimes => Ok("times restored"),
            Self::Orphan => Ok("moved to lost+found, or removed if it has other names"),
            Self::ForeignEntry => Err("move it away"),
            Self::IndexConflict => Err("keep one of the two files"),
            Self::TwoIndexes => Err("remove the one of the format that is no longer used"),
        }
    }
}

/// A finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, in the upper or in its work directory.
    pub path: PathBuf,
    /// What.
    pub kind: Kind,
    /// It is no longer there.
    pub repaired: bool,
}

/// Checks an upper, and repairs what it finds if `repair` says so.
///
/// `format` is the one that the upper should have; without it, the one that most of its marks have.
///
/// # Errors
///
/// An upper that is mounted, or a branch that cannot be read or, for a repair, written.
pub fn check(mut subject: Subject, format: Option<Format>, repair: bool) -> Result<Vec<Problem>, ToolError> {
    refuse_mounted(&subject.upper.path)?;
    subject.given.format = match format {
        Some(format) => format,
        None => common_format(&Layer::open(&subject.upper, Format::Aufs)?)?,
    };
    let layer = subject.layer()?;
    let workdirs = Workdirs::of(&subject);
    // Found before the work directory is opened for a repair, which cleans it.
    let mut problems = index::leftovers(&workdirs, repair)?;
    if problems.iter().any(|problem| problem.kind == Kind::Unfinished) {
        // All else is as it is until that is done.
        problems.retain(|problem| problem.kind == Kind::Unfinished);
        return Ok(problems);
    }
    let branch = Branch::open(subject.upper.clone()).map_err(NewError::from)?;
    let held = Held::new(&branch, &workdirs, repair)?;
    let editor = held.work().map(|work| Editor::new(work, false));
    let base = subject.base()?;
    let mut tree = TreeCheck::new(&subject, &layer, base.as_ref(), editor.as_ref(), problems);
    tree.guess_user_names(format.is_none());
    tree.run()?;
    let (mut problems, names) = tree.into_parts();
    index::check(&subject, &held, &names, &mut problems)?;
    Ok(problems)
}
