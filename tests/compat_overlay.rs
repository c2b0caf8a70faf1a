//! fuse-overlayfs's command line: what its callers pass, and what they expect in return.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};

use crate::scene::Scene;
use crate::support::branches::ls;
use crate::support::mount::is_mounted;

const FULL: &str = "fuse-overlayfs -o lowerdir=b1:b2,upperdir=b0,workdir=w m";

fn scene() -> Scene {
    Scene::new(&["", "f=one d/x=1", "g=two d/y=2"])
}

#[test]
fn the_mount_answers_when_the_command_returns() {
    let scene = scene();
    assert_eq!(scene.ok(FULL), "");
    assert_eq!(ls(&scene.path("m")), "d f g");
    assert_eq!(ls(&scene.on("d")), "x y");
    fs::write(scene.on("f"), "changed").unwrap();
    assert_eq!(fs::read_to_string(scene.path("b0/f")).unwrap(), "changed");
}

#[test]
fn proc_mounts_shows_type_source_and_default_flags_of_fuse_overlayfs() {
    let scene = scene();
    for (line, source, kind, flags) in [
        (FULL, "fuse-overlayfs", "fuse.fuse-overlayfs", &["nodev", "noatime", "allow_other"][..]),
        ("unionfs -o lowerdir=b1,upperdir=b0,workdir=w m", "", "fuse.unionfs", &["nodev", "noatime"]),
        (
            "fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w,dev,atime m",
            "fuse-overlayfs",
            "fuse.fuse-overlayfs",
            &["rw"],
        ),
    ] {
        scene.ok(line);
        let words = scene.mounts_line();
        scene.unmount();
        assert!(source.is_empty() || words[0] == source, "{line}: {words:?}");
        assert_eq!(words[2], kind, "{line}");
        let shown: Vec<_> = words[3].split(',').collect();
        assert!(flags.iter().all(|flag| shown.contains(flag)), "{line}: {shown:?}");
        assert_eq!(shown.contains(&"nodev"), flags.contains(&"nodev"), "{line}: {shown:?}");
    }
}

#[test]
fn empty_options_are_accepted_and_unknown_ones_warned_about() {
    let scene = scene();
    let said =
        scene.ok("fuse-overlayfs -x -o lowerdir=b1,upperdir=b0,workdir=w,,volatile,private -o frob=1 m");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    for word in ["private", "frob=1", "-x"] {
        assert!(lines.iter().any(|line| line.ends_with(&format!("ignored: {word}"))), "{word}: {said}");
    }
    assert_eq!(ls(&scene.path("m")), "d f");
}

#[test]
fn of_several_places_the_last_is_the_mount_point() {
    let scene = scene();
    scene.ok("fuse-overlayfs overlay m -o workdir=w -oupperdir=b0 -o lowerdir=b1,dev,suid");
    assert_eq!(ls(&scene.path("m")), "d f");
    assert_eq!(scene.mounts_line()[0], "fuse-overlayfs");
}

#[test]
fn without_upper_directory_nothing_can_be_changed() {
    let scene = scene();
    scene.ok("fuse-overlayfs -o lowerdir=b1:b2 m");
    assert_eq!(ls(&scene.path("m")), "d f g");
    for result in [
        fs::write(scene.on("f"), "x"),
        fs::write(scene.on("new"), "x"),
        fs::remove_file(scene.on("g")),
        fs::create_dir(scene.on("dir")),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    }
}

#[test]
fn layers_may_be_symbolic_links_and_have_colons_commas_and_spaces_in_their_names() {
    let scene = scene();
    symlink("b1", scene.path("l1")).unwrap();
    fs::create_dir(scene.path("a:b,c")).unwrap();
    fs::write(scene.path("a:b,c/h"), "three").unwrap();
    scene.ok(r"fuse-overlayfs -o lowerdir=l1:a\:b\,c,upperdir=b0,workdir=w m");
    assert_eq!(ls(&scene.path("m")), "d f h");
}

