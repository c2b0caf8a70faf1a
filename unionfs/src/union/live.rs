//! Changing the branches of a union that is in use.
//!
//! These take `&mut self`: nobody else is in the union while the list changes, so for users a change is atomic.
//! Each leaves every node on the object it stood for; what a new branch hides, or an old one no longer shows, is kept
//! for those who have it open, as if it had been unlinked.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::census::Names;
use super::groups::read_indexes;
use super::placement::Placement;
use super::udba::Watches;
use super::{NewError, Union, index, open_links, open_works, path_on};
use crate::branch::{Branch, BranchSpec, Perm};
use crate::dir::{DirBody, Listing, Listings};
use crate::inode::{Body, Data, FileBody, Link, Located, Node, Site};
use crate::live::Known;
use crate::types::{BranchIndex, Ino, Name};
use crate::work::Work;

/// Why the branches were not changed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum LiveError {
    #[error(transparent)]
    New(#[from] NewError),
    #[error("no branch {0:?} in this union: see 'unionfs branches'")]
    NoSuchBranch(PathBuf),
    #[error("place {0} in the list of branches: it has only {1}")]
    NoSuchPlace(usize, usize),
    #[error("branch {0:?} is the last one: unmount the union instead")]
    LastBranch(PathBuf),
    #[error("branch {path:?} is in use: {what}")]
    Busy { path: PathBuf, what: String },
}

/// Descriptors of open objects, by node.
type Pins = HashMap<Ino, Arc<OwnedFd>>;

/// Which nodes somebody uses at the moment, by `st_ino`.
#[derive(Clone, Debug, Default)]
pub struct InUse {
    /// Open, mapped, or somebody's directory.
    pub open: HashSet<u64>,
    /// Open for writing.
    pub writing: HashSet<u64>,
}

impl Union {
    /// Adds a branch at a place of the list, 0 being the top.
    ///
    /// # Errors
    ///
    /// As [`Union::new`] of the new branch; nothing has changed then.
    pub fn add_branch(
        &mut self,
        at: usize,
        spec: BranchSpec,
        in_use: &InUse,
    ) -> std::result::Result<(), LiveError> {
        if at > self.branches.len() {
            return Err(LiveError::NoSuchPlace(at, self.branches.len()));
        }
        let branch = Branch::open(spec).map_err(NewError::from)?;
        let overlapped = self.branches.iter().find(|other| branch.overlaps(other) || other.overlaps(&branch));
        if let Some(other) = overlapped {
            let path = |branch: &Branch| branch.spec().path.clone();
            return Err(NewError::Overlap { inner: path(&branch), outer: path(other) }.into());
        }
        let work = self.work_for(&branch)?;
        let pins = self.pins(in_use);
        self.devices.learn(branch.device(), branch.label());
        self.branches.insert(at, branch);
        self.works.insert(at, work);
        self.renumber(|old| Some(if old.index() >= at { index(old.index() + 1) } else { old }));
        self.settle(&pins);
        Ok(())
    }

    /// Removes a branch. A node that only this branch has must not be in use.
    ///
    /// # Errors
    ///
    /// [`LiveError::Busy`] names such a node.
    pub fn remove_branch(&mut self, path: &Path, in_use: &InUse) -> std::result::Result<(), LiveError> {
        let at = self.place_of(path)?;
        if self.branches.len() == 1 {
            return Err(LiveError::LastBranch(path.to_path_buf()));
        }
        let gone = index(at);
        if let Some(node) = self.inodes.all().into_iter().find(|node| stands_on(node, gone, &in_use.open)) {
            let name = String::from_utf8_lossy(&path_on(&node, gone)).into_owned();
            return Err(LiveError::Busy { path: path.to_path_buf(), what: format!("/{name} is open") });
        }
        let pins = self.pins(in_use);
        self.branches.remove(at);
        self.works.remove(at);
        self.renumber(|old| match old.index() {
            old if old == at => None,
            old if old > at => Some(index(old - 1)),
            old => Some(index(old)),
        });
        self.settle(&pins);
        Ok(())
    }

