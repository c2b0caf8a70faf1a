//! How many names of the merged view lead to a file.
//!
//! An inode tells how many names it has in its branch, not how many of them show: a branch above may hide some, and
//! some may lie outside of the branch. So when that number is first wanted of a file whose inode has several, every
//! directory is listed once, as users see it; from then on the changes that are made through the union are counted
//! along. Nothing of it is on disk, so no crash can make it wrong.
//!
//! A file of the top branch needs none of this, for nothing can hide its names: its inode tells.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use rustix::fs::{Stat, fstat, fstatfs};

use super::Union;
use super::path::{joined, split};
use super::read::Seen;
use super::resolve::{REDIRECTS, absolute};
use crate::dir::{Found, Says};
use crate::error::{At, Errno, Result};
use crate::inode::BuildInoHasher;
use crate::place::Place;
use crate::types::{BranchIndex, FileKind, Ino};

/// Names by what a file is counted by: those that have several.
type Counts = HashMap<Ino, u32, BuildInoHasher>;

/// What was counted, if it was; locked for writing while it is being counted.
#[derive(Debug, Default)]
pub(crate) struct Names(RwLock<Option<Mutex<Counts>>>);

/// While it lives nobody counts: held from before a name comes, goes or moves until that is told to it.
pub(super) struct Still<'a>(RwLockReadGuard<'a, Option<Mutex<Counts>>>);

impl Still<'_> {
    /// A file has so many names now.
    pub(super) fn set(&self, key: Ino, links: u32) {
        let Some(counts) = &*self.0 else { return };
        if links > 1 {
            counts.lock().insert(key, links);
        } else {
            counts.lock().remove(&key);
        }
    }

    /// A file that was counted by one key, if by any, is counted by another.
    pub(super) fn renamed(&self, from: Option<Ino>, to: Ino) {
        let Some(counts) = &*self.0 else { return };
        let mut counts = counts.lock();
        if let Some(links) = from.and_then(|from| counts.remove(&from)) {
            counts.insert(to, links);
        }
    }

    /// A file has one name less: how many are left.
    fn less(&self, key: Ino) -> u32 {
        let links = self.0.as_ref().and_then(|counts| counts.lock().get(&key).copied()).unwrap_or(1) - 1;
        self.set(key, links);
        links
    }
}

/// A file that is losing a name.
pub(super) struct Leaving<'a> {
    key: Ino,
    still: Still<'a>,
}

impl Union {
    /// Keeps names from being counted. Who counts waits for it with directories locked: they must be locked before.
    pub(super) fn still(&self) -> Still<'_> {
        Still(self.names.0.read_recursive())
    }

    /// What a file is counted by, if its inode does not tell: a group's identity, or the inode's own number.
    pub(super) fn links_key(&self, ino: Ino, branch: BranchIndex, stat: &Stat) -> Option<Ino> {
        if self.groups.get(ino, branch).is_some() {
            return Some(ino);
        }
        (branch.index() > 0 && self.inode_links(ino, branch, stat) > 1)
            .then(|| self.devices.ino(stat.st_dev, stat.st_ino))
    }

    /// How many names lead to a file that has at least one.
    ///
    /// # Errors
    ///
    /// See [`Union::counted`].
    pub(super) fn links_of(&self, ino: Ino, branch: BranchIndex, stat: &Stat) -> Result<u32> {
        let key = self.links_key(ino, branch, stat);
        key.map_or_else(|| Ok(self.inode_links(ino, branch, stat)), |key| self.counted(key))
    }

    /// How many names lead to what is counted by `key`. Not to be asked by who holds [`Still`].
    ///
    /// # Errors
    ///
    /// What opening or listing a directory says, if they are yet to be counted and cannot be now.
    pub(super) fn counted(&self, key: Ino) -> Result<u32> {
        let links = |counts: &Mutex<Counts>| counts.lock().get(&key).copied().unwrap_or(1);
        if let Some(counts) = &*self.names.0.read_recursive() {
            return Ok(links(counts));
        }
        let mut names = self.names.0.write();
        let counts = match names.take() {
            Some(counts) => counts,
            None => Mutex::new(Census::take(self)?),
        };
        Ok(links(names.insert(counts)))
    }

    /// A file is about to lose a name: all names are counted by now, if its inode does not tell of them.
    pub(super) fn leaving(&self, seen: &Seen) -> Result<Option<Leaving<'_>>> {
        let Some(key) = self.links_key(seen.ino, seen.branch, &seen.stat) else { return Ok(None) };
        self.counted(key)?;
        Ok(Some(Leaving { key, still: self.still() }))
    }

    /// A file has lost a name; true if that was the last one.
    pub(super) fn left(&self, leaving: Option<Leaving<'_>>, seen: &Seen) -> bool {
        let last = match leaving {
            Some(Leaving { key, still }) => still.less(key) == 0,
            None => self.inode_links(seen.ino, seen.branch, &seen.stat) <= 1,
        };
        if last {
            self.ungroup(seen.ino);
            self.release_number(seen.ino);
        }
        last
    }
}

/// A directory of a branch that is part of a merged one.
#[derive(Clone)]
struct Part {
    branch: BranchIndex,
    /// Its path from the branch's root.
    path: Vec<u8>,
    /// Its path in the union of the branches below, which marks in it refer to.
    below: Vec<u8>,
}

impl Part {
    fn child(&self, name: &[u8]) -> Self {
        Self { branch: self.branch, path: joined(&self.path, name), below: joined(&self.below, name) }
    }
}

/// A part, open.
struct Layer {
    part: Part,
    fd: Arc<OwnedFd>,
    device: u64,
    xwhiteouts: bool,
}

/// All names of one merged directory, and the inode number that the listing tells of each.
type Listed = HashMap<Vec<u8>, (Found, u64)>;