#[test]
fn many_layers_by_relative_links_are_one_tree() {
    let scene = Scene::over(crate::support::branches::TestTree::build(301, 1, |index, root| {
        fs::write(root.join(format!("f{index}")), "x").unwrap();
    }));
    fs::create_dir(scene.path("l")).unwrap();
    let links: Vec<_> = (1..301)
        .map(|index| {
            symlink(format!("../b{index}"), scene.path(&format!("l/{index}"))).unwrap();
            format!("l/{index}")
        })
        .collect();
    scene.ok(&format!("fuse-overlayfs -o lowerdir={},upperdir=b0,workdir=w m", links.join(":")));
    assert_eq!(fs::read_dir(scene.path("m")).unwrap().count(), 301);
}

#[test]
fn standard_error_and_output_are_released_when_the_mount_answers() {
    let scene = scene();
    let words: Vec<_> = FULL.split(' ').skip(1).collect();
    let mut command = scene.command(scene.path("bin/fuse-overlayfs"));
    let mut child = command.args(words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    // containers/storage waits for the end of this, whatever the exit status.
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(said, "");
    assert!(is_mounted(&scene.path("m")));
    assert_eq!(scene.server_pids().len(), 1);
}

#[test]
fn the_server_keeps_no_descriptor_directory_or_session_of_its_caller() {
    let scene = scene();
    scene.shell(&format!("exec 9>lock; flock 9; {FULL}; exec 9>&-; flock -n lock true; umount m"));
    scene.ok(FULL);
    let pid = scene.server_pids()[0];
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), Path::new("/"));
    for fd in 0..3 {
        assert_eq!(fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap(), Path::new("/dev/null"), "{fd}");
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session = stat.rsplit(')').next().unwrap().split_whitespace().nth(3).unwrap();
    assert_eq!(session, pid.to_string());
}

#[test]
fn signals_that_end_programs_unmount_and_sigusr1_does_no_harm() {
    let scene = scene();
    for signal in [Signal::TERM, Signal::INT, Signal::HUP] {
        scene.ok(FULL);
        let pid = Pid::from_raw(scene.server_pids()[0]).unwrap();
        kill_process(pid, Signal::USR1).unwrap();
        assert_eq!(fs::read_to_string(scene.on("f")).unwrap(), "one");
        kill_process(pid, signal).unwrap();
        assert_eq!(scene.wait_for_servers(), "", "{signal:?}");
        assert!(!is_mounted(&scene.path("m")), "{signal:?}");
    }
}

#[test]
fn version_and_help_go_to_standard_output() {
    let scene = scene();
    for (line, start) in [
        ("fuse-overlayfs -V", "fuse-overlayfs: version "),
        ("fuse-overlayfs --version", "fuse-overlayfs: version "),
        ("fuse-overlayfs -h", "usage: fuse-overlayfs "),
        ("unionfs --version", "unionfs "),
        ("mount.unionfs -h", "usage: mount.unionfs "),
    ] {
        let output = scene.run(line);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && said.starts_with(start), "{line}: {said}");
        assert!(output.stderr.is_empty(), "{line}");
    }
}

#[test]
fn the_foreground_stays_and_unmounts_when_it_ends() {
    let scene = scene();
    for flag in ["-f", "-d"] {
        let mut words: Vec<_> = FULL.split(' ').skip(1).collect();
        words.insert(0, flag);
        let log = fs::File::create(scene.path("log")).unwrap();
        let mut child =
            scene.command(scene.path("bin/fuse-overlayfs")).args(words).stderr(log).spawn().unwrap();
        while !is_mounted(&scene.path("m")) {
            assert_eq!(child.try_wait().unwrap(), None, "{flag}");
        }
        assert_eq!(ls(&scene.path("m")), "d f g", "{flag}");
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{flag}");
        assert!(!is_mounted(&scene.path("m")), "{flag}");
    }
    assert!(fs::read_to_string(scene.path("log")).unwrap().contains("READDIRPLUS"), "-d tells of requests");
}

