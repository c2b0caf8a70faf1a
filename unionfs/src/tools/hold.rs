//! Nobody else uses an upper while it is checked or converted.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::subject::branches_of;
use super::{Subject, ToolError};
use crate::branch::Branch;
use crate::error::Errno;
use crate::marks::Format;
use crate::union::NewError;
use crate::work::{Work, default_workdir, lock};

/// A work directory that is locked.
#[derive(Debug)]
pub(super) struct Locked {
    path: PathBuf,
    dir: OwnedFd,
}

impl Locked {
    /// Locks a work directory as a mounted union does; `None` if there is none.
    pub(super) fn new(path: &Path) -> Result<Option<Self>, ToolError> {
        let fail = |op, source, hint| ToolError::Branch { path: path.to_owned(), op, source, hint };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = match openat(CWD, path, flags, Mode::empty()) {
            Ok(dir) => dir,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(source) => return Err(fail("open", source, "")),
        };
        match lock(&dir) {
            Ok(()) => Ok(Some(Self { path: path.to_owned(), dir })),
            Err(Errno::AGAIN) => {
                let hint = " (a union is mounted with this writable branch: unmount it first)";
                Err(fail("flock", Errno::AGAIN, hint))
            }
            Err(source) => Err(fail("flock", source, "")),
        }
    }
}

/// Where the work directories of an upper may be.
#[derive(Debug)]
pub(super) struct Workdirs {
    /// The one of its format, or that was named.
    pub(super) own: PathBuf,
    /// It is where its format has it, in the upper.
    inside: bool,
    /// The other format's.
    other: Option<PathBuf>,
}

impl Workdirs {
    pub(super) fn of(subject: &Subject) -> Self {
        let at = |format| default_workdir(&subject.upper.path, format);
        match (&subject.given.workdir, subject.given.format) {
            (Some(path), _) => Self { own: path.clone(), inside: false, other: None },
            (None, Format::Aufs) => {
                Self { own: at(Format::Aufs), inside: true, other: Some(at(Format::Overlay)) }
            }
            (None, Format::Overlay) => {
                Self { own: at(Format::Overlay), inside: false, other: Some(at(Format::Aufs)) }
            }
        }
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(self.own.as_path()).chain(self.other.as_deref())
    }
}

/// All work directories of an upper, held.
#[derive(Debug)]
pub(super) struct Held {
    /// Opened for changes.
    work: Option<(PathBuf, Work)>,
    /// Locked only.
    locked: Vec<Locked>,
}

impl Held {
    /// Locks those that exist; for changes, opens the upper's own, and makes and cleans it.
    pub(super) fn new(branch: &Branch, workdirs: &Workdirs, changes: bool) -> Result<Self, ToolError> {
        let mut held = Self { work: None, locked: Vec::new() };
        if changes {
            let given = (!workdirs.inside).then_some(workdirs.own.as_path());
            let work = Work::open(branch, given).map_err(NewError::from)?;
            held.work = Some((workdirs.own.clone(), work));
        } else {
            held.locked.extend(Locked::new(&workdirs.own)?);
        }
        if let Some(other) = &workdirs.other {
            held.locked.extend(Locked::new(other)?);
        }
        Ok(held)
    }

    /// The one that was opened for changes.
    pub(super) fn work(&self) -> Option<&Work> {
        self.work.as_ref().map(|(_, work)| work)
    }

    /// All of them with their paths, the upper's own first.
    pub(super) fn dirs(&self) -> impl Iterator<Item = (&Path, &OwnedFd)> {
        let work = self.work.iter().map(|(path, work)| (path.as_path(), work.dir()));
        work.chain(self.locked.iter().map(|locked| (locked.path.as_path(), &locked.dir)))
    }
}

/// Refuses a mounted union, and an upper that kernel overlay has mounted.
pub(super) fn refuse_mounted(upper: &Path) -> Result<(), ToolError> {
    let refuse = |why| Err(ToolError::Refused { path: upper.to_owned(), why });
    if branches_of(upper)?.is_some() {
        return refuse("this is a mounted union: unmount it and name its writable branch");
    }
    let Ok(full) = upper.canonicalize() else { return Ok(()) };
    let mounts = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    if overlay_uppers(&mounts).any(|path| path == full.as_os_str().as_encoded_bytes()) {
        return refuse("kernel overlay has it mounted as upperdir: unmount that first");
    }
    Ok(())
}

/// The `upperdir=` of each kernel overlay in /proc/PID/mountinfo (proc_pid_mountinfo(5)).
fn overlay_uppers(mounts: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    mounts.split(|&byte| byte == b'\n').filter_map(|line| {
        let at = line.windows(3).position(|window| window == b" - ")?;
        let mut words = line[at + 3..].split(|&byte| byte == b' ');
        if words.next()? != b"overlay" {
            return None;
        }
        let mut options = words.nth(1)?.split(|&byte| byte == b',');
        options.find_map(|option| option.strip_prefix(b"upperdir=")).map(unescaped)
    })
}

/// A word as proc writes it: `\040` for a blank.
fn unescaped(word: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) if byte == b'\\' => {
                plain.push(code);
                rest = &after[3..];
            }
            _ => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uppers_of_kernel_overlay_are_found() {
        let mounts = b"36 35 98:0 / /m rw - ext4 /dev/root rw,upperdir=/no\n\
            37 35 0:40 / /o rw,noatime shared:1 - overlay none rw,lowerdir=/l,upperdir=/a\\040b,workdir=/w\n\
            38 35 0:41 / /p rw - overlay overlay ro,lowerdir=/l:/k\n";
        let found: Vec<_> = overlay_uppers(mounts).collect();
        assert_eq!(found, [b"/a b".to_vec()]);
    }
}
