//! `unionfs convert`.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rustix::fs::FileType;

use crate::scene::{KernelMount, Scene, carried, mtimes, node, ok};
use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, run};
use crate::support::tree::{Tree, difference, read_tree, read_xattrs};

/// The paths of all objects of a branch.
fn paths(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut pending = vec![root.to_owned()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.symlink_metadata().unwrap().is_dir() {
                pending.push(path.clone());
            }
            found.push(path);
        }
    }
    found
}

fn has_aufs_marks(upper: &Path) -> bool {
    paths(upper).iter().any(|path| path.file_name().unwrap().to_string_lossy().starts_with(".wh."))
}

fn has_overlay_marks(upper: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let marked = |path: &PathBuf| {
        let meta = path.symlink_metadata().unwrap();
        let names = read_xattrs(path);
        let mark = |name: &str| ["opaque", "redirect", "whiteout"].iter().any(|word| name.ends_with(word));
        meta.file_type().is_char_device() && meta.rdev() == 0
            || names
                .keys()
                .any(|name| name.to_string_lossy().contains(".overlay.") && mark(&name.to_string_lossy()))
    };
    paths(upper).iter().any(marked)
}

fn assert_same(case: &str, want: &Tree, got: &Tree) {
    let changed = difference(&carried(want), &carried(got));
    assert!(changed.is_none(), "{case}:\n{}", changed.unwrap());
}

/// A tree as the kernel shows it, which does not know that two lower names were one file.
fn without_links(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    tree.retain(|path, _| path != Path::new("b") && path != Path::new("b2"));
    tree
}

#[test]
fn kernel_overlay_mounts_what_was_aufs_and_shows_the_same() {
    let scene = Scene::over_kernel_marks();
    let upper = scene.tree().branch(0);
    assert!(has_aufs_marks(upper) && !has_overlay_marks(upper));
    ok(run(&["convert", "--to", "overlay", &scene.upper()]));
    assert!(has_overlay_marks(upper) && !has_aufs_marks(upper));
    {
        let mount = KernelMount::new(scene.tree(), "redirect_dir=on");
        let got = read_tree(&mount.root);
        assert_same("the kernel's view", &without_links(&scene.merged), &without_links(&got));
        let times = mtimes(&mount.root, &without_links(&got));
        let mut want = scene.times.clone();
        want.retain(|(path, _)| path != Path::new("b") && path != Path::new("b2"));
        assert_eq!(times, want, "times in the kernel's view");
    }
    let (got, times) = scene.shown("overlay");
    assert_same("our view, with hard links", &scene.merged, &got);
    assert_eq!(times, scene.times);
}

#[test]
fn what_the_kernel_wrote_becomes_aufs_and_shows_the_same() {
    let scene = Scene::kernels("redirect_dir=on,metacopy=off");
    let upper = scene.tree().branch(0);
    assert!(has_overlay_marks(upper));
    ok(run(&["convert", "--to", "aufs", &scene.upper()]));
    assert!(has_aufs_marks(upper) && !has_overlay_marks(upper));
    let (got, times) = scene.shown("aufs");
    assert_same("our view", &scene.merged, &got);
    assert_eq!(times, scene.times);
}

#[test]
fn converting_again_changes_nothing() {
    let scene = Scene::over_kernel_marks();
    for to in ["overlay", "aufs"] {
        ok(run(&["convert", "--to", to, &scene.upper()]));
        let before = crate::support::branches::fingerprint(scene.tree().branch(0));
        let said = ok(run(&["convert", "--to", to, &scene.upper()]));
        let said = String::from_utf8(said).unwrap();
        assert!(said.contains(": 0 whiteouts, 0 opaque directories, 0 renamed"), "{said}");
        let mut after = crate::support::branches::fingerprint(scene.tree().branch(0));
        let mut before = before;
        // The work directory came and went, which changes the root's ctime.
        for print in [&mut before, &mut after] {
            print.retain(|path, _| !path.as_os_str().is_empty() && !path.starts_with(".wh..wh.work"));
        }
        assert_eq!(before, after, "{to}");
    }
}

/// How a conversion ended that strace struck.
pub(crate) enum Struck {
    /// There is no such call any more; it went through.
    Missed,
    /// It was killed.
    Killed,
    /// It went on, and says what it says.
    Output(Output),
}

