//! Keeps a container from writing to this very program.
//!
//! A process of ours that enters a container is, until its execve, a way to the program's file: an image whose command is
//! `/proc/self/exe`, or a script with that for an interpreter, makes the kernel run it there, and then `/proc/PID/exe` can be
//! opened (CVE-2019-5736). So it is started again through a read-only mount of its own file that hangs nowhere: opened that
//! way, the file cannot be written, whoever asks.

use std::ffi::CString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use rustix::fs::StatVfsMountFlags;

use crate::error::{On, Result};
use crate::mounts::{Attr, Detached};

const SELF: &str = "/proc/self/exe";

/// Starts this program again as described, unless it already was, or lies on a read-only filesystem.
///
/// Only root can; a user's containers run as that user at most, who may write only to what is his own.
///
/// # Errors
///
/// If it cannot be started again.
pub fn start_again_read_only() -> Result<()> {
    let flags = rustix::fs::statvfs(SELF).on("statvfs", SELF)?.f_flag;
    if flags.contains(StatVfsMountFlags::RDONLY) || !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = Detached::clone_of(Path::new(SELF))?.set(Attr::MOUNT_ATTR_RDONLY, 0, false)?;
    let args = std::env::args_os().map(OsStringExt::into_vec);
    let vars = std::env::vars_os().map(|(name, value)| [name.as_bytes(), b"=", value.as_bytes()].concat());
    let to_c = |words: Vec<Vec<u8>>| words.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
    let (args, vars) = (to_c(args.collect()), to_c(vars.collect()));
    let (args, vars) = (args.map_err(std::io::Error::from), vars.map_err(std::io::Error::from));
    let (args, vars) = (args.on("execve", SELF)?, vars.on("execve", SELF)?);
    let Err(errno) = nix::unistd::fexecve(program.as_fd(), &args, &vars);
    Err(std::io::Error::from(errno)).on("execve", SELF)
}
