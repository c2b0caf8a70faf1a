//! The life of a container: create, start, exec, logs, stop, wait, rm, and what ps and inspect tell meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use container::{Uctr, wait_until};
use serde_json::Value;

#[test]
fn life_in_order() {
    let uctr = Uctr::new();
    let id = uctr.ok(&["create", "--name", "life", "busybox", "sh", "-c", "echo begun; sleep 100"]);
    let status =
        || uctr.ok(&["inspect", "-f", "{{.State.Status}} {{.State.Running}} {{.State.ExitCode}}", "life"]);
    assert_eq!(status(), "created false 0");
    assert_eq!(uctr.ok(&["ps", "-q"]), "");
    assert_eq!(uctr.ok(&["ps", "-aq", "--no-trunc"]), id);
    assert_eq!(uctr.ok(&["start", "life"]), "life");
    assert_eq!(status(), "running true 0");
    assert_eq!(uctr.ok(&["ps", "-q"]), id[..12]);
    let pid = uctr.number("life", "/State/Pid");
    let command = || fs::read(format!("/proc/{pid}/cmdline")).unwrap();
    wait_until("the process is the container's command", || command().starts_with(b"sleep\x00100\x00"));
    uctr.ok(&["stop", "-t", "0", "life"]);
    assert_eq!(status(), "exited false 137");
    assert_eq!(uctr.number("life", "/State/Pid"), 0);
    assert!(uctr.ok(&["ps", "-a"]).contains("Exited (137)"));
    // It can be started again, with the same layers and log.
    uctr.ok(&["start", "life"]);
    wait_until("it has begun twice", || uctr.ok(&["logs", "life"]) == "begun\nbegun");
    assert_eq!(uctr.call(&["rm", "life"]).status, 125);
    assert_eq!(uctr.ok(&["rm", "-f", "life"]), "life");
    assert_eq!(uctr.call(&["inspect", "life"]).status, 125);
    uctr.assert_nothing_left();
}

#[test]
fn containers_are_found_by_name_identifier_and_its_beginning() {
    let uctr = Uctr::new();
    let id = uctr.background(&["--name", "named"], "sleep 100");
    for word in ["named", &id[..], &id[..12], &id[..4]] {
        assert_eq!(uctr.ok(&["inspect", "-f", "{{.Id}}", word]), id, "{word}");
    }
    let ids: Vec<String> = (0..20).map(|_| uctr.ok(&["create", "busybox", "true"])).collect();
    let shared = ids.iter().find_map(|one| ids.iter().find(|other| *other != one && other[..1] == one[..1]));
    let word = &shared.unwrap()[..1];
    let done = uctr.call(&["inspect", word]);
    assert!(done.status == 125 && done.err.contains("several containers"), "{done:?}");
}

