//! Owners as fuse-overlayfs shows and stores them: mappings, squashing, and attributes in the place of inodes.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, chown, symlink};
use std::path::Path;

use crate::scene::{Scene, owner};
use crate::support::branches::TestTree;
use crate::support::user::as_user;

const CONTAINERS: &str = "user.containers.override_stat";

fn with(options: &str) -> String {
    format!("fuse-overlayfs -o lowerdir=b1,upperdir=b0,workdir=w,{options} m")
}

fn attribute(at: &Path, name: &str) -> Option<String> {
    let mut value = [0; 256];
    let len = rustix::fs::lgetxattr(at, name, &mut value).ok()?;
    Some(String::from_utf8_lossy(&value[..len]).into_owned())
}

fn set_attribute(at: &Path, name: &str, value: &str) {
    rustix::fs::setxattr(at, name, value.as_bytes(), rustix::fs::XattrFlags::empty()).unwrap();
}

/// A lower branch with files of users 0, 7 and 200.
fn owned() -> Scene {
    Scene::over(TestTree::build(2, 1, |index, root| {
        for (name, id) in [("zero", 0), ("seven", 7), ("far", 200)].iter().filter(|_| index == 1) {
            fs::write(root.join(name), "x").unwrap();
            chown(root.join(name), Some(*id), Some(*id)).unwrap();
        }
        fs::set_permissions(root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    }))
}

#[test]
fn mapped_ids_are_shown_and_stored_the_other_way_round() {
    let scene = owned();
    scene.ok(&with("uidmapping=:0:1000:100,gidmapping=:0:2000:100"));
    assert_eq!(owner(&scene.on("zero")), "1000:2000 644");
    assert_eq!(owner(&scene.on("seven")), "1007:2007 644");
    assert_eq!(owner(&scene.on("far")), "65534:65534 644", "no counterpart");
    as_user(1005, 2006, || fs::write(scene.on("new"), "x").unwrap());
    assert_eq!(owner(&scene.on("new")), "1005:2006 644");
    assert_eq!(owner(&scene.path("b0/new")), "5:6 644");
    chown(scene.on("seven"), Some(1003), Some(2004)).unwrap();
    assert_eq!(owner(&scene.path("b0/seven")), "3:4 644");
}

#[test]
fn an_owner_without_counterpart_is_refused() {
    let scene = owned();
    scene.ok(&with("uidmapping=0:1000:100,gidmapping=0:2000:100"));
    let refused = chown(scene.on("zero"), Some(5), None).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOVERFLOW));
    assert_eq!(owner(&scene.on("zero")), "1000:2000 644");
}

#[test]
fn keep_id_maps_are_permutations_and_read_back_as_written() {
    let scene = owned();
    scene.ok(&with(
        "uidmapping=:0:1:1001:1001:0:1:1002:1002:64535,gidmapping=:0:1:1001:1001:0:1:1002:1002:64535",
    ));
    assert_eq!(owner(&scene.on("zero")), "1:1 644");
    fs::write(scene.on("new"), "x").unwrap();
    assert_eq!(
        (owner(&scene.on("new")), owner(&scene.path("b0/new"))),
        ("0:0 644".into(), "1001:1001 644".into())
    );
}

#[test]
fn access_control_lists_are_mapped_too() {
    let scene = owned();
    scene.ok(&with("uidmapping=0:1000:100,gidmapping=0:1000:100"));
    let seen = scene.shell(
        "setfacl -m u:1005:r m/zero; getfacl -nc m/zero | grep user:; getfacl -nc b0/zero | grep user:",
    );
    assert_eq!(seen, "user::rw-\nuser:1005:r--\nuser::rw-\nuser:5:r--\n");
}

#[test]
fn squashed_owners_are_one_and_chown_does_nothing() {
    let scene = owned();
    for (options, want) in [
        ("squash_to_root", "0:0 644"),
        ("squash_to_uid=1000,squash_to_gid=1001", "1000:1001 644"),
        ("squash_to_uid=1000,squash_to_root", "1000:0 644"),
        ("uidmapping=0:5000:1000,squash_to_uid=1000", "1000:7 644"),
    ] {
        scene.ok(&with(options));
        chown(scene.on("seven"), Some(3), None).unwrap();
        let seen = owner(&scene.on("seven"));
        scene.unmount();
        assert_eq!(seen, want, "{options}");
    }
}

#[test]
fn objects_are_what_their_attribute_says() {
    let scene = Scene::over(TestTree::build(2, 1, |index, root| {
        set_attribute(root, CONTAINERS, "0:0:0755:dir");
        if index == 1 {
            for (name, value) in [
                ("file", "10:20:4711:file"),
                ("old", "11:21:600"),
                ("char", "0:0:666:char-1-3"),
                ("block", "0:6:660:block-8-1"),
                ("pipe", "1:2:0640:pipe"),
                ("socket", "1:2:0777:socket"),
                ("bad", "nonsense"),
            ] {
                fs::write(root.join(name), "").unwrap();
                set_attribute(&root.join(name), CONTAINERS, value);
            }
            fs::create_dir(root.join("dir")).unwrap();
            set_attribute(&root.join("dir"), CONTAINERS, "5:6:2750:dir");
        }
    }));
    // The roots say that attributes count, so no option has to.
    scene.ok("fuse-overlayfs -o lowerdir=b1 m");
    let kinds = scene.shell("cd m; stat -c '%n %F %u:%g %a %t:%T' * | sort");
    assert_eq!(
        kinds,
        "bad regular empty file 0:0 644 0:0\nblock block special file 0:6 660 8:1\n\
         char character special file 0:0 666 1:3\ndir directory 5:6 2750 0:0\nfile regular empty file 10:20 4711 0:0\n\
         old regular empty file 11:21 600 0:0\npipe fifo 1:2 640 0:0\nsocket socket 1:2 777 0:0\n"
    );
    let listed = scene.shell("find m -mindepth 1 -printf '%f %y\\n' | sort");
    assert_eq!(listed, "bad f\nblock b\nchar c\ndir d\nfile f\nold f\npipe p\nsocket s\n", "d_type");
    assert_eq!(attribute(&scene.on("file"), CONTAINERS), None, "the attribute is not for users");
}

