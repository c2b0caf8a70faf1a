//! Names and attributes change: in the writable branch, and of objects that still lie in a lower one.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use rustix::fs::{Mode, chmod, stat};

use super::{Class, Workload};
use crate::fixture::LOWER_FILE_SIZE;
use crate::link::Metric;
use crate::worker::Bench;

const fn change(
    name: &'static str,
    what: &'static str,
    ceiling: f64,
    run: fn(&mut Bench) -> Result<Vec<Metric>>,
) -> Workload {
    Workload { name, class: Class::Change, what, ceiling: Some(ceiling), run }
}

pub(super) const ALL: &[Workload] = &[
    change("create", "creation of an empty file (O_EXCL) and close", 2.0, create),
    change("create-4k", "creation of a file, write of 4 KiB, close", 1.3, create_4k),
    change("mkdir", "mkdir", 2.0, mkdir),
    change("unlink", "unlink of a file of the writable branch", 2.0, unlink),
    change("rename", "rename of a file of the writable branch", 1.7, rename),
    change("threads-4", "4 threads: create, write 4 KiB, stat, unlink; per call", 1.5, threads_4),
    change("unlink-lower", "unlink of a lower file: a whiteout is made", 3.0, unlink_lower),
    change("chmod-lower", "chmod of a lower file of 4 KiB", 0.3, chmod_lower),
    change(
        "open-write-lower",
        "open for writing, and close, of a lower file of 4 KiB",
        0.4,
        open_write_lower,
    ),
    change("write-lower", "open, append of 4 bytes, close of a lower file of 4 KiB", 0.4, write_lower),
];

fn numbered(dir: &Path, prefix: &str, count: usize) -> Vec<PathBuf> {
    (0..count).map(|i| dir.join(format!("{prefix}{i:04}"))).collect()
}

fn make(file: &Path) -> Result<File> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(file)
        .with_context(|| format!("creating {}", file.display()))
}

fn make_all(files: &[PathBuf]) -> Result<()> {
    files.iter().try_for_each(|file| make(file).map(drop))
}

fn expect_names(dir: &Path, want: usize) -> Result<()> {
    let got = fs::read_dir(dir)?.count();
    ensure!(got == want, "{} has {got} names, not {want}", dir.display());
    Ok(())
}

fn create(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    let files = numbered(&dir, "f", bench.amount(5_000, 500));
    bench.settle()?;
    let metrics = bench.time(files.len(), || make_all(&files))?;
    expect_names(&dir, files.len())?;
    Ok(metrics)
}

fn write_new(file: &Path, data: &[u8]) -> Result<()> {
    make(file)?.write_all(data).with_context(|| format!("writing {}", file.display()))
}

fn create_4k(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    let files = numbered(&dir, "f", bench.amount(4_000, 400));
    let data = [b'x'; 4096];
    bench.settle()?;
    let metrics = bench.time(files.len(), || files.iter().try_for_each(|file| write_new(file, &data)))?;
    for file in &files {
        ensure!(fs::read(file)? == data, "{} has other content", file.display());
    }
    Ok(metrics)
}

fn mkdir(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    let dirs = numbered(&dir, "d", bench.amount(3_000, 300));
    bench.settle()?;
    let metrics =
        bench.time(dirs.len(), || dirs.iter().try_for_each(|dir| fs::create_dir(dir).context("mkdir")))?;
    expect_names(&dir, dirs.len())?;
    Ok(metrics)
}

fn unlink(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    let files = numbered(&dir, "f", bench.amount(5_000, 500));
    bench.settle()?;
    make_all(&files)?;
    let metrics = bench.time(files.len(), || remove_all(&files))?;
    expect_names(&dir, 0)?;
    Ok(metrics)
}

fn remove_all(files: &[PathBuf]) -> Result<()> {
    files
        .iter()
        .try_for_each(|file| fs::remove_file(file).with_context(|| format!("unlink {}", file.display())))
}

