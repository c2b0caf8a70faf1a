//! Serving over io_uring (kernel ≥ 6.14, where the host has set the fuse module's `enable_uring`).
//!
//! The kernel keeps one queue of requests for each CPU and takes the reply and hands out the next request in one
//! system call. The threads of a queue are bound to its CPU: waking one crosses no CPU, and that is the gain.
//!
//! Each thread has one slot for requests and one ring. The kernel copies a request only in the context of the thread
//! that gave the slot, so a thread with several would keep requests waiting that others could serve; and it takes the
//! slot that came back last, so that one thread does all the work as long as it can. A request that takes long occupies
//! its own thread, and the next goes to another of the queue.
//!
//! Measured on 2 CPUs in a virtual machine, kernel 6.18, microseconds for a getxattr of one client: with every CPU wanted
//! by others (load 12) 6.6 to 7.5, where `/dev/fuse` takes 5.3 to 5.6, for then a message wakes nobody on another CPU
//! anyway, and a ring costs more instructions; four clients together 8.6 to 19 against 13 to 31. On a quiet machine, where
//! `/dev/fuse` takes 19 to 24 for a lookup even with a reader that spins, 12 to 13.
//!
//! FORGET and INTERRUPT come by `/dev/fuse` all the same, and everything does until all queues have slots; so that
//! is served beside the queues. Each step has that as its fallback: no `enable_uring`, no io_uring(7) in this process,
//! a kernel that does not offer it, slots that it refuses.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{Builder, Scope};
use std::time::Instant;

use rustix::thread::{CpuSet, sched_setaffinity};
use tracing::{debug, info};
use zerocopy::{FromBytes, IntoBytes};

use super::api::Core;
use super::channel::ROOM;
use super::message::Message;
use super::negotiate::MAX_WRITE;
use super::serve::{Answer, Service};
use super::stats::{Shard, Stats};
use super::wire::{InHeader, Opcode, OutHeader};
use crate::error::Errno;
use crate::sys::uring::{FuseRing, Slot};

/// Threads of a queue on a small machine, and so requests of one CPU that can be under way.
const THREADS: usize = 4;
/// Threads of all queues, from where on there are fewer for each.
const ALL_THREADS: usize = 256;
/// Payloads of requests up to this size are moved aside, so that the reply can be written in their place; larger ones
/// (of WRITE and SETXATTR) have replies that fit in here.
const ASIDE: usize = 8192;

/// Rings for every thread, each with the CPU whose requests it takes; made before INIT, for once that is answered the
/// kernel waits for all of them.
#[derive(Debug)]
pub(crate) struct Rings(Vec<(u16, FuseRing)>);

impl Rings {
    /// Rings for each CPU that there can be.
    ///
    /// # Errors
    ///
    /// Why not, in words for `unionfs features`.
    pub(crate) fn prepare() -> Result<Self, String> {
        let read = |path: &str| std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"));
        let switch = "/sys/module/fuse/parameters/enable_uring";
        if read(switch)?.trim() != "Y" {
            return Err(format!("off on this host (to switch it on: echo Y > {switch})"));
        }
        let path = "/sys/devices/system/cpu/possible";
        let cpus = count_cpus(read(path)?.trim()).ok_or_else(|| format!("{path} tells no CPUs"))?;
        let threads = (ALL_THREADS / cpus).clamp(1, THREADS);
        let queues = (0..cpus).flat_map(|cpu| std::iter::repeat_n(cpu, threads));
        let ring = |cpu| -> io::Result<_> {
            let cpu = u16::try_from(cpu).map_err(io::Error::other)?;
            Ok((cpu, FuseRing::new()?))
        };
        queues
            .map(ring)
            .collect::<io::Result<_>>()
            .map(Self)
            .map_err(|error| format!("io_uring_setup: {error}"))
    }
}

/// How many CPUs a list like `0-3,8` names.
fn count_cpus(list: &str) -> Option<usize> {
    list.split(',').try_fold(0, |sum, range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last) = (first.parse::<usize>().ok()?, last.parse::<usize>().ok()?);
        Some(sum + last.checked_sub(first)? + 1)
    })
}

