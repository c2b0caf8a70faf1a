//! Whether it is worth asking again for a moment before going to sleep.
//!
//! A request that finds its reader asleep waits for an interrupt to another CPU, in a virtual machine 15 to 20 µs
//! each way; one that finds it asking waits for nothing. So a reader asks on for some 30 µs after each reply: less
//! misses a client that does a little work of its own between two calls, more gains nothing. The price is the CPU's
//! time, so it is paid only while it buys something.

use std::time::{Duration, Instant};

/// Tries that are judged together.
const WINDOW: u32 = 8;
/// Of which so many must have met a request.
const ENOUGH: u32 = 3;
/// Messages that go by without a try after a window that was not worth it, doubled each time until one is.
const PAUSES: std::ops::RangeInclusive<u32> = 256..=8192;
/// Two tries further apart than this, and somebody else had the CPU: it is wanted.
const PREEMPTED: Duration = Duration::from_micros(100);

/// A reader's experience with asking again.
#[derive(Debug)]
pub(super) struct Spin {
    budget: Duration,
    tries: u32,
    hits: u32,
    /// Messages still to go by without a try.
    pause: u32,
    /// How long the next pause will be.
    next_pause: u32,
}

impl Spin {
    /// Asks again for at most `budget` at a time; never, if it is zero.
    pub(super) const fn new(budget: Duration) -> Self {
        Self { budget, tries: 0, hits: 0, pause: 0, next_pause: *PAUSES.start() }
    }

    /// Calls `ask` until it returns something or the time is up.
    pub(super) fn until<T>(&mut self, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
        if self.pause > 0 || self.budget.is_zero() {
            self.pause = self.pause.saturating_sub(1);
            return None;
        }
        let start = Instant::now();
        let mut last = start;
        loop {
            std::hint::spin_loop();
            let met = ask();
            let now = Instant::now();
            let preempted = now - last > PREEMPTED;
            if met.is_some() || preempted || now - start > self.budget {
                self.judge(met.is_some(), preempted);
                return met;
            }
            last = now;
        }
    }

    fn judge(&mut self, hit: bool, preempted: bool) {
        self.tries += 1;
        self.hits += u32::from(hit);
        if self.tries == WINDOW && self.hits >= ENOUGH {
            self.next_pause = *PAUSES.start();
            (self.tries, self.hits) = (0, 0);
        } else if self.tries == WINDOW || (preempted && !hit) {
            self.pause = self.next_pause;
            self.next_pause = (2 * self.next_pause).min(*PAUSES.end());
            (self.tries, self.hits) = (0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(30);

    /// How long the pause is after `count` tries with this outcome.
    fn pause_after(spin: &mut Spin, count: u32, hit: bool, preempted: bool) -> u32 {
        spin.pause = 0;
        (0..count).for_each(|_| spin.judge(hit, preempted));
        spin.pause
    }

    #[test]
    fn pause_is_longer_each_time_until_spinning_helps() {
        let mut spin = Spin::new(BUDGET);
        for (case, count, hit, preempted, want) in [
            ("hits", 10 * WINDOW, true, false, 0),
            ("misses, but too few to tell", WINDOW - 1, false, false, 0),
            ("one window of misses", 1, false, false, 256),
            ("another", WINDOW, false, false, 512),
            ("the CPU was wanted", 1, false, true, 1024),
            ("and again and again", 9, false, true, 8192),
            ("late but met", 1, true, true, 0),
            ("hits again", WINDOW - 1, true, false, 0),
            ("forgiven", WINDOW, false, false, 256),
        ] {
            assert_eq!(pause_after(&mut spin, count, hit, preempted), want, "{case}");
        }
    }

    #[test]
    fn paused_spin_asks_nothing_and_counts_down() {
        let mut spin = Spin::new(BUDGET);
        pause_after(&mut spin, WINDOW, false, false);
        for _ in 0..256 {
            assert_eq!(spin.until(|| Some(())), None);
        }
        assert_eq!(spin.until(|| Some(())), Some(()));
    }

    #[test]
    fn spin_gives_up_when_the_time_is_over() {
        let mut asked = 0u64;
        let start = Instant::now();
        let none = Spin::new(BUDGET).until(|| -> Option<()> {
            asked += 1;
            None
        });
        assert!(none.is_none() && asked > 1 && start.elapsed() >= BUDGET, "{asked}");
        assert_eq!(Spin::new(Duration::ZERO).until(|| Some(())), None, "no time at all");
    }
}
