//! What each layer says of a name, folded from the top down.

use crate::types::{BranchIndex, FileKind};

/// What one layer says of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Says {
    Object(FileKind),
    Whiteout,
}

/// What all layers together say of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) kind: FileKind,
    /// The branch of the object, or of the whiteout that hides the name.
    pub(crate) top: BranchIndex,
    /// There is an object to see; without it the name is whited out.
    pub(crate) visible: bool,
    /// A whiteout lies in `top`, beside the object or alone.
    pub(crate) whiteout: bool,
    /// If the object in `top` went away, another would show; of a whiteout, perhaps.
    below: bool,
    /// From this branch on no layer has a say.
    closed: Option<BranchIndex>,
    /// The branches of a directory that is in several, `top` first.
    pub(crate) dirs: Option<Box<[BranchIndex]>>,
}

impl Found {
    /// What the first layer that knows the name says.
    pub(crate) fn first(says: Says, branch: BranchIndex) -> Self {
        let (kind, visible) = match says {
            Says::Object(kind) => (kind, true),
            Says::Whiteout => (FileKind::Regular, false),
        };
        let closed = (!visible).then_some(branch);
        Self { kind, top: branch, visible, whiteout: !visible, below: !visible, closed, dirs: None }
    }

    /// Adds what a layer says, after all above it; of one layer the object comes before the whiteout.
    pub(crate) fn add(&mut self, says: Says, branch: BranchIndex) {
        if self.closed.is_some() {
            return;
        }
        match says {
            Says::Whiteout => {
                self.whiteout = branch == self.top;
                // Beside a directory it makes that the last one.
                let last = self.dirs.as_deref().map_or(self.top, |dirs| dirs[dirs.len() - 1]);
                self.closed = Some(if branch == last { branch.next() } else { branch });
            }
            Says::Object(FileKind::Directory) if self.kind == FileKind::Directory => {
                self.below = true;
                let mut dirs = self.candidates().into_vec();
                dirs.push(branch);
                self.dirs = Some(dirs.into());
            }
            Says::Object(_) => {
                self.below = true;
                self.closed = Some(branch);
            }
        }
    }

    /// Whether further layers can change anything.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether something else is known of the name besides the object that shows.
    pub(crate) const fn covers(&self) -> bool {
        self.below || self.whiteout || self.closed.is_some()
    }

    /// Whether a whiteout in `branch` is needed for the name to go, the object there being taken away.
    pub(crate) fn needs_whiteout(&self, branch: BranchIndex) -> bool {
        self.top != branch || self.below
    }

    /// What is known of the name when it has gone by a change of `branch`.
    pub(crate) fn taken_away(&self, branch: BranchIndex) -> Option<Self> {
        if self.whiteout || self.needs_whiteout(branch) {
            return Some(Self::hidden(branch));
        }
        // Nothing was beneath, or a whiteout.
        self.closed.map(Self::hidden)
    }

    /// A fresh object in `branch`, over what was there: in that branch it takes its place, further down it covers it.
    pub(crate) fn made(kind: FileKind, branch: BranchIndex, over: Option<&Self>) -> Self {
        let (below, closed) = match over {
            None => (false, None),
            Some(over) if over.top == branch => {
                (over.below || over.whiteout, over.closed.map(|closed| closed.max(branch.next())))
            }
            Some(over) => (over.visible, Some(over.top)),
        };
        Self { kind, top: branch, visible: true, whiteout: false, below, closed, dirs: None }
    }

    /// A fresh whiteout in `branch`.
    pub(crate) fn hidden(branch: BranchIndex) -> Self {
        Self::first(Says::Whiteout, branch)
    }

    /// The branches in which a directory of this name may be.
    pub(crate) fn candidates(&self) -> Box<[BranchIndex]> {
        self.dirs.clone().unwrap_or_else(|| Box::new([self.top]))
    }

    /// The file has been moved to `branch`, where nothing was, and nothing is in between.
    pub(crate) fn moved_to(&mut self, branch: BranchIndex) {
        if self.whiteout {
            (self.whiteout, self.closed) = (false, Some(self.top));
        }
        self.top = branch;
    }

    /// From this branch on no directory of this name would be merged.
    pub(crate) const fn cut(&self) -> Option<BranchIndex> {
        self.closed
    }

