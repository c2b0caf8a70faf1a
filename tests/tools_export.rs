//! `unionfs export`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FileType;

use crate::scene::{Scene, WRITERS, Writer, carried, mtimes, node, ok};
use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, host_ok, run};
use crate::support::tree::{difference, read_tree};

/// Unpacks an archive as GNU tar does, marks and all, into a new directory.
pub(crate) fn unpack(archive: &Path, dir: &Path) {
    fs::create_dir(dir).unwrap();
    let words = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--same-owner", "-xpf"];
    let mut args: Vec<_> = words.iter().map(std::ffi::OsStr::new).collect();
    args.extend([archive.as_os_str(), "-C".as_ref(), dir.as_os_str()]);
    host_ok("tar", &args);
}

#[test]
fn a_layer_over_the_lowers_is_the_merged_tree() {
    for writer in WRITERS {
        let scene = Scene::new(writer);
        let (archive, layer) = (scene.tree().beside("layer.tar"), scene.tree().beside("layer"));
        fs::write(&archive, scene.tool("export", &[])).unwrap();
        unpack(&archive, &layer);
        let mnt = scene.tree().beside("mnt2");
        fs::create_dir(&mnt).unwrap();
        let branches = format!("{}=ro+wh:{}", layer.display(), scene.lowers());
        ok(run(&["mount", &branches, mnt.to_str().unwrap()]));
        let (got, times) = (read_tree(&mnt), mtimes(&mnt, &scene.merged));
        ok(run(&["umount", "--lazy", mnt.to_str().unwrap()]));
        let changed = difference(&carried(&scene.merged), &got);
        assert!(changed.is_none(), "{writer:?}:\n{}", changed.unwrap());
        assert_eq!(times, scene.times, "{writer:?}: times");
        assert!(scene.tree().lower_changes().is_none());
    }
}

#[test]
fn a_layer_has_nothing_of_the_union_itself() {
    for writer in WRITERS {
        let scene = Scene::new(writer);
        let archive = scene.tree().beside("layer.tar");
        fs::write(&archive, scene.tool("export", &[])).unwrap();
        let names = host_ok("tar", &["-tf".as_ref(), archive.as_os_str()]);
        let marks: Vec<_> = names.lines().filter(|name| name.contains(".wh..wh.")).collect();
        assert!(marks.iter().all(|name| name.ends_with("/.wh..wh..opq")), "{writer:?}: {marks:?}");
        assert!(!marks.is_empty());
        let raw = fs::read(&archive).unwrap();
        for word in ["unionfs.", "overlay.", "fuseoverlayfs."] {
            let found = raw.windows(word.len()).any(|window| window == word.as_bytes());
            assert!(!found, "{writer:?}: {word:?} is in the archive");
        }
    }
}

