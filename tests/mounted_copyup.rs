//! Copy-up: what sets it off, what it keeps, and who sees it happen (nobody).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use rustix::fs::{OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mm::MapFlags;

use crate::support::branches::TestTree;
use crate::support::layer::set_mtime;
use crate::support::mount::{TestMount, host_ok};
use crate::support::sys::{Mapping, Process};
use crate::support::tree::{Node, read_tree, read_xattrs};

/// `security.capability` of a file with cap_net_raw=p (linux/capability.h, revision 2, little endian).
const CAPABILITY: [u8; 20] = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A lower file, in directories of their own, with everything a copy can lose.
fn rich() -> TestTree {
    TestTree::build(2, 1, |index, root| {
        if index == 0 {
            return;
        }
        fs::create_dir_all(root.join("p/q")).unwrap();
        let file = root.join("p/q/f");
        fs::write(&file, "content").unwrap();
        chown(&file, Some(1234), Some(4321)).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        for (name, value) in [
            ("user.note", &b"noted"[..]),
            ("trusted.secret", b"\0\xff"),
            ("security.capability", &CAPABILITY),
        ] {
            rustix::fs::lsetxattr(&file, name, value, XattrFlags::empty()).unwrap();
        }
        set_mtime(&file, 1_234_567_890);
        for (dir, mode, uid) in [("p/q", 0o2750, 7), ("p", 0o700, 8)] {
            chown(root.join(dir), Some(uid), Some(uid)).unwrap();
            fs::set_permissions(root.join(dir), Permissions::from_mode(mode)).unwrap();
            rustix::fs::lsetxattr(root.join(dir), "user.dir", dir.as_bytes(), XattrFlags::empty()).unwrap();
            set_mtime(&root.join(dir), 1_111_111_111);
        }
    })
}

fn node(c: &TestMount, path: &str) -> Node {
    read_tree(&c.path(path)).remove(Path::new("")).unwrap()
}

/// A change of a lower file, and what it changes of the node.
type Change = (&'static str, fn(&Path), fn(&mut Node));

const CHANGES: [Change; 8] = [
    (
        "chmod",
        |path| fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap(),
        |node| node.mode = 0o600,
    ),
    (
        "chown",
        |path| chown(path, Some(99), None).unwrap(),
        |node| {
            node.uid = 99;
            // Linux takes capabilities away from a file whose owner changes.
            node.xattrs.retain(|name, _| name != "security.capability");
        },
    ),
    ("utimes", |path| set_mtime(path, 5), |node| node.mtime = Some(5)),
    (
        "setxattr",
        |path| rustix::fs::setxattr(path, "user.new", b"1", XattrFlags::empty()).unwrap(),
        |node| drop(node.xattrs.insert("user.new".into(), b"1".into())),
    ),
    (
        "removexattr",
        |path| rustix::fs::removexattr(path, "user.note").unwrap(),
        |node| drop(node.xattrs.remove(std::ffi::OsStr::new("user.note"))),
    ),
    ("open for writing", |path| drop(OpenOptions::new().write(true).open(path).unwrap()), |_| ()),
    ("link", |path| fs::hard_link(path, path.with_file_name("g")).unwrap(), |node| node.nlink = 2),
    (
        "rename and back",
        |path| {
            let other = path.with_file_name("g");
            fs::rename(path, &other).unwrap();
            fs::rename(&other, path).unwrap();
        },
        |_| (),
    ),
];

#[test]
fn a_copy_differs_only_in_what_was_changed() {
    for (case, change, expect) in CHANGES {
        let mut c = TestMount::over(rich(), &[]);
        let mut want = node(&c, "p/q/f");
        change(&c.path("p/q/f"));
        expect(&mut want);
        for round in ["at once", "after a remount"] {
            let got = node(&c, "p/q/f");
            let trees = [want.clone(), got].map(|node| [(Path::new("f").to_path_buf(), node)].into());
            if let Some(difference) = crate::support::tree::difference(&trees[0], &trees[1]) {
                panic!("{case}, {round}:\n{difference}");
            }
            assert_eq!(trees[0][Path::new("f")].id, trees[1][Path::new("f")].id, "{case}, {round}: st_ino");
            c.remount();
        }
    }
}

#[test]
fn directories_on_the_way_are_copied_as_they_are() {
    let c = TestMount::over(rich(), &[]);
    let before = ["p", "p/q"].map(|path| node(&c, path));
    fs::set_permissions(c.path("p/q/f"), Permissions::from_mode(0o600)).unwrap();
    for (want, path) in before.iter().zip(["p", "p/q"]) {
        let got = node(&c, path);
        assert_eq!(
            (want.mode, want.uid, want.gid, want.mtime),
            (got.mode, got.uid, got.gid, got.mtime),
            "{path}"
        );
        assert_eq!(want.xattrs, got.xattrs, "{path}");
        let upper = fs::symlink_metadata(c.upper(path)).unwrap();
        assert_eq!((upper.mode() & 0o7777, upper.uid()), (want.mode, want.uid), "{path} in the branch");
        assert_eq!(upper.mtime(), 1_111_111_111, "{path} in the branch");
    }
}

#[test]
fn objects_without_data_are_copied_too() {
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            symlink("target", root.join("link")).unwrap();
            for (name, kind, device) in
                [("fifo", libc::S_IFIFO, 0), ("null", libc::S_IFCHR, 0x103), ("sock", libc::S_IFSOCK, 0)]
            {
                let kind = rustix::fs::FileType::from_raw_mode(kind);
                rustix::fs::mknodat(rustix::fs::CWD, root.join(name), kind, 0o644.into(), device).unwrap();
            }
            ["link", "fifo", "null", "sock"].iter().for_each(|name| set_mtime(&root.join(name), 77));
        }
    });
    let mut c = TestMount::over(tree, &[]);
    let before = ["link", "fifo", "null", "sock"].map(|path| node(&c, path));
    for name in ["link", "fifo", "null", "sock"] {
        lchown(c.path(name), Some(5), Some(6)).unwrap();
        assert!(fs::symlink_metadata(c.upper(name)).is_ok(), "{name} was copied");
    }
    for round in ["at once", "after a remount"] {
        for (want, path) in before.iter().zip(["link", "fifo", "null", "sock"]) {
            let got = node(&c, path);
            assert_eq!(
                (want.kind, &want.content, want.rdev),
                (got.kind, &got.content, got.rdev),
                "{path}, {round}"
            );
            assert_eq!((got.uid, got.gid, got.mtime, got.id), (5, 6, want.mtime, want.id), "{path}, {round}");
        }
        c.remount();
    }
}