#[test]
fn upper_directory_can_be_mounted_by_kernel_overlay_afterwards() {
    let scene = Scene::new(&["", "f=one gone=x d/x=1 d/gone=x e/a=1 e/b=2", ""]);
    scene.ok("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m");
    fs::remove_file(scene.on("gone")).unwrap();
    fs::remove_file(scene.on("d/gone")).unwrap();
    fs::write(scene.on("f"), "changed").unwrap();
    fs::remove_dir_all(scene.on("e")).unwrap();
    fs::create_dir(scene.on("e")).unwrap();
    fs::write(scene.on("e/c"), "3").unwrap();
    fs::rename(scene.on("d"), scene.on("moved")).unwrap();
    scene.unmount();
    let seen = scene.shell(
        "mount -t overlay -o lowerdir=b1,upperdir=b0,workdir=w,redirect_dir=on overlay m
         cd m; find . -type f | sort | while read -r f; do echo \"$f $(cat \"$f\")\"; done; cd ..; umount m",
    );
    assert_eq!(seen, "./e/c 3\n./f changed\n./moved/x 1\n");
}

#[test]
fn whiteouts_are_files_where_devices_are_unwanted() {
    let scene = scene();
    let words: Vec<_> = FULL.split(' ').skip(1).collect();
    let mut command = scene.command(scene.path("bin/fuse-overlayfs"));
    let status = command.env("FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT", "1").args(words).status().unwrap();
    assert!(status.success());
    fs::remove_file(scene.on("f")).unwrap();
    scene.unmount();
    assert_eq!(ls(&scene.path("b0")), ".wh.f");
    scene.ok(FULL);
    assert_eq!(ls(&scene.path("m")), "d g");
}

