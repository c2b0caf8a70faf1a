//! How often what is kept in memory was there when it was asked for.

use std::array;
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Threads count on this many cache lines, so that seldom two write the same one.
const LINES: usize = 8;

/// A cache that was asked, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// What it keeps.
    pub name: &'static str,
    /// How often it had what was asked for.
    pub hits: u64,
    /// How often it had not.
    pub misses: u64,
}

/// Counts hits and misses.
#[derive(Debug)]
pub(crate) struct Tally([Line; LINES]);

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        Self(array::from_fn(|_| Line::default()))
    }

    pub(crate) fn count(&self, hit: bool) {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static OWN: Cell<usize> = Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % LINES);
        }
        let line = &self.0[OWN.get()];
        let counter = if hit { &line.hits } else { &line.misses };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// The sums.
    pub(crate) fn stats(&self, name: &'static str) -> CacheStats {
        self.0.iter().fold(CacheStats { name, ..CacheStats::default() }, |sum, line| CacheStats {
            name,
            hits: sum.hits + line.hits.load(Ordering::Relaxed),
            misses: sum.misses + line.misses.load(Ordering::Relaxed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_add_up() {
        let tally = Tally::new();
        std::thread::scope(|scope| {
            for _ in 0..2 * LINES {
                scope.spawn(|| [true, true, false].map(|hit| tally.count(hit)));
            }
        });
        let (hits, misses) = (4 * LINES as u64, 2 * LINES as u64);
        assert_eq!(tally.stats("x"), CacheStats { name: "x", hits, misses });
    }
}