/// Starts a thread for each ring; they end with the connection.
///
/// # Errors
///
/// If threads cannot be started.
pub(crate) fn start<'s, C: Core>(
    scope: &'s Scope<'s, '_>,
    rings: Rings,
    service: &'s Service<C>,
    session: &Arc<OwnedFd>,
    stats: &Stats,
    fail: &'s (dyn Fn(io::Error) + Sync),
) -> io::Result<()> {
    for (cpu, ring) in rings.0 {
        let worker = Worker { cpu, ring, service, session: Arc::clone(session), shard: stats.shard() };
        // Without one of the queues the kernel would wait for it for good.
        let work = move || worker.run().unwrap_or_else(fail);
        Builder::new().name(format!("union-cpu-{cpu}")).spawn_scoped(scope, work)?;
    }
    Ok(())
}

/// A thread that takes requests of one CPU.
struct Worker<'s, C: Core> {
    cpu: u16,
    ring: FuseRing,
    service: &'s Service<C>,
    session: Arc<OwnedFd>,
    shard: Arc<Shard>,
}

impl<C: Core> Worker<'_, C> {
    fn run(mut self) -> io::Result<()> {
        let mut set = CpuSet::new();
        set.set(self.cpu.into());
        if let Err(error) = sched_setaffinity(None, &set) {
            debug!(%error, cpu = self.cpu, "not bound to its CPU"); // a cpuset may forbid it
        }
        let mut aside = vec![0; ASIDE];
        let mut fetched = self.ring.register(&self.session, self.cpu, ROOM)?;
        loop {
            match fetched {
                Ok(mut slot) => {
                    serve(self.service, &mut slot, &mut aside, &self.shard);
                    fetched = self.ring.commit(&self.session, slot)?;
                }
                Err(Errno::NOTCONN | Errno::CONNABORTED) => return Ok(()),
                Err(errno) => {
                    info!(%errno, cpu = self.cpu, "slot refused; /dev/fuse serves instead");
                    return Ok(());
                }
            }
        }
    }
}

/// Answers the request in a slot, in the slot.
fn serve<C: Core>(service: &Service<C>, slot: &mut Slot, aside: &mut [u8], shard: &Shard) {
    let Ok((header, _)) = InHeader::read_from_prefix(slot.request_head()) else { return };
    let start = Instant::now();
    let mut op = [0; 128];
    op.copy_from_slice(slot.request_op());
    let size = slot.request_payload().len();
    let answer = if size <= ASIDE {
        aside[..size].copy_from_slice(slot.request_payload());
        service.serve(&Message::split(header, &op, &aside[..size]), slot.room())
    } else {
        let answer = service.serve(&Message::split(header, &op, slot.request_payload()), aside);
        if let Answer::Payload(len) = answer {
            slot.room()[..len].copy_from_slice(&aside[..len]);
        }
        answer
    };
    shard.count(Opcode(header.opcode), start.elapsed());
    let (errno, payload) = match answer {
        Answer::Payload(payload) => (0, u32::try_from(payload).unwrap_or(MAX_WRITE)),
        Answer::Refused(errno) => (errno.raw_os_error(), 0),
        Answer::Silent => (0, 0), // FORGET never comes this way
    };
    let len = payload.saturating_add(size_of::<OutHeader>().try_into().unwrap_or(0));
    let head = OutHeader { len, error: -errno, unique: header.unique };
    let mut bytes = [0; size_of::<OutHeader>()];
    bytes.copy_from_slice(head.as_bytes());
    slot.set_reply(&bytes, payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_of_a_list_are_counted() {
        for (list, want) in
            [("0", Some(1)), ("0-1", Some(2)), ("0-3,8", Some(5)), ("3-1", None), ("", None), ("x", None)]
        {
            assert_eq!(count_cpus(list), want, "{list:?}");
        }
    }
}
