//! Counts FUSE messages by opcode for every candidate, as the kernel sees them: the `fuse_request_send`
//! tracepoint (fs/fuse/fuse_trace.h, kernel ≥ 6.10), read through an instance of tracefs of our own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::mount::{MsFlags, mount};

const TRACEFS: &str = "/sys/kernel/tracing";
/// Per CPU; one event takes some 40 bytes.
const BUFFER_KIB: &str = "65536";

/// Messages by opcode, without the `FUSE_` that all of their names begin with.
pub(crate) type Counts = BTreeMap<String, u64>;

/// An instance of the kernel's tracer. Dropping it removes the instance.
#[derive(Debug)]
pub(crate) struct Tracer {
    instance: PathBuf,
}

impl Tracer {
    /// Makes the instance; the caller must be in a mount namespace of its own.
    pub(crate) fn new() -> Result<Self> {
        if !Path::new(TRACEFS).join("events").exists() {
            mount(Some("tracefs"), TRACEFS, Some("tracefs"), MsFlags::empty(), None::<&str>)
                .context("mounting tracefs")?;
        }
        let instance = Path::new(TRACEFS).join(format!("instances/compare-{}", std::process::id()));
        fs::create_dir(&instance).with_context(|| format!("making {}", instance.display()))?;
        let tracer = Self { instance };
        tracer.set("tracing_on", "0")?;
        tracer.set("buffer_size_kb", BUFFER_KIB)?;
        tracer.set("events/fuse/fuse_request_send/enable", "1")?;
        Ok(tracer)
    }

    /// Begins to count the messages of one connection.
    pub(crate) fn begin(&self, connection: u32) -> Result<()> {
        self.set("events/fuse/fuse_request_send/filter", &format!("connection == {connection}"))?;
        self.set("trace", "")?;
        self.set("tracing_on", "1")
    }

    /// Ends it and tells what was counted.
    pub(crate) fn end(&self) -> Result<Counts> {
        self.set("tracing_on", "0")?;
        let path = self.instance.join("trace");
        let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        parse(&text)
    }

    fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.instance.join(file);
        fs::write(&path, value).with_context(|| format!("writing {value:?} to {}", path.display()))
    }
}

impl Drop for Tracer {
    fn drop(&mut self) {
        if let Err(error) = self.set("events/enable", "0").and_then(|()| Ok(fs::remove_dir(&self.instance)?))
        {
            eprintln!("compare: left {}: {error:#}", self.instance.display());
        }
    }
}

/// `… fuse_request_send: connection 45 req 8 opcode 1 (FUSE_LOOKUP) len 47`, after a header that tells of losses.
fn parse(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for line in text.lines() {
        if let Some(entries) = line.strip_prefix("# entries-in-buffer/entries-written: ") {
            let (kept, rest) = entries.split_once('/').context("tracefs changed its header")?;
            let written = rest.split_whitespace().next().unwrap_or_default();
            ensure!(kept == written, "the trace buffer was too small: {kept} of {written} messages kept");
        }
        // After the event's name: a task's name, before it, may hold anything.
        let Some((_, event)) = line.split_once("fuse_request_send:") else { continue };
        let opcode = event.split_once('(').and_then(|(_, rest)| rest.split_once(')')).map(|(name, _)| name);
        let name = opcode.context("tracefs changed its lines")?.trim_start_matches("FUSE_");
        *counts.entry(name.to_owned()).or_default() += 1;
    }
    Ok(counts)
}
