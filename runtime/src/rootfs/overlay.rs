//! The kernel's overlay filesystem as the union (Documentation/filesystems/overlayfs.rst).
//!
//! Image layers carry aufs whiteouts, which overlay does not read. A layer that has some gets a converted sibling:
//! the same files by hard links, whiteouts as character devices 0:0, opaque marks as extended attributes. A layer that
//! has none gets a symbolic link to itself, so that the question is asked once.

use std::ffi::CStr;
use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, mount as mount_classic};

use super::Directories;
use crate::error::{Error, On, Result};
use crate::mounts::{Attr, Detached};
use crate::tree::{self, Mark};

/// The longest option string that mount(2) takes: a page, less its end.
const OPTIONS_MAX: usize = 4095;

/// The directory that shows overlay the same content as the aufs layer `layer`, made where it is missing.
///
/// A layer outside the store, as `--rootfs DIR:O` names, has no marks and is its own.
pub(super) fn readable(layer: &Path) -> Result<PathBuf> {
    let Some(parent) = layer.parent().filter(|_| layer.ends_with("diff")) else {
        return Ok(layer.to_owned());
    };
    let readable = parent.join("overlay");
    if readable.exists() {
        return Ok(readable);
    }
    let lock = File::open(parent).on("open", parent)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&lock, FlockOperation::LockExclusive))
        .on("flock", parent)?;
    if readable.exists() {
        return Ok(readable);
    }
    let source = File::open(layer).on("open", layer)?;
    if !has_marks(source.as_fd()).on("read the layer", layer)? {
        std::os::unix::fs::symlink("diff", &readable).on("symlink", &readable)?;
        return Ok(readable);
    }
    let half_made = parent.join("overlay.new");
    tree::remove(lock.as_fd(), c"overlay.new").on("remove", &half_made)?;
    fs::create_dir(&half_made).on("mkdir", &half_made)?;
    let target = File::open(&half_made).on("open", &half_made)?;
    convert(source.as_fd(), target.as_fd()).on("convert the layer", layer)?;
    fs::rename(&half_made, &readable).on("rename", &half_made)?;
    Ok(readable)
}

fn has_marks(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    for name in tree::names(dir)? {
        if tree::mark(name.to_bytes()) != Mark::Object {
            return Ok(true);
        }
        let stat = rustix::fs::statat(dir, &name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            && has_marks(tree::open_dir(dir, &name)?.as_fd())?
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Copies the directory by links, with its marks in overlay's form.
fn convert(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut opaque = false;
    for name in tree::names(from)? {
        match tree::mark(name.to_bytes()) {
            Mark::Object => convert_object(from, to, &name)?,
            Mark::Hides(hidden) => {
                rustix::fs::mknodat(to, hidden, FileType::CharacterDevice, Mode::empty(), 0)?;
            }
            Mark::Opaque => opaque = true,
            Mark::Private => {}
        }
    }
    tree::copy_attributes(from, to)?;
    if opaque {
        let name = if privileged() { "trusted.overlay.opaque" } else { "user.overlay.opaque" };
        rustix::fs::fsetxattr(to, name, b"y", XattrFlags::empty())?;
    }
    Ok(())
}

fn convert_object(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return rustix::fs::linkat(from, name, to, name, AtFlags::empty());
    }
    rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700))?;
    convert(tree::open_dir(from, name)?.as_fd(), tree::open_dir(to, name)?.as_fd())
}

/// Whether this process may use `trusted.*` attributes, which only the initial user namespace may.
fn privileged() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

/// Mounts the container's layers on its `merged`.
pub(super) fn mount(directories: &Directories, layers: &[PathBuf]) -> Result<()> {
    let mut lower = vec![directories.init()];
    for layer in layers {
        lower.push(readable(layer)?);
    }
    let merged = directories.merged();
    let options = options(directories, &lower)?;
    if options.len() > OPTIONS_MAX {
        return mount_one_by_one(directories, &lower);
    }
    let options = std::ffi::CString::new(options).map_err(std::io::Error::from).on("mount", &merged)?;
    mount_classic("overlay", &merged, "overlay", MountFlags::empty(), options.as_c_str())
        .on("mount overlay on", &merged)
}

fn options(directories: &Directories, lower: &[PathBuf]) -> Result<String> {
    let lower = lower.iter().map(|path| escape(path)).collect::<Result<Vec<_>>>()?.join(":");
    let (upper, work) = (escape(&directories.writable())?, escape(&directories.work())?);
    let extra = if privileged() { "" } else { ",userxattr" };
    Ok(format!("lowerdir={lower},upperdir={upper},workdir={work}{extra}"))
}

/// Overlay splits at colons, mount(2) at commas; a backslash takes the meaning away from both.
fn escape(path: &Path) -> Result<String> {
    let text = path.to_str().ok_or_else(|| {
        Error::option("--root", path.to_string_lossy(), "must be UTF-8 for --fs overlay; use --fs fuse")
    })?;
    let escaped = text.chars().flat_map(|letter| {
        let special = matches!(letter, ':' | ',' | '\\');
        special.then_some('\\').into_iter().chain([letter])
    });
    Ok(escaped.collect())
}

/// Names each layer in a call of its own: more of them than a page holds (kernel ≥ 6.8, `lowerdir+`).
fn mount_one_by_one(directories: &Directories, lower: &[PathBuf]) -> Result<()> {
    let merged = directories.merged();
    let mut options = Vec::new();
    for path in lower {
        options.push(format!("lowerdir+={}", path.display()));
    }
    options.push(format!("upperdir={}", directories.writable().display()));
    options.push(format!("workdir={}", directories.work().display()));
    if !privileged() {
        options.push("userxattr".into());
    }
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let overlay = Detached::filesystem("overlay", &options, Attr::empty()).map_err(|error| {
        let count = lower.len();
        Error::State(format!(
            "{error}: {count} layers are more than this kernel's overlay takes; use --fs fuse"
        ))
    })?;
    let place = File::open(&merged).on("open", &merged)?;
    overlay.attach(place.as_fd())
}
