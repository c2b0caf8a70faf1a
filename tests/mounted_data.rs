//! File data: mappings, holes, allocation, copies, appends, direct I/O.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, SeekFrom, copy_file_range, fallocate, openat, seek};
use rustix::io::Errno;
use rustix::mm::MapFlags;

use crate::support::branches::TestTree;
use crate::support::mount::TestMount;
use crate::support::sys::{Mapping, Process};

const PAGE: usize = 4096;

fn update(c: &TestMount, path: &str) -> File {
    OpenOptions::new().read(true).write(true).open(c.path(path)).unwrap()
}

/// One lower file `f` of this content, and an empty upper branch.
fn lower_file(content: &[u8]) -> TestMount {
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            fs::write(root.join("f"), content).unwrap();
        }
    });
    TestMount::over(tree, &[])
}

#[test]
fn stores_into_a_shared_mapping_reach_the_file_and_outlive_the_mount() {
    let mut c = lower_file(&[b'.'; 3 * PAGE]);
    let file = update(&c, "f");
    let mut map = Mapping::new(&file, 3 * PAGE, MapFlags::SHARED, true).unwrap();
    map.store(PAGE - 2, b"over");
    let mut got = [0; 4];
    file.read_exact_at(&mut got, PAGE as u64 - 2).unwrap();
    assert_eq!(&got, b"over", "read(2) sees the store");
    file.write_all_at(b"write", 2 * PAGE as u64).unwrap();
    assert_eq!(&map.bytes()[2 * PAGE..][..5], b"write", "the mapping sees write(2)");
    map.sync().unwrap();
    assert_eq!(&fs::read(c.upper("f")).unwrap()[PAGE - 2..][..4], b"over");
    map.store(0, b"unsynced");
    drop(map);
    drop(file);
    c.remount();
    let got = fs::read(c.path("f")).unwrap();
    assert_eq!(
        (&got[..8], &got[PAGE - 2..][..4], &got[2 * PAGE..][..5]),
        (&b"unsynced"[..], &b"over"[..], &b"write"[..])
    );
}

#[test]
fn stores_into_a_private_mapping_stay_private() {
    let c = lower_file(&[b'.'; PAGE]);
    let file = File::open(c.path("f")).unwrap();
    let mut map = Mapping::new(&file, PAGE, MapFlags::PRIVATE, true).unwrap();
    map.store(0, b"private");
    assert_eq!(c.read("f"), ".".repeat(PAGE));
    assert!(!c.upper("f").exists());
}

#[test]
fn two_processes_share_a_mapping() {
    let c = lower_file(&[b'.'; PAGE]);
    let file = update(&c, "f");
    let map = Mapping::new(&file, PAGE, MapFlags::SHARED, false).unwrap();
    let path = c.path("f");
    Process::spawn(|| {
        let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Mapping::new(&file, PAGE, MapFlags::SHARED, true).unwrap().store(100, b"child");
    })
    .join();
    assert_eq!(&map.bytes()[100..105], b"child");
}

#[test]
fn growing_and_shrinking_give_zeros() {
    let mut c = lower_file(&[b'x'; 10_000]);
    let file = update(&c, "f");
    file.set_len(5_000).unwrap();
    file.set_len(20_000).unwrap();
    file.write_all_at(b"end", 30_000).unwrap();
    let mut want = vec![0; 30_003];
    want[..5_000].fill(b'x');
    want[30_000..].copy_from_slice(b"end");
    drop(file);
    for round in ["at once", "after a remount"] {
        assert!(fs::read(c.path("f")).unwrap() == want, "{round}");
        c.remount();
    }
}

#[test]
fn fallocate_does_what_ext4_does() {
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    for (case, mode, at, len) in [
        ("allocate beyond the end", FallocateFlags::empty(), 5_000, 20_000),
        ("keep the size", FallocateFlags::KEEP_SIZE, 5_000, 20_000),
        ("punch a hole", punch, 3_000, 6_000),
        ("punch beyond the end", punch, 9_000, 6_000),
        ("zero a range", FallocateFlags::ZERO_RANGE, 3_000, 12_000),
        ("zero, keep the size", FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, 3_000, 12_000),
        ("punch without keeping", FallocateFlags::PUNCH_HOLE, 0, 100),
        ("no length", FallocateFlags::empty(), 0, 0),
    ] {
        let c = lower_file(&[b'x'; 10_000]);
        let plain = c.tree().beside("plain");
        fs::write(&plain, [b'x'; 10_000]).unwrap();
        let native = OpenOptions::new().read(true).write(true).open(&plain).unwrap();
        let results = [&native, &update(&c, "f")].map(|file| fallocate(file, mode, at, len));
        assert_eq!(results[0], results[1], "{case}");
        assert!(fs::read(&plain).unwrap() == fs::read(c.path("f")).unwrap(), "{case}: content");
    }
}

/// These two move what follows; FUSE has no message for them (`fuse_file_fallocate` in `fs/fuse/file.c`).
#[test]
fn fallocate_that_moves_data_is_refused_and_changes_nothing() {
    let c = lower_file(&[b'x'; 4 * PAGE]);
    for mode in [FallocateFlags::COLLAPSE_RANGE, FallocateFlags::INSERT_RANGE] {
        let result = fallocate(update(&c, "f"), mode, 0, PAGE as u64);
        assert_eq!(result, Err(Errno::OPNOTSUPP), "{mode:?}");
    }
    assert!(fs::read(c.path("f")).unwrap() == [b'x'; 4 * PAGE]);
}

