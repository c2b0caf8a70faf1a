//! `unionfs convert`: an upper rewritten in place from one format of marks to the other.
//!
//! Every step leaves a tree that reads the same to a union of the aufs format, which reads the marks of all formats; so
//! an interrupted conversion loses nothing, and running it again finishes it. In each directory
//!
//! 1. the new marks are put beside the old ones, and the directory is made durable;
//! 2. the old marks are removed;
//! 3. the directory gets the times back that it had (kept in an attribute meanwhile).
//!
//! While it lasts, `converting` in the work directory tells so: in kernel overlay's format `.wh.` names are the user's,
//! and such a mount is refused until the conversion is finished. The index of hard links is copied, by links, before
//! that mark goes; from that moment the new format counts, and the old index is removed.
//!
//! What one format has and the other cannot is refused before anything is changed: a real character device 0:0 (to
//! kernel overlay that is a whiteout), a user's name that begins with `.wh.`, a copy that has only metadata.

mod kept;
mod places;
mod plan;
mod scan;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, XattrFlags, fsync, mknodat, openat, renameat, syncfs, unlinkat,
};

use self::kept::Kept;
use self::places::Places;
use self::plan::{Act, Facts, Plan};
use super::hold::refuse_mounted;
use super::layer::Layer;
use super::{ToolError, joined};
use crate::branch::{Branch, BranchSpec, DIR_FLAGS, Perm};
use crate::error::Errno;
use crate::marks::{Format, OPAQUE};
use crate::place::Place;
use crate::types::FileKind;
use crate::union::{NewError, absolute};
use crate::work::{OwnXattrs, Work};

/// How an upper is to be converted.
#[derive(Clone, Debug, Default)]
pub struct Conversion {
    /// The format it is to have.
    pub to: Format,
    /// The work directory, if it is not where each format has it by default.
    pub workdir: Option<PathBuf>,
    /// Marks are `user.overlay.` attributes, for mounts with `-o userxattr`.
    pub userxattr: bool,
}

/// What was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Whiteouts.
    pub whiteouts: u64,
    /// Marks of opaque directories.
    pub opaque: u64,
    /// Marks of renamed directories.
    pub redirects: u64,
    /// Entries of the index of hard links that were moved.
    pub linked: u64,
}

/// Converts the upper at `path`. To do so again does no harm, and finishes what was interrupted.
///
/// # Errors
///
/// What stands in the way, before anything is changed; or what the filesystem said, and then it can be run again.
pub fn convert(path: &Path, how: &Conversion) -> Result<Converted, ToolError> {
    refuse_mounted(path)?;
    let spec = BranchSpec { path: path.to_owned(), perm: Perm::READ_WRITE };
    let branch = Branch::open(spec.clone()).map_err(NewError::from)?;
    let layer = Layer::open(&spec, Format::Aufs)?;
    if !Places::need_change(&branch, &layer, how)? {
        return Ok(Converted::default());
    }
    let places = Places::open(&branch, how)?;
    let mut converter = Converter { layer: &layer, work: places.scratch(), how, done: Converted::default() };
    converter.dir(b"", &[])?;
    let fail = |op| ToolError::branch(b"", op);
    converter.done.linked = places.copy_index().map_err(fail("copy of the index of hard links"))?;
    syncfs(branch.root()).map_err(fail("syncfs"))?;
    places.finish().map_err(fail("end of the conversion"))?;
    Ok(converter.done)
}

struct Converter<'a> {
    layer: &'a Layer,
    work: &'a Work,
    how: &'a Conversion,
    done: Converted,
}

