//! What a container cannot see, reach or do.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use container::{Layer, Uctr, busybox_into};

#[test]
fn every_namespace_is_its_own() {
    let uctr = Uctr::new();
    for kind in ["mnt", "uts", "ipc", "pid", "net", "cgroup"] {
        let host = fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().display().to_string();
        assert_ne!(uctr.says(&[], &format!("readlink /proc/self/ns/{kind}")), host, "{kind}");
    }
    let host = fs::read_link("/proc/self/ns/net").unwrap().display().to_string();
    assert_eq!(uctr.says(&["--network", "host"], "readlink /proc/self/ns/net"), host);
}

#[test]
fn the_command_is_process_1_and_sees_no_other() {
    let uctr = Uctr::new();
    assert_eq!(uctr.says(&[], "echo $$"), "1");
    assert_eq!(uctr.ok(&["run", "--rm", "busybox", "sh", "-c", "echo /proc/[0-9]*; true"]), "/proc/1");
}

#[test]
fn own_network_has_the_loopback_interface_up() {
    let uctr = Uctr::new();
    let look = "ls /sys/class/net; cat /sys/class/net/lo/flags; cat /proc/sys/net/ipv4/ping_group_range";
    assert_eq!(uctr.says(&[], look), "lo\n0x9\n0\t2147483647");
    // Either end of nc gives up when it sees the other's end of input first, so they may need another try.
    let listen = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do \
                  (sleep 0.$n; (echo through; sleep 0.2) | nc -w 1 127.0.0.1 80 2>/dev/null) & \
                  got=$(nc -l -p 80 -w 5); [ \"$got\" = through ] && echo $got && exit; done";
    assert_eq!(uctr.says(&["-u", "app"], listen), "through");
}

#[test]
fn the_host_sees_no_mount() {
    let uctr = Uctr::new();
    let host = uctr.host_dir("shared");
    let volume = format!("{}:/shared", host.display());
    for way in ["fuse", "overlay", "copy"] {
        let id =
            uctr.background(&["--fs", way, "-v", &volume, "-v", "/anonymous", "--tmpfs", "/t"], "sleep 100");
        assert_eq!(uctr.ok(&["exec", &id, "cat", "/shared/f"]), "host");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(uctr.path("").to_str().unwrap()), "{way}: {mounts}");
        uctr.ok(&["rm", "-f", "-v", &id]);
    }
}

