//! Copies that are found by their origin: hard links that stay linked when one of them is copied up, and copies that
//! cannot bear the record of where they come from.
//!
//! An inode with several names is one group, named by its identity. When one of its names is copied up, `links/` in
//! the work directory gets a hard link `ID` to the copy, by which all names lead to the copy: also those that do not
//! show now, for the branch that hides them may go. How many show is no part of the record: they are counted (see
//! [`super::census`]).
//!
//! A copy that takes no extended attribute (a symbolic link without privilege, say) gets a hard link `ID.p`. While it
//! is there the filesystem cannot give the copy's inode number to anything else, so it tells for certain whose it is;
//! and one that is the copy's only name is left of a copy that is gone.
//!
//! Where a crash has left copies on two branches, the higher one counts, for it was made last.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use rustix::fs::{AtFlags, Stat, linkat, statat};

use super::Union;
use super::create::link_to;
use super::hide::unlink_if_there;
use super::moving::Numbers;
use super::stat::saturate;
use crate::branch::Branch;
use crate::devices::Devices;
use crate::error::{Errno, Result};
use crate::inode::BuildInoHasher;
use crate::place::{Place, ShortName};
use crate::types::{BranchIndex, Ino};
use crate::work::{ALONE, Temp, Work, read_names};

/// All copies that an index has.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    known: DashMap<Ino, Copied, BuildInoHasher>,
    /// The identities of the copies, by their branch and their own number there.
    origins: DashMap<(BranchIndex, u64), Ino, BuildInoHasher>,
}

#[derive(Clone, Copy, Debug)]
struct Copied {
    branch: BranchIndex,
    real: u64,
    /// No group: it has an entry `ID.p`.
    alone: bool,
}

impl Groups {
    /// Reads the indexes of all branches; what cannot be read counts as absent.
    pub(crate) fn load(
        indexes: &[Option<Arc<OwnedFd>>],
        understand: impl Fn(BranchIndex, &str) -> Option<Ino>,
    ) -> Self {
        let groups = Self::default();
        for (at, links) in indexes.iter().enumerate() {
            let (Some(links), branch) = (links, super::index(at)) else { continue };
            for (name, ..) in read_names(links).unwrap_or_default() {
                let Ok(text) = std::str::from_utf8(&name) else { continue };
                let (origin, alone) = text.strip_suffix(ALONE).map_or((text, false), |origin| (origin, true));
                let Some(ino) = understand(branch, origin) else { continue };
                let Ok(stat) = statat(links, &*name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                if let Entry::Vacant(free) = groups.known.entry(ino)
                    && !(alone && stat.st_nlink == 1)
                {
                    free.insert(Copied { branch, real: stat.st_ino, alone });
                    groups.origins.insert((branch, stat.st_ino), ino);
                }
            }
        }
        groups
    }

    /// Whether no index has anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    fn copied(&self, ino: Ino) -> Option<Copied> {
        if self.known.is_empty() { None } else { self.known.get(&ino).map(|copied| *copied) }
    }

    /// The branch of a group's copy, if a name that is found on branch `from` leads to it; further down it is hidden.
    pub(crate) fn get(&self, ino: Ino, from: BranchIndex) -> Option<BranchIndex> {
        self.copied(ino).filter(|copied| !copied.alone && copied.branch <= from).map(|copied| copied.branch)
    }

    /// The identity of a copy.
    pub(crate) fn origin_of(&self, branch: BranchIndex, real: u64) -> Option<Ino> {
        if self.origins.is_empty() { None } else { self.origins.get(&(branch, real)).map(|ino| *ino) }
    }

    /// All groups.
    pub(crate) fn all(&self) -> Vec<Ino> {
        self.known.iter().filter(|copied| !copied.alone).map(|copied| *copied.key()).collect()
    }

    /// Notes a copy; tells what it takes the place of.
    fn note(&self, ino: Ino, copied: Copied) -> Option<Copied> {
        let before = self.known.insert(ino, copied);
        if let Some(before) = before {
            self.origins.remove(&(before.branch, before.real));
        }
        self.origins.insert((copied.branch, copied.real), ino);
        before
    }
}

/// Reads the indexes of all branches.
pub(super) fn read_indexes(
    indexes: &[Option<Arc<OwnedFd>>],
    devices: &Devices,
    branches: &[Branch],
) -> (Groups, Numbers) {
    let understand = |at: BranchIndex, text: &str| devices.understand(text, branches[at.index()].device());
    (Groups::load(indexes, understand), Numbers::load(indexes, understand))
}

