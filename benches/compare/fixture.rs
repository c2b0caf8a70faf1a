//! The layers: made once on the disk image and kept, the same for every candidate.
//!
//! ```text
//! layers/debian    Debian by debootstrap with python3, gcc and git: ≥ 13,000 objects      (bottom)
//! layers/small-1   bench/: the lower files that workloads change; a program in usr/bin
//! layers/small-2   bench/ and usr/bin again, so that both are merged of several layers     (top)
//! deep/00…99       a hundred layers of twenty directories that all share
//! many             100,000 empty files
//! plain/{main,deep}  what the first two show, as plain files: the baseline
//! src.tar          6,000 files of Debian's python, headers and documentation; src-quick.tar 1,000
//! ```

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use rustix::fs::{XattrFlags, setxattr};

use crate::candidate::Places;
use crate::workload::{Random, walk};

/// The archive for a run that counts.
pub(crate) const ARCHIVE: Archive = Archive { name: "src.tar", files: 6_000 };
/// The archive for a quick one.
pub(crate) const QUICK_ARCHIVE: Archive = Archive { name: "src-quick.tar", files: 1_000 };
/// Size of `bench/big` in bytes.
pub(crate) const BIG_FILE_SIZE: u64 = 64 << 20;
/// Size of each file that workloads change, in bytes.
pub(crate) const LOWER_FILE_SIZE: u64 = 4096;
/// Objects in a union of the hundred layers.
pub(crate) const DEEP_OBJECTS: usize = DEEP_DIRS + DEEP_LAYERS * DEEP_DIRS * DEEP_FILES;
/// Directories `d00…` of the layer for the memory workload.
pub(crate) const MANY_DIRS: usize = 100;
/// Files in each of them.
pub(crate) const MANY_FILES: usize = 1000;
/// The attribute of `bench/xattr`.
pub(crate) const XATTR: &str = "user.bench";
/// Its value.
pub(crate) const XATTR_VALUE: &[u8] = b"a value";

const DEEP_LAYERS: usize = 100;
const DEEP_DIRS: usize = 20;
const DEEP_FILES: usize = 5;
const SMALL_LAYERS: [&str; 2] = ["small-1", "small-2"];
/// Changed files of a small layer: directory and number.
const LOWER_DIRS: [(&str, usize); 4] = [("chmod", 500), ("open", 500), ("write", 500), ("unlink", 2000)];
/// Raise it when what is made here changes, so that no old layers are used.
const VERSION: &str = "3";

/// An archive of regular files, in the work directory.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) name: &'static str,
    pub(crate) files: usize,
}

/// A list of layers to unite.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stack {
    /// Debian and two small layers.
    Main,
    /// A hundred layers.
    Deep,
    /// 100,000 files.
    Many,
}

impl Stack {
    const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Deep => "deep",
            Self::Many => "many",
        }
    }

    /// Where a candidate unites this stack.
    pub(crate) fn places(self, work: &Path, candidate: &str) -> Places {
        let layers = match self {
            Self::Main => {
                ["small-2", "small-1", "debian"].map(|name| work.join("layers").join(name)).to_vec()
            }
            Self::Deep => (0..DEEP_LAYERS).rev().map(|i| work.join(format!("deep/{i:02}"))).collect(),
            Self::Many => vec![work.join("many")],
        };
        let run = run_dir(work, candidate).join(self.name());
        Places { layers, upper: run.join("upper"), work: run.join("work"), target: run.join("merged") }
    }

    /// The same tree as plain files.
    pub(crate) fn plain(self, work: &Path) -> PathBuf {
        match self {
            Self::Many => work.join("many"),
            Self::Main | Self::Deep => work.join("plain").join(self.name()),
        }
    }
}

fn run_dir(work: &Path, candidate: &str) -> PathBuf {
    work.join("run").join(candidate)
}

/// Makes what is missing. The first time it takes minutes and asks Debian's mirror.
pub(crate) fn prepare(work: &Path) -> Result<()> {
    fs::create_dir_all(work.join("layers")).with_context(|| format!("making {}", work.display()))?;
    make(&work.join("layers/debian"), "debian (debootstrap)", debian)?;
    make(&work.join("layers/small-1"), "small-1", |dir| small_layer(dir, true))?;
    make(&work.join("layers/small-2"), "small-2", |dir| small_layer(dir, false))?;
    make(&work.join("deep"), "100 layers", deep)?;
    make(&work.join("many"), "100,000 files", many)?;
    make(&work.join("plain"), "plain files", |dir| plain(work, dir))?;
    [ARCHIVE, QUICK_ARCHIVE].iter().try_for_each(|archive| pack(work, archive))
}

/// A fresh writable place for the candidate, and for the baseline fresh files to change.
pub(crate) fn refresh(work: &Path, candidate: &str, is_plain: bool) -> Result<()> {
    let run = run_dir(work, candidate);
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("removing {}", run.display()))?;
    }
    if is_plain {
        let bench = work.join("plain/main/bench");
        fs::remove_dir_all(&bench).with_context(|| format!("removing {}", bench.display()))?;
        for layer in SMALL_LAYERS {
            copy(&work.join("layers").join(layer).join("bench"), &work.join("plain/main"))?;
        }
    }
    Ok(())
}

/// Removes what a run left in the candidates' writable places.
pub(crate) fn clean(work: &Path) -> Result<()> {
    let run = work.join("run");
    if run.exists() {
        fs::remove_dir_all(&run).with_context(|| format!("removing {}", run.display()))?;
    }
    Ok(())
}

