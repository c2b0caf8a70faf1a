//! The union mounted in the passthrough mode: that data goes the short way where it may, and nowhere else.
//!
//! Everything here needs `CAP_SYS_ADMIN` and kernel 6.9, and says so where it has not got them.

use std::fs::{self, File, Metadata};
use std::io::{BufRead, BufReader, Lines, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::unmount;
use crate::fuse::{Opcode, Stats};
use crate::mount::{Access, IoMode, MountError, MountOptions, Unmounter};
use crate::sys::SharedMap;
use crate::union::{Options, Union};

/// A union of two branches, mounted.
pub(super) struct Mounted {
    dir: tempfile::TempDir,
    stats: Stats,
    unmounter: Unmounter,
    server: Option<JoinHandle<Result<(), MountError>>>,
}

impl Mounted {
    /// `None` where the kernel or the rights do not suffice.
    fn new(lower: &[(&str, &str)], writable: bool) -> Option<Self> {
        Self::in_mode(IoMode::Passthrough, lower, writable)
    }

    /// The same in any of the modes that pass through.
    pub(super) fn in_mode(io: IoMode, lower: &[(&str, &str)], writable: bool) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        for branch in ["up", "low", "mnt"] {
            fs::create_dir(dir.path().join(branch)).unwrap();
        }
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in lower {
            fs::write(dir.path().join("low").join(name), text).unwrap();
        }
        let permission = if writable { "rw" } else { "ro" };
        let list = format!("{0}/up={permission}:{0}/low=ro", dir.path().display());
        let specs = crate::BranchSpec::parse_list(list).unwrap();
        let union = Arc::new(Union::new(specs, Options::default()).unwrap());
        let server =
            MountOptions::new(dir.path().join("mnt")).access(Access::Everyone).io(io).mount(union).unwrap();
        if !server.features().live("PASSTHROUGH") {
            eprintln!("SKIP: the kernel offers no passthrough, or this is not root");
            return None;
        }
        let (stats, unmounter) = (server.stats(), server.unmounter());
        Some(Self { dir, stats, unmounter, server: Some(thread::spawn(move || server.run())) })
    }

    pub(super) fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("mnt").join(name)
    }

    pub(super) fn branch(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) fn count(&self, opcode: Opcode) -> u64 {
        self.stats.ops().iter().find(|op| op.opcode == opcode).map_or(0, |op| op.count)
    }

    /// Waits until the server has heard of every close, which close(2) does not wait for.
    pub(super) fn all_closed(&self) {
        let still = || self.count(Opcode::OPEN) + self.count(Opcode::CREATE) - self.count(Opcode::RELEASE);
        let closed = (0..500).any(|_| {
            thread::sleep(Duration::from_millis(2));
            still() == 0
        });
        assert!(closed, "{} files still open", still());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.unmounter);
        let ended = self.server.take().unwrap().join();
        assert!(thread::panicking() || matches!(ended, Ok(Ok(()))), "{ended:?}");
    }
}

/// A process that maps a file shared and writable. It must not be this one: munmap(2) holds the address space locked
/// while it waits for this server to write, and a page fault of the server waits for that lock.
pub(super) struct Mapper {
    process: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Mapper {
    pub(super) fn new(path: &Path) -> Self {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--ignored",
                "--nocapture",
                "fuse::tests::passthrough::mapper_of_another_process",
            ])
            .env("UNIONFS_MAP", path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let said = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut mapper = Self { process, said };
        assert_eq!(mapper.ask("get 0").len(), 1);
        mapper
    }

    fn ask(&mut self, what: &str) -> Vec<u8> {
        writeln!(self.process.stdin.as_mut().unwrap(), "{what}").unwrap();
        let answer = self
            .said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.strip_prefix("map:")?.parse::<u8>().ok()));
        answer.expect("an answer").into_iter().collect()
    }

    pub(super) fn get(&mut self, at: usize) -> u8 {
        self.ask(&format!("get {at}"))[0]
    }

    pub(super) fn set(&mut self, at: usize, byte: u8) {
        self.ask(&format!("set {at} {byte}"));
    }

    /// Unmaps and closes the file, and waits until that is done.
    pub(super) fn end(mut self) {
        drop(self.process.stdin.take());
        assert!(self.process.wait().unwrap().success());
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
#[ignore = "the other process of the tests of mappings"]
fn mapper_of_another_process() {
    let Some(path) = std::env::var_os("UNIONFS_MAP") else { return };
    let map = SharedMap::new(read_write(path.as_ref()), 4096).unwrap();
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().unwrap();
        match words[0] {
            "get" => println!("map:{}", map.get(number(1))),
            _ => {
                map.set(number(1), u8::try_from(number(2)).unwrap());
                println!("map:set");
            }
        }
    }
}

