//! The program: parse, act, and turn a failure into one line and an exit status.

mod checks;
mod cli;
mod control;
mod offline;
mod remount;
mod serve;
mod unmount;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use anyhow::Context;
use cli::{Command, Invocation, MountPlan, Speaker};

/// A command line that clap cannot understand, as is its custom.
const USAGE: u8 = 2;
/// A command line that makes no sense.
const MISUSED: u8 = 1;

fn main() -> ExitCode {
    let mut argv: Vec<_> = std::env::args_os().collect();
    let background = argv.get(1).is_some_and(|first| first == serve::SERVE);
    if background {
        argv.remove(1);
    }
    let speaker = Speaker::of(&argv);
    let root = rustix::process::geteuid().is_root();
    let (said, status) = match speaker.read(&argv, root) {
        Ok(Invocation::Mount(plan)) => {
            let failed = speaker.personality.failure_status();
            (mount(&plan, &speaker, &argv, background), failed)
        }
        Ok(Invocation::Command(command)) => {
            start_log("error");
            (run(command), speaker.personality.failure_status())
        }
        Ok(Invocation::Say(text)) => {
            (std::io::stdout().write_all(text.as_bytes()).context("standard output"), 1)
        }
        Ok(Invocation::Clap(said)) => {
            // Nothing can be said where the terminal is gone.
            said.print().unwrap_or_default();
            return ExitCode::from(if said.use_stderr() { USAGE } else { 0 });
        }
        Err(refusal) => (Err(refusal.into()), MISUSED),
    };
    match said {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{}: {failure:#}", speaker.name());
            ExitCode::from(status)
        }
    }
}

fn mount(plan: &MountPlan, speaker: &Speaker, argv: &[OsString], background: bool) -> anyhow::Result<()> {
    if !background {
        for word in &plan.ignored {
            eprintln!("{}: unknown argument ignored: {word}", speaker.name());
        }
        for warning in checks::foreign_whiteouts(plan) {
            eprintln!("{}: {warning}", speaker.name());
        }
    }
    if plan.fake {
        return Ok(());
    }
    if plan.choice.remount {
        return remount::remount(plan);
    }
    if !plan.foreground && !background {
        return serve::in_background(argv);
    }
    start_log(if plan.debug { "unionfs=trace" } else { "error" });
    serve::serve(plan, background)
}

/// `UNIONFS_LOG` says what is told on standard error, in tracing's words; without it, `default`.
fn start_log(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("UNIONFS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        // It became a plan when it was read.
        Command::Mount(_) => Ok(()),
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
