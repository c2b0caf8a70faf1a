//! Numbers, links, modes, owners, times, devices, statfs: as on one ordinary filesystem.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, mknodat, statvfs};

use crate::support::branches::TestTree;
use crate::support::layer::set_mtime;
use crate::support::mount::TestMount;
use crate::support::user::{Umask, as_user};

fn ino(c: &TestMount, path: &str) -> u64 {
    fs::symlink_metadata(c.path(path)).unwrap_or_else(|error| panic!("{path}: {error}")).ino()
}

fn mode(c: &TestMount, path: &str) -> u32 {
    fs::symlink_metadata(c.path(path)).unwrap().mode() & 0o7777
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn numbers_are_unique_and_stay_through_copy_up_rename_and_remount() {
    let mut c = TestMount::new(&["up=u ud/f=f", "low=l ld/g=g both/x=x", "low2=l both/y=y", ""]);
    let paths = ["", "up", "ud", "ud/f", "low", "ld", "ld/g", "both", "both/x", "both/y", "low2"];
    let before = paths.map(|path| ino(&c, path));
    assert_eq!(before.iter().collect::<BTreeSet<_>>().len(), paths.len(), "unique: {before:?}");
    let device = fs::metadata(c.root()).unwrap().dev();
    assert!(
        paths.iter().all(|path| fs::symlink_metadata(c.path(path)).unwrap().dev() == device),
        "one st_dev"
    );
    for path in &paths[1..] {
        fs::write(c.path(path), "new")
            .or_else(|_| fs::set_permissions(c.path(path), Permissions::from_mode(0o711)))
            .unwrap();
        fs::rename(c.path(path), c.path("aside")).unwrap();
        fs::rename(c.path("aside"), c.path(path)).unwrap();
    }
    for round in ["at once", "after a remount", "after another"] {
        assert_eq!(paths.map(|path| ino(&c, path)), before, "{round}");
        c.remount();
    }
}

#[test]
fn new_objects_keep_their_numbers_over_a_remount() {
    let mut c = TestMount::new(&["", "low=l"]);
    fs::write(c.path("new"), "n").unwrap();
    fs::create_dir(c.path("dir")).unwrap();
    symlink("t", c.path("link")).unwrap();
    let before = ["new", "dir", "link"].map(|path| ino(&c, path));
    c.remount();
    assert_eq!(["new", "dir", "link"].map(|path| ino(&c, path)), before);
}

#[test]
fn hard_links_stay_one_file_through_copy_up_rename_and_remount() {
    let mut c = TestMount::new(&["", "a=content d/b=>a d/c=>a"]);
    let nlink = |c: &TestMount, path: &str| fs::metadata(c.path(path)).unwrap().nlink();
    assert_eq!(["a", "d/b", "d/c"].map(|path| nlink(&c, path)), [3, 3, 3]);
    let number = ino(&c, "a");
    fs::write(c.path("d/b"), "changed").unwrap();
    fs::rename(c.path("d/c"), c.path("e")).unwrap();
    fs::hard_link(c.path("a"), c.path("f")).unwrap();
    for round in ["at once", "after a remount"] {
        for path in ["a", "d/b", "e", "f"] {
            assert_eq!(
                (c.read(path), ino(&c, path), nlink(&c, path)),
                ("changed".into(), number, 4),
                "{path} {round}"
            );
        }
        c.remount();
    }
    fs::remove_file(c.path("a")).unwrap();
    fs::remove_file(c.path("e")).unwrap();
    OpenOptions::new().append(true).open(c.path("f")).unwrap().write_all_at(b"CH", 0).unwrap();
    for round in ["at once", "after a remount"] {
        for path in ["d/b", "f"] {
            assert_eq!((ino(&c, path), nlink(&c, path)), (number, 2), "{path} {round}");
        }
        assert_eq!(c.read("d/b"), c.read("f"), "{round}");
        c.remount();
    }
}

#[test]
fn hard_links_of_the_upper_branch_count_and_stay() {
    let mut c = TestMount::new(&["a=x b=>a", "low=l"]);
    fs::hard_link(c.path("low"), c.path("low2")).unwrap();
    for round in ["at once", "after a remount"] {
        for (one, other) in [("a", "b"), ("low", "low2")] {
            assert_eq!(ino(&c, one), ino(&c, other), "{one} {round}");
            assert_eq!(fs::metadata(c.path(one)).unwrap().nlink(), 2, "{one} {round}");
        }
        c.remount();
    }
    fs::remove_file(c.path("low")).unwrap();
    assert_eq!(fs::metadata(c.path("low2")).unwrap().nlink(), 1);
    assert_eq!(c.read("low2"), "l");
}

#[test]
fn the_umask_and_the_callers_ids_make_new_objects() {
    let c = TestMount::new(&["", "d/x="]);
    chmod(c.path("d"), 0o777);
    let umask = Umask::set(0o027);
    as_user(1000, 2000, || {
        fs::write(c.path("d/file"), "").unwrap();
        fs::create_dir(c.path("d/dir")).unwrap();
        symlink("t", c.path("d/link")).unwrap();
        mknodat(CWD, c.path("d/fifo"), FileType::Fifo, 0o666.into(), 0).unwrap();
    });
    drop(umask);
    for (path, want) in [("d/file", 0o640), ("d/dir", 0o750), ("d/link", 0o777), ("d/fifo", 0o640)] {
        let meta = fs::symlink_metadata(c.path(path)).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.uid(), meta.gid()), (want, 1000, 2000), "{path}");
    }
}

