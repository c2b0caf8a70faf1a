//! Crashes and failing system calls at every step of every act that takes more than one.
//!
//! strace(1) tells which calls an act makes that change a branch, and then strikes the server at each of them in turn.
//! After a kill the next mount must show the old tree or the new one; after a failure the caller has its errno and the
//! tree is the old one, or the act went through. The lower branches stay as they were, the work directory is empty, and
//! nothing stays open. A kill meets every act in both formats, each errno every act in one of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Lines};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::branches::TestTree;
use crate::support::mount::TestMount;
use crate::support::tree::{Tree, difference, read_tree};

/// The calls by which the server changes a branch.
pub(crate) const CHANGES: [&str; 24] = [
    "renameat2",
    "renameat",
    "unlinkat",
    "linkat",
    "mkdirat",
    "mknodat",
    "symlinkat",
    "fchmod",
    "fchmodat",
    "fchown",
    "fchownat",
    "utimensat",
    "setxattr",
    "lsetxattr",
    "fsetxattr",
    "removexattr",
    "lremovexattr",
    "fremovexattr",
    "copy_file_range",
    "pwrite64",
    "ftruncate",
    "fallocate",
    "sync_file_range",
    "fsync",
];

/// The calls by which it opens: those that find its table of open files full.
const OPENS: [&str; 2] = ["openat", "openat2"];
/// The calls by which it finds out what is there.
const READS: [&str; 3] = ["openat", "openat2", "getdents64"];

pub(crate) type Act = fn(&Path) -> std::io::Result<()>;

/// What is struck: a union that is made anew each time, and what is done to it.
pub(crate) struct Target {
    pub(crate) mount: fn() -> TestMount,
    pub(crate) acts: &'static [(&'static str, Act)],
}

const AUFS: Target = Target { mount: || mounted("aufs"), acts: &ACTS };
const OVERLAY: Target = Target { mount: || mounted("overlay"), acts: &ACTS };

const ACTS: [(&str, Act); 19] = [
    ("append to a lower file", |root| {
        use std::io::Write;
        fs::File::options().append(true).open(root.join("d/f"))?.write_all(b"more")
    }),
    ("chmod of a lower file", |root| {
        fs::set_permissions(root.join("d/f"), fs::Permissions::from_mode(0o600))
    }),
    ("truncate a lower file", |root| fs::File::options().write(true).open(root.join("d/f"))?.set_len(2)),
    ("chmod of a lower directory", |root| {
        fs::set_permissions(root.join("d/sub"), fs::Permissions::from_mode(0o700))
    }),
    ("unlink a lower file", |root| fs::remove_file(root.join("d/f"))),
    ("unlink a copied-up file", |root| fs::remove_file(root.join("both"))),
    ("rmdir a lower directory", |root| fs::remove_dir(root.join("empty"))),
    ("rmdir a merged directory with whiteouts", |root| fs::remove_dir(root.join("cleared"))),
    ("rename a lower file", |root| fs::rename(root.join("d/f"), root.join("d/g"))),
    ("rename over a lower file", |root| fs::rename(root.join("new"), root.join("d/f"))),
    ("rename a merged directory", |root| fs::rename(root.join("d"), root.join("moved"))),
    ("rename a directory over an emptied one", |root| fs::rename(root.join("d"), root.join("cleared"))),
    ("link a lower file", |root| fs::hard_link(root.join("d/f"), root.join("linked"))),
    ("append to one of two lower hard links", |root| {
        use std::io::Write;
        fs::File::options().append(true).open(root.join("one"))?.write_all(b"more")
    }),
    ("unlink one of two lower hard links", |root| fs::remove_file(root.join("one"))),
    ("rename over one of two lower hard links", |root| fs::rename(root.join("new"), root.join("one"))),
    ("link one of two lower hard links", |root| fs::hard_link(root.join("one"), root.join("linked"))),
    ("mkdir over a whiteout", |root| fs::create_dir(root.join("gone"))),
    ("symlink over a whiteout", |root| symlink("to", root.join("gone"))),
];

fn tree() -> TestTree {
    TestTree::new(&[
        "new=new both=upper cleared/.wh.x= .wh.gone= d/u=upper",
        "d/f=content d/sub/y=deep both=lower empty/ cleared/x=hidden gone/old=1 one=linked two=>one",
    ])
}

fn mounted(format: &str) -> TestMount {
    let tree = tree();
    if format == "overlay" {
        for (aufs, overlay) in [("cleared/.wh.x", "cleared/x"), (".wh.gone", "gone")] {
            fs::remove_file(tree.branch(0).join(aufs)).unwrap();
            mknodat(CWD, tree.branch(0).join(overlay), FileType::CharacterDevice, Mode::empty(), 0).unwrap();
        }
    }
    TestMount::over(tree, &["-o", &format!("threads=1,format={format}")])
}

