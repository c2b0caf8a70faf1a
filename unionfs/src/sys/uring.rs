//! A ring of io_uring(7) that the kernel sends FUSE requests through, one at a time, and the memory it writes them to.
//!
//! The kernel copies a request into the [`Slot`] while that belongs to the ring, and reads the reply out of it once it
//! is given back. So a slot is either somebody's value or the ring's; nobody can touch it meanwhile, and it cannot be
//! freed: a ring that is dropped while the kernel has its slot leaks it.
//!
//! The kernel copies in the context of the thread that gave the slot, when that enters the kernel next
//! (`COOP_TASKRUN`), which it does to wait for the copy. Not only then (`DEFER_TASKRUN`): if the thread is killed
//! instead, the request would stay with it, unanswered, until the ring is closed, which its own client may prevent.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use io_uring::squeue::Entry128;
use io_uring::{IoUring, cqueue, opcode, types};

use crate::error::Errno;

/// Bytes of a slot's head: room for the request's or reply's own head, for its fixed structure, and for what both
/// sides say of the slot (`struct fuse_uring_req_header`).
const HEAD: usize = 288;
/// Where the fixed structure stands in it.
const OP: usize = 128;
/// Where the slot is described: flags, the number to commit by, the size of the payload.
const SLOT: usize = 256;

/// `FUSE_IO_URING_CMD_REGISTER`: here is a slot, send me a request.
const REGISTER: u32 = 1;
/// `FUSE_IO_URING_CMD_COMMIT_AND_FETCH`: here is a reply, send me the next request.
const COMMIT_AND_FETCH: u32 = 2;

/// Memory for one request and its reply.
#[derive(Debug)]
pub(crate) struct Slot {
    queue: u16,
    head: Box<[u8; HEAD]>,
    payload: Box<[u8]>,
    /// Two of `struct iovec`, for the head and the payload, while the slot is registered.
    segments: Box<[usize; 4]>,
}

impl Slot {
    /// The head of the request, as the first structure of `/dev/fuse` is.
    pub(crate) fn request_head(&self) -> &[u8] {
        &self.head[..OP]
    }

    /// The fixed structure of the request, and rubbish behind it.
    pub(crate) fn request_op(&self) -> &[u8] {
        &self.head[OP..SLOT]
    }

    /// What follows the fixed structure.
    pub(crate) fn request_payload(&self) -> &[u8] {
        let size = u32::from_ne_bytes(self.word(SLOT + 16));
        &self.payload[..usize::try_from(size).unwrap_or(usize::MAX).min(self.payload.len())]
    }

    /// The room for the reply's payload, which is where the request's stands.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        &mut self.payload
    }

    /// Writes the head of a reply with `payload` bytes of payload.
    pub(crate) fn set_reply(&mut self, head: &[u8; 16], payload: u32) {
        self.head[..head.len()].copy_from_slice(head);
        self.head[SLOT + 16..SLOT + 20].copy_from_slice(&payload.to_ne_bytes());
    }

    fn commit_id(&self) -> u64 {
        u64::from_ne_bytes(self.word(SLOT + 8))
    }

    fn word<const N: usize>(&self, at: usize) -> [u8; N] {
        std::array::from_fn(|i| self.head[at + i])
    }
}

/// What the ring gave back: a slot with a request in it, or why the kernel does not want the slot any more.
pub(crate) type Fetched = Result<Slot, Errno>;

/// A ring for one slot.
pub(crate) struct FuseRing {
    ring: IoUring<Entry128, cqueue::Entry>,
    /// The slot, while it is in the kernel's hands.
    held: Option<Slot>,
}

impl std::fmt::Debug for FuseRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FuseRing").field("held", &self.held.is_some()).finish_non_exhaustive()
    }
}

impl FuseRing {
    /// A ring to be used by the thread that will call [`FuseRing::register`].
    ///
    /// # Errors
    ///
    /// `ENOSYS`, `EPERM` where io_uring is not to be had (sysctl `kernel.io_uring_disabled`, seccomp), `ENOMEM`.
    pub(crate) fn new() -> io::Result<Self> {
        let mut builder = IoUring::builder();
        let ring = builder.setup_r_disabled().setup_single_issuer().setup_coop_taskrun().build(1)?;
        Ok(Self { ring, held: None })
    }

