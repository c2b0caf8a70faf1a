//! What is measured. Every workload checks that it did what it says, so that no candidate wins by doing nothing.

mod change;
mod data;
mod first;
mod hot;
mod memory;
mod program;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, CWD, FileType, statat};

use crate::link::Metric;
use crate::worker::Bench;

pub(crate) use memory::METRICS as MEMORY_METRICS;

/// One thing that is measured on every candidate.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    /// What one operation is.
    pub(crate) what: &'static str,
    /// How many times kernel overlay's time ours may take.
    pub(crate) ceiling: Option<f64>,
    pub(crate) run: fn(&mut Bench) -> Result<Vec<Metric>>,
}

/// Which part of a filesystem a workload is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// The kernel knows the answer.
    Hot,
    /// The kernel asks for the first time.
    First,
    /// Names and attributes change.
    Change,
    /// Contents are read and written.
    Data,
    /// Whole programs run.
    Program,
    /// A server's memory.
    Memory,
}

impl Class {
    /// As tables spell it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "answered by the kernel",
            Self::First => "first touch",
            Self::Change => "changes",
            Self::Data => "data",
            Self::Program => "programs",
            Self::Memory => "memory",
        }
    }
}

/// Every workload, in the order they run: what reads first, what fills the writable branch later.
pub(crate) fn all() -> impl Iterator<Item = &'static Workload> {
    [hot::ALL, first::ALL, change::ALL, data::ALL, program::ALL, memory::ALL].into_iter().flatten()
}

/// The workload of this name.
pub(crate) fn named(name: &str) -> Option<&'static Workload> {
    all().find(|workload| workload.name == name)
}

/// Visits everything below `dir` with its lstat done, as find(1) does.
pub(crate) fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, FileType)) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| format!("opendir {}", dir.display()))? {
        let path = entry.with_context(|| format!("readdir {}", dir.display()))?.path();
        // Not std's: its statx(2) asks for the birth time, which no find(1) does.
        let stat = statat(CWD, &path, AtFlags::SYMLINK_NOFOLLOW)
            .with_context(|| format!("lstat {}", path.display()))?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        visit(&path, kind);
        if kind.is_dir() {
            walk(&path, visit)?;
        }
    }
    Ok(())
}

/// A small generator of numbers that look random and are the same in every run (xorshift64*, Vigna 2014).
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The generator with its one seed.
    pub(crate) const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16) % bound
    }

    /// Fills `buf` with bytes that do not compress to nothing.
    pub(crate) fn fill(&mut self, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(4) {
            let bytes = self.below(1 << 32).to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