    /// Changes the permission of a branch.
    ///
    /// # Errors
    ///
    /// [`LiveError::Busy`] if the branch is to become read-only and somebody has a file of it open for writing.
    pub fn change_branch(
        &mut self,
        path: &Path,
        perm: Perm,
        in_use: &InUse,
    ) -> std::result::Result<(), LiveError> {
        let at = self.place_of(path)?;
        if self.branches[at].writable() && !perm.writable() {
            let on = |node: &Arc<Node>| stands_on(node, index(at), &in_use.writing);
            if let Some(node) = self.inodes.all().into_iter().find(on) {
                let name = String::from_utf8_lossy(&path_on(&node, index(at))).into_owned();
                let what = format!("/{name} is open for writing");
                return Err(LiveError::Busy { path: path.to_path_buf(), what });
            }
        }
        let spec = BranchSpec { path: self.branches[at].spec().path.clone(), perm };
        let branch = Branch::open(spec).map_err(NewError::from)?;
        let pins = self.pins(in_use);
        // The work directory of the branch as it was must be let go of first.
        self.works[at] = None;
        let work = self.work_for(&branch)?;
        self.branches[at] = branch;
        self.works[at] = work;
        self.settle(&pins);
        Ok(())
    }

    /// What the kernel may have in its caches.
    pub(crate) fn known(&self) -> Vec<Known> {
        let known = |node: Arc<Node>| {
            let link = node.link.lock();
            let name = link.parent.as_ref().map(|parent| (parent.ino, link.name.to_vec()));
            Known { node: node.ino, dir: node.is_dir(), changed: self.orphans.contains(&node.ino), name }
        };
        self.inodes.all().into_iter().map(known).collect()
    }

    fn place_of(&self, path: &Path) -> std::result::Result<usize, LiveError> {
        let wanted = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        let at = self.branches.iter().position(|branch| branch.spec().path == wanted);
        at.ok_or_else(|| LiveError::NoSuchBranch(path.to_path_buf()))
    }

    fn work_for(&self, branch: &Branch) -> std::result::Result<Option<Work>, LiveError> {
        let mut options = self.options.clone();
        // The work directory that was named is the first branch's.
        options.workdir = None;
        let work = open_works(std::slice::from_ref(branch), &options).map_err(NewError::from)?;
        Ok(work.into_iter().next().flatten())
    }

    /// Tells all nodes the new places of the branches; what a branch that is gone had is forgotten.
    fn renumber(&mut self, new: impl Fn(BranchIndex) -> Option<BranchIndex>) {
        for node in self.inodes.all() {
            if let Some(moved) = &mut node.link.lock().moved {
                moved.located.retain_mut(|(branch, _)| renumber_one(branch, &new));
                renumber_one(&mut moved.marked, &new);
            }
            match &mut *node.body.write() {
                Body::File(file) => {
                    if let Some(branch) = new(file.branch) {
                        file.branch = branch;
                    }
                    if let Data::Below(at) = &file.data {
                        let moved = |(branch, path): &Located| Some((new(*branch)?, path.clone()));
                        file.data = Data::below(at.as_ref().as_ref().and_then(moved));
                    }
                }
                Body::Dir(state) => {
                    state.candidates = state.candidates.iter().copied().filter_map(&new).collect();
                    if !state.is_dead() {
                        state.layers = None;
                    }
                }
            }
        }
    }

    /// Looks at every node again, from the root down, with the branches as they are now.
    fn settle(&mut self, pins: &Pins) {
        let count = self.branches.len();
        self.links = open_links(&self.branches, &self.works, &self.options);
        (self.groups, self.numbers) = read_indexes(&self.links, &self.devices, &self.branches);
        self.names = Names::default();
        self.dirs.clear();
        self.files.clear();
        self.listings = Listings::new();
        self.ahead.clear();
        self.placement = Placement::new(count);
        // Directories are watched again as they are looked into.
        self.watches.iter().for_each(Watches::clear);
        let mut nodes = self.inodes.all();
        nodes.sort_by_cached_key(depth);
        let mut orphans = Vec::new();
        for node in nodes {
            if node.ino == Ino::ROOT {
                let all = (0..count).map(index).collect();
                *node.body.write() = Body::Dir(Box::new(DirBody { candidates: all, ..DirBody::default() }));
            } else if !self.settled(&node) {
                self.orphan(&node, pins.get(&node.ino).cloned());
                orphans.push(node);
            }
        }
        // Only now: until here paths led through them.
        orphans.iter().for_each(|node| self.relink(node, Link::default()));
        // One that is open keeps what it stood for.
        let unused = orphans.iter().filter(|node| !node.is_dir() && !pins.contains_key(&node.ino));
        self.orphans = unused.map(|node| node.ino).collect();
    }

