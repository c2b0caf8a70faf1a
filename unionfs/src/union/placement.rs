//! Which branch takes a change: what the change itself asks for, and among what that leaves the policies of
//! [`crate::policy`].
//!
//! With several writable branches a change is visible only in some of them. The rules, each a bound on the branch `b`
//! of an act (0 is the top):
//!
//! - **Names.** What a name leads to, or what hides it, lies in `top`: `b ≤ top`, or the change would be hidden.
//! - **Directories.** `b` has the directory, or it can get a copy that is merged: nothing above says otherwise
//!   ([`DirBody::cut`](crate::dir::DirBody::cut)), and the same holds for its parent.
//! - **Objects.** An object that gets a name in `b` must lie there; one that lies further down is copied up first,
//!   one that lies above stays: `b ≤` its branch. The copy beneath stays and is hidden.
//! - **Marks.** A redirect mark tells the path in the branches below it. It cannot be told inside a directory that a
//!   mark further up has moved: `b ≤` that mark's branch.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::fstatvfs;

use super::Union;
use crate::dir::{Found, Stand};
use crate::error::{Errno, Error, Result};
use crate::inode::{Body, Node};
use crate::policy::Candidate;
use crate::types::BranchIndex;

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

/// A writable branch in which a change of a directory is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reached {
    pub(super) branch: BranchIndex,
    /// It has the directory already.
    pub(super) has: bool,
}

/// An object that must lie in the branch of the act.
#[derive(Debug)]
pub(super) struct Passenger {
    /// Where it lies.
    pub(super) branch: BranchIndex,
    /// Where it could be copied to; nowhere if it has no name.
    pub(super) copies: Vec<Reached>,
}

/// What an act asks of its branch.
#[derive(Debug)]
pub(super) struct Seat<'a> {
    pub(super) op: &'static str,
    /// The directories in which names change.
    pub(super) dirs: &'a [&'a Arc<Node>],
    /// It must not be further down.
    pub(super) lowest: BranchIndex,
    pub(super) passengers: Vec<Passenger>,
}

/// The branches that all of `sets` reach and that are not below `lowest`; those which all have the directory already
/// are told.
fn common(mut sets: impl Iterator<Item = Vec<Reached>>, lowest: BranchIndex) -> Vec<Reached> {
    let mut all = sets.next().unwrap_or_default();
    all.retain(|one| one.branch <= lowest);
    for set in sets {
        all.retain_mut(|one| match set.iter().find(|other| other.branch == one.branch) {
            Some(other) => {
                one.has &= other.has;
                true
            }
            None => false,
        });
    }
    all
}

impl Union {
    /// The branch that a new object of a directory goes to. `over` is what hides the name there, if anything.
    pub(super) fn create_branch(&self, dir: &Arc<Node>, over: Option<&Found>) -> Result<BranchIndex> {
        let lowest = over.map_or_else(|| self.bottom(), |over| over.top);
        let reached = common([self.reach(dir)?].into_iter(), lowest);
        let placement = &self.placement;
        let chosen = if let [only] = reached[..] {
            Some(only.branch)
        } else {
            let turn = placement.turn.fetch_add(1, Ordering::Relaxed);
            let random = usize::try_from(self.hash.offset(&turn.to_ne_bytes())).unwrap_or_default();
            let candidates = self.candidates(&reached);
            self.options.create.choose(&candidates, self.options.min_free, turn, random)
        };
        tracing::trace!(dir = ?dir.ino, ?chosen, "placed");
        chosen.ok_or(Error { op: "create", branch: Some(lowest), errno: Errno::ROFS })
    }

    /// The highest branch that takes a change of a directory.
    pub(super) fn highest_branch(&self, dir: &Arc<Node>) -> Result<BranchIndex> {
        let first = self.reach(dir)?.first().map(|reached| reached.branch);
        first.ok_or(Error { op: "create", branch: None, errno: Errno::ROFS })
    }

    /// The branch that a copy of an object on `from` goes to; `parent` is its directory, if it has one.
    pub(super) fn copyup_branch(&self, from: BranchIndex, parent: Option<&Arc<Node>>) -> Result<BranchIndex> {
        let refused = Error { op: "copy-up", branch: Some(from), errno: Errno::ROFS };
        let mut reached = match parent {
            Some(parent) => self.reach(parent)?,
            None => self.all_writable(),
        };
        reached.retain(|one| one.branch < from);
        self.options.copyup.choose(&self.candidates(&reached)).ok_or(refused)
    }

    /// The branch on which a name of a directory can be made to go away.
    pub(super) fn removal_branch(&self, dir: &Arc<Node>, found: &Found) -> Result<BranchIndex> {
        if self.is_writable(found.top) {
            return Ok(found.top);
        }
        self.seat(&Seat { op: "whiteout", dirs: &[dir], lowest: found.top, passengers: Vec::new() })
    }

