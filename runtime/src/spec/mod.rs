//! What a container is to be: every rule is checked here, before anything exists.

mod limits;
pub(crate) mod mount;
mod process;
pub(crate) mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::cgroup::Limits;
use crate::error::{Error, Result};
use crate::request::{FsKind, Io, Request};
use crate::security::Capabilities;
pub use mount::{Mount, MountOptions, Source};
pub(crate) use process::Environment;

/// What the image says about running it (the `config` object of the OCI image specification).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageDefaults {
    /// `KEY=VALUE` each.
    pub env: Vec<String>,
    /// The command's leading words.
    pub entrypoint: Vec<String>,
    /// The command's words that the command line may replace.
    pub cmd: Vec<String>,
    /// The working directory.
    pub working_dir: String,
    /// `USER[:GROUP]`.
    pub user: String,
    /// Where anonymous volumes are to be.
    pub volumes: Vec<String>,
    /// The signal that asks the command to end.
    pub stop_signal: Option<String>,
    /// Labels, inherited by the container.
    pub labels: BTreeMap<String, String>,
}

/// Facts about the machine and the caller that rules depend on.
#[derive(Clone, Debug)]
pub struct Host {
    /// Processors that there are.
    pub cpus: u32,
    /// The caller's environment.
    pub env: BTreeMap<String, String>,
}

/// A container's root filesystem, as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Base {
    /// An image's layers below a writable one.
    Image,
    /// A directory below a writable layer.
    Layer(PathBuf),
    /// A directory itself.
    Directory(PathBuf),
}

/// A process to be run in a container, and what it may do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The command and its arguments; never empty.
    pub args: Vec<String>,
    /// `KEY=VALUE` each, no key twice.
    pub env: Vec<String>,
    /// Absolute path in the container.
    pub cwd: PathBuf,
    /// `USER[:GROUP]` by name or number, to be looked up in the container; empty is root.
    pub user: String,
    /// Supplementary groups by name or number.
    pub groups: Vec<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
    /// Whether its standard input is kept open for a client.
    pub interactive: bool,
    /// The most it can ever have.
    pub capabilities: Capabilities,
    /// Whether execve may never give more (prctl(2), `PR_SET_NO_NEW_PRIVS`).
    pub no_new_privileges: bool,
}

/// The network of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// A namespace of its own with nothing but the loopback interface.
    None,
    /// The host's.
    Host,
}

