//! Copies of directory trees, every act relative to a descriptor, so that no link in the tree leads out of it.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

/// The prefix of aufs and OCI whiteouts, and the mark of an opaque directory (OCI image layer specification).
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// What a name in a layer means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mark<'a> {
    /// It is an object.
    Object,
    /// It takes this name away from what lies below.
    Hides(&'a [u8]),
    /// It takes everything away from what lies below its directory.
    Opaque,
    /// It is aufs's own housekeeping.
    Private,
}

/// Tells what `name` means in a layer.
pub(crate) fn mark(name: &[u8]) -> Mark<'_> {
    match name.strip_prefix(WHITEOUT) {
        None => Mark::Object,
        Some(_) if name == OPAQUE => Mark::Opaque,
        Some(hidden) if hidden.starts_with(WHITEOUT) => Mark::Private,
        Some(hidden) => Mark::Hides(hidden),
    }
}

/// Opens a directory to read it and to act below it.
pub(crate) fn open_dir(dir: impl AsFd, name: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::RDONLY | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
}

/// The names in a directory, without `.` and `..`.
pub(crate) fn names(dir: impl AsFd) -> Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_owned();
        if !matches!(name.to_bytes(), b"." | b"..") {
            names.push(name);
        }
    }
    Ok(names)
}

/// One copy in progress.
#[derive(Debug)]
pub(crate) struct Copy<'a> {
    /// Whether marks in the source are obeyed (as a layer's) or copied like anything else.
    obey_marks: bool,
    /// The root of the copy, where hard links are made from.
    root: BorrowedFd<'a>,
    /// Where files with several links were copied to, by device and inode.
    links: HashMap<(u64, u64), CString>,
}

impl<'a> Copy<'a> {
    /// A copy into `root`; with `obey_marks` the source is a layer over what `root` holds already.
    pub(crate) fn into(root: BorrowedFd<'a>, obey_marks: bool) -> Self {
        Self { obey_marks, root, links: HashMap::new() }
    }

    /// Copies everything in the directory `from`, its own attributes included.
    pub(crate) fn run(mut self, from: BorrowedFd<'_>) -> Result<(), Errno> {
        let root = self.root;
        self.directory(from, root, b"")?;
        copy_attributes(from, root)
    }

    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, path: &[u8]) -> Result<(), Errno> {
        let names = names(from)?;
        if self.obey_marks {
            hide(&names, to)?;
        }
        for name in names {
            if self.obey_marks && mark(name.to_bytes()) != Mark::Object {
                continue;
            }
            let path = [path, if path.is_empty() { b"" } else { b"/" }, name.to_bytes()].concat();
            self.object(from, to, &name, &path)?;
        }
        Ok(())
    }

    fn object(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
    ) -> Result<(), Errno> {
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let source = open_dir(from, name)?;
            let target = make_directory(to, name)?;
            self.directory(source.as_fd(), target.as_fd(), path)?;
            return copy_attributes(source.as_fd(), target.as_fd());
        }
        remove(to, name)?;
        let linked = stat.st_nlink > 1;
        if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)).filter(|_| linked) {
            return rustix::fs::linkat(self.root, first, to, name, AtFlags::empty());
        }
        match kind {
            FileType::RegularFile => copy_file(from, to, name)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(target, to, name)?;
                set_attributes(to, name, &stat)?;
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(0o600), stat.st_rdev)?;
                set_attributes(to, name, &stat)?;
            }
        }
        if linked {
            let path = CString::new(path).map_err(|_| Errno::INVAL)?;
            self.links.insert((stat.st_dev, stat.st_ino), path);
        }
        Ok(())
    }
}

/// Removes from `to` what the marks among `names` hide.
fn hide(names: &[CString], to: BorrowedFd<'_>) -> Result<(), Errno> {
    for name in names {
        match mark(name.to_bytes()) {
            Mark::Hides(hidden) => remove(to, &CString::new(hidden).map_err(|_| Errno::INVAL)?)?,
            Mark::Opaque => remove_content(to)?,
            Mark::Object | Mark::Private => {}
        }
    }
    Ok(())
}

fn make_directory(to: BorrowedFd<'_>, name: &CStr) -> Result<OwnedFd, Errno> {
    match rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)) {
        Ok(()) => {}
        Err(Errno::EXIST) => match open_dir(to, name) {
            Err(Errno::NOTDIR | Errno::LOOP) => {
                remove(to, name)?;
                rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
            }
            opened => return opened,
        },
        Err(errno) => return Err(errno),
    }
    open_dir(to, name)
}

