//! Whatever an archive says, nothing outside of its layer is touched.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::archives::{Meta, Tar};
use crate::support::{World, names, run};

#[test]
fn name_with_dot_dot_is_refused() {
    for name in ["../canary", "../../canary", "a/../../canary", "a/../b", "/../canary", "a/..", ".."] {
        World::new().refused(&Tar::new().dir("a/").file(name, "evil").end(), &[&format!("{name:?}"), "`..`"]);
    }
}

#[test]
fn name_with_dot_dot_in_long_headers_is_refused() {
    let world = World::new();
    let long = format!("{}../../../canary", "a/".repeat(60));
    world.refused(&Tar::new().file(&long, "evil").end(), &["canary\"", "`..`"]);
    world.refused(
        &Tar::new().pax(&[("path", b"../canary")]).file("x", "evil").end(),
        &["\"../canary\"", "`..`"],
    );
}

#[test]
fn absolute_name_stays_inside() {
    let world = World::new();
    let canary = world.path("canary");
    let tree = world.taken(&Tar::new().file(canary.as_os_str().as_bytes(), "evil").end());
    assert_eq!(fs::read(tree.join(canary.strip_prefix("/").unwrap())).unwrap(), b"evil");
}

#[test]
fn file_through_symlink_to_the_outside_is_refused() {
    let world = World::new();
    let outside = world.dir.path().as_os_str().as_bytes().to_vec();
    for target in [&outside[..], b"../../../../..", b"/proc/self/root", b"..", b"nowhere"] {
        let tar = Tar::new().symlink("link", target);
        // `..` of the root is the root, as in a container; there the file may be.
        if target.ends_with(b"..") {
            let tree = world.taken(&tar.file("link/canary", "evil").end());
            assert_eq!(fs::read(tree.join("canary")).unwrap(), b"evil");
            world.store().remove("x", false).unwrap();
        } else {
            let words = ["\"link/canary\"", "parent \"link\"", "leads nowhere in this layer"];
            world.refused(&tar.file("link/canary", "evil").end(), &words);
        }
    }
}

#[test]
fn directory_through_symlink_to_the_outside_is_refused() {
    let world = World::new();
    let tar = Tar::new().symlink("link", world.path("canary.d").as_os_str().as_bytes());
    world.refused(&tar.clone().dir("link/made/").end(), &["\"link/made/\"", "leads nowhere"]);
    world.refused(&tar.dir("link/made/deeper/").end(), &["\"link/made/deeper/\"", "leads nowhere"]);
}

#[test]
fn chain_of_symlinks_to_the_outside_is_refused() {
    let world = World::new();
    let outside = world.dir.path().as_os_str().as_bytes().to_vec();
    let tar = Tar::new().dir("d/").symlink("d/a", "../b").symlink("b", "c").symlink("c", outside);
    world.refused(&tar.file("d/a/canary", "evil").end(), &["\"d/a/canary\"", "parent \"d/a\""]);
}

#[test]
fn loop_of_symlinks_is_refused() {
    let tar = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "evil");
    World::new().refused(&tar.end(), &["\"a/x\"", "loop"]);
}

#[test]
fn symlink_inside_of_the_layer_is_followed() {
    for target in ["usr/lib", "/usr/lib", "../../usr/lib"] {
        let world = World::new();
        let tar = Tar::new().dir("usr/").dir("usr/lib/").symlink("lib", target).file("lib/libc.so", "c");
        let tree = world.taken(&tar.file("lib/deeper/still", "d").end());
        assert_eq!(fs::read(tree.join("usr/lib/libc.so")).unwrap(), b"c", "{target}");
        assert_eq!(fs::read(tree.join("usr/lib/deeper/still")).unwrap(), b"d", "{target}");
    }
}

