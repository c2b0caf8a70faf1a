//! Our server's own counts, by `unionfs stats MOUNTPOINT --json`: where the kernel has no tracepoint to count with.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::trace::Counts;

/// How the question itself reaches the server: one message of this kind each time.
const QUESTION: &str = "GETXATTR";

#[derive(Deserialize)]
struct Told {
    ops: Vec<Op>,
}

#[derive(Deserialize)]
struct Op {
    op: String,
    count: u64,
}

/// Messages since the mount, by operation.
pub(crate) fn served(unionfs: &Path, root: &Path) -> Result<Counts> {
    let mut command = Command::new(unionfs);
    command.arg("stats").arg(root).arg("--json").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, error.trim());
    let told: Told =
        serde_json::from_slice(&output.stdout).context("unionfs stats --json changed its shape")?;
    Ok(told.ops.into_iter().map(|op| (op.op, op.count)).collect())
}

/// What was served between two answers, without the second question.
pub(crate) fn between(before: &Counts, after: &Counts) -> Counts {
    let mut counts = after.clone();
    for (op, count) in &mut counts {
        *count -= before.get(op).copied().unwrap_or(0).min(*count);
        if op == QUESTION {
            *count = count.saturating_sub(1);
        }
    }
    counts.retain(|_, count| *count > 0);
    counts
}
