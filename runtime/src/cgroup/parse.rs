//! The texts that tell where the cgroup hierarchies are, apart from reading them.

use std::path::PathBuf;

/// One mounted hierarchy (cgroups(7)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) mount: PathBuf,
    /// Which of the two interfaces, and what it controls.
    pub(crate) kind: Kind,
}

/// The two interfaces of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Version 1: the controllers of this hierarchy, or its name as `name=…`.
    V1(Vec<String>),
    /// Version 2: it holds what no v1 hierarchy has taken; `cgroup.controllers` tells.
    V2,
}

/// The hierarchies in the text of `/proc/self/mountinfo` (proc_pid_mountinfo(5)), each once, where it is mounted first.
pub(crate) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = Vec::new();
    for hierarchy in mountinfo.lines().filter_map(hierarchy) {
        if !found.iter().any(|known| known.kind == hierarchy.kind) {
            found.push(hierarchy);
        }
    }
    found
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (before, after) = line.split_once(" - ")?;
    let mount = PathBuf::from(unescape(before.split(' ').nth(4)?));
    let mut after = after.split(' ');
    let kind = match after.next()? {
        "cgroup2" => Kind::V2,
        "cgroup" => Kind::V1(controllers(after.nth(1)?)),
        _ => return None,
    };
    Some(Hierarchy { mount, kind })
}

/// The controllers among the options of a v1 superblock, which also has flags.
fn controllers(options: &str) -> Vec<String> {
    let flags = ["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "none", "favordynmods"];
    let is_controller = |option: &&str| !flags.contains(option) && !option.starts_with("release_agent=");
    options.split(',').filter(is_controller).map(str::to_owned).collect()
}

/// Undoes the octal escapes of space, tab, newline and backslash.
fn unescape(field: &str) -> String {
    let mut out = String::with_capacity(field.len());
    let mut rest = field;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v1(mount: &str, controllers: &[&str]) -> Hierarchy {
        let kind = Kind::V1(controllers.iter().map(|name| (*name).to_owned()).collect());
        Hierarchy { mount: mount.into(), kind }
    }

    fn v2(mount: &str) -> Hierarchy {
        Hierarchy { mount: mount.into(), kind: Kind::V2 }
    }

    #[test]
    fn hierarchies_by_mountinfo() {
        for (case, text, want) in [
            ("none", "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n", vec![]),
            (
                "pure v2",
                "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
                vec![v2("/sys/fs/cgroup")],
            ),
            (
                "hybrid with flags and a name",
                "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                 32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                 33 31 0:30 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
                 34 31 0:31 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
                vec![
                    v1("/sys/fs/cgroup/cpu,cpuacct", &["cpu", "cpuacct"]),
                    v1("/sys/fs/cgroup/systemd", &["name=systemd"]),
                    v2("/sys/fs/cgroup/unified"),
                ],
            ),
            (
                "mounted twice counts once",
                "1 0 0:9 / /a rw - cgroup cgroup rw,pids\n2 0 0:9 / /b rw - cgroup cgroup rw,pids\n",
                vec![v1("/a", &["pids"])],
            ),
            (
                "escaped path",
                "1 0 0:9 / /with\\040space\\134 rw - cgroup cgroup rw,pids\n",
                vec![v1("/with space\\", &["pids"])],
            ),
        ] {
            assert_eq!(hierarchies(text), want, "{case}");
        }
    }
}
