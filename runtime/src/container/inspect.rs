//! A container as JSON, in Docker's shape, so that scripts and templates written for it work.

use serde_json::{Value, json};

use super::{Config, Container};
use crate::cgroup::{CPU_PERIOD, Swap};
use crate::error::Result;
use crate::request::FsKind;
use crate::spec::{Base, Mount, Source, Spec};
use crate::state::{State, Status};
use crate::volumes::Ready;

/// A time that Docker shows for what has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Everything that is known of the container.
///
/// # Errors
///
/// If its state cannot be read.
pub fn inspect(container: &Container) -> Result<Value> {
    let (config, state) = (&container.config, container.state()?);
    let spec = &config.spec;
    Ok(json!({
        "Id": config.id,
        "Created": config.created,
        "Path": spec.process.args[0],
        "Args": spec.process.args[1..],
        "State": state_json(&state),
        "Image": config.image_id,
        "HostnamePath": container.directories().init().join("etc/hostname"),
        "HostsPath": container.directories().init().join("etc/hosts"),
        "ResolvConfPath": container.directories().init().join("etc/resolv.conf"),
        "LogPath": if spec.log { container.log_path().display().to_string() } else { String::new() },
        "Name": format!("/{}", config.name),
        "RestartCount": 0,
        "Driver": driver(spec.fs),
        "Platform": "linux",
        "GraphDriver": graph_driver(container),
        "Mounts": spec.mounts.iter().map(|mount| mount_json(container, mount)).collect::<Vec<_>>(),
        "Config": config_json(config),
        "HostConfig": host_config(spec),
        "NetworkSettings": { "Networks": {}, "Ports": {}, "IPAddress": "" },
    }))
}

fn state_json(state: &State) -> Value {
    let running = state.status == Status::Running;
    let time = |text: &String| if text.is_empty() { NEVER.to_owned() } else { text.clone() };
    json!({
        "Status": state.status,
        "Running": running,
        "Paused": false,
        "Restarting": false,
        "OOMKilled": state.oom_killed,
        "Dead": false,
        "Pid": state.init.map_or(0, |init| init.pid),
        "MonitorPid": state.monitor.map_or(0, |monitor| monitor.pid),
        "ExitCode": if running { 0 } else { state.exit_code },
        "Error": state.error,
        "StartedAt": time(&state.started_at),
        "FinishedAt": if running { NEVER.to_owned() } else { time(&state.finished_at) },
    })
}

fn driver(fs: FsKind) -> &'static str {
    match fs {
        FsKind::Auto | FsKind::Fuse => "fuse",
        FsKind::Overlay => "overlay",
        FsKind::Copy => "copy",
    }
}

fn graph_driver(container: &Container) -> Value {
    let directories = container.directories();
    let (upper, merged) = match &container.config.spec.base {
        Base::Directory(path) => (path.clone(), path.clone()),
        Base::Image | Base::Layer(_) => (directories.writable(), directories.merged()),
    };
    let layers = container.config.layers.iter();
    let lower: Vec<_> =
        [directories.init()].iter().chain(layers).map(|path| path.display().to_string()).collect();
    json!({
        "Name": driver(container.config.spec.fs),
        "Data": {
            "LowerDir": lower.join(":"),
            "MergedDir": merged,
            "UpperDir": upper,
            "WorkDir": directories.work(),
        },
    })
}

fn mount_json(container: &Container, mount: &Mount) -> Value {
    let source = match Ready::of(&container.paths, mount) {
        Ok(Ready::Bind { source, .. }) => source.display().to_string(),
        _ => String::new(),
    };
    let (kind, name) = match &mount.source {
        Source::Host(_) => ("bind", ""),
        Source::Volume(name) => ("volume", name.as_str()),
        Source::Anonymous => ("volume", ""),
        Source::Tmpfs(_) => ("tmpfs", ""),
    };
    json!({
        "Type": kind,
        "Name": name,
        "Source": source,
        "Destination": mount.target,
        "Driver": if kind == "volume" { "local" } else { "" },
        "Mode": if mount.options.read_only { "ro" } else { "" },
        "RW": !mount.options.read_only,
        "Propagation": if mount.options.slave { "rslave" } else { "rprivate" },
    })
}

fn config_json(config: &Config) -> Value {
    let process = &config.spec.process;
    json!({
        "Hostname": config.spec.hostname,
        "User": process.user,
        "Tty": process.tty,
        "OpenStdin": process.interactive,
        "Env": process.env,
        "Cmd": process.args,
        "Image": config.image,
        "WorkingDir": process.cwd,
        "Entrypoint": Value::Null,
        "Labels": config.spec.labels,
        "StopSignal": config.spec.stop_signal.to_string(),
        "StopTimeout": config.spec.stop_timeout,
    })
}

fn host_config(spec: &Spec) -> Value {
    let limits = &spec.limits;
    let swap = match limits.memory_and_swap {
        Swap::Default => {
            limits.memory.map_or(0, |bytes| i64::try_from(bytes.saturating_mul(2)).unwrap_or(i64::MAX))
        }
        Swap::Unlimited => -1,
        Swap::Bytes(bytes) => i64::try_from(bytes).unwrap_or(i64::MAX),
    };
    json!({
        "NetworkMode": spec.network,
        "AutoRemove": spec.auto_remove,
        "Privileged": spec.privileged,
        "ReadonlyRootfs": spec.read_only,
        "Init": spec.init,
        "CapAdd": spec.process.capabilities.names(),
        "SecurityOpt": if spec.process.no_new_privileges { vec!["no-new-privileges"] } else { Vec::new() },
        "Memory": limits.memory.unwrap_or(0),
        "MemorySwap": swap,
        "NanoCpus": limits.cpu_quota.unwrap_or(0) * (1_000_000_000 / CPU_PERIOD),
        "CpuPeriod": if limits.cpu_quota.is_some() { CPU_PERIOD } else { 0 },
        "CpuQuota": limits.cpu_quota.unwrap_or(0),
        "CpusetCpus": limits.cpuset.clone().unwrap_or_default(),
        "PidsLimit": limits.pids.unwrap_or(0),
        "ShmSize": spec.shm_size,
        "LogConfig": { "Type": if spec.log { "json-file" } else { "none" }, "Config": {} },
    })
}
