//! Several writable branches, live changes of the list, and changes behind the union's back.

use std::fs::{self, File};
use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::branches::{TestTree, ls};
use crate::support::mount::{TestMount, run};

/// A tree whose branches may all change, mounted with a list of its own.
fn loose(branches: &[&str], perms: &[&str], options: &str) -> TestMount {
    let tree = TestTree::loose(branches);
    let list: Vec<_> =
        perms.iter().enumerate().map(|(at, perm)| format!("{}={perm}", tree.branch(at).display())).collect();
    let option = format!("dirs={},{options}", list.join(":"));
    TestMount::over(tree, &["-o", &option])
}

fn change(c: &TestMount, words: &[&str]) -> Result<(), String> {
    let root = c.root();
    let mut args = vec![words[0], root.to_str().unwrap()];
    args.extend(&words[1..]);
    let output = run(&args);
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// Waits for what the server tells the kernel from a thread of its own.
fn soon(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn create_policies_place_new_objects() {
    for (policy, first, second) in [("tdp", "a b c d", ""), ("ff", "a b c d", ""), ("rr", "a c", "b d")] {
        let c = loose(&["", "", "low=1"], &["rw", "rw", "ro+wh"], &format!("create={policy}"));
        for name in ["a", "b", "c", "d"] {
            fs::write(c.path(name), name).unwrap();
        }
        assert_eq!(ls(&c.root()), "a b c d low", "{policy}");
        let names = |at: usize| crate::support::branches::visible(c.tree().branch(at));
        assert_eq!((names(0), names(1)), (first.into(), second.into()), "{policy}");
    }
}

#[test]
fn tdp_prefers_the_branch_that_has_the_parent() {
    let c = loose(&["", "d/x=1"], &["rw", "rw"], "create=tdp");
    fs::write(c.path("d/new"), "").unwrap();
    assert!(c.tree().branch(1).join("d/new").exists() && !c.upper("d").exists());
}

#[test]
fn a_whiteout_or_opaque_directory_above_wins_over_every_policy() {
    let c = loose(&[".wh.gone= d/.wh..wh..opq=", "gone=1 d/old=1"], &["rw", "rw"], "create=rr");
    for round in 0..4 {
        fs::write(c.path("gone"), "again").unwrap();
        assert_eq!(c.read("gone"), "again", "round {round}");
        fs::remove_file(c.path("gone")).unwrap();
        assert!(!c.path("gone").exists(), "round {round}");
        fs::write(c.path(format!("d/{round}")), "").unwrap();
    }
    assert_eq!(ls(&c.path("d")), "0 1 2 3");
}

#[test]
fn names_of_several_writable_branches_are_removed_and_renamed() {
    let mut c = loose(&["f=top", "f=middle d/y=1", "f=low d/z=1"], &["rw", "rw", "ro+wh"], "");
    fs::remove_file(c.path("f")).unwrap();
    fs::rename(c.path("d"), c.path("e")).unwrap();
    for round in ["at once", "after a remount"] {
        assert_eq!((ls(&c.root()), ls(&c.path("e"))), ("e".into(), "y z".into()), "{round}");
        c.remount();
    }
}

#[test]
fn a_file_that_finds_its_branch_full_moves_on_when_asked() {
    let tree = TestTree::loose(&["", "", "low/f=1"]);
    for (at, size) in [(0, "size=1M"), (1, "size=16M")] {
        let data = std::ffi::CString::new(size).unwrap();
        mount("small", tree.branch(at), "tmpfs", MountFlags::empty(), Some(data.as_c_str())).unwrap();
    }
    let (small, large) = (tree.branch(0).to_owned(), tree.branch(1).to_owned());
    let list = format!("{}=rw:{}=rw:{}=ro+wh", small.display(), large.display(), tree.branch(2).display());
    // Only what comes as a message can be moved.
    let option = format!("dirs={list},create=ff,moveonenospc,io=stateless");
    let c = TestMount::over(tree, &["-o", &option]);
    let content: Vec<u8> = (0..4_000_000_u32).flat_map(u32::to_le_bytes).take(4 << 20).collect();
    fs::write(c.path("big"), &content[..1000]).unwrap();
    assert!(small.join("big").exists());
    let before = fs::metadata(c.path("big")).unwrap();
    fs::write(c.path("big"), &content).unwrap();
    assert_eq!(fs::read(c.path("big")).unwrap(), content);
    assert!(large.join("big").exists() && !small.join("big").exists());
    let after = fs::metadata(c.path("big")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(before.ino(), after.ino());
    drop(c);
    for branch in [&small, &large] {
        unmount(branch, UnmountFlags::DETACH).ok();
    }
}

/// The kernel knew it by the same number and the same size, and went on showing the copy's pages.
#[test]
fn a_file_whose_copy_goes_with_its_branch_shows_what_lies_below() {
    let c = loose(&["", "f=below g=>f"], &["rw", "ro"], "udba=none");
    fs::write(c.path("f"), "above").unwrap();
    // The other name keeps the inode in the kernel's memory.
    assert_eq!((c.read("f"), c.read("g")), ("above".into(), "above".into()));
    change(&c, &["del", &text(c.tree().branch(0))]).unwrap();
    assert_eq!(c.read("f"), "below");
}

#[test]
fn branches_are_added_and_removed_while_mounted() {
    let tree = TestTree::new(&["", "f=old d/x=1 only=1"]);
    let extra = tree.beside("extra");
    fs::create_dir_all(extra.join("d")).unwrap();
    for (name, content) in [("f", "new"), ("new", "new"), ("d/y", "new")] {
        fs::write(extra.join(name), content).unwrap();
    }
    let c = TestMount::over(tree, &[]);
    assert!(!c.path("new").exists());
    let mut old = File::open(c.path("f")).unwrap();

    change(&c, &["add", "1", &text(&extra)]).unwrap();
    assert_eq!(
        (ls(&c.root()), ls(&c.path("d")), c.read("f")),
        ("d f new only".into(), "x y".into(), "new".into())
    );
    let mut content = String::new();
    old.read_to_string(&mut content).unwrap();
    assert_eq!(content, "old", "an open file stays what it was");
    let listed = String::from_utf8(run(&["branches", c.root().to_str().unwrap()]).stdout).unwrap();
    let extra_line = format!("{}=ro+wh", extra.display());
    assert_eq!(listed.lines().nth(1), Some(extra_line.as_str()));

    fs::write(c.path("d/y"), "changed").unwrap();
    change(&c, &["del", &text(&extra)]).unwrap();
    assert_eq!(
        (ls(&c.root()), ls(&c.path("d")), c.read("f")),
        ("d f only".into(), "x y".into(), "old".into())
    );
    assert_eq!(fs::read_to_string(extra.join("d/y")).unwrap(), "new", "a lower branch is never written");
}

/// With more directories below than the server keeps open.
#[test]
fn five_hundred_branches_are_one_tree_and_change_while_mounted() {
    const DIRS: usize = 10;
    let tree = TestTree::build(501, 1, |index, root| {
        for dir in 0..DIRS {
            fs::create_dir(root.join(format!("d{dir}"))).unwrap();
        }
        fs::write(root.join(format!("d{}/f{index}", index % DIRS)), format!("of {index}")).unwrap();
        fs::write(root.join("all"), format!("of {index}")).unwrap();
    });
    let extra = tree.beside("extra");
    fs::create_dir_all(extra.join("d0")).unwrap();
    fs::write(extra.join("d0/extra"), "extra").unwrap();
    fs::write(extra.join("all"), "of extra").unwrap();
    let mut c = TestMount::over(tree, &[]);
    let branches = |c: &TestMount| {
        let listed = String::from_utf8(run(&["branches", c.root().to_str().unwrap()]).stdout).unwrap();
        listed.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let count = |c: &TestMount, dir: usize| fs::read_dir(c.path(format!("d{dir}"))).unwrap().count();
    let walk = |c: &TestMount| (0..DIRS).map(|dir| count(c, dir)).sum::<usize>();
    assert_eq!((walk(&c), c.read("all"), c.read("d9/f499")), (501, "of 0".into(), "of 499".into()));
    fs::write(c.path("d0/f500"), "changed").unwrap();
    fs::remove_dir_all(c.path("d1")).unwrap();
    fs::rename(c.path("d2"), c.path("d2-moved")).unwrap();
    assert_eq!(ls(&c.path("d2-moved")).split(' ').count(), 50);
    fs::rename(c.path("d2-moved"), c.path("d2")).unwrap();

    // At the bottom and under the top, where it is seen and where it is hidden.
    for (place, all) in [("1", "of 0"), ("501", "of 0"), ("0", "of extra")] {
        change(&c, &["add", place, &text(&extra)]).unwrap();
        assert_eq!(
            (branches(&c).len(), c.read("d0/extra"), c.read("all")),
            (502, "extra".into(), all.into())
        );
        assert_eq!(branches(&c)[place.parse::<usize>().unwrap()], format!("{}=ro+wh", extra.display()));
        change(&c, &["del", &text(&extra)]).unwrap();
        assert!(branches(&c).len() == 501 && !c.path("d0/extra").exists());
    }
    c.remount();
    fs::create_dir(c.path("d1")).unwrap();
    assert_eq!((walk(&c), c.read("d0/f500")), (451, "changed".into()));
}

#[test]
fn a_branch_in_use_is_not_removed() {
    let c = TestMount::new(&["", "mine=1", "other=1"]);
    let branch = text(&c.lower(""));
    let open = File::open(c.path("mine")).unwrap();
    let refusal = change(&c, &["del", &branch]).expect_err("in use");
    assert!(
        refusal.contains("/mine is open") && refusal.contains(&std::process::id().to_string()),
        "{refusal}"
    );
    assert_eq!(ls(&c.root()), "mine other");
    drop(open);
    change(&c, &["del", &branch]).unwrap();
    assert_eq!(ls(&c.root()), "other");
}

#[test]
fn permissions_of_branches_change_while_mounted() {
    let c = loose(&["", "low=1"], &["rw", "ro+wh"], "");
    let branch = text(c.tree().branch(0));
    change(&c, &["mod", &format!("{branch}=ro")]).unwrap();
    let refused = fs::write(c.path("new"), "").expect_err("read-only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    change(&c, &["mod", &format!("{branch}=rw")]).unwrap();
    fs::write(c.path("new"), "").unwrap();
    let writing = File::options().write(true).open(c.path("new")).unwrap();
    let refusal = change(&c, &["mod", &format!("{branch}=ro")]).expect_err("in use");
    assert!(refusal.contains("open for writing"), "{refusal}");
    drop(writing);
}

#[test]
fn bad_changes_are_refused_and_change_nothing() {
    let c = TestMount::new(&["", "low=1"]);
    let branch = text(&c.lower(""));
    for (words, named) in [
        (&["del", "/nonexistent"][..], "/nonexistent"),
        (&["add", "9", "/tmp"], "place 9"),
        (&["add", "1", "/nonexistent"], "/nonexistent"),
        (&["add", "1", &branch], "branch"),
        (&["add", "0", "/=rx"], "rx"),
    ] {
        let refusal = change(&c, words).expect_err(named);
        assert!(refusal.contains(named) && refusal.lines().count() == 1, "{words:?}: {refusal}");
        assert_eq!(ls(&c.root()), "low");
    }
}

#[test]
fn changes_behind_the_unions_back_are_seen() {
    for udba in ["reval", "notify"] {
        let c = loose(&["", "d/f=1"], &["rw", "ro+wh"], &format!("udba={udba}"));
        assert_eq!(
            (ls(&c.path("d")), c.path("d/new").exists(), c.path("dir").exists()),
            ("f".into(), false, false)
        );
        assert_eq!(c.read("d/f"), "1");

        assert_eq!(ls(&c.root()), "d");
        fs::write(c.lower("beside"), "").unwrap();
        soon(udba, || ls(&c.root()) == "beside d");
        fs::write(c.lower("d/new"), "new").unwrap();
        soon(udba, || c.path("d/new").exists() && ls(&c.path("d")) == "f new");
        fs::write(c.lower("d/new"), "another").unwrap();
        soon(udba, || c.read("d/new") == "another");
        fs::remove_file(c.lower("d/f")).unwrap();
        soon(udba, || !c.path("d/f").exists());
        fs::create_dir(c.lower("dir")).unwrap();
        fs::write(c.lower("dir/x"), "").unwrap();
        soon(udba, || c.path("dir/x").exists());
        fs::write(c.upper(".wh.dir"), "").unwrap();
        soon(udba, || !c.path("dir").exists());
    }
}

#[test]
fn without_udba_a_changed_branch_never_breaks_the_union() {
    let c = loose(&["", "d/f=1 d/g=1 e/x=1"], &["rw", "ro+wh"], "udba=none");
    assert_eq!(ls(&c.path("d")), "f g");
    fs::remove_dir_all(c.lower("d")).unwrap();
    fs::write(c.lower("d"), "a file now").unwrap();
    fs::rename(c.lower("e"), c.lower("e2")).unwrap();
    // Old or new, an answer or an error: but an answer, and the rest works.
    for name in ["d", "d/f", "e/x", "e2"] {
        drop(fs::metadata(c.path(name)));
        drop(fs::read(c.path(name)));
        drop(fs::read_dir(c.path(name)).map(Iterator::count));
    }
    fs::write(c.path("new"), "works").unwrap();
    assert_eq!(c.read("new"), "works");
}

#[test]
fn branches_are_told_however_long_their_paths() {
    let tree = TestTree::new(&["", "a=1"]);
    let long: Vec<_> = (0..400).map(|at| tree.beside(&format!("{at:0>200}"))).collect();
    long.iter().for_each(|path| fs::create_dir(path).unwrap());
    let list = [tree.list()].into_iter().chain(long.iter().map(|path| format!("{}=ro", path.display())));
    let list = list.collect::<Vec<_>>().join(":");
    let root = tree.beside("mnt");
    fs::create_dir(&root).unwrap();
    let root = root.to_str().unwrap();
    run(&["mount", &list, root]);
    let told = run(&["branches", root]).stdout;
    run(&["del", root, long[399].to_str().unwrap()]);
    let left = run(&["branches", root]).stdout;
    run(&["umount", root]);
    let told = String::from_utf8(told).unwrap().replace('\n', ":");
    assert!(told.len() > 65536, "an attribute would have held it");
    assert_eq!(told.trim_end_matches(':'), list);
    assert_eq!(left.iter().filter(|&&byte| byte == b'\n').count(), 401);
}

#[test]
fn branches_of_a_read_only_mount_change_too() {
    let tree = TestTree::build(3, 0, |index, root| fs::write(root.join(format!("f{index}")), "1").unwrap());
    let (root, more) = (tree.beside("mnt"), tree.branch(2).display().to_string());
    fs::create_dir(&root).unwrap();
    let mount = root.to_str().unwrap();
    let list = format!("{}=ro:{}=ro", tree.branch(0).display(), tree.branch(1).display());
    assert!(run(&["mount", &list, mount]).status.success());
    let added = run(&["add", mount, "0", &format!("{more}=ro")]);
    let (seen, refused) = (ls(&root), run(&["del", mount, "/nowhere"]));
    let removed = run(&["del", mount, &more]);
    let left = ls(&root);
    run(&["umount", mount]);
    assert!(added.status.success() && removed.status.success(), "{added:?} {removed:?}");
    assert_eq!((seen.as_str(), left.as_str()), ("f0 f1 f2", "f0 f1"));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("/nowhere"), "{refused:?}");
}
