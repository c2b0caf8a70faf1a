//! What a user writes to name a branch: `PATH`, `PATH=rw`, `PATH=ro+wh`, joined by `:`.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Whether a branch takes changes (aufs(5), "Branch Syntax").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// `rw`: changes are made here.
    ReadWrite,
    /// `ro`: never written.
    ReadOnly,
    /// `rr`: never written, and cannot change at all (a medium such as squashfs).
    ReallyReadOnly,
}

/// The permission and attributes of a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perm {
    /// Whether it takes changes.
    pub access: Access,
    /// `+wh`: whiteouts and opaque marks found here hide what lies below.
    pub whiteouts: bool,
    /// `+nolwh`: whiteouts are separate files, not hard links to one.
    pub nolwh: bool,
}

impl Perm {
    /// `rw`.
    pub const READ_WRITE: Self = Self { access: Access::ReadWrite, whiteouts: true, nolwh: false };
    /// `ro+wh`, the default for all but the first branch.
    pub const READ_ONLY: Self = Self { access: Access::ReadOnly, whiteouts: true, nolwh: false };

    /// Whether the branch takes changes.
    pub const fn writable(self) -> bool {
        matches!(self.access, Access::ReadWrite)
    }

    /// Reads `rw`, `ro+wh`, `rr`, in either case; `None` for what is no permission.
    ///
    /// As with aufs, whiteouts in a `ro` or `rr` branch count only with `+wh`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let mut words = text.split('+');
        let access = match words.next()? {
            "rw" => Access::ReadWrite,
            "ro" => Access::ReadOnly,
            "rr" => Access::ReallyReadOnly,
            _ => return None,
        };
        let mut perm = Self { access, whiteouts: access == Access::ReadWrite, nolwh: false };
        for word in words {
            match word {
                "wh" if access != Access::ReadWrite => perm.whiteouts = true,
                "nolwh" if access == Access::ReadWrite => perm.nolwh = true,
                _ => return None,
            }
        }
        Some(perm)
    }
}

impl fmt::Display for Perm {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (base, whiteouts) = match self.access {
            Access::ReadWrite => ("rw", false),
            Access::ReadOnly => ("ro", self.whiteouts),
            Access::ReallyReadOnly => ("rr", self.whiteouts),
        };
        out.write_str(base)?;
        out.write_str(if whiteouts { "+wh" } else { "" })?;
        out.write_str(if self.nolwh { "+nolwh" } else { "" })
    }
}

/// A branch as it was named: nothing opened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BranchSpec {
    /// The directory.
    pub path: PathBuf,
    /// Its permission.
    pub perm: Perm,
}

/// Why a branch list was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// `A::B`, or a list with nothing in it.
    #[error(
        "branch list {0:?} has an empty entry: write PATH[=PERM]:PATH[=PERM]…, with '\\:' for a colon in a path"
    )]
    Empty(OsString),
    /// `PATH=rx`: looks like a permission, is none.
    #[error("branch {path:?}: unknown permission {perm:?}: use rw, ro, rr, with +wh (ro, rr) or +nolwh (rw)")]
    Perm {
        /// The branch's path.
        path: OsString,
        /// The word that is no permission.
        perm: String,
    },
}

impl BranchSpec {
    /// Reads a list as of aufs: the first branch is `rw` and the others `ro+wh` unless they say otherwise.
    ///
    /// `\:` stands for a colon inside a path and `\\` for a backslash. An `=` belongs to the path unless what
    /// follows the last one looks like a permission: two or three letters, with attributes.
    ///
    /// # Errors
    ///
    /// An empty entry, or a word after `=` that looks like a permission and is none.
    pub fn parse_list(list: impl AsRef<OsStr>) -> Result<Vec<Self>, SpecError> {
        Self::parse_list_from(list, Perm::READ_WRITE)
    }

    /// Reads the same list, with `first` for a first branch that says nothing.
    ///
    /// # Errors
    ///
    /// As [`BranchSpec::parse_list`].
    pub fn parse_list_from(list: impl AsRef<OsStr>, first: Perm) -> Result<Vec<Self>, SpecError> {
        let list = list.as_ref();
        let mut specs = Vec::new();
        for raw in split_unescaped(list.as_bytes()) {
            let default = if specs.is_empty() { first } else { Perm::READ_ONLY };
            let spec = Self::parse_one(&raw, default)?;
            if spec.path.as_os_str().is_empty() {
                return Err(SpecError::Empty(list.to_owned()));
            }
            specs.push(spec);
        }
        Ok(specs)
    }

