//! Marks on disk: whiteouts, opaque directories and redirects, in every format that is read.
//!
//! | mark | aufs and OCI layers | kernel overlay | fuse-overlayfs |
//! |---|---|---|---|
//! | whiteout of `foo` | file `.wh.foo` | character device 0:0 named `foo`; or an empty file with xattr `overlay.whiteout` in a directory with `opaque="x"` | either |
//! | opaque | file `.wh..wh..opq` | xattr `overlay.opaque="y"` | `user.fuseoverlayfs.opaque` |
//! | redirect | our own: a `.wh..wh..opq` that holds a path | xattr `overlay.redirect` | - |
//!
//! The overlay xattrs are `trusted.` or, in a user namespace, `user.`. A directory and a whiteout of its own name in
//! one layer make the directory opaque (OCI image spec, layer.md: a whiteout hides only what lies below its layer).

use std::fmt;
use std::hash::Hasher;
use std::os::fd::{AsFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, statat};
use siphasher::sip128::{Hasher128, SipHasher13};
use smallvec::SmallVec;

use crate::branch::is_overlay_whiteout;
use crate::error::Errno;
use crate::place::Place;
use crate::types::NAME_MAX;

/// What a whiteout's name begins with (aufs_type.h `AUFS_WH_PFX`).
pub(crate) const WHITEOUT_PREFIX: &[u8] = b".wh.";
/// What the names of aufs's own files begin with; they are no whiteouts.
pub(crate) const META_PREFIX: &[u8] = b".wh..wh.";
/// The mark of an opaque directory (aufs_type.h `AUFS_WH_DIROPQ`).
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Beside a character device 0:0 that is a device and no whiteout: this, and its name.
pub(crate) const DEVICE_PREFIX: &[u8] = b".wh..wh.dev.";
/// What the whiteout of a name of more than 251 bytes begins with.
pub(crate) const LONG_PREFIX: &[u8] = b".wh..wh.long.";
/// The default work directory of a writable branch.
pub(crate) const WORK: &[u8] = b".wh..wh.work";

/// Which format new marks are written in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// `.wh.` files: works on every filesystem and for every user, and is the OCI layer format.
    #[default]
    Aufs,
    /// Kernel overlay's: the same upper directory can be mounted by the kernel.
    Overlay,
}

impl fmt::Display for Format {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Aufs => "aufs",
            Self::Overlay => "overlay",
        })
    }
}

impl FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "aufs" => Ok(Self::Aufs),
            "overlay" => Ok(Self::Overlay),
            _ => Err("write aufs or overlay"),
        }
    }
}

/// What the whiteout of a name is called: `.wh.NAME`, or, where that would be too long for a name, `.wh..wh.long.`
/// and a hash, the name being its content.
pub(crate) fn whiteout_name(name: &[u8]) -> SmallVec<[u8; 32]> {
    if is_long(name) {
        let mut hasher = SipHasher13::new();
        hasher.write(name);
        let hash = hasher.finish128();
        return [LONG_PREFIX, format!("{:016x}{:016x}", hash.h1, hash.h2).as_bytes()].concat().into();
    }
    [WHITEOUT_PREFIX, name].concat().into()
}

/// Whether `.wh.` before the name makes it longer than a name may be.
pub(crate) fn is_long(name: &[u8]) -> bool {
    WHITEOUT_PREFIX.len() + name.len() > NAME_MAX
}

/// What the name of a directory entry means in a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Means<'a> {
    /// An object of this name.
    Object,
    /// Hides this name.
    Whiteout(&'a [u8]),
    /// The character device 0:0 of this name is a device.
    Device(&'a [u8]),
    /// Hides the name that is its content.
    LongWhiteout,
    /// Not for users.
    Private,
}

/// Reads a name as aufs does.
pub(crate) fn meaning(name: &[u8]) -> Means<'_> {
    if let Some(device) = name.strip_prefix(DEVICE_PREFIX) {
        return Means::Device(device);
    }
    if name.starts_with(LONG_PREFIX) {
        return Means::LongWhiteout;
    }
    if name.starts_with(META_PREFIX) {
        return Means::Private;
    }
    match name.strip_prefix(WHITEOUT_PREFIX) {
        Some(b"" | b"." | b"..") => Means::Private,
        Some(hidden) => Means::Whiteout(hidden),
        None => Means::Object,
    }
}

/// What the marks of a directory tell of the entries inside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Note {
    /// Empty files may be whiteouts by xattr (`opaque="x"`).
    pub(crate) xwhiteouts: bool,
    /// Files may be copies of the metadata only: kernel overlay has copied something up into it (`impure="y"`).
    pub(crate) metacopies: bool,
}

/// The name that a whiteout of this name hides; `None` for what is no whiteout by its name.
pub(crate) fn hidden_by(name: &[u8]) -> Option<&[u8]> {
    match meaning(name) {
        Means::Whiteout(hidden) => Some(hidden),
        _ => None,
    }
}

/// What marks a directory of one layer carries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DirMarks {
    /// Nothing below shows through.
    pub(crate) opaque: bool,
    note: Note,
    /// It merges with this path of the branches below: absolute from their root, or a name beside its own.
    pub(crate) redirect: Option<Vec<u8>>,
}

