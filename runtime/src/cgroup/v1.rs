//! Version 1: the files of each controller and their formats (Documentation/admin-guide/cgroup-v1).

use std::fs;
use std::io;
use std::path::Path;

use super::{CPU_PERIOD, CgroupView, Limits, Setting, Swap};

/// The files to write, in order: a new group's memory limit must be set before the one on memory and swap, which
/// may not be below it.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        settings.push(Setting::new("memory", "memory.limit_in_bytes", bytes));
        const BOTH: &str = "memory.memsw.limit_in_bytes";
        match limits.memory_and_swap {
            Swap::Default => {
                let both = Setting::new("memory", BOTH, bytes.saturating_mul(2));
                settings.push(Setting { required: false, ..both });
            }
            Swap::Unlimited => {}
            Swap::Bytes(both) => settings.push(Setting::new("memory", BOTH, both)),
        }
    }
    if let Some(quota) = limits.cpu_quota {
        settings.push(Setting::new("cpu", "cpu.cfs_period_us", CPU_PERIOD));
        settings.push(Setting::new("cpu", "cpu.cfs_quota_us", quota));
    }
    if let Some(list) = &limits.cpuset {
        settings.push(Setting::new("cpuset", "cpuset.cpus", list));
    }
    if let Some(count) = limits.pids {
        settings.push(Setting::new("pids", "pids.max", count));
    }
    settings
}

/// The hierarchy of these controllers, under the name that systemd gives its directory.
pub(super) fn view(controllers: &[String]) -> CgroupView {
    let name = controllers.join(",");
    let (name, options) = match name.strip_prefix("name=") {
        Some(plain) => (plain.to_owned(), vec!["none".into(), name.clone()]),
        None => (name, controllers.to_vec()),
    };
    CgroupView { name: Some(name), kind: "cgroup", options }
}

/// What every container may do with devices: make any node; open null, zero, full, random, urandom, tty, console, ptmx and the
/// terminals (runtime-spec, config-linux.md, "Allowed Device List").
pub(super) const DEVICES: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// Gives a new cpuset group what its parent has: an empty one takes no process.
pub(super) fn inherit_cpuset(parent: &Path, child: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if fs::read_to_string(child.join(file))?.trim().is_empty() {
            fs::write(child.join(file), fs::read_to_string(parent.join(file))?.trim())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_by_limits() {
        let memory = |swap| Limits { memory: Some(1000), memory_and_swap: swap, ..Limits::default() };
        for (case, limits, want) in [
            ("none", Limits::default(), vec![]),
            (
                "memory alone",
                memory(Swap::Default),
                vec![("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "2000")],
            ),
            ("swap unlimited", memory(Swap::Unlimited), vec![("memory.limit_in_bytes", "1000")]),
            (
                "swap given",
                memory(Swap::Bytes(1500)),
                vec![("memory.limit_in_bytes", "1000"), ("memory.memsw.limit_in_bytes", "1500")],
            ),
            (
                "a fifth of a processor",
                Limits { cpu_quota: Some(20_000), ..Limits::default() },
                vec![("cpu.cfs_period_us", "100000"), ("cpu.cfs_quota_us", "20000")],
            ),
            (
                "cpuset and pids",
                Limits { cpuset: Some("0-1".into()), pids: Some(7), ..Limits::default() },
                vec![("cpuset.cpus", "0-1"), ("pids.max", "7")],
            ),
        ] {
            let got = settings(&limits);
            let got: Vec<_> = got.iter().map(|setting| (setting.file, setting.value.as_str())).collect();
            assert_eq!(got, want, "{case}");
        }
    }
}
