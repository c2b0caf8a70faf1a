//! How many messages of each kind were served, and how long they took.
//!
//! Messages for each system call are the number to drive to zero, so every message is counted. Each thread counts
//! for itself; a reader adds up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::wire::Opcode;

/// Operation codes that are counted one by one; all above are counted as 0, "UNKNOWN".
const CODES: usize = 64;

/// Buckets of a histogram: below 1 µs, below 2 µs, … below 2^22 µs (four seconds), and the rest.
pub const BUCKETS: usize = 24;

/// The counters of one mount.
#[derive(Clone, Debug, Default)]
pub struct Stats(Arc<Mutex<Vec<Arc<Shard>>>>);

/// How often one kind of message came, and how long it took to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpStats {
    /// The kind.
    pub opcode: Opcode,
    /// How many came.
    pub count: u64,
    /// The time the server spent on them, from the request being read to the reply being ready.
    pub total: Duration,
    /// How many took less than 1 µs, less than 2 µs, and so on by powers of two.
    pub histogram: [u64; BUCKETS],
}

/// How readers got their requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadStats {
    /// A request was waiting.
    pub waiting: u64,
    /// One came while the reader was asking again and again.
    pub spinning: u64,
    /// The reader was asleep.
    pub asleep: u64,
}

impl Stats {
    /// Counters for one more thread.
    pub(super) fn shard(&self) -> Arc<Shard> {
        let shard = Arc::new(Shard::default());
        self.0.lock().push(Arc::clone(&shard));
        shard
    }

    /// Every kind of message that came, the most frequent first.
    pub fn ops(&self) -> Vec<OpStats> {
        let shards = self.0.lock();
        let mut ops: Vec<_> = (0..CODES)
            .map(|code| shards.iter().map(|shard| shard.ops[code].read()).fold(OpCount::ZERO, OpCount::add))
            .zip(0..)
            .filter(|(sum, _)| sum.count > 0)
            .map(|(sum, code)| OpStats {
                opcode: Opcode(code),
                count: sum.count,
                total: Duration::from_nanos(sum.nanos),
                histogram: sum.histogram,
            })
            .collect();
        ops.sort_by_key(|op| std::cmp::Reverse(op.count));
        ops
    }

    /// How requests were read.
    pub fn reads(&self) -> ReadStats {
        self.0.lock().iter().fold(ReadStats::default(), |sum, shard| ReadStats {
            waiting: sum.waiting + shard.reads.waiting.load(Ordering::Relaxed),
            spinning: sum.spinning + shard.reads.spinning.load(Ordering::Relaxed),
            asleep: sum.asleep + shard.reads.asleep.load(Ordering::Relaxed),
        })
    }
}

/// One thread's counters; only that thread writes them.
#[derive(Debug)]
pub(super) struct Shard {
    ops: Box<[OpCell]>,
    pub(super) reads: Reads,
}

#[derive(Debug, Default)]
pub(super) struct Reads {
    pub(super) waiting: AtomicU64,
    pub(super) spinning: AtomicU64,
    pub(super) asleep: AtomicU64,
}

impl Default for Shard {
    fn default() -> Self {
        Self { ops: (0..CODES).map(|_| OpCell::default()).collect(), reads: Reads::default() }
    }
}

impl Shard {
    /// Counts one message.
    pub(super) fn count(&self, opcode: Opcode, took: Duration) {
        let code = usize::try_from(opcode.0).ok().filter(|code| *code < CODES).unwrap_or(0);
        let cell = &self.ops[code];
        bump(&cell.count, 1);
        bump(&cell.nanos, u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        bump(&cell.histogram[bucket(took)], 1);
    }
}

/// Adds without a locked instruction, for there is one writer.
pub(super) fn bump(counter: &AtomicU64, by: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
}

fn bucket(took: Duration) -> usize {
    let micros = took.as_micros().min(u128::from(u64::MAX));
    let bits = u128::BITS - micros.leading_zeros();
    (bits as usize).min(BUCKETS - 1)
}

#[derive(Debug, Default)]
struct OpCell {
    count: AtomicU64,
    nanos: AtomicU64,
    histogram: [AtomicU64; BUCKETS],
}

impl OpCell {
    fn read(&self) -> OpCount {
        OpCount {
            count: self.count.load(Ordering::Relaxed),
            nanos: self.nanos.load(Ordering::Relaxed),
            histogram: std::array::from_fn(|i| self.histogram[i].load(Ordering::Relaxed)),
        }
    }
}

#[derive(Clone, Copy)]
struct OpCount {
    count: u64,
    nanos: u64,
    histogram: [u64; BUCKETS],
}

impl OpCount {
    const ZERO: Self = Self { count: 0, nanos: 0, histogram: [0; BUCKETS] };

    fn add(self, other: Self) -> Self {
        Self {
            count: self.count + other.count,
            nanos: self.nanos.wrapping_add(other.nanos),
            histogram: std::array::from_fn(|i| self.histogram[i] + other.histogram[i]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stats_add_up_over_threads_and_sort_by_count() {
        let stats = Stats::default();
        let (one, two) = (stats.shard(), stats.shard());
        one.count(Opcode::LOOKUP, Duration::from_nanos(400));
        two.count(Opcode::LOOKUP, Duration::from_micros(3));
        two.count(Opcode(9999), Duration::from_secs(3600));
        bump(&one.reads.spinning, 2);
        let ops = stats.ops();
        let seen: Vec<_> = ops.iter().map(|op| (op.opcode.name(), op.count, op.total)).collect();
        assert_eq!(
            seen,
            [("LOOKUP", 2, Duration::from_nanos(3400)), ("UNKNOWN", 1, Duration::from_secs(3600)),]
        );
        assert_eq!((ops[0].histogram[0], ops[0].histogram[2], ops[1].histogram[BUCKETS - 1]), (1, 1, 1));
        assert_eq!(stats.reads(), ReadStats { waiting: 0, spinning: 2, asleep: 0 });
    }

    #[test]
    fn bucket_is_the_power_of_two_above() {
        for (micros, want) in
            [(0, 0), (1, 1), (2, 2), (3, 2), (4, 3), (1023, 10), (1 << 22, 23), (u64::MAX, 23)]
        {
            assert_eq!(bucket(Duration::from_micros(micros)), want, "{micros} us");
        }
    }
}