#[test]
fn no_descriptor_leaks_in() {
    let uctr = Uctr::new();
    // Descriptors that whoever calls uctr has left open.
    let leaked: Vec<OwnedFd> = (0..20).map(|_| fs::File::open("/etc/passwd").unwrap().into()).collect();
    for fd in &leaked {
        rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    }
    assert!(leaked.iter().all(|fd| fd.as_raw_fd() > 2));
    // The last one is that of ls itself.
    assert_eq!(uctr.says(&[], "ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3 ");
    let id = uctr.background(&["-i"], "sleep 100");
    assert_eq!(uctr.ok(&["exec", &id, "sh", "-c", "ls /proc/self/fd | tr '\\n' ' '"]), "0 1 2 3 ");
    assert_eq!(uctr.ok(&["exec", &id, "sh", "-c", "ls /proc/1/fd | tr '\\n' ' '"]), "0 1 2 ");
    let monitor = uctr.number(&id, "/State/MonitorPid");
    for entry in fs::read_dir(format!("/proc/{monitor}/fd")).unwrap() {
        let target = fs::read_link(entry.unwrap().path()).unwrap();
        assert_ne!(target.to_str(), Some("/etc/passwd"), "the monitor keeps a descriptor of the caller");
    }
}

#[test]
fn capabilities_are_podmans_eleven_unless_told() {
    let uctr = Uctr::new();
    let sets = "grep -E 'Cap(Prm|Eff|Bnd)' /proc/self/status | cut -f 2 | tr '\\n' ' '";
    let all = format!("{0} {0} {0} ", own_bounding_set());
    for (case, options, want) in [
        ("default", &[][..], "00000000800405fb 00000000800405fb 00000000800405fb "),
        ("a user has none", &["-u", "app"], "0000000000000000 0000000000000000 00000000800405fb "),
        ("dropped all", &["--cap-drop", "ALL"], "0000000000000000 0000000000000000 0000000000000000 "),
        (
            "one only",
            &["--cap-drop", "all", "--cap-add", "NET_ADMIN"],
            "0000000000001000 0000000000001000 0000000000001000 ",
        ),
        ("all", &["--cap-add", "ALL"], all.as_str()),
        ("privileged", &["--privileged"], all.as_str()),
    ] {
        assert_eq!(uctr.says(options, sets).replace('\n', " ") + " ", want.to_owned() + " ", "{case}");
    }
}

/// What this machine lets root have.
fn own_bounding_set() -> String {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find_map(|line| line.strip_prefix("CapBnd:\t")).unwrap().to_owned()
}

#[test]
fn no_new_privileges_is_set_when_asked() {
    let uctr = Uctr::new();
    let flag = "grep NoNewPrivs /proc/self/status | cut -f 2";
    assert_eq!(uctr.says(&[], flag), "0");
    assert_eq!(uctr.says(&["--security-opt", "no-new-privileges"], flag), "1");
}

#[test]
fn the_kernels_files_are_masked_or_read_only() {
    let uctr = Uctr::new();
    for path in [
        "/proc/sys/kernel/hostname",
        "/proc/sysrq-trigger",
        "/proc/irq/default_smp_affinity",
        "/sys/kernel/uevent_helper",
    ] {
        let done = uctr.script(&[], &format!("[ ! -e {path} ] || echo x > {path}"));
        let refused = done.err.contains("Read-only file system") || done.err.contains("Permission denied");
        assert!(done.status == 0 && done.err.is_empty() || refused, "{path}: {done:?}");
    }
    let done = uctr.script(&[], "echo x > /proc/sys/kernel/hostname");
    assert!(done.err.contains("Read-only file system"), "{done:?}");
    assert_eq!(uctr.says(&[], "cat /proc/keys /proc/timer_list /proc/interrupts | wc -c; ls -A /sys/firmware /proc/acpi 2>/dev/null | grep -v :"), "0");
    let open = uctr.script(&["--privileged"], "cat /proc/timer_list | wc -c");
    assert_ne!(open.out.trim(), "0", "privileged sees them: {open:?}");
    assert_eq!(uctr.says(&[], "mount | grep -c ' /sys/fs/cgroup.*(rw'; true"), "0");
}

#[test]
fn dev_holds_what_programs_need() {
    let uctr = Uctr::new();
    let script = "ls /dev | grep -v mqueue | tr '\\n' ' '; echo; for d in null zero full random urandom tty; do [ -c /dev/$d ] || echo no $d; done; \
                  head -c 2 /dev/zero | wc -c; echo x > /dev/null; echo y > /dev/shm/y; cat /dev/shm/y; stat -c %a /dev/shm";
    assert_eq!(
        uctr.says(&[], script),
        "core fd full null ptmx pts random shm stderr stdin stdout tty urandom zero \n2\ny\n1777"
    );
    assert_eq!(
        uctr.says(&["--shm-size", "1m"], "df -k /dev/shm | tail -1 | tr -s ' ' | cut -d ' ' -f 2"),
        "1024"
    );
    let many: usize = uctr.says(&["--privileged"], "find /dev -type b -o -type c | wc -l").parse().unwrap();
    assert!(many > 20, "privileged sees the host's devices, not {many}");
}

#[test]
fn a_device_in_an_image_cannot_be_opened() {
    let uctr = Uctr::new();
    let mut layer = Layer::new();
    busybox_into(&mut layer);
    layer.device("etc/memory", 1, 5);
    uctr.load_layers("nodes", &[layer.finish()]);
    for way in ["fuse", "overlay", "copy"] {
        let done = uctr.call(&["run", "--rm", "--fs", way, "nodes", "head", "-c", "1", "/etc/memory"]);
        assert!(done.status != 0 && done.err.contains("Permission denied"), "{way}: {done:?}");
        let privileged = uctr.call(&[
            "run",
            "--rm",
            "--privileged",
            "--fs",
            way,
            "nodes",
            "head",
            "-c",
            "1",
            "/etc/memory",
        ]);
        assert_eq!((privileged.status, privileged.out.as_str()), (0, "\0"), "{way}: {privileged:?}");
    }
}

#[test]
fn links_in_an_image_lead_no_mount_out() {
    let uctr = Uctr::new();
    let outside = uctr.host_dir("outside");
    let target = outside.to_str().unwrap();
    let host = uctr.host_dir("mounted");
    let volume = format!("{}:/absolute/inner", host.display());
    let mut layer = Layer::new();
    busybox_into(&mut layer);
    for name in ["proc", "dev", "sys"] {
        layer.link(name, target);
    }
    layer.link("absolute", target);
    layer.link("up", "../../../../../../../../tmp");
    uctr.load_layers("links", &[layer.finish()]);
    for way in ["fuse", "overlay", "copy"] {
        let options = ["run", "--rm", "--fs", way, "-v", &volume, "-v", "/up/made", "links", "sh", "-c"];
        let script = format!(
            "cat /absolute/inner/f; cat {target}/inner/f; [ -d /tmp/made ] && [ -e /proc/1/fd ] && echo all inside"
        );
        assert_eq!(uctr.ok(&[&options[..], &[&script]].concat()), "host\nhost\nall inside", "{way}");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["f"], "{way}: the host's directory");
        assert!(!std::path::Path::new("/tmp/made").exists(), "{way}");
    }
}