/// Makes `dir` by `how` unless the present version is there; complete or not at all.
fn make(dir: &Path, what: &str, how: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let stamp = dir.with_extension("version");
    if dir.exists() && fs::read_to_string(&stamp).is_ok_and(|version| version == VERSION) {
        return Ok(());
    }
    eprintln!("compare: making {what}");
    let partial = dir.with_extension("partial");
    for old in [dir, &partial] {
        if old.exists() {
            fs::remove_dir_all(old).with_context(|| format!("removing {}", old.display()))?;
        }
    }
    fs::create_dir(&partial).with_context(|| format!("making {}", partial.display()))?;
    how(&partial).with_context(|| format!("making {what}"))?;
    fs::rename(&partial, dir)?;
    fs::write(&stamp, VERSION).with_context(|| format!("writing {}", stamp.display()))
}

fn debian(dir: &Path) -> Result<()> {
    let mut debootstrap = Command::new("debootstrap");
    debootstrap.args([
        "--variant=minbase",
        "--include=python3,gcc,libc6-dev,git,perl,less,file,make",
        "bookworm",
    ]);
    run(debootstrap.arg(dir))?;
    for deb in fs::read_dir(dir.join("var/cache/apt/archives"))? {
        let path = deb?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            fs::remove_file(path)?;
        }
    }
    let mut objects = 0;
    walk(dir, &mut |_, _| objects += 1)?;
    ensure!(objects >= 13_000, "debootstrap made only {objects} objects");
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, told.trim());
    Ok(())
}

fn small_layer(dir: &Path, is_lower: bool) -> Result<()> {
    let bench = dir.join("bench");
    fs::create_dir_all(&bench)?;
    fs::create_dir_all(dir.join("usr/bin"))?;
    let tag = if is_lower { "lower" } else { "upper" };
    fs::write(dir.join(format!("usr/bin/bench-{tag}")), "#!/bin/sh\n")?;
    for (name, count) in LOWER_DIRS {
        let place = bench.join(name);
        fs::create_dir(&place)?;
        if is_lower {
            (0..count).try_for_each(|i| lower_file(&place, &format!("f{i:04}")))?;
        } else {
            // One file of its own, so that the directory is merged of two layers.
            lower_file(&place, "g0000")?;
        }
    }
    if is_lower { lower_objects(&bench) } else { Ok(()) }
}

/// A file that begins with its own name.
fn lower_file(dir: &Path, name: &str) -> Result<()> {
    let mut content = vec![b'.'; usize::try_from(LOWER_FILE_SIZE)?];
    content[..name.len()].copy_from_slice(name.as_bytes());
    fs::write(dir.join(name), content).with_context(|| format!("writing {name}"))
}

fn lower_objects(bench: &Path) -> Result<()> {
    let mut big = vec![0; usize::try_from(BIG_FILE_SIZE)?];
    Random::new().fill(&mut big);
    fs::write(bench.join("big"), big)?;
    fs::write(bench.join("xattr"), "x")?;
    setxattr(bench.join("xattr"), XATTR, XATTR_VALUE, XattrFlags::empty()).context("setxattr")?;
    fs::create_dir(bench.join("links"))?;
    for i in 0..100 {
        symlink(format!("../open/f{i:04}"), bench.join(format!("links/l{i:04}")))?;
    }
    Ok(())
}

fn deep(dir: &Path) -> Result<()> {
    (0..DEEP_LAYERS).try_for_each(|layer| deep_layer(&dir.join(format!("{layer:02}")), layer))
}

fn deep_layer(root: &Path, layer: usize) -> Result<()> {
    for d in 0..DEEP_DIRS {
        let place = root.join(format!("d{d:02}"));
        fs::create_dir_all(&place)?;
        for f in 0..DEEP_FILES {
            fs::write(place.join(format!("l{layer:02}-{f}")), "x")?;
        }
    }
    Ok(())
}

fn many(dir: &Path) -> Result<()> {
    for d in 0..MANY_DIRS {
        let place = dir.join(format!("d{d:02}"));
        fs::create_dir(&place)?;
        for f in 0..MANY_FILES {
            fs::File::create(place.join(format!("file-{f:04}")))?;
        }
    }
    Ok(())
}

fn plain(work: &Path, dir: &Path) -> Result<()> {
    let main = dir.join("main");
    copy(&work.join("layers/debian"), &main)?;
    for layer in SMALL_LAYERS {
        copy(&work.join("layers").join(layer).join("."), &main)?;
    }
    (0..DEEP_LAYERS).try_for_each(|layer| deep_layer(&dir.join("deep"), layer))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("cp").arg("-a").arg(from).arg(to))
}

/// Packs regular files below 64 KiB, evenly from all of the list: real sources and documents, in a fixed order.
fn pack(work: &Path, archive: &Archive) -> Result<()> {
    if work.join(archive.name).exists() {
        return Ok(());
    }
    let layer = work.join("layers/debian");
    let mut files = Vec::new();
    for place in ["usr/lib/python3.11", "usr/include", "usr/share"] {
        walk(&layer.join(place), &mut |path, kind| {
            if kind.is_file() && fs::metadata(path).is_ok_and(|file| file.len() < 64 << 10) {
                files.push(path.strip_prefix(&layer).unwrap_or(path).to_string_lossy().into_owned());
            }
        })?;
    }
    files.sort();
    ensure!(files.len() >= archive.files, "only {} files for {}", files.len(), archive.name);
    let step = files.len() / archive.files;
    let chosen: Vec<_> = files.into_iter().step_by(step).take(archive.files).collect();
    let list = work.join("pack.list");
    fs::write(&list, chosen.join("\n"))?;
    let partial = work.join("pack.partial");
    run(Command::new("tar").arg("-cf").arg(&partial).arg("-C").arg(&layer).arg("-T").arg(&list))?;
    fs::rename(partial, work.join(archive.name)).with_context(|| format!("naming {}", archive.name))
}
