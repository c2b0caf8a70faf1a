//! The program: parse, act, and turn a failure into one line and an exit status.

mod cli;
mod control;
mod offline;
mod serve;
mod unmount;

use std::process::ExitCode;

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
        Command::Diff(args) => offline::print_diff(&args),
        Command::Export(args) => offline::write_export(&args),
        Command::Check(args) => offline::print_check(&args),
        Command::Convert(args) => offline::print_convert(args),
        Command::Where(args) => offline::print_where(&args),
        Command::Branches { mountpoint } => control::branches(&mountpoint),
        Command::Add { mountpoint, place, branch } => control::command(
            &mountpoint,
            &["add".as_ref(), place.to_string().as_ref(), &control::absolute(&branch)],
        ),
        Command::Del { mountpoint, branch } => {
            control::command(&mountpoint, &["del".as_ref(), &control::absolute(&branch)])
        }
        Command::Mod { mountpoint, branch } => {
            control::command(&mountpoint, &["mod".as_ref(), &control::absolute(&branch)])
        }
        Command::Stats { mountpoint, json, watch } => control::stats(&mountpoint, json, watch),
        Command::Features { mountpoint, json } => control::features(&mountpoint, json),
    }
}
