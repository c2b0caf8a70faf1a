//! A process of the container: the channel its maker speaks with it until execve, its handle, and its end.

use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, IoSlice, IoSliceMut};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, On, Result};
use crate::sys::{self, Side};

/// The longest message: an error with two paths in it fits.
const MESSAGE_MAX: usize = 16 * 1024;

/// What a process being made and its maker tell each other.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// Maker to process: your cgroup and id maps are in place.
    Go,
    /// Process to maker: the master side of the terminal comes with this message.
    Console,
    /// Process to maker: it is in its user namespace, which needs its id maps.
    Unmapped,
    /// Process to maker: the command cannot be run.
    Failed {
        /// The exit status to report.
        status: u8,
        /// What the user is told.
        message: String,
    },
}

/// One end of the channel. It closes at execve, so the end of the stream means that the command runs.
#[derive(Debug)]
pub(crate) struct Channel(OwnedFd);

impl Channel {
    /// Both ends.
    fn pair() -> Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .on("socketpair", "channel")?;
        Ok((Self(ours), Self(theirs)))
    }

    /// Sends a message, and a descriptor with it.
    pub(crate) fn send(&self, message: &impl Serialize, fd: Option<BorrowedFd<'_>>) -> Result<()> {
        let bytes = serde_json::to_vec(message).map_err(std::io::Error::other).on("encode", "message")?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<_> = fd.into_iter().collect();
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(&fds));
        }
        sendmsg(&self.0, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)
            .on("sendmsg", "channel")?;
        Ok(())
    }

    /// The next message, or `None` when the other end is closed.
    pub(crate) fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Option<OwnedFd>)>> {
        let mut bytes = vec![0; MESSAGE_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut buffers = [IoSliceMut::new(&mut bytes)];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(&self.0, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
        })
        .on("recvmsg", "channel")?;
        if received.bytes == 0 {
            return Ok(None);
        }
        let mut fd = None;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                fd = fds.last();
            }
        }
        let message = serde_json::from_slice(&bytes[..received.bytes])
            .map_err(std::io::Error::other)
            .on("decode", "message")?;
        Ok(Some((message, fd)))
    }

    /// Tells the maker why the command cannot be run.
    pub(crate) fn send_failure(&self, failure: &Error) {
        let message = Message::Failed { status: failure.exit_status(), message: failure.to_string() };
        if let Err(error) = self.send(&message, None) {
            tracing::warn!(%error, "nobody is left to be told");
        }
    }

    /// Gives a new process the word to begin, and waits until it runs its command; its terminal, if it has one, comes
    /// back.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] with what it says if it cannot.
    pub(crate) fn release(&self) -> Result<Option<OwnedFd>> {
        self.send(&Message::Go, None)?;
        let mut master = None;
        loop {
            match self.receive()? {
                Some((Message::Console, fd)) => master = fd,
                Some((Message::Failed { status, message }, _)) => {
                    return Err(Error::Command { status, message });
                }
                Some(_) => {}
                None => return Ok(master),
            }
        }
    }

    /// Waits for the maker's word to begin.
    ///
    /// # Errors
    ///
    /// If the maker has died instead.
    pub(crate) fn await_go(&self) -> Result<()> {
        match self.receive()? {
            Some((Message::Go, _)) => Ok(()),
            _ => Err(Error::State("the process that made the container is gone".into())),
        }
    }
}

