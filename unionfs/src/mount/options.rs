//! How and where a union is to be mounted.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use super::error::MountError;
use super::{Server, attach};
use crate::error::Errno;
use crate::fuse::control::Control;
use crate::fuse::{
    Caches, Core, Dialect, Features, Lower, Negotiator, Opens, Policy, Reading, Rings, Service, Stats,
    Timeout, Wish,
};

/// Who may use the mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Whoever mounted it, and nobody else, not even root.
    #[default]
    Owner,
    /// Everyone, as far as modes and ACLs allow (`allow_other`).
    Everyone,
}

/// How the data of files is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoMode {
    /// What suits the mount best.
    #[default]
    Auto,
    /// Open and close send no message, reads and writes do; one page cache for each file, also across copy-up.
    Stateless,
    /// Open sends a message; files that will not move any more (those of the writable branch, or all if there is none)
    /// are then read, written and mapped without any, and share the branch's page cache. Needs kernel 6.9 and
    /// `CAP_SYS_ADMIN` in the first user namespace; without them it is the same as stateless.
    Passthrough,
    /// Large files of lower branches are passed through as well, of a union that is written too. Who has one open or
    /// mapped when it is copied up keeps the old content, as with kernel overlay's mappings; who opens it later has
    /// the new.
    PassthroughAll,
}

impl IoMode {
    /// Whether the kernel is to read and write files of branches itself.
    pub const fn passes_through(self) -> bool {
        matches!(self, Self::Passthrough | Self::PassthroughAll)
    }
}

impl FromStr for IoMode {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "stateless" => Ok(Self::Stateless),
            "passthrough" => Ok(Self::Passthrough),
            "passthrough-all" => Ok(Self::PassthroughAll),
            _ => Err("write auto, stateless, passthrough or passthrough-all"),
        }
    }
}

/// How requests come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transport {
    /// By `/dev/fuse`, where a reader that spins answers sooner (ARCHITECTURE.md, "The kernel's side").
    #[default]
    Auto,
    /// By `/dev/fuse`.
    Classic,
    /// By io_uring; where that is not to be had it is the same as classic, with a warning.
    Uring,
}

impl FromStr for Transport {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "auto" => Ok(Self::Auto),
            "classic" => Ok(Self::Classic),
            "uring" => Ok(Self::Uring),
            _ => Err("write auto, classic or uring"),
        }
    }
}

bitflags::bitflags! {
    /// Flags of mount(2) that make sense for a union.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct MountFlags: libc::c_ulong {
        /// No changes through this mount.
        const READ_ONLY = libc::MS_RDONLY;
        /// Device nodes cannot be opened.
        const NODEV = libc::MS_NODEV;
        /// Set-user-ID, set-group-ID and file capabilities do nothing.
        const NOSUID = libc::MS_NOSUID;
        /// Programs cannot be executed.
        const NOEXEC = libc::MS_NOEXEC;
        /// Reading does not change the time of last access.
        const NOATIME = libc::MS_NOATIME;
        /// Nor does it for directories.
        const NODIRATIME = libc::MS_NODIRATIME;
        /// Every write is on disk when it returns.
        const SYNC = libc::MS_SYNCHRONOUS;
        /// Every change of a directory is on disk when it returns.
        const DIRSYNC = libc::MS_DIRSYNC;
        /// Symbolic links are not followed (kernel ≥ 5.10).
        const NOSYMFOLLOW = libc::MS_NOSYMFOLLOW;
    }
}

/// How and where a union is to be mounted; each method takes the options and gives them back changed.
#[derive(Clone, Debug)]
#[must_use]
pub struct MountOptions {
    pub(super) mountpoint: PathBuf,
    pub(super) fsname: String,
    pub(super) subtype: String,
    pub(super) access: Access,
    pub(super) flags: MountFlags,
    pub(super) default_permissions: bool,
    writeback: bool,
    outside: bool,
    acl: bool,
    xattrs: bool,
    durable: bool,
    timeout: Option<Duration>,
    threads: usize,
    spin: Duration,
    io: IoMode,
    transport: Transport,
}

impl MountOptions {
    /// A mount on `mountpoint` with the defaults: for its owner only, permissions checked by the kernel, names and
    /// attributes valid for good, ACLs and extended attributes served, changes as durable as fsync(2) promises.
    pub fn new(mountpoint: impl Into<PathBuf>) -> Self {
        Self {
            mountpoint: mountpoint.into(),
            fsname: "unionfs".to_owned(),
            subtype: "unionfs".to_owned(),
            access: Access::default(),
            flags: MountFlags::default(),
            default_permissions: true,
            writeback: false,
            outside: false,
            acl: true,
            xattrs: true,
            durable: true,
            timeout: None,
            threads: 8,
            spin: Duration::from_micros(30),
            io: IoMode::default(),
            transport: Transport::default(),
        }
    }

    /// The source that `/proc/mounts` shows.
    pub fn fsname(mut self, fsname: impl Into<String>) -> Self {
        self.fsname = fsname.into();
        self
    }

    /// The type that `/proc/mounts` shows behind `fuse.`.
    pub fn subtype(mut self, subtype: impl Into<String>) -> Self {
        self.subtype = subtype.into();
        self
    }

