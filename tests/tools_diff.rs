//! `unionfs diff`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use unionfs::FileKind;

use crate::scene::{Scene, WRITERS, ok};
use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, run};
use crate::support::tree::{Node, Tree};

/// The lines of `diff -z`.
fn lines(output: &[u8]) -> Vec<(char, PathBuf)> {
    let lines = output.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let line = |line: &[u8]| {
        let path = line[2..].strip_prefix(b"/").expect("an absolute path");
        (char::from(line[0]), PathBuf::from(OsStr::from_bytes(path)))
    };
    lines.map(line).collect()
}

fn of_kind(lines: &[(char, PathBuf)], kind: char) -> BTreeSet<&Path> {
    lines.iter().filter(|(have, _)| *have == kind).map(|(_, path)| path.as_path()).collect()
}

/// What anybody who compares two trees finds: added, really changed, deleted (the uppermost only).
pub(crate) fn compare<'t>(base: &'t Tree, merged: &'t Tree) -> [BTreeSet<&'t Path>; 3] {
    let added = merged.keys().filter(|path| !base.contains_key(*path));
    let same = |one: &Node, other: &Node| {
        let of = |node: &Node| (node.kind, node.mode, node.uid, node.gid, node.rdev, node.mtime);
        of(one) == of(other) && one.content == other.content && one.xattrs == other.xattrs
    };
    let changed = merged.iter().filter(|(path, node)| base.get(*path).is_some_and(|old| !same(old, node)));
    let is_dir = |path: &Path| merged.get(path).is_some_and(|node| node.kind == FileKind::Directory);
    let deleted = base.keys().filter(|path| !merged.contains_key(*path) && is_dir(path.parent().unwrap()));
    [
        added.map(PathBuf::as_path).collect(),
        changed.map(|(path, _)| path.as_path()).filter(|path| !path.as_os_str().is_empty()).collect(),
        deleted.map(PathBuf::as_path).collect(),
    ]
}

#[test]
fn diff_tells_what_comparing_both_trees_tells() {
    for writer in WRITERS {
        let scene = Scene::new(writer);
        let told = lines(&scene.tool("diff", &["-z"]));
        let [added, changed, deleted] = compare(&scene.base, &scene.merged);
        assert_eq!(of_kind(&told, 'A'), added, "{writer:?}: added");
        assert_eq!(of_kind(&told, 'D'), deleted, "{writer:?}: deleted");
        let claimed = of_kind(&told, 'C');
        assert!(claimed.is_superset(&changed), "{writer:?}: not told: {:?}", &changed - &claimed);
        let both = |path: &&Path| scene.base.contains_key(*path) && scene.merged.contains_key(*path);
        assert!(claimed.iter().all(both), "{writer:?}: changed, but not in both trees: {claimed:?}");
        let untouched = ["d/f", "d/g", "keep/l", "link", "mid", "opq", "opq/up"].map(Path::new);
        assert!(untouched.iter().all(|path| !claimed.contains(path)), "{writer:?}: {claimed:?}");
    }
}

#[test]
fn diff_of_a_mount_is_that_of_its_branches() {
    let mount = TestMount::new(&["", "f=f g=g d/x=x", "g=g2 h=h"]);
    fs::write(mount.path("f"), "more").unwrap();
    fs::remove_file(mount.path("g")).unwrap();
    fs::write(mount.path("d/new"), "").unwrap();
    let told = ok(run(&["diff", mount.root().to_str().unwrap()]));
    assert_eq!(String::from_utf8_lossy(&told), "C /d\nA /d/new\nC /f\nD /g\n");
}

#[test]
fn diff_without_lowers_believes_the_records() {
    let mut mount = TestMount::new(&["", "f=f again=1 gone=g d/x=x"]);
    fs::write(mount.path("f"), "more").unwrap();
    fs::write(mount.path("d/new"), "").unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    fs::remove_file(mount.path("again")).unwrap();
    fs::write(mount.path("again"), "2").unwrap();
    assert!(mount.unmount().success());
    let told = ok(run(&["diff", mount.upper("").to_str().unwrap()]));
    // A file made anew bears no record: that is the documented guess.
    assert_eq!(String::from_utf8_lossy(&told), "A /again\nC /d\nA /d/new\nC /f\nD /gone\n");
}

