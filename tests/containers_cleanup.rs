//! Whatever is killed, nothing stays: no process, no mount, no cgroup, no directory.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::path::PathBuf;

use container::{Uctr, cgroups_of, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const WAYS: [&str; 3] = ["fuse", "overlay", "copy"];

fn kill_hard(pid: i64) {
    kill(Pid::from_raw(i32::try_from(pid).unwrap()), Signal::SIGKILL).unwrap();
}

/// Whether a process is there and has not ended.
fn alive(pid: i64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// The union servers of the store.
fn servers(uctr: &Uctr) -> Vec<i64> {
    let is_server = |pid: &i32| {
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|byte| *byte == 0).any(|word| word == b"serve-union"))
    };
    uctr.processes().into_iter().filter(is_server).map(i64::from).collect()
}

#[test]
fn a_killed_monitor_takes_everything_with_it() {
    let uctr = Uctr::new();
    for way in WAYS {
        let id = uctr.background(&["--fs", way, "-m", "64m", "-v", "/v"], "sleep 100 & sleep 100");
        let (monitor, init) = (uctr.number(&id, "/State/MonitorPid"), uctr.number(&id, "/State/Pid"));
        let server = servers(&uctr);
        assert_eq!(server.len(), usize::from(way == "fuse"), "{way}");
        kill_hard(monitor);
        wait_until("all processes are gone", || {
            [&[init, monitor], &server[..]].concat().iter().all(|pid| !alive(*pid))
        });
        assert_eq!(
            uctr.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", &id]),
            "exited 137",
            "{way}"
        );
        assert!(uctr.ok(&["inspect", "-f", "{{.State.Error}}", &id]).contains("monitor was killed"), "{way}");
        assert_eq!(uctr.ok(&["wait", &id]), "137");
        uctr.ok(&["rm", "-v", &id]);
        assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new(), "{way}");
        assert_eq!(uctr.ok(&["volume", "ls", "-q"]), "");
        uctr.assert_nothing_left();
    }
}

#[test]
fn a_container_starts_again_after_its_monitor_was_killed() {
    let uctr = Uctr::new();
    for way in WAYS {
        let id = uctr.background(&["--fs", way], "touch /once; sleep 100");
        wait_until("it runs", || uctr.call(&["exec", &id, "test", "-e", "/once"]).status == 0);
        kill_hard(uctr.number(&id, "/State/MonitorPid"));
        wait_until("it is over", || uctr.ok(&["inspect", "-f", "{{.State.Status}}", &id]) == "exited");
        wait_until("it starts again", || uctr.call(&["start", &id]).status == 0);
        assert_eq!(uctr.ok(&["exec", &id, "ls", "/once"]), "/once", "{way}");
        uctr.ok(&["rm", "-f", &id]);
    }
}

#[test]
fn a_killed_server_ends_the_container_and_says_so() {
    let uctr = Uctr::new();
    let id = uctr.background(&["--fs", "fuse"], "sleep 100");
    let [server] = servers(&uctr)[..] else { panic!("one server") };
    kill_hard(server);
    // By the monitor's SIGKILL, or by SIGBUS for a page that nobody can read any more.
    assert!(["137", "135"].contains(&&*uctr.ok(&["wait", &id])));
    assert!(uctr.ok(&["inspect", "-f", "{{.State.Error}}", &id]).contains("filesystem's server died"));
    assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new());
    uctr.ok(&["rm", &id]);
    uctr.assert_nothing_left();
}

#[test]
fn a_killed_client_leaves_a_container_that_rm_removes() {
    let uctr = Uctr::new();
    for way in WAYS {
        let mut command = uctr.command(&["run", "--name", "c", "--fs", way, "busybox", "sleep", "100"]);
        let mut client = command.spawn().unwrap();
        wait_until("it runs", || uctr.call(&["inspect", "-f", "{{.State.Status}}", "c"]).out == "running\n");
        client.kill().unwrap();
        client.wait().unwrap();
        let id = uctr.ok(&["inspect", "-f", "{{.Id}}", "c"]);
        assert_eq!(uctr.ok(&["inspect", "-f", "{{.State.Status}}", "c"]), "running", "{way}");
        uctr.ok(&["rm", "-f", "c"]);
        assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new(), "{way}");
        uctr.assert_nothing_left();
    }
}

#[test]
fn rm_of_its_own_accord_survives_the_client() {
    let uctr = Uctr::new();
    let mut client =
        uctr.command(&["run", "--rm", "--name", "c", "-v", "/v", "busybox", "sleep", "0.5"]).spawn().unwrap();
    wait_until("it runs", || uctr.call(&["inspect", "-f", "{{.State.Status}}", "c"]).out == "running\n");
    client.kill().unwrap();
    client.wait().unwrap();
    wait_until("it has removed itself", || uctr.ok(&["ps", "-aq"]).is_empty());
    assert_eq!(uctr.ok(&["volume", "ls", "-q"]), "");
    uctr.assert_nothing_left();
}

#[test]
fn a_failed_start_leaves_nothing() {
    let uctr = Uctr::new();
    for way in WAYS {
        for command in [&["nosuch"][..], &["/usr/plain"]] {
            let done = uctr
                .call(&[&["run", "--rm", "--fs", way, "-v", "/v", "-m", "64m", "busybox"], command].concat());
            assert!([126, 127].contains(&done.status), "{way}: {done:?}");
            uctr.assert_nothing_left();
            assert_eq!(uctr.ok(&["volume", "ls", "-q"]), "", "{way}");
        }
        // Without --rm the container stays, as with Docker, but nothing of it runs.
        let done = uctr.call(&["run", "--name", "failed", "--fs", way, "busybox", "nosuch"]);
        assert_eq!(done.status, 127);
        let told = uctr.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "failed"]);
        assert_eq!(told, "created 127", "{way}");
        assert!(uctr.processes().is_empty(), "{way}");
        uctr.ok(&["rm", "failed"]);
    }
}

#[test]
fn a_client_killed_at_any_moment_leaves_nothing_that_cannot_be_removed() {
    let uctr = Uctr::new();
    for microseconds in (0..40_000).step_by(2000) {
        let mut command = uctr.command(&["run", "-m", "64m", "busybox", "sleep", "100"]);
        // The client alone is killed, at some moment between its start and its container's.
        let mut client = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(microseconds));
        client.kill().unwrap();
        client.wait().unwrap();
    }
    // Monitors that were on their way go on: their containers run. Those that were not yet containers are swept away when
    // the next one is made.
    uctr.says(&[], "true");
    uctr.assert_clean();
}

#[test]
fn processes_that_joined_go_too() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "sleep 100");
    uctr.ok(&["exec", "-d", &id, "sleep", "12345.678"]);
    uctr.ok(&["rm", "-f", &id]);
    let left = std::process::Command::new("pgrep").args(["-f", "^sleep 12345.678$"]).output().unwrap();
    assert!(left.stdout.is_empty(), "{left:?}");
    assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new());
}

#[test]
fn a_group_inside_the_containers_is_removed_too() {
    let uctr = Uctr::new();
    let id = uctr.background(&["--privileged"], "sleep 100");
    let made: Vec<PathBuf> = cgroups_of(&id).into_iter().map(|group| group.join("inner/deep")).collect();
    made.iter().for_each(|group| fs::create_dir_all(group).unwrap());
    uctr.ok(&["rm", "-f", &id]);
    assert_eq!(cgroups_of(&id), Vec::<PathBuf>::new());
}
