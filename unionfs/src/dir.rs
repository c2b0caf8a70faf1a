//! The merged view of one directory: what each layer says of a name, folded from the top down.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use lru::LruCache;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;

use crate::inode::Label;
use crate::marks::Note;
use crate::types::{BranchIndex, FileKind, Ino};

/// What the union knows of one directory.
#[derive(Debug, Default)]
pub(crate) struct DirBody {
    /// Branches that have a directory at this path, before opaque marks and redirects are looked at.
    pub(crate) candidates: Box<[BranchIndex]>,
    /// Branches whose directories are merged, highest priority first; found at first use.
    pub(crate) layers: Option<Vec<BranchIndex>>,
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
    /// What the marks of a branch's directory tell of its entries.
    pub(crate) fn note(&self, branch: BranchIndex) -> Note {
        self.noted.iter().find(|(noted, _)| *noted == branch).map(|(_, note)| *note).unwrap_or_default()
    }
}

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
    /// If the object in `top` went away, another would show.
    pub(crate) below: bool,
    /// No layer further down has a say.
    closed: bool,
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
        Self { kind, top: branch, visible, whiteout: !visible, below: false, closed: !visible, dirs: None }
    }

    /// Adds what a layer says, after all above it; of one layer the object comes before the whiteout.
    pub(crate) fn add(&mut self, says: Says, branch: BranchIndex) {
        if says == Says::Whiteout && branch == self.top {
            self.whiteout = true;
        }
        if self.closed {
            return;
        }
        match says {
            Says::Whiteout => self.closed = true,
            Says::Object(FileKind::Directory) if self.kind == FileKind::Directory => {
                self.below = true;
                let mut dirs = self.dirs.take().map_or_else(|| vec![self.top], <[_]>::into_vec);
                dirs.push(branch);
                self.dirs = Some(dirs.into());
            }
            Says::Object(_) => {
                self.below = true;
                self.closed = true;
            }
        }
    }

    /// Whether further layers can change anything.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closed
    }

    /// A fresh object in `branch`, over what was there.
    pub(crate) fn made(kind: FileKind, branch: BranchIndex, over: Option<&Self>) -> Self {
        // A whiteout of the branch itself may hide anything; one further down says that there is nothing.
        let below = over.is_some_and(|over| {
            over.below || if over.visible { over.top > branch } else { over.top == branch }
        });
        Self { kind, top: branch, visible: true, whiteout: false, below, closed: true, dirs: None }
    }

    /// A fresh whiteout in `branch`.
    pub(crate) fn hidden(branch: BranchIndex) -> Self {
        Self { below: true, ..Self::first(Says::Whiteout, branch) }
    }

    /// The branches in which a directory of this name may be.
    pub(crate) fn candidates(&self) -> Box<[BranchIndex]> {
        self.dirs.clone().unwrap_or_else(|| Box::new([self.top]))
    }

    /// The object was copied up to `branch`.
    pub(crate) fn copied_up(&mut self, branch: BranchIndex) {
        if self.kind == FileKind::Directory {
            let mut dirs = self.candidates().into_vec();
            // With several writable branches the copy may lie further down than the directory that shows.
            dirs.insert(dirs.partition_point(|&other| other < branch), branch);
            self.dirs = Some(dirs.into());
        }
        if branch < self.top {
            self.top = branch;
            self.whiteout = false;
        }
        self.below = true;
    }
}

/// A name of a listing.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: Label,
    pub(crate) found: Found,
}

/// All names of a merged directory, in the order of a keyed hash of them.
///
/// The hash is the offset of readdir(3): it depends on the name alone, so a reader's place survives every change of
/// the directory, eviction of this listing, and needs no state per open (ext4's htree does the same).
#[derive(Debug, Default)]
pub(crate) struct Listing {
    slots: BTreeMap<u64, Slot>,
}

/// Offsets 1 and 2 belong to `.` and `..`.
const FIRST_OFFSET: u64 = 3;

/// The key of the hash, random for each mount so that no one can prepare names that collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HashKey(pub(crate) [u64; 2]);

impl HashKey {
    /// A positive `off_t` that leaves room for `.` and `..`.
    pub(crate) fn offset(self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.0[0], self.0[1]);
        hasher.write(name);
        (hasher.finish() >> 1).max(FIRST_OFFSET)
    }
}

impl Listing {
    /// The offset of `name`, or where it belongs. Two names with one hash are neighbours.
    fn place(&self, key: HashKey, name: &[u8]) -> (u64, bool) {
        let mut offset = key.offset(name);
        while let Some(slot) = self.slots.get(&offset) {
            if *slot.name == *name {
                return (offset, true);
            }
            offset += 1;
        }
        (offset, false)
    }

    pub(crate) fn get(&self, key: HashKey, name: &[u8]) -> Option<&Found> {
        match self.place(key, name) {
            (offset, true) => self.slots.get(&offset).map(|slot| &slot.found),
            _ => None,
        }
    }

    /// What one more layer says of a name.
    pub(crate) fn fold(&mut self, key: HashKey, name: &[u8], says: Says, branch: BranchIndex) {
        let (offset, _) = self.place(key, name);
        self.slots
            .entry(offset)
            .and_modify(|slot| slot.found.add(says, branch))
            .or_insert_with(|| Slot { name: name.into(), found: Found::first(says, branch) });
    }

