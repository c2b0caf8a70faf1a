//! `unionfs umount`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};

/// Unmounts a union: with umount2(2), or through fusermount3 for a user who may not call it.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool) -> anyhow::Result<()> {
    let flags = MntFlags::UMOUNT_NOFOLLOW | if lazy { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mountpoint, flags) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_helper(mountpoint, lazy),
        Err(errno) => {
            let hint = match errno {
                Errno::EBUSY => ": files in it are open (try --lazy)",
                Errno::EINVAL => ": nothing is mounted there",
                _ => "",
            };
            bail!("cannot unmount {}: umount2: {}{hint}", mountpoint.display(), errno.desc())
        }
    }
}

fn by_helper(mountpoint: &Path, lazy: bool) -> anyhow::Result<()> {
    let mut helper = Command::new("fusermount3");
    helper.arg("-u");
    if lazy {
        helper.arg("-z");
    }
    let done =
        helper.arg("--").arg(mountpoint).output().context("cannot start fusermount3 (install fuse3)")?;
    if done.status.success() {
        return Ok(());
    }
    bail!("cannot unmount {}: {}", mountpoint.display(), String::from_utf8_lossy(&done.stderr).trim())
}
