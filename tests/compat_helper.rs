//! mount(8), fstab(5) and containerd's ways to call a mount program; and the words of aufs, unionfs-fuse and kernel
//! overlay that come with them.

use std::fs;

use crate::scene::Scene;
use crate::support::branches::{TestTree, ls};

fn scene() -> Scene {
    Scene::new(&["", "f=one", "g=two"])
}

#[test]
fn mount_finds_the_helper_by_type_and_umount_undoes_it() {
    let scene = scene();
    let seen = scene.shell(
        r#"mount -t unionfs -o dirs=b0=rw:b1=ro none m
           ls m; echo changed > m/f; cat b0/f; grep " $PWD/m " /proc/mounts | cut -d" " -f1,3; umount m; mountpoint -q m || echo gone"#,
    );
    assert_eq!(seen, "f\nchanged\nnone fuse.unionfs\ngone\n");
}

#[test]
fn mount_of_the_fuse_type_takes_the_words_of_overlay() {
    let scene = scene();
    let seen = scene.shell(
        r#"mount -t fuse.unionfs NAME m -o lowerdir=b1:b2,upperdir=b0,workdir=w
           ls m; grep " $PWD/m " /proc/mounts | cut -d" " -f1,3; umount m"#,
    );
    assert_eq!(seen, "f\ng\nNAME fuse.unionfs\n");
}

#[test]
fn words_of_aufs_reach_the_union() {
    let scene = scene();
    let seen = scene.shell(
        "mount -t unionfs -o br:b0=rw:b1=ro+wh:b2=rr,udba=none,create=tdp,noxino,dirwh=3,nosum none m
         ls m; unionfs branches m; umount m",
    );
    let branches = ["b0=rw", "b1=ro+wh", "b2=rr"]
        .map(|branch| format!("{}/{branch}\n", scene.path("").to_str().unwrap().trim_end_matches('/')));
    assert_eq!(seen, format!("f\ng\n{}", branches.concat()));
}

#[test]
fn words_of_kernel_overlay_are_understood() {
    let scene = scene();
    let seen = scene.shell(
        "mount -t unionfs -o lowerdir=b1:b2,upperdir=b0,workdir=w,index=off,xino=on,metacopy=off,redirect_dir=on,uuid=null,nfs_export=off,volatile none m
         ls m; umount m",
    );
    assert_eq!(seen, "f\ng\n");
    for option in ["metacopy=maybe", "nfs_export=on", "verity=require", "redirect_dir=nofollow", "uuid=on"] {
        let output = scene
            .shell_output(&format!("mount -t unionfs -o lowerdir=b1,upperdir=b0,workdir=w,{option} none m"));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(option), "{option}: {said}");
    }
}

#[test]
fn words_of_fstab_for_others_are_left_alone() {
    let scene = scene();
    fs::write(
        scene.path("fstab"),
        format!(
            "none {0}m unionfs dirs={0}b0=rw:{0}b1=ro,_netdev,noauto,nofail,user,x-systemd.requires=/x,x-gvfs-hide,comment=y 0 0\n",
            scene.path("").display()
        ),
    )
    .unwrap();
    let seen = scene.shell("mount -T fstab \"$PWD\"/m; ls m; umount m");
    assert_eq!(seen, "f\n");
}

#[test]
fn remount_changes_flags_and_branches() {
    let scene = scene();
    let seen = scene.shell(
        r#"mount -t unionfs -o dirs=b0=rw:b1=ro none m
           mount -o remount,ro m; touch m/x 2>/dev/null || echo read-only
           mount -o remount,rw m; touch m/x; ls b0
           mount -o "remount,append:$PWD/b2=ro" m; ls m
           mount -o "remount,del:$PWD/b1" m; ls m
           unionfs branches m | wc -l; umount m"#,
    );
    assert_eq!(seen, "read-only\nx\nf\ng\nx\ng\nx\n2\n");
}

#[test]
fn containerd_mounts_by_mount_fuse3() {
    let scene = scene();
    let seen = scene.shell(
        r#"mount.fuse3 overlay "$PWD/m" -o workdir=w,upperdir=b0,lowerdir=b1:b2 -t fuse-overlayfs
           ls m; grep " $PWD/m " /proc/mounts | cut -d" " -f3; rm m/f; ls m; unionfs branches m | wc -l; fusermount3 -u m"#,
    );
    assert_eq!(seen, "f\ng\nfuse.fuse-overlayfs\ng\n3\n");
}

#[test]
fn containerd_checks_with_two_lowers_and_no_upper() {
    let scene = scene();
    let seen = scene.shell(
        r#"mount.fuse3 overlay "$PWD/m" -o "lowerdir=$PWD/b2:$PWD/b1" -t fuse-overlayfs; ls m; fusermount3 -u m"#,
    );
    assert_eq!(seen, "f\ng\n");
}

