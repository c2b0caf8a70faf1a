//! Identities that are unique over all branches: `st_ino` of the union.

use std::hash::Hasher;

use parking_lot::RwLock;

use crate::inode::InoHasher;
use crate::types::Ino;

/// Bits of an inode number that are taken over as they are.
const PLAIN_BITS: u32 = 56;
/// Filesystems whose numbers are told apart by the bits above; those of further ones are hashed.
const TAGS: usize = 1 << (63 - PLAIN_BITS);

/// The filesystems of the branches, those of the lowest first.
///
/// The numbers of the first are passed through; of each further one they carry its place in the bits above. So
/// they stay what they were when branches are stacked on top. Numbers that need those bits themselves (another
/// union as a branch, say), and those of filesystems that lie inside a branch, are hashed into the upper half, which
/// the others never reach.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    seen: RwLock<Vec<Filesystem>>,
}

#[derive(Clone, Copy, Debug)]
struct Filesystem {
    device: u64,
    /// What records call it: it stays when branches come and go, unlike its place.
    label: u64,
}

impl Devices {
    /// Knows the filesystem of a branch from now on; `label` is `f_fsid` of statvfs(3), or 0 where there is none.
    pub(crate) fn learn(&self, device: u64, label: u64) {
        let mut seen = self.seen.write();
        if seen.iter().any(|known| known.device == device) {
            return;
        }
        // Copies of one disk, mounted side by side, have one `f_fsid`.
        let taken = |label: u64| seen.iter().any(|known| known.label == label);
        let first = if label == 0 { device } else { label };
        let label = (0..).map(|more| first.wrapping_add(more)).find(|&label| !taken(label));
        seen.push(Filesystem { device, label: label.unwrap_or(first) });
    }

    /// The identity of an inode of a branch.
    pub(crate) fn ino(&self, device: u64, real: u64) -> Ino {
        let seen = self.seen.read();
        match seen.iter().position(|known| known.device == device) {
            Some(tag) => tagged(tag, real).unwrap_or_else(|| hashed(seen[tag].label, real)),
            None => hashed(device, real),
        }
    }

    /// How records on the filesystem `home` name an identity: by the inode number alone if it is of that filesystem,
    /// else with the other's label. Who reads it may have other branches.
    pub(crate) fn tell(&self, ino: Ino, home: u64) -> String {
        let tag = usize::try_from(ino.get() >> PLAIN_BITS).unwrap_or(usize::MAX);
        let real = ino.get() & ((1 << PLAIN_BITS) - 1);
        match self.seen.read().get(tag).filter(|_| tag < TAGS) {
            Some(known) if known.device == home => real.to_string(),
            Some(known) => format!("{real}.{:x}", known.label),
            None => ino.get().to_string(),
        }
    }

    /// The identity that a record on the filesystem `home` names.
    pub(crate) fn understand(&self, text: &str, home: u64) -> Option<Ino> {
        let (number, label) = match text.split_once('.') {
            Some((number, label)) => (number, Some(u64::from_str_radix(label, 16).ok()?)),
            None => (text, None),
        };
        let number: u64 = number.parse().ok()?;
        let Some(label) = label else {
            return if number >> 63 == 0 { Some(self.ino(home, number)) } else { Ino::new(number) };
        };
        let device = self.seen.read().iter().find(|known| known.label == label).map(|known| known.device);
        Some(device.map_or_else(|| hashed(label, number), |device| self.ino(device, number)))
    }
}

/// Another identity for an object whose own is taken by a different object, as when a branch was copied with the
/// records of where its files come from.
pub(crate) fn alternative(ino: Ino, real: u64) -> Ino {
    hashed(ino.get(), real)
}

/// None for the first two numbers: 0 is none, and 1 is the root's, which with another tag it would not be.
fn tagged(tag: usize, real: u64) -> Option<Ino> {
    let plain = tag < TAGS && real >> PLAIN_BITS == 0 && real > Ino::ROOT.get();
    plain.then_some((tag as u64) << PLAIN_BITS | real).and_then(Ino::new)
}

fn hashed(salt: u64, real: u64) -> Ino {
    let mut hasher = InoHasher::default();
    hasher.write_u64(salt);
    hasher.write_u64(real);
    Ino::new(hasher.finish() | 1 << 63).unwrap_or(Ino::ROOT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(known: &[(u64, u64)]) -> Devices {
        let devices = Devices::default();
        known.iter().for_each(|&(device, label)| devices.learn(device, label));
        devices
    }

    #[test]
    fn identities_are_kept_and_apart() {
        let (low, high, inside) = (40, 41, 42);
        let devices = devices(&[(low, 0), (high, 0)]);
        assert_eq!(devices.ino(low, 12).get(), 12);
        assert_eq!(devices.ino(high, 12).get(), 1 << PLAIN_BITS | 12);
        assert_ne!(devices.ino(low, 1), Ino::ROOT);
        for huge in [1 << 60, u64::MAX] {
            assert_eq!(devices.ino(low, huge).get() >> 63, 1);
            assert_ne!(devices.ino(low, huge), devices.ino(high, huge));
        }
        assert_eq!(devices.ino(inside, 12).get() >> 63, 1);
    }

    #[test]
    fn more_filesystems_than_tags_keep_apart() {
        let all: Vec<_> = (0..300).map(|device| (device, 7)).collect();
        let devices = devices(&all);
        let numbers: std::collections::HashSet<_> = all
            .iter()
            .flat_map(|(device, _)| [2, 3, 1 << 60].map(|real| devices.ino(*device, real)))
            .collect();
        assert_eq!(numbers.len(), 3 * all.len());
    }

    /// What one union records is the same object to the next one, whatever other branches that has, and in what order.
    #[test]
    fn records_mean_the_same_to_other_unions() {
        let (home, other, new) = ((40, 7), (41, 8), (42, 9));
        let before = devices(&[other, home]);
        for (device, real) in [(40, 12), (41, 12), (41, 1 << 60), (41, 1)] {
            let text = before.tell(before.ino(device, real), 40);
            for after in [devices(&[home, other]), devices(&[new, other, home])] {
                assert_eq!(after.understand(&text, 40), Some(after.ino(device, real)), "{text}");
            }
            let without = devices(&[new, home]);
            let there: Vec<_> = [40, 42].iter().map(|&device| without.ino(device, real)).collect();
            let stranger = without.understand(&text, 40).filter(|_| device == 41);
            assert!(stranger.is_none_or(|ino| !there.contains(&ino)), "{text}");
        }
        assert_eq!(before.tell(before.ino(40, 12), 40), "12");
        for bad in ["", "x", "1.", "1.g", "-1", "12.n", "12.p.p"] {
            assert_eq!(before.understand(bad, 40), None, "{bad}");
        }
    }
}