#[test]
fn descriptors_opened_before_the_copy_see_what_is_written_after_it() {
    let c = TestMount::new(&["", "f=0123456789"]);
    let mut reader = File::open(c.path("f")).unwrap();
    let mut first = [0; 4];
    reader.read_exact(&mut first).unwrap();
    let writer = OpenOptions::new().write(true).open(c.path("f")).unwrap();
    writer.write_all_at(b"ABCDEFGHIJKL", 0).unwrap();
    let mut rest = String::new();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!((&first, rest.as_str()), (b"0123", "EFGHIJKL"));
    assert_eq!(reader.metadata().unwrap().len(), 12);
    fs::write(c.path("f"), "short").unwrap();
    reader.seek(SeekFrom::Start(0)).unwrap();
    rest.clear();
    reader.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "short");
    assert_eq!(reader.metadata().unwrap().ino(), fs::metadata(c.path("f")).unwrap().ino());
}

#[test]
fn mappings_made_before_the_copy_see_what_is_written_after_it() {
    let c = TestMount::new(&["", "f=0123456789"]);
    let file = File::open(c.path("f")).unwrap();
    let shared = Mapping::new(&file, 10, MapFlags::SHARED, false).unwrap();
    assert_eq!(shared.bytes(), b"0123456789");
    OpenOptions::new().write(true).open(c.path("f")).unwrap().write_all_at(b"AB", 2).unwrap();
    assert_eq!(shared.bytes(), b"01AB456789");
    drop(file);
    let writable = OpenOptions::new().read(true).write(true).open(c.path("f")).unwrap();
    let mut other = Mapping::new(&writable, 10, MapFlags::SHARED, true).unwrap();
    other.store(8, b"XY");
    assert_eq!(shared.bytes(), b"01AB4567XY");
    other.sync().unwrap();
    assert_eq!(fs::read(c.upper("f")).unwrap(), b"01AB4567XY");
}

