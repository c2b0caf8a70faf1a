//! Cases that random operations once found, each under the name of what went wrong.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use unionfs::policy::{CopyupPolicy, CreatePolicy};
use unionfs::union::InUse;
use unionfs::{BranchSpec, FileKind, Format, Name, Options, Perm, RenameFlags, Union};

use crate::support::branches::{Ground, TestTree};
use crate::support::layer::Marks;
use crate::support::layer::Put::{Dir, Fifo, File, Link, Mode, Symlink, Whiteout};
use crate::support::ops::Op::{Create, Rename, SetXattr, Write};
use crate::support::ops::{Action, Op, Subject};
use crate::support::search::Case;
use crate::support::unmounted::{Core, Memory};
use crate::union_model::fast;
use crate::union_sequence::{Setup, check};

/// A case that failed once, on both formats and both kinds of caller.
fn still_right(case: &Case) {
    for (marks, format) in [(&[Marks::Aufs], Format::Aufs), (&[Marks::Overlay], Format::Overlay)] {
        let options = Options { format, ..fast() };
        still_right_as(case, &[true], marks, &options);
    }
}

/// As [`still_right`], of a union with several writable branches.
pub(crate) fn still_right_on(
    case: &Case,
    writable: &'static [bool],
    create: CreatePolicy,
    copyup: CopyupPolicy,
) {
    still_right_as(case, writable, &[Marks::Aufs], &Options { create, copyup, ..fast() });
}

fn still_right_as(case: &Case, writable: &'static [bool], marks: &'static [Marks], options: &Options) {
    for memory in [Memory::Keeps, Memory::Forgets] {
        for ground in [Ground::Memory, Ground::Disk] {
            let setup = Setup { writable, marks, options: options.clone(), memory, ground };
            check(case, &setup).unwrap_or_else(|why| panic!("{setup:?}: {why}"));
        }
    }
}

#[test]
fn linking_a_lower_file_with_several_names_counts_the_new_one_once() {
    let layers = vec![vec![], vec![File(0, 67, 0), Link(0, 41, 0)]];
    still_right(&Case { layers, ops: vec![Op::Link(0, 0, 128)] });
}

#[test]
fn renaming_one_of_several_lower_names_finds_it() {
    let layers = vec![vec![], vec![Whiteout(0, 2)], vec![Symlink(0, 135), File(0, 136, 0), Link(0, 12, 78)]];
    still_right(&Case { layers, ops: vec![Rename(164, 120, 209, 124)] });
}

#[test]
fn hard_linked_lower_files_are_listed_under_the_number_that_stat_tells() {
    let lower = vec![
        Link(156, 168, 17),
        File(41, 14, 3949),
        Dir(247, 129),
        Mode(49, 64600),
        Whiteout(208, 55),
        Dir(185, 18),
        Link(127, 230, 99),
        Link(252, 45, 254),
    ];
    let ops = vec![Create(136, 54, 33685), Rename(208, 215, 72, 52), SetXattr(58, 48, 111)];
    still_right(&Case { layers: vec![vec![], lower], ops });
}

#[test]
fn copying_up_one_of_three_names_keeps_all_three_counted() {
    let layers = vec![vec![], vec![File(0, 43, 0), Link(0, 34, 0), File(0, 28, 0), Link(0, 170, 0)]];
    still_right(&Case { layers, ops: vec![Write(0, 0, 1, 0)] });
}

#[test]
fn moving_a_lower_directory_keeps_its_own_time_of_change() {
    let lower =
        vec![Dir(0, 5), File(32, 151, 0), Symlink(13, 51), Dir(72, 14), File(0, 1, 0), File(130, 167, 0)];
    let ops = vec![Rename(66, 53, 0, 75), Create(0, 0, 0)];
    still_right(&Case { layers: vec![vec![], lower], ops });
}

#[test]
fn a_name_that_was_opened_and_removed_is_no_link_of_the_copy() {
    let lower = vec![
        File(0, 175, 0),
        File(0, 76, 0),
        File(0, 2, 0),
        Symlink(0, 30),
        Link(0, 213, 139),
        Dir(0, 215),
        Fifo(91, 1),
        Dir(151, 71),
    ];
    let ops = vec![Op::Unlink(24), Op::Open(0, 29), Op::Unlink(242), Op::WriteOpen(0, 0, 0)];
    still_right(&Case { layers: vec![vec![], lower], ops });
}

#[test]
fn what_an_added_branch_hid_is_found_again_when_it_is_gone() {
    let mut tree = TestTree::new(&["", "x=1 d/y=2"]);
    let mut core = Core::new(&tree.list(), &fast(), Memory::Keeps);
    let before = core.tree();
    let mut add = |at: usize, names: &[&str]| {
        tree.insert(at, false, |root| {
            names.iter().for_each(|name| std::fs::write(root.join(name), "").unwrap())
        });
        let spec = BranchSpec { path: tree.branch(at).into(), perm: Perm::READ_ONLY };
        core.rearrange(|union, in_use| union.add_branch(at, spec.clone(), in_use)).unwrap();
        core.tree();
        spec.path
    };
    let hiding = add(0, &["x", "d"]);
    // A second change looks again at all that the first one took away.
    add(2, &[]);
    core.rearrange(|union, in_use| union.remove_branch(&hiding, in_use)).unwrap();
    let after = core.tree();
    for name in ["x", "d", "d/y"].map(Path::new) {
        assert_eq!(after[name].id, before[name].id, "{name:?}");
    }
}

