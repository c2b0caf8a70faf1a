//! Running a container: the monitor, a copy of this process that makes everything, watches over it and takes it down.
//!
//! The monitor has a mount namespace of its own, and the container's first process and the union server die with it, so
//! that whatever kills it, no mount and no process stays. It keeps the container's lock as long as it lives.

use std::os::fd::AsFd;

use rustix::process::Signal;

use super::Container;
pub use crate::attend::Outcome;
use crate::attend::{self, Event, Signals};
use crate::cgroup::Cgroup;
use crate::clock;
use crate::error::{Error, On, Result};
use crate::init::{self, Plan};
use crate::log::Log;
use crate::process::{Channel, Process};
use crate::relay::Relay;
use crate::rootfs::Rootfs;
use crate::rootless;
use crate::spec::Base;
use crate::state::{Lock, ProcessId, State, Status};
use crate::streams::{Client, Pipes, connect_terminal};
use crate::volumes::{self, Ready};
use crate::{namespaces, sys};

/// Who attends a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attend {
    /// This process, until the container ends.
    Foreground,
    /// Nobody.
    Detached,
}

/// Starts the container and, in the foreground, waits for its end.
///
/// # Errors
///
/// [`Error::Command`] if its command cannot be run; then and in every other failure nothing of it is left running.
pub fn start(container: &Container, attend: Attend) -> Result<Outcome> {
    let lock = container.lock("start")?;
    let signals = Signals::collect()?;
    let detach = attend == Attend::Detached;
    let (monitor, ours) =
        Process::spawn(0, None, |channel| Monitor::main(container, attend, channel, &lock))?;
    drop(lock);
    if rootless::needed() {
        rootless::map_child(&ours, &monitor)?;
    }
    let outcome = attend::attend(&ours, &signals, container.config.spec.process.tty, detach);
    if !matches!(outcome, Ok(Outcome::Running)) {
        // Its mount namespace and everything in it are gone only when it is.
        monitor.wait().on("wait for", "the monitor")?;
    }
    outcome
}

/// The watching process.
#[derive(Debug)]
struct Monitor<'a> {
    container: &'a Container,
    channel: &'a Channel,
    state: State,
}

/// What is known when the container has ended.
#[derive(Debug)]
struct Ended {
    status: u8,
    error: String,
}

impl<'a> Monitor<'a> {
    fn main(container: &'a Container, attend: Attend, channel: &'a Channel, lock: &Lock) -> u8 {
        let mut monitor = Self { container, channel, state: State::default() };
        let ended = monitor.prepare(attend, lock).and_then(|client| monitor.live(client));
        let event = match monitor.finish(ended) {
            Ok(status) => Event::Ended { status },
            Err(failure) => Event::Failed { status: failure.exit_status(), message: failure.to_string() },
        };
        if let Err(error) = monitor.channel.send(&event, None) {
            tracing::debug!(%error, "the client is gone");
        }
        0
    }

    /// Leaves the caller's session, descriptors and mounts.
    fn prepare(&mut self, attend: Attend, lock: &Lock) -> Result<Client> {
        sys::close_inherited(&[lock.file().as_fd(), self.channel.as_fd()])?;
        if rootless::needed() {
            rootless::enter(self.channel)?;
        }
        rustix::process::setsid().on("setsid", "the monitor")?;
        rustix::process::chdir("/").on("chdir", "/")?;
        rustix::thread::set_name(c"uctr-monitor").on("prctl", "PR_SET_NAME")?;
        let client = match attend {
            Attend::Foreground => Client::take()?,
            Attend::Detached => Client::none()?,
        };
        self.state.monitor = Some(ProcessId::of(rustix::process::getpid().as_raw_nonzero().get())?);
        self.save()?;
        namespaces::enter_private_mounts()?;
        Ok(client)
    }

    fn save(&self) -> Result<()> {
        self.state.save(&self.container.run_dir())
    }

    /// Puts the container together, runs it, and takes it apart again, whatever happens in between.
    fn live(&mut self, client: Client) -> Result<Ended> {
        let config = &self.container.config;
        let rootfs = Rootfs::mount(&self.container.directories(), &config.spec, &config.layers)?;
        let ended = self.live_on(&rootfs, client);
        let unmounted = rootfs.unmount();
        let ended = ended?;
        unmounted.map(|()| ended)
    }

    fn live_on(&mut self, rootfs: &Rootfs, client: Client) -> Result<Ended> {
        let config = &self.container.config;
        let root = std::fs::File::open(rootfs.path()).on("open", rootfs.path())?;
        volumes::seed(&self.container.paths, root.as_fd(), &config.spec.mounts)?;
        drop(root);
        let cgroup = Cgroup::create(&config.id, &config.spec.limits)?;
        let ended = self.live_in(rootfs, &cgroup, client);
        self.state.oom_killed = cgroup.oom_killed();
        let removed = cgroup.remove();
        let ended = ended?;
        removed.map(|()| ended)
    }

