//! The terminal of a container: a pair from its own devpts (pts(4)).

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::pty::OpenptFlags;
use rustix::termios::{OptionalActions, Termios, Winsize};

use crate::error::{On, Result};
use crate::mounts::open_in_root;

/// Both sides of a terminal.
#[derive(Debug)]
pub(crate) struct Pair {
    /// For whoever shows it.
    pub(crate) master: OwnedFd,
    /// For the command.
    pub(crate) terminal: OwnedFd,
}

/// Opens a new terminal of the devpts below `root`.
pub(crate) fn open(root: BorrowedFd<'_>) -> Result<Pair> {
    const PTMX: &str = "/dev/pts/ptmx";
    let flags = OFlags::RDWR | OFlags::NOCTTY;
    let master = open_in_root(root, Path::new(PTMX), flags).on("open in the container", PTMX)?;
    rustix::pty::unlockpt(&master).on("unlock the terminal of", PTMX)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let terminal = rustix::pty::ioctl_tiocgptpeer(&master, flags).on("TIOCGPTPEER", PTMX)?;
    Ok(Pair { master, terminal })
}

/// Makes the terminal that of this session, whose leader this process must be.
pub(crate) fn control(terminal: BorrowedFd<'_>) -> Result<()> {
    rustix::process::ioctl_tiocsctty(terminal).on("TIOCSCTTY", "terminal")
}

/// The size of the caller's terminal, if `fd` is one.
pub fn size(fd: BorrowedFd<'_>) -> Option<(u16, u16)> {
    rustix::termios::tcgetwinsize(fd).ok().map(|size| (size.ws_row, size.ws_col))
}

/// Tells a terminal its size in rows and columns.
pub(crate) fn resize(master: BorrowedFd<'_>, (rows, columns): (u16, u16)) {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    if let Err(error) = rustix::termios::tcsetwinsize(master, size) {
        tracing::debug!(%error, "the terminal keeps its size");
    }
}

/// The caller's terminal in raw mode, as long as this lives.
#[derive(Debug)]
pub struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Sets raw mode, if `fd` is a terminal.
    pub fn enter(fd: BorrowedFd<'a>) -> Option<Self> {
        let before = rustix::termios::tcgetattr(fd).ok()?;
        let mut raw = before.clone();
        raw.make_raw();
        rustix::termios::tcsetattr(fd, OptionalActions::Drain, &raw).ok()?;
        Some(Self { terminal: fd, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        if let Err(error) = rustix::termios::tcsetattr(self.terminal, OptionalActions::Drain, &self.before) {
            tracing::warn!(%error, "the terminal is left in raw mode; run reset");
        }
    }
}
