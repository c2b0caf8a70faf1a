//! What looks and changes nothing: lookup, attributes, listings.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::Stat;

use super::Union;
use super::owners::branch_of;
use super::stat::saturate;
use super::udba::Udba;
use crate::devices::alternative;
use crate::dir::{DirBody, Found, Listing};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Data, FileBody, Link, Node, Site};
use crate::marks::{Format, Means, meaning};
use crate::place::Place;
use crate::types::{Attr, BranchIndex, DirEntry, Entry, FileKind, Ino, Name};

/// How often an object that is copied up by another thread meanwhile is looked at again.
const LOOKS: usize = 8;

/// An object of a branch, looked at: everything its node needs.
#[derive(Debug)]
pub(super) struct Seen {
    pub(super) ino: Ino,
    pub(super) stat: Stat,
    pub(super) branch: BranchIndex,
    pub(super) indexed: bool,
    /// It was made just now.
    pub(super) fresh: bool,
    pub(super) data: Data,
}

impl Seen {
    pub(super) const fn new(ino: Ino, stat: Stat, branch: BranchIndex) -> Self {
        Self { ino, stat, branch, indexed: false, fresh: false, data: Data::Own }
    }
}

impl Union {
    /// Looks up a name in a directory; `None` if there is none, whiteouts included.
    ///
    /// What it finds has one more reference, to be given back by [`Union::forget`].
    ///
    /// # Errors
    ///
    /// `ESTALE` for a node the union does not know, `ENOTDIR`, or what a branch said.
    pub fn lookup(&self, dir: Ino, name: Name<'_>) -> Result<Option<Entry>> {
        if self.is_reserved(name) {
            return Ok(None);
        }
        let dir = self.dir_node(dir)?;
        for look in 0..=LOOKS {
            let body = self.searched_body(&dir)?;
            let state = body.dir()?;
            let Some(found) = self.find(&dir, state, name)?.filter(|found| found.visible) else { break };
            let seen = self.look(&dir, state, name, &found)?;
            let entry = self.enter(&dir, name, &found, &seen, look == LOOKS);
            if entry.is_some() {
                return Ok(entry);
            }
        }
        Ok(None)
    }

    /// Names that belong to the format and are never a user's.
    pub(super) fn is_reserved(&self, name: Name<'_>) -> bool {
        self.options.format == Format::Aufs && meaning(name.as_bytes()) != Means::Object
    }

    /// Stats the object that a name was found to be, and tells its identity.
    pub(super) fn look(&self, dir: &Node, state: &DirBody, name: Name<'_>, found: &Found) -> Result<Seen> {
        let place = Place::Name(self.dirfd(dir, found.top)?, name.as_bytes().into());
        let stat = place.stat().at("statx", found.top)?;
        let ino = if state.pure && self.is_writable(found.top) {
            self.devices.ino(stat.st_dev, stat.st_ino)
        } else {
            self.identity(found.top, &place, &stat)
        };
        let stat = self.meant(found.top, &place, stat);
        let mut seen = Seen::new(ino, stat, found.top);
        if found.kind == FileKind::Regular && state.note(found.top).metacopies {
            seen.data = self.data_of(dir, state, name, found.top, &place)?;
            self.count_blocks(&seen.data, &mut seen.stat);
        }
        if found.kind != FileKind::Directory && !self.groups.is_empty() {
            self.look_at_group(&mut seen)?;
        }
        Ok(seen)
    }

    /// A lower file whose other name was copied up is that copy.
    fn look_at_group(&self, seen: &mut Seen) -> Result<()> {
        let Some(branch) = self.groups.get(seen.ino, seen.branch) else { return Ok(()) };
        let Some(links) = &self.links[branch.index()] else { return Ok(()) };
        let place = Place::Name(Arc::clone(links), self.link_name(seen.ino, branch));
        seen.stat = self.meant(branch, &place, place.stat().at("statx", branch)?);
        seen.branch = branch;
        seen.indexed = true;
        seen.data = Data::Own;
        Ok(())
    }

    /// The node of an object, with one more reference; `None` if the node at hand differs from what was seen.
    ///
    /// `insist` makes another identity up instead: the object is a different one with a record that is not its own.
    pub(super) fn enter(
        &self,
        dir: &Arc<Node>,
        name: Name<'_>,
        found: &Found,
        seen: &Seen,
        insist: bool,
    ) -> Option<Entry> {
        let make = |ino| self.make_node(ino, dir, name, found, seen);
        let agreed = |ino| {
            let node = self.inodes.intern(ino, || make(ino));
            let agreement = self.agreement(&node, dir, name, seen);
            if agreement == Agreement::Other {
                self.forget(node.ino, 1);
                return None;
            }
            Some((node, agreement))
        };
        let count = if insist { usize::MAX } else { 1 };
        let (node, agreement) = numbers(dir, name, found, seen).take(count).find_map(agreed)?;
        if agreement == Agreement::Lost {
            let made = make(node.ino);
            self.relink(&node, made.link.into_inner());
            *node.body.write() = made.body.into_inner();
        }
        if found.kind == FileKind::Directory {
            self.refresh_dir(&node, found);
        }
        let links = self.links(seen.ino, &node.body.read(), &seen.stat);
        Some(Entry { node: node.ino, attr: self.attr_of(node.ino, &seen.stat, links) })
    }

