//! Who reads requests: one thread as long as it can, more when it cannot.
//!
//! Threads that sleep in read(2) while another spins are woken for requests that the spinner takes, and each such
//! wake-up costs what the spinning saves. So reading is a *seat*: at first there is one, and threads without a seat
//! are parked. A seat passes on or multiplies in three cases:
//!
//! - a thread gives its seat up before a request that is known to take long ([`Seats::leave`]);
//! - a request that turns out to take long (the first write to a large file copies it up, a disk is slow) loses the
//!   seat by the watcher, which looks every few milliseconds while requests come ([`Seats::watch`]);
//! - if requests were waiting all the time between two looks, one more thread gets a seat; if not, it goes again.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How often the watcher looks: the longest that an unexpectedly slow request holds up the others is twice this.
const LOOK: Duration = Duration::from_millis(2);
/// Looks without a request after which the watcher sleeps.
const PATIENCE: u32 = 25;
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
    over: bool,
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
            state: Mutex::new(State { free: 1, taken: 0, over: false }),
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

    /// Waits for a seat; false when it is all over.
    pub(super) fn take(&self, me: usize) -> bool {
        let mut state = self.state.lock();
        while state.free == 0 && !state.over {
            self.parked.wait(&mut state);
        }
        if state.over {
            return false;
        }
        state.free -= 1;
        state.taken += 1;
        self.change(me, Doing::READING);
        true
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
        state.free += 1;
        self.parked.notify_one();
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

    /// Looks after the seats until it is all over. The calling thread does nothing else.
    pub(super) fn watch(&self) {
        let mut state = self.state.lock();
        let mut before = self.look();
        let mut idle = 0;
        while !state.over {
            if idle < PATIENCE || !self.may_sleep() {
                self.watcher.wait_for(&mut state, LOOK);
            } else {
                self.watcher.wait(&mut state);
                idle = 0;
            }
            let now = self.look();
            idle = if now.served == before.served { idle + 1 } else { 0 };
            self.free_the_stuck(&mut state, &before, &now);
            self.follow_the_load(&mut state, &before, &now);
            before = now;
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

    /// Takes the seat of each thread that still serves the request it served at the last look.
    fn free_the_stuck(&self, state: &mut State, before: &Look, now: &Look) {
        for (mark, (then, now)) in self.marks.iter().zip(before.marks.iter().zip(&now.marks)) {
            let stuck = now.kind() == Doing::SERVING && then == now;
            let parked = now.but(Doing::PARKED).0;
            if stuck && mark.compare_exchange(now.0, parked, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                self.pass_on(state);
            }
        }
    }

    /// Adds a seat if requests were waiting at every turn; goes back to one if readers slept as often as not.
    fn follow_the_load(&self, state: &mut State, before: &Look, now: &Look) {
        let (served, empty) = (now.served - before.served, now.empty - before.empty);
        let seats = state.free + state.taken;
        let most = if served >= QUICK { self.cpus.min(self.marks.len()) } else { self.marks.len() };
        if served > 1 && empty == 0 && seats < most {
            state.free += 1;
            self.crowded.store(true, Ordering::Relaxed);
            self.surplus.store(false, Ordering::Relaxed);
            self.parked.notify_one();
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
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicUsize;
    use std::thread;
    use std::time::Instant;

    use super::*;

    /// Threads that serve requests which take as long as `work` says, until `over`.
    fn serve(seats: &Arc<Seats>, threads: usize, work: fn(usize)) -> Vec<thread::JoinHandle<()>> {
        let mut handles: Vec<_> = (0..threads)
            .map(|me| {
                let seats = Arc::clone(seats);
                thread::spawn(move || {
                    while seats.take(me) {
                        loop {
                            seats.begin(me);
                            work(me);
                            if !seats.finish(me) || seats.state.lock().over {
                                break;
                            }
                        }
                    }
                })
            })
            .collect();
        let watched = Arc::clone(seats);
        handles.push(thread::spawn(move || watched.watch()));
        handles
    }

    fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end {
            if done() {
                return true;
            }
            thread::sleep(Duration::from_millis(1));
        }
        false
    }

    #[test]
    fn seat_of_a_stuck_thread_passes_on_and_comes_back() {
        static STARTED: AtomicUsize = AtomicUsize::new(0);
        static FREE: AtomicBool = AtomicBool::new(false);
        let seats = Arc::new(Seats::new(3, 2));
        let threads = serve(&seats, 3, |_| {
            STARTED.fetch_add(1, Ordering::SeqCst);
            while !FREE.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(1));
            }
        });
        assert!(within(Duration::from_secs(5), || STARTED.load(Ordering::SeqCst) == 3), "others take over");
        FREE.store(true, Ordering::SeqCst);
        assert!(within(Duration::from_secs(5), || STARTED.load(Ordering::SeqCst) > 100), "and go on");
        seats.end();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn seats_follow_the_load_up_and_down() {
        static BUSY: AtomicBool = AtomicBool::new(true);
        let seats = Arc::new(Seats::new(4, 4));
        let idle = Arc::clone(&seats);
        let threads = serve(&seats, 4, |_| thread::sleep(Duration::from_micros(100)));
        assert!(within(Duration::from_secs(5), || !seats.alone()), "grows while no reader finds it empty");
        let feeder = thread::spawn(move || {
            while BUSY.load(Ordering::SeqCst) {
                (0..100).for_each(|_| idle.found_empty());
                thread::sleep(Duration::from_micros(100));
            }
        });
        assert!(
            within(Duration::from_secs(5), || seats.state.lock().taken == 1 && seats.alone()),
            "shrinks to one"
        );
        BUSY.store(false, Ordering::SeqCst);
        feeder.join().unwrap();
        seats.end();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
    }

    #[test]
    fn seat_left_before_a_long_request_is_taken_by_another() {
        let seats = Seats::new(2, 2);
        assert!(seats.take(0));
        seats.begin(0);
        seats.leave(0);
        assert!(seats.take(1), "the other thread reads");
        assert!(!seats.finish(0), "the first has no seat when it is done");
        seats.begin(1);
        assert!(seats.finish(1), "the other keeps its own");
        seats.end();
        assert!(!seats.take(0), "all over");
    }
}
