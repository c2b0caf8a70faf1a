//! What is asked of a mount through its root: virtual extended attributes `user.unionfs.ctl.*`.
//!
//! They need no socket and no path of their own, work wherever the mount point can be seen (in a container, in
//! another mount namespace) and for whoever may. Reading is free. Commands are the server's user's and root's, and go
//! by an ioctl(2) of the root, for no attribute can be set where the kernel has the mount read-only.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags, open};
use serde_json::json;
use tracing::{info, warn};

use super::api::Core;
use super::caches::Caches;
use super::negotiate::Features;
use super::stats::Stats;
use crate::error::{Errno, Error, Result};
use crate::sys;
use crate::union::{Outside, read_events};
use crate::users::{self, Device};

/// The names of all control attributes begin with this.
pub const PREFIX: &str = "user.unionfs.ctl.";
/// The ioctl(2) that carries a command out: its words, each ended by NUL, and NULs to the end.
pub(crate) const COMMAND: u32 = sys::COMMAND;
/// Why the last command failed.
pub const REFUSAL: &str = "user.unionfs.ctl.refusal";
/// What was negotiated with the kernel, as JSON.
pub const FEATURES: &str = "user.unionfs.ctl.features";
/// What was served, as JSON.
pub const STATS: &str = "user.unionfs.ctl.stats";

/// `FUSE_NOTIFY_INC_EPOCH` (Linux 6.16): no name that the kernel knows is believed any more.
const NOTIFY_INC_EPOCH: i32 = 8;

/// The far end of the control attributes of one mount.
#[derive(Debug)]
pub(crate) struct Control {
    features: Features,
    io: &'static str,
    stats: Stats,
    caches: Caches,
    channel: std::sync::Arc<std::os::fd::OwnedFd>,
    mountpoint: PathBuf,
    device: OnceLock<Option<Device>>,
    refusal: Mutex<String>,
}

/// Has the union mounted at `root` carry out a command: `add INDEX PATH=PERM`, `del PATH`, `mod PATH=PERM`.
///
/// # Errors
///
/// `EBUSY` if it refuses (then [`REFUSAL`] tells why), `EPERM` for who may not, `E2BIG` for words of more than 8 KiB.
pub fn send(root: &Path, words: &[&OsStr]) -> std::result::Result<(), Errno> {
    let mut text = Vec::new();
    for word in words {
        text.extend_from_slice(word.as_bytes());
        text.push(0);
    }
    let mut room = [0; sys::COMMAND_SIZE];
    room.get_mut(..text.len()).ok_or(Errno::TOOBIG)?.copy_from_slice(&text);
    let root = open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    sys::send_command(root, &room)
}

impl Control {
    pub(crate) fn new(
        features: Features,
        io: &'static str,
        stats: Stats,
        caches: Caches,
        channel: std::sync::Arc<std::os::fd::OwnedFd>,
        mountpoint: PathBuf,
    ) -> Self {
        Self {
            features,
            io,
            stats,
            caches,
            channel,
            mountpoint,
            device: OnceLock::new(),
            refusal: Mutex::default(),
        }
    }

    /// The value of a control attribute; `None` for a name that is none of this module's.
    pub(super) fn get(&self, core: &impl Core, name: &str) -> Option<Vec<u8>> {
        match name {
            REFUSAL => Some(self.refusal.lock().clone().into_bytes()),
            FEATURES => Some(self.features_json().to_string().into_bytes()),
            STATS => Some(self.stats_json(core).to_string().into_bytes()),
            _ => None,
        }
    }

    fn features_json(&self) -> serde_json::Value {
        let (major, minor) = self.features.protocol;
        let list: Vec<_> = self
            .features
            .list
            .iter()
            .map(|one| json!({"name": one.name, "live": one.live(), "offered": one.offered, "asked": one.asked, "why": one.why}))
            .collect();
        json!({"protocol": format!("{major}.{minor}"), "features": list})
    }