pub(super) fn read_write(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

pub(super) fn text(mut file: &File) -> String {
    let mut text = String::new();
    rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0)).unwrap();
    file.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn upper_file_is_read_written_and_mapped_without_a_message() {
    let Some(mnt) = Mounted::new(&[], true) else { return };
    fs::write(mnt.at("f"), "hello world").unwrap();
    assert_eq!(fs::read_to_string(mnt.branch("up/f")).unwrap(), "hello world");
    let file = read_write(&mnt.at("f"));
    let mut map = Mapper::new(&mnt.at("f"));
    map.set(0, b'J');
    file.write_all_at(b"W", 6).unwrap();
    assert_eq!((map.get(6), text(&file).as_str()), (b'W', "Jello World"));
    map.end();
    assert_eq!(fs::read_to_string(mnt.branch("up/f")).unwrap(), "Jello World");
    assert_eq!((mnt.count(Opcode::READ), mnt.count(Opcode::WRITE)), (0, 0));
    assert_eq!(mnt.count(Opcode::OPEN) + mnt.count(Opcode::CREATE), 3);
}

#[test]
fn file_of_a_union_without_writable_branch_is_read_without_a_message() {
    let Some(mnt) = Mounted::new(&[("f", "lower")], false) else { return };
    let (one, two) = (File::open(mnt.at("f")).unwrap(), File::open(mnt.at("f")).unwrap());
    assert_eq!((text(&one), text(&two)), ("lower".into(), "lower".into()));
    assert_eq!(mnt.count(Opcode::READ), 0);
    drop((one, two));
    // A new backing file after the old one was given back.
    assert_eq!(fs::read_to_string(mnt.at("f")).unwrap(), "lower");
    assert_eq!(mnt.count(Opcode::OPEN), 3);
}

/// Every way to hold a lower file open while it is copied up: what was opened before sees what is written after.
#[test]
fn lower_file_copied_up_while_open_stays_one_file() {
    let names = ["write", "append", "truncate", "mapped", "renamed", "chmod"];
    let lower = names.map(|name| (name, "old content"));
    let Some(mnt) = Mounted::new(&lower, true) else { return };
    for name in names {
        let path = mnt.at(name);
        let before = File::open(&path).unwrap();
        assert_eq!(text(&before), "old content", "{name}");
        let want = match name {
            "write" => {
                read_write(&path).write_all_at(b"NEW", 0).unwrap();
                "NEW content"
            }
            "append" => {
                File::options().append(true).open(&path).unwrap().write_all(b"!").unwrap();
                "old content!"
            }
            "truncate" => {
                fs::write(&path, "fresh").unwrap();
                "fresh"
            }
            "mapped" => {
                let mut map = Mapper::new(&path);
                assert_eq!(map.get(0), b'o');
                map.set(0, b'O');
                map.end();
                "Old content"
            }
            "renamed" => {
                fs::rename(&path, mnt.at("other")).unwrap();
                read_write(&mnt.at("other")).write_all_at(b"NEW", 0).unwrap();
                "NEW content"
            }
            _ => {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                read_write(&path).write_all_at(b"NEW", 0).unwrap();
                "NEW content"
            }
        };
        assert_eq!(text(&before), want, "{name}: opened before");
        let shown = if name == "renamed" { "other" } else { name };
        assert_eq!(fs::read_to_string(mnt.at(shown)).unwrap(), want, "{name}: opened while others are");
        drop(before);
        mnt.all_closed();
        let (reads, after) = (mnt.count(Opcode::READ), read_write(&mnt.at(shown)));
        assert_eq!(text(&after), want, "{name}: opened when nobody else had it");
        assert_eq!(mnt.count(Opcode::READ), reads, "{name}: and then passed through");
        assert_eq!(fs::read_to_string(mnt.branch("low").join(name)).unwrap(), "old content", "{name}: lower");
    }
}

