//! Serving a client on the CPU that it runs on.
//!
//! A message that wakes its server on another CPU and is answered from there waits for two interrupts, which in a
//! virtual machine are most of what it costs; a reader that asks again and again (`spin`) saves one of them. On one
//! CPU each is a switch of threads. But the scheduler moves a client that wakes up away from the CPU that its server
//! is busy on, unless that server counts as nothing: the policy `SCHED_IDLE` (sched(7); `sched_idle_cpu()` in the
//! kernel's `fair.c`).
//!
//! Whether that is quicker depends on the machine: what an interrupt costs beside a switch, and how soon the scheduler
//! brings a client back that it has moved. So both ways are tried in turns, and the quicker one is taken ([`Trial`]).
//!
//! The price is that whoever else wants that CPU keeps such a server from running. Hence these rules:
//!
//! - A client is followed that sends one quick message after another, while nobody else sends any ([`Streak`]); one that
//!   reads on is not, for it need not wait.
//! - The watcher, which runs as all others do, takes a follower back that has served next to nothing between two looks
//!   ([`Keeper::look`]); 2 to 4 ms is the longest that anybody waits. If somebody did wait, there is a pause, each
//!   twice as long as the last.
//! - The way back from `SCHED_IDLE` needs `CAP_SYS_NICE` over the host: without it nobody is followed.
//!
//! Measured on 2 CPUs, kernel 6.18, µs, with a spinning reader and following, in one virtual machine: a lookup of an absent
//! name 12 and 8, an append 11 and 7, a creation (three messages) 45 and 33; in another one: 12 and 15 a lookup, 49 and 66
//! a creation; in a third one 20 and 5 a lookup, 92 and 20 a creation.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{CapabilitySet, CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
use tracing::{debug, warn};

use super::message::Message;
use super::wire::{Opcode, ReadIn};
use crate::creds::capable_over_host;
use crate::sys;

/// Messages in a row of one client before it is followed, and the time in which they must come.
const STREAK: u32 = 32;
const BRISK: Duration = Duration::from_millis(16);
/// Messages of a followed client, found elsewhere, before its CPU is looked up again.
const AGAIN: u32 = 16;
/// Messages between two looks of the watcher from which on following is worth it.
const MANY: u64 = 4;
/// Messages that go by after somebody had to wait, doubled each time; and those that a follower must have served in
/// peace to begin anew.
const PAUSES: RangeInclusive<u32> = 256..=65536;
const PEACE: u32 = 4096;
/// What is read in one from its beginning, and no more than this, is a small file.
const SMALL: u32 = 64 << 10;
/// How often the ways take turns in a trial, the messages of a turn, and those at its beginning that are not counted.
const TURNS: u32 = 4;
const TURN: u32 = 24;
const UNCOUNTED: u32 = 6;
const TRIAL: u32 = TURNS * TURN;
/// By how much following must be quicker, summed up as the messages are: a sixteenth each.
const MARGIN: f32 = (TURN - UNCOUNTED) as f32 * 2.0 / 16.0;
/// Messages for which the quicker way is taken then.
const STAY: RangeInclusive<u32> = 512..=16384;

/// What watcher and follower share.
#[derive(Debug)]
pub(super) struct Keeper<'s> {
    /// Where threads may run; `None` if nobody is to be followed.
    home: Option<CpuSet>,
    session: &'s OwnedFd,
    /// The thread that follows, or 0. Only that thread sets it.
    follower: AtomicI32,
    /// The watcher has taken it back, which it has not noticed yet.
    taken: AtomicBool,
    pause: Pause,
    trial: Mutex<Trial>,
}

impl<'s> Keeper<'s> {
    /// A keeper of the threads that serve the connection `session`.
    pub(super) fn new(session: &'s OwnedFd) -> Self {
        let plain = || stat_field(gettid(), POLICY) == Some(0); // SCHED_OTHER
        let home = || sched_getaffinity(None).ok().filter(|home| home.count() > 1);
        let may = capable_over_host(CapabilitySet::SYS_NICE) && plain();
        Self {
            home: may.then(home).flatten(),
            session,
            follower: AtomicI32::new(0),
            taken: AtomicBool::new(false),
            pause: Pause::new(),
            trial: Mutex::default(),
        }
    }

    /// Whether a client is being followed.
    pub(super) fn follows(&self) -> bool {
        self.follower.load(Ordering::Relaxed) != 0
    }

    /// The watcher's look: `served` requests were begun since the last.
    ///
    /// It takes back again and again, for as long as the follower does not say that it has noticed.
    pub(super) fn look(&self, served: u64, stuck: bool) {
        let Some(follower) = Pid::from_raw(self.follower.load(Ordering::Acquire)) else { return };
        if served < MANY {
            // One that waits, as for a disk, is not kept from running.
            let starved = served == 0 && (stuck || self.is_asked()) && is_runnable(follower);
            self.put_home(follower);
            if !self.taken.swap(true, Ordering::AcqRel) && starved {
                self.pause.begin();
            }
        }
    }