impl Converter<'_> {
    /// The prefix of kernel overlay's attributes.
    fn prefix(&self) -> &'static str {
        match self.work.own {
            OwnXattrs::Trusted if !self.how.userxattr => "trusted.overlay.",
            _ => "user.overlay.",
        }
    }

    /// Converts a directory and what is in it; `above` is what its parent merges with in the branches below.
    fn dir(&mut self, path: &[u8], above: &[u8]) -> Result<(), ToolError> {
        let dir = self.layer.read(path)?;
        let fail = |op| ToolError::branch(path, op);
        let facts = Facts::of(&dir).map_err(fail("marks"))?;
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let below = match &dir.marks.redirect {
            Some(target) => absolute(above, target),
            None => joined(above, name),
        };
        let plan = match self.how.to {
            Format::Overlay => plan::to_overlay(&dir, &facts, &below, self.prefix()),
            Format::Aufs => plan::to_aufs(&dir, &facts, &below),
        };
        self.carry_out(&dir.fd, &plan, &facts).map_err(|(op, errno)| fail(op)(errno))?;
        let children: Vec<_> =
            dir.objects().filter(|(_, said)| said.is_dir()).map(|(name, _)| joined(path, name)).collect();
        drop(dir);
        children.iter().try_for_each(|child| self.dir(child, &below))
    }

    fn carry_out(
        &mut self,
        dir: &Arc<OwnedFd>,
        plan: &Plan,
        facts: &Facts,
    ) -> Result<(), (&'static str, Errno)> {
        if plan.is_empty() && facts.times.is_none() {
            return Ok(());
        }
        let kept = Kept::save(dir, self.work.own).map_err(|errno| ("setxattr", errno))?;
        for act in &plan.add {
            self.act(dir, act)?;
        }
        if !plan.add.is_empty() {
            fsync(dir).map_err(|errno| ("fsync", errno))?;
        }
        for act in &plan.remove {
            self.act(dir, act)?;
        }
        kept.restore().map_err(|errno| ("futimens", errno))
    }

    fn act(&mut self, dir: &Arc<OwnedFd>, act: &Act) -> Result<(), (&'static str, Errno)> {
        let place = Place::Fd(Arc::clone(dir));
        match act {
            Act::Device(name) => {
                self.done.whiteouts += 1;
                self.put(dir, name, None).map_err(|errno| ("whiteout", errno))
            }
            Act::Whiteout(name, content) => {
                self.done.whiteouts += 1;
                self.put(dir, name, Some(content)).map_err(|errno| ("whiteout", errno))
            }
            Act::Opaque(content) => {
                self.count_mark(content.is_empty());
                self.put(dir, OPAQUE, Some(content)).map_err(|errno| ("opaque mark", errno))
            }
            Act::Mark(name, value) => {
                self.count_mark(!name.ends_with(b"redirect"));
                place.setxattr(name, value, XattrFlags::empty()).map_err(|errno| ("setxattr", errno))
            }
            Act::MarkChild(child, name) => {
                self.done.opaque += 1;
                let opened = openat(dir, child.as_slice(), DIR_FLAGS, Mode::empty());
                let child = Arc::new(opened.map_err(|errno| ("open", errno))?);
                Place::Fd(Arc::clone(&child))
                    .setxattr(name, b"y", XattrFlags::empty())
                    .and_then(|()| fsync(&child))
                    .map_err(|errno| ("setxattr", errno))
            }
            Act::Unlink(name) => match unlinkat(dir, name.as_slice(), AtFlags::empty()) {
                Err(Errno::ISDIR | Errno::PERM) => unlinkat(dir, name.as_slice(), AtFlags::REMOVEDIR),
                done => done,
            }
            .map_err(|errno| ("unlinkat", errno)),
            Act::Unmark(name) => place.removexattr(name).map_err(|errno| ("removexattr", errno)),
        }
    }

    fn count_mark(&mut self, opaque: bool) {
        *(if opaque { &mut self.done.opaque } else { &mut self.done.redirects }) += 1;
    }

    /// Puts a mark into a directory, complete or not at all: a file, or without content a device 0:0.
    fn put(&self, dir: &OwnedFd, name: &[u8], content: Option<&Vec<u8>>) -> Result<(), Errno> {
        let temp = self.work.temp();
        match content {
            None => mknodat(temp.dir(), temp.name.as_slice(), FileType::CharacterDevice, Mode::empty(), 0)?,
            Some(content) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                let file = openat(temp.dir(), temp.name.as_slice(), flags, Mode::from_raw_mode(0o444))?;
                if !content.is_empty() {
                    rustix::io::pwrite(&file, content, 0)?;
                    fsync(&file)?;
                }
            }
        }
        renameat(temp.dir(), temp.name.as_slice(), dir, name)?;
        temp.moved();
        Ok(())
    }
}
