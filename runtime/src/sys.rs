//! The only unsafe code of the crate: system calls that neither rustix nor nix wraps.
#![allow(unsafe_code)]

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::process::Pid;

/// Which of the two processes returned from [`clone3`].
#[derive(Debug)]
pub(crate) enum Side {
    /// The new process.
    Child,
    /// The old one, with the identifier of the new one in its own PID namespace.
    Parent {
        /// The new process.
        pid: Pid,
        /// The same, as a handle that no reuse of the number can lead astray (pidfd_open(2)).
        pidfd: OwnedFd,
    },
}

/// `struct clone_args` of clone(2), up to the field `cgroup` (`CLONE_ARGS_SIZE_VER2`).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a copy of this process, in new namespaces of the kinds `namespaces` (`CLONE_NEW*`) and, on cgroup v2,
/// in the cgroup whose directory is given.
///
/// # Errors
///
/// `EBUSY` if this process has other threads: the copy would have their locks but not them.
pub(crate) fn clone3(namespaces: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Side, Errno> {
    // The link count of /proc/self/task is two and one for each thread (fs/proc/base.c, proc_task_getattr).
    if rustix::fs::stat("/proc/self/task")?.st_nlink != 3 {
        return Err(Errno::BUSY);
    }
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs {
        flags: namespaces | libc::CLONE_PIDFD as u64,
        pidfd: &raw mut pidfd as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArgs::default()
    };
    if let Some(directory) = cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP, which libc has as a negative int
        args.cgroup = u64::from(directory.as_raw_fd().unsigned_abs());
    }
    // JUSTIFICATION: no crate wraps clone3. SAFETY: without CLONE_VM the child runs on its own copy of this
    // stack, so returning twice is like fork(2); the process has one thread, so no lock is held by a thread the
    // child lacks; `args` is initialised, repr(C) and of the size passed; `pidfd` outlives the call.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    match i32::try_from(pid) {
        Ok(0) => Ok(Side::Child),
        Ok(raw) if raw > 0 => {
            let pid = Pid::from_raw(raw).ok_or(Errno::INVAL)?;
            // SAFETY: the kernel has just put a new descriptor there (CLONE_PIDFD), which nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Side::Parent { pid, pidfd })
        }
        _ => Err(last_errno()),
    }
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub(crate) set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub(crate) clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, or 0 to leave it.
    pub(crate) propagation: u64,
    /// For id-mapped mounts.
    pub(crate) userns_fd: u64,
}

/// Changes the mount that `mount` refers to, and with `recursive` all mounts below it.
pub(crate) fn mount_setattr(mount: impl AsFd, attr: &MountAttr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    let fd = mount.as_fd().as_raw_fd();
    // JUSTIFICATION: rustix has no mount_setattr. SAFETY: `fd` is open for the call; the path is a C string;
    // `attr` is initialised, repr(C), and its true size is passed; the kernel reads it and keeps no pointer.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd,
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Marks every descriptor from `first` on close-on-exec (close_range(2)), whoever left it open.
pub(crate) fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // JUSTIFICATION: rustix has no close_range. SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed now, so no
    // owner of a descriptor is wronged.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, flags) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Closes every descriptor from `first` on (close_range(2)).
///
/// Only for a process that goes on without any of the values that own them.
pub(crate) fn close_from(first: u32) -> Result<(), Errno> {
    // JUSTIFICATION: rustix has no close_range. SAFETY: the caller never drops or uses an owner of these again, since it
    // ends by exit and runs nothing but what it brings along.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Closes every descriptor from 3 on that is not close-on-exec: all of ours are, so it belongs to whoever started us, and
/// would be kept open by a process that outlives us.
pub(crate) fn close_inherited(ours: &[BorrowedFd<'_>]) -> crate::error::Result<()> {
    use crate::error::On;
    let dir = std::fs::read_dir("/proc/self/fd").on("read", "/proc/self/fd")?;
    let numbers: Vec<i32> =
        dir.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        if ours.iter().any(|fd| fd.as_raw_fd() == number) {
            continue;
        }
        // SAFETY: only its flags are asked for; a number that is no descriptor any more gives EBADF.
        let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // JUSTIFICATION: nothing in Rust owns it. SAFETY: a descriptor made by this program is close-on-exec, by
            // rustix's and std's defaults, so no owner of it is wronged.
            unsafe { libc::close(number) };
        }
    }
    Ok(())
}

/// Gives every signal its default action, as a program expects to find it after execve(2): Rust's start-up code
/// ignores SIGPIPE, and whoever started us may have ignored more.
pub(crate) fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // JUSTIFICATION: rustix leaves dispositions to libc. SAFETY: SIG_DFL runs no code of ours; the call fails
        // harmlessly for SIGKILL, SIGSTOP and the two signals glibc keeps for itself.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
