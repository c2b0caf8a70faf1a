//! Changes made to a branch behind the union's back: "user's direct branch access", as aufs calls it.
//!
//! - `none`: not looked for. What a user sees then is old or new, piece by piece; the union stays whole.
//! - `reval`: every lookup asks the branches, and the kernel believes names and attributes for no time at all.
//! - `notify`: inotify(7) watches each directory that was looked into, and the kernel is told what to ask again.

use std::os::fd::{AsRawFd, OwnedFd};
use std::str::FromStr;
use std::sync::Arc;

use dashmap::DashMap;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};

use super::Union;
use crate::dir::{DirBody, Found};
use crate::error::Errno;
use crate::inode::{Body, Node};
use crate::types::{BranchIndex, Ino, Name};

/// Whether changes of branches that go past the union are looked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Udba {
    /// Not at all.
    #[default]
    None,
    /// At every lookup.
    Reval,
    /// By inotify.
    Notify,
}

impl FromStr for Udba {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "none" => Ok(Self::None),
            "reval" => Ok(Self::Reval),
            "notify" | "inotify" => Ok(Self::Notify),
            _ => Err("write none, reval or notify"),
        }
    }
}

/// The directories of branches that are watched.
#[derive(Debug)]
pub(super) struct Watches {
    fd: OwnedFd,
    known: DashMap<i32, (Ino, BranchIndex)>,
}

/// What the kernel is to be told after a change behind the union's back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outside {
    /// A name came, went, or means another object now.
    Name {
        /// Its directory.
        dir: Ino,
        /// The name.
        name: Vec<u8>,
    },
    /// An object has other content or attributes.
    Object(Ino),
}

const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR);

const CONTENT: ReadFlags = ReadFlags::MODIFY.union(ReadFlags::ATTRIB);

impl Watches {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self { fd: inotify::init(CreateFlags::CLOEXEC)?, known: DashMap::new() })
    }

    /// Watches nothing any more.
    pub(super) fn clear(&self) {
        for watch in self.known.iter() {
            // One that is gone by itself need not be removed.
            inotify::remove_watch(&self.fd, *watch.key()).unwrap_or_default();
        }
        self.known.clear();
    }
}

impl Union {
    /// Where to wait for changes behind the union's back; what is read there goes to [`Union::outside`].
    pub fn watch_fd(&self) -> Option<OwnedFd> {
        self.watches.as_ref().and_then(|watches| watches.fd.try_clone().ok())
    }

    /// Watches a directory of a branch from now on.
    pub(super) fn watch(&self, dir: &Node, branch: BranchIndex, fd: &OwnedFd) {
        let Some(watches) = &self.watches else { return };
        match inotify::add_watch(&watches.fd, format!("/proc/self/fd/{}", fd.as_raw_fd()), WATCHED) {
            Ok(watch) => {
                watches.known.insert(watch, (dir.ino, branch));
            }
            // Past fs.inotify.max_user_watches further directories are as with `udba=none`.
            Err(errno) => tracing::warn!(%errno, "directory not watched (raise fs.inotify.max_user_watches)"),
        }
    }

    /// Takes note of an event on a watched directory, and tells what the kernel should ask again.
    pub fn outside(&self, watch: i32, events: ReadFlags, name: Option<&[u8]>) -> Option<Outside> {
        let watches = self.watches.as_ref()?;
        if events.contains(ReadFlags::IGNORED) {
            watches.known.remove(&watch);
            return None;
        }
        let (dir, branch) = *watches.known.get(&watch)?;
        let node = self.inodes.get(dir)?;
        let Some(name) = name else { return Some(Outside::Object(dir)) };
        let hidden = crate::marks::hidden_by(name);
        let name = Name::from_bytes(hidden.unwrap_or(name)).ok()?;
        if events.intersects(CONTENT) && hidden.is_none() {
            return self.changed_object(&node, branch, name);
        }
        self.changed_name(&node, name).then(|| Outside::Name { dir, name: name.as_bytes().to_vec() })
    }

    /// The node that a name of a branch leads to, if it leads there.
    fn changed_object(&self, dir: &Node, branch: BranchIndex, name: Name<'_>) -> Option<Outside> {
        let body = self.read_body(dir).ok()?;
        let found = self.find(dir, body.dir().ok()?, name).ok()??;
        if !found.visible || found.top != branch {
            return None;
        }
        let seen = self.look(dir, body.dir().ok()?, name, &found).ok()?;
        self.inodes.get(seen.ino).map(|node| Outside::Object(node.ino))
    }

    /// Asks the layers about a name again; true if that was news.
    fn changed_name(&self, dir: &Node, name: Name<'_>) -> bool {
        let Ok(mut body) = self.write_body(dir) else { return false };
        let Ok(state) = body.dir_mut() else { return false };
        let listed = state.listing.as_ref().map(|listing| listing.get(self.hash, name.as_bytes()).cloned());
        let Ok(now) = self.probe(dir, state, name) else { return false };
        match (listed, &mut state.listing) {
            (Some(before), Some(listing)) => {
                // Our own changes are told too; the listing knows them already.
                let news = !same(before.as_ref(), now.as_ref());
                if news {
                    listing.set(self.hash, name.as_bytes(), now);
                }
                news
            }
            _ => true,
        }
    }

    /// What is known of a directory that was found again is forgotten where it may be old.
    pub(super) fn refresh_dir(&self, node: &Node, found: &Found) {
        if self.options.udba == Udba::None || node.ino == Ino::ROOT {
            return;
        }
        let mut body = node.body.write();
        let Body::Dir(state) = &mut *body else { return };
        let same = *state.candidates == *found.candidates();
        if state.is_dead() || (same && self.options.udba == Udba::Notify) {
            return;
        }
        self.evict_dir(node.ino, state);
        **state = DirBody::found(found);
    }
}

/// Whether two findings are the same to a user: what else they know is about removing the name.
fn same(one: Option<&Found>, other: Option<&Found>) -> bool {
    let visible =
        |found: Option<&Found>| found.filter(|found| found.visible).map(|found| (found.top, found.kind));
    visible(one) == visible(other)
}

/// Reads the events of an inotify descriptor until it fails, and hands each on.
///
/// # Errors
///
/// What read(2) said.
pub fn read_events(
    fd: &Arc<OwnedFd>,
    mut each: impl FnMut(i32, ReadFlags, Option<&[u8]>),
) -> Result<std::convert::Infallible, Errno> {
    let mut buf = Vec::with_capacity(16 * 1024);
    let mut events = inotify::Reader::new(fd, buf.spare_capacity_mut());
    loop {
        match events.next() {
            Ok(event) => each(event.wd(), event.events(), event.file_name().map(std::ffi::CStr::to_bytes)),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}