#[test]
fn hard_link_to_the_outside_is_refused() {
    let world = World::new();
    let canary = world.path("canary").to_str().unwrap().to_owned();
    let link = |target: &str| Tar::new().hard_link("link", target).end();
    world.refused(&link(&canary), &["\"link\"", "not in this layer"]);
    world.refused(&link("../../../canary"), &["\"link\"", "`..`"]);
    world.refused(&link("/etc/passwd"), &["\"link\"", "\"/etc/passwd\""]);
    let outside = world.dir.path().to_str().unwrap();
    let through = Tar::new().symlink("out", outside).hard_link("link", "out/canary").file("link", "evil");
    world.refused(&through.end(), &["\"link\"", "\"out/canary\"", "not in this layer"]);
}

#[test]
fn hard_link_to_a_symlink_is_not_followed() {
    let world = World::new();
    let canary = world.path("canary").to_str().unwrap().to_owned();
    let tar = Tar::new().symlink("out", &canary).hard_link("link", "out");
    let tree = world.taken(&tar.clone().end());
    assert_eq!(fs::read_link(tree.join("link")).unwrap().to_str(), Some(canary.as_str()));
    // Content for either of the names replaces it.
    let tree = world.taken(&tar.file("link", "evil").end());
    assert_eq!(fs::read(tree.join("link")).unwrap(), b"evil");
}

#[test]
fn hard_link_to_a_directory_or_to_nothing_is_refused() {
    let world = World::new();
    world.refused(&Tar::new().dir("d/").hard_link("link", "d").end(), &["\"link\"", "a directory"]);
    world.refused(&Tar::new().hard_link("link", "/").end(), &["\"link\"", "a directory"]);
    world
        .refused(&Tar::new().hard_link("link", "later").file("later", "x").end(), &["\"link\"", "\"later\""]);
    world.refused(
        &Tar::new().file("f", "").hard_link("link", "f/x").end(),
        &["\"link\"", "\"f\"", "not a directory"],
    );
    // The place it is to take is that of its target's directory.
    world.refused(&Tar::new().file("d/f", "x").hard_link("d", "d/f").end(), &["\"d\"", "\"d/f\""]);
}

#[test]
fn hard_link_to_itself_is_kept() {
    let world = World::new();
    let tar = Tar::new().file("a", "text").hard_link("a", "a").hard_link("b", "./a").hard_link("b", "a");
    let tree = world.taken(&tar.hard_link("a", "b").end());
    assert_eq!(fs::read(tree.join("a")).unwrap(), b"text");
    assert_eq!(fs::metadata(tree.join("b")).unwrap().nlink(), 2);
}

#[test]
fn file_over_symlink_replaces_it() {
    let world = World::new();
    let canary = world.path("canary");
    let tar = Tar::new().symlink("f", canary.as_os_str().as_bytes()).file("f", "evil");
    let tree = world.taken(&tar.end());
    assert!(fs::symlink_metadata(tree.join("f")).unwrap().is_file());
    assert_eq!(fs::read(tree.join("f")).unwrap(), b"evil");
}

#[test]
fn directory_over_symlink_replaces_it_and_its_mode_does_not_go_through() {
    let world = World::new();
    let outside = world.path("canary.d");
    let open = Meta { mode: 0o777, uid: 12345, ..Meta::default() };
    let tar = Tar::new().symlink("d", outside.as_os_str().as_bytes()).entry(b'5', b"d", b"", open, b"");
    let tree = world.taken(&tar.file("d/file", "evil").end());
    assert!(fs::symlink_metadata(tree.join("d")).unwrap().is_dir());
    assert_eq!(fs::read(tree.join("d/file")).unwrap(), b"evil");
}

#[test]
fn special_over_symlink_replaces_it() {
    let world = World::new();
    let canary = world.path("canary");
    let link = || Tar::new().symlink("x", canary.as_os_str().as_bytes());
    for flag in [b'6', b'3', b'2'] {
        let tree = world.taken(
            &link().entry(flag, b"x", b"target", Meta { device: (1, 3), ..Meta::default() }, b"").end(),
        );
        assert_ne!(fs::read_link(tree.join("x")).ok().as_deref(), Some(canary.as_path()));
    }
}

