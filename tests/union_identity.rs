//! One file is one file: its number, and how many names it has.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{CWD, FileType, mknodat};
use unionfs::{Options, RenameFlags};

use crate::support::branches::TestTree;
use crate::support::ops::{Action, Subject};
use crate::support::unmounted::{Core, Memory};
use crate::support::user::as_user;

fn rename(from: &str, to: &str) -> Action {
    Action::Rename(from.into(), to.into(), RenameFlags::empty())
}

fn write(path: &str) -> Action {
    Action::Write { path: path.into(), at: 0, data: b"w".into() }
}

/// The number of links of each name in turn.
fn links(core: &mut Core, names: &str) -> Vec<u64> {
    let tree = core.tree();
    names.split(' ').map(|name| tree[Path::new(name)].nlink).collect()
}

/// Checks the number of links as the branches are, and after each act; each time also after a remount.
#[track_caller]
fn assert_links(case: &str, tree: &TestTree, steps: &[(&[Action], &str, &[u64])]) {
    for memory in [Memory::Keeps, Memory::Forgets] {
        for remounts in [false, true] {
            let copy = tempfile::tempdir().unwrap();
            let upper = copy.path().join("upper");
            let copied = std::process::Command::new("cp").arg("-a").args([tree.branch(0), &upper]).status();
            assert!(copied.unwrap().success(), "cp -a");
            let list = tree.list();
            let below = list.split_once(':').map_or("", |(_, below)| below);
            let mut core = Core::new(&format!("{}=rw:{below}", upper.display()), &Options::default(), memory);
            for (acts, names, want) in steps {
                for act in *acts {
                    assert_eq!(core.apply(act), Ok(()), "{case}: {act:?}");
                }
                if remounts {
                    core.apply(&Action::Remount).unwrap();
                }
                assert_eq!(
                    links(&mut core, names),
                    *want,
                    "{case}: {names} after {acts:?}, {memory:?}, {remounts}"
                );
            }
        }
    }
}

#[test]
fn links_are_the_names_that_show() {
    for (case, branches, names, want) in [
        ("a whiteout", &[".wh.b=", "a=x b=>a"][..], "a", &[1][..]),
        ("a whiteout in the middle", &["", ".wh.b=", "a=x b=>a c=>a"], "a c", &[2, 2]),
        ("a file over it", &["b=other", "a=x b=>a c=>a"], "a b c", &[2, 1, 2]),
        ("a directory over it", &["b/x=1", "a=x b=>a"], "a b/x", &[1, 1]),
        ("an opaque directory", &["d/.wh..wh..opq=", "a=x d/b=>a d/e/c=>a"], "a", &[1]),
        ("a whited-out directory", &["", ".wh.d=", "a=x d/b=>a e/c=>a"], "a e/c", &[2, 2]),
        ("a file over a directory", &["d=file", "a=x d/b=>a"], "a", &[1]),
        ("all show", &["d/u=u", "a=x d/b=>a", "c=y d/e=>c"], "a d/b c d/e", &[2, 2, 2, 2]),
        ("a renamed directory", &["n/.wh..wh..opq=/d .wh.d=", "a=x d/b=>a"], "a n/b", &[2, 2]),
        ("of the upper", &["a=x b=>a", "b=y c=>b"], "a b c", &[2, 2, 1]),
    ] {
        assert_links(case, &TestTree::new(branches), &[(&[], names, want)]);
    }
}

#[test]
fn links_outside_of_a_branch_are_not_counted() {
    let tree = TestTree::build(2, 1, |at, root| {
        if at == 1 {
            fs::write(root.join("a"), "x").unwrap();
            fs::hard_link(root.join("a"), root.join("b")).unwrap();
            fs::hard_link(root.join("a"), root.with_file_name("outside")).unwrap();
        }
    });
    assert_links("outside", &tree, &[(&[], "a b", &[2, 2]), (&[write("a")], "a b", &[2, 2])]);
}

#[test]
fn links_are_counted_along_with_every_change() {
    let link = |from: &str, to: &str| Action::Link(from.into(), to.into());
    let unlink = |path: &str| Action::Unlink(path.into());
    let three = "a=x d/b=>a c=>a";
    for (case, branches, steps) in [
        (
            "unlink",
            &["", three][..],
            &[
                (&[unlink("a")][..], "d/b c", &[2, 2][..]),
                (&[write("c")], "d/b c", &[2, 2]),
                (&[unlink("d/b")], "c", &[1]),
                (&[link("c", "e")], "c e", &[2, 2]),
            ][..],
        ),
        (
            "rename over",
            &["n=n", three],
            &[(&[rename("n", "c")], "a d/b c", &[2, 2, 1]), (&[rename("d/b", "d/e")], "a d/e", &[2, 2])],
        ),
        (
            "of what hides one",
            &[".wh.c=", three],
            &[
                (&[write("a")], "a d/b", &[2, 2]),
                (&[link("d/b", "c")], "a d/b c", &[3, 3, 3]),
                (&[rename("d", "e")], "a e/b c", &[3, 3, 3]),
                (&[unlink("a"), unlink("c")], "e/b", &[1]),
            ],
        ),
        (
            "before anything else",
            &["", three],
            &[(&[rename("d", "e")], "a e/b c", &[3, 3, 3]), (&[write("e/b")], "a e/b c", &[3, 3, 3])],
        ),
    ] {
        assert_links(case, &TestTree::new(branches), steps);
    }
}

