//! The container's control groups: one directory `uctr/ID` in every hierarchy that is mounted.
//!
//! Each controller is looked up by itself, for a machine may have all in version 1, all in version 2, or some in
//! each ("hybrid"). The directories hang below the root of each hierarchy, not below our own group, because a v2
//! group that holds processes cannot have groups with controllers below it (cgroups(7), "no internal processes").

mod parse;
mod v1;
mod v2;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, On, Result};
use parse::{Hierarchy, Kind};

/// The directory of all our groups in a hierarchy.
const PARENT: &str = "uctr";

/// How often a directory that another uctr made or removed meanwhile is tried again.
const MAX_RETRIES: usize = 16;

/// What a container may use at most; `None` is no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of memory and swap together, as v1 and `--memory-swap` count.
    pub memory_and_swap: Swap,
    /// Microseconds of processor time in each period of [`CPU_PERIOD`].
    pub cpu_quota: Option<u64>,
    /// Processors it may run on, as `0-2,4`.
    pub cpuset: Option<String>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Whether every device of the host may be opened, not only those that all containers have.
    pub all_devices: bool,
}

/// The limit on memory and swap together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Swap {
    /// None was asked for: as much swap as memory, if the kernel counts swap.
    #[default]
    Default,
    /// As much as there is.
    Unlimited,
    /// This many bytes.
    Bytes(u64),
}

/// The period of the processor quota in microseconds: the kernel's default.
pub const CPU_PERIOD: u64 = 100_000;

/// One hierarchy as a container is to see it in /sys/fs/cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CgroupView {
    /// Its directory there; `None` if it is mounted there itself.
    pub(crate) name: Option<String>,
    /// `cgroup` or `cgroup2`.
    pub(crate) kind: &'static str,
    /// Options of the filesystem.
    pub(crate) options: Vec<String>,
}

/// One file to write.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: &'static str,
    value: String,
    /// Whether the user asked for just this, so that it must not be missing in silence.
    required: bool,
}

impl Setting {
    fn new(controller: &'static str, file: &'static str, value: impl ToString) -> Self {
        Self { controller, file, value: value.to_string(), required: true }
    }
}

impl Limits {
    /// The controllers that these limits need.
    fn controllers(&self) -> Vec<&'static str> {
        let asked = [
            ("memory", self.memory.is_some()),
            ("cpu", self.cpu_quota.is_some()),
            ("cpuset", self.cpuset.is_some()),
            ("pids", self.pids.is_some()),
        ];
        asked.into_iter().filter(|(_, asked)| *asked).map(|(controller, _)| controller).collect()
    }
}

/// A group in one hierarchy.
#[derive(Debug)]
struct Place {
    hierarchy: Hierarchy,
    directory: PathBuf,
}

impl Place {
    fn has(&self, controller: &str) -> bool {
        match &self.hierarchy.kind {
            Kind::V1(controllers) => controllers.iter().any(|name| name == controller),
            Kind::V2 => v2::controllers(&self.hierarchy.mount).iter().any(|name| name == controller),
        }
    }

    fn write(&self, file: &str, value: &str) -> Result<()> {
        let path = self.directory.join(file);
        fs::write(&path, value).on("write", format!("{value:?} to {}", path.display()))
    }

    /// Makes the directory and what it needs to be usable.
    fn make(&self, limits: &Limits) -> io::Result<()> {
        let parent = self.hierarchy.mount.join(PARENT);
        for _ in 0..MAX_RETRIES {
            for directory in [&parent, &self.directory] {
                match fs::create_dir(directory) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                    made => made?,
                }
            }
            match self.prepare(&parent, limits) {
                // The parent was removed by a container that ended just now.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                prepared => return prepared,
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    fn prepare(&self, parent: &Path, limits: &Limits) -> io::Result<()> {
        match &self.hierarchy.kind {
            Kind::V1(controllers) if controllers.iter().any(|name| name == "cpuset") => {
                v1::inherit_cpuset(&self.hierarchy.mount, parent)?;
                v1::inherit_cpuset(parent, &self.directory)
            }
            Kind::V1(_) => fs::metadata(&self.directory).map(drop),
            Kind::V2 => {
                for controller in v2::controllers(&self.hierarchy.mount) {
                    let wanted = limits.controllers().contains(&controller.as_str());
                    let enabled = v2::enable(&self.hierarchy.mount, parent, &controller);
                    if wanted {
                        enabled?;
                    }
                }
                fs::metadata(&self.directory).map(drop)
            }
        }
    }

    fn remove(&self) -> io::Result<()> {
        remove_group(&self.directory)?;
        // The last container takes the parent away; while there are others it is not empty.
        match fs::remove_dir(self.hierarchy.mount.join(PARENT)) {
            Err(error)
                if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY | libc::ENOENT)) =>
            {
                Err(error)
            }
            _ => Ok(()),
        }
    }
}

