//! The rules of a union as rows: branches from the top, an act, and what then is where.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use unionfs::{Errno, FileKind, Name, Options, RenameFlags};

use crate::support::branches::{TestTree, visible};
use crate::support::ops::{Action, Subject};
use crate::support::unmounted::{Core, Memory};

/// Branches from the top, and their union.
fn union(branches: &[&str]) -> (TestTree, Core) {
    let tree = TestTree::new(branches);
    let core = Core::new(&tree.list(), &Options::default(), Memory::Forgets);
    (tree, core)
}

/// The union as one line: `name=content`, `name/`, `name->target`, sorted, blanks between.
pub(crate) fn shown(core: &mut Core) -> String {
    let tree = core.tree();
    let words = tree.iter().filter(|(path, _)| !path.as_os_str().is_empty()).map(|(path, node)| {
        let content = String::from_utf8_lossy(&node.content);
        match node.kind {
            FileKind::Directory => format!("{}/", path.display()),
            FileKind::Symlink => format!("{}->{content}", path.display()),
            _ => format!("{}={content}", path.display()),
        }
    });
    words.collect::<Vec<_>>().join(" ")
}

#[test]
fn names_are_found_by_priority() {
    for (case, branches, want) in [
        ("upper wins", &["x=a", "x=b"][..], "x=a"),
        ("lower shows through", &["", "x=b"], "x=b"),
        ("second of three", &["", "x=b", "x=c"], "x=b"),
        ("directories merge", &["d/a=1", "d/b=2", "d/c=3"], "d/ d/a=1 d/b=2 d/c=3"),
        ("same name in merged directories", &["d/x=1", "d/x=2"], "d/ d/x=1"),
        ("file over directory", &["x=f", "x/y=d"], "x=f"),
        ("directory over file", &["x/y=d", "x=f"], "x/ x/y=d"),
        ("a file between directories ends the merge", &["d/a=1", "d=f", "d/c=3"], "d/ d/a=1"),
        ("symlink over directory", &["x->t", "x/y=d"], "x->t"),
        ("symlink is not followed by the union", &["d->e", "e/x=1 d/y=2"], "d->e e/ e/x=1"),
    ] {
        let (_tree, mut core) = union(branches);
        assert_eq!(shown(&mut core), want, "{case}");
    }
}

#[test]
fn whiteouts_hide_what_lies_below_them() {
    for (case, branches, want) in [
        ("of a file", &[".wh.x=", "x=b y=b"][..], "y=b"),
        ("of a directory", &[".wh.d=", "d/x=1"], ""),
        ("of nothing", &[".wh.x=", "y=b"], "y=b"),
        ("in a middle layer", &["", ".wh.x=", "x=c"], ""),
        ("not of its own layer's upper neighbours", &["x=a", ".wh.x=", "x=c"], "x=a"),
        ("inside a merged directory", &["d/.wh.x=", "d/x=1 d/y=2"], "d/ d/y=2"),
        ("hides the whole merge below", &["d/a=1", ".wh.d=", "d/b=2"], "d/ d/a=1"),
        ("a name again below a whiteout stays hidden", &[".wh.x=", "x=b", "x=c"], ""),
        ("whose name begins with .wh.", &["", ".wh..wh.x= a=1"], "a=1"),
    ] {
        let (_tree, mut core) = union(branches);
        assert_eq!(shown(&mut core), want, "{case}");
    }
}

#[test]
fn opaque_directories_hide_what_lies_below_them() {
    for (case, branches, want) in [
        ("in the upper", &["d/.wh..wh..opq= d/a=1", "d/b=2"][..], "d/ d/a=1"),
        ("in a middle layer", &["d/a=1", "d/.wh..wh..opq= d/b=2", "d/c=3"], "d/ d/a=1 d/b=2"),
        ("deeper", &["d/e/.wh..wh..opq=", "d/e/x=1 d/y=2"], "d/ d/e/ d/y=2"),
        ("of the root", &[".wh..wh..opq= a=1", "b=2"], "a=1"),
        ("and a whiteout", &["d/.wh..wh..opq= d/.wh.x=", "d/x=1"], "d/"),
        ("only its own directory", &["d/.wh..wh..opq= e/a=1", "d/b=2 e/b=2"], "d/ e/ e/a=1 e/b=2"),
    ] {
        let (_tree, mut core) = union(branches);
        assert_eq!(shown(&mut core), want, "{case}");
    }
}

