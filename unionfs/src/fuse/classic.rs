//! Serving over `/dev/fuse`: threads, of which as few as can read requests and answer them.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tracing::error;

use super::api::Core;
use super::channel::{Channel, HEAD, How, ROOM, Read};
use super::message::Message;
use super::seats::Seats;
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
    let failed = Mutex::new(None);
    let fail = |error| {
        failed.lock().get_or_insert(error);
        seats.end();
    };
    thread::scope(|scope| {
        let start = |me| -> io::Result<()> {
            let worker = Worker {
                me,
                seats: &seats,
                service,
                channel: Channel::open(&**session)?,
                shard: stats.shard(),
                spin: Spin::new(reading.spin),
            };
            let work = move || worker.run().unwrap_or_else(fail);
            thread::Builder::new().name(format!("union-{me}")).spawn_scoped(scope, work)?;
            Ok(())
        };
        (0..reading.threads).try_for_each(start).unwrap_or_else(fail);
        if let Some(rings) = rings {
            uring::start(scope, rings, service, session, stats, &fail).unwrap_or_else(fail);
        }
        seats.watch();
        if failed.lock().is_some() {
            give_up();
        }
    });
    failed.into_inner().map_or(Ok(()), Err)
}

struct Worker<'s, C> {
    me: usize,
    seats: &'s Seats,
    service: &'s Service<C>,
    channel: Channel,
    shard: Arc<Shard>,
    spin: Spin,
}

impl<C: Core> Worker<'_, C> {
    fn run(mut self) -> io::Result<()> {
        let (mut request, mut reply) = (vec![0; ROOM], vec![0; ROOM]);
        while self.seats.take(self.me) {
            loop {
                match self.next(&mut request)? {
                    Read::Request(size) => self.handle(&request[..size], &mut reply),
                    Read::Empty => continue,
                    Read::Gone => {
                        self.seats.end();
                        return Ok(());
                    }
                }
                if !self.seats.finish(self.me) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Waits for a request: looks, asks again for a moment, sleeps.
    fn next(&mut self, room: &mut [u8]) -> io::Result<Read> {
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
        if seats.alone()
            && let Some(met) = spin.until(ask)
        {
            bump(&shard.reads.spinning, 1);
            return met;
        }
        bump(&shard.reads.asleep, 1);
        channel.read(How::Blocking, room)
    }

    fn handle(&self, request: &[u8], reply: &mut [u8]) {
        self.seats.begin(self.me);
        let Some(message) = Message::joined(request) else {
            error!(size = request.len(), "a request without a head was dropped");
            return;
        };
        let opcode = message.opcode();
        if takes_long(opcode) {
            self.seats.leave(self.me);
        }
        let start = Instant::now();
        let answer = self.service.serve(&message, &mut reply[HEAD..]);
        self.shard.count(opcode, start.elapsed());
        self.channel.answer(opcode, message.header.unique, answer, reply);
    }
}

/// Requests that wait for a disk by their nature.
const fn takes_long(opcode: Opcode) -> bool {
    matches!(
        opcode,
        Opcode::FSYNC
            | Opcode::FSYNCDIR
            | Opcode::SYNCFS
            | Opcode::FALLOCATE
            | Opcode::COPY_FILE_RANGE
            | Opcode::COPY_FILE_RANGE_64
    )
}
