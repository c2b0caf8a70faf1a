//! The only `unsafe` of the crate: system calls that no safe crate offers.
#![allow(unsafe_code)]

pub(crate) mod uring;

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::error::Errno;
use crate::types::FsXattr;

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

/// Makes the allocator one for a server (mallopt(3)): all threads share one arena (`M_ARENA_MAX`), for each further one
/// keeps what it once had, and threads of a server allocate too little to stand in each other's way; and buffers of a
/// message have mappings of their own (`M_MMAP_THRESHOLD`), of which only what was touched takes memory.
pub(crate) fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    // JUSTIFICATION: no safe crate has it. SAFETY: it takes two numbers, and is safe to call from any thread.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 18);
    }
}

/// Gives back the memory that holds code and constants (madvise(2), `MADV_DONTNEED`): to start takes much that serving
/// never uses. What is used comes back from the page cache.
pub(crate) fn give_code_back() {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    for (start, len) in maps.lines().filter_map(unwritten) {
        // JUSTIFICATION: madvise has no safe form. SAFETY: nothing was ever written to the mapping (there are no text
        // relocations), so each of its pages is the file's, and is again when it is next touched.
        unsafe { libc::madvise(std::ptr::with_exposed_provenance_mut(start), len, libc::MADV_DONTNEED) };
    }
}

/// Start and length of the mapping that a line of /proc/PID/maps tells of (proc_pid_maps(5)), if it is a file's code, or
/// the read-only segment that a program or library begins with. Other read-only ones may have been relocated.
fn unwritten(line: &str) -> Option<(usize, usize)> {
    let words: Vec<_> = line.split_whitespace().collect();
    let [range, access, offset, _, _, path, ..] = words[..] else { return None };
    let constant = access == "r-xp" || (access == "r--p" && offset.bytes().all(|digit| digit == b'0'));
    let (start, end) = range.split_once('-')?;
    let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
    (constant && path.starts_with('/')).then_some((start, end - start))
}

/// Returns freed memory to the system (malloc_trim(3)); glibc keeps it otherwise.
pub(crate) fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // JUSTIFICATION: no safe crate has it. SAFETY: it takes no pointer, and is safe to call from any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Whether nobody else has a regular file open: only then can it be leased for writing (fcntl(2), `F_SETLEASE`). The
/// lease goes with the descriptor.
pub(crate) fn is_unshared(file: impl AsFd) -> bool {
    let fd = file.as_fd().as_raw_fd();
    // JUSTIFICATION: rustix and nix have no F_SETLEASE. SAFETY: the descriptor is borrowed and so open for the call,
    // which takes two numbers.
    unsafe { libc::fcntl(fd, libc::F_SETLEASE, libc::F_WRLCK) == 0 }
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

/// `FS_IOC_FSGETXATTR`, `_IOR('X', 31, struct fsxattr)`.
const FS_IOC_FSGETXATTR: libc::Ioctl = 0x801c_581f;
/// `FS_IOC_FSSETXATTR`, `_IOW('X', 32, struct fsxattr)`.
const FS_IOC_FSSETXATTR: libc::Ioctl = 0x401c_5820;

/// The `struct fsxattr` of an open file or directory (ioctl_xfs_fsgetxattr(2)).
///
/// # Errors
///
/// `ENOTTY` or `EOPNOTSUPP` where the filesystem has none.
pub(crate) fn fsxattr(file: impl AsFd) -> Result<FsXattr, Errno> {
    let mut attr = FsXattr::default();
    // JUSTIFICATION: rustix and nix have no safe form of this ioctl. SAFETY: the descriptor is borrowed and so open for
    // the call; the kernel copies the size of `struct fsxattr` into the argument, which has it, and keeps nothing.
    let ret = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSGETXATTR, attr.as_mut_ptr()) };
    if ret == 0 { Ok(attr) } else { Err(last_errno()) }
}

/// Sets the `struct fsxattr` of an open file or directory.
///
/// # Errors
///
/// As [`fsxattr`], and `EPERM`, `EINVAL` for what may not be set.
pub(crate) fn set_fsxattr(file: impl AsFd, attr: &FsXattr) -> Result<(), Errno> {
    // JUSTIFICATION: as above. SAFETY: the descriptor is borrowed and so open for the call; the kernel copies the size
    // of `struct fsxattr` from the argument, which has it, and keeps nothing.
    let ret = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), FS_IOC_FSSETXATTR, attr.as_ptr()) };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Bytes of a command to a mounted union.
pub(crate) const COMMAND_SIZE: usize = 8192;
/// `_IOW('U', 1, char[COMMAND_SIZE])`: ours, and none of Linux's (ioctl-number.rst).
pub(crate) const COMMAND: u32 = 0x6000_5501;

