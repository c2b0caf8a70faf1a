//! Version 2: the files of each controller and their formats (Documentation/admin-guide/cgroup-v2.rst).

use std::fs;
use std::io;
use std::path::Path;

use super::{CPU_PERIOD, Limits, Setting, Swap};

/// The files to write. Swap is counted apart from memory here.
pub(super) fn settings(limits: &Limits) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        settings.push(Setting::new("memory", "memory.max", bytes));
        let (swap, required) = match limits.memory_and_swap {
            Swap::Default => (bytes.to_string(), false),
            Swap::Unlimited => ("max".into(), false),
            Swap::Bytes(both) => (both.saturating_sub(bytes).to_string(), true),
        };
        settings.push(Setting { required, ..Setting::new("memory", "memory.swap.max", swap) });
    }
    if let Some(quota) = limits.cpu_quota {
        settings.push(Setting::new("cpu", "cpu.max", format!("{quota} {CPU_PERIOD}")));
    }
    if let Some(list) = &limits.cpuset {
        settings.push(Setting::new("cpuset", "cpuset.cpus", list));
    }
    if let Some(count) = limits.pids {
        settings.push(Setting::new("pids", "pids.max", count));
    }
    settings
}

/// The controllers that this group may hand on.
pub(super) fn controllers(group: &Path) -> Vec<String> {
    let text = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    text.split_ascii_whitespace().map(str::to_owned).collect()
}

/// Hands a controller down from the root of the hierarchy through `parent` to the groups in it.
pub(super) fn enable(mount: &Path, parent: &Path, controller: &str) -> io::Result<()> {
    for group in [mount, parent] {
        let file = group.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file)?;
        if !enabled.split_ascii_whitespace().any(|name| name == controller) {
            fs::write(&file, format!("+{controller}"))?;
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
                vec![("memory.max", "1000"), ("memory.swap.max", "1000")],
            ),
            ("unlimited", memory(Swap::Unlimited), vec![("memory.max", "1000"), ("memory.swap.max", "max")]),
            ("no swap", memory(Swap::Bytes(1000)), vec![("memory.max", "1000"), ("memory.swap.max", "0")]),
            (
                "a fifth of a processor",
                Limits { cpu_quota: Some(20_000), ..Limits::default() },
                vec![("cpu.max", "20000 100000")],
            ),
            (
                "cpuset and pids",
                Limits { cpuset: Some("1".into()), pids: Some(7), ..Limits::default() },
                vec![("cpuset.cpus", "1"), ("pids.max", "7")],
            ),
        ] {
            let got = settings(&limits);
            let got: Vec<_> = got.iter().map(|setting| (setting.file, setting.value.as_str())).collect();
            assert_eq!(got, want, "{case}");
        }
    }
}
