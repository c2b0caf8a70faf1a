//! Hard links of lower files that stay linked when one of them is copied up.
//!
//! A lower inode with several names is one group. The work directory's `links/` has, named by the identity of the
//! origin, a hard link to the copy, and a symbolic link `ID.n` whose target is the number of links of the group in
//! the merged view, once that differs from what the lower inode says.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, readlinkat, symlinkat, unlinkat};

use dashmap::DashMap;

use crate::error::Errno;
use crate::inode::BuildInoHasher;
use crate::place::ShortName;
use crate::types::{BranchIndex, Ino};
use crate::work::{Work, read_names};

/// What is recorded of one group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    /// The branch its copy is on.
    pub(crate) copied: Option<BranchIndex>,
    /// Its links in the merged view, if they are not what its inode says.
    pub(crate) nlink: Option<u32>,
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
            for (name, ..) in read_names(links).unwrap_or_default() {
                groups.load_one(super::index(at), links, &name);
            }
        }
        groups
    }

    fn load_one(&self, branch: BranchIndex, links: &OwnedFd, name: &[u8]) {
        let text = String::from_utf8_lossy(name);
        let number = |text: &str| text.parse().ok().and_then(Ino::new);
        if let Some(ino) = text.strip_suffix(".n").and_then(number) {
            let target = readlinkat(links, name, Vec::new()).unwrap_or_default();
            self.known.entry(ino).or_default().nlink =
                target.to_str().ok().and_then(|text| text.parse().ok());
        } else if let Some(ino) = number(&text) {
            self.known.entry(ino).or_default().copied = Some(branch);
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

    /// The copy now lies on this branch.
    pub(crate) fn copied(&self, ino: Ino, branch: BranchIndex) {
        self.known.entry(ino).or_default().copied = Some(branch);
    }

    /// Records the number of links, in memory and in the work directory.
    pub(crate) fn set_nlink(&self, ino: Ino, work: &Work, nlink: u32) -> Result<(), Errno> {
        self.known.entry(ino).or_default().nlink = Some(nlink);
        let temp = work.temp();
        symlinkat(nlink.to_string(), temp.dir(), temp.name.as_slice())?;
        rustix::fs::renameat(temp.dir(), temp.name.as_slice(), work.links(), count_name(ino).as_slice())?;
        temp.moved();
        Ok(())
    }

    /// Nothing links to the group any more.
    pub(crate) fn remove(&self, ino: Ino, work: &Work) {
        self.known.remove(&ino);
        // Both may be absent, and what stays is found to be an orphan by the next check.
        unlinkat(work.links(), link_name(ino).as_slice(), AtFlags::empty()).unwrap_or_default();
        unlinkat(work.links(), count_name(ino).as_slice(), AtFlags::empty()).unwrap_or_default();
    }
}