/// A walk through the merged directories, by what the branches have on disk: it takes no node's lock.
struct Census<'a> {
    union: &'a Union,
    counts: Counts,
    /// The branches whose listings tell the numbers that stat(2) tells.
    tells: Vec<bool>,
}

impl<'a> Census<'a> {
    fn take(union: &'a Union) -> Result<Counts> {
        let tells = union.branches.iter().map(|branch| tells_numbers(branch.root())).collect();
        let mut census = Self { union, counts: Counts::default(), tells };
        let root = |at| Part { branch: super::index(at), path: Vec::new(), below: Vec::new() };
        let mut pending: Vec<Vec<Part>> = vec![(0..union.branches.len()).map(root).collect()];
        while let Some(parts) = pending.pop() {
            match census.directory(parts, &mut pending) {
                // It has gone meanwhile, or nobody who is not privileged sees what is in it.
                Err(error)
                    if matches!(error.errno, Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::ACCESS) =>
                {
                    tracing::debug!(%error, "names in a directory are not counted");
                }
                // Anything else may be over at the next try, and then its names are there.
                counted => counted?,
            }
        }
        census.counts.retain(|_, links| *links > 1);
        census.counts.shrink_to_fit();
        Ok(census.counts)
    }

    fn directory(&mut self, parts: Vec<Part>, pending: &mut Vec<Vec<Part>>) -> Result<()> {
        let layers = self.layers(parts)?;
        let mut names = Listed::new();
        for layer in &layers {
            let branch = layer.part.branch;
            self.union.list_layer(branch, &layer.fd, layer.xwhiteouts, &mut |name, says, real| {
                fold(&mut names, name, says, (branch, real));
            })?;
        }
        let layer = |branch| layers.iter().find(|layer| layer.part.branch == branch);
        for (name, (found, real)) in names.iter().filter(|(_, (found, _))| found.visible) {
            if found.kind == FileKind::Directory {
                let candidates = found.candidates();
                let parts = candidates.iter().filter_map(|&branch| Some(layer(branch)?.part.child(name)));
                pending.push(parts.collect());
            } else if let Some(layer) = layer(found.top) {
                self.count(layer, name, *real)?;
            }
        }
        Ok(())
    }

    /// Opens the parts that are merged, as [`Union::read_body`] finds them.
    fn layers(&self, parts: Vec<Part>) -> Result<Vec<Layer>> {
        let mut layers = Vec::with_capacity(parts.len());
        for mut part in parts {
            let branch = part.branch;
            let (fd, marks) = self.open(branch, &part.path)?;
            let device = fstat(&fd).at("fstat", branch)?.st_dev;
            let xwhiteouts = marks.note().is_some_and(|note| note.xwhiteouts);
            let further = match &marks.redirect {
                Some(target) if !self.union.is_bottom(branch) => {
                    part.below = absolute(split(&part.below).0, target);
                    Some(self.union.follow(branch, &part.below, REDIRECTS)?)
                }
                _ => None,
            };
            layers.push(Layer { part, fd, device, xwhiteouts });
            for (branch, path) in further.iter().flatten() {
                let (fd, marks) = self.open(*branch, path)?;
                let device = fstat(&fd).at("fstat", *branch)?.st_dev;
                let xwhiteouts = marks.note().is_some_and(|note| note.xwhiteouts);
                let part = Part { branch: *branch, path: path.to_vec(), below: path.to_vec() };
                layers.push(Layer { part, fd, device, xwhiteouts });
            }
            if marks.opaque || further.is_some() {
                break;
            }
        }
        Ok(layers)
    }

    fn open(&self, branch: BranchIndex, path: &[u8]) -> Result<(Arc<OwnedFd>, crate::marks::DirMarks)> {
        let fd = Arc::new(self.union.branch(branch).open_dir(path).at("openat2", branch)?);
        let marks = self.union.marks(branch, &fd)?;
        Ok((fd, marks))
    }

    /// Counts a name that shows.
    fn count(&mut self, layer: &Layer, name: &[u8], real: u64) -> Result<()> {
        let (union, branch) = (self.union, layer.part.branch);
        let grouped = !union.groups.is_empty() && !union.is_bottom(branch);
        if branch.index() == 0 && !grouped {
            return Ok(());
        }
        let key = if grouped || real == 0 || !self.tells[branch.index()] {
            let place = Place::Name(Arc::clone(&layer.fd), name.into());
            let stat = place.stat().at("statx", branch)?;
            let ino = grouped.then(|| union.identity(branch, &place, &stat));
            match ino.filter(|&ino| union.groups.get(ino, branch).is_some()) {
                // An earlier copy, further down, may have but this name.
                Some(group) => group,
                None if stat.st_nlink > 1 => union.devices.ino(stat.st_dev, stat.st_ino),
                None => return Ok(()),
            }
        } else {
            union.devices.ino(layer.device, real)
        };
        *self.counts.entry(key).or_default() += 1;
        Ok(())
    }
}

/// What one more layer says of a name.
fn fold(names: &mut Listed, name: &[u8], says: Says, (branch, real): (BranchIndex, u64)) {
    match names.get_mut(name) {
        Some((found, _)) => found.add(says, branch),
        None => {
            names.insert(name.to_vec(), (Found::first(says, branch), real));
        }
    }
}

/// Whether getdents(2) tells the numbers that stat(2) tells: stacked filesystems need not.
fn tells_numbers(root: &OwnedFd) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` and `FUSE_SUPER_MAGIC` (linux/magic.h).
    const STACKED: [u64; 2] = [0x794c_7630, 0x6573_5546];
    fstatfs(root).is_ok_and(|told| !STACKED.contains(&u64::try_from(told.f_type).unwrap_or_default()))
}
