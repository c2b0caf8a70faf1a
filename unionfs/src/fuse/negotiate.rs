//! The INIT handshake: what the kernel offers, what is asked for, and why.

use std::io;
use std::sync::{Arc, OnceLock};

use fuser::{InitFlags, KernelConfig};

/// The largest WRITE and READ in bytes: as much as a CPU's cache holds twice; 1 MiB, the most without the sysctl
/// `fs.fuse.max_pages_limit`, is a third slower.
pub(crate) const MAX_WRITE: u32 = 1 << 18;

/// Background requests (readahead, asynchronous I/O) at once; the kernel's default of 12 stalls parallel readers.
const MAX_BACKGROUND: u16 = 64;

/// The oldest protocol whose messages this server understands: 7.23, Linux 3.15.
const OLDEST_MINOR: u32 = 23;

/// What a mount would like, before the kernel is asked.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish {
    /// The kernel collects small writes and sends them later.
    pub(crate) writeback: bool,
    /// Access control lists (acl(5)).
    pub(crate) acl: bool,
    /// Branches change behind the union's back: content that has another time is other content.
    pub(crate) outside: bool,
    /// The kernel reads and writes files of branches itself.
    pub(crate) passthrough: bool,
    /// Requests by io_uring.
    pub(crate) uring: bool,
}

/// One thing the kernel may do for this mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// Its name in the kernel's header, without `FUSE_`.
    pub name: &'static str,
    /// The kernel has it.
    pub offered: bool,
    /// This mount wants it.
    pub asked: bool,
    /// What it is good for.
    pub why: &'static str,
}

impl Feature {
    /// Whether it is in use.
    pub const fn live(&self) -> bool {
        self.offered && self.asked
    }
}

/// What kernel and server agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// The kernel's protocol version, major and minor.
    pub protocol: (u32, u32),
    /// Every feature that this server knows, wanted or not.
    pub list: Vec<Feature>,
}

impl Features {
    /// Whether the feature `name` is in use.
    pub fn live(&self, name: &str) -> bool {
        self.list.iter().any(|feature| feature.name == name && feature.live())
    }
}

type Row = (InitFlags, &'static str, fn(&Wish) -> bool, &'static str);

const ALWAYS: fn(&Wish) -> bool = |_| true;
const NEVER: fn(&Wish) -> bool = |_| false;

