//! Ending a container, and removing it.

use std::fs;
use std::time::{Duration, Instant};

use super::create::remove_directories;
use super::{CONFIG, Container};
use crate::attend::signal as named;
use crate::cgroup::Cgroup;
use crate::error::{Error, On, Result};
use crate::process::Process;
use crate::rootless;
use crate::spec::Base;
use crate::state::{Lock, Status};
use crate::volumes::Volume;

/// How long the monitor may take to clear away after its container has ended.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);

/// What goes with a container.
#[derive(Clone, Copy, Debug, Default)]
pub struct Removal {
    /// End it first if it runs.
    pub force: bool,
    /// Its anonymous volumes too.
    pub volumes: bool,
}

/// Sends a signal to the container's first process.
///
/// # Errors
///
/// [`Error::State`] if it does not run.
pub fn kill(container: &Container, signal: i32) -> Result<()> {
    let init = running(container)?;
    let signal = named(signal)
        .ok_or_else(|| Error::option("--signal", signal.to_string(), "has no name, and cannot be sent"))?;
    init.signal(signal).on("kill", &container.config.name)
}

fn running(container: &Container) -> Result<Process> {
    let process = container.state()?.init.and_then(|init| init.find());
    process.ok_or_else(|| Error::State(format!("container {} is not running", container.config.name)))
}

/// Asks the container to end, and makes it after so many seconds; nothing to do if it does not run.
///
/// # Errors
///
/// If it cannot be signalled, or does not end even by SIGKILL.
pub fn stop(container: &Container, timeout: Option<u32>) -> Result<()> {
    let state = container.state()?;
    let Some(monitor) = state.monitor.and_then(|monitor| monitor.find()) else { return Ok(()) };
    let spec = &container.config.spec;
    if let Some(init) = state.init.and_then(|init| init.find()) {
        if let Some(signal) = named(spec.stop_signal) {
            init.signal_if_alive(signal);
        }
        let seconds = i64::from(timeout.unwrap_or(spec.stop_timeout));
        if !init.wait_end(seconds * 1000).on("wait for", &container.config.name)? {
            init.signal_if_alive(rustix::process::Signal::KILL);
        }
    }
    let patience = i64::try_from(PATIENCE.as_millis()).unwrap_or(i64::MAX);
    match monitor.wait_end(patience).on("wait for", &container.config.name)? {
        true => Ok(()),
        false => {
            Err(Error::State(format!("container {} does not end; see its processes", container.config.name)))
        }
    }
}

/// Waits until the container has ended and tells its exit status.
///
/// # Errors
///
/// If it was never started.
pub fn wait(container: &Container) -> Result<u8> {
    if let Some(monitor) = container.state()?.monitor.and_then(|monitor| monitor.find()) {
        monitor.wait_end(i64::MAX).on("wait for", &container.config.name)?;
    }
    let state = container.state()?;
    match state.status {
        Status::Exited => Ok(state.exit_code),
        _ => Err(Error::State(format!("container {} has not been started", container.config.name))),
    }
}

/// Removes the container with everything that was its own.
///
/// # Errors
///
/// [`Error::State`] if it runs and `force` is not set.
pub fn remove(container: &Container, how: Removal) -> Result<()> {
    let lock = match container.lock_unless_running()? {
        Some(lock) => lock,
        None if how.force => container.end_now()?,
        None => {
            let name = &container.config.name;
            return Err(Error::State(format!(
                "container {name} is running; stop it first, or use rm --force"
            )));
        }
    };
    container.clean(how.volumes)?;
    drop(lock);
    Ok(())
}

impl Container {
    /// Kills it and takes its lock when its monitor has given it up; a monitor that does not is killed too.
    fn end_now(&self) -> Result<Lock> {
        let start = Instant::now();
        loop {
            let state = self.state()?;
            let init = state.init.and_then(|init| init.find());
            if let Some(init) = &init {
                init.signal_if_alive(rustix::process::Signal::KILL);
            }
            if let Some(lock) = Lock::try_take(&self.run_dir())? {
                return Ok(lock);
            }
            let waited = start.elapsed();
            if waited > PATIENCE
                && let Some(monitor) = state.monitor.and_then(|monitor| monitor.find())
            {
                monitor.signal_if_alive(rustix::process::Signal::KILL);
            }
            if waited > 2 * PATIENCE {
                return Err(Error::State(format!("container {} cannot be ended", self.config.name)));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Removes what is left of it: cgroups, anonymous volumes if asked for, directories. The lock must be held.
    pub(super) fn clean(&self, volumes: bool) -> Result<()> {
        Cgroup::existing(&self.config.id)?.remove()?;
        rootless::as_root(|| {
            if volumes {
                for name in &self.config.anonymous {
                    match Volume::find(&self.paths, name) {
                        Ok(volume) => volume.remove()?,
                        Err(Error::Absent { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            // Without this file the directory is no container, and is swept away if we get no further.
            let config = self.dir().join(CONFIG);
            match fs::remove_file(&config) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).on("remove", &config);
                }
                _ => {}
            }
            remove_directories(&[self.dir(), self.run_dir()])
        })
    }

    /// Whether it runs on the volume `name`.
    pub fn uses_volume(&self, name: &str) -> bool {
        let is_it = |mount: &crate::spec::Mount| matches!(&mount.source, crate::spec::Source::Volume(own) if own == name);
        self.config.spec.mounts.iter().any(is_it)
    }

    /// Whether it stands on the image `id`.
    pub fn uses_image(&self, id: &str) -> bool {
        matches!(self.config.spec.base, Base::Image) && self.config.image_id == id
    }
}
