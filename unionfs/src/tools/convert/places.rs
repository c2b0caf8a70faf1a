//! The work directories of both formats during a conversion, the word that it is under way, and the index of hard links.
//!
//! The aufs format has its work directory in the upper, where to kernel overlay it would be a user's directory. So it
//! comes into the upper by one rename, with the word in it, and leaves it by one rename, in which the word goes.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, fsync, linkat, mkdirat, openat, renameat, statat, symlinkat, unlinkat};

use super::{Conversion, Format, scan};
use crate::branch::{Branch, DIR_FLAGS};
use crate::error::Errno;
use crate::marks::WORK;
use crate::tools::ToolError;
use crate::tools::hold::Locked;
use crate::tools::layer::Layer;
use crate::tools::rewrite::Kept;
use crate::union::NewError;
use crate::work::{CONVERTING, LINKS, Work, beside, default_workdir, read_names, remove_children};

/// The work directories that a conversion needs.
pub(super) enum Places {
    /// One directory, outside of the upper, serves both formats.
    One(Work),
    /// Each format has its own.
    Two { aufs: Work, overlay: Work, upper: Arc<OwnedFd>, to: Format },
}

/// The entries of an index, and the inode of each.
type Entries = BTreeMap<Vec<u8>, u64>;

impl Places {
    /// Whether there is anything to do; refuses what stands in the way of it. Changes nothing.
    pub(super) fn need_change(branch: &Branch, layer: &Layer, how: &Conversion) -> Result<bool, ToolError> {
        let path = &branch.spec().path;
        let [aufs, overlay] = [Format::Aufs, Format::Overlay].map(|format| default_workdir(path, format));
        let _locked = match &how.workdir {
            Some(workdir) => [Locked::new(workdir)?, None],
            None => [Locked::new(&aufs)?, Locked::new(&overlay)?],
        };
        let marker = how.workdir.as_ref().unwrap_or(&aufs).join(CONVERTING);
        let underway = marker.symlink_metadata().is_ok();
        let found = scan::scan(layer, how.to, !underway)?;
        if how.workdir.is_some() {
            return Ok(found.any || underway);
        }
        let (inside, outside) = (Self::read_index(aufs.join(LINKS))?, Self::read_index(overlay.join(LINKS))?);
        let (old, new) = match how.to {
            Format::Overlay => (&inside, &outside),
            Format::Aufs => (&outside, &inside),
        };
        refuse_two_indexes(old, new).map_err(|why| ToolError::Refused { path: overlay.join(LINKS), why })?;
        let leaves = how.to == Format::Overlay && aufs.symlink_metadata().is_ok();
        Ok(found.any || underway || leaves || !old.is_empty())
    }

    fn read_index(path: PathBuf) -> Result<Entries, ToolError> {
        let found = openat(CWD, &path, DIR_FLAGS, Mode::empty()).and_then(|links| entries(&links));
        match found {
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(Entries::new()),
            found => found.map_err(|source| ToolError::Branch { path, op: "readdir", source, hint: "" }),
        }
    }

    /// Takes hold of the work directories and leaves word that a conversion is under way.
    pub(super) fn open(branch: &Branch, how: &Conversion) -> Result<Self, ToolError> {
        let fail = |errno| ToolError::branch(WORK, "start of the conversion")(errno);
        if let Some(path) = &how.workdir {
            let work = Work::open(branch, Some(path)).map_err(NewError::from)?;
            say(&work, &work, how.to).map_err(fail)?;
            return Ok(Self::One(work));
        }
        let overlay = Work::open(branch, Some(&beside(&branch.spec().path))).map_err(NewError::from)?;
        let upper = branch.root().try_clone().map_err(|_| fail(Errno::MFILE))?;
        let upper = Arc::new(upper);
        if statat(&upper, WORK, AtFlags::SYMLINK_NOFOLLOW).is_err() {
            move_in(&overlay, &upper, how.to).map_err(fail)?;
        }
        let aufs = Work::open(branch, None).map_err(NewError::from)?;
        let places = Self::Two { aufs, overlay, upper, to: how.to };
        places.announce().map_err(fail)?;
        Ok(places)
    }

