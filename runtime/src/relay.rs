//! Bytes between a command and whoever attends it: one loop over poll(2), in one thread, that never blocks for long.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::log::Log;

/// What is moved at a time. A pipe that polls as writable takes this much without blocking (`PIPE_BUF`, pipe(7)).
const CHUNK: usize = 4096;

/// One direction.
#[derive(Debug)]
struct Flow {
    /// Where bytes come from, until it has ended.
    from: Option<OwnedFd>,
    /// Where they go, as long as somebody takes them.
    to: Option<OwnedFd>,
    /// What was read and not yet written.
    pending: Vec<u8>,
    /// For output: which stream of the log, and the line that is not complete yet.
    log: Option<(&'static str, Vec<u8>)>,
    /// What is written when the source has ended: a terminal knows no end but the character for it.
    farewell: &'static [u8],
    /// For input: it is not closed although there is no source, because one may still come.
    kept_open: bool,
}

/// The flows of one command.
#[derive(Debug)]
pub(crate) struct Relay {
    log: Log,
    outputs: Vec<Flow>,
    input: Option<Flow>,
}

impl Relay {
    /// A relay that keeps what passes in `log`.
    pub(crate) fn new(log: Log) -> Self {
        Self { log, outputs: Vec::new(), input: None }
    }

    /// Carries the command's `stream` to `to`, if there is anybody.
    pub(crate) fn output(&mut self, stream: &'static str, from: OwnedFd, to: Option<OwnedFd>) {
        let log = Some((stream, Vec::new()));
        let from = Some(from);
        self.outputs.push(Flow { from, to, pending: Vec::new(), log, farewell: b"", kept_open: false });
    }

    /// Carries `from`, if there is anybody, to the command, which may have a terminal.
    pub(crate) fn input(&mut self, from: Option<OwnedFd>, to: OwnedFd, terminal: bool) {
        let farewell: &[u8] = if terminal { b"\x04" } else { b"" };
        let kept_open = from.is_none();
        self.input = Some(Flow { from, to: Some(to), pending: Vec::new(), log: None, farewell, kept_open });
    }

    /// Nobody attends any more: output goes to the log only. The command's input stays open, as in Docker.
    pub(crate) fn detach(&mut self) {
        for flow in &mut self.outputs {
            flow.to = None;
            flow.pending.clear();
        }
        if let Some(input) = &mut self.input {
            input.from = None;
            input.kept_open = true;
        }
    }

    /// The terminal's master side, if the command has one, to resize it.
    pub(crate) fn first_source(&self) -> Option<BorrowedFd<'_>> {
        self.outputs.first()?.from.as_ref().map(AsFd::as_fd)
    }

    /// Moves bytes until one of `others` is readable or has ended, and tells its place in the list.
    pub(crate) fn turn(&mut self, others: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        loop {
            let (first, ready) = self.wait(others, None)?;
            match first {
                Some(index) => return Ok(index),
                None => self.step(&ready),
            }
        }
    }

    /// Moves what the command has written before it ended. A process that it left behind is not waited for, but
    /// whoever reads our output is.
    pub(crate) fn flush(&mut self) -> Result<(), Errno> {
        let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
        self.input = None;
        loop {
            let moving = self.outputs.iter().any(|flow| !flow.pending.is_empty());
            let (_, ready) = self.wait(&[], if moving { None } else { Some(&at_once) })?;
            if ready.iter().all(|flags| flags.is_empty()) {
                break;
            }
            self.step(&ready);
        }
        for flow in &mut self.outputs {
            if let Some((stream, line)) = &mut flow.log {
                self.log.take_lines(stream, line, true);
            }
        }
        Ok(())
    }

    /// The first of `others` that is ready; and what happened on each flow's source if it is read, and on its target if
    /// it has one.
    fn wait(
        &self,
        others: &[BorrowedFd<'_>],
        timeout: Option<&Timespec>,
    ) -> Result<(Option<usize>, Vec<PollFlags>), Errno> {
        let mut fds: Vec<PollFd<'_>> =
            others.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
        for flow in self.outputs.iter().chain(&self.input) {
            let from = flow.from.as_ref().filter(|_| flow.wants_read());
            fds.extend(from.map(|fd| PollFd::new(fd, PollFlags::IN)));
            // A target is watched all the time: with nothing to write, for its end.
            let events = if flow.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            fds.extend(flow.to.as_ref().map(|fd| PollFd::new(fd, events)));
        }
        rustix::io::retry_on_intr(|| poll(&mut fds, timeout))?;
        let mut ready: Vec<PollFlags> = fds.iter().map(PollFd::revents).collect();
        let flows = ready.split_off(others.len());
        Ok((ready.iter().position(|flags| !flags.is_empty()), flows))
    }

    fn step(&mut self, ready: &[PollFlags]) {
        let mut ready = ready.iter().copied();
        for flow in self.outputs.iter_mut().chain(&mut self.input) {
            let mut flags =
                |watched: bool| watched.then(|| ready.next()).flatten().unwrap_or(PollFlags::empty());
            let from = flags(flow.wants_read());
            let to = flags(flow.to.is_some());
            flow.step(from, to, &mut self.log);
        }
        if self.input.as_ref().is_some_and(Flow::finished) {
            self.input = None; // closes the command's standard input
        }
    }
}

impl Flow {
    fn ended(&self) -> bool {
        self.from.is_none() && self.pending.is_empty()
    }

    /// For input: the command no longer takes it, or it has ended at its source.
    fn finished(&self) -> bool {
        self.to.is_none() || (self.ended() && !self.kept_open)
    }

    /// One piece at a time: nothing is read before the last piece is written.
    fn wants_read(&self) -> bool {
        self.from.is_some() && self.pending.is_empty()
    }

    fn step(&mut self, from: PollFlags, to: PollFlags, log: &mut Log) {
        if to.contains(PollFlags::OUT) {
            self.write();
        } else if to.intersects(PollFlags::ERR | PollFlags::HUP | PollFlags::NVAL) {
            self.abandon_target(to.contains(PollFlags::ERR));
        }
        if self.wants_read() && from.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            self.read(log);
        }
    }

    /// Whoever took the bytes is gone. A terminal that is gone leaves the command to the log; a pipe that nobody reads any
    /// more is closed to the command too, so that it ends as it would without us (`uctr run … | head`).
    fn abandon_target(&mut self, pipe: bool) {
        self.to = None;
        self.pending.clear();
        if pipe {
            self.from = None;
        }
    }

    fn read(&mut self, log: &mut Log) {
        let Some(source) = &self.from else { return };
        let mut chunk = [0; CHUNK];
        // A terminal whose last user is gone reads as EIO; both that and 0 are the end.
        let length = match rustix::io::read(source, &mut chunk[..]) {
            Err(Errno::INTR | Errno::AGAIN) => return,
            read => read.unwrap_or(0),
        };
        if let Some((stream, line)) = &mut self.log {
            line.extend_from_slice(&chunk[..length]);
            log.take_lines(stream, line, length == 0);
        }
        if length == 0 {
            self.from = None;
            self.pending.extend_from_slice(self.farewell);
        } else if self.to.is_some() {
            self.pending.extend_from_slice(&chunk[..length]);
        }
    }

    fn write(&mut self) {
        let Some(target) = &self.to else { return self.pending.clear() };
        match rustix::io::write(target, &self.pending[..self.pending.len().min(CHUNK)]) {
            Ok(written) => drop(self.pending.drain(..written)),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => self.abandon_target(errno == Errno::PIPE),
        }
    }
}
