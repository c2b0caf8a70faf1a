//! Containers of a user who is not root: in a user namespace, with one identifier or with a range of them.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use container::{Done, busybox_layer, small_program, wait_until};
use tempfile::TempDir;

const USER: u32 = 12_345;

/// What the machine of a test is to be like, in a mount namespace that nobody else sees: /dev/fuse for everyone, and the
/// user known to the helpers if he has a range of identifiers.
const MACHINE: &str = r#"
    mount -t tmpfs tmpfs /mnt && mknod -m 666 /mnt/fuse c 10 229 && mount --bind /mnt/fuse /dev/fuse || exit 99
    if [ "$RANGES" = yes ]; then
        echo "uctr-user:300000:65536" > /mnt/sub
        { cat /etc/passwd; echo "uctr-user:x:$USER_ID:$USER_ID::$USER_HOME:/bin/sh"; } > /mnt/passwd
        mount --bind /mnt/sub /etc/subuid && mount --bind /mnt/sub /etc/subgid && mount --bind /mnt/passwd /etc/passwd || exit 99
    else
        : > /mnt/sub
        mount --bind /mnt/sub /etc/subuid && mount --bind /mnt/sub /etc/subgid || exit 99
    fi
    exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --inh-caps=-all \
        env -i HOME="$USER_HOME" PATH="$PATH" "$@"
"#;

/// A user with a home, the program, and an image.
struct User {
    dir: TempDir,
    program: PathBuf,
    ranges: bool,
}

impl User {
    fn new(ranges: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("uctr-test-").tempdir_in("/tmp").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = small_program(dir.path());
        let user = Self { program, ranges, dir };
        let home = user.home();
        fs::create_dir(&home).unwrap();
        chown(&home, Some(USER), Some(USER)).unwrap();
        let tar = user.dir.path().join("busybox.tar");
        fs::write(&tar, busybox_layer()).unwrap();
        user.ok(&["import", tar.to_str().unwrap(), "busybox"]);
        user
    }

    fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    fn store(&self) -> PathBuf {
        self.home().join(".local/share/uctr")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", MACHINE, "sh"]).arg(&self.program).args(args).stdin(Stdio::null());
        command.env("RANGES", if self.ranges { "yes" } else { "no" });
        command.env("USER_ID", USER.to_string()).env("USER_HOME", self.home());
        command
    }

