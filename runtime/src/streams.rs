//! The standard streams of a command and of whoever attends it.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::command::Stdio;
use crate::error::{On, Result};
use crate::relay::Relay;
use crate::spec::Process;

/// The streams of whoever attends a command.
#[derive(Debug, Default)]
pub(crate) struct Client {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
}

impl Client {
    /// This process's own; afterwards the process itself has /dev/null there.
    pub(crate) fn take() -> Result<Self> {
        let client = Self::share();
        Self::none()?;
        Ok(client)
    }

    /// Copies of this process's own.
    pub(crate) fn share() -> Self {
        let copy = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().ok();
        Self {
            stdin: copy(rustix::stdio::stdin()),
            stdout: copy(rustix::stdio::stdout()),
            stderr: copy(rustix::stdio::stderr()),
        }
    }

    /// Nobody; this process has /dev/null for its own streams from now on.
    pub(crate) fn none() -> Result<Self> {
        let null = null()?;
        rustix::stdio::dup2_stdin(&null).on("dup2", "standard input")?;
        rustix::stdio::dup2_stdout(&null).on("dup2", "standard output")?;
        rustix::stdio::dup2_stderr(&null).on("dup2", "standard error")?;
        Ok(Self::default())
    }
}

/// Our ends of a command's pipes.
#[derive(Debug)]
pub(crate) struct Pipes {
    stdin: Option<OwnedFd>,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

impl Pipes {
    /// Pipes for a command without a terminal, and its ends of them. It reads /dev/null unless it is interactive.
    pub(crate) fn new(process: &Process) -> Result<(Self, Stdio)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC).on("pipe", "standard streams");
        let (stdin, ours) = if process.interactive {
            let (read, write) = pipe()?;
            unblock(&write)?;
            (read, Some(write))
        } else {
            (null()?, None)
        };
        let (out_read, stdout) = pipe()?;
        let (err_read, stderr) = pipe()?;
        Ok((Self { stdin: ours, stdout: out_read, stderr: err_read }, Stdio { stdin, stdout, stderr }))
    }

    /// Connects them with a client.
    pub(crate) fn connect(self, client: Client, relay: &mut Relay) {
        relay.output("stdout", self.stdout, client.stdout);
        relay.output("stderr", self.stderr, client.stderr);
        if let Some(stdin) = self.stdin {
            relay.input(client.stdin, stdin, false);
        }
    }
}

/// Connects the master side of a command's terminal with a client.
pub(crate) fn connect_terminal(
    master: OwnedFd,
    process: &Process,
    client: Client,
    relay: &mut Relay,
) -> Result<()> {
    unblock(&master)?;
    let copy = master.try_clone().on("dup", "terminal")?;
    relay.output("stdout", master, client.stdout);
    let stdin = client.stdin.filter(|_| process.interactive);
    relay.input(stdin, copy, true);
    Ok(())
}

/// A slow reader at the other end must not stop the loop.
fn unblock(fd: impl AsFd) -> Result<()> {
    rustix::fs::fcntl_setfl(fd, OFlags::NONBLOCK).on("fcntl", "O_NONBLOCK")
}

fn null() -> Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/null").on("open", "/dev/null")?;
    Ok(file.into())
}
