//! Open files, where the kernel tells of them: which are cached by the kernel and which it reads and writes itself.
//!
//! In the passthrough mode (kernel ≥ 6.9) OPEN is answered with a *backing file*, and read, write and mmap go there
//! without a message and with one page cache for every user of the branch. An inode has one backing file as long as
//! any open uses it, and while it has one it cannot be opened in any other way, nor the other way round; an open
//! that asks for it fails with `EIO` (`fs/fuse/iomode.c`). Hence these rules:
//!
//! - The first open decides, the others follow ([`Way`]). The kernel lets go of the mode before it sends RELEASE, so
//!   counting opens here errs on the safe side; a backing id lives until the last RELEASE.
//! - A file that may still be copied up is not passed through ([`Core::settled_file`]): its readers would keep the
//!   old file, and a writer could be given neither the old one (it is never written) nor the new one (`EBUSY`). It
//!   is cached instead, and then all its users, before and after copy-up, share the kernel's one page cache.
//! - Unless its readers may keep the old file ([`Lower::Passed`], what kernel overlay does with mappings): a large one
//!   is passed through, and who opens it when its content has gone elsewhere is sent to a new inode ([`Aliases`]).
//! - A file with set-user-ID or set-group-ID that is opened to be written must lose the bit at the first write, which
//!   only a message can do: cached, or if it already has a backing file, `FOPEN_DIRECT_IO`. (A bit that is set while
//!   a writer already passes through stays until the next open; the kernel asks nobody then.)
//! - A write through a shared mapping changes times and blocks and tells nobody. While any open could map a backing
//!   file writable, the attributes of its inode are valid for no time, and they are dropped when the last is closed.
//! - With `O_TRUNC` in OPEN the kernel asks only after it whether the file is a running program, unless it is to be
//!   written. Programs are counted here, so that `O_RDONLY | O_TRUNC` gets `ETXTBSY` with the file as it was.
//! - Pages that were cached before an inode was passed through are stale after it; only an open that joins others, or
//!   one of a file that was never passed through, keeps them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use fuser::BackingId;
use parking_lot::Mutex;
use rustix::fs::fstat;
use tracing::{debug, warn};

use super::aliases::Aliases;
use super::api::Core;
use super::caches::Caches;
use super::op::Open;
use super::reply::Opened;
use super::wire::flag::{FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_NOFLUSH, FOPEN_PASSTHROUGH};
use crate::error::{At, Errno, Error, Result};
use crate::sys;
use crate::types::{Attr, Ino, SetAttr};

const SHARDS: usize = 16;
const SET_IDS: u32 = libc::S_ISUID | libc::S_ISGID;

/// What RELEASE gives back: bits that tell what the open was.
mod handle {
    /// It may have been mapped writable.
    pub(super) const MAPPER: u64 = 1;
    /// It is of a program that runs.
    pub(super) const PROGRAM: u64 = 2;
}

/// The inodes that are open.
#[derive(Debug)]
pub(crate) struct Opens {
    /// What backing files are registered with.
    device: Arc<OwnedFd>,
    caches: Caches,
    lower: Lower,
    shards: [Mutex<HashMap<Ino, State>>; SHARDS],
    /// Inodes with a writable mapping, or what could be one, of a backing file.
    mapped: AtomicUsize,
}

/// Whether readers may be given a file that is copied up when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lower {
    /// It is cached: whoever opened it before sees what is written after.
    Cached,
    /// A large one is passed through: whoever opened it before keeps what he opened.
    Passed,
}

/// Smaller lower files are cached in any case: they gain nothing from the branch's pages, and are those that somebody
/// follows while others write them.
const LARGE: u64 = 256 << 10;

/// The kernel is to walk the path once more without trusting its names (`do_filp_open` in `fs/namei.c`).
pub(super) const WALK_AGAIN: Error = Error::rule("walk again", Errno::STALE);

/// How an inode is open.
#[derive(Debug)]
struct State {
    way: Way,
    opens: u32,
    mappers: u32,
    programs: u32,
}

/// Where reads and writes go.
#[derive(Clone, Debug)]
enum Way {
    /// To the kernel's page cache, and from there here.
    Cached,
    /// To a backing file.
    Backed {
        /// What the kernel knows it by.
        id: u32,
        /// Which file it is.
        file: FileId,
        /// The file itself, where the content may go to another one.
        kept: Option<Arc<OwnedFd>>,
    },
}