/// Runs a conversion that is struck at the `when`th call of a system call: `how` is strace(1)'s word.
pub(crate) fn strike(arguments: &[&str], call: &str, how: &str, when: u32) -> Struck {
    let (inject, trace) = (format!("inject={call}:{how}:when={when}"), format!("trace={call}"));
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command.args(["-qq", "-o", log.path().to_str().unwrap(), "-e", &trace, "-e", &inject]);
    command.args([env!("CARGO_BIN_EXE_unionfs"), "convert"]).args(arguments);
    let output: Output =
        command.output().unwrap_or_else(|error| panic!("strace: {error}: run scripts/setup.sh"));
    if output.status.signal() == Some(9) {
        Struck::Killed
    } else if fs::read_to_string(log.path()).unwrap().contains("(INJECTED)") {
        Struck::Output(output)
    } else {
        ok(output);
        Struck::Missed
    }
}

/// The system calls that change anything.
pub(crate) const CHANGES: [&str; 11] = [
    "mknodat",
    "renameat",
    "unlinkat",
    "setxattr",
    "removexattr",
    "symlinkat",
    "linkat",
    "mkdirat",
    "pwrite64",
    "fsync",
    "utimensat",
];

/// The system calls that open.
const OPENS: [&str; 1] = ["openat"];

#[test]
fn a_conversion_to_overlay_killed_anywhere_can_be_finished() {
    assert!(strike_everywhere("overlay", "aufs", "signal=KILL", &CHANGES) > 60);
}

#[test]
fn a_conversion_to_aufs_killed_anywhere_can_be_finished() {
    assert!(strike_everywhere("aufs", "overlay", "signal=KILL", &CHANGES) > 60);
}

#[test]
fn a_conversion_to_overlay_that_fails_anywhere_says_so_and_can_be_finished() {
    for (errno, calls) in [("ENOSPC", &CHANGES[..]), ("EDQUOT", &CHANGES), ("EMFILE", &OPENS)] {
        assert!(strike_everywhere("overlay", "aufs", &format!("error={errno}"), calls) > 20);
    }
}

#[test]
fn a_conversion_to_aufs_that_fails_anywhere_says_so_and_can_be_finished() {
    for errno in ["EIO", "ENOMEM"] {
        assert!(strike_everywhere("aufs", "overlay", &format!("error={errno}"), &CHANGES) > 20);
    }
}

/// Strikes a conversion at each of these calls in turn, looks at what is left, and finishes it; tells how many ended
/// early.
fn strike_everywhere(to: &str, from: &str, how: &str, calls: &[&str]) -> usize {
    let scene = Scene::over_kernel_marks();
    let upper = scene.tree().branch(0);
    ok(run(&["convert", "--to", from, &scene.upper()]));
    let mut ended = 0;
    for call in calls {
        for when in 1.. {
            let struck = strike(&["--to", to, &scene.upper()], call, how, when);
            let case = format!("--to {to}, {how} at {call} {when}");
            let early = match &struck {
                Struck::Missed => false,
                Struck::Killed => true,
                Struck::Output(output) => {
                    let said = String::from_utf8_lossy(&output.stderr);
                    assert!(output.status.success() || said.lines().count() == 1, "{case}: {said}");
                    !output.status.success()
                }
            };
            if early {
                ended += 1;
                check_interrupted(&case, &scene, upper, from, to);
                ok(run(&["convert", "--to", to, &scene.upper()]));
            }
            let (got, times) = scene.shown(to);
            assert_same(&case, &scene.merged, &got);
            assert_eq!(times, scene.times, "{case}: times");
            let left = if to == "overlay" { has_aufs_marks(upper) } else { has_overlay_marks(upper) };
            assert!(!left, "{case}: old marks are left");
            ok(run(&["convert", "--to", from, &scene.upper()]));
            if matches!(struck, Struck::Missed) {
                break;
            }
        }
    }
    ended
}

