//! Branches on other filesystems, made on loop devices: shared blocks on xfs and btrfs, a quota that ends, and what is
//! read before anybody asks for it.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::support::branches::{fingerprint, ls};
use crate::support::mount::{host_ok, run};

const MIB: usize = 1 << 20;

/// A filesystem of this type on a loop device, mounted; in it `upper` and `lower`, beside it a mount point.
struct Disk {
    dir: TempDir,
}

impl Disk {
    fn new(kind: &str) -> Self {
        let dir = tempfile::Builder::new().prefix("unionfs-test-").tempdir().unwrap();
        let disk = Self { dir };
        let image = disk.beside("image");
        File::create(&image).unwrap().set_len(400 * MIB as u64).unwrap();
        fs::create_dir(disk.at("")).unwrap();
        fs::create_dir(disk.mnt("")).unwrap();
        host_ok(&format!("mkfs.{kind}"), &["-q".as_ref(), image.as_os_str()]);
        host_ok("mount", &["-o".as_ref(), "loop".as_ref(), image.as_os_str(), disk.at("").as_os_str()]);
        fs::create_dir(disk.at("upper")).unwrap();
        fs::create_dir(disk.at("lower")).unwrap();
        disk
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A path on the filesystem.
    fn at(&self, path: &str) -> PathBuf {
        self.beside("disk").join(path)
    }

    /// A path on the union.
    fn mnt(&self, path: &str) -> PathBuf {
        self.beside("mnt").join(path)
    }

    /// Mounts the union of `upper` and a lower directory.
    fn unite(&self, lower: &Path) {
        let branches = format!("{}=rw:{}=ro", self.at("upper").display(), lower.display());
        let output = run(&["mount".as_ref(), OsStr::new(&branches), self.mnt("").as_os_str()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        unmount(self.mnt(""), UnmountFlags::empty()).ok();
        // The server lets go of the branches a moment after its mount has gone.
        let end = Instant::now() + Duration::from_secs(60);
        while unmount(self.at(""), UnmountFlags::empty()) == Err(rustix::io::Errno::BUSY) {
            if Instant::now() > end {
                unmount(self.at(""), UnmountFlags::DETACH).ok();
                assert!(std::thread::panicking(), "the server keeps {:?}", self.at(""));
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Bytes that no filesystem finds a shorter form of.
fn noise(len: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len / 8).flat_map(|_| next().to_ne_bytes()).collect()
}

/// How many bytes of a file lie in blocks that another file has too (`FIEMAP_EXTENT_SHARED`).
fn shared_bytes(path: &Path) -> usize {
    rustix::fs::fsync(File::open(path).unwrap()).unwrap();
    // One line an extent: its number, logical range, physical range, length, what is expected, flags.
    let told = host_ok("filefrag", &["-v".as_ref(), "-b1".as_ref(), path.as_os_str()]);
    let shared = told.lines().filter(|line| line.contains("shared"));
    shared.map(|line| line.split(':').nth(3).unwrap().trim().parse::<usize>().unwrap()).sum()
}

fn copies_share_blocks(kind: &str) {
    const SIZE: usize = 32 * MIB;
    let disk = Disk::new(kind);
    let content = noise(SIZE);
    for name in ["appended", "chmodded", "copied"] {
        fs::write(disk.at("lower").join(name), &content).unwrap();
    }
    let before = fingerprint(&disk.at("lower"));
    disk.unite(&disk.at("lower"));
    OpenOptions::new().append(true).open(disk.mnt("appended")).unwrap().write_all(b"more").unwrap();
    host_ok("chmod", &["600".as_ref(), disk.mnt("chmodded").as_os_str()]);
    // By copy_file_range(2), through the mount.
    fs::copy(disk.mnt("copied"), disk.mnt("copy")).unwrap();
    for (name, end) in [("appended", &b"more"[..]), ("chmodded", b""), ("copy", b"")] {
        assert!(fs::read(disk.mnt(name)).unwrap() == [&content, end].concat(), "{name}");
    }
    for name in ["appended", "copy"] {
        assert_eq!(shared_bytes(&disk.at("upper").join(name)), SIZE, "{name} has blocks of its own");
    }
    assert_eq!(fingerprint(&disk.at("lower")), before, "the lower branch was written");
}

#[test]
fn copies_share_blocks_on_xfs() {
    copies_share_blocks("xfs");
}

#[test]
fn copies_share_blocks_on_btrfs() {
    copies_share_blocks("btrfs");
}

/// Limits what the filesystem may hold (btrfs-qgroup(8)).
fn limit(disk: &Disk, size: &str) {
    host_ok("btrfs", &["qgroup", "limit", size, disk.at("").to_str().unwrap()].map(OsStr::new));
}

#[test]
fn a_quota_that_is_exceeded_is_told_and_leaves_the_old_tree() {
    let disk = Disk::new("btrfs");
    let lower = disk.beside("lower");
    fs::create_dir(&lower).unwrap();
    let content = noise(32 * MIB);
    fs::write(lower.join("f"), &content).unwrap();
    let before = fingerprint(&lower);
    host_ok("btrfs", &["quota", "enable", disk.at("").to_str().unwrap()].map(OsStr::new));
    limit(&disk, "16M");
    disk.unite(&lower);
    let append = || OpenOptions::new().append(true).open(disk.mnt("f"))?.write_all(b"more");
    for round in 0..3 {
        let refused = append().unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EDQUOT), "copy-up, round {round}: {refused}");
        assert!(!disk.at("upper/f").exists(), "half a copy");
        assert_eq!(ls(&disk.at("upper/.wh..wh.work/work")), "", "left in the work directory");
        assert!(fs::read(disk.mnt("f")).unwrap() == content, "the old file");
    }
    let refused = fs::write(disk.mnt("new"), &content).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EDQUOT), "write: {refused}");
    fs::remove_file(disk.mnt("new")).unwrap();
    limit(&disk, "none");
    append().unwrap();
    assert!(fs::read(disk.mnt("f")).unwrap() == [&content[..], b"more"].concat());
    assert_eq!(fingerprint(&lower), before, "the lower branch was written");
}

/// Which files of a directory have pages in memory (mincore(2): asking brings none in).
fn in_memory(dir: &Path) -> BTreeSet<String> {
    let paths: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    let options = ["--noheadings", "--raw", "--output", "PAGES,FILE"].map(OsStr::new);
    let told = host_ok(
        "fincore",
        &[&options[..], &paths.iter().map(|path| path.as_os_str()).collect::<Vec<_>>()].concat(),
    );
    let there = told.lines().filter_map(|line| line.split_once(' ')).filter(|(pages, _)| *pages != "0");
    there.map(|(_, path)| path.rsplit('/').next().unwrap().to_owned()).collect()
}

/// A directory of the lower branch with a hundred files, none of which is in memory; their names as the mount lists them.
fn cold_files(disk: &Disk) -> Vec<String> {
    let dir = disk.at("lower/dir");
    fs::create_dir(&dir).unwrap();
    (0..100).for_each(|number| fs::write(dir.join(format!("f{number}")), format!("{number:08192}")).unwrap());
    rustix::fs::syncfs(File::open(&dir).unwrap()).unwrap();
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        rustix::fs::fadvise(File::open(&path).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    assert_eq!(in_memory(&dir), BTreeSet::new());
    disk.unite(&disk.at("lower"));
    let listed = fs::read_dir(disk.mnt("dir")).unwrap();
    listed.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn read(disk: &Disk, name: &str) {
    let content = fs::read_to_string(disk.mnt("dir").join(name)).unwrap();
    assert_eq!(content, format!("{:08192}", name[1..].parse::<u32>().unwrap()), "{name}");
}

#[test]
fn files_that_come_next_are_read_ahead() {
    let disk = Disk::new("ext4");
    let names = cold_files(&disk);
    names[..10].iter().for_each(|name| read(&disk, name));
    let end = Instant::now() + Duration::from_secs(60);
    let there = || in_memory(&disk.at("lower/dir"));
    while !names[10..14].iter().all(|name| there().contains(name)) {
        assert!(Instant::now() < end, "nobody has fetched them");
        std::thread::sleep(Duration::from_millis(10));
    }
    let last = names.iter().rposition(|name| there().contains(name)).unwrap();
    assert!(last < 10 + 16, "{last}: {:?}", there());
    names.iter().for_each(|name| read(&disk, name));
}

#[test]
fn nothing_is_read_ahead_of_files_in_another_order() {
    let disk = Disk::new("ext4");
    let names = cold_files(&disk);
    let wanted: BTreeSet<_> = names.iter().rev().step_by(3).cloned().collect();
    names.iter().rev().step_by(3).for_each(|name| read(&disk, name));
    assert_eq!(in_memory(&disk.at("lower/dir")), wanted, "but those that were read");
}
