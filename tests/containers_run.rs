//! `uctr run`: what the command is, what it finds around it, and how its end is told.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;

use container::{Uctr, wait_until};

#[test]
fn run_tells_the_end_as_docker_does() {
    let uctr = Uctr::new();
    for (case, command, status, err) in [
        ("success", &["true"][..], 0, ""),
        ("exit status", &["sh", "-c", "exit 7"], 7, ""),
        ("highest exit status", &["sh", "-c", "exit 255"], 255, ""),
        ("killed by a signal", &["sh", "-c", "sh -c 'kill -9 $$'; exit $?"], 137, ""),
        ("not in PATH", &["nosuch"], 127, "exec: \"nosuch\": executable file not found in $PATH"),
        ("no such path", &["/no/such"], 127, "exec: \"/no/such\": no such file or directory"),
        ("not executable", &["/usr/plain"], 126, "exec: \"/usr/plain\": permission denied"),
        ("a directory", &["/usr"], 126, "exec: \"/usr\": is a directory"),
        ("no interpreter", &["/usr/no-interpreter"], 127, "its interpreter is missing"),
        ("no known format", &["/usr/garbage"], 126, "exec format error"),
    ] {
        let done = uctr.call(&[&["run", "--rm", "busybox"], command].concat());
        assert_eq!(done.status, status, "{case}: {done:?}");
        assert!(done.err.contains(err), "{case}: {done:?}");
    }
}

#[test]
fn run_first_process_killed_is_128_and_signal() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "trap 'exit 5' TERM; while :; do sleep 0.05; done");
    uctr.ok(&["kill", "-s", "KILL", &id]);
    assert_eq!(uctr.ok(&["wait", &id]), "137");
    assert_eq!(uctr.number(&id, "/State/ExitCode"), 137);
}

#[test]
fn run_keeps_the_streams_apart() {
    let uctr = Uctr::new();
    let done = uctr.script(&[], "echo out; echo err >&2");
    assert_eq!((done.out.as_str(), done.err.as_str()), ("out\n", "err\n"));
}

#[test]
fn run_reads_standard_input_only_when_interactive() {
    let uctr = Uctr::new();
    let with = uctr.feed(&["run", "--rm", "-i", "busybox", "cat"], b"typed\n");
    assert_eq!((with.status, with.out.as_str()), (0, "typed\n"));
    let without = uctr.feed(&["run", "--rm", "busybox", "cat"], b"typed\n");
    assert_eq!((without.status, without.out.as_str()), (0, ""));
}

#[test]
fn run_carries_much_output_whole() {
    let uctr = Uctr::new();
    let input: Vec<u8> = (0..3_000_000u32).map(|number| (number % 251) as u8).collect();
    let echoed = uctr.feed(&["run", "--rm", "-i", "busybox", "md5sum"], &input);
    let file = uctr.path("input");
    fs::write(&file, &input).unwrap();
    let local = std::process::Command::new("md5sum").arg(&file).output().unwrap().stdout;
    assert_eq!(echoed.out.split(' ').next(), String::from_utf8(local).unwrap().split(' ').next());
    let counted = uctr.script(&[], "head -c 3000000 /dev/zero");
    assert_eq!(counted.out.len(), 3_000_000);
}

#[test]
fn run_gives_the_environment() {
    let uctr = Uctr::with_image(&["ENV FROM_IMAGE=image", "ENV BOTH=image"]);
    let file = uctr.path("env");
    fs::write(&file, "# comment\nFROM_FILE=file\nBOTH=file\n").unwrap();
    let options =
        ["-e", "BOTH=flag", "-e", "EMPTY=", "-e", "UCTR_CALLER", "-e", "UCTR_UNSET", "--hostname", "box"];
    let options = [&options[..], &["--env-file", file.to_str().unwrap()]].concat();
    let args = [&["run", "--rm"], &options[..], &["busybox", "env"]].concat();
    let done: container::Done =
        uctr.command(&args).env("UCTR_CALLER", "caller").env_remove("UCTR_UNSET").output().unwrap().into();
    let mut lines: Vec<&str> = done.out.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "BOTH=flag",
            "EMPTY=",
            "FROM_FILE=file",
            "FROM_IMAGE=image",
            "HOME=/root",
            "HOSTNAME=box",
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "UCTR_CALLER=caller",
            "container=uctr",
        ]
    );
}

#[test]
fn run_takes_on_the_user() {
    let uctr = Uctr::new();
    let script = "echo $(id -u):$(id -g):$(id -G):$HOME";
    for (user, extra, want) in [
        ("", &[][..], "0:0:0:/root"),
        ("app", &[], "1000:1000:1000 4:/home/app"),
        ("1000", &[], "1000:1000:1000 4:/home/app"),
        ("app:www", &[], "1000:33:33:/home/app"),
        ("4321:5", &[], "4321:5:5:/"),
        ("4321", &["--group-add", "adm", "--group-add", "77"], "4321:0:0 4 77:/"),
    ] {
        let named = ["-u", user];
        let options = [if user.is_empty() { &[][..] } else { &named }, extra].concat();
        assert_eq!(uctr.says(&options, script), want, "{user}");
    }
    // The standard streams are the user's: he can open them again.
    assert_eq!(uctr.says(&["-u", "app"], "echo again > /dev/stdout"), "again");
}

