//! The only `unsafe` of the crate: the ioctl(2)s of `/dev/fuse` that no safe crate offers.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::error::Errno;

/// `FUSE_DEV_IOC_CLONE`, `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500;

/// Makes `fresh`, a newly opened `/dev/fuse`, another channel of the connection behind `session` (kernel ≥ 4.2).
///
/// A reply must be written to the channel that its request was read from.
///
/// # Errors
///
/// `EINVAL` where `session` is no FUSE connection or `fresh` already has one; `ENOTTY` on old kernels.
pub(crate) fn clone_fuse_channel(fresh: impl AsFd, session: BorrowedFd<'_>) -> Result<(), Errno> {
    let fresh = fresh.as_fd();
    let Ok(raw) = u32::try_from(session.as_raw_fd()) else {
        return Err(Errno::BADF);
    };
    // JUSTIFICATION: rustix and nix have no safe form of this ioctl. SAFETY: both descriptors are borrowed and so
    // open for the call; the argument points to an initialised u32, which the kernel reads and does not keep.
    let ret = unsafe { libc::ioctl(fresh.as_raw_fd(), FUSE_DEV_IOC_CLONE, &raw const raw) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