/// A file: its device and inode number.
type FileId = (u64, u64);

/// What is to be passed through.
#[derive(Debug)]
struct Target {
    fd: Arc<OwnedFd>,
    file: FileId,
    settled: bool,
}

impl Opens {
    /// Nothing is open yet on the connection of `device`.
    pub(crate) fn new(device: Arc<OwnedFd>, caches: Caches, lower: Lower) -> Self {
        Self { device, caches, lower, shards: Default::default(), mapped: AtomicUsize::new(0) }
    }

    /// The numbers that the kernel has for files.
    pub(crate) fn aliases(&self) -> &Aliases {
        self.caches.aliases()
    }

    fn shard(&self, node: Ino) -> &Mutex<HashMap<Ino, State>> {
        // Node numbers are inode numbers with a branch above; the middle bits are as good as any.
        let mixed = node.get().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
        &self.shards[usize::try_from(mixed).unwrap_or_default() % SHARDS]
    }

    /// Opens the file that the kernel means by `number`.
    ///
    /// # Errors
    ///
    /// What truncating or copying up says, and [`WALK_AGAIN`]. Where a file merely cannot be passed through, it is
    /// cached.
    pub(crate) fn open(&self, core: &impl Core, number: Ino, open: Open) -> Result<Opened> {
        if self.aliases().is_outdated(number) {
            return Err(WALK_AGAIN);
        }
        let node = self.aliases().file(number);
        let held = self.shard(number).lock().get(&number).map(|state| (state.way.clone(), state.programs));
        if open.truncates() {
            if !open.writes() && held.as_ref().is_some_and(|(_, programs)| *programs > 0) {
                return Err(Error::rule("open", Errno::TXTBSY));
            }
            let change = SetAttr { size: Some(0), kill_suidgid: open.kill_suidgid, ..SetAttr::default() };
            core.setattr(node, &change)?;
        }
        let target = self.target(core, node, open, held.map(|(way, _)| way))?;
        let set_ids = open.writes() && core.getattr(node)?.mode & SET_IDS != 0;
        if let Some(state) = self.shard(number).lock().get_mut(&number) {
            return self.join(number, state, open, target.as_ref(), set_ids);
        }
        let (way, keep) = if set_ids { (Way::Cached, false) } else { self.way(number, target.as_ref()) };
        match self.shard(number).lock().entry(number) {
            Entry::Occupied(mut other) => {
                self.unregister(way);
                self.join(number, other.get_mut(), open, target.as_ref(), set_ids)
            }
            Entry::Vacant(first) => {
                let state = first.insert(State { way, opens: 0, mappers: 0, programs: 0 });
                let mut opened = self.join(number, state, open, target.as_ref(), set_ids)?;
                if !keep {
                    opened.flags &= !FOPEN_KEEP_CACHE;
                }
                Ok(opened)
            }
        }
    }

    /// The file that an open of a node means, if it is one that may be passed through; who only reads and joins
    /// others may have none.
    fn target(&self, core: &impl Core, node: Ino, open: Open, held: Option<Way>) -> Result<Option<Target>> {
        if open.writes() {
            // What takes writes now, whatever the branches were when others opened it.
            return core.settled_file(node, true)?.map(|fd| Target::new(fd, true)).transpose();
        }
        match held {
            None => {
                if let Some(fd) = core.settled_file(node, false)? {
                    return Target::new(fd, true).map(Some);
                }
                let large = |attr: Attr| attr.size >= LARGE && attr.mode & SET_IDS == 0;
                if self.lower == Lower::Cached || !large(core.getattr(node)?) {
                    return Ok(None);
                }
            }
            Some(Way::Backed { kept: Some(_), .. }) => {}
            Some(_) => return Ok(None),
        }
        core.present_file(node)?.map(|fd| Target::new(fd, false)).transpose()
    }

    /// How a node that is not open is to be opened, and whether the pages that the kernel may have are right.
    fn way(&self, number: Ino, target: Option<&Target>) -> (Way, bool) {
        let Some(&Target { ref fd, file, settled }) = target else {
            return (Way::Cached, true);
        };
        match BackingId::create_raw(&*self.device, fd) {
            Ok(id) => (Way::Backed { id, file, kept: (!settled).then(|| Arc::clone(fd)) }, false),
            Err(error) => {
                // ELOOP: the branch is a stacked filesystem. ENFILE, ENOMEM: too many already.
                debug!(%error, node = number.get(), "not passed through");
                (Way::Cached, false)
            }
        }
    }

