//! What can go wrong between a union and its mount point, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::error::Errno;

/// Why a union could not be mounted, served or unmounted.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)]
pub enum MountError {
    #[error(
        "cannot open /dev/fuse: {source} (is the module loaded: modprobe fuse; is the device in this container?)"
    )]
    Device { source: Errno },
    #[error("cannot mount on {path:?}: {source}{}", hint(*source))]
    Mountpoint { path: PathBuf, source: Errno },
    #[error("cannot mount on {path:?}: it is not a directory")]
    NotDirectory { path: PathBuf },
    #[error("mount(2) of {fstype} on {path:?} failed: {source}")]
    Mount { fstype: String, path: PathBuf, source: Errno },
    #[error("fusermount3 could not mount on {path:?}: {source}{}", helper_hint(source))]
    Helper { path: PathBuf, source: io::Error },
    #[error("the kernel and this server do not agree (FUSE INIT): {source}")]
    Handshake { source: io::Error },
    #[error("cannot serve {path:?}: {source}")]
    Serve { path: PathBuf, source: io::Error },
    #[error("cannot unmount {path:?}: {source}")]
    Unmount { path: PathBuf, source: io::Error },
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::NOTCONN => " (a FUSE mount whose server died is there: umount -l it)",
        Errno::NOENT => " (create the directory first)",
        _ => "",
    }
}

fn helper_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (install fuse3, or run as root)",
        io::ErrorKind::PermissionDenied => {
            " (allow_other needs the line user_allow_other in /etc/fuse.conf, or leave it out)"
        }
        _ => "",
    }
}