#[test]
fn ps_tells_in_every_format() {
    let uctr = Uctr::new();
    uctr.background(&["--name", "up"], "sleep 100");
    let failed = uctr.call(&["run", "--name", "down", "busybox", "sh", "-c", "exit 3"]);
    assert_eq!(failed.status, 3);
    let rows: Vec<Value> = uctr
        .ok(&["ps", "-a", "--format", "json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let told: Vec<_> = rows.iter().map(|row| (row["Names"].as_str(), row["State"].as_str())).collect();
    assert_eq!(told, [(Some("down"), Some("exited")), (Some("up"), Some("running"))]);
    assert_eq!(uctr.ok(&["ps", "--format", "{{.Names}} {{.Image}}"]), "up busybox");
    let table = uctr.ok(&["ps", "-a"]);
    assert!(table.starts_with("CONTAINER ID   IMAGE") && table.contains("\"sh -c sleep 100\""), "{table}");
}

#[test]
fn stop_asks_first_and_kills_later() {
    let uctr = Uctr::new();
    let patient = uctr.background(&[], "trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done");
    let usr1 = uctr.background(
        &["--stop-signal", "USR1"],
        "trap 'exit 8' USR1; echo ready; while :; do sleep 0.02; done",
    );
    let deaf =
        uctr.background(&["--stop-timeout", "1"], "trap '' TERM; echo ready; while :; do sleep 0.02; done");
    for (id, status) in [(&patient, "9"), (&usr1, "8"), (&deaf, "137")] {
        wait_until("it is ready", || uctr.ok(&["logs", id]) == "ready");
        let start = Instant::now();
        uctr.ok(&["stop", id]);
        assert!(start.elapsed() < Duration::from_secs(8), "{status}");
        assert_eq!(uctr.ok(&["wait", id]), status);
    }
    uctr.ok(&["stop", &deaf]); // nothing to do
}

#[test]
fn exec_joins_everything() {
    let uctr = Uctr::new();
    let options =
        ["-e", "OWN=1", "-w", "/var", "-u", "app", "-v", "/made", "--cap-add", "NET_RAW", "-h", "box"];
    let id = uctr.background(&options, "sleep 100");
    let pid = uctr.number(&id, "/State/Pid");
    let namespaces = "for n in mnt uts ipc pid net cgroup user; do readlink /proc/self/ns/$n; done";
    let joined = uctr.ok(&["exec", &id, "sh", "-c", namespaces]);
    let own: Vec<String> = ["mnt", "uts", "ipc", "pid", "net", "cgroup", "user"]
        .iter()
        .map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string())
        .collect();
    assert_eq!(joined.lines().collect::<Vec<_>>(), own);
    assert_eq!(
        uctr.ok(&["exec", &id, "sh", "-c", "id -u; pwd; echo $OWN; hostname; ls -d /made"]),
        "1000\n/var\n1\nbox\n/made"
    );
    let bounding = "grep CapBnd /proc/self/status | cut -f 2";
    assert_eq!(uctr.ok(&["exec", &id, "sh", "-c", bounding]), "00000000800425fb");
    for (options, script, want) in [
        (&["-u", "0:33"][..], "id -u; id -g", "0\n33"),
        (&["-w", "/usr"], "pwd", "/usr"),
        (&["-e", "A=b", "-e", "OWN="], "echo $A$OWN", "b"),
    ] {
        assert_eq!(uctr.ok(&[&["exec"], options, &[&id, "sh", "-c", script]].concat()), want, "{options:?}");
    }
    let fed = uctr.feed(&["exec", "-i", &id, "cat"], b"fed");
    assert_eq!((fed.status, fed.out.as_str()), (0, "fed"));
    assert_eq!(uctr.call(&["exec", &id, "sh", "-c", "exit 42"]).status, 42);
    assert_eq!(uctr.call(&["exec", &id, "sh", "-c", "kill -9 $$"]).status, 137);
    let streams = uctr.call(&["exec", &id, "sh", "-c", "echo out; echo err >&2"]);
    assert_eq!((streams.out.as_str(), streams.err.as_str()), ("out\n", "err\n"));
}

#[test]
fn exec_detached_goes_on_alone() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "sleep 100");
    uctr.ok(&["exec", "-d", &id, "sh", "-c", "sleep 0.2; touch /tmp/done"]);
    wait_until("it is done", || uctr.call(&["exec", &id, "test", "-e", "/tmp/done"]).status == 0);
}

#[test]
fn exec_does_not_wait_for_what_the_command_left_behind() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "sleep 100");
    let start = Instant::now();
    assert_eq!(uctr.ok(&["exec", &id, "sh", "-c", "sleep 60 & echo left"]), "left");
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[test]
fn exec_ends_with_the_container() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "sleep 100");
    let child = uctr.command(&["exec", &id, "sleep", "100"]).spawn().unwrap();
    wait_until("it runs", || uctr.ok(&["exec", &id, "ps"]).matches("sleep 100").count() == 2);
    uctr.ok(&["kill", &id]);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(137));
}

