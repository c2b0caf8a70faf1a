//! Numbers as the kernel tells them, and on filesystems of other kinds than the branches' usual one.

use std::collections::BTreeSet;
use std::ffi::{CString, OsStr};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{DirEntryExt, FileTypeExt, MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, mknodat};
use rustix::mm::MapFlags;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, host_ok};
use crate::support::sys::Mapping;

/// A filesystem of its own at a path, as long as the value lives.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, at: &Path, data: &str) -> Self {
        let data = CString::new(data).unwrap();
        mount(kind, at, kind, MountFlags::empty(), Some(data.as_c_str())).unwrap();
        Self(at.to_owned())
    }

    /// An ext4 of so many MiB, which gives a freed inode number to the next file.
    fn ext4(at: &Path, image: &Path, size: u64) -> Self {
        File::create(image).unwrap().set_len(size << 20).unwrap();
        host_ok("mkfs.ext4", &[OsStr::new("-q"), image.as_os_str()]);
        host_ok("mount", &[OsStr::new("-o"), OsStr::new("loop"), image.as_os_str(), at.as_os_str()]);
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::DETACH).ok();
    }
}

/// Every name of a directory with its number; lstat(2), fstat(2) of what can be opened, and readdir(3) must agree.
fn numbers(dir: &Path) -> Vec<(String, u64)> {
    let mut all: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let meta = fs::symlink_metadata(entry.path()).unwrap();
            assert_eq!(entry.ino(), meta.ino(), "d_ino of {:?}", entry.file_name());
            assert_eq!(meta.dev(), fs::metadata(dir).unwrap().dev(), "st_dev of {:?}", entry.file_name());
            if meta.is_file() {
                assert_eq!(File::open(entry.path()).unwrap().metadata().unwrap().ino(), meta.ino());
            }
            (entry.file_name().into_string().unwrap(), meta.ino())
        })
        .collect();
    all.sort();
    all
}

#[track_caller]
fn assert_all_differ(numbers: &[(String, u64)]) {
    assert_eq!(
        numbers.iter().map(|(_, ino)| ino).collect::<BTreeSet<_>>().len(),
        numbers.len(),
        "{numbers:?}"
    );
}

/// Device and number of a file as /proc/self/maps tells them of a mapping.
fn of_a_mapping(path: &Path) -> (u64, u64) {
    let file = File::open(path).unwrap();
    let mapping = Mapping::new(&file, 4096, MapFlags::PRIVATE, false).unwrap();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let start = format!("{:x}-", mapping.address());
    let line =
        maps.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("{start}: {maps}"));
    let words: Vec<_> = line.split_whitespace().collect();
    let (major, minor) = words[3].split_once(':').unwrap();
    let [major, minor] = [major, minor].map(|half| u32::from_str_radix(half, 16).unwrap());
    (rustix::fs::makedev(major, minor), words[4].parse().unwrap())
}

#[test]
fn stat_readdir_and_mappings_tell_one_number() {
    let mut c = TestMount::new(&["up=u", "low=l one=1 two=>one", "deep=d"]);
    let names = ["up", "low", "one", "deep"];
    let before = numbers(&c.root());
    for round in ["as it is", "copied up", "mounted again"] {
        assert_eq!(numbers(&c.root()), before, "{round}");
        for name in names {
            let meta = fs::metadata(c.path(name)).unwrap();
            assert_eq!(of_a_mapping(&c.path(name)), (meta.dev(), meta.ino()), "{name}, {round}");
        }
        match round {
            "as it is" => names.iter().for_each(|name| fs::write(c.path(name), "new").unwrap()),
            _ => c.remount(),
        }
    }
}

/// The freed inode of a file that moved to another branch must not give its number, which the file keeps, to the next
/// one.
#[test]
fn a_file_that_moved_on_keeps_its_number_to_itself() {
    let tree = TestTree::loose(&["", ""]);
    let _small = Mounted::ext4(tree.branch(0), &tree.beside("image"), 4);
    let _large = Mounted::new("tmpfs", tree.branch(1), "size=32M");
    let list = format!("{}=rw:{}=rw", tree.branch(0).display(), tree.branch(1).display());
    let mut c = TestMount::over(tree, &["-o", &format!("dirs={list},create=ff,moveonenospc,io=stateless")]);
    fs::remove_dir(c.path("lost+found")).unwrap();
    fs::write(c.path("big"), "b").unwrap();
    let number = fs::metadata(c.path("big")).unwrap().ino();
    fs::write(c.path("big"), vec![7; 8 << 20]).unwrap();
    assert!(c.lower("big").exists() && !c.upper("big").exists(), "it moved");
    let room = rustix::fs::statvfs(c.tree().branch(0)).unwrap();
    assert!(room.f_bavail * room.f_frsize > 1 << 20, "the space that it had is free");
    for at in 0..8 {
        fs::write(c.path(format!("next{at}")), "n").unwrap();
        assert!(c.upper(format!("next{at}")).exists(), "made where the number was");
    }
    let before = numbers(&c.root());
    assert_all_differ(&before);
    c.remount();
    assert_eq!(numbers(&c.root()), before);
    assert_eq!(fs::metadata(c.path("big")).unwrap().ino(), number);
    let open = File::open(c.path("big")).unwrap();
    fs::remove_file(c.path("big")).unwrap();
    for at in 8..16 {
        fs::write(c.path(format!("next{at}")), "n").unwrap();
    }
    let others = numbers(&c.root());
    assert_all_differ(&others);
    assert!(others.iter().all(|(_, ino)| *ino != number), "it is still open");
    drop(open);
    assert!(c.unmount().success());
    assert!(!c.upper(".wh..wh.work").exists(), "nothing is kept of a file that is gone");
    c.mount_with(None);
}

