//! The last steps before a command runs, the same for a container's first process and for one that joins it.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno as NixErrno;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use rustix::fs::{Gid, Mode, Uid};
use rustix::io::Errno;

use crate::error::{Error, On, Result};
use crate::reaper;
use crate::rootfs::enter::read_text;
use crate::security::{self, Identity};
use crate::spec::{Environment, Process};
use crate::sys;
use crate::user::{self, User};

/// What becomes the command's descriptors 0, 1 and 2.
#[derive(Debug)]
pub(crate) struct Stdio {
    /// Standard input.
    pub(crate) stdin: OwnedFd,
    /// Standard output.
    pub(crate) stdout: OwnedFd,
    /// Standard error.
    pub(crate) stderr: OwnedFd,
}

impl Stdio {
    /// All three on one terminal.
    pub(crate) fn of_terminal(terminal: &OwnedFd) -> Result<Self> {
        let copy = || terminal.try_clone().on("dup", "terminal");
        Ok(Self { stdin: copy()?, stdout: copy()?, stderr: copy()? })
    }

    /// /dev/null three times.
    pub(crate) fn null() -> Result<Self> {
        let null =
            std::fs::File::options().read(true).write(true).open("/dev/null").on("open", "/dev/null")?;
        Self::of_terminal(&null.into())
    }

    fn all(&self) -> [BorrowedFd<'_>; 3] {
        [self.stdin.as_fd(), self.stdout.as_fd(), self.stderr.as_fd()]
    }

    /// Gives them to a user, who could not open `/dev/stdout` again otherwise.
    fn give_to(&self, who: &Identity) {
        for fd in self.all() {
            // A file or socket of somebody else stays theirs; only what we made changes hands.
            if let Err(error) = rustix::fs::fchown(fd, Some(Uid::from_raw(who.uid)), None::<Gid>) {
                tracing::debug!(%error, "a standard stream keeps its owner");
            }
        }
    }

    fn install(&self) -> Result<()> {
        rustix::stdio::dup2_stdin(&self.stdin).on("dup2", "standard input")?;
        rustix::stdio::dup2_stdout(&self.stdout).on("dup2", "standard output")?;
        rustix::stdio::dup2_stderr(&self.stderr).on("dup2", "standard error")
    }
}

/// How a command of the container begins.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    /// What is run.
    pub(crate) process: &'a Process,
    /// Its standard streams.
    pub(crate) stdio: Stdio,
    /// Whether supplementary groups can be set: not in a user namespace with one identifier.
    pub(crate) groups_allowed: bool,
    /// Whether a missing working directory is made, as for a container's first process.
    pub(crate) make_cwd: bool,
    /// Whether it is to die with this process's parent.
    pub(crate) die_with_parent: bool,
    /// Whether this process stays behind as its init.
    pub(crate) init: bool,
}

/// Becomes the command, in the root directory and namespaces that this process has by now.
///
/// # Errors
///
/// [`Error::Command`] if it cannot be executed, with the status that Docker would report.
pub(crate) fn execute(start: &Start<'_>) -> Result<Infallible> {
    let process = start.process;
    let (passwd, group) = (read_text("/etc/passwd")?, read_text("/etc/group")?);
    let user = user::find(&process.user, &process.groups, &passwd, &group)?;
    start.stdio.give_to(&user.identity);
    let entered = enter_directory(&process.cwd, start.make_cwd);
    if process.no_new_privileges {
        rustix::thread::set_no_new_privs(true).on("prctl", "PR_SET_NO_NEW_PRIVS")?;
    }
    security::become_user(&user.identity, process.capabilities, start.groups_allowed)?;
    if entered.is_err() {
        // The directory may be closed to root (on a network filesystem) but open to the user.
        enter_directory(&process.cwd, false).or(entered)?;
    }
    if start.die_with_parent {
        // A change of user clears it, so it comes after.
        let signal = Some(rustix::process::Signal::KILL);
        rustix::process::set_parent_process_death_signal(signal).on("prctl", "PR_SET_PDEATHSIG")?;
    }
    start.stdio.install()?;
    sys::close_on_exec_from(3).on("close_range", "3-")?;
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if start.init {
        reaper::stay_behind(process.tty)?;
    }
    sys::default_signals();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .map_err(std::io::Error::from)
        .on("sigprocmask", "")?;
    Err(replace_image(process, &user))
}

fn enter_directory(cwd: &Path, make: bool) -> Result<()> {
    match rustix::process::chdir(cwd) {
        Err(Errno::NOENT) if make => {
            std::fs::create_dir_all(cwd).on("make the working directory", cwd)?;
            rustix::process::chdir(cwd)
        }
        done => done,
    }
    .on("enter the working directory", cwd)
}

/// Calls execve(2) on each candidate until one works; returns why none did.
fn replace_image(process: &Process, user: &User) -> Error {
    let mut env = Environment(process.env.clone());
    if !process.env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.set(&format!("HOME={}", user.home.display()));
    }
    let name = &process.args[0];
    let to_c = |texts: &[String]| {
        texts.iter().map(|text| CString::new(text.as_bytes())).collect::<Result<Vec<_>, _>>()
    };
    let (Ok(args), Ok(vars)) = (to_c(&process.args), to_c(&env.0)) else {
        return failed(name, 126, "an argument or variable has a NUL byte in it");
    };
    let mut denied = None;
    for candidate in candidates(name, &env.0) {
        let Ok(path) = CString::new(candidate.as_bytes()) else { continue };
        let Err(errno) = nix::unistd::execve(&path, &args, &vars);
        match errno {
            NixErrno::ENOENT | NixErrno::ENOTDIR if !Path::new(&candidate).exists() => {}
            NixErrno::ENOENT => {
                return failed(name, 127, "no such file or directory: its interpreter is missing");
            }
            NixErrno::EACCES if Path::new(&candidate).is_dir() => denied = Some("is a directory"),
            NixErrno::EACCES => denied = Some("permission denied"),
            NixErrno::ENOEXEC => return failed(name, 126, "exec format error"),
            other => return failed(name, 126, other.desc()),
        }
    }
    match denied {
        Some(why) => failed(name, 126, why),
        None if name.contains('/') => failed(name, 127, "no such file or directory"),
        None => failed(name, 127, "executable file not found in $PATH"),
    }
}

fn failed(name: &str, status: u8, why: &str) -> Error {
    Error::Command { status, message: format!("exec: {name:?}: {why}") }
}

/// The paths at which a command of this name may lie, in the order of PATH; a name with a slash is a path itself.
fn candidates(name: &str, env: &[String]) -> Vec<String> {
    if name.contains('/') {
        return vec![name.to_owned()];
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or_default();
    let directories = path.split(':').map(|directory| if directory.is_empty() { "." } else { directory });
    directories.map(|directory| format!("{directory}/{name}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_by_path() {
        for (name, path, want) in [
            ("sh", "PATH=/bin:/usr/bin", &["/bin/sh", "/usr/bin/sh"][..]),
            ("sh", "PATH=:/bin", &["./sh", "/bin/sh"]),
            ("./sh", "PATH=/bin", &["./sh"]),
            ("/bin/sh", "", &["/bin/sh"]),
        ] {
            assert_eq!(candidates(name, &[path.to_owned()]), want, "{name} {path}");
        }
    }
}
