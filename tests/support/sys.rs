//! The few system calls that no safe package wraps: mappings, and a child that shares nothing but files.
#![allow(unsafe_code, reason = "mmap(2) and fork(2)")]

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};

use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::WaitStatus;
use rustix::mm::{MapFlags, MsyncFlags, ProtFlags, mmap, msync, munmap};
use rustix::process::{Pid, WaitOptions, waitpid};

/// A mapping of a whole number of a file's first bytes.
pub(crate) struct Mapping {
    start: *mut u8,
    len: usize,
}

impl Mapping {
    /// Maps the first `len` bytes for reading, and for writing if asked.
    pub(crate) fn new(file: &File, len: usize, flags: MapFlags, writable: bool) -> rustix::io::Result<Self> {
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // JUSTIFICATION: mappings are what is tested. SAFETY: no address is asked for, so nothing is mapped over; the
        // mapping outlives its descriptor and is only touched through volatile accesses within `len`.
        let start = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, file, 0) }?;
        Ok(Self { start: start.cast(), len })
    }

    /// Where it begins.
    pub(crate) fn address(&self) -> usize {
        self.start.addr()
    }

    /// The bytes as they are now.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        // SAFETY: every address is inside the mapping, which lives as long as self.
        (0..self.len).map(|at| unsafe { self.start.add(at).read_volatile() }).collect()
    }

    /// Stores bytes.
    pub(crate) fn store(&mut self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len, "outside of the mapping");
        for (offset, byte) in bytes.iter().enumerate() {
            // SAFETY: the address is inside the mapping, which the caller asked to be writable.
            unsafe { self.start.add(at + offset).write_volatile(*byte) };
        }
    }

    /// Writes changes to the file (msync(2) with `MS_SYNC`).
    pub(crate) fn sync(&self) -> rustix::io::Result<()> {
        // SAFETY: the range is the mapping's own.
        unsafe { msync(self.start.cast(), self.len, MsyncFlags::SYNC) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the mapping's own, and nothing refers to it any more.
        unsafe { munmap(self.start.cast(), self.len) }.expect("munmap of our own mapping");
    }
}

/// A process of its own, for what belongs to processes: POSIX locks, concurrent writers.
pub(crate) struct Process(Pid);

impl Process {
    /// Runs `work` in a child; whether it returned or panicked is what [`Process::join`] tells.
    pub(crate) fn spawn(work: impl FnOnce()) -> Self {
        // JUSTIFICATION: a closure in another process, with the descriptors it has here, is what spawning a program cannot
        // give. SAFETY: glibc keeps its allocator usable in a forked child of threads, the other threads of a test wait
        // without locks that `work` takes, and the child leaves by _exit without unwinding into the parent's stack.
        match unsafe { libc::fork() } {
            -1 => panic!("fork: {}", std::io::Error::last_os_error()),
            0 => {
                let done = catch_unwind(AssertUnwindSafe(work)).is_ok();
                // SAFETY: _exit takes any status and does not return.
                unsafe { libc::_exit(i32::from(!done)) }
            }
            pid => Self(Pid::from_raw(pid).expect("a child's pid is positive")),
        }
    }

    /// Waits for its end; panics if it did.
    pub(crate) fn join(self) {
        let (_, status) =
            waitpid(Some(self.0), WaitOptions::empty()).expect("waitpid").expect("it has ended");
        assert_eq!(status.exit_status(), Some(0), "the child failed: {status:?}");
    }
}

/// Runs `work` in a process of its own that is killed as it enters its `nth` system call. Whether it had ended before.
pub(crate) fn killed_at(nth: usize, work: impl FnOnce()) -> bool {
    let child = Process::spawn(|| {
        ptrace::traceme().expect("PTRACE_TRACEME");
        raise(Signal::SIGSTOP).expect("raise");
        work();
    });
    let pid = nix::unistd::Pid::from_raw(child.0.as_raw_nonzero().get());
    let wait = || nix::sys::wait::waitpid(pid, None).expect("waitpid");
    assert_eq!(wait(), WaitStatus::Stopped(pid, Signal::SIGSTOP));
    let options = ptrace::Options::PTRACE_O_TRACESYSGOOD | ptrace::Options::PTRACE_O_EXITKILL;
    ptrace::setoptions(pid, options).expect("PTRACE_SETOPTIONS");
    // Each call stops the child twice: as it is entered, and as it returns.
    for _ in 0..=2 * nth {
        ptrace::syscall(pid, None).expect("PTRACE_SYSCALL");
        match wait() {
            WaitStatus::PtraceSyscall(_) => {}
            WaitStatus::Exited(_, 0) => return true,
            other => panic!("the child that was to be killed: {other:?}"),
        }
    }
    kill(pid, Signal::SIGKILL).expect("kill");
    assert_eq!(wait(), WaitStatus::Signaled(pid, Signal::SIGKILL, false));
    false
}
