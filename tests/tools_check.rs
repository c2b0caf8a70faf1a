//! `unionfs check`.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Output;

use rustix::fs::{FileType, XattrFlags, lsetxattr};

use crate::scene::{Scene, WRITERS, node, ok};
use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, run};
use crate::support::tree::{Tree, difference, read_tree};

const OPAQUE: &str = "trusted.overlay.opaque";
const REDIRECT: &str = "trusted.overlay.redirect";
const ORIGIN: &str = "trusted.unionfs.origin";

fn set(path: &Path, name: &str, value: impl AsRef<[u8]>) {
    lsetxattr(path, name, value.as_ref(), XattrFlags::empty()).unwrap();
}

/// The lines and the exit status, the upper's path being `U`.
fn told(upper: &Path, output: &Output) -> (Vec<String>, i32) {
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8_lossy(&output.stdout).replace(upper.to_str().unwrap(), "U");
    (text.lines().map(String::from).collect(), output.status.code().unwrap())
}

fn check(tree: &TestTree, more: &[&str]) -> (Vec<String>, i32) {
    let (upper, lower) = (tree.branch(0), tree.branch(1).to_str().unwrap());
    let args = [&["check", upper.to_str().unwrap(), "--lower", lower], more].concat();
    told(upper, &run(&args))
}

/// What a union of the branches shows.
fn shown(tree: &TestTree) -> Tree {
    let mnt = tree.beside("shown");
    fs::create_dir_all(&mnt).unwrap();
    ok(run(&["mount", "-o", "ro", &tree.list(), mnt.to_str().unwrap()]));
    let shown = read_tree(&mnt);
    ok(run(&["umount", "--lazy", mnt.to_str().unwrap()]));
    shown
}

#[test]
fn uppers_that_unions_wrote_are_clean() {
    for writer in WRITERS {
        let scene = Scene::new(writer);
        assert_eq!(String::from_utf8_lossy(&scene.tool("check", &[])), "", "{writer:?}");
        let alone = ok(run(&["check", &scene.upper()]));
        assert_eq!(String::from_utf8_lossy(&alone), "", "{writer:?}, lowers unknown");
    }
}

/// A case: its name, what is put into the upper, the finding, and what becomes of it with `--repair`.
type Case<'c> = (&'c str, &'c dyn Fn(&Path), &'c str, Result<&'c str, &'c str>);