    /// Gives the kernel a new slot for requests of the CPU `queue` on the connection of `device`, with room for
    /// `payload` bytes, and waits for the first.
    ///
    /// # Errors
    ///
    /// What io_uring_register(2) and io_uring_enter(2) say.
    pub(crate) fn register(&mut self, device: &OwnedFd, queue: u16, payload: usize) -> io::Result<Fetched> {
        self.ring.submitter().register_enable_rings()?;
        let mut slot = Slot {
            queue,
            head: Box::new([0; HEAD]),
            payload: vec![0; payload].into_boxed_slice(),
            segments: Box::new([0; 4]),
        };
        *slot.segments = [
            slot.head.as_mut_ptr().expose_provenance(),
            HEAD,
            slot.payload.as_mut_ptr().expose_provenance(),
            payload,
        ];
        let segments = slot.segments.as_ptr().expose_provenance() as u64;
        self.fetch(device, REGISTER, Some(segments), slot)
    }

    /// Gives the slot back with a reply in it, and waits for the next request.
    ///
    /// # Errors
    ///
    /// What io_uring_enter(2) says.
    pub(crate) fn commit(&mut self, device: &OwnedFd, slot: Slot) -> io::Result<Fetched> {
        self.fetch(device, COMMIT_AND_FETCH, None, slot)
    }

    fn fetch(
        &mut self,
        device: &OwnedFd,
        command: u32,
        segments: Option<u64>,
        slot: Slot,
    ) -> io::Result<Fetched> {
        // `struct fuse_uring_cmd_req`: flags, the number to commit by, the queue.
        let mut request = [0; 80];
        request[8..16].copy_from_slice(&slot.commit_id().to_ne_bytes());
        request[16..18].copy_from_slice(&slot.queue.to_ne_bytes());
        let fd = types::Fd(device.as_raw_fd());
        let mut entry = opcode::UringCmd80::new(fd, command).cmd(request).addr(segments).build();
        if segments.is_some() {
            set_len(&mut entry, 2);
        }
        self.held = Some(slot);
        // JUSTIFICATION: the crate has no safe way to submit. SAFETY: what the entry points to (the slot's head, payload
        // and segments) is on the heap, and `held` keeps it untouched until the completion comes; a ring that is dropped
        // before that leaks it. The descriptor is open for the call, and the kernel takes its own reference in it.
        unsafe { self.ring.submission().push(&entry) }.map_err(|_| io::ErrorKind::QuotaExceeded)?;
        loop {
            match self.ring.submit_and_wait(1) {
                Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            let done = self.ring.completion().next().map(|done| done.result());
            if let (Some(result), Some(slot)) = (done, self.held.take_if(|_| done.is_some())) {
                return Ok(if result < 0 { Err(Errno::from_raw_os_error(-result)) } else { Ok(slot) });
            }
        }
    }
}

impl Drop for FuseRing {
    fn drop(&mut self) {
        // The kernel may still write to it.
        std::mem::forget(self.held.take());
    }
}

/// Sets the number of segments that `addr` points to, which the crate's builder for commands leaves out.
fn set_len(entry: &mut Entry128, len: u32) {
    /// Where `len` is in `struct io_uring_sqe`.
    const LEN: usize = 24;
    const { assert!(size_of::<Entry128>() == 128) };
    let bytes = std::ptr::from_mut(entry).cast::<u8>();
    // JUSTIFICATION: the field is private and has no setter. SAFETY: the entry is borrowed exclusively, is the kernel's
    // 128-byte structure (`repr(C)`, size checked above), and any 32 bits are a valid `len`.
    unsafe { bytes.add(LEN).cast::<u32>().write_unaligned(len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_that_is_not_wanted_is_refused() {
        let Ok(mut ring) = FuseRing::new() else {
            eprintln!("SKIP: no io_uring here");
            return;
        };
        let flags = rustix::fs::OFlags::RDWR;
        let other = rustix::fs::open("/dev/full", flags, rustix::fs::Mode::empty()).unwrap();
        assert!(ring.register(&other, 0, 4096).unwrap().is_err());
        assert!(ring.held.is_none());
    }
}
