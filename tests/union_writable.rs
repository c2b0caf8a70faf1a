//! Several writable branches: each act is made on a branch where it is seen.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use unionfs::branch::BranchSpec;
use unionfs::policy::{CopyupPolicy, CreatePolicy};
use unionfs::{Errno, Ino, Name, NewNode, Options, RenameFlags, SetAttr, Union};

use crate::support::branches::{TestTree, visible};
use crate::support::layer::Put::{Dir, File, Link, Symlink, Whiteout};
use crate::support::ops::{Action, Op, Subject};
use crate::support::search::Case;
use crate::support::unmounted::{Core, Memory};
use crate::union_regressions::still_right_on;
use crate::union_tables::shown;

fn rename(from: &str, to: &str) -> Action {
    Action::Rename(from.into(), to.into(), RenameFlags::empty())
}

fn exchange(from: &str, to: &str) -> Action {
    Action::Rename(from.into(), to.into(), RenameFlags::EXCHANGE)
}

#[test]
fn every_act_is_made_where_it_is_seen() {
    let link = |from: &str, to: &str| Action::Link(from.into(), to.into());
    for (case, branches, acts, want, upper) in [
        ("rename stays below", &["", "x=b"][..], vec![rename("x", "y")], "y=b", ""),
        ("to a name hidden above", &[".wh.y=", "x=b y=c"], vec![rename("x", "y")], "y=b", ".wh.x y"),
        ("over a name above", &["y=a", "x=b"], vec![rename("x", "y")], "y=b", ".wh.x y"),
        ("over a name below", &["x=a", "y=b"], vec![rename("x", "y")], "y=a", "y"),
        (
            "into an opaque directory",
            &["d/.wh..wh..opq=", "d/y=1 x=b"],
            vec![rename("x", "d/x")],
            "d/ d/x=b",
            ".wh.x d",
        ),
        ("link to a name hidden above", &[".wh.y=", "x=b y=c"], vec![link("x", "y")], "x=b y=b", "x y"),
        ("link beside it", &["", "x=b"], vec![link("x", "y")], "x=b y=b", ""),
        ("exchange with one above", &["x=a", "y=b"], vec![exchange("x", "y")], "x=b y=a", "x y"),
        ("exchange with one below", &["y=a", "x=b"], vec![exchange("x", "y")], "x=a y=b", "x y"),
        ("exchange of two below", &["", "x=a y=b"], vec![exchange("x", "y")], "x=b y=a", ""),
        (
            "exchange of directories",
            &["x/f=1", "y/g=2"],
            vec![exchange("x", "y")],
            "x/ x/g=2 y/ y/f=1",
            "x y",
        ),
        ("a merged directory", &["x/f=1", "x/g=2"], vec![rename("x", "y")], "y/ y/f=1 y/g=2", ".wh.x y"),
        ("a directory over a merged one", &["y/", "x/f=1 y/"], vec![rename("x", "y")], "y/ y/f=1", ".wh.x y"),
        ("unlink of both", &["x=a", "x=b"], vec![Action::Unlink("x".into())], "", ".wh.x"),
        ("unlink of the lower", &["", "x=b"], vec![Action::Unlink("x".into())], "", ""),
        ("rmdir of both", &["x/", "x/"], vec![Action::Rmdir("x".into())], "", ".wh.x"),
        ("over a name whose twin stays", &["x=a", "y=b z=>y"], vec![rename("x", "y")], "y=a z=b", "y"),
        (
            "moved twice, by two branches",
            &["x/f=1", "x/g=2 e/"],
            vec![rename("x", "y"), rename("y/g", "e/g"), rename("y", "e/x")],
            "e/ e/g=2 e/x/ e/x/f=1",
            ".wh.x e",
        ),
    ] {
        for memory in [Memory::Forgets, Memory::Keeps] {
            let tree = TestTree::loose(branches);
            let mut core = Core::new(&tree.list(), &Options::default(), memory);
            for act in &acts {
                assert_eq!(core.apply(act), Ok(()), "{case}: {act:?}");
            }
            for round in ["at once", "after a remount"] {
                assert_eq!(shown(&mut core), want, "{case}, {memory:?}, {round}");
                core.apply(&Action::Remount).unwrap();
            }
            assert_eq!(visible(tree.branch(0)), upper, "{case}: the upper branch");
        }
    }
}

#[test]
fn links_are_counted_when_a_name_is_covered_by_another_branch() {
    let tree = TestTree::loose(&["x=a", "y=b z=>y"]);
    let mut core = Core::new(&tree.list(), &Options::default(), Memory::Keeps);
    core.apply(&rename("x", "y")).unwrap();
    for (act, want) in [
        (Action::Remount, 1),
        (Action::Link("z".into(), "w".into()), 2),
        (Action::Write { path: "w".into(), at: 0, data: b"c".into() }, 2),
        (Action::Remount, 2),
        (Action::Unlink("w".into()), 1),
    ] {
        core.apply(&act).unwrap();
        let links = core.tree()[Path::new("z")].nlink;
        assert_eq!(links, want, "{act:?}");
    }
}

fn open(tree: &TestTree, options: Options) -> Union {
    Union::new(BranchSpec::parse_list(tree.list()).unwrap(), options).unwrap()
}

fn name(name: &str) -> Name<'_> {
    Name::from_bytes(name.as_bytes()).unwrap()
}

