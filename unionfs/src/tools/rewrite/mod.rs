//! Marks rewritten in place: what is to be done in a directory, and the hand that does it.

mod kept;
mod plan;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, XattrFlags, fsync, mknodat, openat, renameat, unlinkat};

use crate::branch::DIR_FLAGS;
use crate::error::Errno;
use crate::marks::OPAQUE;
use crate::place::Place;
use crate::work::{OwnXattrs, Work};

pub(super) use kept::Kept;
pub(super) use plan::{Act, Facts, Plan, is_marked, to_aufs, to_overlay};

/// A failed system call: which, and why.
pub(super) type Failure = (&'static str, Errno);

/// Changes directories of an upper.
#[derive(Debug)]
pub(super) struct Editor<'a> {
    work: &'a Work,
    /// What the names of kernel overlay's attributes begin with here.
    pub(super) prefix: &'static str,
}

impl<'a> Editor<'a> {
    /// An editor that makes new marks in `work` before it shows them.
    pub(super) const fn new(work: &'a Work, userxattr: bool) -> Self {
        let prefix = match work.own {
            OwnXattrs::Trusted if !userxattr => "trusted.overlay.",
            _ => "user.overlay.",
        };
        Self { work, prefix }
    }

    /// Adds, makes durable, removes, and gives the directory the times back that it had.
    pub(super) fn carry_out(&self, dir: &Arc<OwnedFd>, plan: &Plan) -> Result<(), Failure> {
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

    /// Gives a directory the times back that an interrupted conversion has kept.
    pub(super) fn restore_times(&self, dir: &Arc<OwnedFd>) -> Result<(), Errno> {
        Kept::save(dir, self.work.own)?.restore()
    }

    fn act(&self, dir: &Arc<OwnedFd>, act: &Act) -> Result<(), Failure> {
        let place = Place::Fd(Arc::clone(dir));
        let of_child = |name: &[u8]| Place::Name(Arc::clone(dir), name.into());
        let (op, done) = match act {
            Act::Device(name) => ("whiteout", self.put(dir, name, None)),
            Act::Whiteout(name, content) => ("whiteout", self.put(dir, name, Some(content))),
            Act::Opaque(content) => ("opaque mark", self.put(dir, OPAQUE, Some(content))),
            Act::Mark(name, value) => ("setxattr", place.setxattr(name, value, XattrFlags::empty())),
            Act::MarkChild(child, name) => ("setxattr", mark_child(dir, child, name)),
            Act::OpaqueChild(child) => ("opaque mark", self.opaque_child(dir, child)),
            Act::Unlink(name) => ("unlinkat", remove(dir, name)),
            Act::Unmark(name) => ("removexattr", place.removexattr(name)),
            Act::UnmarkChild(child, name) => ("lremovexattr", of_child(child).removexattr(name)),
        };
        done.map_err(|errno| (op, errno))
    }

    fn opaque_child(&self, dir: &OwnedFd, child: &[u8]) -> Result<(), Errno> {
        let child = Arc::new(openat(dir, child, DIR_FLAGS, Mode::empty())?);
        let kept = Kept::save(&child, self.work.own)?;
        self.put(&child, OPAQUE, Some(&Vec::new()))?;
        fsync(&child)?;
        kept.restore()
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

fn mark_child(dir: &OwnedFd, child: &[u8], name: &[u8]) -> Result<(), Errno> {
    let child = Arc::new(openat(dir, child, DIR_FLAGS, Mode::empty())?);
    Place::Fd(Arc::clone(&child)).setxattr(name, b"y", XattrFlags::empty())?;
    fsync(&child)
}

/// Removes a name, be it that of an empty directory.
fn remove(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => unlinkat(dir, name, AtFlags::REMOVEDIR),
        done => done,
    }
}
