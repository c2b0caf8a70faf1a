//! The double behind a real mount: that the kernel and this server understand each other.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::double::Double;
use super::unmount;
use crate::mount::{MountError, MountOptions, Transport, Unmounter};

/// A mounted double; unmounted at the end of the test, whatever comes.
struct Mounted {
    dir: tempfile::TempDir,
    core: Arc<Double>,
    unmounter: Unmounter,
    server: Option<JoinHandle<Result<(), MountError>>>,
}

impl Mounted {
    /// `None` where the host does not offer the transport.
    fn new(transport: Transport, with: impl FnOnce(MountOptions) -> MountOptions) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let core = Arc::new(Double::new());
        let options = with(MountOptions::new(dir.path())).transport(transport);
        let server = options.mount(Arc::clone(&core)).unwrap();
        if transport == Transport::Uring && !server.features().live("OVER_IO_URING") {
            eprintln!("SKIP: the host has not switched FUSE over io_uring on");
            return None;
        }
        let unmounter = server.unmounter();
        let server = Some(thread::spawn(move || server.run()));
        Some(Self { dir, core, unmounter, server })
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        unmount(&self.unmounter);
        let ended = self.server.take().unwrap().join();
        assert!(thread::panicking() || matches!(ended, Ok(Ok(()))), "{ended:?}");
    }
}

fn tree_of_every_kind_reads_back(transport: Transport) {
    let Some(mnt) = Mounted::new(transport, |options| options.fsname("double,x")) else { return };
    let at = |name: &str| mnt.path().join(name);
    fs::create_dir(at("d")).unwrap();
    fs::write(at("d/f"), b"hello").unwrap();
    symlink("d/f", at("l")).unwrap();
    fs::hard_link(at("d/f"), at("h")).unwrap();
    assert_eq!(fs::read(at("l")).unwrap(), b"hello");
    assert_eq!(fs::metadata(at("h")).unwrap().ino(), fs::metadata(at("d/f")).unwrap().ino());
    fs::rename(at("h"), at("d/g")).unwrap();
    let mut names: Vec<_> = fs::read_dir(at("d"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["f", "g"]);
    assert_eq!(fs::remove_dir(at("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    for name in ["d/f", "d/g", "l"] {
        fs::remove_file(at(name)).unwrap();
    }
    fs::remove_dir(at("d")).unwrap();
    assert_eq!(fs::read_dir(mnt.path()).unwrap().count(), 0);
    let line = fs::read_to_string("/proc/mounts").unwrap();
    let line = line.lines().find(|line| line.contains(mnt.path().to_str().unwrap())).unwrap().to_owned();
    assert!(line.starts_with("double,x ") && line.contains(" fuse.unionfs "), "{line}");
}

fn data_larger_than_a_message_round_trips(transport: Transport) {
    let Some(mnt) = Mounted::new(transport, |options| options) else { return };
    let data: Vec<u8> = (0..3_000_001u32).map(|i| i.to_le_bytes()[0] ^ i.to_le_bytes()[2]).collect();
    let path = mnt.path().join("big");
    File::create(&path).unwrap().write_all(&data).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    let mut back = Vec::new();
    (&file).read_to_end(&mut back).unwrap();
    assert!(back == data, "content differs");
    file.set_len(10).unwrap();
    file.write_all_at(b"xy", 8).unwrap();
    assert_eq!(fs::read(&path).unwrap()[6..], [data[6], data[7], b'x', b'y']);
    assert_eq!(mnt.core.nodes.lock().values().filter(|node| node.data.len() == 10).count(), 1);
}

fn listing_of_many_names_is_complete_and_each_counts_one_lookup(transport: Transport) {
    let Some(mnt) = Mounted::new(transport, |options| options) else { return };
    for i in 0..3000 {
        File::create(mnt.path().join(format!("name-{i}"))).unwrap();
    }
    let drop_caches = || fs::write("/proc/sys/vm/drop_caches", "2");
    if drop_caches().is_err() {
        eprintln!("SKIP the count of lookups: not root");
        return;
    }
    assert_eq!(fs::read_dir(mnt.path()).unwrap().count(), 3000);
    for i in 0..3000 {
        fs::remove_file(mnt.path().join(format!("name-{i}"))).unwrap();
    }
    // Each FORGET brings back what every reply has counted: with no name and no user left, nothing remains.
    let held = || mnt.core.nodes.lock().values().map(|node| node.lookups).sum::<u64>();
    for _ in 0..100 {
        if held() == 0 {
            return;
        }
        thread::sleep(Duration::from_millis(20));
    }
    panic!("{} references are left over", held());
}

fn slow_requests_hold_up_nobody_else(transport: Transport) {
    let Some(mnt) = Mounted::new(transport, |options| options.threads(4)) else { return };
    let path = mnt.path().to_owned();
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || rustix::fs::getxattr(&path, "user.slow", &mut [0u8; 1][..]))
        })
        .collect();
    // The fourth thread answers these, though nobody could know that the other three would take so long.
    for i in 0..200 {
        assert!(fs::symlink_metadata(path.join(format!("absent-{i}"))).is_err());
        thread::sleep(Duration::from_millis(1));
    }
    assert!(slow.iter().all(|slow| !slow.is_finished()));
    mnt.core.slow.store(false, Ordering::Relaxed);
    for slow in slow {
        assert_eq!(slow.join().unwrap(), Err(rustix::io::Errno::NODATA));
    }
}

/// Every test by each way that requests can come.
macro_rules! by_each_transport {
    ($($test:ident),+ $(,)?) => {
        mod classic {
            $(#[test] fn $test() { super::$test(super::Transport::Classic); })+
        }
        mod uring {
            $(#[test] fn $test() { super::$test(super::Transport::Uring); })+
        }
    };
}

by_each_transport!(
    tree_of_every_kind_reads_back,
    data_larger_than_a_message_round_trips,
    listing_of_many_names_is_complete_and_each_counts_one_lookup,
    slow_requests_hold_up_nobody_else
);