#[test]
fn mount_by_the_generic_helper_of_fuse() {
    let scene = scene();
    let seen = scene.shell(
        r#"rm /usr/sbin/mount.fuse.unionfs; mount -t fuse.unionfs NAME m -o "lowerdir=$PWD/b1"; ls m; umount m
           mount.fuse3 "unionfs#$PWD/b0=RW:$PWD/b1=RO" m; ls m; umount m"#,
    );
    assert_eq!(seen, "f\nf\n");
}

#[test]
fn unionfs_fuse_users_find_their_command_line() {
    let scene = scene();
    for line in [
        "unionfs -o cow,max_files=3000,hide_meta_files,use_ino,suid,dev b0=RW:b1=RO:b2=RO m",
        "unionfs-fuse -o cow b0=RW:b1=RO:b2=RO m",
        "unionfs -ocow -o allow_other b0=RW:b1:b2 m",
    ] {
        scene.ok(line);
        fs::write(scene.on("g"), "changed").unwrap();
        fs::remove_file(scene.on("f")).unwrap();
        let seen = ls(&scene.path("m"));
        scene.unmount();
        assert_eq!(seen, "g", "{line}");
        assert_eq!(fs::read_to_string(scene.path("b0/g")).unwrap(), "changed", "{line}");
        fs::remove_dir_all(scene.path("b0")).unwrap();
        fs::create_dir(scene.path("b0")).unwrap();
    }
}

#[test]
fn unionfs_fuse_branches_are_read_only_unless_they_say_otherwise() {
    let scene = scene();
    scene.ok("unionfs b1:b2 m");
    assert_eq!(fs::write(scene.on("new"), "x").unwrap_err().raw_os_error(), Some(libc::EROFS));
}

#[test]
fn unionfs_fuse_chroot_is_where_branches_are() {
    let scene = scene();
    let root = scene.path("");
    scene.ok(&format!("unionfs -o cow,chroot={} /b0=RW:/b1=RO m", root.display()));
    assert_eq!(ls(&scene.path("m")), "f");
}

#[test]
fn whiteouts_of_unionfs_fuse_are_warned_about() {
    let scene = Scene::new(&[".unionfs/f_HIDDEN~=", "f=one"]);
    let said = scene.ok("unionfs -o cow b0=RW:b1=RO m");
    assert!(said.lines().count() == 1 && said.contains("\"b0\"") && said.contains("not read"), "{said}");
}

#[test]
fn max_files_limits_the_server() {
    let scene = scene();
    scene.ok("unionfs -o cow,max_files=777 b0=RW:b1=RO m");
    let limits = fs::read_to_string(format!("/proc/{}/limits", scene.server_pids()[0])).unwrap();
    let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(line.split_whitespace().nth(3), Some("777"), "{line}");
}

/// Their paths together are much longer than the page that mount(2) takes as options and as a source.
#[test]
fn five_hundred_branches_mount_by_every_command_line() {
    let tree = TestTree::build(501, 1, |index, root| fs::write(root.join(format!("f{index}")), "").unwrap());
    let lower: Vec<_> = (1..=500).map(|at| tree.branch(at).display().to_string()).collect();
    let (lower, upper, work) = (lower.join(":"), tree.branch(0).display().to_string(), tree.beside("w"));
    let aufs = format!("br:{upper}=rw:{}=ro", lower.replace(':', "=ro:"));
    let overlay = format!("lowerdir={lower},upperdir={upper},workdir={}", work.display());
    let scene = Scene::over(tree);
    let at = scene.path("m");
    let at = at.display();
    fs::write(scene.path("fstab"), format!("none {at} unionfs {aufs} 0 0\n")).unwrap();
    assert!(lower.len() > 2 * 4096);
    for mount in [
        format!("mount -t unionfs -o {aufs} none m"),
        format!("mount -t unionfs -o {overlay} none m"),
        format!("mount -t fuse.unionfs -o {overlay} {lower} m"),
        format!("mount -T fstab {at}"),
        format!("unionfs mount -o {aufs} m"),
        format!("fuse-overlayfs -o {overlay} m"),
        format!("mount.fuse3 overlay {at} -o {overlay} -t fuse-overlayfs"),
        format!("unionfs -o cow {upper}=RW:{lower} m"),
    ] {
        // As a user's process has it: few now, and 20,000 if it asks.
        let seen = scene.shell(&format!(
            "ulimit -Sn 1024; ulimit -Hn 20000; {mount}; ls m | wc -l; unionfs branches m | wc -l; touch m/f500; rm m/f7; ls m | wc -l; umount m; rm {upper}/.wh.f7 2>/dev/null || rm {upper}/f7; rm {upper}/f500"
        ));
        assert_eq!(seen, "501\n501\n500\n", "{}", &mount[..40]);
    }
}