#[rustfmt::skip]
const TABLE: &[Row] = &[
    (InitFlags::FUSE_ASYNC_READ, "ASYNC_READ", ALWAYS, "readahead sends several reads at once"),
    (InitFlags::FUSE_ASYNC_DIO, "ASYNC_DIO", ALWAYS, "O_DIRECT sends several requests at once"),
    (InitFlags::FUSE_BIG_WRITES, "BIG_WRITES", ALWAYS, "writes larger than a page"),
    (InitFlags::FUSE_MAX_PAGES, "MAX_PAGES", ALWAYS, "reads and writes of 256 KiB"),
    (InitFlags::FUSE_PARALLEL_DIROPS, "PARALLEL_DIROPS", ALWAYS, "lookups and listings of one directory in parallel"),
    (InitFlags::FUSE_DO_READDIRPLUS, "DO_READDIRPLUS", ALWAYS, "a listing brings attributes: ls -l without a lookup per name"),
    (InitFlags::FUSE_READDIRPLUS_AUTO, "READDIRPLUS_AUTO", NEVER, "would give attributes for the first batch only"),
    (InitFlags::FUSE_CACHE_SYMLINKS, "CACHE_SYMLINKS", ALWAYS, "a link is read once"),
    (InitFlags::FUSE_NO_OPEN_SUPPORT, "NO_OPEN_SUPPORT", ALWAYS, "open and close without a message"),
    (InitFlags::FUSE_NO_OPENDIR_SUPPORT, "NO_OPENDIR_SUPPORT", ALWAYS, "opendir and closedir without a message"),
    (InitFlags::FUSE_EXPLICIT_INVAL_DATA, "EXPLICIT_INVAL_DATA", |wish| !wish.outside, "cached data stays until we say otherwise"),
    (InitFlags::FUSE_AUTO_INVAL_DATA, "AUTO_INVAL_DATA", |wish| wish.outside, "for branches that change behind the union: asks for attributes at each listing and read"),
    (InitFlags::FUSE_HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2", ALWAYS, "no question for security.capability at each write"),
    (InitFlags::FUSE_SETXATTR_EXT, "SETXATTR_EXT", ALWAYS, "setting an ACL clears set-group-ID where it must"),
    (InitFlags::FUSE_POSIX_ACL, "POSIX_ACL", |wish| wish.acl, "access control lists"),
    (InitFlags::FUSE_DONT_MASK, "DONT_MASK", |wish| wish.acl, "a default ACL takes the place of the umask"),
    (InitFlags::FUSE_PASSTHROUGH, "PASSTHROUGH", |wish| wish.passthrough, "reads and writes of settled files go to the branch without a message"),
    (InitFlags::FUSE_ATOMIC_O_TRUNC, "ATOMIC_O_TRUNC", |wish| wish.passthrough, "a file opened to be emptied is not copied up first"),
    (InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP, "DIRECT_IO_ALLOW_MMAP", |wish| wish.passthrough, "set-user-ID files opened for writing can be mapped"),
    (InitFlags::FUSE_OVER_IO_URING, "OVER_IO_URING", |wish| wish.uring, "a message is one system call, and wakes no other CPU"),
    (InitFlags::FUSE_WRITEBACK_CACHE, "WRITEBACK_CACHE", |wish| wish.writeback, "small writes are collected in the page cache"),
];

/// Answers INIT through fuser and nothing else; fuser's request loop is never run.
#[derive(Debug)]
pub(crate) struct Negotiator {
    wish: Wish,
    agreed: Arc<OnceLock<Features>>,
}

impl Negotiator {
    /// A negotiator, and where its result will be once the handshake is over.
    pub(crate) fn new(wish: Wish) -> (Self, Arc<OnceLock<Features>>) {
        let agreed = Arc::new(OnceLock::new());
        (Self { wish, agreed: Arc::clone(&agreed) }, agreed)
    }
}

impl fuser::Filesystem for Negotiator {
    fn init(&mut self, _request: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        let version = config.kernel_abi();
        if version.0 == 7 && version.1 < OLDEST_MINOR {
            let told = format!(
                "the kernel speaks FUSE 7.{}, which is older than 7.{OLDEST_MINOR} (Linux 3.15)",
                version.1
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, told));
        }
        let offered = config.capabilities();
        let features = agree(offered, &self.wish, (version.0, version.1));
        for (bits, name, ..) in TABLE {
            if features.live(name) {
                // Only what is not offered can be refused.
                config.add_capabilities(*bits).map_err(|_| io::Error::other("capability refused"))?;
            }
        }
        // One level: branches must not be stacked filesystems to be passed through, and one may be stacked on us.
        config.set_max_stack_depth(1).map_err(|_| io::Error::other("max_stack_depth refused"))?;
        config.set_max_write(MAX_WRITE).map_err(|_| io::Error::other("max_write refused"))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|_| io::Error::other("max_background refused"))?;
        self.agreed.set(features).map_err(|_| io::Error::other("INIT came twice"))
    }
}

/// What is offered and asked for, as a list to be shown.
fn agree(offered: InitFlags, wish: &Wish, protocol: (u32, u32)) -> Features {
    let list = TABLE
        .iter()
        .map(|(bits, name, asked, why)| Feature {
            name,
            offered: offered.contains(*bits),
            asked: asked(wish),
            why,
        })
        .collect();
    Features { protocol, list }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feature_is_live_only_if_offered_and_asked() {
        let wish = Wish { acl: true, ..Wish::default() };
        let offered =
            InitFlags::FUSE_POSIX_ACL | InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_AUTO_INVAL_DATA;
        let features = agree(offered, &wish, (7, 45));
        for (case, name, want) in [
            ("offered and asked", "POSIX_ACL", true),
            ("offered, not asked", "WRITEBACK_CACHE", false),
            ("offered, never wanted", "AUTO_INVAL_DATA", false),
            ("asked, not offered", "CACHE_SYMLINKS", false),
            ("unknown", "NO_SUCH", false),
        ] {
            assert_eq!(features.live(name), want, "{case}");
        }
    }
}
