//! One mounted candidate: started, awaited, and taken down again.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::candidate::{Candidate, Kind, Places, Programs, overlay_options};
use crate::server;

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A united tree. Dropping it unmounts and ends the server.
#[derive(Debug)]
pub(crate) struct Mounted {
    root: PathBuf,
    server: Option<Child>,
    is_mount: bool,
}

/// Where messages are counted.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) root: PathBuf,
    /// The minor number of its device: what FUSE names a connection by.
    pub(crate) connection: u32,
}

impl Mounted {
    /// Unites `places`; for [`Kind::Plain`] the tree is `plain`, as it is.
    pub(crate) fn new(
        candidate: &Candidate,
        programs: &Programs,
        places: &Places,
        plain: &Path,
    ) -> Result<Self> {
        if candidate.kind == Kind::Plain {
            return Ok(Self { root: plain.to_path_buf(), server: None, is_mount: false });
        }
        for dir in [&places.upper, &places.work, &places.target] {
            fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
        }
        match candidate.program(programs) {
            None => Self::kernel_overlay(candidate, places),
            Some(program) => Self::serve(&program, candidate, places),
        }
    }

    fn serve(program: &Path, candidate: &Candidate, places: &Places) -> Result<Self> {
        let mounted = Self::start(program, candidate, places)?;
        if let Kind::Ours(choice) = candidate.kind {
            server::expect_live(program, &mounted.root, choice.live)?;
        }
        Ok(mounted)
    }

    fn kernel_overlay(candidate: &Candidate, places: &Places) -> Result<Self> {
        // mount(2) takes one page of options: relative paths let a hundred layers fit.
        let places = relative(places)?;
        let options = overlay_options(&places, if candidate.rootless { ",userxattr" } else { "" });
        mount(Some("overlay"), &places.target, Some("overlay"), MsFlags::empty(), Some(options.as_os_str()))
            .with_context(|| format!("mounting overlay at {}", places.target.display()))?;
        Ok(Self { root: fs::canonicalize(&places.target)?, server: None, is_mount: true })
    }

    fn start(program: &Path, candidate: &Candidate, places: &Places) -> Result<Self> {
        let before = fs::metadata(&places.target)?.dev();
        let log = places.target.with_extension("log");
        let log_file = fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        // setpriv: a server must not outlive a worker that is killed, or its mount would hang its users.
        let server = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(candidate.arguments(places))
            .stdin(Stdio::null())
            .stdout(log_file.try_clone()?)
            .stderr(log_file)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        let mut mounted = Self { root: places.target.clone(), server: Some(server), is_mount: true };
        mounted.wait_until_it_answers(before, &log)?;
        Ok(mounted)
    }

    fn wait_until_it_answers(&mut self, dev_before: u64, log: &Path) -> Result<()> {
        let begun = Instant::now();
        while fs::metadata(&self.root).map_or(true, |now| now.dev() == dev_before) {
            let ended = self.server.as_mut().map(Child::try_wait).transpose()?.flatten();
            if let Some(status) = ended {
                self.is_mount = false;
                bail!("the server ended before it mounted ({status}): {}", last_line(log));
            }
            if begun.elapsed() > START_LIMIT {
                bail!("not mounted after {START_LIMIT:?}: {}", last_line(log));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// The united tree.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Where to count messages.
    pub(crate) fn place(&self) -> Result<Place> {
        let connection = rustix::fs::minor(fs::metadata(&self.root)?.dev());
        Ok(Place { root: self.root.clone(), connection })
    }

    /// The server's resident memory in bytes (`VmRSS`, proc_pid_status(5)); `None` without a server.
    pub(crate) fn resident(&self) -> Result<Option<u64>> {
        let Some(server) = &self.server else { return Ok(None) };
        let path = format!("/proc/{}/status", server.id());
        let status = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        let kib = status
            .lines()
            .find_map(|line| {
                line.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
            })
            .with_context(|| format!("no VmRSS in {path}"))?;
        Ok(Some(kib * 1024))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_mount
            && let Err(error) = umount2(&self.root, MntFlags::MNT_DETACH)
        {
            eprintln!("compare: left mounted: {}: {error}", self.root.display());
        }
        if let Some(server) = &mut self.server {
            end(server);
        }
    }
}

/// Waits for a server to end by itself, as it should when its mount is gone; else kills it.
fn end(server: &mut Child) {
    let begun = Instant::now();
    while begun.elapsed() < STOP_LIMIT {
        match server.try_wait() {
            Ok(None) => thread::sleep(Duration::from_millis(5)),
            Ok(Some(_)) | Err(_) => return,
        }
    }
    eprintln!("compare: server {} did not end with its mount; killed", server.id());
    if let Err(error) = server.kill().and_then(|()| server.wait()) {
        eprintln!("compare: cannot kill server {}: {error}", server.id());
    }
}

fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("(it said nothing)").to_owned()
}

/// The same places as seen from the working directory.
fn relative(places: &Places) -> Result<Places> {
    let here = std::env::current_dir()?;
    let shorten = |path: &PathBuf| path.strip_prefix(&here).map_or_else(|_| path.clone(), Path::to_path_buf);
    Ok(Places {
        layers: places.layers.iter().map(shorten).collect(),
        upper: shorten(&places.upper),
        work: shorten(&places.work),
        target: shorten(&places.target),
    })
}
