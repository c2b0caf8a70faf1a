//! The only `unsafe` of the crate: system calls that no safe crate offers.
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

/// Makes a detached mount read-only, and reading it leave no access times (mount_setattr(2), kernel ≥ 5.12).
///
/// # Errors
///
/// `ENOSYS` on old kernels, `EPERM` without `CAP_SYS_ADMIN`.
pub(crate) fn make_mount_read_only(mount: impl AsFd) -> Result<(), Errno> {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOATIME,
        attr_clr: libc::MOUNT_ATTR__ATIME,
        propagation: 0,
        userns_fd: 0,
    };
    let (mount, flags) = (mount.as_fd().as_raw_fd(), libc::AT_EMPTY_PATH);
    // JUSTIFICATION: rustix and nix have no mount_setattr. SAFETY: the descriptor is borrowed and so open for the
    // call; `attr` is initialised and repr(C), and its true size is passed; the kernel reads it and keeps nothing.
    let ret = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount,
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
