//! Attending a command: between its client, which is the program in the user's terminal, and what watches over it.

use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigSet, Signal as NixSignal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::console;
use crate::error::{Error, On, Result};
use crate::process::Channel;

/// What a monitor and its client tell each other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    /// The command runs.
    Started,
    /// It could not be started.
    Failed {
        /// The exit status to report.
        status: u8,
        /// What the user is told.
        message: String,
    },
    /// It has ended.
    Ended {
        /// As a shell would tell it.
        status: u8,
    },
    /// The client got this signal and hands it on.
    Signal(i32),
    /// The client's terminal has this many rows and columns.
    Resize(u16, u16),
}

/// Signals that a client hands on to the command instead of obeying them.
#[derive(Debug)]
pub(crate) struct Signals(SignalFd);

impl Signals {
    /// Blocks them for this process and those it makes, and collects them.
    pub(crate) fn collect() -> Result<Self> {
        use NixSignal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH};
        let mut set = SigSet::empty();
        [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGWINCH]
            .into_iter()
            .for_each(|signal| set.add(signal));
        set.thread_block().map_err(std::io::Error::from).on("sigprocmask", "signals to hand on")?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK);
        fd.map(Self).map_err(std::io::Error::from).on("signalfd", "signals to hand on")
    }

    /// The next one as an event: a change of the terminal's size is told as its new size.
    pub(crate) fn next(&self) -> Option<Event> {
        let signal = self.0.read_signal().ok().flatten()?.ssi_signo;
        let number = i32::try_from(signal).ok()?;
        if number == libc::SIGWINCH {
            return console::size(rustix::stdio::stdin()).map(|(rows, columns)| Event::Resize(rows, columns));
        }
        Some(Event::Signal(number))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The signal with this number, if it is one that has a name.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number)
}

/// How attending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The command runs, and nobody attends it.
    Running,
    /// It has ended with this status.
    Ended(u8),
}

/// The client's side: hands signals on until the command has ended, or with `detach` until it has started.
pub(crate) fn attend(channel: &Channel, signals: &Signals, tty: bool, detach: bool) -> Result<Outcome> {
    let raw = (tty && !detach).then(|| console::RawMode::enter(rustix::stdio::stdin())).flatten();
    if let Some((rows, columns)) = raw.as_ref().and_then(|_| console::size(rustix::stdio::stdin())) {
        channel.send(&Event::Resize(rows, columns), None)?;
    }
    loop {
        let mut fds = [PollFd::new(channel, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        rustix::io::retry_on_intr(|| poll(&mut fds, None)).on("poll", "the monitor")?;
        if !fds[1].revents().is_empty()
            && let Some(event) = signals.next()
        {
            // A monitor that has just ended has a last word in the channel.
            drop(channel.send(&event, None));
        }
        if fds[0].revents().is_empty() {
            continue;
        }
        match channel.receive()? {
            Some((Event::Started, _)) if detach => return Ok(Outcome::Running),
            Some((Event::Ended { status }, _)) => return Ok(Outcome::Ended(status)),
            Some((Event::Failed { status, message }, _)) => return Err(Error::Command { status, message }),
            Some(_) => {}
            None => {
                return Err(Error::State(
                    "the container's monitor was killed, and the container with it".into(),
                ));
            }
        }
    }
}
