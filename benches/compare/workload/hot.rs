//! What the kernel can answer by itself once it has asked: nothing here should cost a message.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, Mode, OFlags, RawDir, lstat, openat, readlinkat_raw, stat};
use rustix::io::{Errno, read};

use super::{Class, Random, Workload};
use crate::fixture::BIG_FILE_SIZE;
use crate::link::Metric;
use crate::sys::sum_of_pages;
use crate::worker::Bench;

const fn hot(name: &'static str, what: &'static str, run: fn(&mut Bench) -> Result<Vec<Metric>>) -> Workload {
    Workload { name, class: Class::Hot, what, ceiling: Some(1.0), run }
}

pub(super) const ALL: &[Workload] = &[
    hot("stat-one", "stat of one file", stat_one),
    hot("lstat-known", "lstat of one of 10,000 known files", lstat_known),
    hot("stat-absent-known", "stat of a name known to be absent", stat_absent_known),
    hot("open-close", "open and close of a known file", open_close),
    hot("read-cached-files", "open, read, close of a cached small file", read_cached_files),
    hot("readdir-known", "opendir, getdents, closedir of a known directory of some 430 names", readdir_known),
    hot("read-seq-cached", "read of 128 KiB, sequential, cached", read_seq_cached),
    hot("read-rand-cached", "pread of 4 KiB, random, cached", read_rand_cached),
    hot("mmap-read", "mmap of a cached 64 MiB file, each page touched; per 4 KiB page", mmap_read),
    hot("readlink", "readlink of a known symlink", readlink),
];

fn path(root: &Path, name: &str) -> Result<CString> {
    CString::new(root.join(name).as_os_str().as_bytes()).context("a name with NUL")
}

fn stat_one(bench: &mut Bench) -> Result<Vec<Metric>> {
    let file = path(bench.root(), "usr/bin/python3.11")?;
    let size = stat(&file).context("stat of python3.11")?.st_size;
    let calls = bench.amount(300_000, 30_000);
    bench.time(calls, || {
        for _ in 0..calls {
            ensure!(stat(&file)?.st_size == size, "the size changed");
        }
        Ok(())
    })
}

fn lstat_known(bench: &mut Bench) -> Result<Vec<Metric>> {
    let known = bench.known()?;
    ensure!(known.len() == 10_000, "only {} files", known.len());
    visit(&known)?;
    let rounds = bench.amount(20, 3);
    bench.time(rounds * known.len(), || (0..rounds).try_for_each(|_| visit(&known)))
}

fn visit(known: &[CString]) -> Result<()> {
    for file in known {
        lstat(file).with_context(|| format!("lstat of {}", file.to_string_lossy()))?;
    }
    Ok(())
}

fn stat_absent_known(bench: &mut Bench) -> Result<Vec<Metric>> {
    let names: Vec<CString> =
        (0..100).map(|i| path(bench.root(), &format!("usr/lib/absent-{i}"))).collect::<Result<_>>()?;
    expect_absent(&names)?;
    let rounds = bench.amount(1_000, 100);
    bench.time(rounds * names.len(), || (0..rounds).try_for_each(|_| expect_absent(&names)))
}

/// Looks up names that must not exist.
pub(super) fn expect_absent(names: &[CString]) -> Result<()> {
    for name in names {
        ensure!(stat(name).err() == Some(Errno::NOENT), "{} is not absent", name.to_string_lossy());
    }
    Ok(())
}

fn open_close(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files: Vec<CString> = small_files(bench)?;
    touch_all(&files)?;
    let rounds = bench.amount(100, 5);
    bench.time(rounds * files.len(), || (0..rounds).try_for_each(|_| touch_all(&files)))
}

