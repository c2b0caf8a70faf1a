//! Locks of the three kinds, across copy-up; and many processes that change the same names at once.

use std::fs::{self, File, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use rustix::fs::{FlockOperation, fcntl_lock, flock};
use rustix::io::Errno;

use crate::support::branches::{TestTree, ls};
use crate::support::mount::TestMount;
use crate::support::sys::Process;

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// A lock of the bytes 10 to 19 for the open file description (fcntl(2), "Open file description locks").
fn ofd_lock(file: impl AsFd, kind: i32) -> nix::Result<i32> {
    let kind = i16::try_from(kind).unwrap();
    let lock = libc::flock { l_type: kind, l_whence: 0, l_start: 10, l_len: 10, l_pid: 0 };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock))
}

/// Copies a file up by a change that touches no lock.
fn copy_up(c: &TestMount, path: &str) {
    rustix::fs::setxattr(c.path(path), "user.x", b"1", rustix::fs::XattrFlags::empty()).unwrap();
    assert!(c.upper(path).exists());
}

#[test]
fn posix_locks_exclude_other_processes_across_copy_up() {
    let c = TestMount::new(&["", "f=0123456789"]);
    let file = open(&c.path("f"));
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let path = c.path("f");
    let refused = || {
        Process::spawn(|| {
            let result = fcntl_lock(open(&path), FlockOperation::NonBlockingLockExclusive);
            assert!(matches!(result, Err(Errno::ACCESS | Errno::AGAIN)), "{result:?}");
        })
        .join();
    };
    refused();
    copy_up(&c, "f");
    refused();
    fcntl_lock(&file, FlockOperation::Unlock).unwrap();
    Process::spawn(|| fcntl_lock(open(&path), FlockOperation::NonBlockingLockExclusive).unwrap()).join();
}

#[test]
fn a_reader_and_a_writer_of_a_lower_file_lock_the_same_file() {
    let c = TestMount::new(&["", "f=0123456789"]);
    let reader = File::open(c.path("f")).unwrap();
    flock(&reader, FlockOperation::NonBlockingLockExclusive).unwrap();
    let writer = open(&c.path("f"));
    copy_up(&c, "f");
    assert_eq!(flock(&writer, FlockOperation::NonBlockingLockExclusive), Err(Errno::WOULDBLOCK));
    assert_eq!(flock(&writer, FlockOperation::NonBlockingLockShared), Err(Errno::WOULDBLOCK));
    flock(&reader, FlockOperation::Unlock).unwrap();
    flock(&writer, FlockOperation::NonBlockingLockExclusive).unwrap();
}

#[test]
fn locks_of_open_file_descriptions_hold_ranges_across_copy_up() {
    let c = TestMount::new(&["", "f=0123456789012345678901234567890"]);
    let (first, second) = (open(&c.path("f")), open(&c.path("f")));
    ofd_lock(&first, libc::F_WRLCK).unwrap();
    assert_eq!(ofd_lock(&second, libc::F_WRLCK), Err(nix::Error::EAGAIN));
    copy_up(&c, "f");
    assert_eq!(ofd_lock(&second, libc::F_RDLCK), Err(nix::Error::EAGAIN));
    ofd_lock(&first, libc::F_UNLCK).unwrap();
    ofd_lock(&second, libc::F_WRLCK).unwrap();
}

#[test]
fn a_lock_file_protocol_counts_right_with_eight_processes() {
    const ROUNDS: usize = 50;
    let c = TestMount::new(&["", "counter=0 lock="]);
    let (counter, lock) = (c.path("counter"), c.path("lock"));
    let work = || {
        for _ in 0..ROUNDS {
            let held = open(&lock);
            flock(&held, FlockOperation::LockExclusive).unwrap();
            let count: usize = fs::read_to_string(&counter).unwrap().trim().parse().unwrap();
            fs::write(&counter, (count + 1).to_string()).unwrap();
        }
    };
    let processes: Vec<_> = (0..8).map(|_| Process::spawn(work)).collect();
    processes.into_iter().for_each(Process::join);
    assert_eq!(c.read("counter"), (8 * ROUNDS).to_string());
}

#[test]
fn one_of_eight_wins_each_exclusive_act() {
    const NAMES: usize = 100;
    let tree = TestTree::build(2, 1, |index, root| {
        for name in (0..NAMES).filter(|_| index == 1) {
            fs::write(root.join(format!("low{name}")), "x").unwrap();
        }
    });
    let c = TestMount::over(tree, &[]);
    let won = c.tree().beside("won");
    fs::create_dir(&won).unwrap();
    let work = |number: usize| {
        for name in 0..NAMES {
            let record = |act: &str| fs::write(won.join(format!("{act}-{name}-{number}")), "").unwrap();
            let (dir, new, low) = (format!("dir{name}"), format!("new{name}"), format!("low{name}"));
            for (act, result, lost) in [
                ("mkdir", fs::create_dir(c.path(dir)), ErrorKind::AlreadyExists),
                ("create", File::create_new(c.path(new)).map(drop), ErrorKind::AlreadyExists),
                ("unlink", fs::remove_file(c.path(low)), ErrorKind::NotFound),
            ] {
                match result {
                    Ok(()) => record(act),
                    Err(error) => assert_eq!(error.kind(), lost, "{act} {name}: {error}"),
                }
            }
        }
    };
    let processes: Vec<_> = (0..8).map(|number| Process::spawn(move || work(number))).collect();
    processes.into_iter().for_each(Process::join);
    let mut winners: Vec<_> =
        ls(&won).split(' ').map(|name| name.rsplit_once('-').unwrap().0.to_owned()).collect();
    let count = winners.len();
    winners.dedup();
    assert_eq!((count, winners.len()), (3 * NAMES, 3 * NAMES), "each act was won once");
}

/// Renames, writes, links and removals of a handful of lower names by several processes: whatever the order, each act
/// succeeds or fails as it could on one filesystem, and what is left is a sound tree.
#[test]
fn processes_that_fight_over_the_same_names_leave_a_sound_tree() {
    let names = "d/a=aaaa d/b=bbbb d/c=cccc d/s/x=xxxx d/s/y=yyyy";
    let mut c = TestMount::new(&["", names, names]);
    let root = c.path("d");
    let work = |number: usize| {
        let mut state = number as u64 * 7919 + 1;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let pool = ["a", "b", "c", "s", "s/x", "s/y"];
        for _ in 0..300 {
            let (from, to) = (root.join(pool[next(6)]), root.join(pool[next(6)]));
            let result = match next(6) {
                0 => fs::rename(&from, &to),
                1 => fs::write(&from, "wwww"),
                2 => fs::hard_link(&from, &to),
                3 => fs::remove_file(&from),
                4 => fs::create_dir(&from),
                _ => fs::read(&from).map(drop),
            };
            let allowed = [
                libc::ENOENT,
                libc::EEXIST,
                libc::EISDIR,
                libc::ENOTDIR,
                libc::ENOTEMPTY,
                libc::EINVAL,
                libc::EPERM,
            ];
            if let Err(error) = result {
                let errno = error.raw_os_error().unwrap();
                assert!(allowed.contains(&errno), "{from:?} {to:?}: {error}");
            }
        }
    };
    let processes: Vec<_> = (1..=6).map(|number| Process::spawn(move || work(number))).collect();
    processes.into_iter().for_each(Process::join);
    let before = crate::support::tree::read_tree(&c.root());
    c.remount();
    let after = crate::support::tree::read_tree(&c.root());
    if let Some(difference) = crate::support::tree::difference(&before, &after) {
        panic!("the tree changed by a remount:\n{difference}");
    }
}
