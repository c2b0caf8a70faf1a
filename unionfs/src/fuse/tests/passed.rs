//! Lower files passed through in a union that is written (`io=passthrough-all`): who has one open keeps it, who opens
//! it later has its copy, and the lower branch stays as it was, whatever the order.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, rename};

use super::passthrough::{Mapper, Mounted, read_write, text};
use crate::error::Errno;
use crate::fuse::Opcode;
use crate::mount::IoMode;

/// As large as it takes to be passed through.
const SIZE: usize = 256 << 10;

fn mounted(names: &[&str]) -> Option<(Mounted, String)> {
    let old = "old!".repeat(SIZE / 4);
    let lower: Vec<_> = names.iter().map(|&name| (name, old.as_str())).collect();
    Mounted::in_mode(IoMode::PassthroughAll, &lower, true).map(|mnt| (mnt, old))
}

/// What stat(2) tells that must be one file's, by whatever name and number.
fn identity(path: &Path) -> (u64, u64, u64, u64) {
    let meta = fs::metadata(path).unwrap();
    (meta.ino(), meta.nlink(), meta.len(), u64::from(meta.mode()))
}

#[test]
fn large_lower_file_is_read_and_mapped_without_a_message() {
    let Some((mnt, old)) = mounted(&["f"]) else { return };
    let (one, two) = (File::open(mnt.at("f")).unwrap(), File::open(mnt.at("f")).unwrap());
    assert!(text(&one) == old && text(&two) == old);
    assert_eq!((mnt.count(Opcode::READ), mnt.count(Opcode::OPEN)), (0, 2));
    drop((one, two));
    assert!(fs::read_to_string(mnt.at("f")).unwrap() == old);
    assert_eq!(mnt.count(Opcode::READ), 0);
    assert!(!mnt.branch("up/f").exists());
}

#[test]
fn small_lower_file_stays_one_file_across_copy_up() {
    let Some(mnt) = Mounted::in_mode(IoMode::PassthroughAll, &[("log", "old")], true) else { return };
    let before = File::open(mnt.at("log")).unwrap();
    assert_eq!(text(&before), "old");
    File::options().append(true).open(mnt.at("log")).unwrap().write_all(b"+new").unwrap();
    assert_eq!(text(&before), "old+new");
}

const WAYS: [&str; 9] =
    ["write", "append", "open-truncate", "truncate", "mapped", "renamed", "replaced", "chmod", "read-only"];

/// Changes a file in one of the ways; where it is then, and what it holds.
fn change(mnt: &Mounted, way: &str, old: &str) -> (PathBuf, String) {
    let (path, mut want) = (mnt.at(way), old.to_owned());
    match way {
        "write" => {
            read_write(&path).write_all_at(b"NEW!", 4).unwrap();
            want.replace_range(4..8, "NEW!");
        }
        "append" => {
            File::options().append(true).open(&path).unwrap().write_all(b"more").unwrap();
            want.push_str("more");
        }
        "open-truncate" => {
            fs::write(&path, "fresh").unwrap();
            want = "fresh".into();
        }
        "truncate" => {
            nix::unistd::truncate(&path, 7).unwrap();
            want.truncate(7);
        }
        "mapped" => {
            let mut map = Mapper::new(&path);
            assert_eq!(map.get(0), b'o');
            map.set(0, b'O');
            map.end();
            want.replace_range(0..1, "O");
        }
        "renamed" => {
            rename(&path, mnt.at("other")).unwrap();
            read_write(&mnt.at("other")).write_all_at(b"NEW!", 0).unwrap();
            want.replace_range(0..4, "NEW!");
            return (mnt.at("other"), want);
        }
        "replaced" => {
            fs::write(mnt.at("fresh"), "fresh").unwrap();
            rename(mnt.at("fresh"), &path).unwrap();
            want = "fresh".into();
        }
        "chmod" => fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap(),
        _ => {}
    }
    (path, want)
}

/// Every way to change a lower file that somebody reads by its own pages.
#[test]
fn who_has_a_lower_file_open_keeps_it_and_others_have_the_copy() {
    let Some((mnt, old)) = mounted(&WAYS) else { return };
    for way in WAYS {
        let before = File::open(mnt.at(way)).unwrap();
        let ino = before.metadata().unwrap().ino();
        assert!(text(&before) == old, "{way}");
        let (shown, mut want) = change(&mnt, way, &old);
        assert!(text(&before) == old, "{way}: opened before");
        for look in ["while the old one is open", "again"] {
            assert!(fs::read_to_string(&shown).unwrap() == want, "{way}: opened {look}");
            let meta = fs::metadata(&shown).unwrap();
            assert_eq!(meta.len(), want.len() as u64, "{way}");
            assert!(way == "replaced" || meta.ino() == ino, "{way}: the same file {look}");
        }
        drop(before);
        File::options().append(true).open(&shown).unwrap().write_all(b".").unwrap();
        want.push('.');
        assert!(fs::read_to_string(&shown).unwrap() == want, "{way}: when nobody has the old one");
        assert!(fs::read_to_string(mnt.branch("low").join(way)).unwrap() == old, "{way}: lower");
    }
    assert_eq!((mnt.count(Opcode::READ), mnt.count(Opcode::WRITE)), (0, 0));
}

