//! Owners, modes, times and xattrs, as far as this process may set them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::fs::{self as rfs, AtFlags, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::super::error::Fault;
use super::super::tar::{Entry, Time};

/// Where an owner, mode or kind is kept that could not be given, as containers/storage and fuse-overlayfs do:
/// `UID:GID:MODE[:TYPE]`, the mode in octal, the type `char-MAJOR-MINOR` or `block-MAJOR-MINOR`.
pub(super) const OVERRIDE: &str = "user.containers.override_stat";

/// Marks by which union filesystems hide things. An image hides by `.wh.` names only, so these are not taken.
const MARKS: [&[u8]; 4] =
    [b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs.", b"user.containers.override_"];

/// What this process may do to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rights {
    /// Root of the host: whatever fails, fails.
    Full,
    /// Anyone else, such as root of a user namespace, which the program makes for a user: what the kernel refuses (an
    /// owner that is not mapped, a device) is kept in [`OVERRIDE`].
    Limited,
}

impl Rights {
    /// Those of this process.
    pub(crate) fn of_process() -> Self {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self::from(rustix::process::geteuid().is_root(), &map)
    }

    /// From the effective user and the text of /proc/self/uid_map (user_namespaces(7)).
    fn from(root: bool, map: &str) -> Self {
        let whole = map.split_ascii_whitespace().eq(["0", "0", "4294967295"]);
        if root && whole { Self::Full } else { Self::Limited }
    }
}

/// An object just made, to be given what its entry says.
#[derive(Clone, Copy)]
pub(super) enum Object<'a> {
    /// Open: a file or a directory.
    Open(BorrowedFd<'a>),
    /// By its name in a directory: all else.
    Named(BorrowedFd<'a>, &'a [u8]),
}

/// Gives an object its owner, then its mode (a new owner clears set-user-ID), then its xattrs (a new owner also clears
/// security.capability). The times come last, after the content.
pub(super) fn give(rights: Rights, object: Object<'_>, entry: &Entry) -> Result<(), Fault> {
    let (uid, gid) = (id(entry.uid)?, id(entry.gid)?);
    match chown(object, uid, gid) {
        Ok(()) => {}
        Err(Errno::PERM | Errno::INVAL) if rights == Rights::Limited => keep(object, entry, "")?,
        Err(errno) => return Err(Fault::os("cannot give it its owner")(errno)),
    }
    chmod(object, entry.mode)?;
    entry.xattrs.iter().try_for_each(|(name, value)| xattr(rights, object, name, value))
}

/// Keeps the owner, and the device's number if it is to be one, in [`OVERRIDE`]. Only files and directories can have it
/// (xattr(7)); links and fifos go without.
pub(super) fn keep(object: Object<'_>, entry: &Entry, device: &str) -> Result<(), Fault> {
    let Object::Open(fd) = object else { return Ok(()) };
    let text = format!("{}:{}:{:o}{device}", entry.uid, entry.gid, entry.mode);
    rfs::fsetxattr(fd, OVERRIDE, text.as_bytes(), XattrFlags::empty())
        .map_err(Fault::os("cannot keep its owner in the xattr user.containers.override_stat"))
}

fn id(raw: u64) -> Result<u32, Fault> {
    // -1 means "leave alone" to chown(2).
    u32::try_from(raw).ok().filter(|&id| id != u32::MAX).ok_or(Fault::Owner(raw))
}

fn chown(object: Object<'_>, uid: u32, gid: u32) -> Result<(), Errno> {
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    match object {
        Object::Open(fd) => rfs::fchown(fd, uid, gid),
        Object::Named(dir, name) => rfs::chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// Gives an object its mode.
pub(super) fn chmod(object: Object<'_>, mode: u32) -> Result<(), Fault> {
    let mode = Mode::from_raw_mode(mode);
    match object {
        Object::Open(fd) => rfs::fchmod(fd, mode),
        Object::Named(dir, name) => match rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
            // A link has no mode, and chmod would follow it.
            Ok(stat) if rfs::FileType::from_raw_mode(stat.st_mode).is_symlink() => Ok(()),
            Ok(_) => rfs::chmodat(dir, name, mode, AtFlags::empty()),
            Err(errno) => Err(errno),
        },
    }
    .map_err(Fault::os("cannot give it its mode"))
}

fn xattr(rights: Rights, object: Object<'_>, name: &[u8], value: &[u8]) -> Result<(), Fault> {
    if MARKS.iter().any(|mark| name.starts_with(mark)) {
        return Ok(());
    }
    let flags = XattrFlags::empty();
    let (set, special) = match object {
        Object::Open(fd) => (rfs::fsetxattr(fd, name, value, flags), false),
        // There is no lsetxattr relative to a directory before kernel 6.13 (setxattrat).
        Object::Named(dir, file) => {
            let path = [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), file].concat();
            (rfs::lsetxattr(path, name, value, flags), true)
        }
    };
    match set {
        Ok(()) => Ok(()),
        // As Docker and containerd: not every filesystem has xattrs, and an image should load there all the same.
        Err(Errno::OPNOTSUPP) => dropped(name, Errno::OPNOTSUPP),
        // Only files and directories can have user.* (xattr(7)).
        Err(Errno::PERM) if rights == Rights::Limited || (special && name.starts_with(b"user.")) => {
            dropped(name, Errno::PERM)
        }
        Err(errno) => Err(Fault::os("cannot set one of its xattrs")(errno)),
    }
}

#[allow(clippy::unnecessary_wraps)] // It is an arm of a match on results.
fn dropped(name: &[u8], errno: Errno) -> Result<(), Fault> {
    tracing::warn!(xattr = %name.escape_ascii(), %errno, "an xattr of the archive was left out");
    Ok(())
}

/// The times an entry gives: of access, and of the last change.
pub(super) fn times(mtime: Time, atime: Option<Time>) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.sec, tv_nsec: time.nsec.into() };
    Timestamps { last_access: spec(atime.unwrap_or(mtime)), last_modification: spec(mtime) }
}

/// Sets the times of an object.
pub(super) fn set_times(object: Object<'_>, times: &Timestamps) -> Result<(), Fault> {
    match object {
        Object::Open(fd) => rfs::futimens(fd.as_fd(), times),
        Object::Named(dir, name) => rfs::utimensat(dir, name, times, AtFlags::SYMLINK_NOFOLLOW),
    }
    .map_err(Fault::os("cannot set its times"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_by_user_and_map() {
        let whole = "         0          0 4294967295\n";
        for (case, root, map, want) in [
            ("root of the host", true, whole, Rights::Full),
            ("a user", false, whole, Rights::Limited),
            ("root of one id", true, "0 1000 1\n", Rights::Limited),
            ("root of subids", true, "0 1000 1\n1 100000 65536\n", Rights::Limited),
            ("no /proc", true, "", Rights::Limited),
        ] {
            assert_eq!(Rights::from(root, map), want, "{case}");
        }
    }
}