/// The groups of one container.
#[derive(Debug)]
pub(crate) struct Cgroup {
    places: Vec<Place>,
}

impl Cgroup {
    /// Where the groups of the container `id` are, whether or not they exist.
    pub(crate) fn locate(id: &str) -> Result<Self> {
        let text = fs::read_to_string("/proc/self/mountinfo").on("read", "/proc/self/mountinfo")?;
        let place = |hierarchy: Hierarchy| {
            let directory = hierarchy.mount.join(PARENT).join(id);
            Place { hierarchy, directory }
        };
        Ok(Self { places: parse::hierarchies(&text).into_iter().map(place).collect() })
    }

    /// Makes the groups and sets the limits.
    ///
    /// Where a hierarchy may not be written, as for a user without delegation, the container does without a group
    /// there, unless a limit needs it.
    pub(crate) fn create(id: &str, limits: &Limits) -> Result<Self> {
        let mut group = Self::locate(id)?;
        let mut refused = Vec::new();
        let mut made = Vec::new();
        for place in std::mem::take(&mut group.places) {
            match place.make(limits) {
                Ok(()) => made.push(place),
                Err(error) if may_do_without(&error) => refused.push((place, error)),
                Err(error) => {
                    group.places = made;
                    group.remove_quietly();
                    return Err(error).on("make the cgroup", &place.directory);
                }
            }
        }
        group.places = made;
        if let Err(error) = group.limit(limits, refused).and_then(|()| group.limit_devices(limits)) {
            group.remove_quietly();
            return Err(error);
        }
        Ok(group)
    }

    fn limit(&self, limits: &Limits, mut refused: Vec<(Place, io::Error)>) -> Result<()> {
        for controller in limits.controllers() {
            let Some(place) = self.places.iter().find(|place| place.has(controller)) else {
                refused.retain(|(place, _)| place.has(controller));
                return Err(unavailable(controller, refused.pop()));
            };
            let settings = match place.hierarchy.kind {
                Kind::V1(_) => v1::settings(limits),
                Kind::V2 => v2::settings(limits),
            };
            for setting in settings.iter().filter(|setting| setting.controller == controller) {
                let absent = !place.directory.join(setting.file).exists();
                if absent && !setting.required {
                    continue;
                }
                place.write(setting.file, &setting.value)?;
            }
        }
        Ok(())
    }

    /// Closes the host's devices to the group. On v2, where that takes a program in the kernel's own language, what keeps a
    /// container from them is that it can make no device node and that none in its files can be opened.
    fn limit_devices(&self, limits: &Limits) -> Result<()> {
        let is_v1 = |place: &&Place| matches!(place.hierarchy.kind, Kind::V1(_)) && place.has("devices");
        if let Some(place) = self.places.iter().find(is_v1).filter(|_| !limits.all_devices) {
            place.write("devices.deny", "a")?;
            v1::DEVICES.iter().try_for_each(|rule| place.write("devices.allow", rule))?;
        }
        Ok(())
    }

    /// The v2 directory, for a process to be born into.
    pub(crate) fn birthplace(&self) -> Result<Option<rustix::fd::OwnedFd>> {
        let Some(place) = self.places.iter().find(|place| place.hierarchy.kind == Kind::V2) else {
            return Ok(None);
        };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::openat(CWD, &place.directory, flags, Mode::empty()).on("open", &place.directory).map(Some)
    }

