//! What an archive says of owners, modes, times, xattrs, devices, links and holes is what the layer has.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use crate::archives::{Meta, Tar};
use crate::support::{World, names, run, xattr};

fn ids(path: &Path) -> (u32, u32, u32, i64) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.mode() & 0o7777, meta.uid(), meta.gid(), meta.mtime())
}

#[test]
fn owners_modes_and_times_of_all_kinds() {
    let world = World::new();
    let meta = |mode, mtime| Meta { mode, uid: 1234, gid: 5678, mtime, ..Meta::default() };
    let tar = Tar::new()
        .entry(b'5', b"./", b"", meta(0o751, 1), b"")
        .entry(b'5', b"tmp/", b"", meta(0o1777, 2), b"")
        .entry(b'5', b"group/", b"", meta(0o2750, 3), b"")
        .entry(b'0', b"group/suid", b"", meta(0o6755, 4), b"x")
        .entry(b'0', b"tmp/none", b"", meta(0, 5), b"")
        .entry(b'2', b"tmp/link", b"nowhere", meta(0o777, 6), b"")
        .entry(b'6', b"tmp/fifo", b"", meta(0o622, 7), b"")
        .entry(b'3', b"tmp/null", b"", Meta { device: (1, 3), ..meta(0o666, 8) }, b"")
        .entry(b'4', b"tmp/disk", b"", Meta { device: (259, 70_000), ..meta(0o660, 9) }, b"")
        .entry(0, b"tmp/oldest", b"", meta(0o600, 10), b"v7")
        .entry(0, b"olddir/", b"", meta(0o711, 11), b"");
    let tree = world.taken(&tar.end());
    for (name, mode, mtime) in [
        (".", 0o751, 1),
        ("tmp", 0o1777, 2),
        ("group", 0o2750, 3),
        ("group/suid", 0o6755, 4),
        ("tmp/none", 0, 5),
        ("tmp/link", 0o777, 6),
        ("tmp/fifo", 0o622, 7),
        ("tmp/null", 0o666, 8),
        ("tmp/disk", 0o660, 9),
        ("tmp/oldest", 0o600, 10),
        ("olddir", 0o711, 11),
    ] {
        assert_eq!(ids(&tree.join(name)), (mode, 1234, 5678, mtime), "{name}");
    }
    let device = |name: &str| fs::symlink_metadata(tree.join(name)).unwrap();
    assert!(device("tmp/fifo").file_type().is_fifo() && device("tmp/null").file_type().is_char_device());
    assert!(device("tmp/disk").file_type().is_block_device() && device("olddir").is_dir());
    assert_eq!(device("tmp/null").rdev(), rustix::fs::makedev(1, 3));
    assert_eq!(device("tmp/disk").rdev(), rustix::fs::makedev(259, 70_000));
}

#[test]
fn times_finer_than_a_second_and_before_1970() {
    let world = World::new();
    let tar = Tar::new()
        .pax(&[("mtime", b"1700000000.123456789"), ("atime", b"1600000000.5")])
        .file("fine", "")
        .pax(&[("mtime", b"-1.25")])
        .file("old", "");
    let tree = world.taken(&tar.end());
    let fine = fs::metadata(tree.join("fine")).unwrap();
    assert_eq!((fine.mtime(), fine.mtime_nsec()), (1_700_000_000, 123_456_789));
    assert_eq!((fine.atime(), fine.atime_nsec()), (1_600_000_000, 500_000_000));
    let old = fs::metadata(tree.join("old")).unwrap();
    assert_eq!((old.mtime(), old.mtime_nsec()), (-2, 750_000_000));
}

#[test]
fn directories_nobody_speaks_of_are_root_0755_whatever_the_umask() {
    let world = World::new();
    let archive = world.dir.path().join("deep/er/x.tar");
    fs::write(&archive, Tar::new().file("a/b/c", "x").end()).unwrap();
    let script = r#"umask 077; "$0" --root "$1" import "$2" x"#;
    run(
        Command::new("sh").args(["-c", script, env!("CARGO_BIN_EXE_uctr")]).arg(world.root()).arg(&archive),
        b"",
    )
    .ok();
    let tree = world.store().resolve("x").unwrap().layers[0].path.clone();
    for name in ["a", "a/b"] {
        assert_eq!(ids(&tree.join(name)), (0o755, 0, 0, 1_000_000_000), "{name}");
    }
    assert_eq!(ids(&tree.join("a/b/c")), (0o644, 0, 0, 1_000_000_000));
    assert_eq!(ids(&tree).0, 0o755);
    // Set-user-ID programs of strangers are out of reach of this machine's users.
    assert_eq!(ids(&world.root().join("layers")).0, 0o700);
}

