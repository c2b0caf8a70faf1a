//! Who reads requests: one thread as long as it can, more when it cannot.
//!
//! Threads that sleep in read(2) while another spins are woken for requests that the spinner takes, and each such
//! wake-up costs what the spinning saves. So reading is a *seat*: at first there is one, and threads without a seat
//! are parked, for a while; then they go home, and are hired again when they are missed (a thread keeps buffers, and
//! what its allocator holds for it). A seat passes on or multiplies in three cases:
//!
//! - a thread gives its seat up before a request that is known to take long ([`Seats::leave`]);
//! - a request that turns out to take long (the first write to a large file copies it up, a disk is slow) loses the
//!   seat by the watcher, which looks every few milliseconds while requests come ([`Seats::watch`]);
//! - if requests were waiting all the time between two looks, one more thread gets a seat; if not, it goes again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::follow::Keeper;

/// How often the watcher looks: the longest that an unexpectedly slow request holds up the others is twice this.
const LOOK: Duration = Duration::from_millis(2);
/// Looks without a request after which the watcher sleeps.
const PATIENCE: u32 = 25;
/// How long a thread waits for a seat before it goes home, and the watcher for a request before memory is given back.
const REST: Duration = Duration::from_secs(1);
/// Requests between two looks from which on they are quick, and more readers than CPUs cannot help.
const QUICK: u64 = 64;

/// The seats and who is on them.
#[derive(Debug)]
pub(super) struct Seats {
    /// Taken before any mark is changed by another thread than its own.
    state: Mutex<State>,
    parked: Condvar,
    watcher: Condvar,
    watcher_sleeps: AtomicBool,
    /// One for each thread: what it is doing, see [`Doing`].
    marks: Box<[AtomicU64]>,
    cpus: usize,
    /// More than one seat is wanted just now.
    crowded: AtomicBool,
    /// There are more seats than are wanted.
    surplus: AtomicBool,
    /// Times that a reader found no request waiting.
    empty: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// Seats that nobody is on. There is always a seat, free or taken.
    free: usize,
    /// Seats that somebody is on, which are the marks that are not parked.
    taken: usize,
    /// Threads that wait for a seat.
    waiting: usize,
    over: bool,
}

/// What a thread that wants a seat is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seat {
    Yours,
    /// None will be free for some time: go home.
    NotNow,
    /// All is over.
    Never,
}

/// What a thread's mark tells, in its two low bits; above them is a count of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doing(u64);

impl Doing {
    const PARKED: u64 = 0;
    const READING: u64 = 1;
    const SERVING: u64 = 2;
    const KIND: u64 = 3;

    const fn kind(self) -> u64 {
        self.0 & Self::KIND
    }

    const fn turn(self) -> u64 {
        self.0 >> 2
    }

    const fn but(self, kind: u64) -> Self {
        Self((self.0 & !Self::KIND) | kind)
    }

    const fn next_turn(self) -> Self {
        Self(((self.turn() + 1) << 2) | Self::SERVING)
    }
}

impl Seats {
    /// One free seat for `threads` threads on a machine of `cpus` CPUs.
    pub(super) fn new(threads: usize, cpus: usize) -> Self {
        Self {
            state: Mutex::new(State { free: 1, taken: 0, waiting: 0, over: false }),
            parked: Condvar::new(),
            watcher: Condvar::new(),
            watcher_sleeps: AtomicBool::new(false),
            marks: (0..threads).map(|_| AtomicU64::new(Doing::PARKED)).collect(),
            cpus,
            crowded: AtomicBool::new(false),
            surplus: AtomicBool::new(false),
            empty: AtomicU64::new(0),
        }
    }

    /// Waits for a seat.
    pub(super) fn take(&self, me: usize) -> Seat {
        let mut state = self.state.lock();
        while state.free == 0 && !state.over {
            state.waiting += 1;
            let late = self.parked.wait_for(&mut state, REST).timed_out();
            state.waiting -= 1;
            if late && state.free == 0 && !state.over {
                return Seat::NotNow;
            }
        }
        if state.over {
            return Seat::Never;
        }
        state.free -= 1;
        state.taken += 1;
        self.change(me, Doing::READING);
        Seat::Yours
    }

    /// The thread has read a request and begins to serve it.
    pub(super) fn begin(&self, me: usize) {
        let mark = &self.marks[me];
        // In one order with what the watcher does before it sleeps: it sees this request, or is seen sleeping here.
        mark.store(Doing(mark.load(Ordering::Relaxed)).next_turn().0, Ordering::SeqCst);
        if self.watcher_sleeps.load(Ordering::SeqCst) {
            self.wake_watcher();
        }
    }

    /// The thread has served it; false if it has no seat any more.
    pub(super) fn finish(&self, me: usize) -> bool {
        let mark = &self.marks[me];
        let doing = Doing(mark.load(Ordering::Acquire));
        let reading = doing.but(Doing::READING).0;
        doing.kind() == Doing::SERVING
            && mark.compare_exchange(doing.0, reading, Ordering::AcqRel, Ordering::Acquire).is_ok()
            && !(self.surplus.load(Ordering::Relaxed) && self.leave_surplus(me))
    }

    /// Gives up the seat before a request that is known to take long.
    pub(super) fn leave(&self, me: usize) {
        let mut state = self.state.lock();
        if Doing(self.marks[me].load(Ordering::Acquire)).kind() != Doing::PARKED {
            self.change(me, Doing::PARKED);
            self.pass_on(&mut state);
        }
    }

    /// Whether no other thread reads, so that this one may spin. One with a seat too many may still sleep in read(2); it
    /// must be left the next request, or it would be woken for each and never get away.
    pub(super) fn alone(&self) -> bool {
        !self.crowded.load(Ordering::Relaxed) && !self.surplus.load(Ordering::Relaxed)
    }

