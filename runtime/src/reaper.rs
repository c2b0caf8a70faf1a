//! A small init for containers whose command was not written to be process 1: it hands signals on and waits for orphans.
//!
//! Process 1 ignores every signal it has no handler for (pid_namespaces(7)), and inherits whatever its descendants leave
//! behind. With `--init` the command is process 2, and this is process 1; no other program is needed in the image.

use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::error::{On, Result};
use crate::sys::{self, Side};

/// Makes this process the init of a copy of itself, in which the call returns. In this process it never does.
pub(crate) fn stay_behind(tty: bool) -> Result<()> {
    let all = SigSet::all();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&all), None)
        .map_err(std::io::Error::from)
        .on("sigprocmask", "init")?;
    match sys::clone3(0, None).on("clone3", "the command")? {
        Side::Parent { pid, .. } => {
            // What is open here, the channel that must close at the command's execve among it, is the command's.
            sys::close_from(3).on("close_range", "init")?;
            rustix::thread::set_name(c"uctr-init").on("prctl", "PR_SET_NAME")?;
            std::process::exit(i32::from(attend(Pid::from_raw(pid.as_raw_nonzero().get()), &all)))
        }
        Side::Child => {
            let own = rustix::process::getpid();
            rustix::process::setpgid(Some(own), Some(own)).on("setpgid", "the command")?;
            if tty {
                // The keys that mean signals are for the command.
                rustix::termios::tcsetpgrp(rustix::stdio::stdin(), own).on("tcsetpgrp", "terminal")?;
            }
            Ok(())
        }
    }
}

/// Hands signals on to the command and waits for whoever ends, until the command does; tells how.
fn attend(command: Pid, signals: &SigSet) -> u8 {
    loop {
        match signals.wait() {
            Ok(Signal::SIGCHLD) => {
                if let Some(status) = reap(command) {
                    return status;
                }
            }
            // It may have ended just now; then SIGCHLD is next.
            Ok(signal) => drop(nix::sys::signal::kill(command, signal).inspect_err(|error| {
                tracing::debug!(%error, "a signal was not handed on");
            })),
            Err(error) => tracing::debug!(%error, "sigwait"),
        }
    }
}

/// Waits for all that have ended; the status if the command is among them.
fn reap(command: Pid) -> Option<u8> {
    let mut told = None;
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == command => told = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == command => told = Some(128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => {
                return told.map(|status| u8::try_from(status).unwrap_or(u8::MAX));
            }
            Ok(_) => {}
        }
    }
}