#[test]
fn names_stay_one_file_when_their_branch_becomes_read_only() {
    let tree = TestTree::new(&["", "x=1 y=>x"]);
    let mut core = Core::new(&tree.list(), &fast(), Memory::Keeps);
    core.apply(&Action::Write { path: "x".into(), at: 0, data: b"2".into() }).unwrap();
    let change =
        |union: &mut Union, in_use: &InUse| union.change_branch(tree.branch(0), Perm::READ_ONLY, in_use);
    core.rearrange(change).unwrap();
    for round in ["at once", "after a remount"] {
        let now = core.tree();
        let [x, y] = ["x", "y"].map(|name| &now[Path::new(name)]);
        assert_eq!((&x.content[..], x.id, &x.content), (&b"2"[..], y.id, &y.content), "{round}");
        core.apply(&Action::Remount).unwrap();
    }
}

/// Between its move on disk and the node's a whiteout was taken for the file.
#[test]
fn a_file_is_itself_while_it_is_renamed() {
    for format in [Format::Aufs, Format::Overlay] {
        let tree = TestTree::new(&["", "d/f=text e/f=other"]);
        let mut core = Core::new(&tree.list(), &Options { format, ..fast() }, Memory::Keeps);
        core.apply(&Action::Unlink("e/f".into())).unwrap();
        let [node, d, e] = ["d/f", "d", "e"].map(|path| core.walk(Path::new(path)).unwrap());
        let (union, over) = (core.union(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let attr = union.getattr(node).unwrap();
                    assert_eq!((attr.kind(), attr.size), (FileKind::Regular, 4), "{format:?}");
                }
            });
            let f = Name::from_bytes(b"f").unwrap();
            for _ in 0..10_000 {
                union.rename(d, f, e, f, RenameFlags::empty()).unwrap();
                union.rename(e, f, d, f, RenameFlags::empty()).unwrap();
            }
            over.store(true, Ordering::Relaxed);
        });
    }
}

/// A copy that a later one above took the place of has but one name, and shows as the later one.
#[test]
fn every_name_of_a_file_that_was_copied_twice_is_counted() {
    let tree = TestTree::loose(&["x/.wh..wh..opq=", "", "c=one d=>c"]);
    let [b0, b1, b2] = [0, 1, 2].map(|at| tree.branch(at).display());
    let mut core = Core::new(&format!("{b1}=rw:{b2}=ro"), &fast(), Memory::Keeps);
    core.apply(&Action::Write { path: "d".into(), at: 0, data: b"1".into() }).unwrap();
    drop(core);
    let mut core = Core::new(&format!("{b0}=rw:{b1}=rw:{b2}=ro"), &fast(), Memory::Keeps);
    core.apply(&Action::Rename("c".into(), "x/c".into(), RenameFlags::empty())).unwrap();
    assert!(tree.branch(0).join("x/c").exists(), "the second copy");
    for round in ["at once", "after a remount"] {
        let now = core.tree();
        let [d, c] = ["d", "x/c"].map(|name| &now[Path::new(name)]);
        assert_eq!((d.id, &d.content, d.nlink, c.nlink), (c.id, &c.content, 2, 2), "{round}");
        core.apply(&Action::Remount).unwrap();
    }
}

/// A name that did not show when another was copied up showed a second file of the same number when it came to light.
#[test]
fn a_name_that_comes_to_light_is_still_one_file_with_the_copy_of_another() {
    let kinds = [Format::Aufs, Format::Overlay]
        .map(|format| [Memory::Keeps, Memory::Forgets].map(|memory| (format, memory)));
    for (format, memory) in kinds.into_iter().flatten() {
        let tree = TestTree::new(&["", "e=covers", "c=one e/a=>c"]);
        let mut core = Core::new(&tree.list(), &Options { format, ..fast() }, memory);
        core.apply(&Action::Write { path: "c".into(), at: 0, data: b"1".into() }).unwrap();
        assert_eq!(core.tree()[Path::new("c")].nlink, 1, "{format:?}: the other does not show");
        core.rearrange(|union, in_use| union.remove_branch(tree.branch(1), in_use)).unwrap();
        for round in ["at once", "after a remount"] {
            let now = core.tree();
            let [c, a] = ["c", "e/a"].map(|name| &now[Path::new(name)]);
            assert_eq!(
                (&a.content[..], a.id, a.nlink),
                (&b"1ne"[..], c.id, 2),
                "{format:?}, {memory:?}, {round}"
            );
            core.apply(&Action::Remount).unwrap();
        }
        core.apply(&Action::Unlink("e/a".into())).unwrap();
        core.apply(&Action::Unlink("c".into())).unwrap();
        drop(core);
        assert!(!tree.branch(0).join(".wh..wh.work").exists(), "{format:?}: the index is empty, so it went");
    }
}

/// The number that stood in for one that was taken was taken too, by a copy that had gone: that was shown.
#[test]
fn a_name_that_comes_to_light_again_is_none_of_its_copies_that_are_gone() {
    let tree = TestTree::build(3, 2, |at, root| {
        if at == 2 {
            std::fs::write(root.join("x"), "lower").unwrap();
        }
    });
    let mut core = Core::new(&tree.list(), &fast(), Memory::Keeps);
    for top in 0..2 {
        core.apply(&Action::Write { path: "x".into(), at: 0, data: b"copy".into() }).unwrap();
        core.apply(&Action::Unlink("x".into())).unwrap();
        core.rearrange(|union, in_use| union.remove_branch(tree.branch(top), in_use)).unwrap();
        let x = &core.tree()[Path::new("x")];
        assert_eq!((&x.content[..], x.nlink), (&b"lower"[..], 1), "branch {top} has gone");
    }
}