    /// The object was copied to `branch`: a file upwards, a directory perhaps to below the one that shows.
    pub(crate) fn copied_to(&mut self, branch: BranchIndex) {
        if self.kind == FileKind::Directory {
            let mut dirs = self.candidates().into_vec();
            dirs.insert(dirs.partition_point(|&other| other < branch), branch);
            self.dirs = Some(dirs.into());
        } else {
            self.closed = Some(self.top);
        }
        self.whiteout &= self.top < branch;
        self.top = self.top.min(branch);
        self.below = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fold(says: &[(Says, u16)]) -> Found {
        let mut says = says.iter().map(|&(says, branch)| (says, BranchIndex::new(branch)));
        let (first, branch) = says.next().expect("a layer");
        let mut found = Found::first(first, branch);
        for (says, branch) in says {
            found.add(says, branch);
        }
        found
    }

    #[test]
    fn layers_fold_from_the_top() {
        use FileKind::{Directory, Regular};
        let (file, dir, hide) = (Says::Object(Regular), Says::Object(Directory), Says::Whiteout);
        for (case, says, visible, below, closed, dirs) in [
            ("file over file", &[(file, 0), (file, 1)][..], true, true, Some(1), None),
            ("file alone", &[(file, 0)], true, false, None, None),
            ("whiteout over file", &[(hide, 0), (file, 1)], false, true, Some(0), None),
            ("file, whiteout, file", &[(file, 0), (hide, 1), (file, 2)], true, false, Some(1), None),
            ("dirs merge", &[(dir, 0), (dir, 2)], true, true, None, Some(vec![0, 2])),
            ("a file ends the merge", &[(dir, 0), (file, 1), (dir, 2)], true, true, Some(1), None),
            (
                "a whiteout ends the merge",
                &[(dir, 0), (dir, 1), (hide, 2), (dir, 3)],
                true,
                true,
                Some(2),
                Some(vec![0, 1]),
            ),
            (
                "its own whiteout makes it opaque",
                &[(dir, 0), (hide, 0), (dir, 1)],
                true,
                false,
                Some(1),
                None,
            ),
            ("a lower one's own", &[(dir, 0), (dir, 1), (hide, 1)], true, true, Some(2), Some(vec![0, 1])),
            ("dir over file", &[(dir, 0), (file, 1)], true, true, Some(1), None),
            ("file over dir", &[(file, 0), (dir, 1)], true, true, Some(1), None),
        ] {
            let found = fold(says);
            let want = dirs.map(|dirs| dirs.into_iter().map(BranchIndex::new).collect::<Box<[_]>>());
            assert_eq!((found.visible, found.below, found.dirs), (visible, below, want), "{case}");
            assert_eq!(found.closed.map(BranchIndex::get), closed, "{case}");
        }
    }

    #[test]
    fn what_is_known_after_a_change_is_what_the_layers_say() {
        use FileKind::{Directory, Regular};
        let (file, dir, hide) = (Says::Object(Regular), Says::Object(Directory), Says::Whiteout);
        let at = BranchIndex::new;
        for (case, before, branch, after) in [
            ("the only object", &[(file, 1)][..], 1, &[][..]),
            ("one over another", &[(file, 0), (file, 1)], 0, &[(hide, 0)]),
            ("one over a whiteout", &[(file, 0), (hide, 1)], 0, &[(hide, 1)]),
            ("one beside a whiteout", &[(file, 0), (hide, 0)], 0, &[(hide, 0)]),
            ("one hidden from above", &[(file, 2)], 1, &[(hide, 1)]),
            ("merged directories", &[(dir, 0), (dir, 1)], 0, &[(hide, 0)]),
        ] {
            let after = (!after.is_empty()).then(|| fold(after));
            assert_eq!(fold(before).taken_away(at(branch)), after, "{case}");
        }
        for (case, before, branch, after) in [
            ("over nothing", &[][..], 1, &[(file, 1)][..]),
            ("over a lower object", &[(file, 1)], 0, &[(file, 0), (file, 1)]),
            ("over a lower whiteout", &[(hide, 1)], 0, &[(file, 0), (hide, 1)]),
            ("in place of one over another", &[(file, 0), (file, 1)], 0, &[(file, 0), (file, 1)]),
            ("in place of one over a whiteout", &[(file, 0), (hide, 1)], 0, &[(file, 0), (hide, 1)]),
            // What its whiteout hides, if anything, was not looked for.
            ("in place of a whiteout", &[(hide, 0)], 0, &[(file, 0), (file, 1)]),
        ] {
            let before = (!before.is_empty()).then(|| fold(before));
            assert_eq!(Found::made(Regular, at(branch), before.as_ref()), fold(after), "{case}");
        }
    }
}