#[test]
fn logs_keep_streams_order_and_lines() {
    let uctr = Uctr::new();
    let id = uctr.background(
        &[],
        "echo one; sleep 0.1; echo two >&2; sleep 0.1; printf three; head -c 40000 /dev/zero | tr '\\0' x",
    );
    uctr.ok(&["wait", &id]);
    let done = uctr.call(&["logs", &id]);
    assert_eq!(done.err, "two\n");
    assert_eq!(done.out, format!("one\nthree{}", "x".repeat(40_000)));
    assert_eq!(uctr.call(&["logs", "--tail", "0", &id]).out, "");
    let stamped = uctr.ok(&["logs", "-t", "--tail", "4", &id]);
    assert!(stamped.starts_with("20") && stamped.contains("Z three"), "{}", &stamped[..60]);
    let file = uctr.ok(&["inspect", "-f", "{{.LogPath}}", &id]);
    for line in fs::read_to_string(file).unwrap().lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        assert!(
            entry["log"].is_string() && entry["stream"].is_string() && entry["time"].is_string(),
            "{line}"
        );
    }
    let silent = uctr.ok(&["create", "--log-driver", "none", "busybox", "echo", "x"]);
    assert_eq!(uctr.call(&["start", "-a", &silent]).out, "x\n");
    assert_eq!(uctr.call(&["logs", &silent]).status, 125);
}

#[test]
fn logs_follow_to_the_end() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done");
    let followed = uctr.ok(&["logs", "-f", &id]);
    assert_eq!(followed, "1\n2\n3\n4\n5");
}

#[test]
fn many_start_and_end_at_once() {
    let uctr = Uctr::new();
    std::thread::scope(|scope| {
        for number in 0..12 {
            let uctr = &uctr;
            scope.spawn(move || {
                let word = number.to_string();
                assert_eq!(uctr.ok(&["run", "--rm", "-m", "64m", "busybox", "echo", &word]), word);
            });
        }
    });
    uctr.assert_nothing_left();
}

#[test]
fn one_name_is_given_once() {
    let uctr = Uctr::new();
    let won: Vec<bool> = std::thread::scope(|scope| {
        let create = || uctr.call(&["create", "--name", "one", "busybox", "true"]).status == 0;
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(create)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(won.iter().filter(|won| **won).count(), 1);
}

#[test]
fn start_attends_when_asked() {
    let uctr = Uctr::new();
    let id = uctr.ok(&["create", "-i", "busybox", "cat"]);
    let fed = uctr.feed(&["start", "-a", &id], b"through\n");
    assert_eq!((fed.status, fed.out.as_str()), (0, "through\n"));
}

#[test]
fn inspect_has_dockers_shape() {
    let uctr = Uctr::new();
    let id = uctr.background(&["-v", "/v", "--read-only"], "sleep 100");
    let value = uctr.inspect(&id);
    for pointer in [
        "/Id",
        "/Created",
        "/Path",
        "/Args",
        "/State/Status",
        "/State/StartedAt",
        "/Image",
        "/Name",
        "/Config/Env",
        "/Config/Cmd",
        "/HostConfig/ReadonlyRootfs",
        "/Mounts/0/Destination",
        "/GraphDriver/Data/UpperDir",
        "/LogPath",
    ] {
        assert!(value.pointer(pointer).is_some(), "{pointer} in {value:#}");
    }
    assert_eq!(value.pointer("/HostConfig/ReadonlyRootfs"), Some(&Value::Bool(true)));
}

#[test]
fn the_client_may_go_and_the_container_stays() {
    let uctr = Uctr::new();
    let mut client = uctr
        .command(&["run", "--name", "left", "busybox", "sh", "-c", "while :; do echo tick; sleep 0.05; done"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("it runs", || uctr.call(&["logs", "left"]).out.contains("tick"));
    client.kill().unwrap();
    client.wait().unwrap();
    let before = uctr.ok(&["logs", "left"]).lines().count();
    wait_until("it goes on", || uctr.ok(&["logs", "left"]).lines().count() > before + 2);
    uctr.ok(&["stop", "-t", "0", "left"]);
}

#[test]
fn restart_is_stop_and_start() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "echo begun; touch /once; sleep 100");
    wait_until("it has begun", || uctr.call(&["exec", &id, "ls", "/once"]).status == 0);
    let before = uctr.number(&id, "/State/Pid");
    uctr.ok(&["restart", "-t", "0", &id]);
    assert_ne!(uctr.number(&id, "/State/Pid"), before);
    assert_eq!(uctr.ok(&["exec", &id, "ls", "/once"]), "/once");
    uctr.ok(&["stop", "-t", "0", &id]);
    uctr.ok(&["restart", &id]);
    assert_eq!(uctr.ok(&["inspect", "-f", "{{.State.Status}}", &id]), "running");
}
