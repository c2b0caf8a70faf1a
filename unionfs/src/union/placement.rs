//! Which branch takes a change: the policies of [`crate::policy`], applied to the branches there are.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, fstatvfs, renameat, unlinkat};

use super::Union;
use super::copyup::ALL_DATA;
use crate::dir::{DirBody, Found};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, FileBody, Node, Site};
use crate::policy::Candidate;
use crate::types::{BranchIndex, FileKind};
use crate::work::keeping_times;

/// What is remembered between choices.
#[derive(Debug)]
pub(super) struct Placement {
    turn: AtomicUsize,
    /// Free space of each branch, and when it was looked at.
    free: Mutex<Vec<Option<(Instant, u64)>>>,
}

impl Placement {
    pub(super) fn new(branches: usize) -> Self {
        Self { turn: AtomicUsize::new(0), free: Mutex::new(vec![None; branches]) }
    }
}

impl Union {
    /// The branch that a new object of a directory goes to. `over` is what hides the name there, if anything.
    pub(super) fn create_branch(
        &self,
        dir: &Node,
        state: &DirBody,
        over: Option<&Found>,
    ) -> Result<BranchIndex> {
        let layers = state.layers.as_deref().unwrap_or_default();
        let lowest = *layers.last().ok_or(Error::rule("removed directory", Errno::NOENT))?;
        // Further down the directory is hidden by an opaque one, or the name by a whiteout.
        let lowest = over.map_or(lowest, |over| over.top.min(lowest));
        let candidates = self.candidates(state, lowest.index() + 1);
        let placement = &self.placement;
        let chosen = if candidates.len() == 1 {
            Some(candidates[0].branch)
        } else {
            let turn = placement.turn.fetch_add(1, Ordering::Relaxed);
            let random = usize::try_from(self.hash.offset(&turn.to_ne_bytes())).unwrap_or_default();
            self.options.create.choose(&candidates, self.options.min_free, turn, random)
        };
        chosen.ok_or(Error { op: "create", branch: Some(lowest), errno: Errno::ROFS }).inspect(|_| {
            tracing::trace!(dir = ?dir.ino, ?chosen, "placed");
        })
    }

    /// The branch that a copy of an object on `from` goes to; `parent` is its directory, if it has one.
    pub(super) fn copyup_branch(&self, from: BranchIndex, parent: Option<&Arc<Node>>) -> Result<BranchIndex> {
        let refused = Error { op: "copy-up", branch: Some(from), errno: Errno::ROFS };
        let mut writable = (0..from.index()).map(super::index).filter(|&at| self.is_writable(at));
        let first = writable.next().ok_or(refused)?;
        if writable.next().is_none() {
            return Ok(first);
        }
        let candidates = match parent {
            Some(parent) => self.candidates(self.read_body(parent)?.dir()?, from.index()),
            None => self.candidates(&DirBody::default(), from.index()),
        };
        self.options.copyup.choose(&candidates).ok_or(refused)
    }

    /// The branch on which a name of a locked directory can be made to go away.
    pub(super) fn removal_branch(&self, state: &DirBody, found: &Found) -> Result<BranchIndex> {
        if self.is_writable(found.top) {
            return Ok(found.top);
        }
        let refused = Error { op: "whiteout", branch: Some(found.top), errno: Errno::ROFS };
        self.options.copyup.choose(&self.candidates(state, found.top.index())).ok_or(refused)
    }

    /// The writable ones of the first `below` branches.
    fn candidates(&self, state: &DirBody, below: usize) -> Vec<Candidate> {
        let layers = state.layers.as_deref().unwrap_or_default();
        let writable = (0..below).map(super::index).filter(|&at| self.is_writable(at));
        let mut all: Vec<_> = writable
            .map(|branch| Candidate { branch, free: u64::MAX, parent: layers.contains(&branch) })
            .collect();
        if all.len() > 1 {
            for one in &mut all {
                one.free = self.free_space(one.branch);
            }
        }
        all
    }

    /// Bytes free on a branch, looked at no more often than the policy asks for; all where it does not matter.
    fn free_space(&self, branch: BranchIndex) -> u64 {
        let sampling = match (self.options.create.sampling(), self.options.min_free) {
            (Some(sampling), _) => sampling,
            (None, 0) => return u64::MAX,
            (None, _) => std::time::Duration::ZERO,
        };
        let mut known = self.placement.free.lock();
        let slot = &mut known[branch.index()];
        if let Some((when, free)) = slot
            && when.elapsed() < sampling
        {
            return *free;
        }
        let free = fstatvfs(self.branch(branch).root()).map_or(0, |told| told.f_bavail * told.f_frsize);
        *slot = Some((Instant::now(), free));
        free
    }

    /// Another writable branch with more room than the one that is full, for a file that has to move on.
    pub(super) fn roomier_branch(&self, full: BranchIndex) -> Option<BranchIndex> {
        let others =
            (0..self.branches.len()).map(super::index).filter(|&at| at != full && self.is_writable(at));
        let room = |at: BranchIndex| {
            fstatvfs(self.branch(at).root()).map_or(0, |told| told.f_bavail * told.f_frsize)
        };
        others
            .map(|at| (room(at), at))
            .filter(|&(free, _)| free > self.options.min_free)
            .max()
            .map(|(_, at)| at)
    }

    /// Moves a file whose branch is full to a branch with room, under the same name.
    ///
    /// Both branches have the whole file for a moment; whichever shows, it is the same.
    pub(super) fn move_on(&self, node: &Arc<Node>) -> Result<()> {
        let parent = node.parent().ok_or(Error::rule("move on", Errno::NOSPC))?;
        let from = match &*node.body.read() {
            Body::File(file) if matches!(file.site, Site::Linked) => file.branch,
            _ => return Err(Error::rule("move on", Errno::NOSPC)),
        };
        let to = self.roomier_branch(from).ok_or(Error {
            op: "move on",
            branch: Some(from),
            errno: Errno::NOSPC,
        })?;
        self.dir_on(&parent, to)?;
        let mut above = self.write_body(&parent)?;
        // Nobody writes to the file while this is held.
        let mut body = node.body.write();
        let name = node.link.lock().name.clone();
        if !node.is_linked_as(&parent, &name) {
            return Err(Error::rule("move on", Errno::NOSPC));
        }
        let source = self.place(node, &body)?;
        let (temp, shown) = self.copy_object(node, (from, &source), None, to, ALL_DATA)?;
        if shown.links > 1 {
            return Err(Error { op: "move on with hard links", branch: Some(from), errno: Errno::NOSPC });
        }
        let (old, new) = (self.dirfd(&parent, from)?, self.dirfd(&parent, to)?);
        keeping_times(&new, || renameat(temp.dir(), temp.name.as_slice(), &new, &*name))
            .at("renameat", to)?;
        temp.moved();
        keeping_times(&old, || unlinkat(&old, &*name, AtFlags::empty())).at("unlinkat", from)?;
        *body = Body::File(FileBody { branch: to, site: Site::Linked, real: shown.real, data: None });
        self.files.remove(&node.ino);
        if let Some(listing) = &mut above.dir_mut()?.listing
            && let Some(mut found) = listing.get(self.hash, &name).cloned()
        {
            found.top = to;
            listing.set(self.hash, &name, Some(found));
        }
        Ok(())
    }

    /// Whether a file that got no space should move on to a branch that has some.
    pub(super) fn moves_on(&self, node: &Node, errno: Errno) -> bool {
        self.options.move_on_enospc
            && node.kind == FileKind::Regular
            && matches!(errno, Errno::NOSPC | Errno::DQUOT)
    }
}