/// One reader after the other holds the file of his time, while it moves on under him.
#[test]
fn names_of_one_file_show_one_file_while_old_readers_last() {
    let Some((mnt, old)) = mounted(&["a"]) else { return };
    fs::hard_link(mnt.branch("low/a"), mnt.branch("low/b")).unwrap();
    let (a, b) = (mnt.at("a"), mnt.at("b"));
    let before = File::open(&b).unwrap();
    assert_eq!(identity(&a), identity(&b));
    let mut want = old.clone();
    for round in 0..3 {
        let writer = read_write(&a);
        writer.write_all_at(b"NEW!", round * 4).unwrap();
        let at = usize::try_from(round).unwrap() * 4;
        want.replace_range(at..at + 4, "NEW!");
        assert!(fs::read_to_string(&b).unwrap() == want, "round {round}: by the other name");
        fs::set_permissions(&b, fs::Permissions::from_mode(0o600 + u32::try_from(round).unwrap())).unwrap();
        assert_eq!(identity(&a), identity(&b), "round {round}");
        nix::unistd::truncate(&b, i64::try_from(SIZE).unwrap() - 1 - i64::try_from(round).unwrap()).unwrap();
        want.truncate(SIZE - 1 - usize::try_from(round).unwrap());
        assert_eq!(writer.metadata().unwrap().len(), want.len() as u64, "round {round}");
        assert_eq!(identity(&a), identity(&b), "round {round}");
        assert_eq!(before.metadata().unwrap().ino(), identity(&a).0);
    }
    assert!(text(&before) == old);
    fs::hard_link(&b, mnt.at("c")).unwrap();
    assert_eq!((identity(&a).1, identity(&a)), (3, identity(&mnt.at("c"))));
    fs::remove_file(&a).unwrap();
    assert!(fs::read_to_string(mnt.at("c")).unwrap() == want);
    drop(before);
    fs::remove_file(&b).unwrap();
    assert_eq!(identity(&mnt.at("c")).1, 1);
    assert!(fs::read_to_string(mnt.branch("low/a")).unwrap() == old);
}

/// Reads that the kernel does not make itself, but asks for, are of the old file too.
#[test]
fn an_old_descriptor_is_copied_and_searched_for_holes_as_what_it_is() {
    let Some((mnt, old)) = mounted(&["f", "g"]) else { return };
    for name in ["f", "g"] {
        let before = File::open(mnt.at(name)).unwrap();
        let data = |at| rustix::fs::seek(&before, rustix::fs::SeekFrom::Data(at));
        let hole = || rustix::fs::seek(&before, rustix::fs::SeekFrom::Hole(0));
        assert_eq!((data(9000), hole()), (Ok(9000), Ok(SIZE as u64)));
        // By the path alone, or by an open that gives it a new number.
        if name == "f" {
            nix::unistd::truncate(&mnt.at(name), 7).unwrap();
        } else {
            fs::write(mnt.at(name), "fresh").unwrap();
        }
        assert_eq!((data(9000), hole()), (Ok(9000), Ok(SIZE as u64)), "{name}");
        if name == "f" {
            continue; // the kernel itself copies no more than the size that the inode has now
        }
        let copy = File::create(mnt.at("copy")).unwrap();
        let (mut from, mut copied) = (0, 0);
        while copied < SIZE {
            let now =
                rustix::fs::copy_file_range(&before, Some(&mut from), &copy, None, SIZE - copied).unwrap();
            assert!(now > 0, "{name}: after {copied} bytes");
            copied += now;
        }
        assert!(fs::read_to_string(mnt.at("copy")).unwrap() == old, "{name}");
    }
}

/// The kernel gives a path two tries; who comes by a descriptor has no path to walk.
#[test]
fn a_descriptor_of_the_old_file_cannot_be_opened_anew() {
    let Some((mnt, _)) = mounted(&["f"]) else { return };
    let before = File::open(mnt.at("f")).unwrap();
    let link = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&before));
    assert!(File::open(&link).is_ok());
    let opened = rustix::fs::openat(CWD, &link, rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
    assert_eq!(opened.map(drop), Err(Errno::STALE));
    read_write(&mnt.at("f")).write_all_at(b"NEW!", 0).unwrap();
}

/// Opens a file again and again, now to read and now to write, and holds some for a while.
fn churn(mnt: &Mounted, names: [&str; 3], worker: u64) {
    let mut held = Vec::new();
    for round in 0..60_u64 {
        let path = mnt.at(names[usize::try_from((worker + round) % 3).unwrap()]);
        let writes = (worker + round).is_multiple_of(5) && round > 20;
        let file = if writes { read_write(&path) } else { File::open(&path).unwrap() };
        if writes {
            file.write_all_at(b"NEW!", (round % 7) * 4).unwrap();
        }
        // Each block is the old one or the new one, never another.
        let (mut start, mut end) = ([0; 32], [0; 4]);
        file.read_exact_at(&mut start, 0).unwrap();
        assert!(start.chunks(4).all(|part| part == b"old!" || part == b"NEW!"), "{start:?}");
        file.read_exact_at(&mut end, u64::try_from(SIZE).unwrap() - 4).unwrap();
        assert_eq!(&end, b"old!");
        held.push(file);
        if held.len() > 5 {
            held.remove(usize::try_from(round % 5).unwrap());
        }
        thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn readers_and_writers_in_any_order_harm_nothing() {
    let names = ["p", "q", "r"];
    let Some((mnt, old)) = mounted(&names) else { return };
    thread::scope(|scope| {
        for worker in 0..8 {
            let mnt = &mnt;
            scope.spawn(move || churn(mnt, names, worker));
        }
    });
    for name in names {
        assert!(fs::read_to_string(mnt.at(name)).unwrap().starts_with("NEW!"), "{name}");
        assert!(fs::read_to_string(mnt.branch("low").join(name)).unwrap() == old, "{name}: lower");
        assert_eq!(fs::read(mnt.at(name)).unwrap(), fs::read(mnt.branch("up").join(name)).unwrap());
    }
}