pub(crate) const OPAQUE_XATTRS: [&[u8]; 3] =
    [b"trusted.overlay.opaque", b"user.overlay.opaque", b"user.fuseoverlayfs.opaque"];
const IMPURE_XATTRS: [&[u8]; 2] = [b"trusted.overlay.impure", b"user.overlay.impure"];
pub(crate) const REDIRECT_XATTRS: [&[u8]; 2] = [b"trusted.overlay.redirect", b"user.overlay.redirect"];
const WHITEOUT_XATTRS: [&[u8]; 2] = [b"trusted.overlay.whiteout", b"user.overlay.whiteout"];

impl DirMarks {
    /// Reads all marks of an open directory.
    ///
    /// `files` tells whether `.wh.` names are marks here.
    pub(crate) fn read(dir: &Arc<OwnedFd>, files: bool) -> Result<Self, Errno> {
        let mut marks = Self::default();
        if files {
            marks.read_file(dir)?;
        }
        marks.read_xattrs(&Place::Fd(Arc::clone(dir)))?;
        Ok(marks)
    }

    /// What is to be known of the entries, if anything is.
    pub(crate) fn note(&self) -> Option<Note> {
        (self.note != Note::default()).then_some(self.note)
    }

    fn read_file(&mut self, dir: &OwnedFd) -> Result<(), Errno> {
        match statat(dir, OPAQUE, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if stat.st_size > 0 => self.redirect = Some(read_small(dir, OPAQUE)?),
            Ok(_) => self.opaque = true,
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        Ok(())
    }

    fn read_xattrs(&mut self, place: &Place) -> Result<(), Errno> {
        let names = match place.list_xattrs() {
            Ok(names) => names,
            Err(Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) => return Ok(()),
            Err(errno) => return Err(errno),
        };
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
            if OPAQUE_XATTRS.contains(&name) {
                match place.read_xattr(name)?.as_slice() {
                    b"y" => self.opaque = true,
                    b"x" => self.note.xwhiteouts = true,
                    _ => {}
                }
            } else if REDIRECT_XATTRS.contains(&name) {
                self.redirect = Some(place.read_xattr(name)?);
            } else if IMPURE_XATTRS.contains(&name) {
                self.note.metacopies = true;
            }
        }
        Ok(())
    }
}

/// How an object hides its name, being none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Whiteout {
    /// A character device 0:0.
    Device,
    /// An empty file with the attribute.
    Xattr,
}

/// Whether an object is a whiteout of its own name, where kernel overlay's marks count.
///
/// `is_device` tells whether a mark says of a character device 0:0 that it is one; `xwhiteouts`, whether the directory
/// says that there may be whiteouts by attribute (overlayfs.rst, kernel 6.7).
pub(crate) fn whiteout_by(
    stat: &Stat,
    xwhiteouts: bool,
    place: impl FnOnce() -> Place,
    is_device: impl FnOnce() -> Result<bool, Errno>,
) -> Result<Option<Whiteout>, Errno> {
    if is_overlay_whiteout(stat) {
        return Ok((!is_device()?).then_some(Whiteout::Device));
    }
    let empty = stat.st_size == 0 && stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    Ok((xwhiteouts && empty && is_xattr_whiteout(&place())).then_some(Whiteout::Xattr))
}

fn is_xattr_whiteout(place: &Place) -> bool {
    WHITEOUT_XATTRS.iter().any(|name| place.getxattr(name, &mut [0; 8]).is_ok())
}

const METACOPY_XATTRS: [&[u8]; 2] = [b"trusted.overlay.metacopy", b"user.overlay.metacopy"];

/// If a file has its content elsewhere: the redirect to it, or nothing for "below, by the same name"
/// (overlayfs.rst, "Metadata only copy up").
pub(crate) fn read_metacopy(place: &Place) -> Option<Option<Vec<u8>>> {
    METACOPY_XATTRS.iter().find(|name| place.getxattr(name, &mut [0; 64]).is_ok())?;
    Some(REDIRECT_XATTRS.iter().find_map(|name| place.read_xattr(name).ok()))
}

/// The content of a file of a few bytes.
pub(crate) fn read_small(dir: impl AsFd, name: &[u8]) -> Result<Vec<u8>, Errno> {
    let file = openat(dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut content = vec![0; libc::PATH_MAX as usize];
    let len = rustix::io::pread(&file, &mut *content, 0)?;
    content.truncate(len);
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_mean_what_aufs_means_by_them() {
        for (name, want) in [
            (&b"foo"[..], Means::Object),
            (b".wh", Means::Object),
            (b".wh.foo", Means::Whiteout(b"foo")),
            (b".wh..hidden", Means::Whiteout(b".hidden")),
            (b".wh..wh..opq", Means::Private),
            (b".wh..wh.plnk", Means::Private),
            (b".wh.", Means::Private),
            (b".wh...", Means::Private),
            (b".wh..wh.dev.null", Means::Device(b"null")),
        ] {
            assert_eq!(meaning(name), want, "{}", String::from_utf8_lossy(name));
        }
    }
}
