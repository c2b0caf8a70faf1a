//! What was typed.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Compares union filesystems on the same layers: see `benches/README.md`.
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Args {
    /// One short round, small amounts: to see that everything works, not to publish.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Rounds; the median over them is reported (default 5, with --quick 1).
    #[arg(long, value_name = "N")]
    pub(crate) rounds: Option<u32>,
    /// Only these workloads (names or prefixes, comma separated).
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Only these candidates (names, comma separated); kernel overlay is always among them.
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    pub(crate) candidates: Vec<String>,
    /// Do not count FUSE messages in an additional, untimed round.
    #[arg(long)]
    pub(crate) no_messages: bool,
    /// Count messages by our server's own word, even where the kernel has a tracepoint for all.
    #[arg(long)]
    pub(crate) ask_server: bool,
    /// Switch FUSE over io_uring on (kernel ≥ 6.14) for the time of the run; it is a setting of the whole host.
    #[arg(long)]
    pub(crate) enable_uring: bool,
    /// Lists workloads and candidates and does nothing else.
    #[arg(long)]
    pub(crate) list: bool,
    /// Where the disk image with the layers is kept between runs.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../build/bench"))]
    pub(crate) work: PathBuf,
    /// Where to look for peers that were installed for this (fuse-overlayfs 2.0).
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/../build/tools/bin"))]
    pub(crate) tools: PathBuf,
    /// Where results go (default: benches/results/DATE-HOST, with --quick WORK/results).
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Our program.
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_unionfs"))]
    pub(crate) unionfs: PathBuf,
    /// What `cargo bench` adds to every command line.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
    #[command(subcommand)]
    pub(crate) mode: Option<Mode>,
}

/// The program's inner ways to be called.
#[derive(Debug, Subcommand)]
pub(crate) enum Mode {
    /// One candidate, driven by the controller over standard input and output.
    #[command(hide = true)]
    Worker(WorkerArgs),
}

/// What a worker is told at its start.
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    #[arg(long)]
    pub(crate) candidate: String,
    #[arg(long)]
    pub(crate) quick: bool,
    /// Ask our server what it has served, before and after each workload.
    #[arg(long)]
    pub(crate) ask: bool,
    /// Also the worker's working directory: paths of layers are relative to it.
    #[arg(long)]
    pub(crate) work: PathBuf,
    #[arg(long)]
    pub(crate) tools: PathBuf,
    #[arg(long)]
    pub(crate) unionfs: PathBuf,
}
