//! The union core without a mount: what one request costs before and after the kernel's part of it.
//!
//! `cargo bench --bench core`, and a name to run only some.
#![allow(missing_docs, reason = "criterion_main makes functions without documentation")]

use std::ffi::OsStr;
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use tempfile::TempDir;
use unionfs::{BranchSpec, Ino, Name, Options, Union};

/// Files in the directory `d` of each layer; a hundredth of them in each of a hundred layers.
const FILES: usize = 1000;

/// Where POSIX shared memory is: a tmpfs on every Linux distribution (shm_overview(7)).
const MEMORY: &str = "/dev/shm";

/// Layers in files. A writable branch, if wanted, is made afresh for each union.
struct Layers {
    home: TempDir,
    layers: Vec<PathBuf>,
}

impl Layers {
    /// `count` layers that share the directory `d` and have `files` files of `size` bytes each in it.
    fn new(count: usize, files: usize, size: usize) -> Result<Self> {
        // In memory where that is possible: the union's part is wanted, not a disk's.
        let home = TempDir::new_in(MEMORY).or_else(|_| TempDir::new()).context("making a directory")?;
        let layers: Vec<_> = (0..count).map(|layer| home.path().join(format!("l{layer:02}"))).collect();
        let content = vec![b'x'; size];
        for (index, layer) in layers.iter().enumerate() {
            fs::create_dir_all(layer.join("d"))?;
            for file in 0..files {
                fs::write(layer.join(format!("d/l{index:02}-{file:04}")), &content)?;
            }
        }
        Ok(Self { home, layers })
    }

    /// The union of the layers, read-only.
    fn unite(&self) -> Result<Union> {
        unite(self.layers.iter().map(|layer| format!("{}=ro", layer.display())).collect())
    }

    /// The union of the layers and a new writable branch, which lasts as long as the directory returned.
    fn unite_writable(&self) -> Result<(TempDir, Union)> {
        let upper = TempDir::new_in(self.home.path()).context("making a writable branch")?;
        let mut branches = vec![format!("{}=rw", upper.path().display())];
        branches.extend(self.layers.iter().map(|layer| format!("{}=ro", layer.display())));
        Ok((upper, unite(branches)?))
    }
}

fn unite(branches: Vec<String>) -> Result<Union> {
    Ok(Union::new(BranchSpec::parse_list(branches.join(":"))?, Options::default())?)
}

/// Looks a name up that must be there.
fn find(union: &Union, dir: Ino, name: &str) -> Result<Ino> {
    let name = Name::new(OsStr::new(name))?;
    Ok(union.lookup(dir, name)?.context("the name is not there")?.node)
}

/// Looks a name up and gives the reference back, so that the table makes and drops a node.
fn visit(union: &Union, dir: Ino, name: &str) -> Result<()> {
    union.forget(black_box(find(union, dir, name)?), 1);
    Ok(())
}

fn lists(union: &Union, dir: Ino) -> Result<usize> {
    let mut names = 0;
    union.read_dir(dir, 0, false, &mut |entry| {
        black_box(entry);
        names += 1;
        true
    })?;
    Ok(names)
}

/// A benchmark's body cannot return an error: a failure ends the run, with its reason.
fn must<T>(result: Result<T>) -> T {
    result.unwrap_or_else(|error| panic!("{error:#}"))
}

/// What a LOOKUP costs: of a node that is known or not, of a name that is absent, in 3 and in 100 layers.
fn lookup(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lookup");
    for (count, files) in [(3, FILES), (100, FILES / 100)] {
        let layers = must(Layers::new(count, files, 1));
        let union = must(layers.unite());
        let dir = must(find(&union, Ino::ROOT, "d"));
        // In the lowest layer, where a search through all of them would end.
        let name = format!("l{:02}-0001", count - 1);
        let absent = must(Name::new(OsStr::new("absent")).context("a name"));
        assert!(must(union.lookup(dir, absent).context("lookup")).is_none(), "the absent name is there");
        group.bench_function(BenchmarkId::new("hit-unknown", count), |bencher| {
            bencher.iter(|| must(visit(&union, dir, &name)));
        });
        let held = must(find(&union, dir, &name));
        group.bench_function(BenchmarkId::new("hit-known", count), |bencher| {
            bencher.iter(|| must(visit(&union, dir, &name)));
        });
        union.forget(held, 1);
        group.bench_function(BenchmarkId::new("miss", count), |bencher| {
            bencher.iter(|| black_box(union.lookup(dir, absent)));
        });
    }
    group.finish();
}