    fn call(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    fn ok(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_eq!(done.status, 0, "{args:?}: {done:?}");
        done.out.trim_end_matches('\n').to_owned()
    }

    fn says(&self, options: &[&str], script: &str) -> String {
        self.ok(&[&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat())
    }

    fn assert_nothing_left(&self) {
        let names = |directory: &str| -> Vec<_> {
            let entries = fs::read_dir(self.store().join(directory)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names("containers"), Vec::<String>::new());
        assert_eq!(names("run"), ["lock"]);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.dir.path().to_str().unwrap()), "{mounts}");
    }
}

impl Drop for User {
    fn drop(&mut self) {
        for id in self.call(&["ps", "-aq", "--no-trunc"]).out.lines() {
            drop(self.call(&["rm", "-f", "-v", id]));
        }
    }
}

#[test]
fn one_identifier_is_enough() {
    let user = User::new(false);
    for way in ["fuse", "overlay", "copy"] {
        let script = "id -u; cat /proc/self/uid_map | tr -s ' '; echo $$; echo new > /usr/plain; rm -r /home; ls /usr; \
                      cat /sys/class/net/lo/flags";
        let want = format!("0\n 0 {USER} 1\n1\ngarbage\nno-interpreter\nplain\n0x9");
        assert_eq!(user.says(&["--fs", way], script), want, "{way}");
        user.assert_nothing_left();
    }
}

#[test]
fn a_range_gives_users_and_owners() {
    let user = User::new(true);
    for way in ["fuse", "overlay", "copy"] {
        assert_eq!(
            user.says(&["--fs", way, "-u", "app"], "id -u; id -G; touch /home/app/x && echo own"),
            "1000\n1000 4\nown",
            "{way}"
        );
        let script = "stat -c '%u %g %a' /var/data; touch /x; chown 33:33 /x; stat -c '%u' /x; chmod 4755 /x; stat -c %a /x";
        assert_eq!(user.says(&["--fs", way], script), "1000 1000 751\n33\n4755", "{way}");
        user.assert_nothing_left();
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_way_out() {
    let user = User::new(false);
    for (options, words) in [
        (&["-m", "64m"][..], "--memory needs the memory cgroup controller"),
        (&["--cpus", "0.5"], "--cpus needs the cpu cgroup controller"),
        (&["--pids-limit", "5"], "--pids-limit needs the pids cgroup controller"),
        (&["-u", "app"], "/etc/subuid"),
    ] {
        let done = user.call(&[&["run", "--rm"], options, &["busybox", "true"]].concat());
        assert!(done.status == 125 && done.err.contains(words), "{options:?}: {done:?}");
        user.assert_nothing_left();
    }
}

#[test]
fn life_without_root() {
    for ranges in [false, true] {
        let user = User::new(ranges);
        let id = user.ok(&[
            "run",
            "-d",
            "--name",
            "c",
            "-v",
            "/var/data",
            "-v",
            "named:/n",
            "busybox",
            "sh",
            "-c",
            "echo out; touch /n/x /var/data/y; mkdir -m 0 /locked; sleep 100",
        ]);
        wait_until("it has spoken", || user.ok(&["logs", "c"]) == "out");
        assert_eq!(user.ok(&["ps", "-q"]), id[..12]);
        assert_eq!(
            user.ok(&["exec", "c", "sh", "-c", "ls /var/data; id -u; readlink /proc/self/ns/user"]),
            user.ok(&["exec", "c", "sh", "-c", "echo seed; echo y; echo 0; readlink /proc/1/ns/user"]),
            "{ranges}"
        );
        assert_eq!(user.ok(&["exec", "-t", "c", "tty"]).trim_end(), "/dev/pts/0");
        assert_eq!(user.call(&["exec", "c", "nosuch"]).status, 127);
        user.ok(&["stop", "-t", "0", "c"]);
        assert_eq!(user.ok(&["wait", "c"]), "137");
        user.ok(&["start", "c"]);
        user.ok(&["rm", "-f", "-v", "c"]);
        assert_eq!(user.ok(&["volume", "ls", "-q"]), "named");
        user.ok(&["volume", "rm", "named"]);
        user.assert_nothing_left();
    }
}

#[test]
fn the_hosts_network_can_be_shared() {
    let user = User::new(false);
    let host = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(
        user.says(&["--network", "host"], "readlink /proc/self/ns/net; [ -d /sys/class ] && echo sys"),
        format!("{host}\nsys")
    );
    let id = user.ok(&["run", "-d", "--network", "host", "busybox", "sleep", "100"]);
    assert_eq!(user.ok(&["exec", &id, "readlink", "/proc/self/ns/net"]), host);
}

#[test]
fn a_killed_monitor_takes_everything_with_it_here_too() {
    let user = User::new(true);
    let id = user.ok(&["run", "-d", "busybox", "sh", "-c", "touch /x; chown 5 /x; sleep 100"]);
    let monitor: i32 = user.ok(&["inspect", "-f", "{{.State.MonitorPid}}", &id]).parse().unwrap();
    let init: i32 = user.ok(&["inspect", "-f", "{{.State.Pid}}", &id]).parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(monitor), nix::sys::signal::Signal::SIGKILL).unwrap();
    let dead = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z'))
    };
    wait_until("it is over", || dead(monitor) && dead(init));
    user.ok(&["rm", &id]);
    user.assert_nothing_left();
}
