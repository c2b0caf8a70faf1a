//! Running another command in a running container: by setns(2) into every namespace of its first process.

use std::convert::Infallible;
use std::os::fd::{AsFd, OwnedFd};

use rustix::process::{DumpableBehavior, Signal};
use rustix::thread::{ThreadNameSpaceType, move_into_thread_name_spaces};

use super::Container;
use crate::attend::{Event, Outcome, Signals, signal};
use crate::cgroup::Cgroup;
use crate::command::{self, Start, Stdio};
use crate::console;
use crate::error::{Error, On, Result};
use crate::log::Log;
use crate::process::{Channel, Message, Process};
use crate::relay::Relay;
use crate::request::ExecRequest;
use crate::rootless;
use crate::security::Capabilities;
use crate::spec::{self, Environment, Host, Network};
use crate::streams::{Client, Pipes, connect_terminal};

/// Runs the command and, unless it is detached, waits for its end.
///
/// # Errors
///
/// [`Error::State`] if the container does not run, [`Error::Command`] if the command cannot.
pub fn exec(container: &Container, request: &ExecRequest, host: &Host) -> Result<Outcome> {
    let process = process(container, request, host)?;
    let init = container.state()?.init.and_then(|init| init.find());
    let name = &container.config.name;
    let init = init.ok_or_else(|| Error::State(format!("container {name} is not running")))?;
    let cgroup = Cgroup::existing(&container.config.id)?;
    let birthplace = cgroup.birthplace()?;
    let client = if request.detach { Client::default() } else { Client::share() };
    let signals = Signals::collect()?;
    let (pipes, stdio) = streams(&process, request.detach)?;
    // What joins the container must not be open to what is in it, by ptrace or by /proc/PID/exe.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).on("prctl", "PR_SET_DUMPABLE")?;
    if rootless::needed() {
        join(&init, ThreadNameSpaceType::USER, name)?;
    }
    join(&init, ThreadNameSpaceType::PROCESS_ID, name)?;
    let others = others(container.config.spec.network);
    let (child, ours) = Process::spawn(0, birthplace.as_ref().map(AsFd::as_fd), |channel| {
        let Err(failure) = become_command(&init, others, &process, stdio, channel);
        channel.send_failure(&failure);
        failure.exit_status()
    })?;
    let mut relay = Relay::new(Log::open(None)?);
    match cgroup.admit(child.pid()).and_then(|()| ours.release()) {
        Ok(master) => connect(pipes, master, &process, client, &mut relay)?,
        Err(failure) => {
            child.signal_if_alive(Signal::KILL); // it has ended, or waits for a word that will not come
            child.wait().on("wait for", "the command")?;
            return Err(failure);
        }
    }
    if request.detach {
        return Ok(Outcome::Running);
    }
    watch(&child, &signals, &mut relay, process.tty)
}

/// The process of the container's specification with what the command line changes.
fn process(container: &Container, request: &ExecRequest, host: &Host) -> Result<spec::Process> {
    let mut process = container.config.spec.process.clone();
    let mut env = Environment(process.env);
    request.env.iter().try_for_each(|entry| env.apply("--env", entry, host))?;
    if request.tty {
        env.set("TERM=xterm");
    }
    process.env = env.0;
    process.args.clone_from(&request.command);
    process.tty = request.tty;
    process.interactive = request.interactive;
    if let Some(user) = &request.user {
        process.user.clone_from(user);
        process.groups.clear();
    }
    if let Some(cwd) = &request.workdir {
        if !cwd.starts_with('/') {
            return Err(Error::option("--workdir", cwd, "must be an absolute path"));
        }
        process.cwd = cwd.into();
    }
    if request.privileged {
        process.capabilities = Capabilities::ALL;
    }
    Ok(process)
}

/// Our ends of its pipes and its own, unless it has a terminal; a detached command has /dev/null.
fn streams(process: &spec::Process, detach: bool) -> Result<(Option<Pipes>, Option<Stdio>)> {
    match (process.tty, detach) {
        (true, _) => Ok((None, None)),
        (false, true) => Ok((None, Some(Stdio::null()?))),
        (false, false) => Pipes::new(process).map(|(pipes, stdio)| (Some(pipes), Some(stdio))),
    }
}

fn join(init: &Process, kind: ThreadNameSpaceType, name: &str) -> Result<()> {
    move_into_thread_name_spaces(init.as_fd(), kind).on("setns to the namespaces of container", name)
}

/// The namespaces that the command itself joins. The host's network is not owned by a container that shares it, so it
/// could not be joined from its user namespace; nor need it be.
fn others(network: Network) -> ThreadNameSpaceType {
    let own = ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    match network {
        Network::None => own | ThreadNameSpaceType::NETWORK,
        Network::Host => own,
    }
}

fn become_command(
    init: &Process,
    others: ThreadNameSpaceType,
    process: &spec::Process,
    stdio: Option<Stdio>,
    channel: &Channel,
) -> Result<Infallible> {
    channel.await_go()?;
    rustix::process::setsid().on("setsid", "the command")?;
    join(init, others, "")?;
    let stdio = match stdio {
        Some(stdio) => stdio,
        None => open_terminal(channel)?,
    };
    let groups_allowed = rootless::groups_allowed();
    command::execute(&Start {
        process,
        stdio,
        groups_allowed,
        make_cwd: false,
        die_with_parent: false,
        init: false,
    })
}

fn open_terminal(channel: &Channel) -> Result<Stdio> {
    let root = std::fs::File::open("/").on("open", "/")?;
    let pair = console::open(root.as_fd())?;
    console::control(pair.terminal.as_fd())?;
    channel.send(&Message::Console, Some(pair.master.as_fd()))?;
    Stdio::of_terminal(&pair.terminal)
}

fn connect(
    pipes: Option<Pipes>,
    master: Option<OwnedFd>,
    process: &spec::Process,
    client: Client,
    relay: &mut Relay,
) -> Result<()> {
    match (pipes, master) {
        (Some(pipes), _) => pipes.connect(client, relay),
        (None, Some(master)) => connect_terminal(master, process, client, relay)?,
        (None, None) => {}
    }
    Ok(())
}

fn watch(child: &Process, signals: &Signals, relay: &mut Relay, tty: bool) -> Result<Outcome> {
    let stdin = rustix::stdio::stdin();
    let raw = tty.then(|| console::RawMode::enter(stdin)).flatten();
    let resize = |relay: &Relay, size| {
        if let Some(master) = relay.first_source() {
            console::resize(master, size);
        }
    };
    if let Some(size) = raw.as_ref().and_then(|_| console::size(stdin)) {
        resize(relay, size);
    }
    while relay.turn(&[child.as_fd(), signals.as_fd()]).on("poll", "the command")? != 0 {
        match signals.next() {
            Some(Event::Signal(number)) => {
                if let Some(signal) = signal(number) {
                    child.signal_if_alive(signal);
                }
            }
            Some(Event::Resize(rows, columns)) => resize(relay, (rows, columns)),
            _ => {}
        }
    }
    let status = child.wait().on("wait for", "the command")?;
    relay.flush().on("poll", "the command's output")?;
    Ok(Outcome::Ended(status))
}
