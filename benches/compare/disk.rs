//! The filesystem that everything lies on: an ext4 image in a file, with mkfs's and mount's defaults.
//!
//! An image, because the host's own filesystem would be another on each machine, and its mount options count:
//! with `discard`, say, every deletion waits for the device.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Sparse, so that only what is used takes place. Bytes.
const SIZE: u64 = 20 << 30;

/// Mounts `work/disk.img`, made if it is missing, at `work/disk` and returns that.
///
/// The caller is in a mount namespace of its own: the mount and the loop device end with it.
pub(crate) fn mount(work: &Path) -> Result<PathBuf> {
    let image = work.join("disk.img");
    let target = work.join("disk");
    fs::create_dir_all(&target).with_context(|| format!("making {}", target.display()))?;
    if !image.exists() {
        make(&image)?;
    }
    // Direct I/O, or every page would be cached twice and a cold read would not be cold.
    let device = told(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).arg(&image))?;
    let mounted = told(Command::new("mount").arg(&device).arg(&target));
    // While it is mounted this only marks the device to be freed by the last user, the mount; else it frees it.
    told(Command::new("losetup").arg("--detach").arg(&device))?;
    mounted.map(|_| target)
}

fn make(image: &Path) -> Result<()> {
    let partial = image.with_extension("partial");
    let file = fs::File::create(&partial).with_context(|| format!("creating {}", partial.display()))?;
    file.set_len(SIZE).with_context(|| format!("sizing {}", partial.display()))?;
    // No lazy initialisation: a kernel thread would write inode tables while we measure.
    let options = ["-q", "-i", "8192", "-E", "lazy_itable_init=0,lazy_journal_init=0"];
    told(Command::new("mkfs.ext4").args(options).arg(&partial))?;
    fs::rename(&partial, image).with_context(|| format!("naming {}", image.display()))
}

fn told(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, error.trim());
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
