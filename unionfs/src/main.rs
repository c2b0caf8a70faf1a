//! The program: parse, act, and turn a failure into one line and an exit status.

mod cli;
mod serve;
mod unmount;

use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use cli::{Cli, Command};

/// A command that failed.
const FAILED: u8 = 1;
/// A command line that cannot be understood.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => {
            let status = if usage.use_stderr() { USAGE } else { 0 };
            // Nothing can be said where the terminal is gone.
            usage.print().unwrap_or_default();
            return ExitCode::from(status);
        }
    };
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("UNIONFS_LOG"))
        .with_writer(std::io::stderr)
        .init();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("unionfs: {failure:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Mount(args) => serve::mount(&args),
        Command::Umount(args) => unmount::unmount(&args.mountpoint, args.lazy),
        Command::Branches { mountpoint } => {
            let mut value = vec![0; 1 << 16];
            let len = rustix::fs::getxattr(&mountpoint, unionfs::union::BRANCHES, &mut *value).with_context(
                || format!("{} is not the root of a mounted union: getxattr", mountpoint.display()),
            )?;
            std::io::stdout().write_all(&value[..len]).context("standard output")
        }
    }
}
