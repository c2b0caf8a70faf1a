//! Whole programs: the distribution's own inside the united tree, tar, git and coreutils of the host on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::chroot;

use super::{Class, Workload, walk};
use crate::fixture::{ARCHIVE, QUICK_ARCHIVE};
use crate::link::Metric;
use crate::worker::Bench;

const fn program(
    name: &'static str,
    what: &'static str,
    ceiling: f64,
    run: fn(&mut Bench) -> Result<Vec<Metric>>,
) -> Workload {
    Workload { name, class: Class::Program, what, ceiling: Some(ceiling), run }
}

pub(super) const ALL: &[Workload] = &[
    program("exec", "exec of /bin/true in a chroot", 1.0, exec),
    program("untar", "tar -x of 6,000 files; per file", 2.0, untar),
    program("cp", "cp -a of that tree; per file", 2.0, cp),
    program("rm", "rm -rf of that tree; per file", 2.0, rm),
    program("git-add", "git add of that tree; per file", 2.0, git_add),
    program("git-status", "git status of that tree, known; per file", 1.2, git_status),
    program("du", "du of usr, some 12,000 known objects; per run", 1.2, du),
    program("grep", "grep -r over that tree, cached; per file", 1.0, grep),
    program("gcc", "gcc of a small program in a chroot", 1.0, gcc),
    program("python", "python3 with twelve imports in a chroot", 1.0, python),
    program("dpkg-verify", "dpkg --verify of all packages in a chroot, cached", 1.2, dpkg_verify),
];

/// Runs `command` to its end; its output is what a failure tells.
fn succeed(command: &mut Command) -> Result<Vec<u8>> {
    // Not Stdio::null(): that would open /dev/null inside the chroot, which a `nodev` mount refuses.
    let output = command.stdin(Stdio::piped()).output().with_context(|| format!("starting {command:?}"))?;
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}: {}", output.status, told.trim());
    Ok(output.stdout)
}

/// Runs `body` on a thread whose root directory, and that of the programs it starts, is `root`.
fn inside(root: &Path, body: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS).context("unshare(CLONE_FS)")?;
            chroot(root).context("chroot")?;
            std::env::set_current_dir("/").context("chdir")?;
            body()
        });
        thread.join().map_err(|_| anyhow!("the thread in the chroot panicked"))?
    })
}

fn inner(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
    command
}

/// Times `times` runs of `once` in the united tree, after two that are not counted: the first reads, which makes
/// access times uncertain, and the second asks for them once more.
fn time_inside(
    bench: &mut Bench,
    times: usize,
    once: impl Fn() -> Result<()> + Send + Sync,
) -> Result<Vec<Metric>> {
    let root = bench.root().to_path_buf();
    inside(&root, || (0..2).try_for_each(|_| once()))?;
    bench.time(times, || inside(&root, || (0..times).try_for_each(|_| once())))
}

fn exec(bench: &mut Bench) -> Result<Vec<Metric>> {
    let times = bench.amount(300, 50);
    time_inside(bench, times, || succeed(&mut inner("/bin/true")).map(drop))
}

fn unpack(bench: &Bench, into: &Path) -> Result<()> {
    let mut command = Command::new("tar");
    command.arg("-xf").arg(bench.archive()).arg("-C").arg(into);
    succeed(&mut command).map(drop)
}

fn expect_files(dir: &Path, want: usize) -> Result<()> {
    let mut files = 0;
    walk(dir, &mut |_, kind| files += usize::from(kind.is_file()))?;
    ensure!(files == want, "{} has {files} files, not {want}", dir.display());
    Ok(())
}

/// A new directory with the archive's tree in it.
fn new_tree(bench: &mut Bench) -> Result<PathBuf> {
    let dir = bench.scratch()?;
    bench.settle()?;
    unpack(bench, &dir)?;
    expect_files(&dir, files(bench))?;
    Ok(dir)
}

/// The same, made once for all workloads that leave the tree's files alone.
fn source_tree(bench: &mut Bench) -> Result<PathBuf> {
    if bench.tree.is_none() {
        bench.tree = Some(new_tree(bench)?);
    }
    bench.tree.clone().context("no tree")
}

/// Regular files in the archive that this run unpacks.
fn files(bench: &Bench) -> usize {
    bench.amount(ARCHIVE.files, QUICK_ARCHIVE.files)
}

fn untar(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = files(bench);
    let dir = bench.scratch()?;
    // The archive itself shall be cached for everybody.
    fs::read(bench.archive())?;
    bench.settle()?;
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(bench.archive()).arg("-C").arg(&dir);
    let metrics = bench.time(files, || succeed(&mut tar).map(drop))?;
    expect_files(&dir, files)?;
    Ok(metrics)
}

fn cp(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = files(bench);
    let from = source_tree(bench)?;
    let to = bench.scratch()?;
    let mut cp = Command::new("cp");
    cp.arg("-a").arg(&from).arg(&to);
    let metrics = bench.time(files, || succeed(&mut cp).map(drop))?;
    expect_files(&to, files)?;
    Ok(metrics)
}

fn rm(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = files(bench);
    let dir = new_tree(bench)?;
    let mut rm = Command::new("rm");
    rm.arg("-rf").arg(&dir);
    let metrics = bench.time(files, || succeed(&mut rm).map(drop))?;
    ensure!(!dir.exists(), "the tree is still there");
    Ok(metrics)
}

