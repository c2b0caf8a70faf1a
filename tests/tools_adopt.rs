//! Branches that Debian's unionfs-fuse has written: `unionfs convert` makes its whiteouts ours.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::convert::{CHANGES, Struck, strike};
use crate::scene::ok;
use crate::support::branches::{TestTree, fingerprint};
use crate::support::mount::{host_ok, run};

const LOWERS: [&str; 2] = [
    "gone=1 link->gone deep/er/f=f deep/er/g=g deep/kept=k opaque/old=o opaque/sub/x=x all/in/it=i twice=t back=b",
    "deep/er/f=below gone=2 opaque/older=o all/too=t x_HIDDEN~/f=f",
];

/// Two lower branches, and a directory of theirs whose look only they know.
fn tree() -> TestTree {
    TestTree::build(3, 1, |index, root| {
        let Some(words) = index.checked_sub(1).map(|lower| LOWERS[lower]) else { return };
        words.split_whitespace().for_each(|word| crate::scene::put_plain(root, word));
        if index == 1 {
            host_ok("chmod", &["2751".as_ref(), root.join("deep/er").as_os_str()]);
            host_ok("chown", &["12:34".as_ref(), root.join("deep").as_os_str()]);
            host_ok("touch", &["-d".as_ref(), "2001-02-03".as_ref(), root.join("deep").as_os_str()]);
        }
    })
}

/// All that a user can see of a tree, one object a line. (unionfs-fuse serves no attributes to be compared.)
fn seen(at: &Path) -> String {
    let script = "cd \"$1\"; find . -name .unionfs-fuse -prune -o -printf '%P %y %m %U:%G %n %l %T@\\n' |
        sed -E '/ d /s/ [0-9]+  / /' | sort
        find . -name .unionfs-fuse -prune -o -type f -print0 | sort -z | xargs -0 sha256sum";
    let output = Command::new("sh").args(["-ec", script, "sh"]).arg(at).output().unwrap();
    String::from_utf8(ok(output)).unwrap()
}

/// Mounts unionfs-fuse, lets everything happen that it keeps record of, and tells what it showed then.
fn history(tree: &TestTree) -> String {
    let at = tree.beside("theirs");
    fs::create_dir_all(&at).unwrap();
    let [upper, one, two] = [0, 1, 2].map(|index| tree.branch(index).display());
    let script = format!(
        "unionfs-fuse -o cow,allow_other {upper}=RW:{one}=RO:{two}=RO {0} && cd {0} || exit 1
         rm gone link deep/er/f x_HIDDEN~/f; rm -r opaque all; mkdir opaque; echo new > opaque/old
         rm twice; mkdir twice; echo n > twice/n; rm back; echo again > back; cd /",
        at.display()
    );
    host_ok("sh", &["-ec".as_ref(), script.as_ref()]);
    let seen = seen(&at);
    host_ok("umount", &[at.as_os_str()]);
    seen
}

/// What our union shows of the branches.
fn ours(tree: &TestTree) -> String {
    let at = tree.beside("ours");
    fs::create_dir_all(&at).unwrap();
    let branches = tree.list();
    ok(run(&["mount", "-o", "ro", &branches, at.to_str().unwrap()]));
    let seen = seen(&at);
    ok(run(&["umount", "--lazy", at.to_str().unwrap()]));
    seen
}

fn lowers(tree: &TestTree) -> String {
    format!("{}:{}", tree.branch(1).display(), tree.branch(2).display())
}

fn has_foreign(upper: &Path) -> bool {
    upper.join(".unionfs-fuse").exists()
}