#[test]
fn file_where_a_directory_was_replaces_all_of_it() {
    let world = World::new();
    let tar = Tar::new()
        .file("d/sub/f", "first")
        .hard_link("keep", "d/sub/f")
        .file("d/g", "second")
        .file("d", "third");
    let tree = world.taken(&tar.end());
    assert_eq!(names(&tree), [&b"d"[..], b"keep"]);
    assert_eq!(fs::read(tree.join("d")).unwrap(), b"third");
    assert_eq!(fs::read(tree.join("keep")).unwrap(), b"first");
}

#[test]
fn directory_where_a_file_was_replaces_it() {
    let world = World::new();
    let tree = world.taken(&Tar::new().file("d", "first").dir("d/").file("d/f", "second").end());
    assert_eq!(fs::read(tree.join("d/f")).unwrap(), b"second");
}

#[test]
fn directory_over_directory_keeps_what_is_in_it() {
    let world = World::new();
    let closed = Meta { mode: 0o500, ..Meta::default() };
    let tree =
        world.taken(&Tar::new().file("d/f", "x").entry(b'5', b"d/", b"", closed, b"").file("d/g", "y").end());
    assert_eq!(names(&tree.join("d")), [b"f", b"g"]);
    assert_eq!(fs::metadata(tree.join("d")).unwrap().mode() & 0o7777, 0o500);
}

#[test]
fn file_below_a_file_is_refused() {
    World::new().refused(
        &Tar::new().file("a", "").file("a/b", "").end(),
        &["\"a/b\"", "parent \"a\"", "not a directory"],
    );
}

#[test]
fn last_of_several_entries_wins() {
    let world = World::new();
    let tar = Tar::new()
        .file("f", "first")
        .file("./f", "second, longer")
        .file("/f", "3")
        .hard_link("g", "f")
        .file("f", "");
    let tree = world.taken(&tar.end());
    assert_eq!(
        (fs::read(tree.join("f")).unwrap(), fs::read(tree.join("g")).unwrap()),
        (vec![], b"3".to_vec())
    );
}

#[test]
fn file_over_a_fifo_or_device_is_not_written_into_it() {
    let world = World::new();
    for flag in [b'6', b'3'] {
        // Opening a fifo for writing would wait for ever.
        let null = Meta { device: (1, 3), ..Meta::default() };
        let tree = world.taken(&Tar::new().entry(flag, b"p", b"", null, b"").file("p", "text").end());
        assert_eq!(fs::read(tree.join("p")).unwrap(), b"text");
    }
}

#[test]
fn symlink_replaced_by_a_directory_later_leads_nowhere_any_more() {
    let world = World::new();
    let tar =
        Tar::new().dir("real/").symlink("way", "real").file("way/a", "1").dir("way/").file("way/b", "2");
    let tree = world.taken(&tar.end());
    assert_eq!(
        (names(&tree.join("real")), names(&tree.join("way"))),
        (vec![b"a".to_vec()], vec![b"b".to_vec()])
    );
}

#[test]
fn directory_replaced_by_a_symlink_sends_later_entries_along() {
    let world = World::new();
    let tar = Tar::new().file("way/a", "1").dir("real/").symlink("way", "real").file("way/b", "2");
    let tree = world.taken(&tar.end());
    assert_eq!(names(&tree.join("real")), [b"b"]);
    let tar = Tar::new().file("way/a", "1").symlink("way", "/canary.d").file("way/file", "evil");
    let world = World::new();
    world.refused(&tar.end(), &["\"way/file\"", "parent \"way\""]);
}

#[test]
fn whiteouts_and_names_like_them_are_kept_as_files() {
    let world = World::new();
    let odd = [
        "f/.wh.",
        "f/.wh..",
        "f/.wh...",
        "f/.wh..wh.",
        "f/.wh..wh..opq",
        "f/.wh..wh.aufs",
        "f/.wh.a\nb",
        "f/.wh..wh..wh.x",
    ];
    let tar = odd.iter().fold(Tar::new().dir("f/"), |tar, name| tar.file(name, ""));
    let tar = tar.file(".wh.gone", "").file(".wh..wh..opq", "").hard_link("f/.wh.linked", "f/.wh..wh.aufs");
    let tree = world.taken(&tar.dir(".wh..wh.plnk/").file(".wh..wh.plnk/1.2", "x").end());
    for name in odd {
        assert!(fs::symlink_metadata(tree.join(name)).unwrap().is_file(), "{name:?}");
    }
    assert_eq!(names(&tree), [&b".wh..wh..opq"[..], b".wh..wh.plnk", b".wh.gone", b"f"]);
    assert_eq!(fs::metadata(tree.join("f/.wh.linked")).unwrap().nlink(), 2);
}