#[test]
fn diff_writes_odd_names_on_one_line() {
    let tree = TestTree::new(&["", ""]);
    fs::write(tree.branch(0).join(OsStr::from_bytes(b"a\nb\\c\xff")), "").unwrap();
    let upper = tree.branch(0).as_os_str();
    let lower = tree.branch(1).as_os_str();
    let told = ok(run(&[OsStr::new("diff"), upper, OsStr::new("--lower"), lower]));
    assert_eq!(told, b"A /a\\012b\\134c\xff\n");
    let told = ok(run(&[OsStr::new("diff"), upper, OsStr::new("--lower"), lower, OsStr::new("-z")]));
    assert_eq!(told, b"A /a\nb\\c\xff\0");
}

#[test]
fn diff_reads_whatever_marks_the_upper_has() {
    let build = |index: usize, root: &Path| match index {
        0 => {
            fs::write(root.join(".wh.aufs"), "").unwrap();
            crate::scene::node(&root.join("device"), rustix::fs::FileType::CharacterDevice, 0);
            for dir in ["fuse", "kernel"] {
                fs::create_dir(root.join(dir)).unwrap();
            }
            let set = |dir: &str, name: &str, value: &[u8]| {
                rustix::fs::setxattr(root.join(dir), name, value, rustix::fs::XattrFlags::empty()).unwrap();
            };
            set("fuse", "user.fuseoverlayfs.opaque", b"y");
            set("kernel", "trusted.overlay.opaque", b"x");
            fs::write(root.join("kernel/hidden"), "").unwrap();
            set("kernel/hidden", "trusted.overlay.whiteout", b"");
        }
        _ => {
            for dir in ["fuse", "kernel"] {
                fs::create_dir(root.join(dir)).unwrap();
            }
            for file in ["aufs", "device", "fuse/lost", "kernel/hidden", "kernel/shown"] {
                fs::write(root.join(file), "").unwrap();
            }
        }
    };
    let tree = TestTree::build(2, 1, build);
    let (upper, lower) = (tree.branch(0).to_str().unwrap(), tree.branch(1).to_str().unwrap());
    let told = ok(run(&["diff", upper, "--lower", lower]));
    let want = "D /aufs\nD /device\nC /fuse\nD /fuse/lost\nC /kernel\nD /kernel/hidden\n";
    assert_eq!(String::from_utf8_lossy(&told), want);
}

#[test]
fn diff_refuses_what_it_cannot_know() {
    let mut mount = TestMount::new(&["", "old/f=f"]);
    fs::rename(mount.path("old"), mount.path("new")).unwrap();
    let root = mount.root();
    let output = run(&["diff", root.to_str().unwrap(), "--lower", "/"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("leave --lower out"), "{said}");
    assert!(mount.unmount().success());
    let output = run(&["diff", mount.upper("").to_str().unwrap()]);
    let said = OsStr::from_bytes(&output.stderr).to_os_string().into_vec();
    let said = String::from_utf8(said).unwrap();
    assert!(!output.status.success() && said.contains("/new") && said.contains("--lower"), "{said}");
}

#[test]
fn diff_and_export_do_not_walk_the_lowers() {
    let mut mount = TestMount::new(&["", "f=f gone=g d/x=x elsewhere/within/y=y d/untouched/z=z"]);
    fs::write(mount.path("f"), "more").unwrap();
    fs::write(mount.path("d/new"), "").unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    assert!(mount.unmount().success());
    let (upper, lower, trace) = (mount.upper(""), mount.lower(""), mount.tree().beside("trace"));
    for command in ["diff", "export"] {
        let mut strace = std::process::Command::new("strace");
        strace
            .arg("-qq")
            .arg("-o")
            .arg(&trace)
            .args(["-e", "trace=openat,openat2,open_tree,newfstatat,statx"]);
        strace.arg(env!("CARGO_BIN_EXE_unionfs")).arg(command).arg(&upper).arg("--lower").arg(&lower);
        assert!(strace.output().expect("strace: run scripts/setup.sh").status.success());
        let calls = fs::read_to_string(&trace).unwrap();
        assert!(calls.contains("\"gone\""), "{command} looks where the upper has a change: {calls}");
        for name in ["elsewhere", "within", "untouched"] {
            assert!(!calls.contains(name), "{command} looked at {name}");
        }
    }
}
