//! Commands on containers.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use uctr::container::{self, Attend, Change, ImageSource, Outcome, Removal};
use uctr::image::{Image, Store};
use uctr::request::{ExecRequest, Io, Request};
use uctr::spec::{Host, ImageDefaults};
use uctr::{Container, rootfs, spec};

use super::{Context, list, logs};

/// Commands on containers.
#[derive(Debug, Subcommand)]
pub(crate) enum ContainerCommand {
    /// Create a container and run it.
    Run(Box<RunArgs>),
    /// Create a container without starting it.
    Create(Box<Request>),
    /// Start created or ended containers.
    Start(StartArgs),
    /// Run a command in a running container.
    Exec(ExecRequest),
    /// List containers.
    Ps(list::PsArgs),
    /// Show all that is known of containers, as JSON or by a template.
    Inspect(list::InspectArgs),
    /// Show the output of a container.
    Logs(logs::LogsArgs),
    /// List what a container has added (A), changed (C) and deleted (D).
    Diff {
        /// The container, by name or identifier.
        container: String,
    },
    /// Ask containers to end, and make them after a while.
    Stop(StopArgs),
    /// Stop containers and start them again.
    Restart(StopArgs),
    /// Send a signal to containers.
    Kill(KillArgs),
    /// Wait until containers have ended, and print their exit statuses.
    Wait(Names),
    /// Remove containers.
    Rm(RmArgs),
    /// Serve a container's union; uctr calls this by itself.
    #[command(hide = true)]
    ServeUnion(ServeArgs),
}

impl ContainerCommand {
    /// Whether a process of ours is to enter a container.
    pub(crate) fn enters_container(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Start(_) | Self::Restart(_) | Self::Exec(_))
    }
}

#[derive(Args, Debug)]
pub(crate) struct RunArgs {
    /// Do not wait for the container to end; print its identifier.
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    request: Request,
}

#[derive(Args, Debug)]
pub(crate) struct StartArgs {
    /// Attend the container's output until it ends.
    #[arg(short, long)]
    attach: bool,
    #[command(flatten)]
    names: Names,
}

