//! On what was measured: without it a number says nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::candidate::{Candidate, Programs};

/// Whether the host lets FUSE go over io_uring (Documentation/filesystems/fuse/fuse-io-uring.rst).
const ENABLE_URING: &str = "/sys/module/fuse/parameters/enable_uring";

/// FUSE over io_uring switched on. Dropping it puts the host's setting back.
#[derive(Debug)]
pub(crate) struct UringOn {
    before: String,
}

impl UringOn {
    /// Switches it on.
    pub(crate) fn new() -> Result<Self> {
        let before = fs::read_to_string(ENABLE_URING).with_context(|| format!("reading {ENABLE_URING}"))?;
        fs::write(ENABLE_URING, "Y").with_context(|| format!("writing {ENABLE_URING}"))?;
        Ok(Self { before })
    }
}

impl Drop for UringOn {
    fn drop(&mut self) {
        if let Err(error) = fs::write(ENABLE_URING, self.before.trim()) {
            eprintln!("compare: {ENABLE_URING} stays Y: {error}");
        }
    }
}

/// Facts for the results' README, as name and value.
pub(crate) fn facts(candidates: &[&Candidate], programs: &Programs, work: &Path) -> Vec<(String, String)> {
    let system = rustix::system::uname();
    let version = system.version().to_string_lossy();
    let mut facts = vec![
        ("command".to_owned(), std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        ("project".to_owned(), said("git", &["describe", "--always", "--dirty", "--abbrev=12"])),
        ("kernel".to_owned(), format!("{} {version}", system.release().to_string_lossy())),
        ("processor".to_owned(), format!("{} × {}", cpus(), field("/proc/cpuinfo", "model name"))),
        ("memory".to_owned(), field("/proc/meminfo", "MemTotal")),
        ("filesystem of the layers".to_owned(), filesystem(work)),
        ("fuse enable_uring".to_owned(), setting(ENABLE_URING)),
        ("overlay metacopy".to_owned(), setting("/sys/module/overlay/parameters/metacopy")),
        ("load before the report".to_owned(), setting("/proc/loadavg")),
    ];
    for candidate in candidates.iter().filter(|candidate| !candidate.rootless) {
        if let Some(program) = candidate.program(programs) {
            let version = said(&program.to_string_lossy(), &["--version"]);
            facts.push((candidate.name.to_owned(), version));
        }
    }
    facts
}

/// `benches/results/DATE-HOST` of this project.
pub(crate) fn results_dir() -> Result<PathBuf> {
    let date = said("date", &["-u", "+%Y-%m-%d"]);
    ensure!(!date.is_empty(), "date(1) does not tell the date");
    let system = rustix::system::uname();
    let host = system.nodename().to_str().context("the host's name is not text")?;
    let results = Path::new(env!("CARGO_MANIFEST_DIR")).join("../benches/results");
    Ok(results.join(format!("{date}-{host}")))
}

/// What a command prints, in one line; empty when there is no such program.
fn said(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let is_told = |line: &&str| !line.is_empty() && !line.starts_with("fusermount3");
    text.lines().map(str::trim).filter(is_told).take(2).collect::<Vec<_>>().join("; ")
}

fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

fn setting(file: &str) -> String {
    fs::read_to_string(file).map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

fn cpus() -> String {
    std::thread::available_parallelism().map_or_else(|_| "?".to_owned(), |count| count.to_string())
}

fn filesystem(work: &Path) -> String {
    said("findmnt", &["-n", "-r", "-o", "FSTYPE,OPTIONS", "-T", &work.to_string_lossy()])
}
