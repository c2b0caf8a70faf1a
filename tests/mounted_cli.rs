//! The command line: what it accepts, what it refuses and how, and what a mount looks like to the host.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::support::branches::{TestTree, ls, visible};
use crate::support::mount::{TestMount, is_mounted, run};

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn ok(output: Output) -> String {
    assert!(output.status.success(), "{}: {}", output.status, text(&output.stderr));
    text(&output.stdout)
}

/// The line of /proc/self/mounts for a mount point.
fn mounts_line(at: &Path) -> Option<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    mounts.lines().find(|line| line.split(' ').nth(1) == at.to_str()).map(String::from)
}

#[test]
fn mount_returns_when_the_mount_answers_and_umount_ends_it() {
    let tree = TestTree::new(&["a=a", "b=b"]);
    let root = tree.beside("mnt");
    fs::create_dir(&root).unwrap();
    let list = tree.list();
    ok(run(&["mount", &list, root.to_str().unwrap()]));
    assert_eq!(ls(&root), "a b");

    let line = mounts_line(&root).expect("in /proc/mounts");
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(words[2], "fuse.unionfs", "{line}");
    for branch in [tree.branch(0), tree.branch(1)] {
        assert!(line.contains(branch.to_str().unwrap()), "{branch:?} is not in {line}");
    }
    for option in ["rw", "allow_other", "default_permissions"] {
        assert!(words[3].split(',').any(|word| word == option), "no {option} for root: {line}");
    }

    ok(run(&["umount", root.to_str().unwrap()]));
    assert!(!is_mounted(&root));
    assert_eq!(mounts_line(&root), None);
}

#[test]
fn branches_are_told_as_aufs_tells_them() {
    let tree = TestTree::new(&["", "", ""]);
    let [a, b, c] = [0, 1, 2].map(|index| tree.branch(index).to_str().unwrap().to_owned());
    let root = tree.beside("mnt");
    fs::create_dir(&root).unwrap();
    let root = root.to_str().unwrap();
    for (case, list, want) in [
        ("defaults", format!("{a}:{b}:{c}"), format!("{a}=rw\n{b}=ro+wh\n{c}=ro+wh\n")),
        ("explicit", format!("{a}=rw:{b}=ro+wh:{c}=rr"), format!("{a}=rw\n{b}=ro+wh\n{c}=rr\n")),
        ("ro without whiteouts", format!("{a}=rw:{b}=ro"), format!("{a}=rw\n{b}=ro\n")),
    ] {
        ok(run(&["mount", &list, root]));
        let got = ok(run(&["branches", root]));
        ok(run(&["umount", root]));
        assert_eq!(got, want, "{case}");
    }
}

#[test]
fn aufs_spellings_of_the_branch_list_mount_the_same() {
    let tree = TestTree::new(&["a=a", "b=b"]);
    let list = tree.list();
    let root = tree.beside("mnt");
    fs::create_dir(&root).unwrap();
    let root = root.to_str().unwrap();
    for option in [
        format!("dirs={list}"),
        format!("br={list}"),
        format!("noatime,dirs={list},nodev"),
        format!("br:{list}"),
    ] {
        ok(run(&["mount", "-o", &option, root]));
        let seen = ls(Path::new(root));
        ok(run(&["umount", root]));
        assert_eq!(seen, "a b", "{option}");
    }
}

#[test]
fn colons_in_branch_paths_are_escaped() {
    let tree = TestTree::new(&["a=a"]);
    let odd = tree.beside("odd:na,me=ro x");
    fs::create_dir(&odd).unwrap();
    fs::write(odd.join("b"), "b").unwrap();
    let root = tree.beside("mnt");
    fs::create_dir(&root).unwrap();
    let list = format!("{}:{}=ro+wh", tree.branch(0).display(), odd.to_str().unwrap().replace(':', r"\:"));
    ok(run(&["mount", &list, root.to_str().unwrap()]));
    let (seen, told) = (ls(&root), ok(run(&["branches", root.to_str().unwrap()])));
    ok(run(&["umount", root.to_str().unwrap()]));
    assert_eq!(seen, "a b");
    assert!(
        told.contains(odd.to_str().unwrap()) || told.contains(&odd.to_str().unwrap().replace(':', r"\:")),
        "{told}"
    );
}

#[test]
fn kernel_mount_options_reach_the_mount() {
    let c = TestMount::over(TestTree::new(&["a=a", "b=b"]), &["-o", "ro,nodev,nosuid,noexec,noatime"]);
    let line = mounts_line(&c.root()).unwrap();
    let flags: Vec<_> = line.split(' ').nth(3).unwrap().split(',').collect();
    for flag in ["ro", "nodev", "nosuid", "noexec", "noatime"] {
        assert!(flags.contains(&flag), "no {flag}: {line}");
    }
    let error = fs::write(c.path("a"), "x").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EROFS));
}

