//! Contents are written, and one attribute read.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;

use anyhow::{Context, Result, ensure};
use rustix::fs::getxattr;

use super::{Class, Random, Workload};
use crate::fixture::{XATTR, XATTR_VALUE};
use crate::link::Metric;
use crate::worker::Bench;

const fn data(
    name: &'static str,
    what: &'static str,
    ceiling: f64,
    run: fn(&mut Bench) -> Result<Vec<Metric>>,
) -> Workload {
    Workload { name, class: Class::Data, what, ceiling: Some(ceiling), run }
}

pub(super) const ALL: &[Workload] = &[
    data("write-seq", "write of 1 MiB, sequential, to a new file of 512 MiB", 1.2, write_seq),
    data("write-rand", "pwrite of 4 KiB, random, in a file of 64 MiB", 1.2, write_rand),
    data("append-100", "append of 100 bytes", 1.2, append_100),
    data("write-fsync", "pwrite of 4 KiB and fsync", 1.4, write_fsync),
    data("getxattr", "getxattr of a user attribute of a lower file", 6.0, getxattr_lower),
];

fn write_seq(bench: &mut Bench) -> Result<Vec<Metric>> {
    let path = bench.scratch()?.join("file");
    let blocks = bench.amount(512, 64);
    let mut block = vec![0; 1 << 20];
    Random::new().fill(&mut block);
    bench.settle()?;
    let mut file = File::create_new(&path)?;
    let metrics = bench.time(blocks, || {
        for _ in 0..blocks {
            file.write_all(&block)?;
        }
        drop(file);
        Ok(())
    })?;
    ensure!(fs::metadata(&path)?.len() == u64::try_from(blocks)? << 20, "the file has another size");
    let mut last = vec![0; 4096];
    File::open(&path)?.read_exact_at(&mut last, (u64::try_from(blocks)? << 20) - 4096)?;
    ensure!(last == block[block.len() - 4096..], "the file has other content");
    fs::remove_file(&path)?;
    Ok(metrics)
}

fn write_rand(bench: &mut Bench) -> Result<Vec<Metric>> {
    const SIZE: u64 = 64 << 20;
    let path = bench.scratch()?.join("file");
    fs::write(&path, vec![0; usize::try_from(SIZE)?])?;
    bench.settle()?;
    let file = OpenOptions::new().read(true).write(true).open(&path)?;
    let mut random = Random::new();
    let mut block = [0; 4096];
    random.fill(&mut block);
    let mut last = 0;
    let calls = bench.amount(30_000, 3_000);
    let metrics = bench.time(calls, || {
        for _ in 0..calls {
            last = random.below(SIZE / 4096) * 4096;
            file.write_all_at(&block, last)?;
        }
        Ok(())
    })?;
    let mut got = [0; 4096];
    file.read_exact_at(&mut got, last)?;
    ensure!(got == block, "a write was lost");
    Ok(metrics)
}

fn append_100(bench: &mut Bench) -> Result<Vec<Metric>> {
    let path = bench.scratch()?.join("file");
    let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
    let line = [b'x'; 100];
    let calls = bench.amount(50_000, 5_000);
    bench.settle()?;
    let metrics = bench.time(calls, || {
        for _ in 0..calls {
            file.write_all(&line)?;
        }
        Ok(())
    })?;
    ensure!(fs::read(&path)?.len() == calls * line.len(), "an append was lost");
    Ok(metrics)
}

fn write_fsync(bench: &mut Bench) -> Result<Vec<Metric>> {
    let path = bench.scratch()?.join("file");
    let file = File::create_new(&path)?;
    let calls = bench.amount(300, 40);
    let block = [b'x'; 4096];
    bench.settle()?;
    let metrics = bench.time(calls, || {
        for i in 0..calls {
            file.write_all_at(&block, u64::try_from(i)? * 4096)?;
            file.sync_all()?;
        }
        Ok(())
    })?;
    ensure!(fs::metadata(&path)?.len() == u64::try_from(calls)? * 4096, "a write was lost");
    Ok(metrics)
}

fn getxattr_lower(bench: &mut Bench) -> Result<Vec<Metric>> {
    let path = bench.root().join("bench/xattr");
    let mut value = [0; 64];
    let calls = bench.amount(30_000, 2_000);
    let mut get = || -> Result<()> {
        let len = getxattr(&path, XATTR, &mut value).context("getxattr")?;
        ensure!(&value[..len] == XATTR_VALUE, "another value");
        Ok(())
    };
    get()?;
    bench.time(calls, || (0..calls).try_for_each(|_| get()))
}
