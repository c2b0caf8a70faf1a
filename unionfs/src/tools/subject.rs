//! What a tool was pointed at: an upper alone, an upper with the branches below it, or a mounted union.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::ToolError;
use super::layer::Layer;
use crate::branch::{BranchSpec, Perm};
use crate::error::Errno;
use crate::marks::Format;
use crate::union::{FORMAT, Options, Union, WORKDIR, told_branches};

/// Longest answer of a mount (`XATTR_SIZE_MAX`, linux/limits.h).
const LONGEST: usize = 65536;

/// An upper, and what is known of what lies below it.
#[derive(Debug)]
pub struct Subject {
    pub(super) upper: BranchSpec,
    pub(super) given: Given,
}

/// What the user tells of an upper that is not mounted.
#[derive(Clone, Debug, Default)]
pub struct Given {
    /// The branches below, by priority; `None` where they are not known.
    pub lowers: Option<Vec<BranchSpec>>,
    /// The work directory, if it is not where the format has it by default.
    pub workdir: Option<PathBuf>,
    /// In kernel overlay's format, names that begin with `.wh.` are the user's; else all marks count.
    pub format: Format,
}

impl Subject {
    /// The root of a mounted union, or an upper, of which `given` tells more.
    ///
    /// Of a mounted union the upper is the writable branch of the highest priority; all branches after it lie below,
    /// be they writable or not.
    ///
    /// # Errors
    ///
    /// A mounted union without a writable branch, or with lower branches given, which it tells itself.
    pub fn new(path: &Path, given: Given) -> Result<Self, ToolError> {
        let Some(mut branches) = branches_of(path)? else {
            let upper = BranchSpec { path: path.to_owned(), perm: Perm::READ_WRITE };
            return Ok(Self { upper, given });
        };
        let refuse = |why| ToolError::Refused { path: path.to_owned(), why };
        if given.lowers.is_some() {
            return Err(refuse(
                "this is a mounted union, which tells its branches itself: leave --lower out",
            ));
        }
        let at = branches.iter().position(|branch| branch.perm.writable());
        let at =
            at.ok_or_else(|| refuse("no branch of this union is writable, so nothing can have changed"))?;
        let lowers = branches.split_off(at + 1);
        let upper = branches.pop().ok_or_else(|| refuse("the union tells no branches"))?;
        let given = Given { lowers: Some(lowers), workdir: workdir_of(path)?, format: format_of(path)? };
        Ok(Self { upper, given })
    }

    /// Whether it is known what lies below, if only that nothing does.
    pub(super) const fn knows_below(&self) -> bool {
        self.given.lowers.is_some()
    }

    /// The upper, to be read alone.
    pub(super) fn layer(&self) -> Result<Layer, ToolError> {
        Layer::open(&self.upper, self.given.format)
    }

    /// The merged view, never written.
    pub(super) fn merged(&self) -> Result<Union, ToolError> {
        let branches =
            std::iter::once(&self.upper).chain(self.given.lowers.iter().flatten()).cloned().collect();
        self.unite(branches)
    }

    /// The view without the upper; `None` where it is not known, or empty.
    pub(super) fn base(&self) -> Result<Option<Union>, ToolError> {
        match &self.given.lowers {
            Some(lowers) if !lowers.is_empty() => self.unite(lowers.clone()).map(Some),
            _ => Ok(None),
        }
    }

    fn unite(&self, branches: Vec<BranchSpec>) -> Result<Union, ToolError> {
        let Given { workdir, format, .. } = self.given.clone();
        Ok(Union::new(branches, Options { read_only: true, workdir, format, ..Options::default() })?)
    }
}

/// The branches of the union mounted at `path`; `None` if that is no root of one.
pub(super) fn branches_of(path: &Path) -> Result<Option<Vec<BranchSpec>>, ToolError> {
    Ok(answer(path, told_branches(path))?.and_then(|list| parse_shown(&list)))
}

/// The format that the union mounted at `path` writes.
pub(super) fn format_of(path: &Path) -> Result<Format, ToolError> {
    let text = told(path, FORMAT)?.unwrap_or_default();
    Ok(std::str::from_utf8(&text).ok().and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// The work directory that was chosen for the union mounted at `path`, if one was.
pub(super) fn workdir_of(path: &Path) -> Result<Option<PathBuf>, ToolError> {
    Ok(told(path, WORKDIR)?.map(|path| PathBuf::from(OsString::from_vec(path))))
}

/// What a virtual attribute of a mounted union's root tells.
fn told(path: &Path, name: &str) -> Result<Option<Vec<u8>>, ToolError> {
    let mut value = vec![0; LONGEST];
    let len = rustix::fs::getxattr(path, name, &mut *value);
    answer(path, len.map(|len| value[..len].to_vec()))
}

fn answer(path: &Path, told: Result<Vec<u8>, Errno>) -> Result<Option<Vec<u8>>, ToolError> {
    match told {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(source) => Err(ToolError::Branch { path: path.to_owned(), op: "getxattr", source, hint: "" }),
    }
}

/// Reads what a union tells: a line `PATH=PERM` for each branch.
fn parse_shown(list: &[u8]) -> Option<Vec<BranchSpec>> {
    let lines = list.split(|&byte| byte == b'\n').filter(|line| !line.is_empty());
    lines.map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<BranchSpec> {
    let at = line.iter().rposition(|&byte| byte == b'=')?;
    let perm = Perm::parse(std::str::from_utf8(&line[at + 1..]).ok()?)?;
    Some(BranchSpec { path: PathBuf::from(OsStr::from_bytes(&line[..at])), perm })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn told_branches_are_read_back() {
        let specs = parse_shown(b"/a=b=rw\n/c:d=ro+wh\n/e=ro\n").expect("a list");
        let text: Vec<_> = specs.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["/a=b=rw", "/c:d=ro+wh", "/e=ro"]);
        assert_eq!(parse_shown(b"/a\n"), None);
    }
}