#[test]
fn run_honours_the_image() {
    let uctr = Uctr::with_image(&[
        "ENTRYPOINT [\"echo\", \"entry\"]",
        "CMD [\"cmd\"]",
        "USER app",
        "WORKDIR /var/data",
        "LABEL a=b",
        "STOPSIGNAL SIGUSR1",
    ]);
    for (case, args, want) in [
        ("as it is", &["busybox"][..], "entry cmd"),
        ("words replace CMD", &["busybox", "mine"], "entry mine"),
        (
            "an entrypoint drops CMD",
            &["--entrypoint", "id", "busybox"],
            "uid=1000(app) gid=1000(app) groups=4(adm)",
        ),
        ("an entrypoint with words", &["--entrypoint", "echo", "busybox", "x"], "x"),
        ("an empty entrypoint", &["--entrypoint", "", "busybox", "pwd"], "/var/data"),
        ("a working directory", &["--entrypoint", "pwd", "-w", "/usr", "busybox"], "/usr"),
        (
            "a working directory that is made",
            &["-u", "0", "--entrypoint", "pwd", "-w", "/a/b", "busybox"],
            "/a/b",
        ),
    ] {
        assert_eq!(uctr.ok(&[&["run", "--rm"], args].concat()), want, "{case}");
    }
    let id = uctr.ok(&["create", "busybox"]);
    assert_eq!(uctr.ok(&["inspect", "-f", "{{.Config.Labels.a}} {{.Config.StopSignal}}", &id]), "b 10");
}

#[test]
fn run_sets_names() {
    let uctr = Uctr::new();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(uctr.says(&["-h", "box"], "hostname; cat /etc/hostname"), "box\nbox");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
    let file = uctr.path("cid");
    let id = uctr.background(&["--name", "n.1", "--cidfile", file.to_str().unwrap()], "sleep 100");
    assert_eq!(fs::read_to_string(file).unwrap(), id);
    assert_eq!(uctr.ok(&["exec", "n.1", "hostname"]), id[..12]);
    assert!(uctr.ok(&["exec", "n.1", "cat", "/etc/hosts"]).contains(&id[..12]));
    assert_eq!(uctr.ok(&["inspect", "-f", "{{.Name}}", &id[..5]]), "/n.1");
}

#[test]
fn run_hands_signals_on() {
    let uctr = Uctr::new();
    for (signal, status) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("USR1", 10)] {
        let script = format!("trap 'exit {status}' {signal}; echo ready; while :; do sleep 0.02; done");
        let mut command = uctr.command(&["run", "--rm", "--name", "trap", "busybox", "sh", "-c", &script]);
        let child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        wait_until("the trap is set", || uctr.call(&["logs", "trap"]).out == "ready\n");
        let pid = rustix::process::Pid::from_child(&child);
        let number: nix::sys::signal::Signal = format!("SIG{signal}").parse().unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get()), number).unwrap();
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), Some(status), "{signal}");
    }
}

#[test]
fn run_detached_keeps_no_descriptor_of_the_caller() {
    let uctr = Uctr::new();
    // If the container kept our pipe, reading it to its end would last as long as the container.
    let start = std::time::Instant::now();
    uctr.background(&[], "sleep 30");
    assert!(start.elapsed() < std::time::Duration::from_secs(15));
}

#[test]
fn init_hands_signals_on_and_reaps() {
    let uctr = Uctr::new();
    // The shell lists /proc itself and has no child meanwhile: it sees process 1, itself and the orphan, which ends when
    // the fifo does, and is gone when it was reaped.
    let script = "mkfifo /f; (cat /f &); set -- /proc/[0-9]*; echo $$ $#; : > /f
        tries=0; until set -- /proc/[0-9]*; [ $# = 2 ] || [ $((tries += 1)) = 500 ]; do sleep 0.02; done; echo $#; exit 3";
    let done = uctr.script(&["--init"], script);
    assert_eq!((done.status, done.out.as_str()), (3, "2 3\n2\n"), "{done:?}");
    let id = uctr.background(&["--init"], "trap 'exit 9' TERM; echo ready; while :; do sleep 0.02; done");
    wait_until("the trap is set", || uctr.ok(&["logs", &id]) == "ready");
    uctr.ok(&["stop", &id]);
    assert_eq!(uctr.ok(&["wait", &id]), "9");
    // A command without a handler can be stopped, which as process 1 it could not.
    let id = uctr.ok(&["run", "-d", "--init", "busybox", "sleep", "100"]);
    let start = std::time::Instant::now();
    uctr.ok(&["stop", &id]);
    assert!(start.elapsed() < std::time::Duration::from_secs(9));
    assert_eq!(uctr.ok(&["wait", &id]), "143");
    assert_eq!(uctr.call(&["run", "--rm", "--init", "busybox", "nosuch"]).status, 127);
    let typed = uctr.feed(&["run", "--rm", "--init", "-i", "-t", "busybox", "cat"], b"x\n");
    assert_eq!(typed.status, 0, "{typed:?}");
}

#[test]
fn a_pipe_that_is_closed_ends_the_command() {
    let uctr = Uctr::new();
    let line = format!(
        "{} --root {} run --rm busybox yes | head -n 2",
        env!("CARGO_BIN_EXE_uctr"),
        uctr.path("").display()
    );
    let done = std::process::Command::new("sh").args(["-c", &line]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "y\ny\n");
    uctr.assert_nothing_left();
}
