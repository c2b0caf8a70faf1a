//! What our server says of itself: `unionfs stats MOUNTPOINT --json`, where the kernel has no tracepoint to count
//! with, and `unionfs features MOUNTPOINT --json`.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, de::DeserializeOwned};

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

#[derive(Deserialize)]
struct Negotiated {
    features: Vec<Feature>,
}

#[derive(Deserialize)]
struct Feature {
    name: String,
    live: bool,
}

/// Messages since the mount, by operation.
pub(crate) fn served(unionfs: &Path, root: &Path) -> Result<Counts> {
    let told: Told = ask(unionfs, "stats", root)?;
    Ok(told.ops.into_iter().map(|op| (op.op, op.count)).collect())
}

/// Fails unless all of `wanted` were agreed on with the kernel: a fallback must not be measured under another's name.
pub(crate) fn expect_live(unionfs: &Path, root: &Path, wanted: &[&str]) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let told: Negotiated = ask(unionfs, "features", root)?;
    for want in wanted {
        let is_live = told.features.iter().any(|feature| feature.name == *want && feature.live);
        ensure!(is_live, "{want} is not live ('compare --enable-uring' switches FUSE over io_uring on)");
    }
    Ok(())
}

fn ask<T: DeserializeOwned>(unionfs: &Path, what: &str, root: &Path) -> Result<T> {
    let mut command = Command::new(unionfs);
    command.arg(what).arg(root).arg("--json").stdin(Stdio::null());
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, error.trim());
    serde_json::from_slice(&output.stdout).with_context(|| format!("{command:?} changed its shape"))
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