#[test]
fn xattrs_but_not_the_marks_of_unions() {
    let world = World::new();
    // cap_net_raw+ep, version 2; its bytes hold a newline's like any.
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let tar = Tar::new()
        .pax(&[
            ("SCHILY.xattr.user.text", b"two\nlines = \0\xff"),
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.user.fuseoverlayfs.opaque", b"y"),
            ("SCHILY.xattr.user.containers.override_stat", b"0:0:04755"),
        ])
        .entry(b'0', b"file", b"", Meta { uid: 1000, mode: 0o755, ..Meta::default() }, b"x")
        .pax(&[("SCHILY.xattr.user.dir", b"d"), ("SCHILY.xattr.trusted.mine", b"t")])
        .dir("dir/")
        .pax(&[("SCHILY.xattr.trusted.link", b"l"), ("SCHILY.xattr.user.impossible", b"i")])
        .symlink("link", "nowhere");
    let tree = world.taken(&tar.end());
    let of = |name: &str, attribute| xattr(&tree.join(name), attribute);
    assert_eq!(of("file", "user.text").as_deref(), Some(&b"two\nlines = \0\xff"[..]));
    assert_eq!(of("file", "security.capability").as_deref(), Some(&capability[..]), "lost to the new owner");
    assert_eq!(of("dir", "user.dir").as_deref(), Some(&b"d"[..]));
    assert_eq!(of("dir", "trusted.mine").as_deref(), Some(&b"t"[..]));
    assert_eq!(of("link", "trusted.link").as_deref(), Some(&b"l"[..]));
    let marks = [
        "trusted.overlay.opaque",
        "user.overlay.redirect",
        "user.fuseoverlayfs.opaque",
        "user.containers.override_stat",
    ];
    for mark in marks {
        assert_eq!(of("file", mark), None, "{mark}");
    }
}

#[test]
fn hard_links_are_links() {
    let world = World::new();
    let tar = Tar::new().file("a", "x").hard_link("d/b", "a").hard_link("/c", "/d/b").entry(
        b'6',
        b"fifo",
        b"",
        Meta::default(),
        b"",
    );
    let tree = world.taken(&tar.hard_link("fifo2", "fifo").end());
    let inode = |name: &str| fs::metadata(tree.join(name)).unwrap().ino();
    assert_eq!((inode("a"), inode("a"), inode("fifo")), (inode("d/b"), inode("c"), inode("fifo2")));
    let store = world.store();
    assert_eq!(store.images().unwrap()[0].size, 1, "content counts once");
}

/// Files with holes at the start, in the middle, at the end, everywhere, and so many that maps must be continued.
#[test]
fn holes_in_all_forms_that_tar_writes() {
    let mut world = World::new();
    let source = world.path("source");
    fs::create_dir_all(&source).unwrap();
    for (name, stretches, size) in [
        ("start", vec![(1 << 20, 10)], (1 << 20) + 10),
        ("middle", vec![(0, 5000), (1 << 20, 5000)], (1 << 20) + 5000),
        ("end", vec![(0, 10)], 1 << 20),
        ("all", vec![], 1 << 20),
        ("many", (0..60).map(|at| (at * 65536, 4096)).collect(), 60 * 65536),
    ] {
        let file = fs::File::create(source.join(name)).unwrap();
        for (at, len) in stretches {
            std::os::unix::fs::FileExt::write_all_at(&file, &vec![b'x'; len], at).unwrap();
        }
        file.set_len(size).unwrap();
    }
    world.accept();
    for form in [
        "--format=gnu",
        "--format=pax --sparse-version=0.0",
        "--format=pax --sparse-version=0.1",
        "--format=pax --sparse-version=1.0",
    ] {
        let mut tar = Command::new("tar");
        let archive = world.path("deep/er/store.tar");
        tar.args(form.split(' '))
            .arg("-S")
            .arg("-C")
            .arg(&source)
            .arg("-cf")
            .arg(&archive)
            .args([".", "--owner=0"]);
        run(&mut tar, b"").ok();
        let bytes = fs::read(&archive).unwrap();
        fs::remove_file(&archive).unwrap();
        assert!(bytes.len() < 1 << 20, "{form}: the test's own archive has no holes");
        let tree = world.taken(&bytes);
        assert_eq!(names(&tree).len(), 5, "{form}");
        for name in ["start", "middle", "end", "all", "many"] {
            let (ours, theirs) = (tree.join(name), source.join(name));
            assert!(fs::read(&ours).unwrap() == fs::read(&theirs).unwrap(), "{form}: {name}");
            let blocks = |path| fs::metadata(path).unwrap().blocks();
            assert!(blocks(&ours) <= blocks(&theirs) + 8, "{form}: {name} lost its holes");
        }
    }
}

