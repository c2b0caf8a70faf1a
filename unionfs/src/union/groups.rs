//! Hard links of files that stay linked when one of them is copied up, and their number.
//!
//! An inode with several names is one group, named by its identity. A work directory's `links/` has of it a hard link
//! `ID` to the copy, by which all names lead to the copy, and a symbolic link `ID.n` whose target is the number of
//! links in the merged view, once that differs from what the inode says: when it was copied, or when a name was hidden
//! that the inode still has.
//!
//! All that is recorded of a group is in one work directory, its home: that of the branch with the copy, or else of the
//! branch that first hid a name. Where a crash has left records in two, the home is the one that has the copy, the
//! higher of two such, for the copy was made there last.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use dashmap::DashMap;
use rustix::fs::{AtFlags, linkat, readlinkat, renameat, symlinkat, unlinkat};

use super::Union;
use super::hide::unlink_if_there;
use super::read::Seen;
use super::stat::saturate;
use crate::error::Errno;
use crate::inode::{BuildInoHasher, FileBody, Site};
use crate::place::ShortName;
use crate::types::{BranchIndex, Ino};
use crate::work::{Temp, Work, read_names};

/// What is recorded of one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// The branch its copy is on.
    pub(crate) copied: Option<BranchIndex>,
    /// Its links in the merged view, if they are not what its inode says.
    pub(crate) nlink: Option<u32>,
    /// The branch in whose work directory this is recorded.
    home: BranchIndex,
}

/// All groups with a record.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    known: DashMap<Ino, Group, BuildInoHasher>,
}

/// The name in `links/` of the copy of a group.
pub(crate) fn link_name(ino: Ino) -> ShortName {
    ino.get().to_string().into_bytes().into()
}

fn count_name(ino: Ino) -> ShortName {
    format!("{}.n", ino.get()).into_bytes().into()
}

impl Groups {
    /// Reads the records of all branches; what cannot be read counts as absent.
    pub(crate) fn load(indexes: &[Option<Arc<OwnedFd>>]) -> Self {
        let groups = Self::default();
        for (at, links) in indexes.iter().enumerate() {
            let Some(links) = links else { continue };
            groups.load_index(super::index(at), links);
        }
        groups
    }

    fn load_index(&self, branch: BranchIndex, links: &OwnedFd) {
        let group = |text: &str| text.parse().ok().and_then(Ino::new);
        let names = read_names(links).unwrap_or_default();
        let names: Vec<_> = names.iter().filter_map(|(name, ..)| std::str::from_utf8(name).ok()).collect();
        for ino in names.iter().filter_map(|name| group(name)) {
            let mut known =
                self.known.entry(ino).or_insert(Group { copied: None, nlink: None, home: branch });
            if known.copied.is_none() {
                (known.copied, known.home) = (Some(branch), branch);
            }
        }
        for (name, ino) in names.iter().filter_map(|name| Some((name, group(name.strip_suffix(".n")?)?))) {
            let target = readlinkat(links, *name, Vec::new()).unwrap_or_default();
            let nlink = target.to_str().ok().and_then(|text| text.parse().ok());
            let mut known = self.known.entry(ino).or_insert(Group { copied: None, nlink, home: branch });
            if known.home == branch || known.nlink.is_none() {
                known.nlink = nlink;
            }
        }
    }

    /// Whether no group has a record.
    pub(crate) fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// What is recorded of a group.
    pub(crate) fn get(&self, ino: Ino) -> Option<Group> {
        if self.known.is_empty() { None } else { self.known.get(&ino).map(|group| *group) }
    }

    /// The groups with a copy: their identity, and the number of links if it is recorded.
    pub(crate) fn copies(&self) -> BTreeMap<Ino, Option<u32>> {
        let copied = self.known.iter().filter(|group| group.copied.is_some());
        copied.map(|group| (*group.key(), group.nlink)).collect()
    }

    /// Makes a finished copy, which has no name in the merged view yet, findable by all names of its group.
    pub(crate) fn index(&self, ino: Ino, copy: &Temp<'_>, work: &Work, nlink: u32) -> Result<(), Errno> {
        write_count(ino, work, nlink)?;
        // One may be left of an attempt that failed after this.
        unlink_if_there(work.links(), &link_name(ino))?;
        linkat(copy.dir(), copy.name.as_slice(), work.links(), link_name(ino).as_slice(), AtFlags::empty())
    }

    /// Takes back what [`Self::index`] did: the copy was not shown.
    pub(crate) fn unindex(&self, ino: Ino, branch: BranchIndex, work: &Work) {
        unlink_if_there(work.links(), &link_name(ino)).unwrap_or_default();
        if self.get(ino).is_none_or(|group| group.home != branch) {
            unlink_if_there(work.links(), &count_name(ino)).unwrap_or_default();
        }
    }

