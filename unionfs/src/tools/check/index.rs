//! The part of a check that looks at the work directory: what was being made, and the index of hard links.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, Stat, mkdirat, openat, renameat, statat, unlinkat};

use super::tree::Names;
use super::{Kind, Problem};
use crate::branch::DIR_FLAGS;
use crate::error::Errno;
use crate::place::Place;
use crate::tools::hold::{Held, Workdirs};
use crate::tools::layer::kind;
use crate::tools::links::identities;
use crate::tools::{Subject, ToolError};
use crate::types::{BranchIndex, FileKind};
use crate::union::{ORIGINS, Union, parse_origin};
use crate::work::{ALONE, CONVERTING, LEFT, LINKS, TEMP, read_names};

/// Where a repair puts files that have content and no name.
const LOST: &str = "lost+found";

/// What an interrupted server or conversion has left.
pub(super) fn leftovers(workdirs: &Workdirs, repair: bool) -> Result<Vec<Problem>, ToolError> {
    let temp = workdirs.own.join(TEMP);
    let mut problems = Vec::new();
    for (name, ..) in names_in(&temp)? {
        let path = temp.join(OsStr::from_bytes(&name));
        problems.push(Problem { path, kind: Kind::Temporary, repaired: repair });
    }
    for path in workdirs.all() {
        let path = path.join(CONVERTING);
        if path.symlink_metadata().is_ok() {
            problems.push(Problem { path, kind: Kind::Unfinished, repaired: false });
        }
    }
    Ok(problems)
}

type Entries = Vec<(Vec<u8>, rustix::fs::FileType, u64)>;

fn names_in(path: &Path) -> Result<Entries, ToolError> {
    match openat(CWD, path, DIR_FLAGS, Mode::empty()).and_then(read_names) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Vec::new()),
        names => names.map_err(|source| failed(path, "readdir")(source)),
    }
}

fn failed(path: &Path, op: &'static str) -> impl FnOnce(Errno) -> ToolError {
    move |source| ToolError::Branch { path: path.to_owned(), op, source, hint: "" }
}

/// Checks the index of hard links.
pub(super) fn check(
    subject: &Subject,
    held: &Held,
    names: &Names,
    problems: &mut Vec<Problem>,
) -> Result<(), ToolError> {
    let mut first = true;
    for (path, dir) in held.dirs() {
        let Ok(links) = openat(dir, LINKS, DIR_FLAGS, Mode::empty()) else { continue };
        let entries = read_names(&links).map_err(failed(path, "readdir"))?;
        if entries.is_empty() {
            continue;
        }
        let path = path.join(LINKS);
        if !first {
            problems.push(Problem { path, kind: Kind::TwoIndexes, repaired: false });
            continue;
        }
        first = false;
        let visible = match subject.knows_below() {
            true => Some(visible(&subject.merged()?)?),
            false => None,
        };
        let upper = &subject.upper.path;
        let mut index =
            Index { upper, path, dir, links, visible, names, repair: held.work().is_some(), problems };
        for (name, ..) in &entries {
            index.entry(name).map_err(failed(&index.path.join(OsStr::from_bytes(name)), "index"))?;
        }
    }
    Ok(())
}

/// The identities that names lead to, as the upper's records name them.
fn visible(union: &Union) -> Result<BTreeSet<String>, ToolError> {
    Ok(identities(union)?.into_iter().map(|ino| union.record_name(ino, BranchIndex::new(0))).collect())
}

/// Whether a text names an identity.
fn is_origin(text: &str) -> bool {
    let (number, label) = text.split_once('.').unwrap_or((text, "0"));
    number.parse::<u64>().is_ok() && u64::from_str_radix(label, 16).is_ok()
}

/// One index, and what is known of what it should hold.
struct Index<'a> {
    upper: &'a Path,
    path: PathBuf,
    dir: &'a OwnedFd,
    links: OwnedFd,
    /// The identities that names of the merged view lead to; `None` where the branches below are not known.
    visible: Option<BTreeSet<String>>,
    names: &'a Names,
    repair: bool,
    problems: &'a mut Vec<Problem>,
}

impl Index<'_> {
    fn found(&mut self, name: &[u8], kind: Kind) -> bool {
        let repaired = self.repair && kind.remedy().is_ok();
        let path = self.path.join(OsStr::from_bytes(name));
        self.problems.push(Problem { path, kind, repaired });
        repaired
    }

    fn entry(&mut self, name: &[u8]) -> Result<(), Errno> {
        let text = String::from_utf8_lossy(name);
        let stat = match statat(&self.links, name, AtFlags::SYMLINK_NOFOLLOW) {
            // Gone with its file.
            Err(Errno::NOENT) => return Ok(()),
            stat => stat?,
        };
        let alone = text.strip_suffix(ALONE);
        let left = text.strip_suffix(LEFT);
        match alone.or(left).unwrap_or(&text) {
            origin if is_origin(origin) && kind(&stat) != FileKind::Directory => match (alone, left) {
                (Some(_), _) if stat.st_nlink > 1 => Ok(()),
                _ => self.copy(name, origin, &stat),
            },
            _ => {
                self.found(name, Kind::ForeignEntry);
                Ok(())
            }
        }
    }

    fn copy(&mut self, name: &[u8], origin: &str, stat: &Stat) -> Result<(), Errno> {
        if let Some((_, path)) = self
            .names
            .claims
            .get(origin)
            .filter(|(inode, _)| *inode != stat.st_ino && !name.ends_with(LEFT.as_bytes()))
        {
            self.problems.push(Problem {
                path: self.upper.join(OsStr::from_bytes(path)),
                kind: Kind::IndexConflict,
                repaired: false,
            });
            return Ok(());
        }
        if self.records_another(name, origin) {
            self.found(name, Kind::ForeignEntry);
            return Ok(());
        }
        let orphan = self.visible.as_ref().is_some_and(|visible| !visible.contains(origin));
        if !orphan || !self.found(name, Kind::Orphan) {
            return Ok(());
        }
        if stat.st_nlink > 1 {
            return unlinkat(&self.links, name, AtFlags::empty());
        }
        match mkdirat(self.dir, LOST, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        renameat(&self.links, name, openat(self.dir, LOST, DIR_FLAGS, Mode::empty())?.as_fd(), name)
    }

    /// Whether the file says that it is the copy of another origin.
    fn records_another(&self, name: &[u8], origin: &str) -> bool {
        let Ok(links) = self.links.try_clone() else { return false };
        let place = Place::Name(Arc::new(links), name.into());
        let record = ORIGINS.iter().find_map(|attribute| place.read_xattr(attribute).ok());
        record.is_some_and(|value| parse_origin(&value).is_some_and(|(other, _)| other != origin))
    }
}