impl Union {
    /// Hard-linked files of which a name was copied up: their identity, and how many names lead to each.
    pub(crate) fn copied_groups(&self) -> Result<BTreeMap<Ino, u32>> {
        self.groups.all().into_iter().map(|ino| Ok((ino, self.counted(ino)?))).collect()
    }

    /// The name in `links/` of the copy of a group.
    pub(super) fn link_name(&self, ino: Ino, branch: BranchIndex) -> ShortName {
        self.record_name(ino, branch).into_bytes().into()
    }

    fn alone_name(&self, ino: Ino, branch: BranchIndex) -> ShortName {
        format!("{}{ALONE}", self.record_name(ino, branch)).into_bytes().into()
    }

    /// Makes a finished copy, which has no name in the merged view yet, findable by all names of its group.
    pub(super) fn index_copy(
        &self,
        ino: Ino,
        copy: &Temp<'_>,
        to: BranchIndex,
        work: &Work,
    ) -> Result<(), Errno> {
        let name = self.link_name(ino, to);
        // One may be left of an attempt that failed after this.
        unlink_if_there(work.links(), &name)?;
        linkat(copy.dir(), copy.name.as_slice(), work.links(), name.as_slice(), AtFlags::empty())
    }

    /// Keeps the identity of a copy that can bear no record. Where there are no hard links its number changes at a
    /// remount.
    pub(super) fn keep_alone(&self, branch: BranchIndex, copy: &Place, ino: Ino, real: u64) {
        let Some(work) = self.work(branch) else { return };
        if self.groups.copied(ino).is_some_and(|copied| !copied.alone) {
            return;
        }
        let name = self.alone_name(ino, branch);
        let kept = unlink_if_there(work.links(), &name).and_then(|()| link_to(copy, work.links(), &name));
        match kept {
            Ok(()) => {
                self.drop_before(ino, self.groups.note(ino, Copied { branch, real, alone: true }), branch)
            }
            Err(errno) => tracing::debug!(%errno, ino = ino.get(), "the number of a copy is not recorded"),
        }
    }

    /// How many names an inode has, by its own count.
    pub(super) fn inode_links(&self, ino: Ino, branch: BranchIndex, stat: &Stat) -> u32 {
        let copied = self.groups.copied(ino);
        let alone = copied
            .is_some_and(|copied| copied.alone && (copied.branch, copied.real) == (branch, stat.st_ino));
        saturate(stat.st_nlink) - u32::from(alone && stat.st_nlink > 0)
    }

    /// The copy of a group was put in its place on a branch.
    pub(super) fn group_copied(&self, ino: Ino, (branch, real): (BranchIndex, u64)) {
        let before = self.groups.note(ino, Copied { branch, real, alone: false });
        match before {
            Some(Copied { alone: true, branch, .. }) => {
                self.unlink_entry(branch, &self.alone_name(ino, branch))
            }
            before => self.drop_before(ino, before, branch),
        }
    }

    fn drop_before(&self, ino: Ino, before: Option<Copied>, now: BranchIndex) {
        let elsewhere = before.filter(|before| before.branch != now);
        elsewhere.into_iter().for_each(|before| self.drop_entry(ino, before));
    }

    /// Nothing leads to a copy any more.
    pub(super) fn ungroup(&self, ino: Ino) {
        if self.groups.is_empty() {
            return;
        }
        if let Some((_, copied)) = self.groups.known.remove(&ino) {
            self.groups.origins.remove(&(copied.branch, copied.real));
            self.drop_entry(ino, copied);
        }
    }

    fn drop_entry(&self, ino: Ino, Copied { branch, alone, .. }: Copied) {
        let name = if alone { self.alone_name(ino, branch) } else { self.link_name(ino, branch) };
        self.unlink_entry(branch, &name);
    }

    /// Takes back what the index was told of a copy that was not shown.
    pub(super) fn unindex(&self, ino: Ino, branch: BranchIndex) {
        self.unlink_entry(branch, &self.link_name(ino, branch));
    }

    fn unlink_entry(&self, branch: BranchIndex, name: &[u8]) {
        let Some(work) = self.work(branch) else { return };
        if let Err(errno) = unlink_if_there(work.links(), name) {
            tracing::warn!(%errno, branch = branch.get(), "an entry stays in the index of hard links");
        }
    }
}