    fn live_in(&mut self, rootfs: &Rootfs, cgroup: &Cgroup, client: Client) -> Result<Ended> {
        let spec = &self.container.config.spec;
        let log = spec.log.then(|| self.container.log_path());
        let mut relay = Relay::new(Log::open(log.as_deref())?);
        let (pipes, stdio) = if spec.process.tty { None } else { Some(Pipes::new(&spec.process)?) }.unzip();
        let plan = Plan {
            spec,
            root: rootfs.path(),
            mounts: self.mounts()?,
            cgroups: cgroup.views(),
            stdio,
            own_nodes: rootless::in_initial_namespace(),
            groups_allowed: rootless::groups_allowed(),
        };
        let birthplace = cgroup.birthplace()?;
        let cgroup_fd = birthplace.as_ref().map(AsFd::as_fd);
        let (child, ours) =
            Process::spawn(namespaces::at_birth(spec), cgroup_fd, move |channel| init::run(plan, channel))?;
        let begun = cgroup.admit(child.pid()).and_then(|()| ours.release()).and_then(|master| {
            match (pipes, master) {
                (Some(pipes), _) => pipes.connect(client, &mut relay),
                (None, Some(master)) => connect_terminal(master, &spec.process, client, &mut relay)?,
                (None, None) => return Err(Error::State("the container has sent no terminal".into())),
            }
            self.announce(&child)
        });
        let watched = begun.and_then(|()| self.watch(&child, rootfs, &mut relay));
        if watched.is_err() {
            // It may wait for us, or run although nobody can be told of it.
            child.signal_if_alive(Signal::KILL);
            child.wait().on("wait for", "the container")?;
        }
        watched
    }

    /// Everything that is mounted over the root filesystem.
    fn mounts(&self) -> Result<Vec<Ready>> {
        let config = &self.container.config;
        let mut mounts = match config.spec.base {
            Base::Directory(_) => init::binds_of_generated(&self.container.directories().init()),
            Base::Image | Base::Layer(_) => Vec::new(),
        };
        for mount in &config.spec.mounts {
            mounts.push(Ready::of(&self.container.paths, mount)?);
        }
        Ok(mounts)
    }

    fn announce(&mut self, child: &Process) -> Result<()> {
        self.state.init = ProcessId::of(child.pid()).ok();
        self.state.status = Status::Running;
        self.state.started_at = clock::now();
        self.save()?;
        if let Err(error) = self.channel.send(&Event::Started, None) {
            tracing::debug!(%error, "the client is gone");
        }
        Ok(())
    }

    /// Carries its streams and hands on signals until it ends.
    fn watch(&self, child: &Process, rootfs: &Rootfs, relay: &mut Relay) -> Result<Ended> {
        let mut attended = true;
        let mut server = rootfs.server();
        loop {
            let mut others = vec![child.as_fd()];
            others.extend(attended.then(|| self.channel.as_fd()));
            others.extend(server.map(AsFd::as_fd));
            match relay.turn(&others).on("poll", "the container")? {
                0 => break,
                1 if attended => attended = self.obey(child, relay)?,
                _ => {
                    server = None;
                    child.signal_if_alive(Signal::KILL);
                }
            }
        }
        let status = child.wait().on("wait for", "the container")?;
        relay.flush().on("poll", "the container's output")?;
        // It may have died of that before we saw the cause: a page of its program could not be read any more.
        let orphaned = rootfs.server().is_some_and(|server| server.wait_end(0) == Ok(true));
        let error = if orphaned { "its filesystem's server died".into() } else { String::new() };
        Ok(Ended { status, error })
    }

    /// Does what the client says; false when it is gone.
    fn obey(&self, child: &Process, relay: &mut Relay) -> Result<bool> {
        match self.channel.receive() {
            Ok(Some((Event::Signal(number), _))) => {
                if let Some(signal) = attend::signal(number) {
                    child.signal_if_alive(signal);
                }
            }
            Ok(Some((Event::Resize(rows, columns), _))) => {
                if let Some(master) = relay.first_source() {
                    crate::console::resize(master, (rows, columns));
                }
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                relay.detach();
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Records the end and, if that was asked for, removes the container. Tells what the client is to be told.
    fn finish(&mut self, ended: Result<Ended>) -> Result<u8> {
        let told = match ended {
            Ok(ended) => {
                self.state.status = Status::Exited;
                self.state.exit_code = ended.status;
                self.state.error = ended.error;
                Ok(ended.status)
            }
            Err(failure) => {
                // A container whose command never ran stays as it was created.
                self.state.exit_code = failure.exit_status();
                self.state.error = failure.to_string();
                Err(failure)
            }
        };
        self.state.finished_at = clock::now();
        self.state.init = None;
        let recorded =
            if self.container.config.spec.auto_remove { self.container.clean(true) } else { self.save() };
        told.and_then(|status| recorded.map(|()| status))
    }
}