#[derive(Args, Debug)]
pub(crate) struct Names {
    /// Containers, by name or identifier.
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StopArgs {
    /// Seconds until they are killed, in place of what they were created with.
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS")]
    time: Option<u32>,
    #[command(flatten)]
    names: Names,
}

#[derive(Args, Debug)]
pub(crate) struct KillArgs {
    /// The signal, by name or number.
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[command(flatten)]
    names: Names,
}

#[derive(Args, Debug)]
pub(crate) struct RmArgs {
    /// Kill them first if they run; none of that name is no error.
    #[arg(short, long)]
    force: bool,
    /// Remove their anonymous volumes too.
    #[arg(short, long)]
    volumes: bool,
    #[command(flatten)]
    names: Names,
}

#[derive(Args, Debug)]
pub(crate) struct ServeArgs {
    #[arg(long, value_enum)]
    io: Io,
    mountpoint: PathBuf,
    work: PathBuf,
    branches: Vec<OsString>,
}

/// Runs one of them and tells its exit status.
pub(crate) fn run(command: ContainerCommand, context: &Context) -> anyhow::Result<u8> {
    match command {
        ContainerCommand::Run(args) => run_new(&args, context),
        ContainerCommand::Create(request) => {
            let container = create(&request, context)?;
            say(&container.config().id)
        }
        ContainerCommand::Start(args) => start(&args, context),
        ContainerCommand::Exec(request) => {
            let container = Container::find(&context.paths, &request.container)?;
            Ok(status(container::exec(&container, &request, &host()?)?))
        }
        ContainerCommand::Ps(args) => list::ps(&args, context),
        ContainerCommand::Inspect(args) => list::inspect(&args, context),
        ContainerCommand::Logs(args) => logs::logs(&args, context),
        ContainerCommand::Diff { container } => {
            let changes = container::diff(&Container::find(&context.paths, &container)?)?;
            changes.iter().try_for_each(|(path, change)| show_change(path, *change))?;
            Ok(0)
        }
        ContainerCommand::Stop(args) => each(&args.names, context, |container| {
            container::stop(container, args.time)?;
            say(container.config().name.as_str())
        }),
        ContainerCommand::Restart(args) => each(&args.names, context, |container| {
            container::stop(container, args.time)?;
            container::start(container, Attend::Detached)?;
            say(container.config().name.as_str())
        }),
        ContainerCommand::Kill(args) => {
            let refuse = || uctr::Error::Absent { kind: "signal", name: args.signal.clone() };
            let signal = spec::signal(&args.signal).ok_or_else(refuse)?;
            each(&args.names, context, |container| {
                container::kill(container, signal)?;
                say(container.config().name.as_str())
            })
        }
        ContainerCommand::Wait(names) => {
            each(&names, context, |container| say(&container::wait(container)?.to_string()))
        }
        ContainerCommand::Rm(args) => remove(&args, context),
        ContainerCommand::ServeUnion(args) => {
            let branches =
                rootfs::Branches::from_args(&args.branches).context("a branch is PATH=PERMISSION")?;
            rootfs::serve(&args.mountpoint, &args.work, &branches, args.io)?;
            Ok(0)
        }
    }
}

/// A path is bytes, and printed as they are.
fn show_change(path: &Path, change: Change) -> anyhow::Result<()> {
    let letter: &[u8] = match change {
        Change::Added => b"A ",
        Change::Changed => b"C ",
        Change::Deleted => b"D ",
    };
    let line = [letter, path.as_os_str().as_encoded_bytes(), b"\n"].concat();
    std::io::stdout().write_all(&line).context("standard output")
}

fn host() -> anyhow::Result<Host> {
    let cpus = std::thread::available_parallelism().context("the number of processors")?;
    let env = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(Host { cpus: u32::try_from(cpus.get()).unwrap_or(u32::MAX), env })
}

fn create(request: &Request, context: &Context) -> anyhow::Result<Container> {
    let paths = &context.paths;
    let name = match (&request.rootfs, &request.image) {
        (Some(_), _) => return Ok(container::create(paths, request, &ImageSource::default(), &host()?)?),
        (None, Some(name)) => name,
        (None, None) => anyhow::bail!("no image was named; see uctr run --help"),
    };
    let store = Store::open(paths.data())?;
    // Until the container is noted nothing else tells that the image is in use.
    let hold = store.hold()?;
    let image = source(name, store.resolve(name)?);
    let container = container::create(paths, request, &image, &host()?)?;
    drop(hold);
    Ok(container)
}

/// What a container takes from an image.
fn source(name: &str, image: Image) -> ImageSource {
    let config = image.config;
    ImageSource {
        id: image.id.to_string(),
        name: name.to_owned(),
        defaults: ImageDefaults {
            env: config.env,
            entrypoint: config.entrypoint,
            cmd: config.cmd,
            working_dir: config.working_dir,
            user: config.user,
            volumes: config.volumes.into_keys().collect(),
            stop_signal: Some(config.stop_signal).filter(|signal| !signal.is_empty()),
            labels: config.labels,
        },
        layers: image.layers.into_iter().map(|layer| layer.path).collect(),
    }
}

fn run_new(args: &RunArgs, context: &Context) -> anyhow::Result<u8> {
    let container = create(&args.request, context)?;
    let attend = if args.detach { Attend::Detached } else { Attend::Foreground };
    let outcome = container::start(&container, attend)?;
    if args.detach {
        say(&container.config().id)?;
    }
    Ok(status(outcome))
}

fn start(args: &StartArgs, context: &Context) -> anyhow::Result<u8> {
    let attend = if args.attach { Attend::Foreground } else { Attend::Detached };
    if args.attach && args.names.names.len() > 1 {
        anyhow::bail!("only one container can be attended at a time");
    }
    let mut last = 0;
    let failed = each(&args.names, context, |container| {
        last = status(container::start(container, attend)?);
        if args.attach { Ok(0) } else { say(container.config().name.as_str()) }
    })?;
    Ok(if failed == 0 { last } else { failed })
}

fn remove(args: &RmArgs, context: &Context) -> anyhow::Result<u8> {
    let how = Removal { force: args.force, volumes: args.volumes };
    let mut worst = 0;
    for name in &args.names.names {
        let removed = match Container::find(&context.paths, name) {
            Err(uctr::Error::Absent { .. }) if args.force => continue,
            found => found.and_then(|container| container::remove(&container, how)),
        };
        match removed {
            Ok(()) => drop(say(name)?),
            Err(error) => worst = complain(&error.into()),
        }
    }
    Ok(worst)
}

/// Does it to each of the containers; one that fails is told and does not keep the others from it.
fn each(
    names: &Names,
    context: &Context,
    mut act: impl FnMut(&Container) -> anyhow::Result<u8>,
) -> anyhow::Result<u8> {
    let mut worst = 0;
    for name in &names.names {
        let done =
            Container::find(&context.paths, name).map_err(Into::into).and_then(|container| act(&container));
        if let Err(error) = done {
            worst = complain(&error);
        }
    }
    Ok(worst)
}

fn complain(error: &anyhow::Error) -> u8 {
    eprintln!("uctr: {error:#}");
    super::exit_status(error)
}

fn status(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Running => 0,
        Outcome::Ended(status) => status,
    }
}

/// Prints a line; a reader that is gone is an error like any other.
fn say(line: &str) -> anyhow::Result<u8> {
    writeln!(std::io::stdout(), "{line}").context("standard output")?;
    Ok(0)
}
