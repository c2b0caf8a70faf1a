//! The command line as data, one module a family of commands.

mod container;
pub(crate) mod image;
mod list;
mod logs;
mod text;
mod volume;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use uctr::Paths;
use uctr::error::ENGINE_FAILED;
use uctr::{protect, rootless};

/// Runs containers from images, on a union filesystem of its own.
#[derive(Debug, Parser)]
#[command(name = "uctr", version, max_term_width = 100, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Keeps images, containers and volumes in DIR, and their state in DIR/run.
    #[arg(long, global = true, value_name = "DIR", env = "UCTR_ROOT")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Image(image::ImageCommand),
    #[command(flatten)]
    Container(container::ContainerCommand),
    /// Manage volumes.
    Volume(volume::VolumeArgs),
}

/// What every command is given beside its own arguments.
#[derive(Debug)]
pub(crate) struct Context {
    /// The store, as `--root`, `UCTR_ROOT` or the user decides.
    pub(crate) paths: Paths,
}

/// Runs the command and tells its exit status.
pub(crate) fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let paths = match cli.root {
        Some(root) => Paths::under(&std::path::absolute(root)?),
        None => {
            let lookup = |name: &str| std::env::var_os(name).map(PathBuf::from);
            Paths::of_user(rustix::process::geteuid().as_raw(), lookup)
        }
    };
    let context = Context { paths };
    match cli.command {
        // What is unpacked belongs to the user's own identifiers, which only a user namespace can give.
        Command::Image(command) if rootless::needed() => Ok(rootless::as_root_for_status(|| {
            image::run(command, &context).map_err(|error| uctr::Error::State(format!("{error:#}")))
        })?),
        Command::Image(command) => image::run(command, &context),
        Command::Container(command) if command.enters_container() => {
            protect::start_again_read_only()?;
            container::run(command, &context)
        }
        Command::Container(command) => container::run(command, &context),
        Command::Volume(args) => volume::run(args, &context),
    }
}

/// The exit status for a command that failed.
pub(crate) fn exit_status(failure: &anyhow::Error) -> u8 {
    failure.downcast_ref::<uctr::Error>().map_or(ENGINE_FAILED, uctr::Error::exit_status)
}

/// Prints help where it was asked for (status 0), else what is wrong with the command line (status 125).
pub(crate) fn refuse_usage(usage: &clap::Error) -> ExitCode {
    // Nothing is left to be told to a caller whose terminal is gone.
    drop(usage.print());
    if usage.use_stderr() { ExitCode::from(ENGINE_FAILED) } else { ExitCode::SUCCESS }
}
