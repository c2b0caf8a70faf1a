//! What one FUSE message costs: a core that does nothing, behind a real mount, asked by one process or several.
//!
//! `cargo run --profile bench --example messages [THREADS [SPIN [uring]]]` prints microseconds for each call over many short
//! rounds, for a machine is never quiet. Compare two builds only on the same machine and at the same hour.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use unionfs::error::{Errno, Error, Result};
use unionfs::fuse::Core;
use unionfs::mount::{MountOptions, Transport};
use unionfs::*;

const CALLS: u32 = 250;
const ROUNDS: u32 = 60;

/// Names that begin with `f` are empty files; nothing else exists; everything succeeds.
#[derive(Debug)]
struct Null;

const NO: Error = Error::rule("null", Errno::OPNOTSUPP);

fn attr(ino: u64) -> Attr {
    let time = Time::default();
    let kind = if ino == 1 { libc::S_IFDIR } else { libc::S_IFREG };
    Attr {
        ino,
        mode: kind | 0o777,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: time,
        mtime: time,
        ctime: time,
    }
}

fn entry(name: Name<'_>) -> Result<Entry> {
    let number = name.as_bytes().iter().fold(2u64, |sum, byte| sum.wrapping_mul(257) + u64::from(*byte));
    let node = Ino::new(number | 1 << 40).ok_or(NO)?;
    Ok(Entry { node, attr: attr(node.get()) })
}

impl Core for Null {
    fn node_count(&self) -> usize {
        0
    }
    fn cache_stats(&self) -> Vec<CacheStats> {
        Vec::new()
    }
    fn lookup(&self, _: Ino, name: Name<'_>) -> Result<Option<Entry>> {
        name.as_bytes().starts_with(b"f").then(|| entry(name)).transpose()
    }
    fn forget(&self, _: Ino, _: u64) {}
    fn getattr(&self, node: Ino) -> Result<Attr> {
        Ok(attr(node.get()))
    }
    fn setattr(&self, node: Ino, _: &SetAttr) -> Result<Attr> {
        Ok(attr(node.get()))
    }
    fn readlink(&self, _: Ino) -> Result<OsString> {
        Err(NO)
    }
    fn mknod(&self, _: Ino, name: Name<'_>, _: FileKind, _: u32, _: &NewNode) -> Result<Entry> {
        entry(name)
    }
    fn mkdir(&self, _: Ino, _: Name<'_>, _: &NewNode) -> Result<Entry> {
        Err(NO)
    }
    fn symlink(&self, _: Ino, _: Name<'_>, _: &OsStr, _: &NewNode) -> Result<Entry> {
        Err(NO)
    }
    fn create(&self, _: Ino, name: Name<'_>, _: &NewNode) -> Result<Entry> {
        entry(name)
    }
    fn tmpfile(&self, _: Ino, _: &NewNode) -> Result<Entry> {
        Err(NO)
    }
    fn link(&self, _: Ino, _: Ino, _: Name<'_>) -> Result<Entry> {
        Err(NO)
    }
    fn unlink(&self, _: Ino, _: Name<'_>) -> Result<()> {
        Ok(())
    }
    fn rmdir(&self, _: Ino, _: Name<'_>) -> Result<()> {
        Ok(())
    }
    fn rename(&self, _: Ino, _: Name<'_>, _: Ino, _: Name<'_>, _: RenameFlags) -> Result<()> {
        Ok(())
    }
    fn read_dir(&self, _: Ino, _: u64, _: bool, _: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()> {
        Ok(())
    }
    fn settled_file(&self, _: Ino, _: bool) -> Result<Option<OwnedFd>> {
        Ok(None)
    }
    fn present_file(&self, _: Ino) -> Result<Option<OwnedFd>> {
        Ok(None)
    }
    fn read(&self, _: Ino, _: u64, _: &mut [u8]) -> Result<usize> {
        Ok(0)
    }
    fn write(&self, _: Ino, _: u64, data: &[u8], _: bool) -> Result<usize> {
        Ok(data.len())
    }
    fn fsync(&self, _: Ino, _: bool) -> Result<()> {
        Ok(())
    }
    fn fsync_dir(&self, _: Ino) -> Result<()> {
        Ok(())
    }
    fn syncfs(&self) -> Result<()> {
        Ok(())
    }
    fn fallocate(&self, _: Ino, _: u32, _: u64, _: u64) -> Result<()> {
        Err(NO)
    }
    fn lseek(&self, _: Ino, _: u64, _: Seek) -> Result<u64> {
        Err(NO)
    }
    fn copy_file_range(&self, _: Ino, _: u64, _: Ino, _: u64, _: u64) -> Result<usize> {
        Err(NO)
    }
    fn statfs(&self) -> Result<StatFs> {
        Err(NO)
    }
    fn getxattr(&self, _: Ino, _: &OsStr) -> Result<Vec<u8>> {
        Err(Error::rule("null", Errno::NODATA))
    }
    fn listxattr(&self, _: Ino) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }
    fn setxattr(&self, _: Ino, _: &OsStr, _: &[u8], _: u32) -> Result<()> {
        Ok(())
    }
    fn removexattr(&self, _: Ino, _: &OsStr) -> Result<()> {
        Ok(())
    }
    fn inode_flags(&self, _: Ino) -> Result<u32> {
        Err(NO)
    }
    fn set_inode_flags(&self, _: Ino, _: u32) -> Result<()> {
        Err(NO)
    }
    fn inode_attributes(&self, _: Ino) -> Result<FsXattr> {
        Err(NO)
    }
    fn set_inode_attributes(&self, _: Ino, _: &FsXattr) -> Result<()> {
        Err(NO)
    }
}