fn copy_file(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let source = rustix::fs::openat(from, name, read, Mode::empty())?;
    let write = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let target = rustix::fs::openat(to, name, write, Mode::from_raw_mode(0o600))?;
    if rustix::fs::ioctl_ficlone(&target, &source).is_err() {
        let (mut source, mut target) = (
            std::fs::File::from(source.try_clone().map_err(errno)?),
            std::fs::File::from(target.try_clone().map_err(errno)?),
        );
        std::io::copy(&mut source, &mut target).map_err(errno)?; // copy_file_range(2) where it can
    }
    copy_attributes(source.as_fd(), target.as_fd())
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Gives the open file or directory `to` the owner, mode, extended attributes and times of `from`.
pub(crate) fn copy_attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let stat = rustix::fs::fstat(from)?;
    rustix::fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    // After chown, which clears set-user-ID and file capabilities.
    rustix::fs::fchmod(to, permissions(&stat))?;
    copy_xattrs(from, to)?;
    rustix::fs::futimens(to, &times(&stat))
}

fn set_attributes(to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), nofollow)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        rustix::fs::chmodat(to, name, permissions(stat), AtFlags::empty())?;
    }
    rustix::fs::utimensat(to, name, &times(stat), nofollow)
}

fn permissions(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & RawMode::from(0o7777u16))
}

fn times(stat: &Stat) -> Timestamps {
    let time =
        |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: i64::try_from(nsec).unwrap_or_default() };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn copy_xattrs(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::flistxattr(from, &mut names[..]) {
        Err(Errno::NOTSUP) => 0,
        listed => listed?,
    };
    let mut value = vec![0; 64 * 1024];
    for name in names[..length].split_inclusive(|byte| *byte == 0) {
        let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
        let length = rustix::fs::fgetxattr(from, name, &mut value[..])?;
        match rustix::fs::fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            // The target's filesystem has no such attributes, or a user may not set this kind: the content counts.
            Err(Errno::NOTSUP | Errno::PERM) => {}
            set => set?,
        }
    }
    Ok(())
}

/// Removes whatever has this name, a whole tree included; nothing is nothing to do.
pub(crate) fn remove(dir: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        done => return done,
    }
    remove_content(open_dir(dir, name)?.as_fd())?;
    rustix::fs::unlinkat(dir, name, AtFlags::REMOVEDIR)
}

fn remove_content(dir: BorrowedFd<'_>) -> Result<(), Errno> {
    names(dir)?.iter().try_for_each(|name| remove(dir, name))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        fs::File::open(path).unwrap().into()
    }

    #[test]
    fn mark_by_name() {
        for (name, want) in [
            (&b"a"[..], Mark::Object),
            (b".whale", Mark::Object),
            (b".wh.a", Mark::Hides(b"a")),
            (b".wh..wh..opq", Mark::Opaque),
            (b".wh..wh.plnk", Mark::Private),
        ] {
            assert_eq!(mark(name), want, "{name:?}");
        }
    }

    #[test]
    fn copy_obeys_marks_and_keeps_links() {
        let temp = tempfile::tempdir().unwrap();
        let [lower, upper, target] = ["lower", "upper", "target"].map(|name| temp.path().join(name));
        for dir in [&lower, &upper, &target] {
            fs::create_dir_all(dir.join("d")).unwrap();
        }
        fs::write(lower.join("gone"), "1").unwrap();
        fs::write(lower.join("d/covered"), "1").unwrap();
        fs::write(lower.join("dir-later"), "1").unwrap();
        symlink("/etc/passwd", lower.join("link")).unwrap();
        fs::write(upper.join(".wh.gone"), "").unwrap();
        fs::write(upper.join("d/.wh..wh..opq"), "").unwrap();
        fs::write(upper.join("d/one"), "2").unwrap();
        fs::hard_link(upper.join("d/one"), upper.join("two")).unwrap();
        fs::create_dir(upper.join("dir-later")).unwrap();
        fs::set_permissions(upper.join("d"), fs::Permissions::from_mode(0o1751)).unwrap();
        for layer in [&lower, &upper] {
            Copy::into(open(&target).as_fd(), true).run(open(layer).as_fd()).unwrap();
        }
        let mut found: Vec<_> =
            fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        found.sort();
        assert_eq!(found, ["d", "dir-later", "link", "two"]);
        assert!(target.join("dir-later").is_dir());
        assert!(!target.join("d/covered").exists());
        assert_eq!(fs::read_link(target.join("link")).unwrap(), Path::new("/etc/passwd"));
        let ino = |name: &str| fs::metadata(target.join(name)).unwrap().ino();
        assert_eq!(ino("two"), ino("d/one"));
        assert_eq!(fs::metadata(target.join("d")).unwrap().permissions().mode() & 0o7777, 0o1751);
    }
}