#[test]
fn work_directory_is_emptied_of_what_a_crash_left() {
    let scene = scene();
    fs::create_dir_all(scene.path("w/work/sub")).unwrap();
    assert_eq!(fs::metadata(scene.path("w/work")).unwrap().mode() & 0o777, 0o755);
    for stale in ["w/work/0", "w/work/1", "w/work/sub/x"] {
        fs::write(scene.path(stale), "stale bytes longer than what is written").unwrap();
    }
    scene.ok(FULL);
    fs::write(scene.on("f"), "new").unwrap();
    assert_eq!(fs::read_to_string(scene.path("b0/f")).unwrap(), "new");
    assert_eq!(ls(&scene.path("w/work")), "");
    assert_eq!(fs::metadata(scene.path("w/work")).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn changes_behind_the_mount_show_with_timeout_0() {
    let scene = Scene::over(crate::support::branches::TestTree::loose(&["", "d/f=one"]));
    scene.ok("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w,timeout=0 m");
    assert_eq!(ls(&scene.on("d")), "f");
    fs::write(scene.path("b1/d/f"), "longer than before").unwrap();
    fs::write(scene.path("b1/d/g"), "new").unwrap();
    assert_eq!(fs::metadata(scene.on("d/f")).unwrap().len(), 18);
    assert_eq!(ls(&scene.on("d")), "f g");
}

#[test]
fn nothing_is_synced_with_volatile_and_with_fsync_0() {
    let scene = scene();
    for (options, synced) in [("", true), (",volatile", false), (",fsync=0", false), (",fsync=1", true)] {
        let script = format!(
            "strace -f -o log -e trace=fsync,fdatasync,syncfs \
             fuse-overlayfs -f -o lowerdir=b1,upperdir=b0,workdir=w{options} m & while ! mountpoint -q m; do :; done
             dd if=/dev/zero of=m/f bs=1 count=1 conv=notrunc,fsync status=none; umount m; wait; cat log"
        );
        let log = scene.shell(&script);
        assert_eq!(log.contains("sync("), synced, "{options}: {log}");
    }
}

#[test]
fn acls_and_attributes_can_be_switched_off() {
    let scene = scene();
    for (options, acl, attribute) in
        [("", true, true), (",noacl", false, true), (",noxattrs=1", false, false)]
    {
        scene.ok(&format!("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w{options} m"));
        let takes = |program: &str, arguments: &[&str]| {
            scene.command(program).args(arguments).stderr(Stdio::null()).status().unwrap().success()
        };
        let got = (
            takes("setfacl", &["-m", "u:1000:r", "m/f"]),
            takes("setfattr", &["-n", "user.x", "-v", "y", "m/f"]),
        );
        scene.unmount();
        assert_eq!(got, (acl, attribute), "{options}");
    }
}

#[test]
fn inode_numbers_fit_32_bits_when_asked() {
    let scene = scene();
    scene.ok("fuse-overlayfs -o lowerdir=b1:b2,upperdir=b0,workdir=w,ino32_t,static_nlink,xino=auto m");
    let listed = scene.shell("ls -1ai m");
    for line in listed.lines().filter(|line| !line.ends_with("..")) {
        let number: u64 = line.split_whitespace().next().unwrap().parse().unwrap();
        assert!(number > 0 && number <= u64::from(u32::MAX), "{line}");
    }
    let of = |name: &str| fs::metadata(scene.on(name)).unwrap();
    assert!(of("f").ino() <= u64::from(u32::MAX) && of("f").ino() != of("g").ino());
}

#[test]
fn every_other_option_of_its_table_is_accepted() {
    let scene = scene();
    let said = scene.ok(
        "fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w,redirect_dir=off,threaded=1,fast_ino=1,fast_ino_check=1,\
         context=\"system_u:object_r:container_file_t:s0:c1,c2\",xino=off,fsync=1,writeback=1,allow_root,splice_read,\
         kernel_cache,max_write=65536,nodiratime,exec,suid,dev,rw m",
    );
    assert_eq!(said, "");
    assert_eq!(ls(&scene.path("m")), "d f");
}

#[test]
fn allow_root_keeps_others_out() {
    let scene = scene();
    let other = "setpriv --reuid=65534 --regid=65534 --clear-groups cat m/f 2>&1 | grep -o denied";
    let script = format!(
        "chmod 755 .
         fuse-overlayfs -o lowerdir=b1:b2,upperdir=b0,workdir=w,allow_root m; cat m/f; echo; {other}; cat m/f; umount m"
    );
    assert_eq!(scene.shell(&script), "one\ndenied\none");
}

#[test]
fn a_user_without_rights_mounts_by_fusermount3() {
    let scene = Scene::over(crate::support::branches::TestTree::loose(&["", "f=one"]));
    let script = "chmod 755 . && chown -R 1:1 b0 b1 w m && mknod -m 666 .fuse c 10 229 && mount --bind .fuse /dev/fuse
        setpriv --reuid=1 --regid=1 --clear-groups sh -euc '
            fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m
            cat m/f; echo; echo changed > m/f; rm m/f; echo new > m/g; ls m; grep \"$PWD/m \" /proc/mounts | cut -d\" \" -f3; fusermount3 -u m'";
    assert_eq!(scene.shell(script), "one\ng\nfuse.fuse-overlayfs\n");
}

#[test]
fn root_of_a_user_namespace_mounts_and_writes_the_kernels_format() {
    let scene = Scene::over(crate::support::branches::TestTree::loose(&["", "f=one d/x=1"]));
    let script =
        "chmod 755 . && chown -R 1:1 b0 b1 w m && mknod -m 666 .fuse c 10 229 && mount --bind .fuse /dev/fuse
        setpriv --reuid=1 --regid=1 --clear-groups unshare -Urm sh -euc '
            fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m
            rm m/f; rm -r m/d; mkdir m/d; ls m; umount m
            mount -t overlay -o lowerdir=b1,upperdir=b0,workdir=w,userxattr overlay m; ls m m/d; umount m'";
    assert_eq!(scene.shell(script), "d\nm:\nd\n\nm/d:\n");
}
