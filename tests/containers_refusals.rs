//! Command lines that cannot be honoured: exit status 125, one line that names the object, and nothing made.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use container::Uctr;

/// Status 125, the message, and no trace in the store.
fn assert_refused(uctr: &Uctr, args: &[&str], words: &[&str]) {
    let done = uctr.call(args);
    assert_eq!(done.status, 125, "{args:?}: {done:?}");
    assert!(done.out.is_empty(), "{args:?}: {done:?}");
    for word in words {
        assert!(done.err.contains(word), "{args:?} must say {word:?}: {}", done.err);
    }
    let lines = done.err.lines().filter(|line| !line.is_empty()).count();
    assert!(done.err.starts_with("error:") || lines == 1, "{args:?}: more than one line: {}", done.err);
    uctr.assert_nothing_left();
    assert_eq!(uctr.ok(&["volume", "ls", "-q"]), "", "{args:?}");
}

#[test]
fn run_refuses_what_cannot_be() {
    let uctr = Uctr::new();
    let file = uctr.path("file");
    std::fs::write(&file, "").unwrap();
    let file = file.to_str().unwrap();
    for (options, words) in [
        (&["--memory", "12x"][..], &["--memory", "12x", "128m"][..]),
        (&["-m", "100k"], &["--memory", "100k", "512k"]),
        (&["-m", "-1"], &["--memory", "-1"]),
        (&["--memory-swap", "1g"], &["--memory-swap", "without --memory"]),
        (&["-m", "64m", "--memory-swap", "32m"], &["--memory-swap", "32m", "below"]),
        (&["--cpus", "0.001"], &["--cpus", "0.001", "0.01"]),
        (&["--cpus", "9999"], &["--cpus", "9999"]),
        (&["--cpus", "many"], &["--cpus", "many"]),
        (&["--cpus", "-1"], &["--cpus", "-1"]),
        (&["--cpuset-cpus", "4000"], &["--cpuset-cpus", "4000"]),
        (&["--cpuset-cpus", "2-1"], &["--cpuset-cpus", "2-1"]),
        (&["--pids-limit", "-2"], &["--pids-limit", "-2"]),
        (&["--network", "bridge"], &["--network", "bridge", "none or host"]),
        (&["--name", "-x"], &["--name"]),
        (&["--name", "a/b"], &["--name", "a/b"]),
        (&["--hostname", "two words"], &["--hostname", "two words"]),
        (&["--cap-add", "FLY"], &["FLY", "capabilities(7)"]),
        (&["-w", "relative"], &["--workdir", "relative", "absolute"]),
        (&["-e", "=x"], &["--env", "=x"]),
        (&["--env-file", "/no/such"], &["--env-file", "/no/such"]),
        (&["-v", "relative:/x:ro:more"], &["--volume", "colons"]),
        (&["-v", "./here:/x"], &["--volume", "./here"]),
        (&["-v", "/tmp:relative"], &["--volume", "relative", "absolute"]),
        (&["-v", "/no/such:/x"], &["--volume", "/no/such", "make it first"]),
        (&["-v", "/tmp:/x:fast"], &["--volume", "fast"]),
        (&["-v", "/tmp:/x:rshared"], &["--volume", "rshared", "rslave"]),
        (&["-v", "/tmp:/"], &["--volume", "root"]),
        (&["-v", "/tmp:/x", "-v", "/var:/x"], &["--volume", "already mounted at /x"]),
        (&["--tmpfs", "/x:what=1"], &["--tmpfs", "what=1"]),
        (&["--stop-signal", "SIGNOTHING"], &["--stop-signal", "SIGNOTHING"]),
        (&["--shm-size", "0"], &["--shm-size"]),
        (&["--log-driver", "syslog"], &["--log-driver", "syslog"]),
        (&["--security-opt", "seccomp=/x"], &["--security-opt", "seccomp=/x"]),
        (&["--cidfile", file], &["--cidfile", file]),
        (&["--label", "=x"], &["--label"]),
        (&["--fs", "zfs"], &["--fs", "zfs"]),
        (&["--io", "fast"], &["--io", "fast"]),
        (&["--io", "passthrough-all", "--fs", "overlay"], &["--io", "passthrough-all", "--fs fuse"]),
        (&["--entrypoint", ""], &["COMMAND", "none was given"]),
        (&["--user", "nobody-here"], &["--user", "nobody-here", "/etc/passwd"]),
        (&["--group-add", "nogroup-here"], &["--group-add", "nogroup-here", "/etc/group"]),
        (&["--no-such-option"], &["--no-such-option"]),
    ] {
        let command: &[&str] =
            if options == ["--entrypoint", ""] { &["busybox"] } else { &["busybox", "true"] };
        assert_refused(&uctr, &[&["run", "--rm"], options, command].concat(), words);
    }
}

