//! Room for the many descriptors of a server.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a busy server may have: the caches of the union hold 2,048.
const DESCRIPTORS: u64 = 4096;

/// Lets this process have as many open files as may be, or as are `wanted`: a union keeps directories and files open
/// while they are used. With fewer its caches are smaller, and all else is the same.
///
/// The table of descriptors is made large enough, too, which is to be done while there is one thread: later each
/// doubling of it stops the thread that opens a file for an RCU grace period, some 10 to 30 ms (`expand_fdtable` in
/// the kernel's `fs/file.c`).
pub fn raise_open_files(wanted: Option<u64>) {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let current = match (wanted, maximum) {
        (Some(wanted), Some(maximum)) => Some(wanted.min(maximum)),
        (wanted, maximum) => wanted.or(maximum),
    };
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current, maximum }) {
        tracing::debug!(%error, "the limit of open files stays");
    }
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let last = i32::try_from(limit.min(DESCRIPTORS)).unwrap_or(i32::MAX) - 1;
    if let Err(error) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), last) {
        tracing::debug!(%error, "the table of descriptors grows as it must");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `FDSize` of proc_pid_status(5).
    fn table_size() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")).unwrap();
        size.trim().parse().unwrap()
    }

    #[test]
    fn the_table_has_room_for_what_is_allowed() {
        raise_open_files(None);
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        assert!(table_size() >= limit.min(DESCRIPTORS), "{}", table_size());
    }
}