/// A copy of one of two names is found by the other one, and counted with it, also where the copy came from a branch
/// that was an upper itself.
#[test]
fn groups_are_counted_over_uppers_that_became_lowers() {
    let tree = TestTree::new(&["", "a=x b=>a"]);
    let mut core = Core::new(&tree.list(), &Options::default(), Memory::Keeps);
    for act in [write("a"), rename("a", "c"), rename("b", "d")] {
        core.apply(&act).unwrap();
    }
    assert_eq!(links(&mut core, "c d"), [2, 2]);
    drop(core);
    let top = tree.beside("top");
    fs::create_dir(&top).unwrap();
    let lower = tree.list().replace("=rw", "=ro+wh");
    let mut core = Core::new(&format!("{}=rw:{lower}", top.display()), &Options::default(), Memory::Keeps);
    assert_eq!(links(&mut core, "c d"), [2, 2]);
    core.apply(&write("c")).unwrap();
    for round in ["at once", "after a remount"] {
        let shown = core.tree();
        let [one, other] = ["c", "d"].map(|name| &shown[Path::new(name)]);
        assert_eq!((one.nlink, one.id, &one.content), (2, other.id, &other.content), "{round}");
        core.apply(&Action::Remount).unwrap();
    }
}

#[test]
fn an_index_keeps_nothing_of_a_file_whose_last_name_went() {
    let tree = TestTree::new(&[".wh.c=", "a=x b=>a c=>a"]);
    let mut core = Core::new(&tree.list(), &Options::default(), Memory::Forgets);
    for act in [write("a"), Action::Unlink("b".into()), Action::Remount, Action::Unlink("a".into())] {
        core.apply(&act).unwrap();
    }
    drop(core);
    assert!(!tree.branch(0).join(".wh..wh.work").exists(), "the work directory is empty, so it went");
}

/// Without privilege there are no extended attributes on anything but files and directories.
#[test]
fn numbers_of_copies_stay_without_privilege() {
    as_user(1000, 1000, || {
        let tree = TestTree::build(2, 1, |at, root| {
            if at == 1 {
                fs::write(root.join("file"), "f").unwrap();
                symlink("to", root.join("link")).unwrap();
                symlink("to", root.join("one")).unwrap();
                fs::hard_link(root.join("one"), root.join("two")).unwrap();
                mknodat(CWD, root.join("fifo"), FileType::Fifo, 0o644.into(), 0).unwrap();
            }
        });
        let mut core = Core::new(&tree.list(), &Options::default(), Memory::Keeps);
        let told = |core: &mut Core| -> Vec<_> {
            core.tree().into_iter().skip(1).map(|(path, node)| (path, node.id, node.nlink)).collect()
        };
        let before = told(&mut core);
        for (name, twin) in [("file", "file"), ("link", "link"), ("one", "two"), ("fifo", "fifo")] {
            core.apply(&Action::Utimes(name.into(), 7)).unwrap();
            let copied = |name| tree.branch(0).join(name).symlink_metadata().is_ok();
            assert!(copied(name) || copied(twin), "{name} is copied up");
        }
        for round in ["at once", "after a remount", "after another"] {
            assert_eq!(told(&mut core), before, "{round}");
            core.apply(&Action::Remount).unwrap();
        }
        // A crash before the copy is shown leaves the entry alone, or none; the number is not another object's then.
        let links = tree.branch(0).join(".wh..wh.work/links");
        let entry = fs::read_dir(&links).unwrap().map(|entry| entry.unwrap().path());
        let pinned: Vec<_> = entry.filter(|path| path.extension().is_some_and(|end| end == "p")).collect();
        assert_eq!(pinned.len(), 2, "{pinned:?}");
        fs::remove_file(tree.branch(0).join("link")).unwrap();
        core.apply(&Action::Remount).unwrap();
        assert_eq!(told(&mut core), before, "the lower link shows again");
        core.apply(&Action::Symlink("new".into(), "to".into())).unwrap();
        let all = told(&mut core);
        let numbers: std::collections::BTreeSet<_> = all.iter().map(|(_, id, _)| id).collect();
        assert_eq!(numbers.len(), all.len() - 1, "one and two are one: {all:?}");
    });
}