/// What is made in a lower copy of a directory is as the copy that is seen says, and tells its time.
#[test]
fn what_new_objects_inherit_is_the_directorys_that_is_seen() {
    let tree = TestTree::loose(&["d/x=1", "d/y=2"]);
    let union = open(&tree, Options { create: CreatePolicy::RoundRobin, ..Options::default() });
    let dir = union.lookup(Ino::ROOT, name("d")).unwrap().unwrap().node;
    let change = SetAttr { mode: Some(0o2775), gid: Some(7), ..SetAttr::default() };
    union.setattr(dir, &change).unwrap();
    let new = NewNode { mode: 0o644, umask: 0, uid: 0, gid: 0 };
    let mut last = union.getattr(dir).unwrap();
    for file in ["1", "2"] {
        std::thread::sleep(std::time::Duration::from_millis(20));
        assert_eq!(union.create(dir, name(file), &new).unwrap().attr.gid, 7, "{file}");
        let now = union.getattr(dir).unwrap();
        assert!(now.mtime > last.mtime, "{file}: {now:?}");
        last = now;
    }
    let there = |at: usize| ["1", "2"].map(|file| tree.branch(at).join("d").join(file).exists());
    assert_eq!((there(0), there(1)), ([true, false], [false, true]), "both branches were used");
    assert_eq!(tree.branch(1).join("d").metadata().unwrap().gid(), 7);
}

/// A directory made on one branch is copied to another, down or up, for what a policy puts there.
#[test]
fn directories_follow_the_policy_to_lower_branches() {
    let tree = TestTree::loose(&["", ""]);
    let options = Options { create: CreatePolicy::RoundRobin, ..Options::default() };
    let mut core = Core::new(&tree.list(), &options, Memory::Forgets);
    for path in ["d", "d/a", "d/b", "d/c"] {
        core.apply(&Action::Mkdir(path.into(), 0o755)).unwrap();
    }
    assert_eq!(
        (visible(&tree.branch(0).join("d")), visible(&tree.branch(1).join("d"))),
        ("b".into(), "a c".into())
    );
    assert_eq!(core.apply(&Action::Rmdir("d".into())), Err(Errno::NOTEMPTY));
}

/// A file that is copied to another writable branch loses nothing of what is written meanwhile.
#[test]
fn no_write_is_lost_to_a_copy_between_branches() {
    const BLOCKS: u64 = 8192;
    let tree = TestTree::loose(&[".wh.y=", "x="]);
    let low = std::fs::File::options().write(true).open(tree.branch(1).join("x")).unwrap();
    low.set_len(BLOCKS * 512).unwrap();
    let union = open(&tree, Options { volatile: true, ..Options::default() });
    let node = union.lookup(Ino::ROOT, name("x")).unwrap().unwrap().node;
    let (started, moved) = (AtomicBool::new(false), AtomicBool::new(false));
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let rounds = (0_u64..).take_while(|_| !moved.load(Ordering::Acquire));
            rounds.fold(0, |_, count| {
                union.write(node, count % BLOCKS * 512, &count.to_le_bytes(), false).unwrap();
                started.store(true, Ordering::Release);
                count
            })
        });
        while !started.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        union.rename(Ino::ROOT, name("x"), Ino::ROOT, name("y"), RenameFlags::empty()).unwrap();
        moved.store(true, Ordering::Release);
        writer.join().unwrap()
    });
    let content = std::fs::read(tree.branch(0).join("y")).unwrap();
    for count in written.saturating_sub(BLOCKS - 1)..=written {
        let start = usize::try_from(count % BLOCKS * 512).unwrap();
        assert_eq!(content[start..start + 8], count.to_le_bytes(), "write {count} of {written}");
    }
}

#[test]
fn a_name_whose_twin_was_renamed_over_counts_one_link() {
    let layers = vec![vec![], vec![File(0, 31, 0), Symlink(0, 61)], vec![File(0, 0, 0), File(0, 0, 0)]];
    let ops = vec![Op::Fifo(0, 44), Op::Write(0, 0, 0, 0), Op::Link(13, 0, 47), Op::Rename(107, 0, 35, 33)];
    let case = Case { layers, ops };
    still_right_on(&case, &[true, true, true], CreatePolicy::RoundRobin, CopyupPolicy::BottomUp);
}

#[test]
fn a_directory_is_renamed_to_a_name_that_another_branch_hides() {
    let layers = vec![vec![Whiteout(0, 170)], vec![File(0, 6, 0), Dir(0, 71), File(0, 57, 0)]];
    let ops = vec![
        Op::Link(58, 135, 160),
        Op::Write(13, 82, 2890, 99),
        Op::Rename(145, 121, 140, 104),
        Op::Remount,
        Op::Chmod(14, 19260),
        Op::Unlink(7),
        Op::Utimes(107, 43803),
        Op::Link(155, 105, 189),
        Op::Chown(247, 4),
        Op::Rename(120, 244, 188, 213),
        Op::Fifo(165, 101),
        Op::Rename(240, 206, 84, 234),
        Op::Rmdir(0),
        Op::Rename(137, 142, 245, 228),
    ];
    still_right_on(&Case { layers, ops }, &[true, true], CreatePolicy::Random, CopyupPolicy::BottomUpParent);
}

#[test]
fn a_directory_that_was_copied_to_a_higher_branch_keeps_its_number() {
    let lower = vec![
        Dir(0, 14),
        Dir(151, 191),
        File(44, 69, 0),
        Link(43, 32, 0),
        File(3, 89, 0),
        Dir(198, 205),
        File(71, 112, 0),
        Symlink(107, 67),
        File(3, 125, 0),
    ];
    let ops = vec![
        Op::Fifo(2, 0),
        Op::Create(0, 0, 0),
        Op::Fifo(43, 3),
        Op::Write(0, 0, 0, 0),
        Op::Mkdir(73, 0, 0),
        Op::Unlink(5),
        Op::Link(105, 47, 0),
    ];
    let case = Case { layers: vec![vec![], lower], ops };
    still_right_on(&case, &[true, true, true], CreatePolicy::RoundRobin, CopyupPolicy::BottomUp);
}
