//! The union as a process of its own: `uctr serve-union`, this program again.
//!
//! It is a process and not threads of the monitor, because the monitor must stay single-threaded to make processes,
//! and because no process may wait on a filesystem that it serves itself.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use rustix::process::Signal;
use unionfs::branch::{BranchSpec, Perm};

use crate::error::{Error, On, Result};
use crate::process::Process;
use crate::request::Io;
use crate::state::ProcessId;

/// The branches of a union, the highest first.
#[derive(Clone, Debug, Default)]
pub struct Branches(Vec<(PathBuf, String)>);

impl Branches {
    /// Adds one below the others; `permission` is `rw`, `ro`, `ro+wh`, ….
    pub(crate) fn push(&mut self, path: &Path, permission: &str) {
        self.0.push((path.to_owned(), permission.to_owned()));
    }

    /// From the arguments that a server is started with: `PATH=PERMISSION`.
    pub fn from_args(args: &[OsString]) -> Option<Self> {
        let parse = |arg: &OsString| {
            let bytes = arg.as_bytes();
            let split = bytes.iter().rposition(|byte| *byte == b'=')?;
            let permission = std::str::from_utf8(&bytes[split + 1..]).ok()?;
            Some((OsStr::from_bytes(&bytes[..split]).into(), permission.to_owned()))
        };
        args.iter().map(parse).collect::<Option<Vec<_>>>().map(Self)
    }

    fn to_args(&self) -> impl Iterator<Item = OsString> {
        self.0.iter().map(|(path, permission)| {
            OsString::from_vec([path.as_os_str().as_bytes(), b"=", permission.as_bytes()].concat())
        })
    }
}

/// What the server says when the mount answers; anything else is what went wrong.
const READY: &str = "ready";

/// How long a server may take to end once its filesystem is unmounted, in milliseconds.
const PATIENCE: i64 = 5000;

/// The serving process.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    process: Process,
}

impl Server {
    /// Starts it and waits until the mount answers.
    pub(crate) fn start(merged: &Path, work: &Path, branches: &Branches, io: Io) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["serve-union", "--io", &io.name()])
            .args([merged, work])
            .args(branches.to_args())
            .env_remove("UCTR_ROOT")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .on("start", "uctr serve-union")?;
        let mut answer = String::new();
        if let Some(mut pipe) = child.stdout.take() {
            pipe.read_to_string(&mut answer).on("read", "answer of uctr serve-union")?;
        }
        if answer.trim_end() != READY {
            let status = child.wait().on("wait for", "uctr serve-union")?;
            let why = if answer.is_empty() { status.to_string() } else { answer.trim_end().to_owned() };
            return Err(Error::State(format!("the union of {} cannot be served: {why}", merged.display())));
        }
        let pid = i32::try_from(child.id()).unwrap_or_default();
        let start = ProcessId::of(pid)?.start;
        let process = Process::find(pid, start).on("pidfd_open", pid.to_string())?;
        Ok(Self { child, process })
    }

    /// The process.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// Waits for its end, which the unmount has brought about.
    pub(crate) fn stop(mut self) -> Result<()> {
        if !self.process.wait_end(PATIENCE).on("wait for", "uctr serve-union")? {
            tracing::warn!("the union server did not end by itself");
            self.process.signal(Signal::KILL).on("kill", "uctr serve-union")?;
        }
        self.child.wait().on("wait for", "uctr serve-union").map(drop)
    }
}

/// Serves a union until it is unmounted: the body of `uctr serve-union`.
///
/// Whoever started it reads one line from standard output: `ready`, or what is wrong.
///
/// # Errors
///
/// What ended the service after it was ready.
pub fn serve(mountpoint: &Path, work: &Path, branches: &Branches, io: Io) -> Result<()> {
    // With the monitor the container goes, and then nobody unmounts.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).on("prctl", "PR_SET_PDEATHSIG")?;
    unionfs::raise_open_files(None);
    let mounted = mount(mountpoint, work, branches, io);
    let answer = match &mounted {
        Ok(_) => READY.to_owned(),
        Err(failure) => failure.clone(),
    };
    let mut stdout = std::io::stdout();
    // If the monitor was gone before the death signal was set, the write fails, and the mount must not stay.
    writeln!(stdout, "{answer}").on("write", "answer of uctr serve-union")?;
    let null = std::fs::File::options().write(true).open("/dev/null").on("open", "/dev/null")?;
    rustix::stdio::dup2_stdout(&null).on("dup2", "standard output")?; // closes the pipe: the end of the answer
    let server = mounted.map_err(Error::State)?;
    server.run().map_err(|error| Error::State(format!("serving {}: {error}", mountpoint.display())))
}

fn mount(
    mountpoint: &Path,
    work: &Path,
    branches: &Branches,
    io: Io,
) -> Result<unionfs::mount::Server, String> {
    let specs = branches.0.iter().map(|(path, permission)| {
        let perm = Perm::parse(permission).ok_or_else(|| format!("{permission} is no permission"))?;
        Ok(BranchSpec { path: path.clone(), perm })
    });
    let specs = specs.collect::<Result<Vec<_>, String>>()?;
    let options = unionfs::Options { workdir: Some(work.to_owned()), ..unionfs::Options::default() };
    let union = unionfs::Union::new(specs, options).map_err(|error| error.to_string())?;
    unionfs::mount::MountOptions::new(mountpoint)
        .fsname("uctr")
        .access(unionfs::mount::Access::Everyone)
        .io(io.into())
        .mount(Arc::new(union))
        .map_err(|error| error.to_string())
}