    /// The hierarchies as a container is to see them.
    pub(crate) fn views(&self) -> Vec<CgroupView> {
        let alone = self.places.len() == 1;
        let view = |place: &Place| match &place.hierarchy.kind {
            Kind::V2 if alone => CgroupView { name: None, kind: "cgroup2", options: Vec::new() },
            Kind::V2 => CgroupView { name: Some("unified".into()), kind: "cgroup2", options: Vec::new() },
            Kind::V1(controllers) => v1::view(controllers),
        };
        self.places.iter().map(view).collect()
    }

    /// Moves a process into the groups of all v1 hierarchies.
    pub(crate) fn admit(&self, pid: i32) -> Result<()> {
        for place in self.places.iter().filter(|place| place.hierarchy.kind != Kind::V2) {
            place.write("cgroup.procs", &pid.to_string())?;
        }
        Ok(())
    }

    /// Only the groups that exist, for a process that is to join a running container.
    pub(crate) fn existing(id: &str) -> Result<Self> {
        let mut group = Self::locate(id)?;
        group.places.retain(|place| place.directory.exists());
        Ok(group)
    }

    /// Whether the kernel has killed a process of the group for want of memory.
    pub(crate) fn oom_killed(&self) -> bool {
        let Some(place) = self.places.iter().find(|place| place.has("memory")) else { return false };
        let file = match place.hierarchy.kind {
            Kind::V1(_) => "memory.oom_control",
            Kind::V2 => "memory.events",
        };
        let text = fs::read_to_string(place.directory.join(file)).unwrap_or_default();
        text.lines().any(|line| line.strip_prefix("oom_kill ").is_some_and(|count| count != "0"))
    }

    /// Kills every process in the groups.
    pub(crate) fn kill(&self) -> Result<()> {
        for place in &self.places {
            if place.hierarchy.kind == Kind::V2 && place.write("cgroup.kill", "1").is_ok() {
                continue;
            }
            for pid in processes(&place.directory) {
                kill_process(pid);
            }
        }
        Ok(())
    }

    /// Kills what is left in the groups and removes them.
    pub(crate) fn remove(&self) -> Result<()> {
        self.kill()?;
        let mut first = Ok(());
        for place in &self.places {
            let removed = place.remove().on("rmdir", &place.directory);
            first = first.and(removed);
        }
        first
    }

    fn remove_quietly(&self) {
        if let Err(error) = self.remove() {
            tracing::warn!(%error, "a cgroup is left behind");
        }
    }
}

/// Whether a container without limits may run without a group where making it failed so.
fn may_do_without(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS))
}

fn unavailable(controller: &str, refused: Option<(Place, io::Error)>) -> Error {
    let option = match controller {
        "memory" => "--memory",
        "cpu" => "--cpus",
        "cpuset" => "--cpuset-cpus",
        _ => "--pids-limit",
    };
    match refused {
        Some((place, error)) => Error::State(format!(
            "{option} needs the {controller} cgroup controller, but {} cannot be made: {error}; \
             run as root, or have a writable cgroup delegated to you",
            place.directory.display()
        )),
        None => Error::State(format!(
            "{option} needs the {controller} cgroup controller, which no hierarchy mounted here offers \
             (see /proc/self/mountinfo and /proc/cgroups)"
        )),
    }
}

fn processes(directory: &Path) -> Vec<rustix::process::Pid> {
    let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?)).collect()
}

/// Kills a process that may have ended meanwhile.
fn kill_process(pid: rustix::process::Pid) {
    if let Err(error) = rustix::process::kill_process(pid, rustix::process::Signal::KILL) {
        tracing::debug!(%error, ?pid, "not killed");
    }
}

/// Removes a group with the groups that its processes made below it; a killed process keeps it busy for a moment.
fn remove_group(directory: &Path) -> io::Result<()> {
    for attempt in 0..10 {
        match fs::remove_dir(directory) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                remove_children(directory)?;
                std::thread::sleep(Duration::from_millis(1 << attempt));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            done => return done,
        }
    }
    Err(Errno::BUSY.into())
}

fn remove_children(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            for pid in processes(&entry.path()) {
                kill_process(pid);
            }
            remove_children(&entry.path())?;
            if let Err(error) = fs::remove_dir(entry.path())
                && !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOENT))
            {
                return Err(error);
            }
        }
    }
    Ok(())
}