    /// Reads a list as of kernel overlay's `lowerdir=`: paths alone, all of them read-only.
    ///
    /// # Errors
    ///
    /// An empty entry; kernel overlay's `::` in front of data-only branches is one, too.
    pub fn parse_paths(list: impl AsRef<OsStr>) -> Result<Vec<Self>, SpecError> {
        let list = list.as_ref();
        let paths = split_unescaped(list.as_bytes()).into_iter();
        let specs = paths.map(|path| match path.as_slice() {
            [] => Err(SpecError::Empty(list.to_owned())),
            _ => Ok(Self { path: OsString::from_vec(path).into(), perm: Perm::READ_ONLY }),
        });
        specs.collect()
    }

    fn parse_one(raw: &[u8], default: Perm) -> Result<Self, SpecError> {
        let (path, word) = match raw.iter().rposition(|&byte| byte == b'=') {
            Some(at) if looks_like_perm(&raw[at + 1..]) => (&raw[..at], &raw[at + 1..]),
            _ => (raw, &raw[..0]),
        };
        let path = OsString::from_vec(path.to_vec());
        let perm = if word.is_empty() {
            default
        } else {
            let word = String::from_utf8_lossy(word);
            Perm::parse(&word)
                .ok_or_else(|| SpecError::Perm { path: path.clone(), perm: word.into_owned() })?
        };
        Ok(Self { path: path.into(), perm })
    }
}

impl fmt::Display for BranchSpec {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}={}", self.path.display(), self.perm)
    }
}

/// Two letters, then attributes: `rw`, `rx`, `ro+wh`; not `usr`, `1`, `b/c`.
fn looks_like_perm(word: &[u8]) -> bool {
    let base = word.split(|&byte| byte == b'+').next().unwrap_or_default();
    base.len() == 2 && word.iter().all(|byte| byte.is_ascii_alphabetic() || *byte == b'+')
}

/// Splits at each `:` that no backslash precedes, and takes the backslashes away.
fn split_unescaped(list: &[u8]) -> Vec<Vec<u8>> {
    let mut parts = vec![Vec::new()];
    let mut bytes = list.iter().copied();
    while let Some(byte) = bytes.next() {
        let last = parts.len() - 1;
        match byte {
            b':' => parts.push(Vec::new()),
            b'\\' => match bytes.next() {
                Some(escaped @ (b':' | b'\\')) => parts[last].push(escaped),
                Some(other) => parts[last].extend([b'\\', other]),
                None => parts[last].push(b'\\'),
            },
            _ => parts[last].push(byte),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branch_lists_are_read_as_aufs_reads_them() {
        for (case, list, want) in [
            ("defaults", "A:B:C", "A=rw B=ro+wh C=ro+wh"),
            ("explicit", "A=rw:B=ro+wh:C=rr", "A=rw B=ro+wh C=rr"),
            ("ro without +wh", "A=ro:B=rw", "A=ro B=rw"),
            ("attributes", "A=rw+nolwh:B=rr+wh", "A=rw+nolwh B=rr+wh"),
            ("unionfs-fuse's capitals", "A=RW:B=RO", "A=rw B=ro"),
            ("escaped colon", r"/a\:b:/c", "/a:b=rw /c=ro+wh"),
            ("escaped backslash", r"/a\\:/c", r"/a\=rw /c=ro+wh"),
            ("equals in a path", "/x=1/y:/z=usr", "/x=1/y=rw /z=usr=ro+wh"),
        ] {
            let specs = BranchSpec::parse_list(list).expect(case);
            let text: Vec<_> = specs.iter().map(ToString::to_string).collect();
            assert_eq!(text.join(" "), want, "{case}");
        }
    }

    #[test]
    fn bad_branch_lists_are_refused() {
        for (case, list) in [
            ("nothing", ""),
            ("hole", "A::B"),
            ("unknown permission", "A=rx"),
            ("rw+wh is no aufs word", "A=rw+wh"),
        ] {
            assert!(BranchSpec::parse_list(list).is_err(), "{case}");
        }
    }
}