#[test]
fn owner_mode_and_devices_are_written_into_the_attribute() {
    let scene = Scene::new(&["", "lower=x"]);
    scene.ok(&with("xattr_permissions=2,dev"));
    fs::write(scene.on("file"), "x").unwrap();
    chown(scene.on("file"), Some(7), Some(8)).unwrap();
    scene.shell("chmod 4711 m/file; mknod -m 640 m/dev c 1 3; mkfifo -m 600 m/pipe; mkdir -m 2770 m/dir; chgrp 33 m/dir");
    fs::write(scene.on("dir/in"), "x").unwrap();
    symlink("file", scene.on("link")).unwrap();
    fs::write(scene.on("lower"), "changed").unwrap();
    for (name, seen, said) in [
        ("file", "7:8 4711", "7:8:4711:file"),
        ("dev", "0:0 640", "0:0:0640:char-1-3"),
        ("pipe", "0:0 600", "0:0:0600:pipe"),
        ("dir", "0:33 2770", "0:33:2770:dir"),
        ("dir/in", "0:33 644", "0:33:0644:file"),
        ("lower", "0:0 644", "0:0:0644:file"),
    ] {
        let disk = scene.path("b0").join(name);
        assert_eq!(owner(&scene.on(name)), seen, "{name}");
        assert_eq!(attribute(&disk, CONTAINERS).as_deref(), Some(said), "{name}");
        let meta = fs::symlink_metadata(&disk).unwrap();
        let (private, kind) = if meta.is_dir() { (0o700, true) } else { (0o600, meta.is_file()) };
        assert_eq!((meta.uid(), meta.mode() & 0o7777, kind), (0, private, true), "{name} on disk");
    }
    assert!(fs::metadata(scene.on("dev")).unwrap().file_type().is_char_device());
    assert_eq!(fs::read(scene.on("dev")).unwrap(), b"", "it is the null device");
    let root = attribute(&scene.path("b0"), CONTAINERS);
    assert_eq!(root.as_deref(), Some("0:0:0755:dir"), "the branch tells by its root that attributes count");
}

#[test]
fn privileged_attributes_work_the_same_by_their_own_name() {
    let scene = Scene::new(&["", "lower=x"]);
    scene.ok(&with("xattr_permissions=1"));
    chown(scene.on("lower"), Some(7), Some(8)).unwrap();
    symlink("x", scene.on("link")).unwrap();
    std::os::unix::fs::lchown(scene.on("link"), Some(9), Some(10)).unwrap();
    scene.unmount();
    let name = "security.fuseoverlayfs.override_stat";
    assert_eq!(attribute(&scene.path("b0/lower"), name).as_deref(), Some("7:8:0644:file"));
    assert_eq!(attribute(&scene.path("b0/link"), name).as_deref(), Some("9:10:0777:symlink"));
    assert_eq!(fs::metadata(scene.path("b0/lower")).unwrap().uid(), 0);
    scene.ok(&with("xattr_permissions=1"));
    assert_eq!(owner(&scene.on("lower")), "7:8 644");
}

#[test]
fn attributes_of_the_security_namespace_are_kept_beside_it() {
    let scene = Scene::new(&["", "f=x"]);
    scene.ok(&with("xattr_permissions=2"));
    set_attribute(&scene.on("f"), "security.test", "value");
    set_attribute(&scene.on("f"), "user.test", "value");
    assert_eq!(attribute(&scene.on("f"), "security.test").as_deref(), Some("value"));
    assert_eq!(
        scene.shell("getfattr -d -m - --absolute-names m/f | grep = | sort"),
        "security.test=\"value\"\nuser.test=\"value\"\n"
    );
    assert_eq!(
        attribute(&scene.path("b0/f"), "user.containers.override_security.test").as_deref(),
        Some("value")
    );
    let forged = rustix::fs::setxattr(scene.on("f"), CONTAINERS, b"0:0:777", rustix::fs::XattrFlags::empty());
    assert_eq!(forged, Err(rustix::io::Errno::PERM));
}

#[test]
fn a_write_by_another_clears_set_user_id_in_the_attribute() {
    let scene = Scene::new(&["", "f=x"]);
    scene.ok(&with("xattr_permissions=2"));
    scene.shell("chmod 6777 m/f");
    as_user(1000, 1000, || fs::write(scene.on("f"), "changed").unwrap());
    assert_eq!(owner(&scene.on("f")), "0:0 777");
    scene.shell("chmod 6777 m/f; chown 5 m/f");
    assert_eq!(owner(&scene.on("f")), "5:0 777");
}

#[test]
fn permissions_of_the_attribute_are_enforced() {
    let scene = Scene::new(&["", "f=secret"]);
    scene.ok(&with("xattr_permissions=2"));
    fs::write(scene.on("mine"), "x").unwrap();
    scene.shell("chmod 600 m/f; chown 1000 m/mine; chmod 600 m/mine");
    as_user(1000, 1000, || {
        assert_eq!(fs::read(scene.on("f")).unwrap_err().raw_os_error(), Some(libc::EACCES));
        assert_eq!(fs::read(scene.on("mine")).unwrap(), b"x");
    });
}
