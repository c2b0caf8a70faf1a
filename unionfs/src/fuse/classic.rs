//! Serving over `/dev/fuse`: threads, of which as few as can read requests and answer them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::{error, warn};

use super::api::Core;
use super::channel::{Channel, HEAD, How, ROOM, Read};
use super::follow::{Follow, Keeper};
use super::message::Message;
use super::seats::{Seat, Seats};
use super::serve::Service;
use super::spin::Spin;
use super::stats::{Shard, Stats, bump};
use super::uring::{self, Rings};
use super::wire::Opcode;

/// How requests are to be read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    /// How many threads may serve at once.
    pub(crate) threads: usize,
    /// How long a reader asks again before it sleeps.
    pub(crate) spin: Duration,
}

/// Serves until the filesystem is unmounted or the connection aborted; by io_uring too, if there are rings.
///
/// If one thread cannot go on, `give_up` must abort the connection, for the others sleep in read(2).
///
/// # Errors
///
/// If threads cannot be started, or reading `/dev/fuse` fails.
pub(crate) fn run<C: Core>(
    service: &Arc<Service<C>>,
    session: &Arc<OwnedFd>,
    rings: Option<Rings>,
    reading: Reading,
    stats: &Stats,
    give_up: &dyn Fn(),
) -> io::Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from);
    let seats = Seats::new(reading.threads, cpus);
    let keeper = Keeper::new(session);
    let failed = Mutex::new(None);
    let fail = |error| {
        failed.lock().get_or_insert(error);
        seats.end();
    };
    let worker = |me| -> io::Result<_> {
        let (channel, shard, spin) = (Channel::open(&**session)?, stats.shard(), Spin::new(reading.spin));
        Ok(Worker { me, seats: &seats, keeper: &keeper, service, channel, shard, spin })
    };
    // The last is the next to be hired.
    let home = Mutex::new((0..reading.threads).rev().map(worker).collect::<io::Result<Vec<_>>>()?);
    let home = &home;
    thread::scope(|scope| {
        let hire = || -> io::Result<()> {
            let Some(name) = home.lock().last().map(|worker| format!("union-{}", worker.me)) else {
                return Ok(());
            };
            // The thread takes its place itself: one that could not be started has taken none.
            let work = move || {
                let worker = home.lock().pop();
                match worker.map_or(Ok(None), Worker::run) {
                    Ok(worker) => home.lock().extend(worker),
                    Err(error) => fail(error),
                }
            };
            thread::Builder::new().name(name).spawn_scoped(scope, work).map(drop)
        };
        hire().unwrap_or_else(fail);
        if let Some(rings) = rings {
            uring::start(scope, rings, service, session, stats, &fail).unwrap_or_else(fail);
        }
        seats.watch(&keeper, &|| hire().unwrap_or_else(|error| warn!(%error, "a thread cannot be started")));
        if failed.lock().is_some() {
            give_up();
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}

struct Worker<'s, C> {
    me: usize,
    seats: &'s Seats,
    keeper: &'s Keeper<'s>,
    service: &'s Service<C>,
    channel: Channel,
    shard: Arc<Shard>,
    spin: Spin,
}

impl<C: Core> Worker<'_, C> {
    /// Serves for as long as there is a seat; returns itself if it may be needed again.
    fn run(mut self) -> io::Result<Option<Self>> {
        let (mut request, mut reply) = (vec![0; ROOM], vec![0; ROOM]);
        let mut follow = Follow::new(self.keeper);
        loop {
            match self.seats.take(self.me) {
                Seat::Yours => {}
                Seat::NotNow => return Ok(Some(self)),
                Seat::Never => return Ok(None),
            }
            loop {
                match self.next(&mut follow, &mut request)? {
                    Read::Request(size) => self.handle(&mut follow, &request[..size], &mut reply),
                    Read::Empty => continue,
                    Read::Gone => {
                        self.seats.end();
                        return Ok(None);
                    }
                }
                if !self.seats.finish(self.me) {
                    break;
                }
            }
            follow.stop();
        }
    }

    /// Waits for a request: looks, asks again for a moment, sleeps.
    fn next(&mut self, follow: &mut Follow<'_>, room: &mut [u8]) -> io::Result<Read> {
        let Self { channel, seats, shard, spin, .. } = self;
        let ready = channel.read(How::Eager, room)?;
        if ready != Read::Empty {
            bump(&shard.reads.waiting, 1);
            return Ok(ready);
        }
        seats.found_empty();
        let ask = || match channel.read(How::Eager, room) {
            Ok(Read::Empty) => None,
            met => Some(met),
        };
        if follow.is_on() {
            follow.found_empty();
        } else if seats.alone()
            && let Some(met) = spin.until(ask)
        {
            bump(&shard.reads.spinning, 1);
            return met;
        }
        bump(&shard.reads.asleep, 1);
        channel.read(How::Blocking, room)
    }

    fn handle(&self, follow: &mut Follow<'_>, request: &[u8], reply: &mut [u8]) {
        self.seats.begin(self.me);
        let Some(message) = Message::joined(request) else {
            error!(size = request.len(), "a request without a head was dropped");
            return;
        };
        let opcode = message.opcode();
        let start = Instant::now();
        if takes_long(opcode) {
            follow.stop();
            self.seats.leave(self.me);
        } else {
            follow.met(&message, self.seats.alone(), start);
        }
        let answer = self.service.serve(&message, &mut reply[HEAD..]);
        self.shard.count(opcode, start.elapsed());
        self.channel.answer(opcode, message.header.unique, answer, reply);
    }
}

/// Requests that wait for a disk by their nature. A large copy or allocation is found by the watcher: most are small.
const fn takes_long(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::FSYNC | Opcode::FSYNCDIR | Opcode::SYNCFS)
}
