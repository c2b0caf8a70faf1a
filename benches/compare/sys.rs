//! The one place of this program with `unsafe`: reading a file through a mapping.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::ptr::null_mut;

use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Maps `file` and reads one byte of every 4 KiB; returns their sum, so that nothing can be left out.
///
/// # Errors
///
/// As mmap(2).
pub(crate) fn sum_of_pages(file: &File, len: usize) -> io::Result<u64> {
    // JUSTIFICATION: a mapping is what is measured. SAFETY: the kernel chooses the address, so nothing of ours
    // is replaced.
    let start = unsafe { mmap(null_mut(), len, ProtFlags::READ, MapFlags::SHARED, file, 0) }?;
    let first = start.cast::<u8>().cast_const();
    // SAFETY: `first` is the start of a readable mapping of `len` bytes, every offset is below `len`, and no
    // workload truncates the file meanwhile (that would be SIGBUS, which is no memory fault).
    let sum = (0..len).step_by(4096).map(|at| u64::from(unsafe { first.add(at).read_volatile() })).sum();
    // SAFETY: exactly the mapping made above, and no reference into it is left.
    unsafe { munmap(start, len) }?;
    Ok(sum)
}
