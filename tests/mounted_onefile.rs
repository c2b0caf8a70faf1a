//! One file is one file across copy-up, also for those who hold it by other means than a descriptor: watches, pipes,
//! the table of mappings; and its inode flags.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::inotify::{CreateFlags, ReadFlags, Reader, WatchFlags, add_watch, init};
use rustix::fs::{FileType, IFlags, ioctl_getflags, ioctl_setflags};
use rustix::mm::MapFlags;

use crate::support::branches::TestTree;
use crate::support::mount::TestMount;
use crate::support::sys::Mapping;

/// All that has happened since the last look.
fn events(watch: &OwnedFd) -> ReadFlags {
    let mut room = [MaybeUninit::uninit(); 4096];
    let mut reader = Reader::new(watch, &mut room);
    let mut all = ReadFlags::empty();
    while let Ok(event) = reader.next() {
        all |= event.events();
    }
    all
}

#[test]
fn inotify_watches_hold_across_copy_up() {
    let c = TestMount::new(&["", "d/f=content"]);
    let (path, watch) = (c.path("d/f"), init(CreateFlags::NONBLOCK).unwrap());
    add_watch(&watch, &path, WatchFlags::ALL_EVENTS).unwrap();
    type Act = fn(&Path);
    let acts: [(&str, Act, ReadFlags); 5] = [
        (
            "the write that copies it up",
            |path| OpenOptions::new().write(true).open(path).unwrap().write_all_at(b"x", 0).unwrap(),
            ReadFlags::OPEN | ReadFlags::MODIFY | ReadFlags::CLOSE_WRITE,
        ),
        (
            "a chmod",
            |path| fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap(),
            ReadFlags::ATTRIB,
        ),
        ("a read", |path| drop(fs::read(path).unwrap()), ReadFlags::ACCESS | ReadFlags::CLOSE_NOWRITE),
        (
            "a rename",
            |path| {
                fs::rename(path, path.with_file_name("g")).unwrap();
                fs::rename(path.with_file_name("g"), path).unwrap();
            },
            ReadFlags::MOVE_SELF,
        ),
        ("the end", |path| fs::remove_file(path).unwrap(), ReadFlags::DELETE_SELF),
    ];
    for (case, act, want) in acts {
        assert_eq!(events(&watch), ReadFlags::empty(), "before {case}");
        act(&path);
        let got = events(&watch);
        assert!(got.contains(want), "{case}: {got:?}");
    }
}

#[test]
fn ends_of_a_fifo_meet_across_copy_up() {
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            let path = root.join("fifo");
            rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, 0o644.into(), 0).unwrap();
        }
    });
    let c = TestMount::over(tree, &[]);
    let end = |write: bool| {
        let mut how = OpenOptions::new();
        how.read(!write).write(write).custom_flags(libc::O_NONBLOCK).open(c.path("fifo")).unwrap()
    };
    let mut reader = end(false);
    let mut before = end(true);
    let mut expect = |text: &str| {
        let mut got = vec![0; 100];
        let len = reader.read(&mut got).unwrap();
        assert_eq!(std::str::from_utf8(&got[..len]), Ok(text));
    };
    before.write_all(b"before").unwrap();
    expect("before");
    fs::set_permissions(c.path("fifo"), Permissions::from_mode(0o600)).unwrap();
    assert!(c.upper("fifo").exists(), "it was copied up");
    before.write_all(b"old end").unwrap();
    expect("old end");
    let mut after = end(true);
    after.write_all(b"new end").unwrap();
    expect("new end");
    drop((before, after));
    assert_eq!(reader.read(&mut [0]).unwrap(), 0, "the last writer has gone");
    drop(reader);
    let alone = OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(c.path("fifo"));
    assert_eq!(alone.unwrap_err().raw_os_error(), Some(libc::ENXIO), "nobody reads any more");
}

/// Device and inode of the mapping of a file, as /proc/self/maps tells them.
fn mapped(path: &Path) -> Vec<(String, u64)> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.ends_with(path.to_str().unwrap()));
    let words = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    words.map(|words| (words[3].to_owned(), words[4].parse().unwrap())).collect()
}

#[test]
fn the_table_of_mappings_tells_the_numbers_of_stat() {
    let mut c = TestMount::new(&["up=0123456789", "low=0123456789"]);
    for name in ["up", "low"] {
        let path = c.path(name);
        let meta = fs::metadata(&path).unwrap();
        let device = format!("{:02x}:{:02x}", rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
        let want = (device, meta.ino());
        let (reader, writer) =
            (File::open(&path).unwrap(), OpenOptions::new().read(true).write(true).open(&path).unwrap());
        let first = Mapping::new(&reader, 10, MapFlags::PRIVATE, false).unwrap();
        assert_eq!(mapped(&path), std::slice::from_ref(&want), "{name}");
        writer.write_all_at(b"copied", 0).unwrap();
        let second = Mapping::new(&writer, 10, MapFlags::SHARED, true).unwrap();
        assert_eq!(mapped(&path), [want.clone(), want.clone()], "{name} after the copy");
        drop((first, second, reader, writer));
        c.remount();
        let reader = File::open(&path).unwrap();
        let _third = Mapping::new(&reader, 10, MapFlags::PRIVATE, false).unwrap();
        let (_, number) = mapped(&path).remove(0);
        assert_eq!((number, fs::metadata(&path).unwrap().ino()), (want.1, want.1), "{name} after a remount");
    }
}

#[test]
fn inode_flags_are_read_set_and_kept() {
    let mut c = TestMount::new(&["up=u", "low=l d/x="]);
    for name in ["up", "low", "d"] {
        let open = |c: &TestMount| File::open(c.path(name)).unwrap();
        let before = ioctl_getflags(open(&c)).unwrap();
        assert!(!before.contains(IFlags::NODUMP), "{name}");
        ioctl_setflags(open(&c), before | IFlags::NODUMP).unwrap();
        for round in ["at once", "after a remount"] {
            assert_eq!(ioctl_getflags(open(&c)), Ok(before | IFlags::NODUMP), "{name} {round}");
            c.remount();
        }
        let kept = ioctl_getflags(File::open(c.upper(name)).unwrap()).unwrap();
        assert!(kept.contains(IFlags::NODUMP), "{name}: not in the writable branch");
    }
    let low = || File::open(c.path("low")).unwrap();
    let write = || OpenOptions::new().write(true).open(c.path("low"))?.write_all_at(b"x", 0);
    ioctl_setflags(low(), ioctl_getflags(low()).unwrap() | IFlags::IMMUTABLE).unwrap();
    let refused = write().unwrap_err();
    ioctl_setflags(low(), ioctl_getflags(low()).unwrap() - IFlags::IMMUTABLE).unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::EPERM), "an immutable file is not written");
    write().unwrap();
}