    /// One more open of a node that is open in `state`, under the lock of its shard; a writer means to write `target`.
    fn join(
        &self,
        number: Ino,
        state: &mut State,
        open: Open,
        target: Option<&Target>,
        set_ids: bool,
    ) -> Result<Opened> {
        let program = if open.runs() { handle::PROGRAM } else { 0 };
        let Way::Backed { id, file, ref kept } = state.way else {
            state.opens += 1;
            state.programs += u32::from(open.runs());
            return Ok(Opened { handle: program, flags: FOPEN_KEEP_CACHE | FOPEN_NOFLUSH, backing_id: 0 });
        };
        if (open.writes() || kept.is_some()) && target.is_none_or(|target| target.file != file) {
            // It was copied up since others opened it, or the branches have changed. The kernel takes no second
            // backing file, and the old one may be of a branch that is not to be written.
            self.aliases().renew(number);
            self.caches.drop_attributes(number);
            return Err(WALK_AGAIN);
        }
        state.opens += 1;
        state.programs += u32::from(open.runs());
        let mut opened = Opened {
            handle: program,
            flags: FOPEN_PASSTHROUGH | FOPEN_NOFLUSH,
            backing_id: id.cast_signed(),
        };
        if set_ids {
            opened.flags |= FOPEN_DIRECT_IO;
        }
        if open.maps() {
            opened.handle |= handle::MAPPER;
            state.mappers += 1;
            if state.mappers == 1 {
                self.mapped.fetch_add(1, Ordering::Release);
                self.caches.drop_attributes(number);
            }
        }
        Ok(opened)
    }

    /// Closes what [`Opens::open`] opened.
    pub(crate) fn release(&self, node: Ino, given: u64) {
        let mut shard = self.shard(node).lock();
        let Entry::Occupied(mut entry) = shard.entry(node) else {
            warn!(node = node.get(), "released, but not open");
            return;
        };
        let state = entry.get_mut();
        state.opens -= 1;
        state.programs -= u32::from(given & handle::PROGRAM != 0);
        let mut last_mapper = false;
        if given & handle::MAPPER != 0 {
            state.mappers -= 1;
            last_mapper = state.mappers == 0;
        }
        let closed = (state.opens == 0).then(|| entry.remove().way);
        drop(shard);
        if closed.is_some() {
            self.aliases().closed(node);
        }
        if last_mapper {
            self.mapped.fetch_sub(1, Ordering::Release);
            self.caches.drop_attributes(node);
        }
        closed.into_iter().for_each(|way| self.unregister(way));
    }

    /// The file that those who have `number` open read, if the content has gone to another one.
    pub(crate) fn kept(&self, core: &impl Core, number: Ino) -> Result<Option<Arc<OwnedFd>>> {
        let (kept, was) = match self.shard(number).lock().get(&number) {
            Some(State { way: Way::Backed { file, kept: Some(kept), .. }, .. }) => (Arc::clone(kept), *file),
            _ => return Ok(None),
        };
        let now =
            core.present_file(self.aliases().file(number))?.map(|fd| Target::new(fd, false)).transpose()?;
        Ok(now.is_none_or(|now| now.file != was).then_some(kept))
    }

    /// Whether a node's attributes may change without a message.
    pub(crate) fn changes_by_itself(&self, node: Ino) -> bool {
        self.mapped.load(Ordering::Acquire) > 0
            && self.shard(node).lock().get(&node).is_some_and(|state| state.mappers > 0)
    }

    fn unregister(&self, way: Way) {
        if let Way::Backed { id, .. } = way
            && let Err(error) = sys::close_backing(&*self.device, id)
        {
            warn!(%error, id, "backing file not closed");
        }
    }
}

impl Target {
    fn new(fd: OwnedFd, settled: bool) -> Result<Self> {
        let stat = fstat(&fd).during("fstat")?;
        Ok(Self { fd: Arc::new(fd), file: (stat.st_dev, stat.st_ino), settled })
    }
}
