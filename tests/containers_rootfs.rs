//! The root filesystem, in each of the three ways to put it together.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use container::{Layer, Uctr, busybox_into, fingerprint};

const WAYS: [&str; 3] = ["fuse", "overlay", "copy"];

/// The trees of all layers in the store.
fn layers(uctr: &Uctr) -> Vec<PathBuf> {
    let entries = fs::read_dir(uctr.path("layers")).unwrap();
    let mut layers: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path().join("diff")).collect();
    layers.sort();
    layers
}

#[test]
fn writes_go_to_the_writable_layer_only() {
    let uctr = Uctr::new();
    let before: Vec<String> = layers(&uctr).iter().map(|layer| fingerprint(layer)).collect();
    for way in WAYS {
        let script = "echo new > /usr/new; echo more >> /usr/plain; chmod 700 /var/data/seed; rm -r /home; mkdir /home; \
                      touch /home/mine; ls /home; cat /usr/plain; mv /var/data /var/moved; ls /var";
        let id = uctr.ok(&["create", "--fs", way, "busybox", "sh", "-c", script]);
        let done = uctr.call(&["start", "-a", &id]);
        assert_eq!(
            (done.status, done.out.as_str()),
            (0, "mine\nnot a program\nmore\nmoved\n"),
            "{way}: {done:?}"
        );
        let after: Vec<String> = layers(&uctr).iter().map(|layer| fingerprint(layer)).collect();
        assert_eq!(before, after, "{way}: the image's layers");
        // A second start finds what the first one left.
        let upper = uctr.ok(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", &id]);
        assert_eq!(fs::read_to_string(PathBuf::from(&upper).join("usr/new")).unwrap(), "new\n", "{way}");
        uctr.ok(&["rm", &id]);
    }
}

#[test]
fn a_removed_file_stays_removed_after_a_restart() {
    let uctr = Uctr::new();
    for way in WAYS {
        let script = "cat /usr/plain; rm -f /usr/plain; ls /usr | grep -c plain";
        let id = uctr.ok(&["create", "--fs", way, "busybox", "sh", "-c", script]);
        assert_eq!(uctr.call(&["start", "-a", &id]).out, "not a program\n0\n", "{way}");
        let again = uctr.call(&["start", "-a", &id]);
        assert_eq!(again.out, "0\n", "{way}: {again:?}");
        if way == "fuse" {
            let upper = PathBuf::from(uctr.ok(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", &id]));
            assert!(upper.join("usr/.wh.plain").exists(), "the whiteout in the writable layer");
        }
        uctr.ok(&["rm", &id]);
    }
}

#[test]
fn whiteouts_and_opaque_directories_of_layers_hide() {
    let uctr = Uctr::new();
    let mut lower = Layer::new();
    busybox_into(&mut lower);
    lower.dir("opt", 0o755);
    lower.dir("opt/opaque", 0o755);
    lower.file("opt/opaque/below", b"", 0o644);
    lower.file("opt/gone", b"", 0o644);
    lower.dir("opt/tree", 0o755);
    lower.file("opt/tree/leaf", b"", 0o644);
    let mut upper = Layer::new();
    upper.dir("opt", 0o711);
    upper.dir("opt/opaque", 0o755);
    upper.file("opt/opaque/.wh..wh..opq", b"", 0o644);
    upper.file("opt/opaque/above", b"", 0o644);
    upper.file("opt/.wh.gone", b"", 0o644);
    upper.file("opt/.wh.tree", b"", 0o644);
    let mut top = Layer::new();
    top.dir("opt", 0o711);
    top.file("opt/tree", b"now a file", 0o644);
    uctr.load_layers("layered", &[lower.finish(), upper.finish(), top.finish()]);
    for way in WAYS {
        let args = [
            "run",
            "--rm",
            "--fs",
            way,
            "layered",
            "sh",
            "-c",
            "find /opt | sort; cat /opt/tree; stat -c %a /opt",
        ];
        assert_eq!(uctr.ok(&args), "/opt\n/opt/opaque\n/opt/opaque/above\n/opt/tree\nnow a file711", "{way}");
    }
}

#[test]
fn many_layers_work() {
    let uctr = Uctr::new();
    let mut base = Layer::new();
    busybox_into(&mut base);
    let mut layers = vec![base.finish()];
    for number in 0..100 {
        let mut layer = Layer::new();
        layer.file(&format!("layer-{number}"), number.to_string().as_bytes(), 0o644);
        layer.file("last", number.to_string().as_bytes(), 0o644);
        layers.push(layer.finish());
    }
    uctr.load_layers("deep", &layers);
    for way in WAYS {
        let args = ["run", "--rm", "--fs", way, "deep", "sh", "-c", "ls / | grep -c layer-; cat /last"];
        assert_eq!(uctr.ok(&args), "100\n99", "{way}");
    }
}

#[test]
fn the_init_layer_is_not_a_change() {
    let uctr = Uctr::new();
    let host = uctr.host_dir("host");
    for way in ["fuse", "overlay"] {
        let volume = format!("{}:/new/mount/point", host.display());
        let id = uctr.ok(&[
            "create",
            "--fs",
            way,
            "-v",
            &volume,
            "busybox",
            "cat",
            "/etc/hosts",
            "/new/mount/point/f",
        ]);
        let done = uctr.call(&["start", "-a", &id]);
        assert!(done.out.contains("localhost") && done.out.ends_with("host\n"), "{way}: {done:?}");
        let upper = PathBuf::from(uctr.ok(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", &id]));
        let left: Vec<_> = fs::read_dir(&upper).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{way}: {left:?} in {}", upper.display());
    }
}

#[test]
fn directories_under_the_init_layer_keep_their_attributes() {
    let uctr = Uctr::new();
    let mut layer = Layer::new();
    busybox_into(&mut layer);
    layer.owned_dir("etc", 0o751, 1000);
    uctr.load_layers("odd", &[layer.finish()]);
    for way in WAYS {
        assert_eq!(
            uctr.ok(&["run", "--rm", "--fs", way, "odd", "stat", "-c", "%a %u %g", "/etc"]),
            "751 1000 1000",
            "{way}"
        );
    }
}

#[test]
fn read_only_protects_the_root_and_not_what_is_mounted() {
    let uctr = Uctr::new();
    for way in WAYS {
        let script = "touch /x 2>/dev/null; echo $?; touch /tmp/x /dev/shm/x; echo $?; touch /v/x; echo $?";
        let options = ["--fs", way, "--read-only", "--tmpfs", "/tmp", "-v", "/v"];
        assert_eq!(uctr.says(&options, script), "1\n0\n0", "{way}");
    }
}

#[test]
fn rootfs_takes_a_directory_itself_or_as_a_layer() {
    let uctr = Uctr::new();
    let root = uctr.path("tree");
    let tar = uctr.path("tree.tar");
    fs::create_dir(&root).unwrap();
    fs::write(&tar, container::busybox_layer()).unwrap();
    let unpacked =
        std::process::Command::new("tar").arg("-xf").arg(&tar).arg("-C").arg(&root).status().unwrap();
    assert!(unpacked.success());
    let directory = root.to_str().unwrap();
    let before = fingerprint(&root);
    for way in WAYS {
        let layer = format!("{directory}:O");
        let said = uctr.ok(&[
            "run",
            "--rm",
            "--fs",
            way,
            "--rootfs",
            &layer,
            "sh",
            "-c",
            "touch /x; ls /x; cat /etc/hostname",
        ]);
        assert!(said.starts_with("/x\n"), "{way}: {said}");
        assert_eq!(fingerprint(&root), before, "{way}: the layer");
    }
    let said = uctr.ok(&[
        "run",
        "--rm",
        "-h",
        "box",
        "--rootfs",
        directory,
        "sh",
        "-c",
        "touch /x; cat /etc/hostname",
    ]);
    assert_eq!(said, "box");
    assert!(root.join("x").exists(), "the directory itself was written");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(directory), "nothing is mounted there on the host");
}

#[test]
fn file_owners_and_modes_come_through() {
    let uctr = Uctr::new();
    for way in WAYS {
        let said = uctr.says(&["--fs", way], "stat -c '%a %u %g' /var/data /var/data/seed /tmp /bin/busybox");
        assert_eq!(said, "751 1000 1000\n640 0 0\n1777 0 0\n755 0 0", "{way}");
        let id =
            uctr.ok(&["create", "--fs", way, "busybox", "sh", "-c", "touch /usr/own; chown 7:8 /usr/own"]);
        uctr.ok(&["start", "-a", &id]);
        let upper = PathBuf::from(uctr.ok(&["inspect", "-f", "{{.GraphDriver.Data.UpperDir}}", &id]));
        let meta = fs::metadata(upper.join("usr/own")).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (7, 8), "{way}");
    }
}

#[test]
fn auto_takes_the_union() {
    let uctr = Uctr::new();
    let id = uctr.background(&[], "sleep 100");
    assert_eq!(uctr.ok(&["inspect", "-f", "{{.Driver}}", &id]), "fuse");
    let root = uctr.ok(&["exec", &id, "sh", "-c", "grep ' / ' /proc/self/mounts"]);
    assert!(root.contains("fuse."), "{root}");
}

#[test]
fn data_is_reached_in_the_way_that_was_asked_for() {
    let uctr = Uctr::new();
    for way in ["stateless", "passthrough", "passthrough-all"] {
        let id = uctr.background(&["--io", way], "sleep 100");
        let root = format!("/proc/{}/root", uctr.ok(&["inspect", "-f", "{{.State.Pid}}", &id]));
        let mut told = vec![0; 64 << 10];
        let len = rustix::fs::getxattr(&root, "user.unionfs.ctl.stats", told.as_mut_slice()).unwrap();
        let told: serde_json::Value = serde_json::from_slice(&told[..len]).unwrap();
        assert_eq!(told["io"], way);
        // What a restart takes from the container's file.
        uctr.ok(&["restart", "-t", "0", &id]);
        assert_eq!(uctr.ok(&["exec", &id, "cat", "/usr/plain"]), "not a program", "{way}");
        uctr.ok(&["rm", "-f", &id]);
    }
}

#[test]
fn diff_tells_what_was_changed_and_nothing_else() {
    let uctr = Uctr::new();
    for way in ["fuse", "overlay"] {
        let script = "touch /new; mkdir /dir; touch /dir/in; echo x >> /usr/plain; chmod 600 /var/data/seed; rm /usr/garbage; \
                      rm -r /home; mkdir /home; touch /home/own; touch /tmp/a; rm /tmp/a; true";
        let id = uctr.ok(&["create", "--fs", way, "-v", "/mnt/made", "busybox", "sh", "-c", script]);
        assert_eq!(uctr.ok(&["diff", &id]), "", "{way}: before it ran");
        uctr.ok(&["start", "-a", &id]);
        let want = "A /dir\nA /dir/in\nC /home\nD /home/app\nA /home/own\nA /new\nC /tmp\nC /usr\nD /usr/garbage\nC /usr/plain\nC /var\nC /var/data\nC /var/data/seed";
        assert_eq!(uctr.ok(&["diff", &id]), want, "{way}");
    }
    let copy = uctr.ok(&["create", "--fs", "copy", "busybox", "true"]);
    assert_eq!(uctr.call(&["diff", &copy]).status, 125);
}
