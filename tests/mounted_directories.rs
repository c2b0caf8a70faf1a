//! Listing and renaming directories: stable offsets, many entries, no EXDEV, and the same after a remount.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

use rustix::fs::{CWD, RawDir, RenameFlags, SeekFrom, renameat_with, seek};
use rustix::io::Errno;

use crate::support::branches::{TestTree, ls};
use crate::support::mount::TestMount;
use crate::support::tree::{Tree, difference, read_tree};

fn many(count: usize) -> TestTree {
    TestTree::build(3, 1, |index, root| {
        fs::create_dir(root.join("d")).unwrap();
        for number in (0..count).filter(|number| number % 3 == index) {
            fs::write(root.join(format!("d/file-{number:05}")), "x").unwrap();
        }
    })
}

/// Reads a directory by getdents64(2) with little room, calling `between` after each piece.
fn list(dir: &File, mut between: impl FnMut(usize)) -> Vec<(Vec<u8>, u64)> {
    let mut all = Vec::new();
    loop {
        let mut room = [MaybeUninit::uninit(); 2048];
        let mut piece = RawDir::new(dir, &mut room);
        let before = all.len();
        while let Some(entry) = piece.next() {
            let entry = entry.expect("getdents");
            all.push((entry.file_name().to_bytes().to_vec(), entry.next_entry_cookie()));
            if piece.is_buffer_empty() {
                break;
            }
        }
        if all.len() == before {
            return all;
        }
        between(all.len());
    }
}

#[test]
fn a_hundred_thousand_entries_are_each_listed_once() {
    let c = TestMount::over(many(100_000), &[]);
    for round in 0..2 {
        let names = list(&File::open(c.path("d")).unwrap(), |_| ());
        let unique: BTreeSet<_> = names.iter().map(|(name, _)| name).collect();
        assert_eq!((names.len(), unique.len()), (100_002, 100_002), "round {round}: with . and ..");
    }
}

#[test]
fn entries_that_stay_are_listed_once_while_others_come_and_go() {
    let c = TestMount::over(many(2_000), &[]);
    let dir = c.path("d");
    let mut step = 0;
    let names = list(&File::open(&dir).unwrap(), |_| {
        // Some before and some after wherever the listing stands.
        for number in (step * 7 % 2_000..2_000).step_by(401).filter(|number| number % 2 == 1) {
            drop(fs::remove_file(dir.join(format!("file-{number:05}"))));
            fs::write(dir.join(format!("new-{step}-{number}")), "").unwrap();
        }
        step += 1;
    });
    let mut times: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    names.into_iter().for_each(|(name, _)| *times.entry(name).or_default() += 1);
    for number in (0..2_000).step_by(2) {
        let name = format!("file-{number:05}");
        assert_eq!(times.get(name.as_bytes()), Some(&1), "{name} was there all the time");
    }
    assert!(times.values().all(|times| *times == 1), "a name was listed twice");
}

#[test]
fn deleting_while_listing_deletes_all() {
    let c = TestMount::over(many(10_000), &[]);
    let dir = c.path("d");
    for entry in fs::read_dir(&dir).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(ls(&dir), "");
    fs::remove_dir(&dir).unwrap();
}

#[test]
fn seeking_to_an_offset_continues_after_its_entry() {
    let c = TestMount::over(many(300), &[]);
    let names = list(&File::open(c.path("d")).unwrap(), |_| ());
    for chosen in [0, 1, 2, 50, 151, 299, 300] {
        // Another open of the directory: offsets hold across opens.
        let dir = File::open(c.path("d")).unwrap();
        seek(&dir, SeekFrom::Start(names[chosen].1)).unwrap();
        let rest: Vec<_> = list(&dir, |_| ()).into_iter().map(|(name, _)| name).collect();
        let want: Vec<_> = names[chosen + 1..].iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(rest, want, "after entry {chosen}");
    }
}

#[test]
fn an_open_directory_rewinds_to_what_is_there_now() {
    let c = TestMount::new(&["d/a=", "d/b="]);
    let dir = File::open(c.path("d")).unwrap();
    assert_eq!(list(&dir, |_| ()).len(), 4);
    fs::write(c.path("d/c"), "").unwrap();
    fs::remove_file(c.path("d/b")).unwrap();
    seek(&dir, SeekFrom::Start(0)).unwrap();
    let names: BTreeSet<_> = list(&dir, |_| ()).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, BTreeSet::from([b".".to_vec(), b"..".to_vec(), b"a".to_vec(), b"c".to_vec()]));
}

