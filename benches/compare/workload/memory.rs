//! What a server keeps in memory for what the kernel knows.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Class, Workload, walk};
use crate::fixture::{MANY_DIRS, MANY_FILES, Stack};
use crate::link::{Metric, Unit};
use crate::mount::Mounted;
use crate::worker::{Bench, Drop};

pub(super) const ALL: &[Workload] = &[Workload {
    name: "memory",
    class: Class::Memory,
    what: "resident memory of the server: idle; with 100,000 inodes known; after the kernel forgot them",
    ceiling: None,
    run: memory,
}];

/// The three things this workload measures.
pub(crate) const METRICS: [&str; 3] = ["rss-idle", "rss-known", "rss-forgotten"];

fn memory(bench: &mut Bench) -> Result<Vec<Metric>> {
    let many = bench.mount(Stack::Many)?;
    if many.resident()?.is_none() {
        return Ok(Vec::new());
    }
    let idle = settled(&many)?;
    let dirs = bench.amount(MANY_DIRS, MANY_DIRS / 10);
    let mut files = 0;
    for dir in 0..dirs {
        walk(&many.root().join(format!("d{dir:02}")), &mut |_, _| files += 1)?;
    }
    ensure!(files == dirs * MANY_FILES, "{files} files of {}", dirs * MANY_FILES);
    let known = many.resident()?.unwrap_or(0);
    bench.drop_caches(Drop::Slab)?;
    let forgotten = settled(&many)?;
    let inodes = u64::try_from(files)?;
    let value = |name: &str, bytes: u64| Metric {
        name: name.to_owned(),
        value: bytes as f64,
        unit: Unit::Bytes,
        ops: inodes,
    };
    Ok(METRICS.iter().zip([idle, known, forgotten]).map(|(name, bytes)| value(name, bytes)).collect())
}

/// The resident memory once it has stopped to fall, or after six seconds.
fn settled(many: &Mounted) -> Result<u64> {
    let mut last = many.resident()?.unwrap_or(0);
    for _ in 0..4 {
        thread::sleep(Duration::from_millis(1500));
        let now = many.resident()?.unwrap_or(0);
        if now == last {
            break;
        }
        last = now;
    }
    Ok(last)
}