/// A process, by a handle that the reuse of its number cannot lead astray.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Process {
    /// Copies this process (see [`sys::clone3`]): `body` runs in the copy, which ends with the exit status
    /// that it gives. Each side has its end of a channel, and no copy of the other's: so each hears when the other dies.
    pub(crate) fn spawn(
        namespaces: u64,
        cgroup: Option<BorrowedFd<'_>>,
        body: impl FnOnce(&Channel) -> u8,
    ) -> Result<(Self, Channel)> {
        let (ours, theirs) = Channel::pair()?;
        match sys::clone3(namespaces, cgroup).on("clone3", "a new process")? {
            Side::Parent { pid, pidfd } => Ok((Self { pid, pidfd }, ours)),
            Side::Child => {
                drop(ours);
                std::process::exit(i32::from(body(&theirs)))
            }
        }
    }

    /// The process `pid`, provided that it is the one that started at `start` ([`start_time`]).
    ///
    /// # Errors
    ///
    /// `ESRCH` if that one is gone.
    pub(crate) fn find(pid: i32, start: u64) -> Result<Self, Errno> {
        let pid = Pid::from_raw(pid).ok_or(Errno::SRCH)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
        // Read after the handle was taken: if the time fits, the handle is of that process.
        match start_time(pid.as_raw_nonzero().get()) {
            Some(found) if found == start => Ok(Self { pid, pidfd }),
            _ => Err(Errno::SRCH),
        }
    }

    /// Its number in our PID namespace.
    pub(crate) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// `ESRCH` if it has ended.
    pub(crate) fn signal(&self, signal: Signal) -> Result<(), Errno> {
        rustix::process::pidfd_send_signal(&self.pidfd, signal)
    }

    /// Sends a signal, unless the process has ended meanwhile, which is what a signal is for.
    pub(crate) fn signal_if_alive(&self, signal: Signal) {
        match self.signal(signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => tracing::warn!(%error, pid = self.pid(), "a signal was not delivered"),
        }
    }

    /// Waits until our child ends, and tells how a shell would: its exit status, or 128 and the signal.
    pub(crate) fn wait(&self) -> Result<u8, Errno> {
        let options = WaitIdOptions::EXITED;
        let ended = rustix::io::retry_on_intr(|| {
            rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), options)
        })?;
        Ok(ended.as_ref().map_or(crate::error::ENGINE_FAILED, shell_status))
    }

    /// Waits at most so many milliseconds for the process, whosever child it is, to end; tells if it did.
    pub(crate) fn wait_end(&self, milliseconds: i64) -> Result<bool, Errno> {
        let deadline =
            std::time::Instant::now() + std::time::Duration::from_millis(milliseconds.unsigned_abs());
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            let left = rustix::event::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut fds = [rustix::event::PollFd::new(&self.pidfd, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut fds, Some(&left)) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
                Ok(ready) => return Ok(ready > 0),
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

fn shell_status(ended: &WaitIdStatus) -> u8 {
    let status = match (ended.exit_status(), ended.terminating_signal()) {
        (Some(status), _) => status,
        (None, Some(signal)) => 128 + signal,
        (None, None) => i32::from(crate::error::ENGINE_FAILED),
    };
    u8::try_from(status).unwrap_or(u8::MAX)
}

/// When a process started, in clock ticks since boot: with its number it names one process for good (proc_pid_stat(5)).
pub(crate) fn start_time(pid: i32) -> Option<u64> {
    parse_start_time(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of `/proc/PID/stat`; the command in field 2 may hold anything, `)` included.
fn parse_start_time(stat: &str) -> Option<u64> {
    let (_, after_command) = stat.rsplit_once(')')?;
    after_command.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_is_field_22() {
        let tail = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21";
        for (case, stat, want) in [
            ("plain", format!("7 (sh) {tail}"), Some(4711)),
            ("brackets and spaces", format!("7 (a) b) (c) {tail}"), Some(4711)),
            ("cut short", "7 (sh) S 1".into(), None),
            ("empty", String::new(), None),
        ] {
            assert_eq!(parse_start_time(&stat), want, "{case}");
        }
    }

    #[test]
    fn find_refuses_another_start() {
        let pid = rustix::process::getpid().as_raw_nonzero().get();
        let start = start_time(pid).unwrap();
        assert!(Process::find(pid, start).is_ok());
        assert_eq!(Process::find(pid, start + 1).err(), Some(Errno::SRCH));
    }
}
