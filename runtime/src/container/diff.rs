//! What a container has changed: read from its writable layer alone, so it costs what was changed and not what the image holds.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::Container;
use crate::error::{Error, On, Result};
use crate::request::FsKind;
use crate::rootfs::{Shown, list_shown, look_up};
use crate::spec::Base;
use crate::tree::{Mark, mark};

/// What became of a path, as `docker diff` says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// `A`: it is new.
    Added,
    /// `C`: its content or attributes are others, or something below it changed.
    Changed,
    /// `D`: it is gone.
    Deleted,
}

/// All changes, sorted by path.
///
/// # Errors
///
/// [`Error::State`] for a container whose files are not in layers, [`Error::System`] if they cannot be read.
pub fn diff(container: &Container) -> Result<Vec<(PathBuf, Change)>> {
    let spec = &container.config.spec;
    if matches!(spec.base, Base::Directory(_)) || spec.fs == FsKind::Copy {
        let name = &container.config.name;
        return Err(Error::State(format!(
            "container {name} has no layer of its own: it runs on a whole copy or directory"
        )));
    }
    let mut lower = vec![container.directories().init()];
    lower.extend(container.config.layers.iter().cloned());
    let mut walk = Walk { upper: container.directories().writable(), lower, changes: Vec::new() };
    walk.directory(Path::new(""))?;
    walk.changes.sort();
    Ok(walk.changes)
}

struct Walk {
    upper: PathBuf,
    /// The layers below, the highest first.
    lower: Vec<PathBuf>,
    changes: Vec<(PathBuf, Change)>,
}

impl Walk {
    fn note(&mut self, path: &Path, change: Change) {
        self.changes.push((Path::new("/").join(path), change));
    }

    fn is_below(&self, path: &Path) -> bool {
        !matches!(look_up(&self.lower, path), Shown::Absent)
    }

    fn directory(&mut self, path: &Path) -> Result<()> {
        let own = self.upper.join(path);
        let mut opaque = is_opaque(&own);
        let mut kept = Vec::new();
        for entry in fs::read_dir(&own).on("read", &own)? {
            let name = entry.on("read", &own)?.file_name();
            match mark(name.as_encoded_bytes()) {
                Mark::Opaque => opaque = true,
                Mark::Private => {}
                Mark::Hides(hidden) => {
                    let hidden =
                        path.join(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(hidden));
                    self.deleted(&hidden);
                }
                Mark::Object => {
                    self.object(&path.join(&name))?;
                    kept.push(name);
                }
            }
        }
        if opaque {
            for name in list_shown(&self.lower, path).into_iter().filter(|name| !kept.contains(name)) {
                self.note(&path.join(name), Change::Deleted);
            }
        }
        Ok(())
    }

    fn deleted(&mut self, path: &Path) {
        if self.is_below(path) {
            self.note(path, Change::Deleted);
        }
    }

    fn object(&mut self, path: &Path) -> Result<()> {
        let own = self.upper.join(path);
        let meta = fs::symlink_metadata(&own).on("stat", &own)?;
        if meta.file_type().is_char_device() && meta.rdev() == 0 {
            self.deleted(path); // the kernel's whiteout
            return Ok(());
        }
        self.note(path, if self.is_below(path) { Change::Changed } else { Change::Added });
        if meta.is_dir() { self.directory(path) } else { Ok(()) }
    }
}

/// Whether the kernel's overlay hides everything below this directory.
fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 1];
    ["trusted.overlay.opaque", "user.overlay.opaque"]
        .iter()
        .any(|name| rustix::fs::lgetxattr(directory, *name, &mut value[..]) == Ok(1) && value == *b"y")
}