#[test]
fn a_union_without_a_writable_branch_is_read_only() {
    let tree = TestTree::build(2, 0, |index, root| fs::write(root.join(format!("f{index}")), "x").unwrap());
    let c = TestMount::over(tree, &[]);
    assert_eq!(ls(&c.root()), "f0 f1");
    for (case, result) in [
        ("create", fs::write(c.path("new"), "x")),
        ("write", fs::write(c.path("f0"), "x")),
        ("unlink", fs::remove_file(c.path("f1"))),
        ("mkdir", fs::create_dir(c.path("d"))),
    ] {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS), "{case}");
    }
}

#[test]
fn signals_unmount_and_end_the_server() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut c = TestMount::new(&["a=a", "b=b"]);
        fs::write(c.path("b"), "changed").unwrap();
        kill_process(c.server(), signal).unwrap();
        let status = c.wait();
        assert!(status.success(), "{signal:?}: {status}");
        assert!(!is_mounted(&c.root()), "{signal:?} left the mount");
        assert_eq!(fs::read_to_string(c.upper("b")).unwrap(), "changed", "{signal:?}");
    }
}

#[test]
fn umount_of_a_busy_mount_says_so_and_leaves_it() {
    let c = TestMount::new(&["a=a", ""]);
    let held = fs::File::open(c.path("a")).unwrap();
    let output = run(&["umount", c.root().to_str().unwrap()]);
    assert!(!output.status.success());
    let said = text(&output.stderr);
    assert!(said.contains("busy") && said.contains(c.root().to_str().unwrap()), "{said}");
    assert_eq!(c.read("a"), "a", "still mounted");
    drop(held);
}

#[test]
fn a_branch_can_be_mounted_over() {
    let tree = TestTree::new(&["a=a", "b=b"]);
    let at = tree.branch(0).to_path_buf();
    ok(run(&["mount", &tree.list(), at.to_str().unwrap()]));
    let seen = ls(&at);
    fs::write(at.join("b"), "changed").unwrap();
    ok(run(&["umount", at.to_str().unwrap()]));
    assert_eq!(seen, "a b");
    assert_eq!(fs::read_to_string(at.join("b")).unwrap(), "changed", "the copy is in the branch below");
}

#[test]
fn help_and_version_are_answers_not_errors() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["mount", "--help"],
        &["branches", "--help"],
        &["umount", "--help"],
    ] {
        assert!(ok(run(args)).contains("unionfs"), "{args:?}");
    }
}

#[test]
fn bad_command_lines_are_refused_in_one_line_that_names_the_object() {
    let tree = TestTree::new(&["f=file", "", "sub/deeper/"]);
    let path = |name: &str| tree.beside(name).to_str().unwrap().to_owned();
    let [a, b, file, sub] = [
        tree.branch(0).to_owned(),
        tree.branch(1).into(),
        tree.branch(0).join("f"),
        tree.branch(2).join("sub"),
    ]
    .map(|path| path.to_str().unwrap().to_owned());
    let (mnt, full) = (path("mnt"), path("none"));
    fs::create_dir(&mnt).unwrap();
    let good = format!("{a}:{b}");
    for (case, args, code, words) in [
        ("no arguments", vec![], 2, vec!["Usage"]),
        ("unknown command", vec!["mnt".into()], 2, vec!["mnt"]),
        ("no branches", vec!["mount".into(), mnt.clone()], 1, vec!["branch"]),
        ("no mount point", vec!["mount".into(), good.clone()], 1, vec![]),
        (
            "unknown flag",
            vec!["mount".into(), "--frobnicate".into(), good.clone(), mnt.clone()],
            2,
            vec!["--frobnicate"],
        ),
        ("empty list", vec!["mount".into(), String::new(), mnt.clone()], 1, vec!["branch"]),
        ("hole in the list", vec!["mount".into(), format!("{a}::{b}"), mnt.clone()], 1, vec!["empty"]),
        ("unknown permission", vec!["mount".into(), format!("{a}=rx:{b}"), mnt.clone()], 1, vec!["rx"]),
        ("absent branch", vec!["mount".into(), format!("{a}:{full}"), mnt.clone()], 1, vec![&full]),
        ("branch is a file", vec!["mount".into(), format!("{a}:{file}"), mnt.clone()], 1, vec![&file]),
        ("absent mount point", vec!["mount".into(), good.clone(), full.clone()], 1, vec![&full]),
        ("mount point is a file", vec!["mount".into(), good.clone(), file.clone()], 1, vec![&file]),
        (
            "unknown option",
            vec!["mount".into(), "-o".into(), "frob=1".into(), good.clone(), mnt.clone()],
            1,
            vec!["frob"],
        ),
        ("the same branch twice", vec!["mount".into(), format!("{a}:{b}:{b}"), mnt.clone()], 1, vec![&b]),
        (
            "a branch inside another",
            vec!["mount".into(), format!("{sub}:{}", tree.branch(2).display()), mnt.clone()],
            1,
            vec![&sub],
        ),
        ("umount of no mount", vec!["umount".into(), mnt.clone()], 1, vec![&mnt]),
        ("umount of nothing", vec!["umount".into(), full.clone()], 1, vec![&full]),
        ("branches of no mount", vec!["branches".into(), mnt.clone()], 1, vec![&mnt]),
        ("branches of another filesystem", vec!["branches".into(), "/proc".into()], 1, vec!["/proc"]),
    ] {
        let output = run(&args);
        let said = text(&output.stderr);
        if is_mounted(Path::new(&mnt)) {
            run(&["umount", &mnt]);
            panic!("{case}: mounted: {said}");
        }
        assert_eq!(output.status.code(), Some(code), "{case}: {said}");
        assert!(words.iter().all(|word| said.contains(*word)), "{case}: {said:?} lacks one of {words:?}");
        assert!(code == 2 || said.trim_end().lines().count() == 1, "{case}: more than one line: {said}");
        assert!(!said.contains("panicked"), "{case}: {said}");
    }
    assert_eq!(visible(tree.branch(0)), "f", "a refused mount leaves nothing in the branch");
}

