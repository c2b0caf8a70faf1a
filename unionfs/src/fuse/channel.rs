//! One thread's way to the kernel: read(2) of `/dev/fuse` for requests, write(2) for replies.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use tracing::{error, warn};
use zerocopy::IntoBytes;

use super::negotiate::MAX_WRITE;
use super::serve::Answer;
use super::wire::{Opcode, OutHeader};
use crate::error::Errno;
use crate::sys;

/// Room for the largest payload (`MAX_WRITE`) and any head before it; touched only as far as it is used.
pub(super) const ROOM: usize = MAX_WRITE as usize + 4096;

/// The size of a reply's head.
pub(super) const HEAD: usize = size_of::<OutHeader>();

/// What a try to read a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// A request of so many bytes.
    Request(usize),
    /// There is none just now.
    Empty,
    /// The filesystem is unmounted or the connection aborted.
    Gone,
}

/// How to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    /// Return at once if there is no request.
    Eager,
    /// Sleep until there is one.
    Blocking,
}

/// A thread's own two channels of the connection. `O_NONBLOCK` belongs to an open file, so each way to read needs
/// one; and a reply must take the channel that its request came by.
#[derive(Debug)]
pub(super) struct Channel {
    eager: OwnedFd,
    blocking: OwnedFd,
    last: How,
}

impl Channel {
    /// Two channels of the connection behind `session`.
    ///
    /// # Errors
    ///
    /// If `/dev/fuse` cannot be opened (descriptors run out) or the connection is gone.
    pub(super) fn open(session: impl AsFd) -> io::Result<Self> {
        let open = |flags| -> io::Result<OwnedFd> {
            let fresh = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty())?;
            sys::clone_fuse_channel(&fresh, session.as_fd())?;
            Ok(fresh)
        };
        Ok(Self { eager: open(OFlags::NONBLOCK)?, blocking: open(OFlags::empty())?, last: How::Eager })
    }

    /// Reads one request.
    ///
    /// # Errors
    ///
    /// What read(2) fails with, except for what [`Read`] tells.
    pub(super) fn read(&mut self, how: How, room: &mut [u8]) -> io::Result<Read> {
        self.last = how;
        loop {
            return match rustix::io::read(self.current(), &mut *room) {
                Ok(size) => Ok(Read::Request(size)),
                // A signal, or the request was withdrawn before it could be copied out.
                Err(Errno::INTR | Errno::NOENT) => continue,
                Err(Errno::AGAIN) => Ok(Read::Empty),
                Err(Errno::NODEV | Errno::CONNABORTED) => Ok(Read::Gone),
                Err(errno) => Err(errno.into()),
            };
        }
    }

    fn current(&self) -> &OwnedFd {
        match self.last {
            How::Eager => &self.eager,
            How::Blocking => &self.blocking,
        }
    }

    /// Answers the request `unique`; the payload stands in `reply` behind the room for the head.
    pub(super) fn answer(&self, opcode: Opcode, unique: u64, answer: Answer, reply: &mut [u8]) {
        let (errno, payload) = match answer {
            Answer::Payload(payload) => (0, payload),
            Answer::Refused(errno) => (errno.raw_os_error(), 0),
            Answer::Silent => return,
        };
        if let Err(refused) = self.send(unique, errno, payload, reply) {
            // The kernel found the reply malformed. An error has no payload, and the caller must not wait for good.
            error!(op = opcode.name(), %refused, payload, "reply refused; answered EIO");
            if let Err(refused) = self.send(unique, libc::EIO, 0, reply) {
                warn!(%refused, "EIO refused too");
            }
        }
    }

    fn send(&self, unique: u64, errno: i32, payload: usize, reply: &mut [u8]) -> Result<(), Errno> {
        let len = HEAD + payload;
        let told = u32::try_from(len).map_err(|_| Errno::INVAL)?;
        let head = OutHeader { len: told, error: -errno, unique };
        reply[..HEAD].copy_from_slice(head.as_bytes());
        loop {
            return match rustix::io::write(self.current(), &reply[..len]) {
                Err(Errno::INTR) => continue,
                // The caller was killed or the connection aborted: nobody waits any more.
                Ok(_) | Err(Errno::NOENT | Errno::NODEV | Errno::CONNABORTED) => Ok(()),
                Err(refused) => Err(refused),
            };
        }
    }
}