#[test]
fn the_host_is_out_of_reach() {
    let uctr = Uctr::new();
    for script in [
        "mount -t tmpfs none /tmp",
        "umount /proc",
        "mount -o remount,rw /sys",
        "chroot /proc/1/root/../../.. ls /work",
        "mknod /tmp/x c 1 3 && head -c 1 /tmp/x",
        "dmesg -c",
        "echo 1 > /sys/fs/cgroup/memory/memory.limit_in_bytes",
        "echo 1 > /sys/fs/cgroup/memory.max",
    ] {
        assert_ne!(uctr.script(&[], script).status, 0, "{script}");
    }
}

#[test]
fn the_program_itself_cannot_be_written_or_seen() {
    let uctr = Uctr::new();
    let id = uctr.background(&["--init", "--cap-add", "SYS_PTRACE"], "sleep 100");
    for pointer in ["/State/MonitorPid", "/State/Pid"] {
        let exe = format!("/proc/{}/exe", uctr.number(&id, pointer));
        let flags = rustix::fs::statvfs(&*exe).unwrap().f_flag;
        assert!(flags.contains(rustix::fs::StatVfsMountFlags::RDONLY), "{exe}: {flags:?}");
    }
    // Without that capability process 1, which is ours with --init, is closed.
    let done =
        uctr.script(&["--init"], "cat /proc/1/exe >/dev/null; cat /proc/1/environ; readlink /proc/1/fd/0");
    assert!(done.out.is_empty() && done.err.matches("ermission denied").count() >= 2, "{done:?}");
}

#[test]
fn devices_of_the_host_are_closed() {
    let uctr = Uctr::new();
    let disk = fs::read_dir("/sys/block").unwrap().next().unwrap().unwrap();
    let numbers = fs::read_to_string(disk.path().join("dev")).unwrap();
    let (major, minor) = numbers.trim().split_once(':').unwrap();
    let make = format!("mknod /dev/disk b {major} {minor} && head -c 1 /dev/disk");
    let done = uctr.script(&["--cap-add", "MKNOD"], &make);
    assert!(done.status != 0 && done.err.contains("not permitted"), "a node that it made: {done:?}");
    let done = uctr.script(&["-v", "/dev:/host"], "head -c 1 /host/zero");
    assert!(done.status != 0 && done.err.contains("ermission denied"), "a node in a volume: {done:?}");
    assert_eq!(uctr.script(&["-v", "/dev:/host:dev"], "head -c 1 /host/zero").out, "\0");
    assert_eq!(
        uctr.script(
            &["--privileged"],
            "head -c 1 /dev/full | wc -c; mkdir /sys/fs/cgroup/pids/x && rmdir /sys/fs/cgroup/pids/x"
        )
        .status,
        0
    );
}
