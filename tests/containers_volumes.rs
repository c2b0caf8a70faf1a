//! `-v` and `--tmpfs`, and the volumes that outlive containers.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use container::Uctr;

fn volumes(uctr: &Uctr) -> Vec<String> {
    uctr.ok(&["volume", "ls", "-q"]).lines().map(str::to_owned).collect()
}

#[test]
fn a_host_directory_is_shared_both_ways() {
    let uctr = Uctr::new();
    let host = uctr.host_dir("host");
    let volume = format!("{}:/mnt/here", host.display());
    assert_eq!(uctr.says(&["-v", &volume], "cat /mnt/here/f; echo back > /mnt/here/g"), "host");
    assert_eq!(fs::read_to_string(host.join("g")).unwrap(), "back\n");
    let read_only = format!("{volume}:ro");
    let done = uctr.script(&["-v", &read_only], "echo no > /mnt/here/f");
    assert!(done.err.contains("Read-only file system"), "{done:?}");
    let no_exec = format!("{volume}:noexec");
    let done = uctr.script(&["-v", &no_exec], "cp /bin/busybox /mnt/here/b; /mnt/here/b true");
    assert!(done.status != 0 && done.err.contains("Permission denied"), "{done:?}");
}

#[test]
fn a_host_file_is_bound_over_a_file() {
    let uctr = Uctr::new();
    let file = uctr.host_dir("host").join("f");
    for target in ["/usr/plain", "/new/file"] {
        let volume = format!("{}:{target}:ro", file.display());
        assert_eq!(uctr.says(&["-v", &volume], &format!("cat {target}")), "host", "{target}");
    }
}

#[test]
fn mounts_below_the_source_come_along_read_only_too() {
    let uctr = Uctr::new();
    let host = uctr.host_dir("host");
    let inner = host.join("inner");
    fs::create_dir(&inner).unwrap();
    let volume = format!("{}:/mnt:ro", host.display());
    let args =
        ["run", "--rm", "-v", &volume, "busybox", "sh", "-c", "cat /mnt/inner/deep; touch /mnt/inner/x"];
    // In a mount namespace of the test's own, so that the host is not touched.
    let line = format!("mount -t tmpfs none {0} && echo deep > {0}/deep && exec \"$@\"", inner.display());
    let program = env!("CARGO_BIN_EXE_uctr");
    let root = uctr.path("");
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", &line, "sh", program, "--root", root.to_str().unwrap()])
        .args(args)
        .output()
        .unwrap();
    let done = container::Done::from(output);
    assert!(done.out == "deep\n" && done.err.contains("Read-only file system"), "{done:?}");
}

#[test]
fn parents_are_mounted_before_children() {
    let uctr = Uctr::new();
    let (outer, inner) = (uctr.host_dir("outer"), uctr.host_dir("inner"));
    fs::write(inner.join("only-inner"), "").unwrap();
    let child = format!("{}:/m/a/b", inner.display());
    let parent = format!("{}:/m", outer.display());
    assert_eq!(uctr.says(&["-v", &child, "-v", &parent], "ls /m; ls /m/a/b"), "a\nf\nf\nonly-inner");
}

#[test]
fn an_anonymous_volume_begins_with_the_image_and_ends_with_the_container() {
    let uctr = Uctr::new();
    for way in ["fuse", "overlay", "copy"] {
        let id = uctr.ok(&[
            "create",
            "--fs",
            way,
            "-v",
            "/var/data",
            "busybox",
            "sh",
            "-c",
            "cat /var/data/seed; touch /var/data/x",
        ]);
        let [name] = &volumes(&uctr)[..] else { panic!("one volume") };
        assert_eq!(name.len(), 64);
        assert_eq!(uctr.call(&["start", "-a", &id]).out, "seed\n", "{way}");
        let data = PathBuf::from(uctr.inspect(&id).pointer("/Mounts/0/Source").unwrap().as_str().unwrap());
        assert_eq!(data, uctr.path("volumes").join(name).join("_data"));
        let meta = fs::metadata(&data).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.uid(), meta.gid()),
            (0o751, 1000, 1000),
            "{way}: owner and mode"
        );
        assert_eq!(fs::metadata(data.join("seed")).unwrap().mode() & 0o7777, 0o640);
        assert!(data.join("x").exists(), "{way}: what was written");
        uctr.ok(&["rm", &id]);
        assert_eq!(volumes(&uctr).len(), 1, "{way}: rm alone keeps it");
        uctr.ok(&["volume", "rm", name]);
        // --rm and rm -v take it along.
        uctr.says(&["--fs", way, "-v", "/var/data"], "true");
        let id = uctr.background(&["--fs", way, "-v", "/var/data"], "true");
        uctr.ok(&["wait", &id]);
        uctr.ok(&["rm", "-v", &id]);
        assert_eq!(volumes(&uctr), Vec::<String>::new(), "{way}");
    }
}

#[test]
fn a_named_volume_is_shared_and_filled_once() {
    let uctr = Uctr::new();
    assert_eq!(
        uctr.says(&["-v", "cache:/var/data"], "cat /var/data/seed; rm /var/data/seed; echo 1 > /var/data/n"),
        "seed"
    );
    assert_eq!(
        uctr.says(&["-v", "cache:/var/data:ro"], "ls /var/data; touch /var/data/x 2>/dev/null || echo ro"),
        "n\nro"
    );
    assert_eq!(uctr.says(&["-v", "plain:/var/data:nocopy"], "ls -A /var/data | wc -l"), "0");
    assert_eq!(volumes(&uctr), ["cache", "plain"]);
    let id = uctr.background(&["-v", "cache:/c"], "sleep 100");
    let used = uctr.call(&["volume", "rm", "cache"]);
    assert!(used.status == 125 && used.err.contains("in use by container"), "{used:?}");
    uctr.ok(&["rm", "-f", "-v", &id]);
    assert_eq!(volumes(&uctr), ["cache", "plain"], "named volumes are never removed with a container");
    let point = uctr.ok(&["volume", "inspect", "-f", "{{.Mountpoint}}", "cache"]);
    assert_eq!(fs::read_to_string(PathBuf::from(point).join("n")).unwrap(), "1\n");
    uctr.ok(&["volume", "rm", "cache", "plain"]);
    uctr.ok(&["volume", "create", "made"]);
    assert_eq!(volumes(&uctr), ["made"]);
}

#[test]
fn volumes_of_the_image_are_made_unless_something_else_is_there() {
    let uctr = Uctr::with_image(&["VOLUME [\"/var/data\", \"/other\"]"]);
    let id = uctr.ok(&[
        "create",
        "--tmpfs",
        "/other",
        "busybox",
        "sh",
        "-c",
        "mount | grep -c ' /other type tmpfs'; ls /var/data",
    ]);
    assert_eq!(uctr.call(&["start", "-a", &id]).out, "1\nseed\n");
    assert_eq!(volumes(&uctr).len(), 1);
    uctr.ok(&["rm", "-v", &id]);
    assert_eq!(volumes(&uctr).len(), 0);
}

#[test]
fn tmpfs_has_its_options() {
    let uctr = Uctr::new();
    let options = ["--tmpfs", "/t:size=1m,mode=700,exec", "--tmpfs", "/d"];
    let script = "df -k /t | tail -1 | tr -s ' ' | cut -d ' ' -f 2; stat -c %a /t; cp /bin/busybox /d/b; /d/b true 2>/dev/null; echo $?";
    assert_eq!(uctr.says(&options, script), "1024\n700\n126");
}