/// The hazard that fuse-overlayfs 2.0 falls into: a reader keeps the lower file open while a writer opens it.
#[test]
fn a_reader_of_the_lower_file_never_makes_a_writer_write_into_it() {
    let c = TestMount::new(&["", "f=0123456789"]);
    let mut held = File::open(c.path("f")).unwrap();
    let mut byte = [0];
    held.read_exact(&mut byte).unwrap();
    let map = Mapping::new(&held, 10, MapFlags::SHARED, false).unwrap();
    let mut writer = OpenOptions::new().read(true).write(true).open(c.path("f")).unwrap();
    writer.write_all(b"WRITTEN").unwrap();
    let mut writable = Mapping::new(&writer, 10, MapFlags::SHARED, true).unwrap();
    writable.store(9, b"!");
    writable.sync().unwrap();
    writer.set_len(9).unwrap();
    fs::rename(c.path("f"), c.path("g")).unwrap();
    fs::hard_link(c.path("g"), c.path("h")).unwrap();
    fs::write(c.path("h"), "again").unwrap();
    drop(map);
    assert_eq!(fs::read(c.lower("f")).unwrap(), b"0123456789");
    assert_eq!(c.read("g"), "again");
}

#[test]
fn unlinked_files_live_as_long_as_they_are_open() {
    for name in ["up", "low"] {
        let c = TestMount::new(&["up=0123456789", "low=0123456789"]);
        let file = OpenOptions::new().read(true).write(true).open(c.path(name)).unwrap();
        let reader = File::open(c.path(name)).unwrap();
        fs::remove_file(c.path(name)).unwrap();
        fs::write(c.path(name), "another").unwrap();
        file.write_all_at(b"AB", 0).unwrap();
        let mut got = [0; 10];
        reader.read_exact_at(&mut got, 0).unwrap();
        assert_eq!(&got, b"AB23456789", "{name}");
        assert_eq!(file.metadata().unwrap().nlink(), 0, "{name}");
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        file.set_len(3).unwrap();
        assert_eq!(
            (reader.metadata().unwrap().len(), reader.metadata().unwrap().mode() & 0o777),
            (3, 0o600),
            "{name}"
        );
        assert_eq!(c.read(name), "another", "{name}");
    }
}

#[test]
fn a_lower_file_opened_for_reading_then_unlinked_can_be_read() {
    let c = TestMount::new(&["", "f=0123456789"]);
    let reader = File::open(c.path("f")).unwrap();
    fs::remove_file(c.path("f")).unwrap();
    let mut got = [0; 10];
    reader.read_exact_at(&mut got, 0).unwrap();
    assert_eq!(&got, b"0123456789");
    assert_eq!(reader.metadata().unwrap().nlink(), 0);
    assert!(!c.upper("f").exists(), "nothing was copied for an unlink");
}

#[test]
fn a_running_program_cannot_be_written() {
    let busybox = host_ok("sh", &["-c".as_ref(), "command -v busybox".as_ref()]);
    for mode in ["io=stateless", "io=passthrough"] {
        let tree = TestTree::build(2, 1, |index, root| {
            if index == 1 {
                fs::copy(busybox.trim(), root.join("busybox-lower")).unwrap();
            }
        });
        let c = TestMount::over(tree, &["-o", mode]);
        fs::copy(c.path("busybox-lower"), c.path("busybox-upper")).unwrap();
        ["busybox-lower", "busybox-upper"].iter().for_each(|name| run_and_write(&c.path(name)));
    }
}

/// Each way to open a program for a change is refused while it runs, and has changed nothing; then it is not.
fn run_and_write(program: &Path) {
    let content = fs::read(program).unwrap();
    let open = |flags| rustix::fs::open(program, flags, rustix::fs::Mode::empty()).map(drop);
    let mut child = Command::new(program).args(["sleep", "60"]).spawn().unwrap();
    for flags in
        [OFlags::WRONLY, OFlags::RDWR, OFlags::RDONLY | OFlags::TRUNC, OFlags::WRONLY | OFlags::TRUNC]
    {
        assert_eq!(open(flags), Err(Errno::TXTBSY), "{program:?} {flags:?}");
    }
    assert!(fs::read(program).unwrap() == content, "{program:?} has changed");
    assert_eq!(child.try_wait().unwrap(), None, "{program:?} runs no more");
    child.kill().unwrap();
    child.wait().unwrap();
    open(OFlags::WRONLY).unwrap();
}

