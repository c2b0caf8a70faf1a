//! What a container may use, as the kernel counts it: on whatever cgroup hierarchies this machine has.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use container::{Uctr, cgroups_of};

/// A file of the container's group that controls something, in the first of these spellings that is there.
fn group_file(id: &str, files: &[&str]) -> Option<PathBuf> {
    let groups = cgroups_of(id);
    files.iter().flat_map(|file| groups.iter().map(move |group| group.join(file))).find(|path| path.exists())
}

fn read(id: &str, files: &[&str]) -> String {
    let path = group_file(id, files).unwrap_or_else(|| panic!("none of {files:?} in {:?}", cgroups_of(id)));
    fs::read_to_string(path).unwrap().trim().to_owned()
}

#[test]
fn limits_are_written_as_the_kernel_wants_them() {
    let uctr = Uctr::new();
    let options =
        ["-m", "64m", "--memory-swap", "96m", "--cpus", "0.2", "--cpuset-cpus", "0", "--pids-limit", "20"];
    let id = uctr.background(&options, "sleep 100");
    assert_eq!(read(&id, &["memory.limit_in_bytes", "memory.max"]), "67108864");
    assert!(
        ["100663296", "33554432"].contains(&&*read(&id, &["memory.memsw.limit_in_bytes", "memory.swap.max"]))
    );
    assert!(["20000", "20000 100000"].contains(&&*read(&id, &["cpu.cfs_quota_us", "cpu.max"])));
    assert_eq!(read(&id, &["cpuset.cpus"]), "0");
    assert_eq!(read(&id, &["pids.max"]), "20");
    // The container sees the same, at the root of its own view, and no process of it is elsewhere.
    let inside = uctr.ok(&[
        "exec",
        &id,
        "sh",
        "-c",
        "cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true",
    ]);
    assert_eq!(inside, "20");
    let places = uctr.ok(&["exec", &id, "cut", "-d:", "-f3", "/proc/self/cgroup"]);
    assert!(places.lines().all(|place| place == "/"), "{places}");
    for group in cgroups_of(&id) {
        let processes = fs::read_to_string(group.join("cgroup.procs")).unwrap();
        assert_eq!(processes.lines().count(), 1, "{}", group.display());
    }
    assert_eq!(
        uctr.ok(&[
            "inspect",
            "-f",
            "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}",
            &id
        ]),
        "67108864 200000000 20"
    );
}

#[test]
fn too_much_memory_is_killed_and_told() {
    let uctr = Uctr::new();
    let id = uctr.ok(&["create", "-m", "16m", "busybox", "tail", "/dev/zero"]);
    assert_eq!(uctr.call(&["start", "-a", &id]).status, 137);
    assert_eq!(uctr.ok(&["inspect", "-f", "{{.State.OOMKilled}} {{.State.ExitCode}}", &id]), "true 137");
    let small = uctr.script(&["-m", "512k"], "echo still runs");
    assert_eq!(small.out, "still runs\n", "{small:?}");
}

#[test]
fn processor_time_is_held_to_the_quota() {
    let uctr = Uctr::new();
    let id = uctr.background(&["--cpus", "0.2"], "while :; do :; done");
    let used = || -> u64 {
        match group_file(&id, &["cpuacct.usage"]) {
            Some(path) => fs::read_to_string(path).unwrap().trim().parse::<u64>().unwrap() / 1000,
            None => {
                let text = read(&id, &["cpu.stat"]);
                text.lines().find_map(|line| line.strip_prefix("usage_usec ")).unwrap().parse().unwrap()
            }
        }
    };
    let (before, start) = (used(), std::time::Instant::now());
    std::thread::sleep(Duration::from_secs(2));
    let (after, passed) = (used(), start.elapsed());
    let share = f64::from(u32::try_from(after - before).unwrap()) / passed.as_secs_f64() / 1e6;
    // Never much above it; on a busy machine it may get less.
    assert!(share > 0.02 && share < 0.25, "a busy loop used {share} of a processor");
    let stats =
        cgroups_of(&id).into_iter().filter_map(|group| fs::read_to_string(group.join("cpu.stat")).ok());
    let throttled: Vec<u64> = stats
        .filter_map(|text| text.lines().find_map(|line| line.strip_prefix("nr_throttled ")?.parse().ok()))
        .collect();
    assert!(throttled.iter().any(|periods| *periods > 0), "{throttled:?}");
}

#[test]
fn too_many_processes_are_refused() {
    let uctr = Uctr::new();
    let script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done; echo made all";
    let done = uctr.script(&["--pids-limit", "4"], script);
    assert!(!done.out.contains("made all") && done.err.contains("can't fork"), "{done:?}");
    assert_eq!(
        uctr.says(&["--pids-limit", "-1"], "for i in 1 2 3 4 5 6 7 8 9; do true & done; echo made all"),
        "made all"
    );
}

#[test]
fn only_the_processors_of_the_set_are_used() {
    let uctr = Uctr::new();
    assert_eq!(
        uctr.says(&["--cpuset-cpus", "1"], "nproc; grep Cpus_allowed_list /proc/self/status | cut -f 2"),
        "1\n1"
    );
}

#[test]
fn limits_hold_for_what_joins() {
    let uctr = Uctr::new();
    let id = uctr.background(&["--pids-limit", "3"], "sleep 100");
    let done = uctr.call(&["exec", &id, "sh", "-c", "sleep 5 & sleep 5 & sleep 5 & echo made all"]);
    assert!(!done.out.contains("made all"), "{done:?}");
}

#[test]
fn groups_are_gone_with_the_container() {
    let uctr = Uctr::new();
    let file = uctr.path("cid");
    let options = ["--cidfile", file.to_str().unwrap(), "-m", "64m"];
    uctr.says(&options, "true");
    let id = fs::read_to_string(&file).unwrap();
    assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new());
}
