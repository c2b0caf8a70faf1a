//! The merged view of one directory.

mod found;
mod listing;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use crate::marks::Note;
use crate::types::BranchIndex;
pub(crate) use found::{Found, Says};
pub(crate) use listing::{HashKey, Listing, Listings};

/// What the union knows of one directory.
#[derive(Debug, Default)]
pub(crate) struct DirBody {
    /// Branches that have a directory at this path, before opaque marks and redirects are looked at.
    pub(crate) candidates: Box<[BranchIndex]>,
    /// Branches whose directories are merged, highest priority first; found at first use.
    pub(crate) layers: Option<Vec<BranchIndex>>,
    /// From this branch on no directory at this path would be merged, if one were made there.
    pub(crate) cut: Option<BranchIndex>,
    pub(crate) listing: Option<Listing>,
    /// It was made by this server, and nothing with a record of its origin has come into it: no need to look for one.
    pub(crate) pure: bool,
    /// Lookups that were answered without a listing.
    pub(crate) probes: AtomicU32,
    /// Children inherit a default ACL, which takes the place of the umask (acl(5)); found at first use.
    pub(crate) default_acl: Option<bool>,
    /// The directory's own descriptor, once its name is gone.
    pub(crate) gone: Option<Arc<OwnedFd>>,
    /// What marks tell of the entries inside, for those branches whose directories have such marks.
    pub(crate) noted: Vec<(BranchIndex, Note)>,
}

impl DirBody {
    /// A directory that was found and not looked into yet.
    pub(crate) fn found(found: &Found) -> Self {
        Self { candidates: found.candidates(), cut: found.cut(), ..Self::default() }
    }

    /// How the directory stands to a branch, by what is known of itself.
    pub(crate) fn stand(&self, branch: BranchIndex) -> Stand {
        if self.layers.iter().flatten().any(|&layer| layer == branch) {
            return Stand::Has;
        }
        if self.cut.is_some_and(|cut| branch >= cut) { Stand::Hidden } else { Stand::Lacks }
    }

    /// A mark in the directory of `branch` says that nothing else is to be looked for further down.
    pub(crate) fn marked(&mut self, branch: BranchIndex) {
        let cut = branch.next();
        self.cut = Some(self.cut.map_or(cut, |known| known.min(cut)));
    }

    /// What the marks of a branch's directory tell of its entries.
    pub(crate) fn note(&self, branch: BranchIndex) -> Note {
        self.noted.iter().find(|(noted, _)| *noted == branch).map(|(_, note)| *note).unwrap_or_default()
    }
}

/// How a directory stands to a branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stand {
    /// The branch's directory is merged.
    Has,
    /// The branch has none, and one that is made there is merged if its parent is.
    Lacks,
    /// What is made there is hidden by an opaque directory, a whiteout or a file above.
    Hidden,
}