#[test]
fn rmdir_removes_what_is_empty_to_the_user() {
    let notempty = Err(Errno::NOTEMPTY);
    for (case, branches, result, want, upper) in [
        ("empty in the upper", &["d/", ""][..], Ok(()), "", ""),
        ("empty in the lower", &["", "d/"], Ok(()), "", ".wh.d"),
        ("empty in both", &["d/", "d/"], Ok(()), "", ".wh.d"),
        ("a child in the upper", &["d/x=1", "d/"], notempty, "d/ d/x=1", "d"),
        ("a child in the lower", &["d/", "d/x=1"], notempty, "d/ d/x=1", "d"),
        ("only whiteouts in the upper", &["d/.wh.x=", "d/x=1"], Ok(()), "", ".wh.d"),
        ("only marks in the upper", &["d/.wh..wh..opq=", "d/x=1"], Ok(()), "", ".wh.d"),
        ("opaque, nothing below", &["d/.wh..wh..opq=", ""], Ok(()), "", ""),
        ("hidden by the middle", &["", "d/.wh.x=", "d/x=1"], Ok(()), "", ".wh.d"),
        ("a file", &["d=f", ""], Err(Errno::NOTDIR), "d=f", "d"),
        ("nothing", &["", "e/"], Err(Errno::NOENT), "e/", ""),
    ] {
        let (tree, mut core) = union(branches);
        assert_eq!(core.apply(&Action::Rmdir(PathBuf::from("d"))), result, "{case}");
        for round in ["at once", "after a remount"] {
            assert_eq!(shown(&mut core), want, "{case}, {round}");
            core.apply(&Action::Remount).unwrap();
        }
        assert_eq!(visible(tree.branch(0)), upper, "{case}: the writable branch");
    }
}

#[test]
fn unlink_leaves_a_whiteout_only_where_one_is_needed() {
    for (case, branches, want, upper) in [
        ("in the upper only", &["x=a", ""][..], "", ""),
        ("in the lower only", &["", "x=b"], "", ".wh.x"),
        ("in both", &["x=a", "x=b"], "", ".wh.x"),
        ("hidden below already", &["x=a", ".wh.x=", "x=c"], "", ""),
        ("under a directory that is a file below", &["d/x=a", "d=f"], "d/", "d"),
        ("under an opaque directory", &["d/.wh..wh..opq= d/x=a", "d/x=b"], "d/", "d"),
        ("a symlink", &["", "x->t"], "", ".wh.x"),
    ] {
        let (tree, mut core) = union(branches);
        let path = if branches[0].contains("d/x") { "d/x" } else { "x" };
        core.apply(&Action::Unlink(PathBuf::from(path))).unwrap_or_else(|error| panic!("{case}: {error}"));
        for round in ["at once", "after a remount"] {
            assert_eq!(shown(&mut core), want, "{case}, {round}");
            core.apply(&Action::Remount).unwrap();
        }
        assert_eq!(visible(tree.branch(0)), upper, "{case}: the writable branch");
    }
}

#[test]
fn rename_moves_every_kind_over_every_kind() {
    let (plain, swap) = (RenameFlags::empty(), RenameFlags::EXCHANGE);
    for (case, branches, flags, want) in [
        ("upper file, free target", &["x=a", ""][..], plain, "y=a"),
        ("lower file, free target", &["", "x=b"], plain, "y=b"),
        ("lower file over lower file", &["", "x=b y=c"], plain, "y=b"),
        ("lower file over upper file", &["y=a", "x=b"], plain, "y=b"),
        ("upper file over lower file", &["x=a", "y=b"], plain, "y=a"),
        ("over a whiteout", &[".wh.y=", "x=b y=c"], plain, "y=b"),
        ("a symlink", &["", "x->t"], plain, "y->t"),
        ("lower directory", &["", "x/f=1 x/g/h=2"], plain, "y/ y/f=1 y/g/ y/g/h=2"),
        ("merged directory", &["x/a=1", "x/b=2", "x/c=3"], plain, "y/ y/a=1 y/b=2 y/c=3"),
        ("directory over an empty one", &["", "x/f=1 y/"], plain, "y/ y/f=1"),
        ("directory over a hidden one", &[".wh.y=", "x/f=1 y/g=2"], plain, "y/ y/f=1"),
        ("directory over one emptied by whiteouts", &["y/.wh.g=", "x/f=1 y/g=2"], plain, "y/ y/f=1"),
        ("directory with hidden children", &["x/.wh.f=", "x/f=1 x/g=2"], plain, "y/ y/g=2"),
        ("exchange of files", &["x=a", "y=b"], swap, "x=b y=a"),
        ("exchange of a file and a directory", &["", "x=b y/f=1"], swap, "x/ x/f=1 y=b"),
        (
            "exchange of merged directories",
            &["x/a=1 y/c=3", "x/b=2 y/d=4"],
            swap,
            "x/ x/c=3 x/d=4 y/ y/a=1 y/b=2",
        ),
    ] {
        for memory in [Memory::Forgets, Memory::Keeps] {
            let tree = TestTree::new(branches);
            let mut core = Core::new(&tree.list(), &Options::default(), memory);
            let result = core.apply(&Action::Rename("x".into(), "y".into(), flags));
            assert_eq!(result, Ok(()), "{case}");
            for round in ["at once", "after a remount"] {
                assert_eq!(shown(&mut core), want, "{case}, {memory:?}, {round}");
                core.apply(&Action::Remount).unwrap();
            }
        }
    }
}

