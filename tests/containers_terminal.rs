//! `-t`: the container's own terminal, and the caller's in raw mode meanwhile.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::process::{Command, Stdio};

use container::{Done, Uctr, wait_until};

/// Runs the program in a terminal of its own (script(1)), with what is typed there when the command says that it is ready.
fn in_terminal(uctr: &Uctr, line: &str, typed: &[u8]) -> Done {
    use std::io::{Read, Write};
    let command = format!(
        "stty rows 33 cols 77; {} --root {} {line}",
        env!("CARGO_BIN_EXE_uctr"),
        uctr.path("").display()
    );
    let mut child = Command::new("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    if !typed.is_empty() {
        // Until the program has the terminal, keys would mean what they mean to a shell.
        let (mut told, mut byte) = (String::new(), [0]);
        while !told.ends_with("ready") && stdout.read(&mut byte).unwrap() == 1 {
            told.push(byte[0].into());
        }
        assert!(told.ends_with("ready"), "{told}");
        stdin.write_all(typed).unwrap();
    }
    let mut output = Vec::new();
    stdout.read_to_end(&mut output).unwrap();
    let mut ended = child.wait_with_output().unwrap();
    ended.stdout = output;
    drop(stdin);
    ended.into()
}

#[test]
fn a_terminal_is_the_containers_own() {
    let uctr = Uctr::new();
    let script = "tty; [ -c /dev/console ] && echo console; test -t 0 && test -t 1 && test -t 2 && echo all; echo $TERM; ls /dev/pts";
    let done = uctr.script(&["-t"], script);
    assert_eq!(
        done.out,
        "/dev/pts/0\r\nconsole\r\nall\r\nxterm\r\n0      ptmx\r\n".replace("0      ptmx", "0     ptmx"),
        "{done:?}"
    );
}

#[test]
fn output_of_a_terminal_is_one_stream() {
    let uctr = Uctr::new();
    let done = uctr.script(&["-t"], "echo out; echo err >&2; exit 4");
    assert_eq!((done.status, done.out.as_str(), done.err.as_str()), (4, "out\r\nerr\r\n", ""));
}

#[test]
fn the_terminals_owner_is_the_user() {
    let uctr = Uctr::new();
    assert_eq!(
        uctr.script(&["-t", "-u", "app"], "stat -c '%u %g' $(tty); echo x > $(tty)").out,
        "1000 5\r\nx\r\n"
    );
}

/// Tells the terminal's size when it is that of the caller's, which comes a moment after the command has begun.
const SIZE: &str = r#"tries=0; until [ "$(stty size)" = "33 77" ] || [ $((tries += 1)) = 500 ]; do sleep 0.02; done; stty size"#;

#[test]
fn size_and_keys_come_through() {
    let uctr = Uctr::new();
    let sized = in_terminal(&uctr, &format!("run --rm -it busybox sh -c '{SIZE}'"), b"");
    assert!(sized.out.contains("33 77"), "{sized:?}");
    let typed =
        in_terminal(&uctr, "run --rm -it busybox sh -c 'echo ready; read a; echo got $a'", b"words\n");
    assert!(typed.out.contains("got words"), "{typed:?}");
    // ^C goes to the container as a key, not to uctr as a signal.
    let script = "run --rm -it busybox sh -c 'trap \"echo trapped; exit 6\" INT; echo ready; while :; do sleep 0.02; done'";
    let interrupted = in_terminal(&uctr, script, b"\x03");
    assert!(interrupted.out.contains("trapped") && interrupted.status == 6, "{interrupted:?}");
}

#[test]
fn the_end_of_input_is_a_key() {
    let uctr = Uctr::new();
    let done = uctr.feed(&["run", "--rm", "-i", "-t", "busybox", "cat"], b"line\n");
    assert_eq!(done.status, 0, "{done:?}");
    assert!(done.out.ends_with("line\r\n"), "{done:?}");
}

#[test]
fn the_callers_terminal_is_put_back() {
    let uctr = Uctr::new();
    let root = uctr.path("");
    let program = format!("{} --root {}", env!("CARGO_BIN_EXE_uctr"), root.display());
    let line = format!(
        "stty -a > {0}before; {program} run --rm -it busybox true; stty -a > {0}after",
        root.display()
    );
    let done =
        Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let read = |name: &str| std::fs::read_to_string(uctr.path(name)).unwrap();
    assert_eq!(read("before"), read("after"));
}

#[test]
fn exec_gives_a_terminal_too() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "sleep 100");
    let done = uctr.call(&["exec", "-t", &id, "sh", "-c", "tty; test -t 0 && echo yes; exit 5"]);
    assert_eq!((done.status, done.out.as_str()), (5, "/dev/pts/0\r\nyes\r\n"), "{done:?}");
    let sized = in_terminal(&uctr, &format!("exec -it {id} sh -c '{SIZE}'"), b"");
    assert!(sized.out.contains("33 77"), "{sized:?}");
}

#[test]
fn detached_with_a_terminal_is_logged() {
    let uctr = Uctr::new();
    let id = uctr.background(&["-t"], "tty; sleep 100");
    wait_until("it has spoken", || uctr.ok(&["logs", &id]).contains("/dev/pts/0"));
}
