//! Reading ahead from file to file.
//!
//! Within a file the kernel reads ahead. Who reads the small files of a tree one after the other (`grep -r`, `cp -r`,
//! `tar`) waits for the disk once for each of them. Their order is that of readdir(3), which the union knows: where files
//! are read in that order and were not in memory, a thread fetches those that come next (posix_fadvise(2),
//! `POSIX_FADV_WILLNEED`) into the page cache of their branch. Nothing that is in memory is asked for, nothing is kept
//! here, and a guess that was wrong costs the disk [`DEPTH`] small reads.

use std::io::IoSliceMut;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{Advice, Mode, OFlags, fadvise, openat};
use rustix::io::{ReadWriteFlags, preadv2};
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};

use super::Union;
use crate::dir::Listing;
use crate::inode::{Label, Node};
use crate::sys;
use crate::tally::Tally;
use crate::types::{FileKind, Ino};

/// So many files in a row make it likely that the next one follows.
const STREAK: u32 = 2;
/// How far ahead files are fetched, in names.
const DEPTH: usize = 16;
/// How many names may be passed over between two files of a row.
const NEAR: usize = 8;
/// How many directories are remembered.
const ROWS: usize = 8;
/// What is fetched of a file: as much as the kernel reads ahead in one.
const BYTES: NonZeroU64 = NonZeroU64::new(128 << 10).unwrap();
/// How long the thread waits for more before it ends.
const REST: Duration = Duration::from_secs(1);

/// Files that are being read in a row, and the thread that fetches the next ones.
#[derive(Debug)]
pub(crate) struct Ahead {
    rows: Mutex<Rows>,
    /// Where the thread may run; whoever starts it may be bound to one CPU.
    home: Option<CpuSet>,
    /// What the thread is told by, while there is one.
    fetcher: Mutex<Option<SyncSender<Vec<Next>>>>,
    /// Files of a row that were there when they were wanted, and those that were not.
    pub(super) asked: Tally,
}

/// Directories whose files are read in turn: a walk goes down and comes back.
#[derive(Debug, Default)]
struct Rows {
    /// Files that were read in the order of their directory, one after the other.
    files: u32,
    /// The last first.
    rows: [Row; ROWS],
}

/// Where reading has come to in a directory; places are offsets of readdir(3).
#[derive(Clone, Copy, Debug, Default)]
struct Row {
    dir: Option<Ino>,
    at: u64,
    /// Up to where files were fetched.
    fetched: u64,
}

/// A file to be fetched, by the directory of its branch.
#[derive(Debug)]
struct Next {
    dir: Arc<OwnedFd>,
    name: Label,
}

impl Ahead {
    pub(super) fn new() -> Self {
        let home = sched_getaffinity(None).ok();
        Self { rows: Mutex::default(), home, fetcher: Mutex::new(None), asked: Tally::new() }
    }

    /// Forgets the rows, and lets go of the branches.
    pub(super) fn clear(&self) {
        *self.rows.lock() = Rows::default();
        *self.fetcher.lock() = None;
    }

    /// Hands files to the thread, which is started if it has gone; what it cannot take is not fetched.
    fn fetch(&self, files: Vec<Next>) {
        let mut fetcher = self.fetcher.lock();
        let unsent = match &*fetcher {
            Some(fetcher) => fetcher.try_send(files),
            None => Err(TrySendError::Disconnected(files)),
        };
        if let Err(TrySendError::Disconnected(files)) = unsent {
            *fetcher = start(files, self.home);
        }
    }
}

impl Rows {
    /// A file of a directory is read: whether it is likely that the next one follows.
    fn step(&mut self, dir: Ino, offset: u64, listing: &Listing, in_memory: bool) -> bool {
        let known = self.rows.iter().position(|row| row.dir == Some(dir));
        self.rows[..=known.unwrap_or(ROWS - 1)].rotate_right(1);
        let row = &mut self.rows[0];
        let follows = known.is_some() && listing.after(row.at).take(NEAR).any(|(next, _)| next == offset);
        let was_fetched = follows && offset <= row.fetched;
        // A walk goes on in another directory.
        let goes_on = follows || (known.is_none() && self.files >= STREAK);
        self.files = if goes_on && (was_fetched || !in_memory) { self.files.saturating_add(1) } else { 0 };
        let fetched = if follows { row.fetched.max(offset) } else { offset };
        *row = Row { dir: Some(dir), at: offset, fetched };
        self.files >= STREAK
    }
}

impl Union {
    /// Reads what is in memory of a file's beginning; how much that is.
    ///
    /// One that is not may be one of a row: then the next ones are fetched meanwhile.
    pub(super) fn read_beginning(&self, node: &Node, file: &OwnedFd, buf: &mut [u8]) -> usize {
        let there = preadv2(file, &mut [IoSliceMut::new(buf)], 0, ReadWriteFlags::NOWAIT);
        self.read_on(node, there.is_ok());
        there.unwrap_or(0)
    }

    /// Fetches what follows a file that is being read. Where somebody has the directory locked nothing is.
    fn read_on(&self, node: &Node, in_memory: bool) -> Option<()> {
        let (dir, offset) = {
            let link = node.link.lock();
            (Arc::clone(link.parent.as_ref()?), self.hash.offset(&link.name))
        };
        let mut rows = self.ahead.rows.try_lock()?;
        let body = dir.body.try_read()?;
        let listing = body.dir().ok()?.listing.as_ref()?;
        if !rows.step(dir.ino, offset, listing, in_memory) {
            return None;
        }
        let row = &mut rows.rows[0];
        self.ahead.asked.count(in_memory);
        let coming: Vec<_> = listing.after(offset).take(DEPTH).collect();
        let there = coming.partition_point(|(place, _)| *place <= row.fetched);
        if there > DEPTH / 2 {
            return None;
        }
        let mut files = Vec::new();
        for (_, slot) in &coming[there..] {
            if slot.found.kind == FileKind::Regular {
                files.push(Next { dir: self.dirfd(&dir, slot.found.top).ok()?, name: slot.name.clone() });
            }
        }
        row.fetched = coming.last()?.0;
        drop(body);
        if !files.is_empty() {
            self.ahead.fetch(files);
        }
        Some(())
    }
}

fn start(files: Vec<Next>, home: Option<CpuSet>) -> Option<SyncSender<Vec<Next>>> {
    let (fetcher, orders) = sync_channel(2);
    fetcher.try_send(files).ok()?;
    let thread = std::thread::Builder::new().name("unionfs-ahead".into());
    let work = move || {
        // As any other thread, whoever it was started by (`fuse/follow.rs`).
        sys::set_idle(gettid(), false).ok();
        home.and_then(|home| sched_setaffinity(None, &home).ok());
        carry_out(&orders);
    };
    thread.spawn(work).ok().map(|_| fetcher)
}

fn carry_out(orders: &Receiver<Vec<Next>>) {
    while let Ok(files) = orders.recv_timeout(REST) {
        for Next { dir, name } in files {
            // What is there now may be no file any more: nobody is waited for.
            let flags =
                OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::NOCTTY | OFlags::CLOEXEC;
            if let Ok(file) = openat(dir, name.as_slice(), flags, Mode::empty()) {
                fadvise(file, 0, Some(BYTES), Advice::WillNeed).ok();
            }
        }
    }
}