    /// Links in the merged view. A directory has as many as its one layer says (subdirectories and two), or
    /// constantly 1, "not counted", when it is merged or may yet turn out to be.
    fn links(&self, ino: Ino, body: &Body, stat: &Stat) -> u32 {
        let own = saturate(stat.st_nlink);
        match body {
            // The last name was hidden; the inode does not know.
            Body::File(file) if file.nameless => 0,
            // To tell of one file, a directory somewhere else need not be readable.
            Body::File(file) => self.links_of(ino, file.branch, stat).unwrap_or(own),
            Body::Dir(state) if state.is_dead() => 0,
            Body::Dir(state) => match (&state.layers, &*state.candidates) {
                (Some(layers), _) if layers.len() == 1 => own,
                (None, [one]) if self.is_bottom(*one) => own,
                _ => 1,
            },
        }
    }

    fn make_node(&self, ino: Ino, dir: &Arc<Node>, name: Name<'_>, found: &Found, seen: &Seen) -> Node {
        let link = Link { parent: Some(Arc::clone(dir)), name: name.as_bytes().into(), moved: None };
        let body = if found.kind == FileKind::Directory {
            // A fresh directory has no marks to look for, and nothing in it.
            let fresh = seen.fresh && self.options.udba == Udba::None;
            let layers = fresh.then(|| vec![found.top]);
            let listing = fresh.then(Listing::default);
            Body::Dir(Box::new(DirBody { layers, listing, pure: fresh, ..DirBody::found(found) }))
        } else {
            let site = if seen.indexed { Site::Indexed } else { Site::Linked };
            Body::File(FileBody {
                branch: seen.branch,
                site,
                real: seen.stat.st_ino,
                nameless: false,
                data: seen.data.clone(),
            })
        };
        let node = Node::new(ino, FileKind::from_mode(seen.stat.st_mode), link, body);
        // What was made just now has none yet.
        node.no_capability.store(seen.fresh, Ordering::Release);
        node
    }

    /// Whether a node of the table is the object that was seen.
    fn agreement(&self, node: &Node, dir: &Arc<Node>, name: Name<'_>, seen: &Seen) -> Agreement {
        if node.kind != FileKind::from_mode(seen.stat.st_mode) {
            return Agreement::Other;
        }
        if node.is_dir() && node.is_linked_as(dir, name.as_bytes()) {
            return Agreement::Same;
        }
        let (same, lost) = match &*node.body.read() {
            Body::File(file) => {
                let stale = file.nameless && matches!(file.site, Site::Linked);
                let same = file.branch == seen.branch && file.real == seen.stat.st_ino;
                let unlinked = file.nameless || (!seen.indexed && matches!(file.site, Site::Pinned(_)));
                (same, stale || (same && unlinked))
            }
            Body::Dir(state) => (false, state.is_dead() && state.gone.is_none()),
        };
        match (same, lost) {
            (_, true) => Agreement::Lost,
            (true, false) => Agreement::Same,
            (false, false) => Agreement::Other,
        }
    }

    /// The identity that [`Union::enter`] gives to an object.
    pub(super) fn entered_ino(&self, dir: &Arc<Node>, name: Name<'_>, found: &Found, seen: &Seen) -> Ino {
        let other = |node: Arc<Node>| self.agreement(&node, dir, name, seen) == Agreement::Other;
        let free = |ino: &Ino| !self.inodes.get(*ino).is_some_and(other);
        numbers(dir, name, found, seen).find(free).unwrap_or(seen.ino)
    }

    /// Gives back `count` references of a node.
    pub fn forget(&self, node: Ino, count: u64) {
        self.inodes.forget(node, count, |gone| self.evict(gone));
        self.inodes.shrink();
    }

    /// The attributes of a node.
    ///
    /// # Errors
    ///
    /// `ESTALE` for a node the union does not know, or what its branch said.
    pub fn getattr(&self, node: Ino) -> Result<Attr> {
        let node = self.node(node)?;
        self.attr_now(&node, &node.body.read())
    }