/// A container as it is to be, complete and valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::struct_excessive_bools)]
pub struct Spec {
    /// What its root filesystem is made of.
    pub base: Base,
    /// How.
    pub fs: FsKind,
    /// How the data of its files is reached.
    #[serde(default)]
    pub io: Io,
    /// Its host name.
    pub hostname: String,
    /// The process that is the container.
    pub process: Process,
    /// What is mounted over the root, parents before children.
    pub mounts: Vec<Mount>,
    /// Its network.
    pub network: Network,
    /// What it may use.
    pub limits: Limits,
    /// Whether the root filesystem is mounted read-only.
    pub read_only: bool,
    /// Whether nothing is kept from it.
    pub privileged: bool,
    /// Whether an init of ours is process 1.
    pub init: bool,
    /// Whether it is removed when it ends.
    pub auto_remove: bool,
    /// Bytes of `/dev/shm`.
    pub shm_size: u64,
    /// The signal that asks it to end.
    pub stop_signal: i32,
    /// Seconds until it is made to.
    pub stop_timeout: u32,
    /// Whether its output is kept.
    pub log: bool,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Docker's default for `/dev/shm`.
const SHM_SIZE: u64 = 64 << 20;

impl Spec {
    /// The container that a command line asks for, of an image with these defaults.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] for the first option that cannot be honoured.
    pub fn new(request: &Request, image: &ImageDefaults, id: &str, host: &Host) -> Result<Self> {
        let hostname = hostname(request, id)?;
        let labels = labels(request, image)?;
        let base = base(request)?;
        let (fs, io) = filesystem(request, &base)?;
        Ok(Self {
            base,
            fs,
            io,
            process: process::process(request, image, &hostname, host)?,
            mounts: mounts(request, image)?,
            network: network(request)?,
            limits: limits::limits(request, host)?,
            read_only: request.read_only,
            privileged: request.privileged,
            init: request.init,
            auto_remove: request.rm,
            shm_size: shm_size(request)?,
            stop_signal: stop_signal(request, image)?,
            stop_timeout: request.stop_timeout.unwrap_or(10),
            log: log(request)?,
            hostname,
            labels,
        })
    }
}

/// How the root filesystem is put together, and its data reached.
fn filesystem(request: &Request, base: &Base) -> Result<(FsKind, Io)> {
    let plain = matches!(base, Base::Directory(_)) || matches!(request.fs, FsKind::Overlay | FsKind::Copy);
    match request.io {
        Io::Auto => Ok((request.fs, Io::Auto)),
        io if plain => {
            let why = "is of a root filesystem that our own union makes: leave it out, or write --fs fuse";
            Err(Error::option("--io", io.name(), why))
        }
        io => Ok((FsKind::Fuse, io)),
    }
}

fn base(request: &Request) -> Result<Base> {
    let Some(text) = &request.rootfs else { return Ok(Base::Image) };
    let (directory, union) = match text.strip_suffix(":O") {
        Some(directory) => (directory, true),
        None => (text.as_str(), false),
    };
    let path = std::path::absolute(directory)
        .ok()
        .filter(|path| path.is_dir())
        .ok_or_else(|| Error::option("--rootfs", directory, "is not a directory"))?;
    if path == std::path::Path::new("/") && !union {
        return Err(Error::option("--rootfs", directory, "the host's own root; use /:O to run on top of it"));
    }
    Ok(if union { Base::Layer(path) } else { Base::Directory(path) })
}

fn hostname(request: &Request, id: &str) -> Result<String> {
    let host = matches!(network(request)?, Network::Host);
    let Some(name) = &request.hostname else {
        let own = || std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
        let short = || id.chars().take(12).collect();
        return Ok(if host { own().map_or_else(short, |name| name.trim().to_owned()) } else { short() });
    };
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    if name.is_empty() || name.len() > 64 || !name.bytes().all(letter) || name.starts_with(['-', '.']) {
        let why = "must be 1 to 64 letters, digits, - . or _ (hostname(7))";
        return Err(Error::option("--hostname", name, why));
    }
    Ok(name.clone())
}

/// Every mount, parents before children; what the command line mounts at a place wins over the image's volume.
fn mounts(request: &Request, image: &ImageDefaults) -> Result<Vec<Mount>> {
    let mut mounts: Vec<Mount> = Vec::new();
    let volumes = request.volume.iter().map(|text| (text, Mount::from_volume(text)));
    let tmpfs = request.tmpfs.iter().map(|text| (text, Mount::from_tmpfs(text)));
    for (text, mount) in volumes.chain(tmpfs) {
        let mut mount = mount?;
        mount.options.nodev &= !request.privileged;
        if mounts.iter().any(|other| other.target == mount.target) {
            let why = format!("something else is already mounted at {}", mount.target.display());
            return Err(Error::option("--volume/--tmpfs", text, why));
        }
        if let Source::Host(path) = &mount.source
            && let Err(error) = std::fs::metadata(path)
        {
            let why = format!("{}: {error}; make it first", path.display());
            return Err(Error::option("--volume", text, why));
        }
        mounts.push(mount);
    }
    for target in &image.volumes {
        let mount = Mount::of_image(target)?;
        if !mounts.iter().any(|other| other.target == mount.target) {
            mounts.push(mount);
        }
    }
    mounts.sort_by_key(|mount| mount.target.components().count());
    Ok(mounts)
}

fn network(request: &Request) -> Result<Network> {
    match request.network.as_deref() {
        None | Some("none") => Ok(Network::None),
        Some("host") => Ok(Network::Host),
        Some(other) => Err(Error::option("--network", other, "not available here; use none or host")),
    }
}

fn shm_size(request: &Request) -> Result<u64> {
    match request.shm_size.as_deref() {
        None => Ok(SHM_SIZE),
        Some(text) => {
            units::bytes(text).filter(|size| *size > 0).ok_or_else(|| limits::not_bytes("--shm-size", text))
        }
    }
}

fn stop_signal(request: &Request, image: &ImageDefaults) -> Result<i32> {
    match request.stop_signal.as_deref().or(image.stop_signal.as_deref()) {
        None | Some("") => Ok(libc::SIGTERM),
        Some(text) => signal(text).ok_or_else(|| Error::option("--stop-signal", text, "no such signal")),
    }
}

/// A signal by number or name, with or without `SIG`.
pub fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse() {
        return (1..=libc::SIGRTMAX()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

fn log(request: &Request) -> Result<bool> {
    match request.log_driver.as_deref() {
        None | Some("json-file") => Ok(true),
        Some("none") => Ok(false),
        Some(other) => Err(Error::option("--log-driver", other, "is not available; json-file and none are")),
    }
}

fn labels(request: &Request, image: &ImageDefaults) -> Result<BTreeMap<String, String>> {
    let mut labels = image.labels.clone();
    for label in &request.label {
        let (key, value) = label.split_once('=').unwrap_or((label, ""));
        if key.is_empty() {
            return Err(Error::option("--label", label, "the label has no name"));
        }
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

#[cfg(test)]
mod tests;