fn rename(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    let from = numbered(&dir, "f", bench.amount(4_000, 400));
    let to = numbered(&dir, "g", from.len());
    make_all(&from)?;
    bench.settle()?;
    let metrics = bench.time(from.len(), || {
        from.iter().zip(&to).try_for_each(|(from, to)| fs::rename(from, to).context("rename"))
    })?;
    expect_names(&dir, to.len())?;
    ensure!(to.iter().all(|file| file.exists()), "a renamed file is not where it should be");
    Ok(metrics)
}

fn threads_4(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    let dirs = numbered(&dir, "t", 4);
    dirs.iter().try_for_each(fs::create_dir)?;
    let files = bench.amount(1_000, 100);
    bench.settle()?;
    let metrics = bench.time(dirs.len() * files * 4, || {
        thread::scope(|scope| {
            let threads: Vec<_> = dirs.iter().map(|dir| scope.spawn(move || churn(dir, files))).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().map_err(|_| anyhow!("a thread panicked"))?)
        })
    })?;
    dirs.iter().try_for_each(|dir| expect_names(dir, 0))?;
    Ok(metrics)
}

fn churn(dir: &Path, count: usize) -> Result<()> {
    for file in numbered(dir, "f", count) {
        write_new(&file, &[b'x'; 4096])?;
        ensure!(stat(&file)?.st_size == 4096, "a file has another size");
        fs::remove_file(&file)?;
    }
    Ok(())
}

/// Files of a lower layer, known to the kernel, in `bench/DIR`.
fn lower_files(bench: &Bench, dir: &str, count: usize) -> Result<Vec<PathBuf>> {
    let files = numbered(&bench.root().join("bench").join(dir), "f", count);
    for file in &files {
        let size = stat(file).with_context(|| format!("stat {}", file.display()))?.st_size;
        ensure!(u64::try_from(size)? == LOWER_FILE_SIZE, "{} has {size} bytes", file.display());
    }
    bench.settle()?;
    Ok(files)
}

fn unlink_lower(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = lower_files(bench, "unlink", bench.amount(2_000, 200))?;
    let dir = bench.root().join("bench/unlink");
    let before = fs::read_dir(&dir)?.count();
    let metrics = bench.time(files.len(), || remove_all(&files))?;
    expect_names(&dir, before - files.len())?;
    Ok(metrics)
}

fn chmod_lower(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = lower_files(bench, "chmod", bench.amount(500, 100))?;
    let metrics = bench.time(files.len(), || {
        files.iter().try_for_each(|file| chmod(file, Mode::from_raw_mode(0o600)).context("chmod"))
    })?;
    for file in &files {
        ensure!(fs::metadata(file)?.permissions().mode() & 0o7777 == 0o600, "a mode did not change");
    }
    expect_content(&files, "")?;
    Ok(metrics)
}

fn open_write_lower(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = lower_files(bench, "open", bench.amount(500, 100))?;
    let metrics = bench.time(files.len(), || {
        files.iter().try_for_each(|file| OpenOptions::new().write(true).open(file).map(drop).context("open"))
    })?;
    expect_content(&files, "")?;
    Ok(metrics)
}

/// A union may put the copy off until something is written: then this pays for it, not the open above.
fn write_lower(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = lower_files(bench, "write", bench.amount(500, 100))?;
    let metrics = bench.time(files.len(), || files.iter().try_for_each(|file| append(file)))?;
    expect_content(&files, "more")?;
    Ok(metrics)
}

fn append(file: &Path) -> Result<()> {
    let mut opened = OpenOptions::new().append(true).open(file).context("open")?;
    opened.write_all(b"more").context("append")
}

/// Lower files begin with their own name, so a copy of another file would be seen; `more` is what was appended.
fn expect_content(files: &[PathBuf], more: &str) -> Result<()> {
    for file in files {
        let name = file.file_name().context("no name")?.as_encoded_bytes();
        let content = fs::read(file)?;
        let size = u64::try_from(content.len())?;
        let is_right = content.starts_with(name) && content.ends_with(more.as_bytes());
        let want = LOWER_FILE_SIZE + u64::try_from(more.len())?;
        ensure!(is_right && size == want, "{} has other content", file.display());
    }
    Ok(())
}