/// Sends a command to the union whose root this is.
///
/// # Errors
///
/// `ENOTTY` if it is no root of a union; else what the server says.
pub(crate) fn send_command(root: impl AsFd, command: &[u8; COMMAND_SIZE]) -> Result<(), Errno> {
    // JUSTIFICATION: it is no command that a library could know. SAFETY: the descriptor is borrowed and so open for the
    // call; the kernel copies the size that the command's number has from the argument, which has it, and keeps nothing.
    let ret = unsafe { libc::ioctl(root.as_fd().as_raw_fd(), COMMAND as libc::Ioctl, command.as_ptr()) };
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

/// Makes a thread one that runs where nobody else wants to (`SCHED_IDLE`, sched(7)), or again one as any other.
///
/// # Errors
///
/// `EPERM` for the way back without `CAP_SYS_NICE`.
pub(crate) fn set_idle(thread: rustix::thread::Pid, idle: bool) -> Result<(), Errno> {
    let policy = if idle { libc::SCHED_IDLE } else { libc::SCHED_OTHER };
    let priority: libc::c_int = 0; // struct sched_param
    // JUSTIFICATION: rustix and nix have no sched_setscheduler(2), and musl's does nothing. SAFETY: the last argument
    // points to an initialised `struct sched_param`, one int, which the kernel reads and does not keep.
    let ret = unsafe {
        libc::syscall(libc::SYS_sched_setscheduler, thread.as_raw_pid(), policy, &raw const priority)
    };
    if ret == 0 { Ok(()) } else { Err(last_errno()) }
}

/// Gives the calling thread's I/O the class that it has by default, unless it has one of its own (ioprio_set(2)): the
/// default would be the lowest while the thread is `SCHED_IDLE`.
///
/// # Errors
///
/// `ENOSYS` of a kernel without block devices.
pub(crate) fn keep_io_class() -> Result<(), Errno> {
    const WHO_PROCESS: libc::c_int = 1; // IOPRIO_WHO_PROCESS, linux/ioprio.h
    const CLASS_SHIFT: libc::c_int = 13;
    const BEST_EFFORT: libc::c_int = 2 << CLASS_SHIFT | 4;
    // JUSTIFICATION: rustix and nix have neither call. SAFETY: they take numbers only.
    let ret = unsafe {
        let own = libc::syscall(libc::SYS_ioprio_get, WHO_PROCESS, 0);
        if own >> CLASS_SHIFT == 0 {
            libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, BEST_EFFORT)
        } else {
            own
        }
    };
    if ret >= 0 { Ok(()) } else { Err(last_errno()) }
}

/// `struct xattr_args` of linux/xattr.h.
#[repr(C)]
struct XattrArgs {
    value: u64,
    size: u32,
    flags: u32,
}

/// `SYS_getxattrat` and `SYS_listxattrat`: the same numbers on every machine.
const GETXATTRAT: libc::c_long = 464;
const LISTXATTRAT: libc::c_long = 465;

/// Whether extended attributes can be reached by a directory and a name (kernel ≥ 6.13, and no filter of system calls
/// against it).
pub(crate) fn has_xattrat() -> bool {
    static HAS: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    *HAS.get_or_init(|| {
        let told = getxattrat(rustix::fs::CWD, c"/", c"user.unionfs.probe", &mut []);
        matches!(told, Ok(_) | Err(Errno::NODATA | Errno::OPNOTSUPP))
    })
}

/// Reads an attribute of what `name` in `dir` is, links not followed; an empty `value` asks for the size.
///
/// # Errors
///
/// As of getxattr(2), and `ENOSYS` unless [`has_xattrat`].
pub(crate) fn getxattrat(
    dir: impl AsFd,
    name: &CStr,
    attribute: &CStr,
    value: &mut [u8],
) -> Result<usize, Errno> {
    let size = u32::try_from(value.len()).unwrap_or(u32::MAX);
    let args = XattrArgs { value: value.as_mut_ptr().expose_provenance() as u64, size, flags: 0 };
    // JUSTIFICATION: no safe crate has it. SAFETY: the descriptor and both strings are borrowed and so good for the
    // call; `args` is initialised and repr(C), its true size is passed, and it names `value`, borrowed for writing,
    // and no more bytes than that has. The kernel keeps nothing.
    let ret = unsafe {
        libc::syscall(
            GETXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            attribute.as_ptr(),
            &raw const args,
            size_of::<XattrArgs>(),
        )
    };
    usize::try_from(ret).map_err(|_| last_errno())
}

/// Lists the attributes of what `name` in `dir` is, links not followed; each name is ended by NUL.
///
/// # Errors
///
/// As of listxattr(2), and `ENOSYS` unless [`has_xattrat`].
pub(crate) fn listxattrat(dir: impl AsFd, name: &CStr, list: &mut [u8]) -> Result<usize, Errno> {
    // JUSTIFICATION: no safe crate has it. SAFETY: the descriptor and the string are borrowed and so good for the call;
    // `list` is borrowed for writing, and its true length is passed.
    let ret = unsafe {
        libc::syscall(
            LISTXATTRAT,
            dir.as_fd().as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_NOFOLLOW,
            list.as_mut_ptr(),
            list.len(),
        )
    };
    usize::try_from(ret).map_err(|_| last_errno())
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_never_written_is_given_back() {
        for (case, line, want) in [
            ("code", "1000-3000 r-xp 00005000 fe:00 12   /usr/bin/x", Some((0x1000, 0x2000))),
            ("constants", "1000-2000 r--p 00000000 fe:00 12   /usr/bin/x y", Some((0x1000, 0x1000))),
            ("relocated", "1000-2000 r--p 00008000 fe:00 12   /usr/bin/x", None),
            ("data", "1000-2000 rw-p 00000000 fe:00 12   /usr/bin/x", None),
            ("the kernel's", "1000-2000 r-xp 00000000 00:00 0   [vdso]", None),
            ("no file's", "1000-2000 r-xp 00000000 00:00 0", None),
        ] {
            assert_eq!(unwritten(line), want, "{case}");
        }
    }
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