    /// Whether a request waits to be read.
    fn is_asked(&self) -> bool {
        let mut fds = [PollFd::new(self.session, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn put_home(&self, thread: Pid) {
        let home = self.home.as_ref().map_or(Ok(()), |home| sched_setaffinity(Some(thread), home));
        if let Err(error) = sys::set_idle(thread, false).and(home) {
            warn!(%error, thread = thread.as_raw_pid(), "a serving thread keeps a low priority or to one CPU");
        }
    }
}

/// One thread's following.
#[derive(Debug)]
pub(super) struct Follow<'s> {
    keeper: &'s Keeper<'s>,
    me: Pid,
    streak: Streak,
    on: bool,
    /// Messages since the client's CPU was looked up.
    since: u32,
    /// Reads in a row that the client need not wait for.
    reads: u32,
    /// A request had to be waited for: the client is not where it was.
    elsewhere: bool,
}

impl<'s> Follow<'s> {
    /// The calling thread follows nobody yet.
    pub(super) fn new(keeper: &'s Keeper<'s>) -> Self {
        if keeper.home.is_some()
            && let Err(error) = sys::keep_io_class()
        {
            debug!(%error, "the I/O class follows the scheduling policy");
        }
        Self {
            keeper,
            me: gettid(),
            streak: Streak::default(),
            on: false,
            since: 0,
            reads: 0,
            elsewhere: false,
        }
    }

    /// Whether a client is being followed: then a request that is not there yet is not worth asking for again.
    pub(super) const fn is_on(&self) -> bool {
        self.on
    }

    /// No request was waiting: it was not its client that kept this thread from running.
    pub(super) const fn found_empty(&mut self) {
        self.elsewhere = true;
    }

    /// A request was read at `now`; `alone` if nobody else reads.
    pub(super) fn met(&mut self, message: &Message<'_>, alone: bool, now: Instant) {
        let client = message.header.pid;
        if self.keeper.home.is_none() || client == 0 {
            return; // FORGET and the like come from nobody
        }
        if self.on && self.keeper.taken.load(Ordering::Acquire) {
            self.give_up();
        }
        self.since = self.since.saturating_add(1);
        let rested = self.keeper.pause.is_over();
        self.reads = if overlaps(message) { self.reads.saturating_add(1) } else { 0 };
        let reads_on = self.reads > 1;
        if !self.streak.goes_on(client, alone, now) || reads_on || !rested {
            self.keeper.trial.lock().interrupt();
            self.stop();
        } else if !self.keeper.trial.lock().follows(now) {
            self.stop();
        } else if !self.on || self.streak.own == 1 || (self.elsewhere && self.since >= AGAIN) {
            self.start(client);
        } else if self.since == PEACE {
            self.keeper.pause.forgive();
        }
    }

    /// Goes to the client's CPU.
    fn start(&mut self, client: u32) {
        (self.since, self.elsewhere) = (0, false);
        let home = self.keeper.home.as_ref();
        let client = i32::try_from(client).ok().and_then(Pid::from_raw);
        let cpu = client.and_then(|client| stat_field(client, PROCESSOR));
        let Some(cpu) = cpu.filter(|cpu| home.is_some_and(|home| home.is_set(*cpu))) else {
            return self.give_up();
        };
        let mut there = CpuSet::new();
        there.set(cpu);
        // From now on the watcher looks after this thread; it must, before the thread has a low priority.
        self.on = true;
        self.keeper.follower.store(self.me.as_raw_nonzero().get(), Ordering::SeqCst);
        if let Err(error) = sched_setaffinity(None, &there).and_then(|()| sys::set_idle(self.me, true)) {
            debug!(%error, cpu, "not followed");
            self.give_up();
        }
    }

    fn give_up(&mut self) {
        self.stop();
        self.streak = Streak::default();
    }

    /// Serves as all others do.
    pub(super) fn stop(&mut self) {
        if self.on {
            self.keeper.put_home(self.me);
            self.keeper.follower.store(0, Ordering::SeqCst);
            self.keeper.taken.store(false, Ordering::Release);
            self.on = false;
        }
    }
}

/// Whether messages come from one client, one right after another; or from one after the other, as from the processes
/// of a script.
#[derive(Debug, Default)]
struct Streak {
    client: u32,
    /// Messages of the client in a row.
    own: u32,
    /// Those of its predecessors too, and when the first came.
    count: u32,
    since: Option<Instant>,
}

impl Streak {
    /// Counts a message, `alone` if nobody else reads any; whether its client is to be followed.
    fn goes_on(&mut self, client: u32, alone: bool, now: Instant) -> bool {
        let (same, since) = (client == self.client, *self.since.get_or_insert(now));
        // Who comes after one that was followed follows it, as the next process of a script. Of two at a time each would
        // wait for the other's CPU.
        let one = same || self.own >= STREAK;
        if !one || !alone || (self.count < STREAK && now.saturating_duration_since(since) > BRISK) {
            *self = Self { client, own: 1, count: 0, since: Some(now) };
            return false;
        }
        (self.client, self.own) = (client, if same { self.own.saturating_add(1) } else { 1 });
        self.count = self.count.saturating_add(1);
        self.count >= STREAK
    }
}

/// Which way is quicker: to spin, or to follow.
///
/// What is compared is the mean of the logarithms of what messages took: one that waited for a disk must not decide.
#[derive(Debug)]
struct Trial {
    /// Messages since the trial began: turns of spinning and of following, then of what was quicker.
    count: u32,
    last: Option<Instant>,
    /// Logarithms of microseconds, summed up.
    spinning: f32,
    following: f32,
    verdict: bool,
    /// Messages until the next trial.
    stay: u32,
}

impl Default for Trial {
    fn default() -> Self {
        Self { count: 0, last: None, spinning: 0.0, following: 0.0, verdict: false, stay: *STAY.start() }
    }
}

impl Trial {
    /// Counts a message of a streak, read at `now`; whether to follow until the next.
    fn follows(&mut self, now: Instant) -> bool {
        let Some(last) = self.last.replace(now) else { return self.follows_now() };
        let took = now.saturating_duration_since(last).as_secs_f32() * 1e6;
        if self.count < TRIAL && self.count % TURN >= UNCOUNTED {
            *(if self.turn_to_follow() { &mut self.following } else { &mut self.spinning }) +=
                took.max(1.0).ln();
        }
        self.count += 1;
        if self.count == TRIAL {
            self.decide();
        } else if self.count >= TRIAL + self.stay {
            // What was found before counts half as much as what is found now.
            (self.count, self.spinning, self.following) = (0, self.spinning / 2.0, self.following / 2.0);
        }
        self.follows_now()
    }

    /// The way that is taken now is tried again the later, the longer it has been the quicker one.
    fn decide(&mut self) {
        // What is no quicker is not worth its risk.
        let verdict = self.following + MARGIN < self.spinning;
        self.stay = if verdict == self.verdict { (2 * self.stay).min(*STAY.end()) } else { *STAY.start() };
        self.verdict = verdict;
    }

    const fn follows_now(&self) -> bool {
        if self.count < TRIAL { self.turn_to_follow() } else { self.verdict }
    }

    const fn turn_to_follow(&self) -> bool {
        (self.count / TURN) % 2 == 1
    }

    /// The next message does not come right after the last: it is not counted.
    const fn interrupt(&mut self) {
        self.last = None;
    }
}

/// For how many messages nobody is followed.
#[derive(Debug)]
struct Pause {
    left: AtomicU32,
    next: AtomicU32,
}

impl Pause {
    const fn new() -> Self {
        Self { left: AtomicU32::new(0), next: AtomicU32::new(*PAUSES.start()) }
    }

    /// Counts a message; whether no pause is left.
    fn is_over(&self) -> bool {
        // Not in one step: only one thread reads messages as long as anybody may be followed.
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        left == 0
    }

    fn begin(&self) {
        let next = self.next.load(Ordering::Relaxed);
        self.left.store(next, Ordering::Relaxed);
        self.next.store((2 * next).min(*PAUSES.end()), Ordering::Relaxed);
    }

    fn forgive(&self) {
        self.next.store(*PAUSES.start(), Ordering::Relaxed);
    }
}

/// Whether a client need not wait for it: it reads on while the server reads ahead. A small file it waits for.
fn overlaps(message: &Message<'_>) -> bool {
    let small = |read: ReadIn| read.offset == 0 && read.size <= SMALL;
    message.opcode() == Opcode::READ && !message.fixed().is_ok_and(|(read, _)| small(read))
}

/// Fields of /proc/PID/stat (proc_pid_stat(5)), counted from 1.
const STATE: usize = 3;
const PROCESSOR: usize = 39;
const POLICY: usize = 41;

fn stat_field(thread: Pid, field: usize) -> Option<usize> {
    stat_text(thread, field)?.parse().ok()
}

fn stat_text(thread: Pid, field: usize) -> Option<String> {
    let stat = std::fs::read(format!("/proc/{}/stat", thread.as_raw_pid())).ok()?;
    // The second field is the name in brackets, which may hold anything.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    rest.split_ascii_whitespace().nth(field - 3).map(str::to_owned)
}

/// Whether a thread runs, or would if it were let.
fn is_runnable(thread: Pid) -> bool {
    stat_text(thread, STATE).is_none_or(|state| state == "R")
}

#[cfg(test)]
#[path = "tests/follow.rs"]
mod tests;