    fn stats_json(&self, core: &impl Core) -> serde_json::Value {
        let ops: Vec<_> = self
            .stats
            .ops()
            .iter()
            .map(|op| {
                json!({
                    "op": op.opcode.name(),
                    "count": op.count,
                    "total_us": op.total.as_micros(),
                    "p50_us": percentile(&op.histogram, 50),
                    "p99_us": percentile(&op.histogram, 99),
                })
            })
            .collect();
        let reads = self.stats.reads();
        let caches: Vec<_> = core
            .cache_stats()
            .iter()
            .map(|cache| json!({"cache": cache.name, "hits": cache.hits, "misses": cache.misses}))
            .collect();
        let uring = self.features.live("OVER_IO_URING");
        json!({
            "nodes": core.node_count(),
            "rss_kib": resident_kib(),
            "io": self.io,
            "transport": if uring { "uring" } else { "classic" },
            "caches": caches,
            "requests": {"waiting": reads.waiting, "spinning": reads.spinning, "asleep": reads.asleep},
            "ops": ops,
        })
    }

    /// Carries a command out for a caller of this user.
    pub(super) fn command(&self, core: &impl Core, uid: u32, value: &[u8]) -> Result<()> {
        if uid != 0 && uid != rustix::process::geteuid().as_raw() {
            return Err(Error::rule("command", Errno::PERM));
        }
        let text = String::from_utf8_lossy(value);
        let words: Vec<_> = text.trim_end_matches('\0').split('\0').collect();
        info!(?words, "command");
        let device = *self.device.get_or_init(|| users::device_of_mount(&self.mountpoint));
        let users = device.map(users::users).unwrap_or_default();
        match core.command(&words, &users::in_use(&users)) {
            Ok(()) => {
                self.forget_names(core);
                Ok(())
            }
            Err(refusal) => {
                *self.refusal.lock() = name_users(refusal, &users);
                Err(Error::rule("command", Errno::BUSY))
            }
        }
    }

    /// Makes the kernel ask again for every name.
    fn forget_names(&self, core: &impl Core) {
        let known = core.known();
        let epoch = super::wire::notification(NOTIFY_INC_EPOCH);
        if rustix::io::write(&*self.channel, &epoch).is_err() {
            // Before Linux 6.16: name by name, from another thread: whoever holds a directory's lock may wait for this one.
            let (caches, known) = (self.caches.clone(), known.clone());
            let forget = move || {
                for (dir, name) in known.into_iter().filter_map(|node| node.name) {
                    caches.drop_name(dir, &name);
                }
            };
            std::thread::spawn(forget);
        }
        for node in known.into_iter().filter(|node| node.dir || node.changed) {
            self.caches.drop_content(node.node);
        }
    }
}

/// Tells the kernel of changes behind the union's back, as long as the process lives, if they are looked for.
pub(crate) fn watch<C: Core>(core: std::sync::Arc<C>, caches: Caches) {
    let Some(fd) = core.watch_fd().map(std::sync::Arc::new) else { return };
    let tell = move || {
        let ended = read_events(&fd, |watch, events, name| match core.outside(watch, events, name) {
            Some(Outside::Name { dir, name }) => {
                caches.drop_name(dir, &name);
                caches.drop_content(dir);
            }
            // Attributes only: the kernel drops the pages itself when it finds that the time has changed.
            Some(Outside::Object(node)) => caches.drop_attributes(node),
            None => {}
        });
        warn!(?ended, "changes behind the union's back are no longer seen");
    };
    std::thread::spawn(tell);
}

/// The refusal, with who it is that uses the branch.
fn name_users(refusal: String, users: &[users::User]) -> String {
    if !refusal.contains("is in use") {
        return refusal;
    }
    let mut named: Vec<_> = users.iter().map(|user| format!("{} ({})", user.pid, user.comm)).collect();
    named.sort();
    named.dedup();
    named.truncate(8);
    format!("{refusal}; the mount is used by: {}", named.join(", "))
}

/// The upper bound, in microseconds, of the bucket that the given part of all falls into.
fn percentile(histogram: &[u64], percent: u64) -> u64 {
    let total: u64 = histogram.iter().sum();
    let mut left = (total * percent).div_ceil(100);
    for (bucket, count) in histogram.iter().enumerate() {
        if left <= *count {
            return 1 << bucket;
        }
        left -= count;
    }
    0
}

/// Resident memory of this process (proc_pid_statm(5)).
fn resident_kib() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64 / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_upper_bounds_of_buckets() {
        let mut histogram = [0; 24];
        (histogram[0], histogram[3], histogram[10]) = (50, 49, 1);
        assert_eq!(percentile(&histogram, 50), 1);
        assert_eq!(percentile(&histogram, 99), 8);
        assert_eq!(percentile(&histogram, 100), 1024);
        assert_eq!(percentile(&[0; 24], 50), 1);
    }
}
