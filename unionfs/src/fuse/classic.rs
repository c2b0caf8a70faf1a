//! Requests by read(2) of `/dev/fuse`, replies by write(2).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;

use rustix::fs::{Mode, OFlags};
use tracing::{error, warn};
use zerocopy::IntoBytes;

use super::api::Core;
use super::message::Message;
use super::negotiate::MAX_WRITE;
use super::serve::{Answer, Service};
use super::wire::OutHeader;
use crate::error::Errno;
use crate::sys;

/// Room for the largest payload (`MAX_WRITE`) and any head before it; touched only as far as it is used.
const ROOM: usize = MAX_WRITE as usize + 4096;

/// The size of a reply's head.
const HEAD: usize = size_of::<OutHeader>();

/// Threads that read requests and answer them until the filesystem is unmounted.
#[derive(Debug)]
pub(crate) struct Classic<C> {
    service: Arc<Service<C>>,
    session: Arc<OwnedFd>,
    threads: usize,
}

impl<C: Core> Classic<C> {
    /// Threads on the connection behind `session`.
    pub(crate) const fn new(service: Arc<Service<C>>, session: Arc<OwnedFd>, threads: usize) -> Self {
        Self { service, session, threads }
    }

    /// Serves until the filesystem is unmounted or the connection aborted.
    ///
    /// # Errors
    ///
    /// What a thread could not be started for, or read(2) of `/dev/fuse` failed with.
    pub(crate) fn run(self) -> io::Result<()> {
        let mut workers = Vec::with_capacity(self.threads);
        for index in 0..self.threads {
            let worker = Worker::new(&self, index)?;
            let thread = thread::Builder::new().name(format!("union-{index}")).spawn(move || worker.run())?;
            workers.push(thread);
        }
        drop(self.session);
        let mut outcome = Ok(());
        for worker in workers {
            let one = worker.join().unwrap_or_else(|_| Err(io::Error::other("a worker thread panicked")));
            outcome = outcome.and(one);
        }
        outcome
    }
}

struct Worker<C> {
    service: Arc<Service<C>>,
    channel: OwnedFd,
    request: Vec<u8>,
    reply: Vec<u8>,
}

impl<C: Core> Worker<C> {
    fn new(classic: &Classic<C>, index: usize) -> io::Result<Self> {
        // The first thread keeps the channel that INIT came by; the others have their own, and so their own locks.
        let channel = match index {
            0 => classic.session.try_clone()?,
            _ => open_channel(&*classic.session)?,
        };
        let service = Arc::clone(&classic.service);
        Ok(Self { service, channel, request: vec![0; ROOM], reply: vec![0; ROOM] })
    }

    fn run(mut self) -> io::Result<()> {
        loop {
            match rustix::io::read(&self.channel, &mut self.request[..]) {
                Ok(size) => self.handle(size),
                // Interrupted, or the request was withdrawn before it could be copied out.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(Errno::NODEV | Errno::CONNABORTED) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn handle(&mut self, size: usize) {
        let Self { service, channel, request, reply } = self;
        let Some(message) = Message::joined(&request[..size]) else {
            error!(size, "a request without a head was dropped");
            return;
        };
        let unique = message.header.unique;
        let (errno, payload) = match service.serve(&message, &mut reply[HEAD..]) {
            Answer::Payload(payload) => (0, payload),
            Answer::Refused(errno) => (errno.raw_os_error(), 0),
            Answer::Silent => return,
        };
        if let Err(refused) = send(channel, reply, unique, errno, payload) {
            // The kernel found the reply malformed. An error has no payload, and the caller must not wait for good.
            error!(op = message.opcode().name(), %refused, payload, "reply refused; answered EIO");
            if let Err(refused) = send(channel, reply, unique, libc::EIO, 0) {
                warn!(%refused, "EIO refused too");
            }
        }
    }
}

/// Sends the reply to `unique`, whose payload stands in `reply` behind the room for the head.
fn send(channel: &OwnedFd, reply: &mut [u8], unique: u64, errno: i32, payload: usize) -> Result<(), Errno> {
    let len = HEAD + payload;
    let head = OutHeader { len: u32::try_from(len).map_err(|_| Errno::INVAL)?, error: -errno, unique };
    reply[..HEAD].copy_from_slice(head.as_bytes());
    loop {
        return match rustix::io::write(channel, &reply[..len]) {
            Err(Errno::INTR) => continue,
            // The caller was killed or the connection aborted: nobody waits any more.
            Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => Ok(()),
            Err(refused) => Err(refused),
        };
    }
}

/// Opens another channel of the connection behind `session`.
pub(super) fn open_channel(session: impl AsFd) -> io::Result<OwnedFd> {
    let fresh = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    sys::clone_fuse_channel(&fresh, session.as_fd())?;
    Ok(fresh)
}
