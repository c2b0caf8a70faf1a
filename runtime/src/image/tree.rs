//! Directories of the store as file descriptors: every act is relative to one, no path is joined below them.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::fs::{self as rfs, AtFlags, Dir, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;

/// How often a resolution is begun anew when a rename anywhere on the host disturbed it (openat2(2), EAGAIN).
const MAX_RETRIES: usize = 128;

/// Opens a path below `root` as a process whose root it is would: no `..` and no link leads out of it.
pub(super) fn open_in(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, ResolveFlags::IN_ROOT)
}

/// Opens a path below `root` that has no symbolic link in it.
pub(super) fn open_plain(root: impl AsFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: impl AsFd, path: &[u8], flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let how = how | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    for _ in 0..MAX_RETRIES {
        match rfs::openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN) => {}
            done => return done,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the directory `name` of `dir`, not through a link.
pub(super) fn open_dir(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rfs::openat(dir, name, flags, Mode::empty())
}

/// Opens the file `name` of `dir` for reading, not through a link.
pub(super) fn open_file(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<File, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rfs::openat(dir, name, flags, Mode::empty()).map(File::from)
}

/// Makes a new file for writing that only the owner can read.
pub(super) fn create_file(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<File, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rfs::openat(dir, name, flags, Mode::RUSR | Mode::WUSR).map(File::from)
}

/// Makes and opens a directory that only the owner can enter.
pub(super) fn make_dir(dir: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    rfs::mkdirat(&dir, name, Mode::RWXU)?;
    open_dir(dir, name)
}

/// Makes a directory that only the owner can enter, unless it is there, and opens it.
pub(super) fn ensure_dir(dir: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    match rfs::mkdirat(&dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => open_dir(dir, name),
        Err(errno) => Err(errno),
    }
}

/// Writes a new file and has it reach the disk.
pub(super) fn write_file(dir: impl AsFd, name: &str, content: &[u8]) -> io::Result<()> {
    let mut file = create_file(dir, name)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Whether `dir` has this name.
pub(super) fn exists(dir: impl AsFd, name: impl rustix::path::Arg) -> Result<bool, Errno> {
    match rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// The names in a directory but for `.` and `..`, with their kinds.
pub(super) fn list(dir: impl AsFd) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push((name.to_vec(), entry.file_type()));
        }
    }
    Ok(names)
}

/// The kind that `d_type` left open.
pub(super) fn kind_of(dir: impl AsFd, name: &[u8], told: FileType) -> Result<FileType, Errno> {
    if told != FileType::Unknown {
        return Ok(told);
    }
    let stat = rfs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Removes `name` of `dir` and all below it.
///
/// It holds two descriptors however deep the tree: an image may nest 2,000 directories to exhaust them, so each is
/// first moved up to the top. A name that is not there is fine.
pub(super) fn remove_tree(dir: impl AsFd, name: &[u8]) -> Result<(), Errno> {
    let dir = dir.as_fd();
    match rfs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno),
    }
    let top = open_dir(dir, name)?;
    let mut lifted = 0u64;
    loop {
        let names = list(&top)?;
        if names.is_empty() {
            return rfs::unlinkat(dir, name, AtFlags::REMOVEDIR);
        }
        for (child, told) in names {
            if kind_of(&top, &child, told)? == FileType::Directory {
                empty(&top, &child, &mut lifted)?;
            } else {
                rfs::unlinkat(&top, &child, AtFlags::empty())?;
            }
        }
    }
}

/// Removes the directory `name` of `top`, moving the directories in it up to `top`.
fn empty(top: &OwnedFd, name: &[u8], lifted: &mut u64) -> Result<(), Errno> {
    let dir = open_dir(top, name)?;
    for (child, told) in list(&dir)? {
        if kind_of(&dir, &child, told)? == FileType::Directory {
            lift(&dir, &child, top, lifted)?;
        } else {
            rfs::unlinkat(&dir, &child, AtFlags::empty())?;
        }
    }
    rfs::unlinkat(top, name, AtFlags::REMOVEDIR)
}

/// Moves a directory to `top` under a name that is free there.
pub(super) fn lift(dir: impl AsFd, name: &[u8], top: impl AsFd, lifted: &mut u64) -> Result<Vec<u8>, Errno> {
    loop {
        let free = format!("lifted-{lifted}").into_bytes();
        *lifted += 1;
        match rfs::renameat_with(&dir, name, &top, &free, RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            done => return done.map(|()| free),
        }
    }
}

/// A name for the operating system.
pub(super) fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn remove_tree_takes_all_and_nothing_else() {
        let scratch = tempfile::tempdir().unwrap();
        let top = open_dir(rfs::CWD, scratch.path()).unwrap();
        make_dir(&top, "tree").unwrap();
        let mut dir = open_dir(&top, "tree").unwrap();
        for _ in 0..300 {
            create_file(&dir, "file").unwrap();
            rfs::symlinkat("/etc", &dir, "link").unwrap();
            dir = make_dir(&dir, "d").unwrap();
        }
        remove_tree(&top, b"tree").unwrap();
        remove_tree(&top, b"tree").unwrap();
        assert_eq!(list(&top).unwrap(), []);
        assert!(fs::metadata("/etc").unwrap().is_dir());
    }

    #[test]
    fn open_in_stays_inside() {
        let scratch = tempfile::tempdir().unwrap();
        fs::create_dir_all(scratch.path().join("root/etc")).unwrap();
        fs::write(scratch.path().join("root/etc/passwd"), "inner").unwrap();
        std::os::unix::fs::symlink("/etc", scratch.path().join("root/link")).unwrap();
        let root = open_dir(rfs::CWD, scratch.path().join("root")).unwrap();
        for path in ["etc/passwd", "/etc/passwd", "../../etc/passwd", "link/passwd"] {
            let file = File::from(open_in(&root, path.as_bytes(), OFlags::RDONLY).unwrap());
            assert_eq!(io::read_to_string(file).unwrap(), "inner", "{path}");
        }
        assert_eq!(open_plain(&root, b"link/passwd", OFlags::RDONLY).unwrap_err(), Errno::LOOP);
        assert_eq!(open_plain(&root, b"../x", OFlags::RDONLY).unwrap_err(), Errno::XDEV);
    }
}
