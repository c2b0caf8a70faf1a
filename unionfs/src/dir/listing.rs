//! All names of a directory, and how many of them all directories keep in memory.

use std::collections::BTreeMap;
use std::hash::Hasher;

use lru::LruCache;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;

use super::{Found, Says};
use crate::inode::Label;
use crate::types::{BranchIndex, Ino};

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

/// Names that all listings together may hold: at some 90 bytes each, what a thousand directories in use need.
const MOST_NAMES: usize = 12 * 1024;

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
    use crate::types::FileKind;

    const KEY: HashKey = HashKey([1, 2]);

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