/// The least and the median of the averages of `ROUNDS` rounds of `CALLS` calls, in microseconds.
fn rounds(mut call: impl FnMut(u32)) -> [f64; 2] {
    let mut averages: Vec<f64> = (0..ROUNDS)
        .map(|round| {
            let start = Instant::now();
            (0..CALLS).for_each(|i| call(round * CALLS + i));
            start.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS)
        })
        .collect();
    averages.sort_by(f64::total_cmp);
    [averages[0], averages[averages.len() / 2]]
}

/// One client: three kinds of calls, each of one message.
fn client(dir: &Path, tag: &str) -> io::Result<()> {
    let name = |i: u32| dir.join(format!("absent-{tag}-{i}"));
    let lookup = rounds(|i| assert!(fs::symlink_metadata(name(i)).is_err()));
    let file = fs::File::options().write(true).create(true).truncate(false).open(dir.join("file"))?;
    let write = rounds(|_| assert!(file.write_all_at(&[0; 100], 0).is_ok()));
    let mut none = [0u8; 8];
    let xattr = rounds(|_| assert!(rustix::fs::fgetxattr(&file, c"user.x", &mut none[..]).is_err()));
    [lookup, write, xattr].iter().flatten().try_for_each(|value| write!(io::stdout(), "{value} "))
}

/// Averages over `clients` processes that run at once.
fn clients(count: usize, dir: &Path) -> io::Result<Vec<f64>> {
    let me = std::env::current_exe()?;
    let spawn = |index: usize| {
        Command::new(&me).arg("client").arg(dir).arg(index.to_string()).stdout(Stdio::piped()).spawn()
    };
    let running = (0..count).map(|index| spawn(index + count * 10)).collect::<io::Result<Vec<_>>>()?;
    let mut sums = vec![0.0; 6];
    for client in running {
        let out = String::from_utf8(client.wait_with_output()?.stdout).map_err(io::Error::other)?;
        for (sum, value) in sums.iter_mut().zip(out.split_whitespace()) {
            *sum += value.parse::<f64>().map_err(io::Error::other)?;
        }
    }
    let clients = u32::try_from(count).map_err(io::Error::other)?;
    Ok(sums.into_iter().map(|sum| sum / f64::from(clients)).collect())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [kind, dir, tag] = &args[..]
        && kind == "client"
    {
        return Ok(client(Path::new(dir), tag)?);
    }
    let number = |at: usize, default| args.get(at).map_or(Ok(default), |word| word.parse::<u32>());
    let (threads, spin) = (number(0, 8)?, number(1, 30)?);
    let dir = tempfile::tempdir()?;
    let transport =
        if args.iter().any(|word| word == "uring") { Transport::Uring } else { Transport::Classic };
    let options = MountOptions::new(dir.path()).threads(usize::try_from(threads)?).transport(transport);
    let server = options.spin(Duration::from_micros(spin.into())).mount(Arc::new(Null))?;
    if transport == Transport::Uring && !server.features().live("OVER_IO_URING") {
        return Err(
            "FUSE over io_uring is not to be had: see /sys/module/fuse/parameters/enable_uring".into()
        );
    }
    let (unmounter, stats) = (server.unmounter(), server.stats());
    let server = std::thread::spawn(move || server.run());
    let mut out = io::stdout();
    writeln!(
        out,
        "{threads} threads, spin {spin} us, {transport:?}; us per call of one client, least/median of {ROUNDS} rounds"
    )?;
    writeln!(
        out,
        "clients   lookup absent     write 100 B        getxattr   | reads: waiting, spinning, asleep"
    )?;
    for count in [1, 4] {
        let before = stats.reads();
        let values: Vec<_> = clients(count, dir.path())?.iter().map(|value| format!("{value:.1}")).collect();
        let pair = |at: usize| values[at..at + 2].join("/");
        let now = stats.reads();
        let reads =
            [now.waiting - before.waiting, now.spinning - before.spinning, now.asleep - before.asleep];
        writeln!(out, "{count:7}   {:>13}   {:>13}   {:>13}   | {reads:?}", pair(0), pair(2), pair(4))?;
    }
    unmounter.unmount()?;
    server.join().map_err(|_| "server panicked")??;
    Ok(())
}
