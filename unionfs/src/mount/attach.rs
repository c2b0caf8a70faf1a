//! The mount itself: mount(2) or fusermount3, INIT, and the way back.

use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use fuser::{Config, MountOption, Session, SessionACL, SessionUnmounter};
use nix::mount::{MntFlags, MsFlags};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use tracing::warn;

use super::error::MountError;
use super::options::{Access, MountFlags, MountOptions};
use crate::error::Errno;
use crate::fuse::{MAX_WRITE, Negotiator};

type Made = (Session<Negotiator>, Arc<OwnedFd>, UnmountOnDrop);

/// Mounts by mount(2), or by fusermount3 where that is not permitted, and answers INIT.
pub(super) fn attach(
    options: &MountOptions,
    negotiator: Negotiator,
    path: &Path,
) -> Result<Made, MountError> {
    let device = rustix::fs::open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(|source| MountError::Device { cause: source })?;
    match mount_directly(options, &device, path) {
        Ok(()) => {
            let channel = Arc::new(device.try_clone().map_err(handshake)?);
            let guard = guard(path, &channel, None);
            let session = Session::from_fd(negotiator, device, SessionACL::All, Config::default());
            Ok((session.map_err(handshake)?, channel, guard))
        }
        Err(Errno::PERM) => {
            let mut session = Session::new(negotiator, path, &helper_config(options))
                .map_err(|source| MountError::Helper { path: path.to_owned(), cause: source })?;
            let channel = Arc::new(session.as_fd().try_clone_to_owned().map_err(handshake)?);
            let guard = guard(path, &channel, Some(session.unmount_callable()));
            Ok((session, channel, guard))
        }
        Err(source) => {
            Err(MountError::Mount { fstype: fstype(options), path: path.to_owned(), cause: source })
        }
    }
}

/// Whether this process may register backing files. It has to be known before INIT, which settles who truncates.
pub(super) fn may_pass_through() -> bool {
    crate::creds::capable_over_host(rustix::thread::CapabilitySet::SYS_ADMIN)
}

const fn handshake(source: io::Error) -> MountError {
    MountError::Handshake { cause: source }
}

fn guard(path: &Path, channel: &Arc<OwnedFd>, helper: Option<SessionUnmounter>) -> UnmountOnDrop {
    UnmountOnDrop(Attachment {
        path: path.to_owned(),
        channel: Arc::downgrade(channel),
        gone: Arc::new(AtomicBool::new(false)),
        helper: helper.map(|helper| Arc::new(Mutex::new(helper))),
    })
}

fn fstype(options: &MountOptions) -> String {
    format!("fuse.{}", options.subtype)
}

fn mount_directly(options: &MountOptions, device: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let (user, group) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut data = format!("fd={},rootmode=40000,user_id={user},group_id={group}", device.as_raw_fd());
    if options.default_permissions {
        data.push_str(",default_permissions");
    }
    if options.access == Access::Everyone {
        data.push_str(",allow_other");
    }
    write!(data, ",max_read={MAX_WRITE}").map_err(|_| Errno::NOMEM)?;
    let flags = MsFlags::from_bits_retain(options.flags.bits());
    nix::mount::mount(Some(&*options.fsname), path, Some(&*fstype(options)), flags, Some(&*data))
        .map_err(|errno| Errno::from_raw_os_error(errno as i32))
}

/// The same options as fuser and fusermount3 take them; the helper adds `nosuid,nodev` itself.
fn helper_config(options: &MountOptions) -> Config {
    let escaped = options.fsname.replace('\\', r"\\").replace(',', r"\,");
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName(escaped), MountOption::Subtype(options.subtype.clone())];
    for (flag, option) in [
        (MountFlags::READ_ONLY, MountOption::RO),
        (MountFlags::NODEV, MountOption::NoDev),
        (MountFlags::NOSUID, MountOption::NoSuid),
        (MountFlags::NOEXEC, MountOption::NoExec),
        (MountFlags::NOATIME, MountOption::NoAtime),
        (MountFlags::SYNC, MountOption::Sync),
        (MountFlags::DIRSYNC, MountOption::DirSync),
    ] {
        if options.flags.contains(flag) {
            config.mount_options.push(option);
        }
    }
    if options.default_permissions {
        config.mount_options.push(MountOption::DefaultPermissions);
    }
    config.acl = match options.access {
        Access::Owner => SessionACL::Owner,
        Access::Everyone => SessionACL::All,
    };
    config
}

/// Where a filesystem is mounted, and how that is undone. Copies share the knowledge that it has been.
#[derive(Clone)]
pub(super) struct Attachment {
    pub(super) path: PathBuf,
    /// Tells whether the connection still lives, so that nobody else's mount on the same path is taken away.
    /// Weak, because the connection must end with the server and not with the last handle on it.
    channel: Weak<OwnedFd>,
    gone: Arc<AtomicBool>,
    helper: Option<Arc<Mutex<SessionUnmounter>>>,
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("path", &self.path)
            .field("gone", &self.gone)
            .finish_non_exhaustive()
    }
}

impl Attachment {
    /// Takes the filesystem out of the tree, if it still is there.
    pub(super) fn release(&self, how: MntFlags) -> Result<(), MountError> {
        if self.gone.load(Ordering::Acquire) || !self.alive() {
            return Ok(());
        }
        let released = match &self.helper {
            Some(helper) => helper.lock().unmount(),
            None => nix::mount::umount2(&self.path, how | MntFlags::UMOUNT_NOFOLLOW).map_err(io::Error::from),
        };
        match released {
            Err(source) => Err(MountError::Unmount { path: self.path.clone(), cause: source }),
            Ok(()) => {
                self.gone.store(true, Ordering::Release);
                Ok(())
            }
        }
    }

    /// Whether the kernel still has the connection: once unmounted or aborted, `/dev/fuse` polls as an error.
    fn alive(&self) -> bool {
        let Some(channel) = self.channel.upgrade() else {
            return false;
        };
        let mut fds = [PollFd::new(&*channel, PollFlags::empty())];
        match poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => !fds[0].revents().contains(PollFlags::ERR),
            Err(_) => true,
        }
    }
}

/// Unmounts when dropped: in the end, or because a step between mounting and serving failed.
#[derive(Debug)]
pub(super) struct UnmountOnDrop(pub(super) Attachment);

impl Drop for UnmountOnDrop {
    fn drop(&mut self) {
        // Nobody serves any more, so waiting for users would be waiting for good.
        if let Err(error) = self.0.release(MntFlags::MNT_DETACH) {
            warn!(%error, at = ?self.0.path, "left mounted");
        }
    }
}