#[test]
fn data_and_holes_are_found_where_they_are() {
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            let file = File::create(root.join("f")).unwrap();
            file.write_all_at(&[b'x'; PAGE], 64 * PAGE as u64).unwrap();
            file.set_len(128 * PAGE as u64).unwrap();
        }
    });
    let c = TestMount::over(tree, &[]);
    let native = File::open(c.lower("f")).unwrap();
    for round in ["lower", "copied"] {
        let file = File::open(c.path("f")).unwrap();
        for at in [0, 1, 64 * PAGE as u64, 64 * PAGE as u64 + 1, 65 * PAGE as u64, 128 * PAGE as u64] {
            for whence in [SeekFrom::Data(at), SeekFrom::Hole(at)] {
                assert_eq!(seek(&file, whence), seek(&native, whence), "{round} {whence:?}");
            }
        }
        fs::set_permissions(c.path("f"), fs::metadata(c.path("f")).unwrap().permissions()).unwrap();
    }
}

#[test]
fn copy_file_range_copies_between_branches() {
    let c = TestMount::new(&["up=UPPER", "low=lower other=0123456789"]);
    for (from, to, want) in [("low", "up", "lower"), ("up", "low", "lower"), ("low", "other", "lower56789")] {
        let (source, target) = (File::open(c.path(from)).unwrap(), update(&c, to));
        let (mut read, mut write) = (0, 0);
        assert_eq!(
            copy_file_range(&source, Some(&mut read), &target, Some(&mut write), 100),
            Ok(5),
            "{from} to {to}"
        );
        assert_eq!((read, write), (5, 5), "{from} to {to}");
        assert_eq!(c.read(to), want, "{from} to {to}");
    }
}

#[test]
fn appends_of_several_processes_do_not_overwrite_each_other() {
    const LINES: usize = 200;
    let mut c = lower_file(b"begin\n");
    let path = c.path("f");
    let writers: Vec<_> = (0..8)
        .map(|number| {
            let path = path.clone();
            Process::spawn(move || {
                let mut file = OpenOptions::new().append(true).open(path).unwrap();
                for line in 0..LINES {
                    file.write_all(format!("{number}:{line:04}\n").as_bytes()).unwrap();
                }
            })
        })
        .collect();
    writers.into_iter().for_each(Process::join);
    for round in ["at once", "after a remount"] {
        let text = c.read("f");
        let mut lines: Vec<_> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (8 * LINES + 1, "begin"), "{round}");
        lines.sort_unstable();
        lines.dedup();
        assert_eq!(lines.len(), 8 * LINES + 1, "{round}: a line is there twice");
        c.remount();
    }
}

#[test]
fn direct_io_reads_and_writes_what_the_cache_has() {
    let c = lower_file(&[b'x'; 4 * PAGE]);
    let file = match OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT).open(c.path("f"))
    {
        Ok(file) => file,
        Err(error) => {
            return assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "the clear refusal of O_DIRECT");
        }
    };
    // Aligned, as a disk may ask for.
    let mut room = vec![0_u8; 3 * PAGE];
    let start = room.as_ptr().align_offset(PAGE);
    let page = &mut room[start..start + PAGE];
    page.fill(b'D');
    file.write_all_at(page, PAGE as u64).unwrap();
    page.fill(0);
    file.read_exact_at(page, PAGE as u64).unwrap();
    assert!(page.iter().all(|byte| *byte == b'D'));
    let cached = fs::read(c.path("f")).unwrap();
    assert!(
        cached[..PAGE].iter().all(|byte| *byte == b'x')
            && cached[PAGE..2 * PAGE].iter().all(|byte| *byte == b'D')
    );
}

#[test]
fn a_nameless_file_may_get_a_name_or_is_refused_clearly() {
    let c = TestMount::new(&["", "d/f=f"]);
    let flags = OFlags::TMPFILE | OFlags::RDWR;
    let file = match openat(CWD, c.path("d"), flags, Mode::from_raw_mode(0o640)) {
        Ok(file) => File::from(file),
        Err(errno) => {
            return assert_eq!(errno, Errno::OPNOTSUPP, "what filesystems without O_TMPFILE answer");
        }
    };
    file.write_all_at(b"content", 0).unwrap();
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    let proc = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    rustix::fs::linkat(CWD, proc, CWD, c.path("d/named"), rustix::fs::AtFlags::SYMLINK_FOLLOW).unwrap();
    assert_eq!(c.read("d/named"), "content");
}

#[test]
fn fsync_works_on_every_kind_of_object() {
    let c = TestMount::new(&["up=up d/", "low=low e/f="]);
    for path in ["up", "low", "d", "e", "e/f", ""] {
        let file = File::open(c.path(path)).unwrap();
        file.sync_all().unwrap_or_else(|error| panic!("fsync {path:?}: {error}"));
        file.sync_data().unwrap_or_else(|error| panic!("fdatasync {path:?}: {error}"));
        rustix::fs::syncfs(&file).unwrap_or_else(|error| panic!("syncfs {path:?}: {error}"));
    }
    assert!(!c.upper("low").exists(), "fsync copies nothing");
}

#[test]
fn large_writes_and_reads_are_exact() {
    let mut c = lower_file(&[b'x'; 100]);
    let data: Vec<u8> =
        (0..9_000_001_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    update(&c, "f").write_all_at(&data, 77).unwrap();
    fs::write(c.path("new"), &data).unwrap();
    for round in ["at once", "after a remount"] {
        let got = fs::read(c.path("f")).unwrap();
        assert!(got[..77].iter().all(|byte| *byte == b'x') && got[77..] == data, "{round}");
        assert!(fs::read(c.path("new")).unwrap() == data, "{round}");
        c.remount();
    }
}