#[test]
fn listed_numbers_and_types_are_those_of_stat() {
    let c = TestMount::new(&["a=a d/x=", "b=b l->b d/y= e/", "f=f e/z="]);
    let mut pending = vec![c.root()];
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let entry = entry.unwrap();
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(entry.ino(), meta.ino(), "{:?}", entry.path());
            assert_eq!(entry.file_type().unwrap(), meta.file_type(), "{:?}", entry.path());
            if meta.is_dir() {
                pending.push(entry.path());
            }
        }
    }
}

/// Moves a name by `how` at once; the tree must be `want(before)`, now and after a remount.
fn renamed(c: &mut TestMount, from: &str, to: &str, how: RenameFlags) {
    let mut want = read_tree(&c.root());
    let moved = take(&mut want, from, to);
    let back = if how.contains(RenameFlags::EXCHANGE) { take(&mut want, to, from) } else { Tree::new() };
    want.retain(|path, _| !path.starts_with(to));
    want.extend(moved);
    want.extend(back);
    // What a rename does to times is mounted_metadata's subject.
    want.values_mut().for_each(|node| node.mtime = None);
    renameat_with(CWD, c.path(from), CWD, c.path(to), how)
        .unwrap_or_else(|error| panic!("{from} to {to}: {error}"));
    for round in ["at once", "after a remount"] {
        if let Some(difference) = difference(&want, &read_tree(&c.root())) {
            panic!("{from} to {to} {round}:\n{difference}");
        }
        c.remount();
    }
}

fn take(tree: &mut Tree, from: &str, to: &str) -> Tree {
    let moved = tree.extract_if(.., |path, _| path.starts_with(from));
    let at = |path: &Path| match path.strip_prefix(from) {
        Ok(rest) if rest.as_os_str().is_empty() => Path::new(to).to_path_buf(),
        Ok(rest) => Path::new(to).join(rest),
        Err(_) => path.to_path_buf(),
    };
    moved.map(|(path, node)| (at(&path), node)).collect()
}

const UPPER: &str = "up/u=u merged/u=u merged/.wh.gone= empty/ x/y/z=xyz";
const MIDDLE: &str = "low/l=l low/deep/er/f=f merged/m=m merged/both=middle other/o=o .wh.hidden=";
const BOTTOM: &str = "low/l2=l2 merged/b=b merged/both=bottom merged/gone=g hidden/h=h file=file";

#[test]
fn directories_of_every_kind_are_renamed_without_exdev() {
    for (from, to) in [
        ("up", "new"),
        ("low", "new"),
        ("merged", "new"),
        ("merged", "empty"),
        ("merged", "other/new"),
        ("low/deep", "merged/deep"),
        ("low/deep/er", "new"),
        ("low", "hidden"),
        ("merged", "x/y/new"),
        ("x/y", "low/deep/y"),
        ("file", "hidden"),
    ] {
        let mut c = TestMount::new(&[UPPER, MIDDLE, BOTTOM]);
        renamed(&mut c, from, to, RenameFlags::empty());
    }
}

#[test]
fn names_of_every_kind_are_exchanged() {
    for (from, to) in [
        ("low", "merged"),
        ("up", "low"),
        ("file", "merged"),
        ("low/l", "file"),
        ("low/deep", "x/y/z"),
        ("merged/both", "file"),
        ("low/deep/er/f", "merged/m"),
        ("empty", "merged"),
    ] {
        let mut c = TestMount::new(&[UPPER, MIDDLE, BOTTOM]);
        renamed(&mut c, from, to, RenameFlags::EXCHANGE);
    }
}

#[test]
fn a_directory_is_renamed_again_and_again() {
    let mut c = TestMount::new(&[UPPER, MIDDLE, BOTTOM]);
    for (from, to) in [
        ("merged", "one"),
        ("one", "two"),
        ("two", "low/three"),
        ("low", "four"),
        ("four/three", "merged"),
        ("four", "low"),
    ] {
        renamed(&mut c, from, to, RenameFlags::empty());
    }
}

