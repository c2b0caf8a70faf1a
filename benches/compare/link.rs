//! What controller and worker say to each other: one JSON value a line, over the worker's standard streams.

use std::io::{BufRead, Write};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::trace::Counts;

/// From the controller.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// What the worker asked for was done; go on.
    Ack,
    /// Run a workload by name.
    Run(String),
}

/// From a worker.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker is in its new user namespace and waits for the id maps.
    Unshared,
    /// The candidate is mounted.
    Ready,
    /// The candidate cannot be mounted here, and why.
    Unable(String),
    /// Please drop the kernel's caches, as `/proc/sys/vm/drop_caches` numbers them.
    DropCaches(u8),
    /// The measured part begins on the filesystem with this device number (its minor, as FUSE names connections).
    Begin(u32),
    /// The measured part has ended; the messages that our server says it has served, if it was asked.
    End(Option<Counts>),
    /// The workload is done.
    Done(Vec<Metric>),
    /// The workload failed, and why.
    Failed(String),
}

/// One measured number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Metric {
    /// The workload's name, or, where one workload measures several things, the thing's.
    pub(crate) name: String,
    /// In `unit`.
    pub(crate) value: f64,
    pub(crate) unit: Unit,
    /// How many operations the value was averaged over.
    pub(crate) ops: u64,
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Unit {
    /// Microseconds per operation.
    MicrosPerOp,
    /// Bytes of a server's resident memory.
    Bytes,
}

impl Unit {
    /// As raw.csv spells it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::MicrosPerOp => "us/op",
            Self::Bytes => "bytes",
        }
    }
}

/// Writes one message.
pub(crate) fn send(out: &mut impl Write, message: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(message).context("encoding a message")?;
    line.push(b'\n');
    out.write_all(&line).and_then(|()| out.flush()).context("writing to the other side")
}

/// Reads one message; `None` at the end of the stream.
pub(crate) fn receive<T: DeserializeOwned>(input: &mut impl BufRead) -> Result<Option<T>> {
    let mut line = String::new();
    if input.read_line(&mut line).context("reading from the other side")? == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).with_context(|| format!("not a message: {line:?}"))
}