#[test]
fn export_gives_the_same_bytes_from_a_mount_and_to_a_file() {
    let mount = TestMount::new(&["", "f=f g=g d/x=x", "h=h"]);
    fs::write(mount.path("f"), "more").unwrap();
    fs::remove_file(mount.path("g")).unwrap();
    fs::create_dir(mount.path("n")).unwrap();
    let (root, file) = (mount.root(), mount.tree().beside("out.tar"));
    let (root, file) = (root.to_str().unwrap(), file.to_str().unwrap());
    let piped = ok(run(&["export", root]));
    ok(run(&["export", root, "-o", file]));
    assert_eq!(fs::read(file).unwrap(), piped);
    let mode = fs::metadata(file).unwrap().mode();
    assert_eq!(mode & 0o111, 0, "{mode:o}");
    let left: Vec<_> =
        fs::read_dir(mount.tree().beside("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("export")), "{left:?}");
}

#[test]
fn marks_of_nested_unions_stay_escaped() {
    let mut mount = TestMount::new(&["", "f=f"]);
    fs::create_dir(mount.path("d")).unwrap();
    let set = |name: &str| {
        rustix::fs::setxattr(mount.path("d"), name, b"y", rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("trusted.overlay.opaque");
    set("user.unionfs.origin");
    assert!(mount.unmount().success());
    let (archive, layer) = (mount.tree().beside("layer.tar"), mount.tree().beside("layer"));
    fs::write(&archive, ok(run(&["export", mount.upper("").to_str().unwrap()]))).unwrap();
    unpack(&archive, &layer);
    let on_disk = crate::support::tree::read_xattrs(&layer.join("d"));
    let names: Vec<_> = on_disk.keys().map(|name| name.to_string_lossy()).collect();
    assert_eq!(names, ["trusted.overlay.overlay.opaque", "user.unionfs.unionfs.origin"]);
}

#[test]
fn what_a_layer_cannot_hold_is_told() {
    let mount = TestMount::new(&["", ""]);
    node(&mount.path("zero"), FileType::CharacterDevice, 0);
    node(&mount.path("socket"), FileType::Socket, 0);
    let output = run(&["export", mount.root().to_str().unwrap()]);
    assert!(output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("/zero: a character device 0:0") && said.contains("/socket: sockets"), "{said}");
    let archive = mount.tree().beside("layer.tar");
    fs::write(&archive, output.stdout).unwrap();
    assert_eq!(host_ok("tar", &["-tf".as_ref(), archive.as_os_str()]), "./\nzero\n");
}

#[test]
fn a_users_whiteout_name_is_refused_and_no_file_is_left() {
    let mount = TestMount::over(TestTree::new(&["", ""]), &["-o", "format=overlay"]);
    fs::write(mount.path(".wh.mine"), "").unwrap();
    let file = mount.tree().beside("out.tar");
    let output = run(&["export", mount.root().to_str().unwrap(), "-o", file.to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("/.wh.mine") && said.contains("rename it"), "{said}");
    assert!(!file.exists());
}

#[test]
fn umoci_and_skopeo_take_the_layer() {
    let scene = Scene::new(Writer::Aufs);
    let at = |name: &str| scene.tree().beside(name).to_str().unwrap().to_owned();
    let sh = |program: &str, words: &[&str]| {
        host_ok(program, &words.iter().map(std::ffi::OsStr::new).collect::<Vec<_>>())
    };
    let (image, layout) = (format!("{}:base", at("oci")), at("oci"));
    sh("umoci", &["init", "--layout", &layout]);
    sh("umoci", &["new", "--image", &image]);
    for (index, branch) in [2, 1].into_iter().enumerate() {
        let tar = at(&format!("lower{index}.tar"));
        sh(
            "tar",
            &[
                "--xattrs",
                "--numeric-owner",
                "-cf",
                &tar,
                "-C",
                scene.tree().branch(branch).to_str().unwrap(),
                ".",
            ],
        );
        sh("umoci", &["raw", "add-layer", "--image", &image, &tar]);
    }
    let tar = at("layer.tar");
    fs::write(&tar, scene.tool("export", &[])).unwrap();
    sh("umoci", &["raw", "add-layer", "--image", &image, &tar]);
    sh("umoci", &["unpack", "--image", &image, &at("bundle")]);
    let mut want = carried(&scene.merged);
    let mut got = read_tree(&scene.tree().beside("bundle/rootfs"));
    for tree in [&mut want, &mut got] {
        // umoci unpacks neither the time of the root nor trusted attributes.
        tree.get_mut(Path::new("")).unwrap().mtime = None;
        for node in tree.values_mut() {
            node.xattrs.retain(|name, _| name != "trusted.t");
        }
    }
    let changed = difference(&want, &got);
    assert!(changed.is_none(), "{}", changed.unwrap());
    let copied = format!("dir:{}", at("copied"));
    sh("skopeo", &["--insecure-policy", "copy", "--quiet", &format!("oci:{image}"), &copied]);
    assert!(sh("skopeo", &["inspect", &copied]).contains("\"Layers\""));
}

#[test]
fn content_that_lies_below_needs_the_lower_branches() {
    let tree = crate::support::branches::TestTree::new(&["", "f=text"]);
    let mut mount = TestMount::over(tree, &["-o", "format=overlay,metacopy=on"]);
    fs::set_permissions(mount.path("f"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    assert!(mount.unmount().success());
    let output = run(&["export", mount.upper("").to_str().unwrap()]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("name all of them with --lower"), "{said}");
    ok(run(&["diff", mount.upper("").to_str().unwrap()]));
}
