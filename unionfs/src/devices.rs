//! Identities that are unique over all branches: `st_ino` of the union.

use std::hash::Hasher;

use parking_lot::RwLock;

use crate::inode::InoHasher;
use crate::types::Ino;

/// Bits of an inode number that are taken over as they are.
const PLAIN_BITS: u32 = 56;
/// Filesystems whose numbers are told apart by the bits above; further ones are hashed.
const TAGS: u64 = 1 << (63 - PLAIN_BITS);

/// The filesystems seen so far, those of the lowest branches first.
///
/// The numbers of the first are passed through; of each further one they carry its place in the bits above. So
/// they stay what they were when branches are stacked on top. Numbers that need those bits themselves (another
/// union as a branch, say) are hashed into the upper half, which the others never reach.
#[derive(Debug, Default)]
pub(crate) struct Devices {
    seen: RwLock<Vec<u64>>,
}

impl Devices {
    /// Knows this filesystem from now on.
    pub(crate) fn learn(&self, device: u64) -> u64 {
        let place = |seen: &[u64]| seen.iter().position(|&known| known == device);
        if let Some(at) = place(&self.seen.read()) {
            return at as u64;
        }
        let mut seen = self.seen.write();
        place(&seen).unwrap_or_else(|| {
            seen.push(device);
            seen.len() - 1
        }) as u64
    }

    /// The identity of an inode of a branch.
    pub(crate) fn ino(&self, device: u64, real: u64) -> Ino {
        let tag = self.learn(device);
        let plain = if tag < TAGS && real >> PLAIN_BITS == 0 { tag << PLAIN_BITS | real } else { 0 };
        match Ino::new(plain) {
            Some(ino) if ino != Ino::ROOT => ino,
            _ => hashed(tag, real),
        }
    }
}

/// Another identity for an object whose own is taken by a different object, as when a branch was copied with the
/// records of where its files come from.
pub(crate) fn alternative(ino: Ino, real: u64) -> Ino {
    hashed(ino.get(), real)
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

    #[test]
    fn identities_are_kept_and_apart() {
        let devices = Devices::default();
        let (low, high) = (40, 41);
        assert_eq!(devices.ino(low, 12).get(), 12);
        assert_eq!(devices.ino(high, 12).get(), 1 << PLAIN_BITS | 12);
        assert_ne!(devices.ino(low, 1), Ino::ROOT);
        assert!(devices.ino(low, 1 << 60).get() >> 63 == 1);
        assert_ne!(devices.ino(low, 1 << 60), devices.ino(high, 1 << 60));
    }
}
