//! What a container is at this moment: the kernel's word, and one small file for what the kernel forgets.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, On, Result};
use crate::process::{Process, start_time};

/// A process by number and start, so that it can be told from a later one with the same number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Number in the host's PID namespace.
    pub pid: i32,
    /// Clock ticks since boot.
    pub start: u64,
}

impl ProcessId {
    /// The process `pid` as it is now.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let start = start_time(pid).ok_or(Errno::SRCH).on("read", format!("/proc/{pid}/stat"))?;
        Ok(Self { pid, start })
    }

    /// A handle on it, if it still runs. One that has ended but is not waited for by its parent does not.
    pub(crate) fn find(self) -> Option<Process> {
        let process = Process::find(self.pid, self.start).ok()?;
        process.wait_end(0).is_ok_and(|ended| !ended).then_some(process)
    }
}

/// Where a container is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Never started, or its command could not be.
    #[default]
    Created,
    /// Its command runs.
    Running,
    /// Its command has ended.
    Exited,
}

/// The small file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct State {
    /// As the monitor wrote it last; `State::load` corrects what a killed monitor left.
    pub status: Status,
    /// The container's first process, while it runs.
    pub init: Option<ProcessId>,
    /// The process that waits for it and keeps its output.
    pub monitor: Option<ProcessId>,
    /// When the command was started, in RFC 3339; empty before.
    pub started_at: String,
    /// When it ended; empty before.
    pub finished_at: String,
    /// Its exit status, or 128 and a signal.
    pub exit_code: u8,
    /// Whether the kernel killed a process of it for want of memory.
    pub oom_killed: bool,
    /// Why it could not start or did not end by itself; else empty.
    pub error: String,
}

/// The status of a container whose monitor was killed: its processes died with it, by SIGKILL.
const LOST: u8 = 128 + 9;

impl State {
    /// What the file says, corrected by what the kernel says.
    ///
    /// # Errors
    ///
    /// If the file is there but cannot be read.
    pub(crate) fn load(run: &Path) -> Result<Self> {
        let mut state: Self = match read_json(&run.join("state.json")) {
            Err(Error::System { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                Self::default()
            }
            read => read?,
        };
        let watched = state.monitor.is_some_and(|monitor| monitor.find().is_some());
        if !watched && state.status == Status::Running {
            state.status = Status::Exited;
            state.exit_code = LOST;
            state.error = "its monitor was killed".into();
        }
        if !watched {
            state.init = None;
            state.monitor = None;
        }
        Ok(state)
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn save(&self, run: &Path) -> Result<()> {
        write_json(&run.join("state.json"), self)
    }
}

/// The right to change a container, kept for its whole life by the monitor of a running one (flock(2)).
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
}

impl Lock {
    /// Takes the lock of the container whose state is in `run`, or tells that somebody else has it.
    pub(crate) fn try_take(run: &Path) -> Result<Option<Self>> {
        fs::create_dir_all(run).on("mkdir", run)?;
        Self::try_open(run, File::options().create(true).truncate(false).write(true))
    }

    /// The same, for a container that may be going: nothing is made.
    ///
    /// # Errors
    ///
    /// `ENOENT` if there is no lock any more.
    pub(crate) fn try_existing(run: &Path) -> Result<Option<Self>> {
        Self::try_open(run, File::options().write(true))
    }

    fn try_open(run: &Path, how: &OpenOptions) -> Result<Option<Self>> {
        let path = run.join("lock");
        let file = how.open(&path).on("open", &path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno).on("flock", &path),
        }
        // Whoever had it before may have removed the container, and this file with it.
        let links = rustix::fs::fstat(&file).on("stat", &path)?.st_nlink;
        Ok((links > 0).then_some(Self { file }))
    }

    /// Waits for the lock of the whole store, under which names are given.
    pub(crate) fn wait_for_store(run: &Path) -> Result<Self> {
        fs::create_dir_all(run).on("mkdir", run)?;
        let path = run.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path).on("open", &path)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .on("flock", &path)?;
        Ok(Self { file })
    }

    /// The descriptor that holds it, for a process that must keep it open.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

/// Reads a file of ours.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).on("read", path)?;
    serde_json::from_slice(&bytes)
        .map_err(|source| Error::Damaged { path: path.display().to_string(), source })
}

/// Writes a file of ours by rename, so that a reader sees the old content or the new.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(std::io::Error::other).on("encode", path)?;
    let new: PathBuf = path.with_extension("new");
    fs::write(&new, bytes).on("write", &new)?;
    fs::rename(&new, path).on("rename", path)
}
