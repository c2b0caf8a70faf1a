//! The only `unsafe` of the crate: system calls that no safe crate offers.
#![allow(unsafe_code)]

pub(crate) mod uring;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::error::Errno;

/// `FUSE_DEV_IOC_CLONE`, `_IOR(229, 0, uint32_t)`.
const FUSE_DEV_IOC_CLONE: libc::Ioctl = 0x8004_e500;

/// `FUSE_DEV_IOC_BACKING_CLOSE`, `_IOW(229, 2, uint32_t)`.
const FUSE_DEV_IOC_BACKING_CLOSE: libc::Ioctl = 0x4004_e502;

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

/// Lets all threads allocate from one arena (mallopt(3), `M_ARENA_MAX`): each further one keeps what it once had, and
/// the threads of a server allocate too little to stand in each other's way.
pub(crate) fn allocate_from_one_arena() {
    #[cfg(target_env = "gnu")]
    // JUSTIFICATION: no safe crate has it. SAFETY: it takes two numbers, and is safe to call from any thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns freed memory to the system (malloc_trim(3)); glibc keeps it otherwise.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // JUSTIFICATION: no safe crate has it. SAFETY: it takes no pointer, and is safe to call from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Starts writing a file's dirty pages and does not wait (sync_file_range(2)); their blocks are allocated by then.
///
/// # Errors
///
/// `EIO`, `ENOSPC` of the writing; `ESPIPE` for what is no file.
pub(crate) fn start_writing(file: impl AsFd) -> Result<(), Errno> {
    let fd = file.as_fd().as_raw_fd();
    // JUSTIFICATION: rustix and nix have no sync_file_range. SAFETY: the descriptor is borrowed and so open for the
    // call, which takes numbers only.
    let ret = unsafe { libc::sync_file_range(fd, 0, 0, libc::SYNC_FILE_RANGE_WRITE) };
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

/// Forgets a backing file of the connection of `device` (kernel ≥ 6.9); opens that use it keep it.
///
/// # Errors
///
/// `ENOENT` if there is none of this id, `EPERM` without `CAP_SYS_ADMIN`.
pub(crate) fn close_backing(device: impl AsFd, id: u32) -> Result<(), Errno> {
    // JUSTIFICATION: fuser closes backing ids only through its own reply objects. SAFETY: the descriptor is borrowed
    // and so open for the call; the argument points to an initialised u32, which the kernel reads and does not keep.
    let ret = unsafe { libc::ioctl(device.as_fd().as_raw_fd(), FUSE_DEV_IOC_BACKING_CLOSE, &raw const id) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Marks every descriptor but standard input, output and error to be closed in programs that are started from now on
/// (kernel ≥ 5.11; older ones keep them).
pub fn inherit_only_stdio() {
    // JUSTIFICATION: rustix and nix have no close_range(2). SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed and no
    // memory is touched: each descriptor stays what its owner in this process holds, and only exec(2) sees the mark.
    let _ = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

/// A shared, writable mapping of a file, for tests of what such mappings see and change.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct SharedMap {
    start: std::ptr::NonNull<u8>,
    len: usize,
}

#[cfg(test)]
impl SharedMap {
    /// Maps the first `len` bytes of a file that is open for reading and writing.
    pub(crate) fn new(fd: impl AsFd, len: usize) -> Result<Self, Errno> {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // JUSTIFICATION: there is no safe mapping, for another process may change the file. SAFETY: the kernel picks
        // the place, so nothing is mapped over; bytes are only copied in and out, one at a time and volatile.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, MapFlags::SHARED, fd, 0)? };
        let start = std::ptr::NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, len })
    }

    pub(crate) fn get(&self, at: usize) -> u8 {
        assert!(at < self.len);
        // JUSTIFICATION: as above. SAFETY: `at` is inside the mapping, which lives as long as `self`.
        unsafe { self.start.as_ptr().add(at).read_volatile() }
    }

    pub(crate) fn set(&self, at: usize, byte: u8) {
        assert!(at < self.len);
        // JUSTIFICATION: as above. SAFETY: `at` is inside the mapping, which is writable and lives as long as `self`.
        unsafe { self.start.as_ptr().add(at).write_volatile(byte) }
    }
}

#[cfg(test)]
impl Drop for SharedMap {
    fn drop(&mut self) {
        // JUSTIFICATION: as above. SAFETY: the mapping is this value's own and nobody has a pointer into it any more.
        unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.len) }.unwrap_or_default();
    }
}