    /// Who may use the mount.
    pub const fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// Flags of mount(2).
    pub const fn flags(mut self, flags: MountFlags) -> Self {
        self.flags = flags;
        self
    }

    /// Whether the kernel checks modes (and ACLs); else everything is allowed to whom [`Access`] lets in.
    pub const fn default_permissions(mut self, check: bool) -> Self {
        self.default_permissions = check;
        self
    }

    /// Whether the kernel collects small writes and sends them later.
    pub const fn writeback(mut self, writeback: bool) -> Self {
        self.writeback = writeback;
        self
    }

    /// Whether access control lists (acl(5)) are enforced.
    pub const fn acl(mut self, acl: bool) -> Self {
        self.acl = acl;
        self
    }

    /// Whether extended attributes are served; without them no message asks for any.
    pub const fn xattrs(mut self, xattrs: bool) -> Self {
        self.xattrs = xattrs;
        self
    }

    /// Whether fsync(2) and syncfs(2) reach the branches; without, they return at once and promise nothing.
    pub const fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }

    /// How long the kernel may believe names and attributes; `None` for good, which is right while nobody changes a
    /// branch behind the union's back.
    pub const fn timeout(mut self, timeout: Option<Duration>) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether branches change behind the union's back: content whose time has changed is read anew.
    pub const fn outside_changes(mut self, outside: bool) -> Self {
        self.outside = outside;
        self
    }

    /// How many threads serve at most.
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// How long a reader of requests asks again before it sleeps; zero never. It stops by itself while that gains
    /// nothing or the CPU is wanted.
    pub const fn spin(mut self, spin: Duration) -> Self {
        self.spin = spin;
        self
    }

    /// How the data of files is reached.
    pub const fn io(mut self, io: IoMode) -> Self {
        self.io = io;
        self
    }

    /// How requests come.
    pub const fn transport(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Mounts `core` and agrees with the kernel on features. Requests wait until [`Server::run`].
    ///
    /// # Errors
    ///
    /// See [`MountError`]; nothing stays mounted then.
    pub fn mount<C: Core>(self, core: Arc<C>) -> Result<Server<C>, MountError> {
        let path = self.checked_mountpoint()?;
        let rings = self.rings();
        let wish = Wish { uring: rings.is_some(), ..self.wish() };
        let (negotiator, agreed) = Negotiator::new(wish);
        let (session, channel, guard) = attach::attach(&self, negotiator, &path)?;
        let unanswered = || MountError::Handshake { cause: io::Error::other("INIT was not answered") };
        let features = agreed.get().cloned().ok_or_else(unanswered)?;
        let passthrough = features.live("PASSTHROUGH");
        let caches = Caches::new(session.notifier());
        let lower = if self.io == IoMode::PassthroughAll { Lower::Passed } else { Lower::Cached };
        let opens = passthrough.then(|| Opens::new(Arc::clone(&channel), caches.clone(), lower));
        let stats = Stats::default();
        let device = Arc::clone(&channel);
        let io = match (passthrough, lower) {
            (false, _) => "stateless",
            (true, Lower::Cached) => "passthrough",
            (true, Lower::Passed) => "passthrough-all",
        };
        let control = Control::new(features.clone(), io, stats.clone(), caches.clone(), device, path.clone());
        let service = Arc::new(Service::new(core, self.policy(&features), opens).controlled(control));
        let uring = features.live("OVER_IO_URING");
        info!(at = ?path, protocol = ?features.protocol, passthrough, uring, "mounted");
        let rings = rings.filter(|_| uring);
        let reading = Reading { threads: self.threads.max(1), spin: self.spin };
        Ok(Server { service, features, reading, rings, stats, caches, guard, session, channel })
    }

    fn rings(&self) -> Option<Rings> {
        if self.transport != Transport::Uring {
            return None;
        }
        Rings::prepare().inspect_err(|why| warn!(why, "no FUSE over io_uring; /dev/fuse serves instead")).ok()
    }

    /// What is worth asking the kernel for. Passing through excludes the writeback cache.
    fn wish(&self) -> Wish {
        let passthrough = self.io.passes_through() && !self.writeback && attach::may_pass_through();
        Wish { writeback: self.writeback, acl: self.acl, outside: self.outside, passthrough, uring: false }
    }

    /// The mount point with no symbolic link left in it, which must be a directory (`rootmode` in mount.fuse(8)).
    fn checked_mountpoint(&self) -> Result<PathBuf, MountError> {
        let refused = |source: io::Error| MountError::Mountpoint {
            path: self.mountpoint.clone(),
            cause: Errno::from_io_error(&source).unwrap_or(Errno::IO),
        };
        let path = fs::canonicalize(&self.mountpoint).map_err(refused)?;
        if fs::metadata(&path).map_err(refused)?.is_dir() {
            Ok(path)
        } else {
            Err(MountError::NotDirectory { path })
        }
    }

    fn policy(&self, features: &Features) -> Policy {
        let timeout = self.timeout.map_or(Timeout::FOREVER, Timeout::from);
        Policy {
            name_for: timeout,
            attr_for: timeout,
            relist: self.outside && self.timeout == Some(Duration::ZERO),
            durable: self.durable,
            xattrs: self.xattrs,
            dialect: Dialect { setxattr_ext: features.live("SETXATTR_EXT") },
        }
    }
}