#[test]
fn run_refuses_images_and_roots_that_are_none() {
    let uctr = Uctr::new();
    for (args, words) in [
        (&["run"][..], &["no image"][..]),
        (&["run", "nosuch"], &["nosuch"]),
        (&["run", "busybox"], &["COMMAND", "busybox"]),
        (&["run", "busybox", ""], &["COMMAND"]),
        (&["run", "--rootfs", "/no/such", "true"], &["--rootfs", "/no/such"]),
        (&["run", "--rootfs", "/", "true"], &["--rootfs", "/:O"]),
        (&["create", "nosuch"], &["nosuch"]),
        (&["nonsense"], &["nonsense"]),
        (&["run", "--memory"], &["--memory"]),
    ] {
        assert_refused(&uctr, args, words);
    }
}

#[test]
fn commands_refuse_containers_that_are_none() {
    let uctr = Uctr::new();
    for args in [
        &["start", "nosuch"][..],
        &["stop", "nosuch"],
        &["kill", "nosuch"],
        &["wait", "nosuch"],
        &["rm", "nosuch"],
        &["logs", "nosuch"],
        &["inspect", "nosuch"],
        &["exec", "nosuch", "true"],
    ] {
        assert_refused(&uctr, args, &["no such container: nosuch"]);
    }
    assert_eq!(uctr.call(&["rm", "-f", "nosuch"]).status, 0);
    assert_refused(&uctr, &["volume", "inspect", "nosuch"], &["no such volume: nosuch"]);
    assert_refused(&uctr, &["volume", "rm", "nosuch"], &["no such volume: nosuch"]);
    assert_refused(&uctr, &["volume", "create", "../x"], &["../x"]);
    assert_refused(&uctr, &["volume", "rm", "../x"], &["../x"]);
}

#[test]
fn commands_refuse_the_wrong_state() {
    let uctr = Uctr::new();
    let refused = |args: &[&str], word: &str| {
        let done = uctr.call(args);
        assert_eq!(done.status, 125, "{args:?}: {done:?}");
        assert!(done.err.contains(word), "{args:?} must say {word:?}: {}", done.err);
    };
    uctr.ok(&["create", "--name", "c", "busybox", "sleep", "100"]);
    refused(&["exec", "c", "true"], "container c is not running");
    refused(&["kill", "c"], "container c is not running");
    refused(&["wait", "c"], "has not been started");
    refused(&["create", "--name", "c", "busybox", "true"], "is the name of container");
    uctr.ok(&["start", "c"]);
    refused(&["start", "c"], "running");
    refused(&["rm", "c"], "rm --force");
    refused(&["kill", "-s", "NOTHING", "c"], "NOTHING");
    refused(&["exec", "-w", "relative", "c", "true"], "absolute");
    refused(&["exec", "-u", "nobody-here", "c", "true"], "nobody-here");
    refused(&["logs", "--tail", "few", "c"], "few");
    refused(&["inspect", "-f", "{{.Nothing}}", "c"], "Nothing");
    assert_eq!(uctr.call(&["exec", "c", "nosuch"]).status, 127);
    assert_eq!(uctr.call(&["exec", "c", "/usr/plain"]).status, 126);
}