/// Finds each problem, repairs it without changing what the union shows, and finds nothing more.
fn find_and_repair(cases: &[Case<'_>]) {
    for (case, fill, finding, remedy) in cases {
        let lower = "f=f g=g d/x=x d/sub/y=y one=1 two=>one";
        let tree = TestTree::build(2, 1, |index, root| match index {
            0 => fill(root),
            _ => drop(lower.split(' ').map(|word| crate::scene::put_plain(root, word)).collect::<Vec<_>>()),
        });
        let (lines, status) = check(&tree, &[]);
        let end = match remedy {
            Ok(done) => format!("[with --repair: {done}]"),
            Err(advice) => format!("[{advice}]"),
        };
        assert_eq!(lines, [format!("{finding} {end}")], "{case}");
        assert_eq!(status, 1, "{case}");
        let before = remedy.is_ok().then(|| shown(&tree));
        let (lines, status) = check(&tree, &["--repair"]);
        match remedy {
            Ok(done) => {
                assert_eq!((lines, status), (vec![format!("{finding} [{done}]")], 1), "{case}: repair");
                assert_eq!(check(&tree, &[]), (Vec::new(), 0), "{case}: after the repair");
                let changed = difference(&before.unwrap(), &shown(&tree));
                assert!(
                    changed.is_none(),
                    "{case}: the repair changed what the union shows:\n{}",
                    changed.unwrap()
                );
            }
            Err(advice) => {
                assert_eq!((lines, status), (vec![format!("{finding} [{advice}]")], 4), "{case}: repair");
            }
        }
    }
}

#[test]
fn whiteouts_that_do_nothing_are_found_and_removed() {
    find_and_repair(&[
        (
            "nothing below",
            &|upper| fs::write(upper.join(".wh.none"), "").unwrap(),
            "U/.wh.none: dangling whiteout: there is nothing to hide",
            Ok("removed"),
        ),
        (
            "a device in an opaque directory",
            &|upper| {
                fs::create_dir(upper.join("d")).unwrap();
                set(&upper.join("d"), OPAQUE, "y");
                node(&upper.join("d/x"), FileType::CharacterDevice, 0);
            },
            "U/d/x: dangling whiteout: there is nothing to hide",
            Ok("removed"),
        ),
        (
            "beside a file",
            &|upper| {
                fs::write(upper.join("f"), "up").unwrap();
                fs::write(upper.join(".wh.f"), "").unwrap();
            },
            "U/.wh.f: whiteout beside an object of its own branch",
            Ok("removed"),
        ),
        (
            "beside a directory, as a crash in mkdir leaves it",
            &|upper| {
                fs::create_dir(upper.join("d")).unwrap();
                fs::write(upper.join(".wh.d"), "").unwrap();
            },
            "U/.wh.d: whiteout beside an object of its own branch",
            Ok("removed"),
        ),
        (
            "with content",
            &|upper| fs::write(upper.join(".wh.f"), "content").unwrap(),
            "U/.wh.f: named like a whiteout, but it is no empty file",
            Err("rename or remove it"),
        ),
        (
            "of a long name that is another",
            &|upper| fs::write(upper.join(".wh..wh.long.00ff"), "n".repeat(255)).unwrap(),
            "U/.wh..wh.long.00ff: whiteout of a long name that does not fit its content",
            Ok("removed"),
        ),
        (
            "of a device that is gone",
            &|upper| fs::write(upper.join(".wh..wh.dev.null"), "").unwrap(),
            "U/.wh..wh.dev.null: mark of a character device 0:0 that is gone",
            Ok("removed"),
        ),
    ]);
}

#[test]
fn marks_of_directories_are_found_and_repaired() {
    let dir = |upper: &Path, name: &str| fs::create_dir(upper.join(name)).unwrap();
    find_and_repair(&[
        (
            "redirect to nowhere",
            &|upper| {
                dir(upper, "moved");
                fs::write(upper.join("moved/.wh..wh..opq"), "/none/at/all").unwrap();
                fs::write(upper.join("moved/in"), "").unwrap();
            },
            "U/moved: broken redirect: the branches below have no directory /none/at/all",
            Ok("made opaque"),
        ),
        (
            "redirect to a file, in kernel overlay's format",
            &|upper| {
                dir(upper, "moved");
                set(&upper.join("moved"), REDIRECT, "/f");
            },
            "U/moved: broken redirect: the branches below have no directory /f",
            Ok("made opaque"),
        ),
        (
            "opaque and redirected",
            &|upper| {
                dir(upper, "moved");
                set(&upper.join("moved"), REDIRECT, "/d");
                set(&upper.join("moved"), OPAQUE, "y");
            },
            "U/moved: both opaque and redirected",
            Err("remove one of the marks"),
        ),
        (
            "a value that is no mark",
            &|upper| {
                dir(upper, "d");
                set(&upper.join("d"), OPAQUE, "n");
                dir(upper, "other");
                set(&upper.join("other"), OPAQUE, "y");
            },
            "U/d: attribute trusted.overlay.opaque has no value that is a mark",
            Ok("removed"),
        ),
        (
            "metadata without content",
            &|upper| {
                fs::File::create(upper.join("hollow")).unwrap().set_len(9).unwrap();
                set(&upper.join("hollow"), "trusted.overlay.metacopy", "");
            },
            "U/hollow: has only metadata, and the branches below have no content for it",
            Err("name all branches below, or restore the file"),
        ),
    ]);
}

#[test]
fn marks_of_another_format_are_found_and_rewritten() {
    let aufs = |upper: &Path| {
        for name in [".wh.f", ".wh.g", ".wh.one"] {
            fs::write(upper.join(name), "").unwrap();
        }
        fs::create_dir(upper.join("d")).unwrap();
    };
    find_and_repair(&[
        (
            "kernel overlay's whiteout",
            &|upper| {
                aufs(upper);
                node(&upper.join("d/x"), FileType::CharacterDevice, 0);
            },
            "U/d: a mark of another format than aufs, which the branch has",
            Ok("rewritten"),
        ),
        (
            "fuse-overlayfs's opaque mark",
            &|upper| {
                aufs(upper);
                set(&upper.join("d"), "user.fuseoverlayfs.opaque", "y");
            },
            "U/d: a mark of another format than aufs, which the branch has",
            Ok("rewritten"),
        ),
        (
            "what may be a whiteout in kernel overlay's format",
            &|upper| {
                for name in ["f", "g"] {
                    node(&upper.join(name), FileType::CharacterDevice, 0);
                }
                fs::write(upper.join(".wh.one"), "").unwrap();
            },
            "U: a mark of another format than overlay, which the branch has",
            Err("run 'unionfs convert --to overlay'"),
        ),
    ]);
}

#[test]
fn records_of_origins_that_are_not_their_own_are_found_and_removed() {
    find_and_repair(&[
        (
            "copied from another branch",
            &|upper| {
                fs::write(upper.join("f"), "up").unwrap();
                set(&upper.join("f"), ORIGIN, "123@1");
            },
            "U/f: record of an origin that is not its own",
            Ok("record removed"),
        ),
        (
            "nonsense",
            &|upper| {
                fs::write(upper.join("f"), "up").unwrap();
                set(&upper.join("f"), "user.unionfs.origin", "nonsense");
            },
            "U/f: record of an origin that is not its own",
            Ok("record removed"),
        ),
        (
            "two that claim one",
            &|upper| {
                for name in ["f", "g"] {
                    fs::write(upper.join(name), "up").unwrap();
                    let own = fs::metadata(upper.join(name)).unwrap().ino();
                    set(&upper.join(name), ORIGIN, format!("123@{own}"));
                }
            },
            "U/g: record of the same origin as /f has",
            Ok("record removed"),
        ),
    ]);
}

#[test]
fn leftovers_of_a_crash_are_found_and_removed() {
    find_and_repair(&[
        (
            "in the work directory",
            &|upper| {
                fs::create_dir_all(upper.join(".wh..wh.work/work/7")).unwrap();
                fs::write(upper.join(".wh..wh.work/work/7/half"), "a half copy").unwrap();
            },
            "U/.wh..wh.work/work/7: left over in the work directory",
            Ok("removed"),
        ),
        (
            "of a conversion",
            &|upper| {
                fs::create_dir(upper.join(".wh..wh.work")).unwrap();
                std::os::unix::fs::symlink("overlay", upper.join(".wh..wh.work/converting")).unwrap();
                fs::write(upper.join(".wh.none"), "").unwrap();
            },
            "U/.wh..wh.work/converting: a conversion was interrupted",
            Err("run 'unionfs convert' again"),
        ),
        (
            "foreign things in the index",
            &|upper| {
                fs::create_dir_all(upper.join(".wh..wh.work/links")).unwrap();
                fs::write(upper.join(".wh..wh.work/links/readme"), "hello").unwrap();
            },
            "U/.wh..wh.work/links/readme: no entry of an index of hard links",
            Err("move it away"),
        ),
    ]);
}

/// A union in which one of two names of a lower file was changed, and the index entry of the copy.
fn with_index() -> (TestMount, u64) {
    let mut mount = TestMount::new(&["", "one=1 two=>one f=f"]);
    fs::write(mount.path("one"), "changed").unwrap();
    let ino = fs::metadata(mount.path("two")).unwrap().ino();
    assert!(mount.unmount().success());
    assert!(mount.upper(format!(".wh..wh.work/links/{ino}")).exists());
    (mount, ino)
}

#[test]
fn an_orphaned_copy_is_kept_in_lost_and_found() {
    let (mount, ino) = with_index();
    fs::remove_file(mount.upper("one")).unwrap();
    for name in [".wh.one", ".wh.two"] {
        fs::write(mount.upper(name), "").unwrap();
    }
    let (lines, status) = check(mount.tree(), &["--repair"]);
    assert_eq!((lines.len(), status), (1, 1), "{lines:?}");
    assert!(lines[0].contains(&format!("/{ino}: orphan in the index of hard links")), "{lines:?}");
    assert_eq!(check(mount.tree(), &[]), (Vec::new(), 0));
    let kept = mount.upper(format!(".wh..wh.work/lost+found/{ino}"));
    assert_eq!(fs::read_to_string(kept).unwrap(), "changed");
    // Without the branches below nobody can tell whether a name leads to it.
    let (mount, _) = with_index();
    fs::remove_file(mount.upper("one")).unwrap();
    let output = run(&["check", mount.upper("").to_str().unwrap(), "--repair"]);
    assert_eq!(told(&mount.upper(""), &output), (Vec::new(), 0));
}

#[test]
fn an_index_that_has_another_file_is_left_to_the_user() {
    let (mount, ino) = with_index();
    let entry = mount.upper(format!(".wh..wh.work/links/{ino}"));
    fs::remove_file(&entry).unwrap();
    fs::write(&entry, "another file").unwrap();
    let want =
        vec!["U/one: the index of hard links has another file for its origin [keep one of the two files]"];
    let (lines, status) = check(mount.tree(), &["--repair"]);
    assert_eq!((lines.iter().map(String::as_str).collect(), status), (want, 4));
    assert_eq!(fs::read_to_string(entry).unwrap(), "another file");
}

#[test]
fn a_mounted_upper_is_not_checked() {
    for format in ["aufs", "overlay"] {
        let mount = TestMount::over(TestTree::new(&["", "f=f"]), &["-o", &format!("format={format}")]);
        for subject in [mount.upper(""), mount.root()] {
            let output = run(&["check", "--repair", subject.to_str().unwrap()]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(8), "{said}");
            assert!(said.contains("unmount it"), "{said}");
        }
    }
}