#[test]
fn the_command_that_the_mount_names_makes_unionfs_fuses_whiteouts_ours() {
    for to in ["aufs", "overlay"] {
        let tree = tree();
        let want = history(&tree);
        let at = tree.beside("mnt");
        fs::create_dir_all(&at).unwrap();
        let output = run(&["mount", &tree.list(), at.to_str().unwrap()]);
        let warning = String::from_utf8(output.stderr.clone()).unwrap();
        ok(output);
        ok(run(&["umount", at.to_str().unwrap()]));
        let command = warning.split("once: unionfs ").nth(1).unwrap().trim_end().trim_end_matches(')');
        let command = command.replace("--to aufs", &format!("--to {to}"));
        let program = env!("CARGO_BIN_EXE_unionfs");
        let said = Command::new("sh").args(["-c", &format!("{program} {command}")]).output().unwrap();
        let said = String::from_utf8(ok(said)).unwrap();
        assert!(said.contains("8 whiteouts of unionfs-fuse adopted"), "{to}: {said}");
        assert!(!has_foreign(tree.branch(0)), "{to}: its tree is left");
        assert_eq!(want, ours(&tree), "{to}");
        let again = run(&["mount", &tree.list(), at.to_str().unwrap()]);
        assert_eq!(String::from_utf8(again.stderr.clone()).unwrap(), "", "{to}: nothing is left to warn of");
        ok(again);
        ok(run(&["umount", at.to_str().unwrap()]));
    }
}

#[test]
fn an_adoption_killed_anywhere_can_be_finished() {
    let tree = tree();
    let want = history(&tree);
    // What is put into a directory changes its time until it is put back: a kill between the two is seen, as with copies
    // that a mount makes.
    let timeless = |seen: &str| {
        let stable = |line: &str| match line.rsplit_once(' ') {
            Some((rest, _)) if line.contains(" d ") => rest.to_owned(),
            _ => line.to_owned(),
        };
        seen.lines().map(stable).collect::<Vec<_>>()
    };
    let (saved, mut kills) = (tree.beside("saved"), 0);
    host_ok("cp", &["-a".as_ref(), tree.branch(0).as_os_str(), saved.as_os_str()]);
    for call in CHANGES {
        for when in 1.. {
            let upper = tree.branch(0).to_str().unwrap();
            let arguments = ["--to", "aufs", "--lower", &lowers(&tree), upper];
            let ended = matches!(strike(&arguments, call, "signal=KILL", when), Struck::Missed);
            let case = format!("killed at {call} {when}");
            if !ended {
                kills += 1;
                assert!(
                    has_foreign(tree.branch(0)) || timeless(&want) == timeless(&ours(&tree)),
                    "{case}: the record is lost"
                );
                ok(run(&[&["convert"], &arguments[..]].concat()));
            }
            assert_eq!(timeless(&want), timeless(&ours(&tree)), "{case}");
            assert!(!has_foreign(tree.branch(0)), "{case}: its tree is left");
            let script = "find \"$1\" -mindepth 1 -delete; cp -a \"$2/.\" \"$1\"";
            let places = [tree.branch(0).as_os_str(), saved.as_os_str()];
            host_ok("sh", &[&["-ec", script, "sh"].map(AsRef::as_ref)[..], &places].concat());
            if ended {
                break;
            }
        }
    }
    assert!(kills > 40, "only {kills} places to be killed at");
}

#[test]
fn a_directory_that_only_the_branches_below_have_needs_them() {
    let tree = TestTree::new(&[".unionfs/d/f_HIDDEN~=", "d/f=f d/g=g"]);
    let before = fingerprint(tree.branch(0));
    let output = run(&["convert", "--to", "aufs", tree.branch(0).to_str().unwrap()]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("\"/d\"") && said.contains("--lower"), "{said}");
    assert_eq!(fingerprint(tree.branch(0)), before, "something was changed");
}

#[test]
fn what_is_no_whiteout_is_not_lost() {
    for (case, upper, refused) in [
        ("among whiteouts", ".unionfs/f_HIDDEN~= .unionfs/notes=mine", true),
        ("a user's directory", ".unionfs/notes=mine .unionfs-fuse/sub/n=mine", false),
    ] {
        let tree = TestTree::new(&[upper, "f=f"]);
        let before = fingerprint(tree.branch(0));
        let output = run(&["convert", "--to", "aufs", tree.branch(0).to_str().unwrap()]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(!output.status.success(), refused, "{case}: {said}");
        assert!(!refused || said.contains("notes"), "{case}: {said}");
        assert_eq!(fingerprint(tree.branch(0)), before, "{case}: something was changed");
    }
}