/// After a kill the upper reads the same: with the format it had or will have, or, half done, as aufs only.
fn check_interrupted(case: &str, scene: &Scene, upper: &Path, from: &str, to: &str) {
    let unfinished = upper.join(".wh..wh.work/converting").symlink_metadata().is_ok();
    let format = match unfinished {
        true => "aufs",
        // Not begun, or all but the cleaning done: the name of the renamed directory tells.
        false if upper.join(".wh.old").exists() == (from == "aufs") => from,
        false => to,
    };
    let (got, _) = scene.shown(format);
    let mut want = scene.merged.clone();
    let mut got = got;
    for node in want.values_mut().chain(got.values_mut()) {
        // A directory's times come back when it is done.
        node.mtime = None;
    }
    assert_same(case, &want, &got);
    if unfinished {
        let mnt = scene.tree().beside("refused");
        fs::create_dir_all(&mnt).unwrap();
        let branches = format!("{}=rw:{}", scene.upper(), scene.lowers());
        let output = run(&["mount", "-o", "format=overlay", &branches, mnt.to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains("unionfs convert"), "{case}: {said}");
    }
}

#[test]
fn what_the_other_format_cannot_hold_is_refused_by_name() {
    let kernel = "trusted.overlay.opaque";
    let set = |path: PathBuf, name: &str, value: &[u8]| {
        rustix::fs::setxattr(path, name, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    type Fill<'f> = &'f dyn Fn(&Path);
    let cases: [(&str, &str, &str, Fill<'_>); 5] = [
        ("a device", "overlay", "/null: kernel overlay takes", &|upper| {
            node(&upper.join("null"), FileType::CharacterDevice, 0);
            fs::write(upper.join(".wh..wh.dev.null"), "").unwrap();
        }),
        ("no whiteout", "overlay", "/.wh.full: it is no whiteout", &|upper| {
            fs::write(upper.join(".wh.full"), "content").unwrap();
        }),
        ("aufs's plink", "overlay", "/.wh..wh.plnk: it belongs to aufs", &|upper| {
            fs::create_dir(upper.join(".wh..wh.plnk")).unwrap();
            fs::write(upper.join(".wh..wh.plnk/1.2"), "").unwrap();
        }),
        (
            "a user's name",
            "aufs",
            "/dir/.wh.mine: in kernel overlay's format this name is a user's",
            &|upper| {
                fs::create_dir(upper.join("dir")).unwrap();
                set(upper.join("dir"), kernel, b"y");
                fs::write(upper.join("dir/.wh.mine"), "").unwrap();
            },
        ),
        ("metadata only", "aufs", "/hollow: its content is in the branches below", &|upper| {
            fs::File::create(upper.join("hollow")).unwrap().set_len(10).unwrap();
            set(upper.join("hollow"), "trusted.overlay.metacopy", b"");
        }),
    ];
    for (case, to, want, fill) in cases {
        let tree = TestTree::build(1, 1, |_, root| fill(root));
        let before = paths(tree.branch(0));
        let output = run(&["convert", "--to", to, tree.branch(0).to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap().replace('"', "");
        assert!(!output.status.success() && said.contains(want), "{case}: {said}");
        assert_eq!(paths(tree.branch(0)), before, "{case}: something was changed");
    }
}

#[test]
fn an_upper_in_use_is_not_converted() {
    for format in ["aufs", "overlay"] {
        let mount = TestMount::over(TestTree::new(&["", "f=f"]), &["-o", &format!("format={format}")]);
        for subject in [mount.upper(""), mount.root()] {
            let output = run(&["convert", "--to", "overlay", subject.to_str().unwrap()]);
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("unmount it"), "{format}: {said}");
        }
    }
    let tree = TestTree::new(&["", "", ""]);
    let _mount = KernelMount::new(&tree, "redirect_dir=on");
    let output = run(&["convert", "--to", "aufs", tree.branch(0).to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("kernel overlay has it mounted"), "{said}");
}

#[test]
fn userxattr_marks_are_written_and_read_by_the_kernel() {
    let mut mount = TestMount::new(&["", "d/f=f gone=g", "d/g=g"]);
    fs::remove_file(mount.path("gone")).unwrap();
    fs::remove_dir_all(mount.path("d")).unwrap();
    fs::create_dir(mount.path("d")).unwrap();
    let want = read_tree(&mount.root());
    assert!(mount.unmount().success());
    ok(run(&["convert", "--to", "overlay", "--userxattr", mount.upper("").to_str().unwrap()]));
    let names: Vec<_> = read_xattrs(&mount.upper("d")).into_keys().collect();
    assert!(names.iter().any(|name| name == "user.overlay.opaque"), "{names:?}");
    let kernel = KernelMount::new(mount.tree(), "userxattr");
    assert_same("userxattr", &want, &read_tree(&kernel.root));
}