    /// No request was waiting when a thread asked.
    pub(super) fn found_empty(&self) {
        self.empty.fetch_add(1, Ordering::Relaxed);
    }

    /// Sends every thread home.
    pub(super) fn end(&self) {
        self.state.lock().over = true;
        self.parked.notify_all();
        self.watcher.notify_all();
    }

    /// Changes what a thread is doing; under the lock, or by the thread itself.
    fn change(&self, who: usize, kind: u64) {
        let mark = &self.marks[who];
        mark.store(Doing(mark.load(Ordering::Acquire)).but(kind).0, Ordering::Release);
    }

    fn pass_on(&self, state: &mut State) {
        state.taken -= 1;
        self.free_one(state);
    }

    /// A seat is free: for a thread that waits, or one that the watcher hires.
    fn free_one(&self, state: &mut State) {
        state.free += 1;
        if state.waiting > 0 {
            self.parked.notify_one();
        } else {
            self.watcher_sleeps.store(false, Ordering::Relaxed);
            self.watcher.notify_all();
        }
    }

    fn leave_surplus(&self, me: usize) -> bool {
        let mut state = self.state.lock();
        let leaves = state.taken + state.free > 1;
        if leaves {
            state.taken -= 1;
            self.change(me, Doing::PARKED);
        }
        self.surplus.store(state.taken + state.free > 1, Ordering::Relaxed);
        leaves
    }

    fn wake_watcher(&self) {
        let _state = self.state.lock();
        self.watcher_sleeps.store(false, Ordering::Relaxed);
        self.watcher.notify_all();
    }

    /// Looks after the seats, and who follows a client, until it is all over. The calling thread does nothing else but
    /// `hire` a thread, if one is at home, for a seat that nobody waits for.
    pub(super) fn watch(&self, keeper: &Keeper<'_>, hire: &dyn Fn()) {
        let mut state = self.state.lock();
        let mut before = self.look();
        let mut idle = 0;
        while !state.over {
            if idle < PATIENCE || state.free > 0 || !self.may_sleep() {
                self.watcher.wait_for(&mut state, LOOK);
            } else {
                self.rest(&mut state);
                idle = 0;
            }
            let now = self.look();
            idle = if now.served == before.served { idle + 1 } else { 0 };
            let stuck = self.free_the_stuck(&mut state, &before, &now);
            keeper.look(now.served - before.served, stuck);
            // A follower always finds a request waiting: its client has just made room for it.
            if !keeper.follows() {
                self.follow_the_load(&mut state, &before, &now);
            }
            before = now;
            if state.free > state.waiting && !state.over {
                MutexGuard::unlocked(&mut state, hire);
            }
        }
    }

    /// Sleeps until a request comes. When none has come for a while, the memory goes back that serving took and rest does
    /// not need.
    fn rest(&self, state: &mut MutexGuard<'_, State>) {
        if !self.watcher.wait_for(state, REST).timed_out() {
            return;
        }
        MutexGuard::unlocked(state, || {
            crate::sys::give_memory_back();
            crate::sys::give_code_back();
        });
        while self.watcher_sleeps.load(Ordering::SeqCst) && !state.over {
            self.watcher.wait(state);
        }
    }

    /// Tells the readers that the watcher sleeps, unless one of them serves.
    fn may_sleep(&self) -> bool {
        self.watcher_sleeps.store(true, Ordering::SeqCst);
        let quiet = self.marks.iter().all(|mark| Doing(mark.load(Ordering::SeqCst)).kind() != Doing::SERVING);
        if !quiet {
            self.watcher_sleeps.store(false, Ordering::SeqCst);
        }
        quiet
    }

    fn look(&self) -> Look {
        let marks: Box<[_]> = self.marks.iter().map(|mark| Doing(mark.load(Ordering::Acquire))).collect();
        let served = marks.iter().map(|mark| mark.turn()).sum();
        Look { marks, served, empty: self.empty.load(Ordering::Relaxed) }
    }

    /// Takes the seat of each thread that still serves the request it served at the last look, and tells if there was one.
    fn free_the_stuck(&self, state: &mut State, before: &Look, now: &Look) -> bool {
        let mut any = false;
        for (mark, (then, now)) in self.marks.iter().zip(before.marks.iter().zip(&now.marks)) {
            let stuck = now.kind() == Doing::SERVING && then == now;
            let parked = now.but(Doing::PARKED).0;
            if stuck && mark.compare_exchange(now.0, parked, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.pass_on(state);
                any = true;
            }
        }
        any
    }

    /// Adds a seat if requests were waiting at every turn; goes back to one if readers slept as often as not.
    fn follow_the_load(&self, state: &mut State, before: &Look, now: &Look) {
        let (served, empty) = (now.served - before.served, now.empty - before.empty);
        let seats = state.free + state.taken;
        let most = if served >= QUICK { self.cpus.min(self.marks.len()) } else { self.marks.len() };
        if served > 1 && empty == 0 && seats < most {
            self.free_one(state);
            self.crowded.store(true, Ordering::Relaxed);
            self.surplus.store(false, Ordering::Relaxed);
        } else if seats > 1 && empty * 2 >= served {
            state.free = usize::from(state.taken == 0);
            self.crowded.store(false, Ordering::Relaxed);
            self.surplus.store(state.taken > 1, Ordering::Relaxed);
        }
    }
}

/// What the watcher saw.
#[derive(Debug)]
struct Look {
    marks: Box<[Doing]>,
    served: u64,
    empty: u64,
}

#[cfg(test)]
#[path = "tests/seats.rs"]
mod tests;