    /// The branch on which an act can be carried out: the nearest to its passengers if none of them has to be copied,
    /// else the one that the policy for copies chooses.
    pub(super) fn seat(&self, seat: &Seat<'_>) -> Result<BranchIndex> {
        // A file without a name, of which there can be no copy, is as on another filesystem.
        let fixed = seat.passengers.iter().any(|passenger| passenger.copies.is_empty());
        let errno = if fixed { Errno::XDEV } else { Errno::ROFS };
        let refused = Error { op: seat.op, branch: Some(seat.lowest), errno };
        let mut sets = Vec::with_capacity(seat.dirs.len() + seat.passengers.len());
        for dir in seat.dirs {
            sets.push(self.reach(dir)?);
        }
        let mut lowest = seat.lowest;
        for passenger in &seat.passengers {
            lowest = lowest.min(passenger.branch);
            let mut reached = passenger.copies.clone();
            // Where it lies it need not be shown.
            if self.is_writable(passenger.branch) {
                reached.retain(|one| one.branch != passenger.branch);
                reached.push(Reached { branch: passenger.branch, has: true });
            }
            sets.push(reached);
        }
        let reached = common(sets.into_iter(), lowest);
        let stays = |one: &&Reached| seat.passengers.iter().any(|other| other.branch == one.branch);
        match reached.iter().find(stays) {
            Some(one) => Ok(one.branch),
            None => self.options.copyup.choose(&self.candidates(&reached)).ok_or(refused),
        }
    }

    /// An object that an act needs in its branch.
    pub(super) fn passenger(&self, node: &Node) -> Result<Passenger> {
        let branch = self.branch_of(node)?;
        let nameless = matches!(&*node.body.read(), Body::File(file) if file.nameless);
        let copies = match node.parent() {
            _ if nameless => Vec::new(),
            Some(parent) => self.reach(&parent)?,
            // It is found by other names of its group.
            None => self.all_writable(),
        };
        Ok(Passenger { branch, copies })
    }

    /// The branch of the lowest priority.
    pub(super) fn bottom(&self) -> BranchIndex {
        super::index(self.branches.len() - 1)
    }

    fn all_writable(&self) -> Vec<Reached> {
        let writable = (0..self.branches.len()).map(super::index).filter(|&at| self.is_writable(at));
        writable.map(|branch| Reached { branch, has: false }).collect()
    }

    /// The writable branches in which a change of a directory is seen, the highest first.
    ///
    /// No lock may be held: it goes up to the root, and locks one directory at a time.
    pub(super) fn reach(&self, dir: &Arc<Node>) -> Result<Vec<Reached>> {
        let mut reached = self.all_writable();
        let mut next = Some(Arc::clone(dir));
        let mut undecided = reached.iter().map(|one| one.branch).collect::<Vec<_>>();
        while let Some(node) = next.filter(|_| !undecided.is_empty()) {
            let body = self.read_body(&node)?;
            let state = body.dir()?;
            Self::must_be_alive(state)?;
            undecided.retain(|&branch| match state.stand(branch) {
                Stand::Has => {
                    let has = node.ino == dir.ino;
                    reached.iter_mut().filter(|one| one.branch == branch).for_each(|one| one.has = has);
                    false
                }
                Stand::Lacks => true,
                Stand::Hidden => {
                    reached.retain(|one| one.branch != branch);
                    false
                }
            });
            drop(body);
            next = node.parent();
        }
        // What the root lacks was given up.
        reached.retain(|one| !undecided.contains(&one.branch));
        Ok(reached)
    }

    /// The highest branch in which a mark has moved a directory or one above it.
    pub(super) fn highest_mark(&self, dir: &Arc<Node>) -> Option<BranchIndex> {
        let above = std::iter::successors(Some(Arc::clone(dir)), |node| node.parent());
        above.filter_map(|node| node.link.lock().moved.as_ref().map(|moved| moved.marked)).min()
    }

    /// The branch of the object behind a node: of a directory, the highest.
    pub(super) fn branch_of(&self, node: &Node) -> Result<BranchIndex> {
        if node.is_dir() {
            return Ok(self.read_body(node)?.dir()?.top());
        }
        match &*node.body.read() {
            Body::File(file) => Ok(file.branch),
            Body::Dir(state) => Ok(state.top()),
        }
    }

    /// What the policies look at.
    fn candidates(&self, reached: &[Reached]) -> Vec<Candidate> {
        let free = |branch| if reached.len() > 1 { self.free_space(branch) } else { u64::MAX };
        let candidate =
            |one: &Reached| Candidate { branch: one.branch, free: free(one.branch), parent: one.has };
        reached.iter().map(candidate).collect()
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
        let free = self.room(branch);
        *slot = Some((Instant::now(), free));
        free
    }

    /// Bytes free on a branch; none on one that cannot tell.
    pub(super) fn room(&self, branch: BranchIndex) -> u64 {
        fstatvfs(self.branch(branch).root()).map_or(0, |told| told.f_bavail * told.f_frsize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_branch_is_common_if_all_reach_it_and_it_is_not_too_low() {
        let set = |branches: &[(u16, bool)]| {
            let one = |&(at, has): &(u16, bool)| Reached { branch: BranchIndex::new(at), has };
            branches.iter().map(one).collect::<Vec<_>>()
        };
        for (case, sets, lowest, want) in [
            ("one directory", vec![set(&[(0, false), (2, true)])], 9, &[(0, false), (2, true)][..]),
            ("none further down than that", vec![set(&[(0, false), (2, true)])], 1, &[(0, false)]),
            ("just there", vec![set(&[(0, false), (2, true)])], 2, &[(0, false), (2, true)]),
            ("both have it", vec![set(&[(0, true), (1, true)]), set(&[(1, true)])], 9, &[(1, true)]),
            ("one has it", vec![set(&[(0, true)]), set(&[(0, false)])], 9, &[(0, false)]),
            ("no common one", vec![set(&[(0, true)]), set(&[(1, true)])], 9, &[]),
            ("nothing is asked", vec![], 9, &[]),
        ] {
            assert_eq!(common(sets.into_iter(), BranchIndex::new(lowest)), set(want), "{case}");
        }
    }
}
