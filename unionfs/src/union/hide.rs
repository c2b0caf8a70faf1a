//! Whiteouts and opaque marks on disk: how a name of a lower branch is hidden, and shown again.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, RenameFlags, XattrFlags, mknodat, openat, renameat, renameat_with,
    unlinkat,
};

use super::Union;
use crate::error::{At, Errno, Error, Result};
use crate::marks::{DEVICE_PREFIX, Format, OPAQUE, is_long, whiteout_name};
use crate::place::Place;
use crate::types::{BranchIndex, Name};
use crate::work::{OwnXattrs, Work, times_of};

impl Union {
    pub(super) fn must_work(&self, branch: BranchIndex) -> Result<&Work> {
        self.work(branch).ok_or(Error { op: "write", branch: Some(branch), errno: Errno::ROFS })
    }

    /// Hides a name in a directory of a writable branch; `there` tells that the branch has an object by it.
    ///
    /// In the aufs format the whiteout comes first: beside an object of its own layer it hides nothing yet. In
    /// kernel overlay's, the whiteout takes the object's place in one rename.
    pub(super) fn hide(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8], there: bool) -> Result<()> {
        match self.options.format {
            Format::Aufs => {
                self.make_whiteout(branch, dir, name)?;
                if there { unlinkat(dir, name, AtFlags::empty()).at("unlinkat", branch) } else { Ok(()) }
            }
            Format::Overlay => self.put_device_whiteout(branch, dir, name).at("whiteout", branch),
        }
    }

    /// Puts an aufs whiteout beside an object of its own layer, where it hides what lies below once that is gone.
    pub(super) fn hide_beside(&self, branch: BranchIndex, dir: &OwnedFd, name: Name<'_>) -> Result<()> {
        self.make_whiteout(branch, dir, name.as_bytes())
    }

    fn make_whiteout(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8]) -> Result<()> {
        let whiteout = whiteout_name(name);
        if is_long(name) {
            self.make_small(branch, dir, &whiteout, name)
        } else {
            make_empty(dir, &whiteout).at("whiteout", branch)
        }
    }

    /// Makes a file of a few bytes, whole or not at all.
    fn make_small(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8], content: &[u8]) -> Result<()> {
        if content.is_empty() {
            return make_empty(dir, name).at("mknodat", branch);
        }
        let temp = self.must_work(branch)?.temp();
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat(temp.dir(), temp.name.as_slice(), flags, Mode::from_raw_mode(0o444))
            .at("openat", branch)?;
        rustix::io::pwrite(&file, content, 0).at("pwrite", branch)?;
        if !self.options.volatile {
            rustix::fs::fsync(&file).at("fsync", branch)?;
        }
        renameat(temp.dir(), temp.name.as_slice(), dir, name).at("renameat", branch)?;
        temp.moved();
        Ok(())
    }

    fn put_device_whiteout(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let Some(work) = self.work(branch) else { return Err(Errno::ROFS) };
        let temp = work.temp();
        make_device_whiteout(temp.dir(), &temp.name)?;
        renameat(temp.dir(), temp.name.as_slice(), dir, name)?;
        temp.moved();
        Ok(())
    }

    /// Replaces a directory, which has nothing visible, by a whiteout.
    pub(super) fn hide_dir(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8]) -> Result<()> {
        let work = self.must_work(branch)?;
        match self.options.format {
            Format::Aufs => {
                self.make_whiteout(branch, dir, name)?;
                self.discard_dir(branch, dir, name)
            }
            Format::Overlay => {
                let temp = work.temp();
                make_device_whiteout(temp.dir(), &temp.name).at("whiteout", branch)?;
                renameat_with(temp.dir(), temp.name.as_slice(), dir, name, RenameFlags::EXCHANGE)
                    .at("renameat2", branch)
            }
        }
    }

    /// Removes a directory that has nothing but marks in it, in one step for all who look.
    pub(super) fn discard_dir(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8]) -> Result<()> {
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            done => return done.at("unlinkat", branch),
        }
        let temp = self.must_work(branch)?.temp();
        renameat(dir, name, temp.dir(), temp.name.as_slice()).at("renameat", branch)
    }

    /// Takes away the whiteout of a name that has an object beside it now.
    ///
    /// The change that it belongs to is made and cannot fail any more; a whiteout that stays hides nothing.
    pub(super) fn unhide(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8]) {
        if let Err(errno) = unlink_if_there(dir, &whiteout_name(name)) {
            tracing::warn!(%errno, branch = branch.get(), "a whiteout stays beside its object");
        }
    }

    /// Marks a directory opaque, or with the path it merges with in the branches below.
    pub(super) fn mark_dir(
        &self,
        branch: BranchIndex,
        dir: &Arc<OwnedFd>,
        redirect: Option<&[u8]>,
    ) -> Result<()> {
        match self.options.format {
            Format::Aufs => {
                let before = rustix::fs::fstat(dir).at("fstat", branch)?;
                self.make_small(branch, dir, OPAQUE, redirect.unwrap_or_default())?;
                // The mark changes nothing that a user sees; times that cannot be put back are no failure.
                rustix::fs::futimens(dir, &times_of(&before)).unwrap_or_default();
                Ok(())
            }
            Format::Overlay => {
                let prefix = match self.must_work(branch)?.own {
                    OwnXattrs::Trusted => "trusted",
                    _ => "user",
                };
                let place = Place::Fd(Arc::clone(dir));
                let set = |name: &str, value: &[u8]| {
                    let name = format!("{prefix}.overlay.{name}");
                    place.setxattr(name.as_bytes(), value, XattrFlags::empty()).at("setxattr", branch)
                };
                match redirect {
                    Some(path) => set("redirect", path),
                    None => set("opaque", b"y"),
                }
            }
        }
    }

    /// Tells that the character device 0:0 of this name is no whiteout, before it is made.
    pub(super) fn mark_device(&self, branch: BranchIndex, dir: &OwnedFd, name: &[u8]) -> Result<()> {
        match self.options.format {
            Format::Aufs => make_empty(dir, &[DEVICE_PREFIX, name].concat()).at("device mark", branch),
            Format::Overlay => Err(Error { op: "mknod of 0:0", branch: Some(branch), errno: Errno::PERM }),
        }
    }

    /// Takes the mark of a device away that is gone.
    pub(super) fn unmark_device(dir: &OwnedFd, name: &[u8]) {
        // One that stays marks nothing: only a device 0:0 of this name asks for it.
        unlinkat(dir, [DEVICE_PREFIX, name].concat(), AtFlags::empty()).unwrap_or_default();
    }
}

/// Makes an empty file that may be there already: a whiteout or a mark.
fn make_empty(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match mknodat(dir, name, FileType::RegularFile, Mode::from_raw_mode(0o444), 0) {
        Err(Errno::EXIST) => Ok(()),
        done => done,
    }
}

fn make_device_whiteout(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    mknodat(dir, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Removes a name that may be absent.
pub(super) fn unlink_if_there(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}