#[test]
fn whiteout_name_leads_to_no_parent() {
    let world = World::new();
    world.refused(
        &Tar::new().file(".wh.../x", "").file("a", "").file(".wh.../../../canary", "").end(),
        &["`..`"],
    );
}

#[test]
fn odd_names_are_kept_byte_for_byte() {
    let world = World::new();
    let long = [b'x'; 255];
    let odd =
        [&b"new\nline"[..], b"\xff\xfe not UTF-8", b" ", b"\\", b"...", b"-rf", b"\x1b[31m", b"a:b", &long];
    let tree = world.taken(&odd.iter().fold(Tar::new(), |tar, name| tar.file(name, "")).end());
    let mut want: Vec<_> = odd.iter().map(|name| name.to_vec()).collect();
    want.sort();
    assert_eq!(names(&tree), want);
}

#[test]
fn names_too_long_are_refused() {
    let world = World::new();
    world.refused(&Tar::new().file([b'x'; 256], "").end(), &["xxx\"", "longer than 255"]);
    world.refused(&Tar::new().file("a/".repeat(2048) + "a", "").end(), &["a/a\"", "longer than 4095"]);
    world
        .refused(&Tar::new().symlink("link", "a/".repeat(2048) + "a").end(), &["\"link\"", "cannot make it"]);
}

#[test]
fn names_that_are_no_names_are_refused() {
    let world = World::new();
    world.refused(&Tar::new().pax(&[("path", b"a\0b")]).file("x", "").end(), &["\"a\\0b\"", "NUL"]);
    world.refused(&Tar::new().pax(&[("linkpath", b"a\0b")]).symlink("x", "y").end(), &["\"x\"", "NUL"]);
    world.refused(&Tar::new().symlink("x", "").end(), &["\"x\"", "no name at all"]);
    for root in ["", "/", ".", "./."] {
        world.refused(
            &Tar::new().file(root, "").end(),
            &[&format!("{root:?}"), "only a directory can be the root"],
        );
        world.refused(&Tar::new().symlink(root, "/").end(), &["only a directory can be the root"]);
    }
    World::new().taken(&Tar::new().dir("./").dir("/").dir("").end());
}

#[test]
fn terminal_codes_in_names_are_escaped_in_errors() {
    let output = World::new().uctr_with(&["import", "-", "x"], &Tar::new().file("\x1b[2J/..", "").end());
    assert!(!output.err.contains('\x1b'));
    output.fails(&["\\u{1b}[2J/.."]);
}

#[test]
fn deep_tree_costs_no_descriptors() {
    let world = World::new();
    let deep = "d/".repeat(1000);
    let tar = Tar::new()
        .file(format!("{deep}f"), "x")
        .file(format!("{deep}g"), "")
        .file("d", "replaced")
        .file(format!("e/{deep}f"), "y");
    let path = world.dir.path().join("deep/er/deep.tar");
    fs::write(&path, tar.end()).unwrap();
    let uctr = env!("CARGO_BIN_EXE_uctr");
    let script = r#"ulimit -n 40 && "$0" --root "$1" import "$2" x && "$0" --root "$1" save -o "$2.saved" x && "$0" --root "$1" rmi x"#;
    run(Command::new("sh").args(["-c", script, uctr]).arg(world.root()).arg(&path), b"").ok();
    let saved = fs::read(world.dir.path().join("deep/er/deep.tar.saved")).unwrap();
    let layer =
        crate::support::members(&saved).into_iter().find(|(name, _)| name.ends_with(".tar")).unwrap().1;
    assert!(layer == fs::read(&path).unwrap());
    assert_eq!(names(&world.root().join("layers")), [b""; 0]);
}