#[test]
fn holes_stay_holes_in_a_copy() {
    const SIZE: u64 = 64 << 20;
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            let file = File::create(root.join("sparse")).unwrap();
            file.write_all_at(b"begin", 0).unwrap();
            file.write_all_at(b"middle", SIZE / 2).unwrap();
            file.set_len(SIZE).unwrap();
        }
    });
    let c = TestMount::over(tree, &[]);
    OpenOptions::new().write(true).open(c.path("sparse")).unwrap().write_all_at(b"x", 5).unwrap();
    let copy = fs::metadata(c.upper("sparse")).unwrap();
    assert_eq!(copy.len(), SIZE);
    assert!(copy.blocks() * 512 < 1 << 20, "{} bytes are allocated", copy.blocks() * 512);
    let mut want = fs::read(c.lower("sparse")).unwrap();
    want[5] = b'x';
    assert!(fs::read(c.path("sparse")).unwrap() == want, "content differs");
}

#[test]
fn files_over_4_gib_are_copied() {
    const FAR: u64 = (5 << 30) + 123;
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            let file = File::create(root.join("big")).unwrap();
            file.write_all_at(b"begin", 0).unwrap();
            file.write_all_at(b"end", FAR).unwrap();
        }
    });
    let mut c = TestMount::over(tree, &[]);
    let file = OpenOptions::new().read(true).write(true).open(c.path("big")).unwrap();
    file.write_all_at(b"4G", (4 << 30) - 1).unwrap();
    file.write_all_at(b"beyond", FAR + 3).unwrap();
    drop(file);
    for round in ["at once", "after a remount"] {
        let file = File::open(c.path("big")).unwrap();
        assert_eq!(file.metadata().unwrap().len(), FAR + 9, "{round}");
        for (at, want) in
            [(0, &b"begin"[..]), ((4 << 30) - 1, b"4G"), (FAR, b"endbeyond"), (1 << 30, b"\0\0\0")]
        {
            let mut got = vec![0; want.len()];
            file.read_exact_at(&mut got, at).unwrap();
            assert_eq!(got, want, "at {at}, {round}");
        }
        drop(file);
        c.remount();
    }
}

#[test]
fn truncating_opens_leave_nothing_of_the_old_content() {
    let mut c = TestMount::new(&["", "f=0123456789 g=0123456789 h=0123456789"]);
    drop(OpenOptions::new().write(true).truncate(true).open(c.path("f")).unwrap());
    nix::unistd::truncate(&c.path("g"), 4).unwrap();
    nix::unistd::truncate(&c.path("h"), 12).unwrap();
    for round in ["at once", "after a remount"] {
        assert_eq!(
            (c.read("f"), c.read("g"), c.read("h")),
            (String::new(), "0123".into(), "0123456789\0\0".into()),
            "{round}"
        );
        c.remount();
    }
}

#[test]
fn eight_processes_that_copy_up_the_same_file_lose_nothing() {
    const BLOCK: usize = 5000;
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            fs::create_dir(root.join("d")).unwrap();
            fs::write(root.join("d/f"), vec![b'.'; 16 * BLOCK]).unwrap();
        }
    });
    let c = TestMount::over(tree, &[]);
    let path = c.path("d/f");
    let writers: Vec<_> = (0..8_usize)
        .map(|number| {
            let path = path.clone();
            Process::spawn(move || {
                let file = OpenOptions::new().write(true).open(path).unwrap();
                let data = [b'0' + u8::try_from(number).unwrap(); BLOCK];
                file.write_all_at(&data, (2 * number * BLOCK) as u64).unwrap();
            })
        })
        .collect();
    writers.into_iter().for_each(Process::join);
    let got = fs::read(&path).unwrap();
    for (number, block) in got.chunks(BLOCK).enumerate() {
        let want = if number % 2 == 0 { b'0' + u8::try_from(number / 2).unwrap() } else { b'.' };
        assert!(block.iter().all(|byte| *byte == want), "block {number} is not all {:?}", char::from(want));
    }
}

#[test]
fn a_file_open_for_reading_only_is_not_copied() {
    let c = TestMount::new(&["", "f=f"]);
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOATIME).open(c.path("f")).unwrap();
    let map = Mapping::new(&file, 1, MapFlags::PRIVATE, true).unwrap();
    assert_eq!(map.bytes(), b"f");
    read_xattrs(&c.path("f"));
    file.sync_all().unwrap();
    assert!(!c.upper("f").exists());
}
