//! Which format to write into a branch that came by kernel overlay's words.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags, mkdirat, mknodat, openat, unlinkat};

use crate::branch::DIR_FLAGS;
use crate::error::Errno;
use crate::marks::{Format, Means, meaning};
use crate::place::Place;
use crate::work::read_names;

/// Where a device 0:0 is tried.
const DEVICE: &str = ".unionfs-probe-device";
/// Where an opaque mark is tried.
const DIRECTORY: &str = ".unionfs-probe-directory";
/// On the root of a branch: names that begin with `.wh.` are a user's there.
const DECIDED: [&[u8]; 2] = [b"trusted.unionfs.format", b"user.unionfs.format"];
const OVERLAY: &[u8] = b"overlay";

impl Format {
    /// Kernel overlay's where the upper directory can hold its marks and has none of aufs's, as fuse-overlayfs and
    /// image tools leave them; else aufs's.
    ///
    /// The marks are a device 0:0, which anybody may make since Linux 5.8, and an attribute, `trusted.` for who has
    /// CAP_SYS_ADMIN on the filesystem, else `user.`.
    pub fn that_fits(upper: &Path, workdir: &Path) -> Self {
        let flags = DIR_FLAGS.difference(OFlags::NOFOLLOW);
        let (Ok(upper), Ok(work)) =
            (openat(CWD, upper, flags, Mode::empty()), openat(CWD, workdir, flags, Mode::empty()))
        else {
            return Self::Aufs;
        };
        let root = Place::Fd(Arc::new(upper));
        if DECIDED.iter().any(|name| root.read_xattr(name).is_ok_and(|value| value == OVERLAY)) {
            return Self::Overlay;
        }
        let Place::Fd(upper) = &root else { return Self::Aufs };
        if can_hold_marks(&work) && !has_aufs_marks(upper) { Self::Overlay } else { Self::Aufs }
    }

    /// Writes down that an upper directory is in kernel overlay's format, so that it is searched once.
    pub fn remember_overlay(upper: &Path) {
        let flags = DIR_FLAGS.difference(OFlags::NOFOLLOW);
        let Ok(upper) = openat(CWD, upper, flags, Mode::empty()) else { return };
        let root = Place::Fd(Arc::new(upper));
        if !DECIDED.iter().any(|name| root.read_xattr(name).is_ok_and(|value| value == OVERLAY)) {
            // Undecided, the directory is searched again next time.
            DECIDED.iter().find(|name| root.setxattr(name, OVERLAY, XattrFlags::empty()).is_ok());
        }
    }
}

fn can_hold_marks(work: &OwnedFd) -> bool {
    let made = mknodat(work, DEVICE, FileType::CharacterDevice, Mode::empty(), 0);
    let device = matches!(made, Ok(()) | Err(Errno::EXIST));
    let fits = device && attribute_fits(work).unwrap_or(false);
    for (name, how) in [(DEVICE, AtFlags::empty()), (DIRECTORY, AtFlags::REMOVEDIR)] {
        // Also what a probe that was killed has left.
        unlinkat(work, name, how).unwrap_or_default();
    }
    fits
}

fn attribute_fits(dir: &OwnedFd) -> Result<bool, Errno> {
    match mkdirat(dir, DIRECTORY, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    let place = Place::Fd(Arc::new(openat(dir, DIRECTORY, DIR_FLAGS, Mode::empty())?));
    let names = [&b"trusted.overlay.opaque"[..], b"user.overlay.opaque"];
    Ok(names.iter().any(|name| place.setxattr(name, b"y", XattrFlags::empty()).is_ok()))
}

/// Whether a mark of aufs's format is anywhere below; what cannot be read has none that would count.
fn has_aufs_marks(dir: impl AsFd) -> bool {
    let Ok(names) = read_names(&dir) else { return false };
    names.iter().any(|(name, kind, _)| {
        meaning(name) != Means::Object
            || (*kind == FileType::Directory
                && openat(&dir, name.as_slice(), DIR_FLAGS, Mode::empty()).is_ok_and(has_aufs_marks))
    })
}
