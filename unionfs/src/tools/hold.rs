//! Nobody else uses an upper while it is checked or converted.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, openat};

use super::ToolError;
use super::subject::branches_of;
use crate::error::Errno;
use crate::work::lock;

/// A work directory that is locked.
#[derive(Debug)]
pub(super) struct Locked {
    _dir: OwnedFd,
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
            Ok(()) => Ok(Some(Self { _dir: dir })),
            Err(Errno::AGAIN) => Err(fail(
                "flock",
                Errno::AGAIN,
                " (a union is mounted with this writable branch: unmount it first)",
            )),
            Err(source) => Err(fail("flock", source, "")),
        }
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