fn touch_all(files: &[CString]) -> Result<()> {
    for file in files {
        drop(openat(CWD, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    }
    Ok(())
}

/// Five hundred regular files of at most 32 KiB.
fn small_files(bench: &mut Bench) -> Result<Vec<CString>> {
    let mut files = bench.known()?;
    files.retain(|file| {
        lstat(file).is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFREG && stat.st_size <= 32 << 10)
    });
    files.truncate(500);
    ensure!(files.len() == 500, "only {} small files", files.len());
    Ok(files)
}

fn read_cached_files(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = small_files(bench)?;
    let mut want = 0;
    for file in &files {
        want += u64::try_from(stat(file)?.st_size)?;
    }
    read_all(&files, want)?;
    let rounds = bench.amount(60, 4);
    bench.time(rounds * files.len(), || (0..rounds).try_for_each(|_| read_all(&files, want)))
}

fn read_all(files: &[CString], want: u64) -> Result<()> {
    let mut buf = vec![0; 64 << 10];
    let mut got = 0;
    for file in files {
        got += read_file(file, &mut buf)?;
    }
    ensure!(got == want, "read {got} bytes of {want}");
    Ok(())
}

/// Opens, reads to the end and closes; returns the number of bytes.
pub(super) fn read_file(file: &CStr, buf: &mut [u8]) -> Result<u64> {
    let fd = openat(CWD, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", file.to_string_lossy()))?;
    let mut sum = 0;
    loop {
        match read(&fd, &mut *buf)? {
            0 => return Ok(sum),
            count => sum += u64::try_from(count)?,
        }
    }
}

fn readdir_known(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = path(bench.root(), "usr/bin")?;
    let want = fs::read_dir(bench.root().join("usr/bin"))?.count() + 2;
    ensure!(list(&dir)? == want, "two listings differ");
    let calls = bench.amount(4_000, 300);
    bench.time(calls, || {
        for _ in 0..calls {
            ensure!(list(&dir)? == want, "a listing lost names");
        }
        Ok(())
    })
}

/// Lists with the buffer that glibc uses, 32 KiB; counts names with `.` and `..`.
fn list(dir: &CStr) -> Result<usize> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let fd = openat(CWD, dir, flags, Mode::empty())?;
    let mut buf = [MaybeUninit::<u8>::uninit(); 32 << 10];
    let mut entries = RawDir::new(&fd, &mut buf);
    let mut count = 0;
    while let Some(entry) = entries.next() {
        entry?;
        count += 1;
    }
    Ok(count)
}

fn big_file(bench: &Bench) -> Result<File> {
    File::open(bench.root().join("bench/big")).context("opening the big file")
}

fn read_seq(file: &File, block: &mut [u8]) -> Result<()> {
    let mut offset = 0;
    loop {
        match file.read_at(block, offset)? {
            0 => break,
            count => offset += u64::try_from(count)?,
        }
    }
    ensure!(offset == BIG_FILE_SIZE, "the file has {offset} bytes");
    Ok(())
}

fn read_seq_cached(bench: &mut Bench) -> Result<Vec<Metric>> {
    let file = big_file(bench)?;
    let mut block = vec![0; 128 << 10];
    read_seq(&file, &mut block)?;
    let rounds = bench.amount(20, 3);
    let blocks = usize::try_from(BIG_FILE_SIZE)? / block.len();
    bench.time(rounds * blocks, || (0..rounds).try_for_each(|_| read_seq(&file, &mut block)))
}

fn read_rand_cached(bench: &mut Bench) -> Result<Vec<Metric>> {
    let file = big_file(bench)?;
    let mut block = vec![0; 128 << 10];
    read_seq(&file, &mut block)?;
    let mut random = Random::new();
    let calls = bench.amount(200_000, 20_000);
    bench.time(calls, || {
        for _ in 0..calls {
            let offset = random.below(BIG_FILE_SIZE / 4096) * 4096;
            file.read_exact_at(&mut block[..4096], offset)?;
        }
        Ok(())
    })
}

fn mmap_read(bench: &mut Bench) -> Result<Vec<Metric>> {
    let file = big_file(bench)?;
    let len = usize::try_from(BIG_FILE_SIZE)?;
    let want = sum_of_pages(&file, len)?;
    let rounds = bench.amount(10, 2);
    bench.time(rounds * (len / 4096), || {
        for _ in 0..rounds {
            ensure!(sum_of_pages(&file, len)? == want, "the mapping changed");
        }
        Ok(())
    })
}

fn readlink(bench: &mut Bench) -> Result<Vec<Metric>> {
    let links: Vec<CString> =
        (0..100).map(|i| path(bench.root(), &format!("bench/links/l{i:04}"))).collect::<Result<_>>()?;
    read_links(&links)?;
    let rounds = bench.amount(1_000, 100);
    bench.time(rounds * links.len(), || (0..rounds).try_for_each(|_| read_links(&links)))
}

fn read_links(links: &[CString]) -> Result<()> {
    let mut buf = [MaybeUninit::<u8>::uninit(); 256];
    for link in links {
        let (target, _) = readlinkat_raw(CWD, link, &mut buf)?;
        ensure!(target.starts_with(b"../open/"), "a symlink leads elsewhere");
    }
    Ok(())
}