    /// The copy lies on this branch now, and all is recorded there; where it was recorded before.
    pub(crate) fn copied(&self, ino: Ino, branch: BranchIndex, nlink: u32) -> Option<BranchIndex> {
        let now = Group { copied: Some(branch), nlink: Some(nlink), home: branch };
        self.known.insert(ino, now).map(|old| old.home).filter(|&home| home != branch)
    }

    /// The branch on which the number of links is to be recorded by who changes it on `branch`.
    pub(crate) fn home(&self, ino: Ino, branch: BranchIndex) -> BranchIndex {
        self.get(ino).map_or(branch, |group| group.home)
    }

    /// Records the number of links, in memory and in the work directory of the group's home.
    pub(crate) fn set_nlink(
        &self,
        ino: Ino,
        home: BranchIndex,
        work: Option<&Work>,
        nlink: u32,
    ) -> Result<(), Errno> {
        self.known.entry(ino).or_insert(Group { copied: None, nlink: None, home }).nlink = Some(nlink);
        write_count(ino, work.ok_or(Errno::ROFS)?, nlink)
    }

    /// Nothing links to the group any more.
    pub(crate) fn remove(&self, ino: Ino) {
        self.known.remove(&ino);
    }
}

/// Removes what a work directory has recorded of a group.
pub(crate) fn erase(ino: Ino, work: &Work) {
    // Both may be absent, and what stays is found to be an orphan by the next check.
    unlinkat(work.links(), link_name(ino).as_slice(), AtFlags::empty()).unwrap_or_default();
    unlinkat(work.links(), count_name(ino).as_slice(), AtFlags::empty()).unwrap_or_default();
}

fn write_count(ino: Ino, work: &Work, nlink: u32) -> Result<(), Errno> {
    let temp = work.temp();
    symlinkat(nlink.to_string(), temp.dir(), temp.name.as_slice())?;
    renameat(temp.dir(), temp.name.as_slice(), work.links(), count_name(ino).as_slice())?;
    temp.moved();
    Ok(())
}

impl Union {
    /// How many links the group of a file has whose copy must be found by further names; `None` if it has but one.
    pub(super) fn group_of(&self, ino: Ino, file: &FileBody, inode_links: u32) -> Option<u32> {
        let counted = self.groups.get(ino).and_then(|group| group.nlink);
        let several = match &file.site {
            Site::Linked => counted.is_some() || inode_links > 1,
            Site::Indexed => true,
            // The name that goes is counted no more.
            Site::Pinned(_) => !file.nameless && inode_links > 0,
        };
        several.then(|| counted.unwrap_or(inode_links))
    }

    /// A copy was not shown after all.
    pub(super) fn unindex(&self, ino: Ino, branch: BranchIndex) {
        self.work(branch).into_iter().for_each(|work| self.groups.unindex(ino, branch, work));
    }

    /// The copy of a group was put in its place on a branch.
    pub(super) fn group_copied(&self, ino: Ino, branch: BranchIndex, links: u32) {
        let before = self.groups.copied(ino, branch, links);
        before.and_then(|before| self.work(before)).into_iter().for_each(|work| erase(ino, work));
    }

    /// Counts one link less of a group, a name of which went by a change of `branch`. If that was `covered` only, the
    /// inode itself keeps it; else the inode counts by itself, unless the group is counted already. True if it was the
    /// last.
    pub(super) fn drop_link(&self, seen: &Seen, covered: bool, branch: BranchIndex) -> bool {
        let counted = self.groups.get(seen.ino).and_then(|group| group.nlink);
        let links = match counted {
            Some(links) => links,
            None if covered => saturate(seen.stat.st_nlink),
            None => return seen.stat.st_nlink <= 1,
        };
        if links > 1 {
            self.count_links(seen.ino, branch, links - 1);
            return false;
        }
        if let Some(work) = counted.and_then(|_| self.work(self.groups.home(seen.ino, branch))) {
            erase(seen.ino, work);
        }
        self.groups.remove(seen.ino);
        true
    }

    /// Records the links of a group. The name that changed has changed already, so a record that cannot be made is
    /// no failure of the caller's: the count is right until the next mount.
    pub(super) fn count_links(&self, group: Ino, branch: BranchIndex, links: u32) {
        let home = self.groups.home(group, branch);
        if let Err(errno) = self.groups.set_nlink(group, home, self.work(home), links) {
            tracing::warn!(%errno, group = group.get(), "links are not counted on disk");
        }
    }
}
