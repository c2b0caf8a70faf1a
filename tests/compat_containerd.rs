//! containerd with mounts as its fuse-overlayfs snapshotter hands them out: an image is unpacked and run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use crate::scene::Scene;

const SNAPSHOTTER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/compat_snapshotter.py");

/// Two layers in docker-archive's form: the second changes and deletes what the first has.
const IMAGE: &str = r#"
mkdir -p one/bin one/etc one/proc one/sys one/dev one/run two/etc
cp /usr/bin/busybox one/bin/; for applet in sh cat ls rm; do ln -s busybox one/bin/$applet; done
echo first > one/etc/changed; echo gone > one/etc/gone; echo kept > one/etc/kept
echo second > two/etc/changed; touch two/etc/.wh.gone
for layer in one two; do tar -cf $layer.tar --owner=0 --group=0 -C $layer .; done
sum() { sha256sum $1 | cut -d' ' -f1; }
printf '{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["sha256:%s","sha256:%s"]}}' \
    $(sum one.tar) $(sum two.tar) > config.json
echo '[{"Config":"config.json","RepoTags":["localhost/two:latest"],"Layers":["one.tar","two.tar"]}]' > manifest.json
tar -cf image.tar config.json manifest.json one.tar two.tar
"#;

/// A daemon with a store of its own, and no plugin that is not needed.
const DAEMON: &str = r#"
mount -t tmpfs none /run
cat > config.toml <<END
version = 2
root = "$PWD/root"
state = "$PWD/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
    "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs", "io.containerd.internal.v1.opt"]
[grpc]
address = "$PWD/c.sock"
[proxy_plugins.ours]
type = "snapshot"
address = "$PWD/s.sock"
END
/usr/bin/python3 -I SNAPSHOTTER "$PWD/s.sock" "$PWD/snapshots" >snapshotter.log 2>&1 & snapshotter=$!
for try in $(seq 300); do [ -S s.sock ] && break; sleep 0.1; done
containerd --config config.toml >containerd.log 2>&1 & containerd=$!
trap 'status=$?; kill $containerd $snapshotter; wait; [ $status = 0 ] || tail -n 20 snapshotter.log containerd.log >&2; exit $status' EXIT
ctr() { command ctr --address c.sock "$@"; }
for try in $(seq 300); do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
"#;

#[test]
fn an_image_is_unpacked_and_run_on_the_union() {
    let scene = Scene::new(&[""]);
    assert!(Path::new("/usr/bin/containerd").exists() && python_has_grpc(), "run scripts/setup.sh");
    symlink(SNAPSHOTTER, scene.path("snapshotter.py")).unwrap();
    let daemon = DAEMON.replace("SNAPSHOTTER", "snapshotter.py");
    let seen = scene.shell(&format!(
        r#"{IMAGE}{daemon}
        ctr images import --snapshotter ours image.tar >/dev/null
        ctr run --rm --snapshotter ours localhost/two:latest box /bin/sh -c '
            cat /etc/changed /etc/kept; ls /etc/gone 2>/dev/null || echo gone
            echo third > /etc/changed; rm /etc/kept; cat /etc/changed; ls /etc'
        top=$(ctr snapshots --snapshotter ours ls | awk '$2 ~ /^sha256/ {{print $1}}')
        ctr snapshots --snapshotter ours view --mounts look $top | grep -o 'fuse3.fuse-overlayfs'
        grep -c 'fuse.fuse-overlayfs' /proc/self/mounts || :"#
    ));
    let lines: Vec<_> = seen.lines().collect();
    assert_eq!(lines[..5], ["second", "kept", "gone", "third", "changed"], "{seen}");
    assert!(!lines[5..].contains(&"kept"), "{seen}");
    assert!(lines[5..].contains(&"fuse3.fuse-overlayfs"), "{seen}");
    assert_eq!(lines.last(), Some(&"0"), "mounts were left: {seen}");
    assert!(fs::read_dir(scene.path("snapshots")).unwrap().count() >= 2);
}

fn python_has_grpc() -> bool {
    let status = Command::new("/usr/bin/python3").args(["-I", "-c", "import grpc"]).status();
    status.is_ok_and(|status| status.success())
}