#[test]
fn permission_is_the_callers_not_the_servers() {
    let c = TestMount::new(&["", "private/f=secret f=f d/g=g"]);
    chmod(c.path("private"), 0o700);
    chmod(c.path("f"), 0o600);
    as_user(1000, 1000, || {
        for (act, result) in [
            ("list", fs::read_dir(c.path("private")).map(drop)),
            ("read below", fs::read(c.path("private/f")).map(drop)),
            ("read", fs::read(c.path("f")).map(drop)),
            ("write", OpenOptions::new().write(true).open(c.path("d/g")).map(drop)),
            ("create", File::create(c.path("d/new")).map(drop)),
            ("unlink", fs::remove_file(c.path("d/g"))),
            ("rename", fs::rename(c.path("d/g"), c.path("d/h"))),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EACCES), "{act}");
        }
        for (act, result) in [
            ("chmod", fs::set_permissions(c.path("d/g"), Permissions::from_mode(0o777))),
            ("chown", chown(c.path("d/g"), Some(1000), None)),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM), "{act}");
        }
    });
    assert!(!c.upper("d/g").exists(), "what was refused copied nothing");
}

#[test]
fn setgid_directories_hand_down_their_group() {
    let c = TestMount::new(&["", "low/x="]);
    fs::create_dir(c.path("up")).unwrap();
    for dir in ["low", "up"] {
        chown(c.path(dir), None, Some(777)).unwrap();
        chmod(c.path(dir), 0o2777);
        as_user(1000, 2000, || {
            fs::write(c.path(dir).join("file"), "").unwrap();
            fs::create_dir(c.path(dir).join("sub")).unwrap();
        });
        let (file, sub) = (format!("{dir}/file"), format!("{dir}/sub"));
        assert_eq!(fs::metadata(c.path(&file)).unwrap().gid(), 777, "{dir}");
        assert_eq!(fs::metadata(c.path(&sub)).unwrap().gid(), 777, "{dir}");
        assert_eq!((mode(&c, &sub) & 0o2000, mode(&c, &file) & 0o2000), (0o2000, 0), "{dir}");
    }
}

#[test]
fn sticky_directories_protect_other_peoples_names() {
    let c = TestMount::new(&["", "tmp/low=l"]);
    chmod(c.path("tmp"), 0o1777);
    as_user(1000, 1000, || fs::write(c.path("tmp/mine"), "").unwrap());
    as_user(2000, 2000, || {
        for name in ["tmp/low", "tmp/mine"] {
            assert_eq!(
                fs::remove_file(c.path(name)).unwrap_err().raw_os_error(),
                Some(libc::EPERM),
                "{name}"
            );
        }
    });
    as_user(1000, 1000, || fs::remove_file(c.path("tmp/mine")).unwrap());
}

/// Linux takes set-user-ID, set-group-ID (of group executables) and capabilities away from what an unprivileged user
/// changes (inode(7), write(2), chown(2)).
#[test]
fn privileges_go_when_others_change_a_file() {
    type Act = fn(&Path);
    let acts: [(&str, Act, u32); 4] = [
        (
            "write",
            |path| OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"x", 0).unwrap(),
            0o0777,
        ),
        ("truncate", |path| OpenOptions::new().write(true).open(path).unwrap().set_len(1).unwrap(), 0o0777),
        (
            "open O_TRUNC",
            |path| drop(OpenOptions::new().write(true).truncate(true).open(path).unwrap()),
            0o0777,
        ),
        ("read", |path| drop(fs::read(path).unwrap()), 0o6777),
    ];
    for branch in ["upper", "lower"] {
        for (act, run, want) in acts {
            let words = if branch == "upper" { ["f=content", ""] } else { ["", "f=content"] };
            let tree = TestTree::build(2, 1, |index, root| {
                if !words[index].is_empty() {
                    fs::write(root.join("f"), "content").unwrap();
                    chmod(root.join("f"), 0o6777);
                }
            });
            let mut c = TestMount::over(tree, &[]);
            assert_eq!(mode(&c, "f"), 0o6777);
            as_user(1000, 1000, || run(&c.path("f")));
            assert_eq!(mode(&c, "f"), want, "{act} of the {branch}");
            c.remount();
            assert_eq!(mode(&c, "f"), want, "{act} of the {branch} after a remount");
        }
        let c = TestMount::new(&["", "f=content"]);
        chmod(c.path("f"), 0o6777);
        chown(c.path("f"), Some(5), Some(5)).unwrap();
        assert_eq!(mode(&c, "f"), 0o777, "chown of the {branch}");
    }
}