    /// Whether a node stands for the same object as before.
    fn settled(&self, node: &Arc<Node>) -> bool {
        if node.parent().is_some() {
            return self.settle_one(node).is_some();
        }
        // Its last name is gone, but for one by which only the index leads to it.
        match &*node.body.read() {
            Body::File(FileBody { branch, site: Site::Indexed, .. }) => {
                self.groups.get(node.ino, *branch) == Some(*branch)
            }
            _ => true,
        }
    }

    /// Descriptors of what is open, which lead to it whatever becomes of the branches.
    fn pins(&self, in_use: &InUse) -> Pins {
        let open = in_use.open.iter().filter_map(|ino| self.inodes.get(Ino::new(*ino)?));
        let pin = |node: Arc<Node>| {
            let place = self.place(&node, &node.body.read()).ok()?;
            Some((node.ino, place.pin().ok()?))
        };
        open.filter_map(pin).collect()
    }

    /// Finds a node again by its name; `None` if the name leads to something else now.
    fn settle_one(&self, node: &Arc<Node>) -> Option<()> {
        let parent = node.parent()?;
        let name = node.link.lock().name.clone();
        let name = Name::from_bytes(&name).ok()?;
        let (found, seen) = {
            let above = self.read_body(&parent).ok()?;
            let found = self.find(&parent, above.dir().ok()?, name).ok()??;
            let seen = self.look(&parent, above.dir().ok()?, name, &found).ok()?;
            (found, seen)
        };
        let same = self.entered_ino(&parent, name, &found, &seen) == node.ino;
        if !found.visible || found.kind != node.kind || !same {
            return None;
        }
        if node.is_dir() {
            *node.body.write() = Body::Dir(Box::new(DirBody::found(&found)));
            node.link.lock().moved = None;
            return self.read_body(node).is_ok().then_some(());
        }
        match &mut *node.body.write() {
            Body::Dir(_) => return None,
            Body::File(file) => {
                if file.real != seen.stat.st_ino {
                    return None;
                }
                file.branch = seen.branch;
                file.site = if seen.indexed { Site::Indexed } else { Site::Linked };
                file.nameless = false;
                file.data = seen.data;
            }
        }
        Some(())
    }

    /// A node whose name is somebody else's now lives on for those who have it open; for others it is stale.
    fn orphan(&self, node: &Arc<Node>, fd: Option<Arc<OwnedFd>>) {
        match &mut *node.body.write() {
            Body::Dir(state) => {
                **state = DirBody {
                    candidates: state.candidates.clone(),
                    layers: Some(Vec::new()),
                    listing: Some(Listing::default()),
                    gone: fd,
                    ..DirBody::default()
                };
            }
            Body::File(file) => {
                (file.site, file.nameless) = (fd.map_or(Site::Linked, Site::Pinned), true);
            }
        }
    }
}

/// Whether a node that is in use is found on this branch alone.
fn stands_on(node: &Node, branch: BranchIndex, in_use: &HashSet<u64>) -> bool {
    if !in_use.contains(&node.ino.get()) {
        return false;
    }
    match &*node.body.read() {
        Body::File(file) => file.branch == branch || file.data.is_below_on(branch),
        Body::Dir(state) => {
            let layers = state.layers.as_deref().unwrap_or(&state.candidates);
            node.ino != Ino::ROOT && layers == [branch]
        }
    }
}

fn renumber_one(branch: &mut BranchIndex, new: &impl Fn(BranchIndex) -> Option<BranchIndex>) -> bool {
    let renumbered = new(*branch);
    *branch = renumbered.unwrap_or(*branch);
    renumbered.is_some()
}

fn depth(node: &Arc<Node>) -> usize {
    std::iter::successors(node.parent(), |above| above.parent()).count()
}