    /// Replaces what is known of a name; `None` when no layer knows it any more.
    pub(crate) fn set(&mut self, key: HashKey, name: &[u8], found: Option<Found>) {
        let (offset, there) = self.place(key, name);
        match found {
            Some(found) if there => {
                if let Some(slot) = self.slots.get_mut(&offset) {
                    slot.found = found;
                }
            }
            Some(found) => {
                self.slots.insert(offset, Slot { name: name.into(), found });
            }
            None if there => {
                self.slots.remove(&offset);
            }
            None => {}
        }
    }

    /// The visible names after an offset, in order.
    pub(crate) fn after(&self, offset: u64) -> impl Iterator<Item = (u64, &Slot)> {
        self.slots
            .range(offset.max(FIRST_OFFSET - 1) + 1..)
            .filter(|(_, slot)| slot.found.visible)
            .map(|(&offset, slot)| (offset, slot))
    }

    /// How many names it holds, hidden ones too.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no name is visible.
    pub(crate) fn is_empty(&self) -> bool {
        self.after(0).next().is_none()
    }
}

/// Names that all listings together may hold: at some 90 bytes each, what a few thousand directories in use need.
const MOST_NAMES: usize = 32 * 1024;

/// Which directories have a listing, so that the one unused for longest can be dropped.
#[derive(Debug)]
pub(crate) struct Listings {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    sizes: LruCache<Ino, usize>,
    names: usize,
}

impl Listings {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(Known { sizes: LruCache::unbounded(), names: 0 }) }
    }

    /// A listing was made; `drop_one` drops others until all fit, and answers false for one that is in use.
    pub(crate) fn made(&self, dir: Ino, names: usize, drop_one: impl Fn(Ino) -> bool) {
        let mut old = Vec::new();
        {
            let mut known = self.known.lock();
            known.put(dir, names);
            while known.names > MOST_NAMES && known.sizes.len() > 1 {
                let Some((other, names)) = known.sizes.pop_lru() else { break };
                known.names -= names;
                old.push((other, names));
            }
        }
        for (other, names) in old {
            if !drop_one(other) {
                self.known.lock().put(other, names);
            }
        }
    }

    /// A directory was forgotten, and its listing with it.
    pub(crate) fn gone(&self, dir: Ino) {
        let mut known = self.known.lock();
        if let Some(names) = known.sizes.pop(&dir) {
            known.names -= names;
        }
    }
}

impl Known {
    fn put(&mut self, dir: Ino, names: usize) {
        self.names += names;
        self.names -= self.sizes.put(dir, names).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: HashKey = HashKey([1, 2]);

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
        for (case, says, visible, below, dirs) in [
            ("file over file", &[(file, 0), (file, 1)][..], true, true, None),
            ("file alone", &[(file, 0)], true, false, None),
            ("whiteout over file", &[(hide, 0), (file, 1)], false, false, None),
            ("file, whiteout, file", &[(file, 0), (hide, 1), (file, 2)], true, false, None),
            ("dirs merge", &[(dir, 0), (dir, 2)], true, true, Some(vec![0, 2])),
            ("a file ends the merge", &[(dir, 0), (file, 1), (dir, 2)], true, true, None),
            (
                "a whiteout ends the merge",
                &[(dir, 0), (dir, 1), (hide, 2), (dir, 3)],
                true,
                true,
                Some(vec![0, 1]),
            ),
            ("its own whiteout makes a dir opaque", &[(dir, 0), (hide, 0), (dir, 1)], true, false, None),
            ("dir over file", &[(dir, 0), (file, 1)], true, true, None),
            ("file over dir", &[(file, 0), (dir, 1)], true, true, None),
        ] {
            let found = fold(says);
            let want = dirs.map(|dirs| dirs.into_iter().map(BranchIndex::new).collect::<Box<[_]>>());
            assert_eq!((found.visible, found.below, found.dirs), (visible, below, want), "{case}");
        }
    }

    #[test]
    fn listing_offsets_survive_changes() {
        let mut listing = Listing::default();
        let name = |number: u32| format!("name{number}").into_bytes();
        for number in 0..100 {
            listing.fold(KEY, &name(number), Says::Object(FileKind::Regular), BranchIndex::new(0));
        }
        let all: Vec<_> = listing.after(0).map(|(offset, slot)| (offset, slot.name.clone())).collect();
        let (middle, _) = all[50];
        for number in 0..100 {
            let hidden = Found::hidden(BranchIndex::new(0));
            listing.set(
                KEY,
                &name(number + 100),
                Some(Found::made(FileKind::Regular, BranchIndex::new(0), None)),
            );
            if number % 2 == 0 {
                listing.set(KEY, &name(number), Some(hidden));
            }
        }
        let rest: Vec<_> = listing.after(middle).map(|(_, slot)| slot.name.clone()).collect();
        for (_, old) in all[51..].iter().filter(|(_, name)| listing.get(KEY, name).is_some_and(|f| f.visible))
        {
            assert_eq!(rest.iter().filter(|name| *name == old).count(), 1, "{old:?}");
        }
    }
}