    /// Leaves word where it is not left yet. Once it is, the aufs format's index counts.
    fn announce(&self) -> Result<(), Errno> {
        let Self::Two { aufs, overlay, to, .. } = self else { return Ok(()) };
        if *to == Format::Aufs {
            self.copy_index()?;
        }
        say(overlay, aufs, *to)
    }

    /// Where new marks are made.
    pub(super) fn scratch(&self) -> &Work {
        match self {
            Self::One(work) => work,
            Self::Two { overlay, .. } => overlay,
        }
    }

    /// Makes each entry of the index in the new format's index too; tells how many there are.
    pub(super) fn copy_index(&self) -> Result<u64, Errno> {
        let (old, new) = match self {
            Self::One(_) => return Ok(0),
            Self::Two { aufs, overlay, to: Format::Overlay, .. } => (aufs, overlay),
            Self::Two { aufs, overlay, to: Format::Aufs, .. } => (overlay, aufs),
        };
        copy(old.links(), new.links())
    }

    /// Takes the word back that a conversion is under way: from here on the new format counts.
    pub(super) fn finish(&self) -> Result<(), Errno> {
        match self {
            Self::One(work) => unlinkat(work.dir(), CONVERTING, AtFlags::empty()),
            Self::Two { aufs, overlay, to: Format::Aufs, .. } => {
                unlinkat(aufs.dir(), CONVERTING, AtFlags::empty())?;
                fsync(aufs.dir())?;
                remove_children(overlay.links())
            }
            Self::Two { overlay, upper, .. } => {
                let temp = overlay.temp();
                let kept = Kept::save(upper, overlay.own)?;
                renameat(upper, WORK, temp.dir(), temp.name.as_slice())?;
                kept.restore()?;
                fsync(upper)
            }
        }
    }
}

/// Leaves word in a work directory, made in the one that `scratch` is.
fn say(scratch: &Work, at: &Work, to: Format) -> Result<(), Errno> {
    let temp = scratch.temp();
    symlinkat(to.to_string(), temp.dir(), temp.name.as_slice())?;
    renameat(temp.dir(), temp.name.as_slice(), at.dir(), CONVERTING)?;
    temp.moved();
    fsync(at.dir())
}

/// Makes each entry of an index in another one too, which may have some already; tells how many there are.
fn copy(old: &OwnedFd, new: &OwnedFd) -> Result<u64, Errno> {
    let entries = entries(old)?;
    let count = entries.len();
    for name in entries.keys().map(Vec::as_slice) {
        match linkat(old, name, new, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    fsync(new)?;
    Ok(count as u64)
}

/// Puts a work directory into the upper, with the word and the index in it.
fn move_in(scratch: &Work, upper: &Arc<OwnedFd>, to: Format) -> Result<(), Errno> {
    let temp = scratch.temp();
    mkdirat(temp.dir(), temp.name.as_slice(), Mode::RWXU)?;
    let made = openat(temp.dir(), temp.name.as_slice(), DIR_FLAGS, Mode::empty())?;
    symlinkat(to.to_string(), &made, CONVERTING)?;
    if to == Format::Aufs {
        mkdirat(&made, LINKS, Mode::RWXU)?;
        copy(scratch.links(), &openat(&made, LINKS, DIR_FLAGS, Mode::empty())?)?;
    }
    fsync(&made)?;
    let kept = Kept::save(upper, scratch.own)?;
    renameat(temp.dir(), temp.name.as_slice(), upper, WORK)?;
    temp.moved();
    kept.restore()
}

/// An index that is part of the other was being copied, or removed; two that differ have different histories.
fn refuse_two_indexes(old: &Entries, new: &Entries) -> Result<(), &'static str> {
    let differ = old.iter().any(|(name, inode)| new.get(name).is_some_and(|other| other != inode));
    let only = |one: &Entries, other: &Entries| one.keys().any(|name| !other.contains_key(name));
    if differ || (only(old, new) && only(new, old)) {
        return Err(
            "both formats have an index of hard links, and they differ: 'unionfs check' tells which is stale",
        );
    }
    Ok(())
}

fn entries(links: &OwnedFd) -> Result<Entries, Errno> {
    let mut found = Entries::new();
    for (name, ..) in read_names(links)? {
        let inode = statat(links, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?.st_ino;
        found.insert(name, inode);
    }
    Ok(found)
}