    /// The attributes of a node whose body is locked.
    pub(super) fn attr_now(&self, node: &Node, body: &Body) -> Result<Attr> {
        let place = self.place(node, body)?;
        let mut stat = self.meant(branch_of(body), &place, place.stat().during("statx")?);
        if let Body::File(file) = body {
            self.count_blocks(&file.data, &mut stat);
        }
        let ino = match body {
            Body::Dir(_) if node.ino == Ino::ROOT => self.devices.ino(stat.st_dev, stat.st_ino),
            _ => node.ino,
        };
        // The root holds what is not for users.
        let links = if node.ino == Ino::ROOT { 1 } else { self.links(node.ino, body, &stat) };
        Ok(self.attr_of(ino, &stat, links))
    }

    /// The target of a symbolic link.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what is no symbolic link.
    pub fn readlink(&self, node: Ino) -> Result<OsString> {
        let node = self.node(node)?;
        let body = node.body.read();
        let target = self.place(&node, &body)?.readlink().during("readlinkat")?;
        Ok(OsString::from_vec(target))
    }

    /// Lists a directory from an offset on, until `sink` answers false, not having taken the entry.
    ///
    /// `inos` asks for `d_ino`, which costs a stat for each name but `.` and `..`; who looks the names up needs none.
    ///
    /// Offset 0 is the start. An offset stays good however the directory changes: an entry that is there all the
    /// while is told exactly once.
    ///
    /// # Errors
    ///
    /// `ENOTDIR`, or what a branch said.
    pub fn read_dir(
        &self,
        dir: Ino,
        after: u64,
        inos: bool,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let dir = self.dir_node(dir)?;
        let (fresh, mut after) = (after == 0, after);
        if after < 2 && !self.read_dots(&dir, &mut after, sink)? {
            return Ok(());
        }
        let body = self.listed_body(&dir, fresh)?;
        let Some(listing) = &body.dir()?.listing else { return Ok(()) };
        for (next, slot) in listing.after(after) {
            let (ino, kind) = if inos {
                // Behind the union's back an entry may have gone.
                let name = Name::from_bytes(&slot.name)?;
                let Ok(seen) = self.look(&dir, body.dir()?, name, &slot.found) else { continue };
                let ino = self.entered_ino(&dir, name, &slot.found, &seen);
                (self.shown_ino(ino), FileKind::from_mode(seen.stat.st_mode))
            } else {
                (0, slot.found.kind)
            };
            if !sink(DirEntry { name: OsStr::from_bytes(&slot.name), ino, kind, next }) {
                break;
            }
        }
        Ok(())
    }

    fn read_dots(
        &self,
        dir: &Node,
        after: &mut u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<bool> {
        let up = dir.parent();
        for (name, node, next) in [(".", dir, 1), ("..", up.as_deref().unwrap_or(dir), 2)] {
            if *after < next {
                let ino = self.attr_now(node, &node.body.read())?.ino;
                if !sink(DirEntry { name: OsStr::new(name), ino, kind: FileKind::Directory, next }) {
                    return Ok(false);
                }
                *after = next;
            }
        }
        Ok(true)
    }

    /// The directory's state for reading, its listing made.
    pub(super) fn listed_body<'a>(
        &self,
        dir: &'a Node,
        fresh: bool,
    ) -> Result<parking_lot::RwLockReadGuard<'a, Body>> {
        let body = self.read_body(dir)?;
        // Where the branches may change, a listing is made anew each time it is begun.
        let again = fresh && self.options.udba == Udba::Reval;
        if body.dir()?.listing.is_some() && !again {
            return Ok(body);
        }
        drop(body);
        let mut body = self.write_body(dir)?;
        if again && !body.dir()?.is_dead() {
            body.dir_mut()?.listing = None;
        }
        self.list(dir, body.dir_mut()?)?;
        Ok(parking_lot::RwLockWriteGuard::downgrade(body))
    }

    /// Fails for a directory that was removed while somebody still had it open.
    pub(super) fn must_be_alive(body: &DirBody) -> Result<()> {
        if body.is_dead() { Err(Error::rule("removed directory", Errno::NOENT)) } else { Ok(()) }
    }
}

/// What a node of the table is to an object that was seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Agreement {
    Same,
    /// It has lost its name, or a change of the branches has left it with no object: it becomes this one.
    Lost,
    Other,
}

/// The number of an object, and those that it has while others have these.
fn numbers(dir: &Node, name: Name<'_>, found: &Found, seen: &Seen) -> impl Iterator<Item = Ino> {
    let (ino, salt) = (seen.ino, seen.stat.st_ino ^ name_salt(dir, name, found.kind));
    std::iter::once(ino).chain((0..).map(move |more| alternative(ino, salt.wrapping_add(more))))
}

/// Two directories never are one: what tells apart those that claim to be.
fn name_salt(dir: &Node, name: Name<'_>, kind: FileKind) -> u64 {
    if kind == FileKind::Directory {
        name.as_bytes()
            .iter()
            .fold(dir.ino.get(), |salt, &byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)))
    } else {
        0
    }
}
