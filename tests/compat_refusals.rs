//! Command lines that cannot be followed: one clear line each, the exit status that the caller expects, and nothing
//! left behind: no mount, no process, no file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::scene::Scene;
use crate::support::branches::TestTree;
use crate::support::mount::is_mounted;

/// A command line, what it exits with, and what its one line on standard error says.
type Row = (&'static str, i32, &'static str);

const FUSE_OVERLAYFS: &[Row] = &[
    ("fuse-overlayfs", 1, "no mount point"),
    ("fuse-overlayfs m", 1, "no branches"),
    ("fuse-overlayfs -o", 1, "-o needs a value"),
    ("fuse-overlayfs -o lowerdir=b1", 1, "no mount point"),
    ("fuse-overlayfs -o lowerdir= m", 1, "needs a value"),
    ("fuse-overlayfs -o lowerdir m", 1, "needs a value"),
    ("fuse-overlayfs -o lowerdir=b1::b2 m", 1, "empty entry"),
    ("fuse-overlayfs -o upperdir=b0,workdir=w m", 1, "no lowerdir"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0 m", 1, "needs workdir="),
    ("fuse-overlayfs -o lowerdir=absent m", 1, "\"absent\": open: No such file"),
    ("fuse-overlayfs -o lowerdir=b1/f m", 1, "\"b1/f\": open: Not a directory"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=absent,workdir=w m", 1, "\"absent\""),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=no/such m", 1, "\"no/such\""),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=/proc m", 1, "\"/proc\""),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=shm m", 1, "on the filesystem of its branch"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b1/d,workdir=w m", 1, "lies inside branch"),
    ("fuse-overlayfs -o lowerdir=b1/d:b1 m", 1, "lies inside branch"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b1,workdir=w m", 1, "lies inside branch"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w absent", 1, "\"absent\": No such file"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w b1/f", 1, "not a directory"),
    ("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w b0/in", 1, "lies inside branch"),
    ("fuse-overlayfs -o lowerdir=b1,uidmapping=0:1 m", 1, "DISK:SHOWN:LENGTH"),
    ("fuse-overlayfs -o lowerdir=b1,gidmapping=0:4294967295:2 m", 1, "below 4294967295"),
    ("fuse-overlayfs -o lowerdir=b1,squash_to_uid=root m", 1, "numeric id"),
    ("fuse-overlayfs -o lowerdir=b1,xattr_permissions=3 m", 1, "0, 1 or 2"),
    ("fuse-overlayfs -o lowerdir=b1,timeout=soon m", 1, "number of seconds"),
    ("fuse-overlayfs -o lowerdir=b1,plugins=/x.so m", 1, "plugins are not supported"),
    ("fuse-overlayfs -o lowerdir=b1,volatile=1 m", 1, "takes no value"),
    ("fuse-overlayfs -o lowerdir=b1,dirs=b2 m", 1, "both name the branches"),
];

const OTHERS: &[Row] = &[
    ("unionfs mount -o frob b0:b1 m", 1, "unknown mount option \"frob\""),
    ("unionfs mount b0:b1 full", 1, "not empty"),
    ("unionfs mount b0:b1:b1 m", 1, "b1"),
    ("unionfs mount b0=rx:b1 m", 1, "unknown permission \"rx\""),
    ("unionfs mount -o create=best b0:b1 m", 1, "best"),
    ("unionfs -x b0=RW:b1=RO m", 1, "unknown option -x"),
    ("unionfs -o cow,frob b0=RW:b1=RO m", 1, "unknown mount option \"frob\""),
    ("unionfs -o cow b0=RW:b1=RO m more", 1, "unexpected argument \"more\""),
    ("unionfs -o cow b0=RW:b1=RO full", 1, "not empty"),
    ("unionfs -o max_files=many b0=RW:b1=RO m", 1, "write a number"),
    ("unionfs-fuse -o cow,chroot=/absent /b0=RW:/b1=RO m", 1, "/absent/b0"),
    ("mount.unionfs none m", 1, "no branches"),
    ("mount.unionfs none m -o dirs=b0=rw:b1,frob", 1, "unknown mount option \"frob\""),
    ("mount.unionfs none m -o dirs=b0=rw:absent", 32, "\"absent\""),
    ("mount.unionfs none absent -o dirs=b0=rw:b1", 32, "\"absent\""),
    ("mount.unionfs none m -o remount,ro", 32, "nothing is mounted there"),
    ("mount.unionfs none m -o remount,add:b2", 32, "not the root of a mounted union"),
    ("mount.fuse.unionfs N m -o lowerdir=b1,metacopy=maybe", 1, "write on or off"),
    ("unionfs mount -o metacopy=on b0:b1 m", 1, "add format=overlay"),
];

