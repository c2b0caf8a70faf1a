//! A union attached to a directory: options, the mount, and the server behind it.
//!
//! As root, or in a user namespace with `CAP_SYS_ADMIN`, mount(2) is called here, so that `/proc/mounts` shows the
//! type `fuse.unionfs`; where it is refused with `EPERM`, fuser asks the setuid helper fusermount3. Either way
//! fuser then speaks the INIT handshake, and everything after it is [`crate::fuse`]'s.

mod attach;
mod error;
mod options;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use fuser::Session;
use nix::mount::MntFlags;
use tracing::error;

use self::attach::{Attachment, UnmountOnDrop};
pub use self::error::MountError;
pub use self::options::{Access, IoMode, MountFlags, MountOptions, Transport};
use crate::fuse::{self, Caches, Core, Features, Negotiator, Reading, Rings, Service, Stats};
use crate::union::Union;

/// A mounted union that waits to be served. Dropping it unmounts.
#[derive(Debug)]
#[must_use = "nobody answers the mount until `run` is called"]
pub struct Server<C: Core = Union> {
    service: Arc<Service<C>>,
    features: Features,
    reading: Reading,
    rings: Option<Rings>,
    stats: Stats,
    caches: Caches,
    // Dropped in this order: unmounting looks at the channel, and fusermount3's socket is in the session.
    guard: UnmountOnDrop,
    session: Session<Negotiator>,
    channel: Arc<OwnedFd>,
}

impl<C: Core> Server<C> {
    /// Answers requests until the filesystem is unmounted, by whomever.
    ///
    /// # Errors
    ///
    /// If threads cannot be started, or `/dev/fuse` fails; the filesystem is unmounted then too.
    pub fn run(self) -> Result<(), MountError> {
        let Self { service, reading, rings, stats, caches, guard, session, channel, .. } = self;
        crate::sys::tune_allocator();
        // What it took to read the command line and to mount is not needed again.
        crate::sys::give_memory_back();
        crate::sys::give_code_back();
        fuse::control::watch(Arc::clone(service.core()), caches);
        // By the rings come all but FORGET and INTERRUPT.
        let threads = if rings.is_some() { reading.threads.min(2) } else { reading.threads };
        let reading = Reading { threads, ..reading };
        let outcome = fuse::run(&service, &channel, rings, reading, &stats, &|| {
            if let Err(error) = guard.0.release(MntFlags::MNT_FORCE | MntFlags::MNT_DETACH) {
                error!(%error, "the connection could not be aborted");
            }
        });
        let path = guard.0.path.clone();
        drop((guard, session, channel));
        outcome.map_err(|cause| MountError::Serve { path, cause })
    }

    /// A handle by which another thread, one that waits for signals say, can unmount.
    pub fn unmounter(&self) -> Unmounter {
        Unmounter(self.guard.0.clone())
    }

    /// A handle by which the kernel can be told to drop what it remembers.
    ///
    /// It keeps the connection open: drop it when the server ends, or callers wait for answers that never come.
    pub fn notifier(&self) -> fuser::Notifier {
        self.session.notifier()
    }

    /// What was served, counted while the server runs.
    pub fn stats(&self) -> Stats {
        self.stats.clone()
    }

    /// What kernel and server agreed on.
    pub const fn features(&self) -> &Features {
        &self.features
    }
}

/// Unmounts a [`Server`]'s filesystem from any thread.
#[derive(Clone, Debug)]
pub struct Unmounter(Attachment);

impl Unmounter {
    /// Unmounts now.
    ///
    /// # Errors
    ///
    /// `EBUSY` in [`MountError::Unmount`] while files are open or processes have their directory in it.
    pub fn unmount(&self) -> Result<(), MountError> {
        self.0.release(MntFlags::empty())
    }

    /// Takes the filesystem out of the tree now; it is served until its last user is gone.
    ///
    /// # Errors
    ///
    /// If umount2(2) fails for another reason than that it is unmounted already.
    pub fn detach(&self) -> Result<(), MountError> {
        self.0.release(MntFlags::MNT_DETACH)
    }
}
