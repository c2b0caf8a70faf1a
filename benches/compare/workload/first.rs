//! What happens when the kernel asks for the first time.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Class, Workload, hot, walk};
use crate::fixture::{DEEP_OBJECTS, Stack};
use crate::link::Metric;
use crate::worker::{Bench, Drop};

const fn first(
    name: &'static str,
    what: &'static str,
    ceiling: f64,
    run: fn(&mut Bench) -> Result<Vec<Metric>>,
) -> Workload {
    Workload { name, class: Class::First, what, ceiling: Some(ceiling), run }
}

pub(super) const ALL: &[Workload] = &[
    first(
        "cold-walk",
        "find and lstat of all of 3 layers after dropping all caches; per object",
        1.3,
        cold_walk,
    ),
    first("cold-walk-100", "the same over 100 layers", 0.5, cold_walk_100),
    first("stat-absent-first", "first stat of an absent name in a known directory", 3.0, stat_absent_first),
    first(
        "cold-read",
        "find and read of a tree of small files after dropping all caches; per file",
        1.2,
        cold_read,
    ),
];

fn count(dir: &Path) -> Result<usize> {
    let mut objects = 0;
    walk(dir, &mut |_, _| objects += 1)?;
    Ok(objects)
}

fn cold_walk(bench: &mut Bench) -> Result<Vec<Metric>> {
    let root = bench.root().to_path_buf();
    let want = count(&root)?;
    ensure!(want >= 13_000, "only {want} objects");
    bench.drop_caches(Drop::All)?;
    bench.time(want, || {
        let got = count(&root)?;
        ensure!(got == want, "{got} objects of {want}");
        Ok(())
    })
}

fn cold_walk_100(bench: &mut Bench) -> Result<Vec<Metric>> {
    let deep = bench.mount(Stack::Deep)?;
    bench.drop_caches(Drop::All)?;
    bench.time_on(&deep.place()?, DEEP_OBJECTS, || {
        let got = count(deep.root())?;
        ensure!(got == DEEP_OBJECTS, "{got} objects of {DEEP_OBJECTS}");
        Ok(())
    })
}

fn stat_absent_first(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.root().join("usr/share");
    count(&dir)?;
    let per_dir = bench.amount(2_000, 200);
    let mut names = Vec::new();
    for place in ["", "doc", "perl5", "man"] {
        for i in 0..per_dir {
            let name = dir.join(place).join(format!("never-{i}"));
            names.push(CString::new(name.as_os_str().as_bytes()).context("a name with NUL")?);
        }
    }
    bench.time(names.len(), || hot::expect_absent(&names))
}

fn cold_read(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.root().join("usr/lib/python3.11");
    let (files, bytes) = read_tree(&dir)?;
    ensure!(files >= 500, "only {files} files");
    bench.drop_caches(Drop::All)?;
    bench.time(files, || {
        ensure!(read_tree(&dir)? == (files, bytes), "not the same files");
        Ok(())
    })
}

fn read_tree(dir: &Path) -> Result<(usize, u64)> {
    let mut files = Vec::new();
    walk(dir, &mut |path, kind| {
        if kind.is_file() {
            files.push(path.to_path_buf());
        }
    })?;
    let mut buf = vec![0; 64 << 10];
    let mut bytes = 0;
    for file in &files {
        let name = CString::new(file.as_os_str().as_bytes()).context("a name with NUL")?;
        bytes += hot::read_file(&name, &mut buf)?;
    }
    Ok((files.len(), bytes))
}