#[test]
fn user_with_one_identifier_keeps_what_he_may_not_give_in_an_xattr() {
    let user = |world: &World, args: &[&str]| {
        let uctr = world.path("uctr");
        let mut command = Command::new("setpriv");
        command.args(["--reuid=54321", "--regid=54321", "--clear-groups", "--inh-caps=-all"]).arg(uctr);
        run(command.arg("--root").arg(world.path("home/store")).args(args), b"")
    };
    let mut world = World::new();
    let everyone = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode(0o755);
    fs::set_permissions(world.dir.path(), everyone).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_uctr"), world.path("uctr")).unwrap();
    fs::create_dir(world.path("home")).unwrap();
    std::os::unix::fs::chown(world.path("home"), Some(54321), Some(54321)).unwrap();
    let meta = |mode, uid| Meta { mode, uid, gid: uid, ..Meta::default() };
    let null = Meta { device: (1, 3), ..meta(0o666, 0) };
    let archive = Tar::new()
        .entry(b'5', b"closed/", b"", meta(0o500, 0), b"")
        .entry(b'0', b"closed/other", b"", meta(0o4755, 33), b"x")
        .entry(b'0', b"none", b"", meta(0, 0), b"secret")
        .entry(b'0', b"plain", b"", meta(0o644, 0), b"y")
        .entry(b'0', b"himself", b"", meta(0o644, 54321), b"y")
        .entry(b'3', b"null", b"", null, b"")
        .entry(b'2', b"link", b"plain", meta(0o777, 33), b"")
        .end();
    world.put("x.tar", &archive);
    user(&world, &["import", world.path("x.tar").to_str().unwrap(), "x"]).ok();
    let format = ["image", "inspect", "-f", "{{.GraphDriver.Data.LowerDir}}", "x"];
    let tree = user(&world, &format).ok();
    let tree = Path::new(tree.trim_end());
    for (name, kept, mode) in [
        ("closed", None, 0o500),
        ("closed/other", Some("33:33:4755"), 0o4755),
        ("none", None, 0),
        ("plain", None, 0o644),
        ("himself", Some("54321:54321:644"), 0o644),
        ("null", Some("0:0:666:char-1-3"), 0o666),
        ("link", None, 0o777),
    ] {
        let found = xattr(&tree.join(name), "user.containers.override_stat");
        assert_eq!(found.as_deref(), kept.map(str::as_bytes), "{name}");
        assert_eq!(ids(&tree.join(name)).0, mode, "{name}");
    }
    user(&world, &["save", "-o", world.path("home/saved.tar").to_str().unwrap(), "x"]).ok();
    let saved = crate::support::members(&fs::read(world.path("home/saved.tar")).unwrap());
    assert!(saved.values().any(|member| *member == archive), "save gives another archive than was imported");
    user(&world, &["rmi", "x"]).ok();
    assert_eq!(names(&world.path("home/store/layers")), [b""; 0]);
    assert_eq!(names(&world.path("home/store/tmp")), [b""; 0]);
    world.accept();
}

#[test]
fn root_of_a_user_namespace_gives_the_owners_it_has() {
    let world = World::new();
    let meta = |uid| Meta { uid, gid: uid, ..Meta::default() };
    let null = Meta { device: (1, 3), ..meta(0) };
    let archive = Tar::new()
        .entry(b'0', b"mapped", b"", meta(0), b"")
        .entry(b'0', b"unmapped", b"", meta(33), b"")
        .entry(b'3', b"null", b"", null, b"")
        .end();
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", env!("CARGO_BIN_EXE_uctr"), "--root"]).arg(world.root());
    run(unshare.args(["import", "-", "x"]), &archive).ok();
    let tree = world.store().resolve("x").unwrap().layers[0].path.clone();
    let kept = |name: &str| xattr(&tree.join(name), "user.containers.override_stat");
    assert_eq!(kept("mapped"), None);
    assert_eq!(kept("unmapped").as_deref(), Some(&b"33:33:644"[..]));
    assert_eq!(kept("null").as_deref(), Some(&b"0:0:644:char-1-3"[..]));
}
