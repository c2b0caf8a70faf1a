//! Descriptors kept open because they will be wanted again: a bounded number, the least used closed first.

use std::hash::{BuildHasher, Hash};
use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use crate::inode::BuildInoHasher;
use crate::tally::{CacheStats, Tally};

const SHARDS: usize = 8;

/// Descriptors by key, in shards so that no lock is everybody's.
#[derive(Debug)]
pub(crate) struct FdCache<K: Hash + Eq, V = Arc<OwnedFd>> {
    shards: [Mutex<LruCache<K, V, BuildInoHasher>>; SHARDS],
    asked: Tally,
}

impl<K: Hash + Eq, V: Clone> FdCache<K, V> {
    /// A cache of about `capacity` descriptors.
    pub(crate) fn new(capacity: usize) -> Self {
        let each = NonZeroUsize::new(capacity / SHARDS).unwrap_or(NonZeroUsize::MIN);
        Self {
            shards: std::array::from_fn(|_| {
                Mutex::new(LruCache::with_hasher(each, BuildInoHasher::default()))
            }),
            asked: Tally::new(),
        }
    }

    fn shard(&self, key: &K) -> &Mutex<LruCache<K, V, BuildInoHasher>> {
        // The table inside a shard uses the low bits.
        let hash = BuildInoHasher::default().hash_one(key) >> 40;
        &self.shards[usize::try_from(hash).unwrap_or_default() % SHARDS]
    }

    pub(crate) fn get(&self, key: &K) -> Option<V> {
        let found = self.shard(key).lock().get(key).cloned();
        self.asked.count(found.is_some());
        found
    }

    /// How often it was asked.
    pub(crate) fn stats(&self, name: &'static str) -> CacheStats {
        self.asked.stats(name)
    }

    pub(crate) fn put(&self, key: K, fd: V) {
        // What falls out is closed after the lock is gone.
        let evicted = self.shard(&key).lock().push(key, fd);
        drop(evicted);
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.shards.iter().for_each(|shard| shard.lock().clear());
    }

    pub(crate) fn remove(&self, key: &K) {
        let removed = self.shard(key).lock().pop(key);
        drop(removed);
    }
}
