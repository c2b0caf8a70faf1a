//! What was typed on the command line of `run` and `create`: words, nothing checked and nothing opened.

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use unionfs::mount::IoMode;

/// How a container's root filesystem is put together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FsKind {
    /// The first of the following that works here.
    #[default]
    Auto,
    /// Our own union filesystem, served by a process beside the container.
    Fuse,
    /// The kernel's overlay filesystem.
    Overlay,
    /// A full copy of the image.
    Copy,
}

/// How the data of files of our own union is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Io {
    /// What suits most containers.
    #[default]
    Auto,
    /// Open and close send no message, reads and writes do.
    Stateless,
    /// Opens send a message; what the container has written is read and written without any, where the kernel can.
    Passthrough,
    /// So are large files of the image, in the memory that all containers of it share. Who has one open when it is
    /// changed keeps the old content.
    PassthroughAll,
}

impl Io {
    /// As the command line spells it.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

impl From<Io> for IoMode {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Stateless => Self::Stateless,
            Io::Passthrough => Self::Passthrough,
            Io::PassthroughAll => Self::PassthroughAll,
        }
    }
}

/// The options of `run` and `create`, as Docker and Podman spell them.
#[derive(Args, Clone, Debug, Default)]
#[command(disable_help_flag = true)]
pub struct Request {
    /// How the root filesystem is put together.
    #[arg(long, value_enum, default_value_t = FsKind::Auto)]
    pub fs: FsKind,
    /// How the data of files is reached; what is not auto asks for --fs fuse.
    #[arg(long, value_enum, default_value_t = Io::Auto)]
    pub io: Io,
    /// Take DIR itself as the root filesystem instead of an image, or what is in it as a read-only layer with DIR:O.
    #[arg(long, value_name = "DIR[:O]")]
    pub rootfs: Option<String>,
    /// Remove the container and its anonymous volumes when it ends.
    #[arg(long)]
    pub rm: bool,
    /// Keep the command's standard input open.
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// The container's name.
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    pub name: Option<String>,
    /// The container's host name.
    #[arg(short = 'h', long, value_name = "NAME", allow_hyphen_values = true)]
    pub hostname: Option<String>,
    /// Set an environment variable, or hand on the caller's where no value is given.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// Set the environment variables in FILE, one KEY=VALUE a line.
    #[arg(long, value_name = "FILE")]
    pub env_file: Vec<String>,
    /// The command's working directory.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user and group, by name or number.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// Add a supplementary group.
    #[arg(long, value_name = "GROUP")]
    pub group_add: Vec<String>,
    /// Mount a host path or a volume; a path alone is an anonymous volume.
    #[arg(short, long, value_name = "[SOURCE:]TARGET[:OPTIONS]")]
    pub volume: Vec<String>,
    /// Mount a tmpfs.
    #[arg(long, value_name = "TARGET[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Bytes of memory, with b, k, m or g.
    #[arg(short, long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory: Option<String>,
    /// Bytes of memory and swap together; -1 is unlimited.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub memory_swap: Option<String>,
    /// Processors' worth of time, such as 0.5.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub cpus: Option<String>,
    /// Processors to run on, such as 0-2,4.
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    pub cpuset_cpus: Option<String>,
    /// Processes and threads at most; 0 or -1 is unlimited.
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub pids_limit: Option<String>,
    /// The network: none or host.
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub network: Option<String>,
    /// Replace the image's entrypoint; an empty one takes it away.
    #[arg(long, value_name = "COMMAND")]
    pub entrypoint: Option<String>,
    /// Mount the root filesystem read-only.
    #[arg(long)]
    pub read_only: bool,
    /// Add a capability, or ALL.
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_add: Vec<String>,
    /// Take away a capability, or ALL.
    #[arg(long, value_name = "CAPABILITY")]
    pub cap_drop: Vec<String>,
    /// All capabilities and devices, and nothing masked.
    #[arg(long)]
    pub privileged: bool,
    /// Run a small init as process 1, which forwards signals and reaps.
    #[arg(long)]
    pub init: bool,
    /// no-new-privileges
    #[arg(long, value_name = "OPTION")]
    pub security_opt: Vec<String>,
    /// Bytes of /dev/shm, 64m unless told.
    #[arg(long, value_name = "BYTES", allow_hyphen_values = true)]
    pub shm_size: Option<String>,
    /// The signal that stop sends first.
    #[arg(long, value_name = "SIGNAL")]
    pub stop_signal: Option<String>,
    /// Seconds that stop waits before it kills.
    #[arg(long, value_name = "SECONDS")]
    pub stop_timeout: Option<u32>,
    /// Attach a label.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub label: Vec<String>,
    /// Write the container's identifier to FILE, which must not exist.
    #[arg(long, value_name = "FILE")]
    pub cidfile: Option<String>,
    /// Keep the output for `uctr logs` (json-file) or not (none).
    #[arg(long, value_name = "DRIVER")]
    pub log_driver: Option<String>,
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    pub help: Option<bool>,
    /// The image, by name or identifier.
    #[arg(value_name = "IMAGE")]
    pub image: Option<String>,
    /// The command and its arguments, in place of the image's.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// The options of `exec`.
#[derive(Args, Clone, Debug, Default)]
pub struct ExecRequest {
    /// Do not wait for the command to end.
    #[arg(short, long)]
    pub detach: bool,
    /// Keep the command's standard input open.
    #[arg(short, long)]
    pub interactive: bool,
    /// Give the command a terminal.
    #[arg(short, long)]
    pub tty: bool,
    /// Set an environment variable, or hand on the caller's where no value is given.
    #[arg(short, long, value_name = "KEY[=VALUE]")]
    pub env: Vec<String>,
    /// The command's working directory.
    #[arg(short, long, value_name = "DIR")]
    pub workdir: Option<String>,
    /// Run as this user and group, by name or number.
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub user: Option<String>,
    /// All capabilities.
    #[arg(long)]
    pub privileged: bool,
    /// The container, by name or identifier.
    #[arg(value_name = "CONTAINER")]
    pub container: String,
    /// The command and its arguments.
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}