/// What a GETATTR costs.
fn getattr(criterion: &mut Criterion) {
    let layers = must(Layers::new(3, 10, 1));
    let union = must(layers.unite());
    let dir = must(find(&union, Ino::ROOT, "d"));
    let file = must(find(&union, dir, "l02-0001"));
    criterion.bench_function("getattr/file", |bencher| bencher.iter(|| black_box(union.getattr(file))));
    criterion.bench_function("getattr/directory", |bencher| bencher.iter(|| black_box(union.getattr(dir))));
}

/// What a directory's listing costs: merged of the branches for the first time, and from memory.
fn read_dir(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read_dir");
    for (count, files) in [(3, FILES), (100, FILES / 100)] {
        let layers = must(Layers::new(count, files, 1));
        let union = must(layers.unite());
        let names = count * files + 2;
        group.throughput(Throughput::Elements(names as u64));
        group.bench_function(BenchmarkId::new("merge", count), |bencher| {
            bencher.iter(|| {
                // Forgotten, a directory is listed anew the next time.
                let dir = must(find(&union, Ino::ROOT, "d"));
                assert_eq!(must(lists(&union, dir)), names, "names in the listing");
                union.forget(dir, 1);
            });
        });
        let dir = must(find(&union, Ino::ROOT, "d"));
        group.bench_function(BenchmarkId::new("known", count), |bencher| {
            bencher.iter(|| assert_eq!(must(lists(&union, dir)), names, "names in the listing"));
        });
    }
    group.finish();
}

/// Copies one file up by writing a byte to it, and checks that the writable branch has it.
fn copy_one(upper: &Path, union: &Union, size: usize) -> Result<()> {
    let dir = find(union, Ino::ROOT, "d")?;
    let file = find(union, dir, "l00-0000")?;
    union.write(file, 0, b"y", false)?;
    ensure!(fs::metadata(upper.join("d/l00-0000"))?.len() == size as u64, "the copy has another size");
    Ok(())
}

/// What the first write to a lower file costs, its directory included.
fn copy_up(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("copy_up");
    group.sample_size(30);
    for (size, label) in [(4 << 10, "4KiB"), (1 << 20, "1MiB")] {
        let layers = must(Layers::new(1, 1, size));
        group.bench_function(label, |bencher| {
            bencher.iter_batched_ref(
                || must(layers.unite_writable()),
                |(upper, union)| must(copy_one(upper.path(), union, size)),
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

/// What the table of nodes costs: a thousand nodes made and forgotten.
fn inode_table(criterion: &mut Criterion) {
    let layers = must(Layers::new(1, FILES, 1));
    let union = must(layers.unite());
    let dir = must(find(&union, Ino::ROOT, "d"));
    let names: Vec<_> = (0..FILES).map(|file| format!("l00-{file:04}")).collect();
    let mut group = criterion.benchmark_group("inode_table");
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("fill and forget", |bencher| {
        bencher.iter(|| {
            let nodes: Vec<_> = names.iter().map(|name| must(find(&union, dir, name))).collect();
            assert_eq!(union.node_count(), FILES + 2, "nodes with the root and its directory");
            nodes.into_iter().for_each(|node| union.forget(node, 1));
        });
    });
    group.finish();
}

criterion_group!(benches, lookup, getattr, read_dir, copy_up, inode_table);
criterion_main!(benches);
