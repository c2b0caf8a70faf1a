//! What can go wrong between a union and its mount point, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::error::Errno;

/// Why a union could not be mounted, served or unmounted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MountError {
    #[error(
        "cannot open /dev/fuse: {cause} (is the module loaded: modprobe fuse; is the device in this container?)"
    )]
    Device { cause: Errno },
    #[error("cannot mount on {path:?}: {cause}{}", hint(*cause))]
    Mountpoint { path: PathBuf, cause: Errno },
    #[error("cannot mount on {path:?}: it is not a directory")]
    NotDirectory { path: PathBuf },
    #[error("mount(2) of {fstype} on {path:?} failed: {cause}")]
    Mount { fstype: String, path: PathBuf, cause: Errno },
    #[error("fusermount3 could not mount on {path:?}: {}{}", helper_said(cause), helper_hint(cause))]
    Helper { path: PathBuf, cause: io::Error },
    #[error("the kernel and this server do not agree (FUSE INIT): {cause}")]
    Handshake { cause: io::Error },
    #[error("cannot serve {path:?}: {cause}")]
    Serve { path: PathBuf, cause: io::Error },
    #[error("cannot unmount {path:?}: {cause}")]
    Unmount { path: PathBuf, cause: io::Error },
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOTCONN => " (a FUSE mount whose server died is there: umount -l it)",
        Errno::NOENT => " (create the directory first)",
        _ => "",
    }
}

/// What the helper printed, in one line and without its name.
fn helper_said(cause: &io::Error) -> String {
    let said = cause.to_string();
    let first = said.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    first.trim_start_matches("fusermount3:").trim_start().to_owned()
}

fn helper_hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::NotFound => " (install fuse3, or run as root)",
        io::ErrorKind::PermissionDenied => {
            " (allow_other needs the line user_allow_other in /etc/fuse.conf, or leave it out)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;
    use std::sync::Arc;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use crate::mount::{MountError, MountOptions};
    use crate::union::{Options, Union};
    use crate::{BranchSpec, Errno};

    /// What mounting a union on this path says.
    fn refusal(at: &std::path::Path, branch: &std::path::Path) -> MountError {
        let specs = BranchSpec::parse_list(format!("{}=ro", branch.display())).unwrap();
        let union = Arc::new(Union::new(specs, Options::default()).unwrap());
        MountOptions::new(at).mount(union).map(|_| ()).unwrap_err()
    }

    #[test]
    fn mount_refusals_name_the_place_and_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let (branch, file, dead) = (dir.path().join("b"), dir.path().join("f"), dir.path().join("dead"));
        std::fs::create_dir(&branch).unwrap();
        std::fs::create_dir(&dead).unwrap();
        std::fs::write(&file, "").unwrap();

        let error = refusal(&dir.path().join("none"), &branch);
        assert!(matches!(error, MountError::Mountpoint { cause: Errno::NOENT, .. }), "{error}");
        assert!(
            error.to_string().contains("none") && error.to_string().contains("create the directory"),
            "{error}"
        );
        let error = refusal(&file, &branch);
        assert!(matches!(&error, MountError::NotDirectory { path } if path.ends_with("f")), "{error}");

        // A FUSE mount whose server is gone.
        let device = std::fs::File::options().read(true).write(true).open("/dev/fuse").unwrap();
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0", device.as_raw_fd());
        if mount(Some("dead"), &dead, Some("fuse"), MsFlags::empty(), Some(&*data)).is_err() {
            eprintln!("SKIP the dead mount: not root");
            return;
        }
        drop(device);
        let error = refusal(&dead, &branch);
        umount2(&dead, MntFlags::MNT_DETACH).unwrap();
        assert!(matches!(error, MountError::Mountpoint { cause: Errno::NOTCONN, .. }), "{error}");
        assert!(error.to_string().contains("umount -l"), "{error}");
    }
}