#[test]
fn the_old_name_of_a_renamed_directory_is_free() {
    let mut c = TestMount::new(&[UPPER, MIDDLE, BOTTOM]);
    for dir in ["merged", "low"] {
        fs::rename(c.path(dir), c.path("moved")).unwrap();
        assert!(!c.path(dir).exists());
        fs::create_dir(c.path(dir)).unwrap();
        for round in ["at once", "after a remount"] {
            assert_eq!(ls(&c.path(dir)), "", "{dir} {round}");
            assert_ne!(ls(&c.path("moved")), "", "{dir} {round}");
            c.remount();
        }
        fs::remove_dir_all(c.path("moved")).unwrap();
    }
}

#[test]
fn changes_below_a_renamed_directory_are_kept() {
    let mut c = TestMount::new(&[UPPER, MIDDLE, BOTTOM]);
    fs::rename(c.path("low"), c.path("moved")).unwrap();
    fs::write(c.path("moved/deep/er/f"), "changed").unwrap();
    fs::remove_file(c.path("moved/l")).unwrap();
    fs::write(c.path("moved/deep/new"), "new").unwrap();
    fs::rename(c.path("moved/deep"), c.path("merged/deep")).unwrap();
    for round in ["at once", "after a remount"] {
        assert_eq!(ls(&c.path("moved")), "l2", "{round}");
        assert_eq!(ls(&c.path("merged/deep")), "er new", "{round}");
        assert_eq!(c.read("merged/deep/er/f"), "changed", "{round}");
        assert!(!c.path("low").exists(), "{round}");
        c.remount();
    }
}

#[test]
fn rename_refuses_what_the_kernel_refuses() {
    let c = TestMount::new(&[UPPER, MIDDLE, BOTTOM]);
    let none = RenameFlags::empty();
    for (from, to, flags, want) in [
        ("merged", "low", none, Errno::NOTEMPTY),
        ("up", "merged", none, Errno::NOTEMPTY),
        ("file", "low", none, Errno::ISDIR),
        ("low", "file", none, Errno::NOTDIR),
        ("low", "low/deep/new", none, Errno::INVAL),
        ("low/deep/er", "low", none, Errno::NOTEMPTY),
        ("hidden", "new", none, Errno::NOENT),
        ("merged/gone", "new", none, Errno::NOENT),
        ("file", "low/l", RenameFlags::NOREPLACE, Errno::EXIST),
        ("low", "other", RenameFlags::NOREPLACE, Errno::EXIST),
        ("file", "hidden", RenameFlags::EXCHANGE, Errno::NOENT),
        ("low/deep", "low", RenameFlags::EXCHANGE, Errno::INVAL),
        ("file", "new", RenameFlags::EXCHANGE | RenameFlags::NOREPLACE, Errno::INVAL),
    ] {
        let result = renameat_with(CWD, c.path(from), CWD, c.path(to), flags);
        assert_eq!(result, Err(want), "{from} to {to} with {flags:?}");
    }
    // Nothing was half done.
    assert_eq!(ls(&c.root()), "empty file low merged other up x");
    assert_eq!(renameat_with(CWD, c.path("file"), CWD, c.path("hidden"), RenameFlags::NOREPLACE), Ok(()));
}

#[test]
fn rename_whiteout_leaves_a_device_that_a_nested_overlay_needs() {
    let c = TestMount::new(&["a=a", "b=b"]);
    for name in ["a", "b"] {
        let to = format!("{name}-moved");
        renameat_with(CWD, c.path(name), CWD, c.path(&to), RenameFlags::WHITEOUT).unwrap();
        let left = fs::symlink_metadata(c.path(name)).unwrap();
        assert_eq!((left.mode() & libc::S_IFMT, left.rdev()), (libc::S_IFCHR, 0), "{name}");
        assert_eq!(c.read(&to), name);
    }
}

#[test]
fn renaming_a_lower_file_keeps_content_and_hides_the_old_name() {
    let mut c = TestMount::new(&["", "d/f=content"]);
    fs::rename(c.path("d/f"), c.path("g")).unwrap();
    for round in ["at once", "after a remount"] {
        assert!(!c.path("d/f").exists(), "{round}");
        assert_eq!(c.read("g"), "content", "{round}");
        c.remount();
    }
    let name = std::ffi::OsStr::from_bytes(b"d/.wh.f");
    assert!(c.upper(name).exists());
}