/// What is seen, without times: an act's own time is not known.
fn seen(root: &Path) -> Tree {
    let mut tree = read_tree(root);
    tree.values_mut().for_each(|node| node.mtime = None);
    tree
}

/// strace on all threads of the server.
pub(crate) struct Strace {
    child: Child,
    /// Kept open: strace says a word about each later thread, and SIGPIPE would end it.
    _told: Lines<BufReader<ChildStderr>>,
}

impl Strace {
    pub(crate) fn attach(server: Pid, args: &[&str]) -> Self {
        let mut traces = (0..10).map(|_| Self::try_attach(server, args));
        traces.find(|trace| trace.has_all(server)).expect("strace leaves out a thread each time")
    }

    fn try_attach(server: Pid, args: &[&str]) -> Self {
        let mut child = Command::new("strace")
            .args(["-f", "-e", "signal=none", "-p", &server.as_raw_nonzero().to_string()])
            .args(args)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("strace: {error}: run scripts/setup.sh"));
        let mut told = BufReader::new(child.stderr.take().unwrap()).lines();
        assert!(
            told.by_ref().map_while(Result::ok).any(|line| line.contains("attached")),
            "strace did not attach"
        );
        Self { child, _told: told }
    }

    /// Whether no thread started, unseen, while the others were attached to. What a traced thread starts is traced.
    fn has_all(&self, server: Pid) -> bool {
        let tracer = format!("TracerPid:\t{}\n", self.child.id());
        let threads = fs::read_dir(format!("/proc/{}/task", server.as_raw_nonzero())).unwrap();
        // A thread that is gone has no status to read.
        let mut states =
            threads.filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("status")).ok());
        states.all(|state| state.contains(&tracer))
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        kill_process(Pid::from_child(&self.child), Signal::KILL).ok();
        drop(self.child.wait());
    }
}