#[test]
fn a_name_made_again_over_a_lower_one_is_new() {
    for (case, act, want) in [
        ("directory", Action::Mkdir("d".into(), 0o755), "d/"),
        ("file", Action::Create("d".into(), 0o644), "d="),
        ("symlink", Action::Symlink("d".into(), "t".into()), "d->t"),
    ] {
        let (tree, mut core) = union(&["", "d/x=1 d/e/y=2"]);
        for path in ["d/x", "d/e/y"] {
            core.apply(&Action::Unlink(path.into())).unwrap();
        }
        for path in ["d/e", "d"] {
            core.apply(&Action::Rmdir(path.into())).unwrap();
        }
        core.apply(&act).unwrap();
        for round in ["at once", "after a remount"] {
            assert_eq!(shown(&mut core), want, "{case}, {round}");
            core.apply(&Action::Remount).unwrap();
        }
        assert!(!tree.branch(0).join(".wh.d").exists(), "{case}: no whiteout beside the name");
        let opaque = tree.branch(0).join("d/.wh..wh..opq").exists();
        assert_eq!(opaque, case == "directory", "{case}: an opaque mark");
    }
}

#[test]
fn a_file_is_copied_up_by_changes_and_only_by_them() {
    let path = || PathBuf::from("d/f");
    for (case, act, copied) in [
        ("nothing", None, false),
        ("write", Some(Action::Write { path: path(), at: 0, data: b"x".into() }), true),
        ("truncate", Some(Action::Truncate(path(), 1)), true),
        ("chmod", Some(Action::Chmod(path(), 0o600)), true),
        ("chown", Some(Action::Chown(path(), 1, 1)), true),
        ("utimes", Some(Action::Utimes(path(), 1)), true),
        ("setxattr", Some(Action::SetXattr(path(), "user.x".into(), b"1".into())), true),
        ("failing removexattr", Some(Action::RemoveXattr(path(), "user.x".into())), false),
        ("link", Some(Action::Link(path(), "g".into())), true),
        ("link to an existing name", Some(Action::Link(path(), "h".into())), false),
        ("rename over a directory", Some(Action::Rename(path(), "e".into(), RenameFlags::empty())), false),
        ("unlink", Some(Action::Unlink(path())), false),
    ] {
        let (tree, mut core) = union(&["", "d/f=content h=h e/x=x"]);
        if let Some(act) = act {
            core.apply(&act).ok();
        }
        core.tree();
        assert_eq!(tree.branch(0).join("d/f").exists(), copied, "{case}");
        assert_eq!(fs::read_to_string(tree.branch(1).join("d/f")).unwrap(), "content", "{case}");
    }
}

#[test]
fn reserved_names_are_neither_found_nor_made() {
    let (_tree, mut core) = union(&[".wh.gone=", "x=b gone=b d/.wh..wh..opq= d/y=1"]);
    for name in [".wh.gone", ".wh.x", ".wh.", ".wh..wh..opq", ".wh..wh.plnk", ".wh..wh.work"] {
        let path = Path::new(name);
        assert_eq!(core.walk(path), Err(Errno::NOENT), "{name}");
        for act in [
            Action::Create(path.into(), 0o644),
            Action::Mkdir(path.into(), 0o755),
            Action::Symlink(path.into(), "t".into()),
            Action::Fifo(path.into(), 0o644),
            Action::Link("x".into(), path.into()),
            Action::Rename("x".into(), path.into(), RenameFlags::empty()),
        ] {
            assert_eq!(core.apply(&act), Err(Errno::PERM), "{act:?}");
        }
    }
    let long = "n".repeat(256);
    assert_eq!(Name::new(OsStr::new(&long)).map_err(|error| error.errno), Err(Errno::NAMETOOLONG));
    assert_eq!(shown(&mut core), "d/ d/y=1 x=b");
}