fn git(dir: &Path, arguments: &[&str]) -> Command {
    let mut git = Command::new("git");
    git.args(["-c", "core.fsmonitor=false", "-C"]).arg(dir).args(arguments);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    git
}

fn git_add(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = files(bench);
    let dir = source_tree(bench)?;
    succeed(&mut git(&dir, &["init", "-q"]))?;
    ensure!(succeed(&mut git(&dir, &["ls-files"]))?.is_empty(), "the tree was added before");
    let mut add = git(&dir, &["add", "-f", "."]);
    let metrics = bench.time(files, || succeed(&mut add).map(drop))?;
    let listed = succeed(&mut git(&dir, &["ls-files", "-z"]))?;
    let names = listed.iter().filter(|byte| **byte == 0).count();
    ensure!(names == files, "git knows {names} files");
    Ok(metrics)
}

fn git_status(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = files(bench);
    let dir = source_tree(bench)?;
    succeed(&mut git(&dir, &["init", "-q"]))?;
    succeed(&mut git(&dir, &["add", "-f", "."]))?;
    let status = || succeed(&mut git(&dir, &["status", "--porcelain"]));
    let want = status()?;
    let added = want.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"A  ")).count();
    ensure!(added == files, "git status tells of {added} files");
    let times = bench.amount(10, 2);
    bench.time(files * times, || {
        (0..times).try_for_each(|_| {
            ensure!(status()? == want, "git status changed");
            Ok(())
        })
    })
}

fn du(bench: &mut Bench) -> Result<Vec<Metric>> {
    let usr = bench.root().join("usr");
    let count = || -> Result<usize> {
        // -l: else a file with two names is listed once or twice, as a union's inode numbers will have it.
        let listed = succeed(Command::new("du").arg("-al").arg(&usr))?;
        Ok(listed.iter().filter(|byte| **byte == b'\n').count())
    };
    count()?;
    let want = count()?;
    ensure!(want >= 10_000, "du sees only {want} objects");
    let times = bench.amount(10, 2);
    bench.time(times, || {
        (0..times).try_for_each(|_| {
            ensure!(count()? == want, "du sees another number of objects");
            Ok(())
        })
    })
}

fn grep(bench: &mut Bench) -> Result<Vec<Metric>> {
    let files = files(bench);
    let dir = source_tree(bench)?;
    let run = || {
        succeed(
            Command::new("grep")
                .env("LC_ALL", "C")
                .args(["-rc", "--exclude-dir=.git", "import", "."])
                .current_dir(&dir),
        )
    };
    let want = run()?;
    ensure!(want.split(|byte| *byte == b'\n').count() == files + 1, "grep read another number of files");
    let times = bench.amount(5, 2);
    bench.time(files * times, || {
        (0..times).try_for_each(|_| {
            ensure!(run()? == want, "grep found something else");
            Ok(())
        })
    })
}

const SMALL_PROGRAM: &str = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n#include <unistd.h>\n\
    #include <sys/stat.h>\n#include <sys/socket.h>\n#include <pthread.h>\n\
    int main(int argc, char **argv) { printf(\"%d %s\\n\", argc, argv[0]); return strlen(argv[0]) == 0; }\n";

fn gcc(bench: &mut Bench) -> Result<Vec<Metric>> {
    let dir = bench.scratch()?;
    fs::write(dir.join("small.c"), SMALL_PROGRAM)?;
    let inside_dir = Path::new("/").join(dir.strip_prefix(bench.root())?);
    let times = bench.amount(10, 2);
    let metrics = time_inside(bench, times, || {
        let mut gcc = inner("/usr/bin/gcc");
        gcc.env("TMPDIR", &inside_dir).current_dir(&inside_dir).args(["-O1", "small.c", "-o", "small"]);
        succeed(&mut gcc).map(drop)
    })?;
    inside(bench.root(), || {
        let said = succeed(&mut inner(&inside_dir.join("small").to_string_lossy()))?;
        ensure!(said.starts_with(b"1 "), "the compiled program says something else");
        Ok(())
    })?;
    Ok(metrics)
}

fn python(bench: &mut Bench) -> Result<Vec<Metric>> {
    const SCRIPT: &str = "import asyncio, email, http.client, json, logging, argparse, sqlite3, subprocess, \
        unittest, urllib.request, xml.dom.minidom, zipfile; print(json.dumps(sorted([3, 1, 2])))";
    let times = bench.amount(10, 2);
    time_inside(bench, times, || {
        let said = succeed(inner("/usr/bin/python3").args(["-B", "-c", SCRIPT]))?;
        ensure!(said == b"[1, 2, 3]\n", "python said something else");
        Ok(())
    })
}

fn dpkg_verify(bench: &mut Bench) -> Result<Vec<Metric>> {
    let packages: &[&str] = if bench.amount(1, 0) == 1 { &[] } else { &["coreutils", "libc-bin", "git"] };
    time_inside(bench, 1, || {
        let told = succeed(inner("/usr/bin/dpkg").arg("--verify").args(packages))?;
        ensure!(told.is_empty(), "dpkg found differences: {}", String::from_utf8_lossy(&told));
        Ok(())
    })
}