/// The calls, of those that are asked about, which an act makes, and how often.
fn calls_of(target: &Target, act: Act, calls: &[&'static str]) -> BTreeMap<&'static str, usize> {
    let c = (target.mount)();
    let log = c.tree().beside("calls");
    {
        let trace = format!("trace={}", calls.join(","));
        let _strace = Strace::attach(c.server(), &["-o", log.to_str().unwrap(), "-e", &trace]);
        act(&c.root()).unwrap();
    }
    let log = fs::read_to_string(log).unwrap();
    let made = |call: &str| log.lines().filter(|line| line.contains(&format!(" {call}("))).count();
    calls.iter().map(|call| (*call, made(call))).filter(|(_, count)| *count > 0).collect()
}

/// The acts that are asked for: all, or those with `UNIONFS_FAULT_ACT` in their names.
fn acts(target: &Target) -> impl Iterator<Item = &'static (&'static str, Act)> {
    let wanted = std::env::var("UNIONFS_FAULT_ACT").unwrap_or_default();
    target.acts.iter().filter(move |(name, _)| name.contains(&wanted))
}

/// What an act does while strace injects a fault into a call: `when` is which ones (strace(1), "when=").
fn struck<T>(c: &TestMount, call: &str, how: &str, when: &str, act: impl FnOnce(&Path) -> T) -> T {
    let strike = [format!("trace={call}"), format!("inject={call}:{how}:when={when}")];
    let _strace = Strace::attach(c.server(), &["-o", "/dev/null", "-e", &strike[0], "-e", &strike[1]]);
    act(&c.root())
}

/// Strikes each call of each act in turn and has `check` judge what is left.
fn strike(
    target: &Target,
    how: &str,
    calls: &[&'static str],
    mut check: impl FnMut(&str, TestMount, std::io::Result<()>, &Tree, &Tree),
) {
    for (name, act) in acts(target) {
        let plain = (target.mount)();
        let before = seen(&plain.root());
        act(&plain.root()).unwrap_or_else(|error| panic!("{name}: {error}"));
        let after = seen(&plain.root());
        drop(plain);
        let calls = calls_of(target, *act, calls);
        assert!(!calls.is_empty(), "{name}: makes no call?");
        for (call, count) in calls {
            for nth in 1..=count {
                let c = (target.mount)();
                let done = struck(&c, call, how, &nth.to_string(), act);
                check(&format!("{name}, {call} number {nth}, {how}"), c, done, &before, &after);
            }
        }
    }
}

/// The old tree or the new one.
fn assert_one_of(what: &str, got: &Tree, before: &Tree, after: &Tree) {
    if let (Some(old), Some(new)) = (difference(before, got), difference(after, got)) {
        panic!("{what}: neither the old tree\n{old}\nnor the new one\n{new}");
    }
}

fn assert_no_leftovers(what: &str, c: &TestMount) {
    for work in [c.upper(".wh..wh.work/work"), c.tree().beside("b0.work/work"), c.tree().beside("work/work")]
    {
        let left: Vec<_> = fs::read_dir(work).map(|dir| dir.flatten().collect()).unwrap_or_default();
        assert!(left.is_empty(), "{what}: left in the work directory: {left:?}");
    }
}

/// What the server has open, as /proc tells it.
fn open_files(c: &TestMount) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{}/fd", c.server().as_raw_nonzero())).unwrap();
    let target = |entry: std::fs::DirEntry| fs::read_link(entry.path()).ok();
    let mut targets: Vec<_> =
        fds.flatten().filter_map(target).map(|path| path.display().to_string()).collect();
    targets.sort();
    targets
}

/// Nothing that was taken back is still open.
fn assert_no_open_leftovers(what: &str, c: &TestMount) {
    let left = |path: &String| path.ends_with(" (deleted)") && path.contains("/b0");
    let left: Vec<_> = open_files(c).into_iter().filter(left).collect();
    assert!(left.is_empty(), "{what}: still open: {left:?}");
}

pub(crate) fn killed_anywhere(target: &Target) {
    let (mut struck, mut spared) = (0, 0);
    strike(target, "signal=KILL", &CHANGES, |what, mut c, done, before, after| {
        // strace counts each thread's calls for itself: where two threads shared an act, the last may be spared.
        if !c.has_died() {
            spared += 1;
            done.unwrap_or_else(|error| panic!("{what}: not struck, and failed: {error}"));
            assert_eq!(difference(after, &seen(&c.root())), None, "{what}: not struck");
            return;
        }
        struck += 1;
        c.mount_again();
        assert_one_of(what, &seen(&c.root()), before, after);
        assert_no_leftovers(what, &c);
    });
    assert!(struck > 10 * spared, "{struck} were struck, and {spared} were not");
}

#[test]
fn a_server_killed_at_any_step_leaves_the_old_tree_or_the_new_one() {
    killed_anywhere(&AUFS);
}

#[test]
fn a_server_killed_at_any_step_leaves_the_old_tree_or_the_new_one_in_overlay_format() {
    killed_anywhere(&OVERLAY);
}

/// Has each call of each act fail in turn. An act that fails tells this errno, and did nothing.
pub(crate) fn failing_anywhere(target: &Target, errno: &str, code: i32, calls: &[&'static str]) {
    let mut failed = 0;
    strike(target, &format!("error={errno}"), calls, |what, mut c, done, before, after| {
        let first = seen(&c.root());
        match &done {
            Ok(()) => assert_eq!(difference(after, &first), None, "{what}: said to be done"),
            Err(error) => {
                failed += 1;
                assert_eq!(error.raw_os_error(), Some(code), "{what}: {error}");
                assert_eq!(difference(before, &first), None, "{what}: said to have failed");
                assert_no_open_leftovers(what, &c);
            }
        }
        c.remount();
        // What could not be cleaned up when it failed, the next mount has cleaned up.
        assert_no_leftovers(what, &c);
        assert_eq!(difference(&first, &seen(&c.root())), None, "{what}: after a remount");
    });
    assert!(failed > target.acts.len(), "only {failed} acts failed");
}

#[test]
fn a_call_that_finds_no_space_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&AUFS, "ENOSPC", libc::ENOSPC, &CHANGES);
}

#[test]
fn a_call_that_finds_a_broken_disk_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&OVERLAY, "EIO", libc::EIO, &CHANGES);
}

#[test]
fn a_directory_that_cannot_be_read_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&OVERLAY, "EIO", libc::EIO, &READS);
}

#[test]
fn a_call_that_exceeds_a_quota_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&OVERLAY, "EDQUOT", libc::EDQUOT, &CHANGES);
}

#[test]
fn a_call_that_finds_no_memory_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&AUFS, "ENOMEM", libc::ENOMEM, &CHANGES);
}

#[test]
fn a_call_that_finds_too_many_files_open_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&AUFS, "EMFILE", libc::EMFILE, &OPENS);
}

/// An act that fails ten times, at the first call of each kind, has no more files open than after three.
fn leaks_nothing(target: &Target) {
    let mut repeated = 0;
    for (name, act) in acts(target) {
        for call in calls_of(target, *act, &CHANGES).into_keys() {
            let c = (target.mount)();
            let fail = |root: &Path, times| (0..times).all(|_| act(root).is_err());
            struck(&c, call, "error=ENOSPC", "1+", |root| {
                // The first few fill the caches. What does without this call cannot be repeated.
                if fail(root, 3) {
                    let before = open_files(&c);
                    assert!(fail(root, 7), "{name}, {call}: did not fail again");
                    assert_eq!(before, open_files(&c), "{name}, {call}");
                    repeated += 1;
                }
            });
        }
    }
    assert!(repeated > target.acts.len(), "only {repeated} could be repeated");
}

#[test]
fn acts_that_fail_leave_nothing_open() {
    leaks_nothing(&AUFS);
    leaks_nothing(&OVERLAY);
}