#[test]
fn lower_file_opened_to_be_written_is_copied_up_and_passed_through() {
    let Some(mnt) = Mounted::new(&[("f", "old content")], true) else { return };
    // Pages of the time before must not be seen after.
    assert_eq!(fs::read_to_string(mnt.at("f")).unwrap(), "old content");
    mnt.all_closed();
    read_write(&mnt.at("f")).write_all_at(b"NEW", 0).unwrap();
    assert_eq!(fs::read_to_string(mnt.at("f")).unwrap(), "NEW content");
    assert_eq!(mnt.count(Opcode::WRITE), 0);
    assert_eq!(fs::read_to_string(mnt.branch("low/f")).unwrap(), "old content");
    let truncated = File::options().write(true).truncate(true).open(mnt.at("f")).unwrap();
    assert_eq!(truncated.metadata().unwrap().len(), 0);
    assert_eq!(fs::metadata(mnt.branch("up/f")).unwrap().len(), 0);
}

#[test]
fn set_user_id_is_lost_at_the_first_write_by_another() {
    let Some(mnt) = Mounted::new(&[], true) else { return };
    for (case, hold) in [("alone", false), ("while passed through", true)] {
        let path = mnt.at("f");
        fs::write(&path, "x").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6777)).unwrap();
        let held = hold.then(|| File::open(&path).unwrap());
        let append = format!("printf y >> {}", path.display());
        assert!(
            Command::new("/bin/sh").args(["-c", &append]).uid(65534).gid(65534).status().unwrap().success()
        );
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o777, "{case}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "xy", "{case}");
        assert_eq!(fs::read_to_string(mnt.branch("up/f")).unwrap(), "xy", "{case}: in the branch");
        drop(held);
    }
}

#[test]
fn writes_through_a_mapping_show_in_the_times() {
    let Some(mnt) = Mounted::new(&[], true) else { return };
    fs::write(mnt.at("f"), [0; 4096]).unwrap();
    let mtime = |meta: Metadata| (meta.mtime(), meta.mtime_nsec());
    let file = read_write(&mnt.at("f"));
    let mut map = Mapper::new(&mnt.at("f"));
    let mut last = mtime(file.metadata().unwrap());
    for round in 1..4 {
        thread::sleep(Duration::from_millis(20));
        map.set(0, round);
        rustix::fs::fsync(&file).unwrap(); // makes the page clean, so that the next write marks the time
        let now = mtime(fs::metadata(mnt.at("f")).unwrap());
        assert!(now > last, "round {round}: {now:?}");
        last = now;
    }
    thread::sleep(Duration::from_millis(20));
    map.set(0, 9);
    map.end();
    drop(file);
    let end = mtime(fs::metadata(mnt.branch("up/f")).unwrap());
    // RELEASE is not waited for.
    let told = (0..100).any(|_| {
        thread::sleep(Duration::from_millis(5));
        mtime(fs::metadata(mnt.at("f")).unwrap()) == end
    });
    assert!(told && end > last, "after the last close");
}

#[test]
fn every_kind_of_open_works_in_every_order() {
    let Some(mnt) = Mounted::new(&[("low", "lower")], true) else { return };
    fs::write(mnt.at("up"), "upper").unwrap();
    let mut options: Vec<fs::OpenOptions> = Vec::new();
    for (read, write, append, flags) in [
        (true, false, false, 0),
        (true, true, false, 0),
        (false, true, false, 0),
        (true, false, true, 0),
        (true, false, false, libc::O_DIRECT),
        (true, true, false, libc::O_NOATIME),
    ] {
        let mut one = File::options();
        one.read(read).write(write).append(append).custom_flags(flags);
        options.push(one);
    }
    for name in ["low", "up"] {
        for first in &options {
            for second in &options {
                let held = first.open(mnt.at(name)).unwrap();
                let other = second.open(mnt.at(name)).unwrap();
                drop(held);
                let third = first.open(mnt.at(name)).unwrap();
                drop((other, third));
            }
        }
    }
}

/// The answer to CREATE must know that the file is open to be mapped.
#[test]
fn a_file_that_is_created_to_be_mapped_shows_its_times() {
    let Some(mnt) = Mounted::new(&[], true) else { return };
    let file = File::options().read(true).write(true).create_new(true).open(mnt.at("f")).unwrap();
    let asked = mnt.count(Opcode::GETATTR);
    for _ in 0..3 {
        file.metadata().unwrap();
    }
    assert_eq!(mnt.count(Opcode::GETATTR), asked + 3, "attributes are asked for each time");
}