#[test]
fn times_are_set_and_change_as_on_one_filesystem() {
    let mut c = TestMount::new(&["", "f=f d/g=g d/h=h"]);
    let mtime = |c: &TestMount, path: &str| fs::symlink_metadata(c.path(path)).unwrap().mtime();
    for path in ["f", "d", "d/g"] {
        set_mtime(&c.path(path), 1_000_000);
    }
    fs::read(c.path("f")).unwrap();
    chmod(c.path("d/g"), 0o600);
    for round in ["at once", "after a remount"] {
        assert_eq!(["f", "d", "d/g"].map(|path| mtime(&c, path)), [1_000_000; 3], "{round}");
        c.remount();
    }
    let now = SystemTime::now() - Duration::from_secs(2);
    OpenOptions::new().write(true).open(c.path("f")).unwrap().write_all_at(b"x", 0).unwrap();
    fs::remove_file(c.path("d/h")).unwrap();
    for path in ["f", "d"] {
        assert!(fs::metadata(c.path(path)).unwrap().modified().unwrap() >= now, "{path} changed now");
    }
    let exact = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 987_654_321);
    File::open(c.path("f")).unwrap().set_modified(exact).unwrap();
    c.remount();
    assert_eq!(fs::metadata(c.path("f")).unwrap().modified().unwrap(), exact, "to the nanosecond");
}

#[test]
fn fifos_sockets_and_devices_work() {
    let mut c = TestMount::new(&["", "d/x="]);
    mknodat(CWD, c.path("d/fifo"), FileType::Fifo, 0o600.into(), 0).unwrap();
    mknodat(CWD, c.path("d/null"), FileType::CharacterDevice, 0o666.into(), rustix::fs::makedev(1, 3))
        .unwrap();
    mknodat(CWD, c.path("d/loop"), FileType::BlockDevice, 0o660.into(), rustix::fs::makedev(7, 300)).unwrap();
    let listener = UnixListener::bind(c.path("d/sock")).unwrap();
    let client = std::os::unix::net::UnixStream::connect(c.path("d/sock")).unwrap();
    drop(listener.accept().unwrap());
    drop((client, listener));
    let fifo = c.path("d/fifo");
    let writer = std::thread::spawn({
        let fifo = fifo.clone();
        move || fs::write(fifo, "through").unwrap()
    });
    assert_eq!(fs::read_to_string(&fifo).unwrap(), "through");
    writer.join().unwrap();
    fs::write(c.path("d/null"), "gone").unwrap();
    assert_eq!(c.read("d/null"), "");
    for round in ["at once", "after a remount"] {
        let meta = |path: &str| fs::symlink_metadata(c.path(path)).unwrap();
        assert!(meta("d/fifo").file_type().is_fifo() && meta("d/sock").file_type().is_socket(), "{round}");
        assert!(
            meta("d/null").file_type().is_char_device() && meta("d/loop").file_type().is_block_device(),
            "{round}"
        );
        assert_eq!(meta("d/loop").rdev(), rustix::fs::makedev(7, 300), "{round}");
        c.remount();
    }
}

#[test]
fn statfs_tells_of_the_writable_branch() {
    let c = TestMount::new(&["", "f=f"]);
    let (ours, below) = (statvfs(c.root()).unwrap(), statvfs(c.tree().branch(0)).unwrap());
    assert_eq!(
        (ours.f_blocks * ours.f_frsize, ours.f_files),
        (below.f_blocks * below.f_frsize, below.f_files)
    );
    let (free, free_below) = (ours.f_bfree * ours.f_frsize, below.f_bfree * below.f_frsize);
    assert!(free.abs_diff(free_below) < 1 << 30, "{free} bytes free, {free_below} below");
}

#[test]
fn symlinks_are_read_as_they_were_written() {
    let long = "t".repeat(4095);
    let c = TestMount::new(&["", "low->../where/ever dangling->nowhere"]);
    symlink(&long, c.path("long")).unwrap();
    symlink(OsStr::new("new\nline"), c.path("odd")).unwrap();
    for (path, want) in
        [("low", "../where/ever"), ("dangling", "nowhere"), ("long", long.as_str()), ("odd", "new\nline")]
    {
        assert_eq!(fs::read_link(c.path(path)).unwrap(), Path::new(want), "{path}");
        assert_eq!(fs::symlink_metadata(c.path(path)).unwrap().len(), want.len() as u64, "{path}");
    }
}