#[test]
fn the_server_leaves_no_process_and_no_file() {
    let tree = TestTree::new(&["a=a", "b=b d/c=c"]);
    let root = tree.beside("mnt");
    fs::create_dir(&root).unwrap();
    ok(run(&["mount", &tree.list(), root.to_str().unwrap()]));
    assert_eq!(ls(&root), "a b d");
    fs::write(root.join("d/c"), "changed").unwrap();
    ok(run(&["umount", root.to_str().unwrap()]));
    let end = Instant::now() + Duration::from_secs(60);
    while servers_of(&root) > 0 {
        assert!(Instant::now() < end, "the server still runs 10 s after umount");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(visible(tree.branch(0)), "a d");
}

/// Processes that have the mount point among their arguments.
fn servers_of(root: &Path) -> usize {
    let processes =
        fs::read_dir("/proc").unwrap().filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    let wanted = root.as_os_str().as_bytes();
    processes.filter(|line| line.split(|byte| *byte == 0).any(|word| word == wanted)).count()
}

#[test]
fn stats_tell_operations_caches_memory_and_the_data_mode() {
    let mount = TestMount::new(&["", "d/f=f d/g=g"]);
    for name in ["d/f", "d/g"] {
        assert_eq!(fs::read(mount.path(name)).unwrap().len(), 1);
        assert!(fs::metadata(mount.path(format!("{name}-absent"))).is_err());
    }
    ls(&mount.path("d"));
    let root = mount.root();
    let root = root.to_str().unwrap();
    let stats: serde_json::Value = serde_json::from_str(&ok(run(&["stats", "--json", root]))).unwrap();
    let lookup = stats["ops"].as_array().unwrap().iter().find(|op| op["op"] == "LOOKUP").unwrap();
    assert!(lookup["count"].as_u64() >= Some(5), "{lookup}");
    assert!(lookup["p50_us"].as_u64() <= lookup["p99_us"].as_u64(), "{lookup}");
    assert!(stats["nodes"].as_u64() >= Some(4) && stats["rss_kib"].as_u64() > Some(500), "{stats}");
    assert!(["stateless", "passthrough"].iter().any(|mode| stats["io"] == *mode), "{stats}");
    let caches = stats["caches"].as_array().unwrap();
    let asked =
        |cache: &serde_json::Value| cache["hits"].as_u64().unwrap() + cache["misses"].as_u64().unwrap();
    let names: Vec<_> = caches.iter().map(|cache| cache["cache"].as_str().unwrap()).collect();
    assert_eq!(names, ["listings", "directory descriptors", "file descriptors", "files read in a row"]);
    assert!(caches[..3].iter().all(|cache| asked(cache) > 0), "{stats}");
    assert!(caches[1]["hits"].as_u64() > Some(0), "a directory is opened once: {stats}");
    let table = ok(run(&["stats", root]));
    for word in ["data mode", "LOOKUP", "p99", "file descriptors", "%"] {
        assert!(table.contains(word), "no {word} in:\n{table}");
    }
}

#[test]
fn stats_are_told_again_and_again_when_watched() {
    use std::io::{BufRead, BufReader};
    let mount = TestMount::new(&["", "f=f"]);
    let mut watch = std::process::Command::new(env!("CARGO_BIN_EXE_unionfs"))
        .args(["stats", "--json", "--watch"])
        .arg(mount.root())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let told: Vec<_> = lines.take(2).map(|line| line.unwrap().starts_with('{')).collect();
    watch.kill().unwrap();
    watch.wait().unwrap();
    assert_eq!(told, [true, true]);
}