/// What an upper records of its lower's objects is not taken for those of another branch, whose filesystem uses the
/// same numbers.
#[test]
fn records_are_not_believed_of_another_filesystem() {
    let tree = TestTree::loose(&["", "", ""]);
    let _one = Mounted::new("tmpfs", tree.branch(1), "");
    let _other = Mounted::new("tmpfs", tree.branch(2), "");
    for name in ["a", "b", "single"] {
        fs::write(tree.branch(1).join(name), name).unwrap();
    }
    fs::hard_link(tree.branch(1).join("a"), tree.branch(1).join("linked")).unwrap();
    for name in ["x", "y", "z"] {
        fs::write(tree.branch(2).join(name), name).unwrap();
        fs::hard_link(tree.branch(2).join(name), tree.branch(2).join(format!("{name}2"))).unwrap();
    }
    let path = |at: usize| tree.branch(at).display().to_string();
    let alone = format!("{}=rw:{}=ro+wh", path(0), path(1));
    let both = format!("{}=rw:{}=ro+wh:{}=ro+wh", path(0), path(1), path(2));
    let mut first = TestMount::over(tree, &["-o", &format!("dirs={alone}")]);
    for name in ["a", "b", "single"] {
        fs::write(first.path(name), "changed").unwrap();
    }
    assert_all_differ(
        &numbers(&first.root()).into_iter().filter(|(name, _)| name != "linked").collect::<Vec<_>>(),
    );
    assert!(first.unmount().success());
    first.mount_with(Some(&["-o", &format!("dirs={both}")]));
    let mut c = first;
    for round in ["at once", "after a remount"] {
        for (name, want) in
            [("a", "changed"), ("linked", "changed"), ("b", "changed"), ("x", "x"), ("y2", "y")]
        {
            assert_eq!(c.read(name), want, "{name}, {round}");
        }
        let links = |name: &str| fs::metadata(c.path(name)).unwrap().nlink();
        assert_eq!(["a", "linked", "b", "x", "z2"].map(links), [2, 2, 1, 2, 2], "{round}");
        let second = ["linked", "x2", "y2", "z2"];
        let one_each: Vec<_> =
            numbers(&c.root()).into_iter().filter(|(name, _)| !second.contains(&name.as_str())).collect();
        assert_all_differ(&one_each);
        c.remount();
    }
}

/// On a filesystem that stores no extended attributes.
#[test]
fn numbers_stay_where_no_attribute_can_record_them() {
    let tree = TestTree::build(2, 1, |at, root| {
        if at == 1 {
            for name in ["file", "one"] {
                fs::write(root.join(name), name).unwrap();
            }
            fs::hard_link(root.join("one"), root.join("two")).unwrap();
            symlink("to", root.join("symlink")).unwrap();
            for (name, kind) in [("fifo", FileType::Fifo), ("socket", FileType::Socket)] {
                mknodat(CWD, root.join(name), kind, 0o644.into(), 0).unwrap();
            }
            mknodat(CWD, root.join("device"), FileType::CharacterDevice, 0o644.into(), 259).unwrap();
        }
    });
    let _bare = Mounted::new("ramfs", tree.branch(0), "");
    let mut c = TestMount::over(tree, &[]);
    let before = numbers(&c.root());
    let links = |c: &TestMount| -> Vec<_> {
        before.iter().map(|(name, _)| fs::symlink_metadata(c.path(name)).unwrap().nlink()).collect()
    };
    let counted = links(&c);
    for (name, _) in &before {
        lchown(c.path(name), Some(7), Some(7)).unwrap();
    }
    for round in ["at once", "after a remount", "after another"] {
        assert_eq!((numbers(&c.root()), links(&c)), (before.clone(), counted.clone()), "{round}");
        c.remount();
    }
    fs::rename(c.path("symlink"), c.path("elsewhere")).unwrap();
    fs::set_permissions(c.path("fifo"), Permissions::from_mode(0o600)).unwrap();
    fs::hard_link(c.path("device"), c.path("device2")).unwrap();
    c.remount();
    let number = |name: &str| fs::symlink_metadata(c.path(name)).unwrap().ino();
    let was = |name: &str| before.iter().find(|(other, _)| other == name).unwrap().1;
    for (name, old) in [("elsewhere", "symlink"), ("fifo", "fifo"), ("device2", "device"), ("two", "one")] {
        assert_eq!(number(name), was(old), "{name}");
    }
    assert_eq!(fs::symlink_metadata(c.path("device")).unwrap().nlink(), 2);
    assert!(fs::symlink_metadata(c.path("fifo")).unwrap().file_type().is_fifo());
    for entry in fs::read_dir(c.root()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    c.remount();
    let left = fs::read_dir(c.upper(".wh..wh.work/links")).unwrap().count();
    assert_eq!(left, 0, "what is gone is not kept");
}