fn scene() -> Scene {
    let scene = Scene::new(&["in/", "f=one d/x=1", "g=two"]);
    fs::create_dir(scene.path("full")).unwrap();
    fs::write(scene.path("full/f"), "x").unwrap();
    // A directory on another filesystem than the branches.
    std::os::unix::fs::symlink("/dev/shm", scene.path("shm")).unwrap();
    scene
}

/// All files beside and in the branches.
fn files(root: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(root).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        }
        found.insert(entry.path());
    }
    found
}

fn check(scene: &Scene, rows: &[Row]) {
    let before = files(&scene.path(""));
    for (line, status, says) in rows {
        let (got, said) = scene.refused(line);
        assert_eq!(got, *status, "{line}: {said}");
        assert_eq!(said.lines().count(), 1, "{line}: {said}");
        let program = line.split(' ').next().unwrap();
        assert!(said.starts_with(&format!("{program}: ")), "{line}: {said}");
        assert!(said.contains(says), "{line}: {said:?} does not say {says:?}");
        assert!(!is_mounted(&scene.path("m")), "{line}: left a mount");
        assert_eq!(scene.servers(), Vec::<String>::new(), "{line}");
        let after = files(&scene.path(""));
        let left: Vec<_> = after.difference(&before).collect();
        assert!(left.is_empty(), "{line}: left {left:?}");
    }
}

#[test]
fn bad_command_lines_of_fuse_overlayfs_are_refused_in_one_line() {
    check(&scene(), FUSE_OVERLAYFS);
}

#[test]
fn bad_command_lines_of_others_are_refused_in_one_line() {
    check(&scene(), OTHERS);
}

#[test]
fn without_dev_fuse_the_remedy_is_told() {
    let scene = scene();
    let output =
        scene.shell_output("mount -t tmpfs none /dev; mknod /dev/null c 1 3; fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("fuse-overlayfs: cannot open /dev/fuse: ") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(fs::read_dir(scene.path("w")).unwrap().count(), 0, "left in the work directory");
}

#[test]
fn without_permission_the_reason_is_told() {
    let scene = Scene::over(TestTree::loose(&["in/", "f=one d/x=1", "g=two"]));
    for (case, prepare, line, says) in [
        (
            "the device",
            "chmod 600 .fuse",
            "fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m",
            "cannot open /dev/fuse: Permission denied",
        ),
        (
            "the mount point",
            "chown root m",
            "fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m",
            "fusermount3 could not mount",
        ),
        (
            "the upper directory",
            "chown root w",
            "fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m",
            "\"w\"",
        ),
        (
            "a lower directory",
            "chmod 700 b2",
            "fuse-overlayfs -o lowerdir=b2,upperdir=b0,workdir=w m",
            "\"b2\"",
        ),
    ] {
        let output = scene.shell_output(&format!(
            "chmod 755 . b2; chown 1:1 b0 w m; rm -f .fuse; mknod -m 666 .fuse c 10 229; {prepare}; mount --bind .fuse /dev/fuse
             setpriv --reuid=1 --regid=1 --clear-groups {line}"
        ));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{case}: {said}");
        assert!(said.contains(says) && said.lines().count() == 1, "{case}: {said}");
        assert!(!is_mounted(&scene.path("m")), "{case}");
    }
}

#[test]
fn a_union_in_use_is_not_mounted_a_second_time() {
    let scene = scene();
    scene.ok("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w m");
    let (status, said) = scene.refused("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w full");
    assert_eq!(status, 1);
    assert!(said.contains("another union is mounted") && said.lines().count() == 1, "{said}");
}
