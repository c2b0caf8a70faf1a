//! One candidate in its own namespaces: mounts it and runs the workloads it is told to.

use std::ffi::CString;
use std::fs;
use std::io::{StdinLock, StdoutLock, stdin, stdout};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::candidate::{Candidate, Programs};
use crate::cli::WorkerArgs;
use crate::fixture::{ARCHIVE, QUICK_ARCHIVE, Stack};
use crate::link::{Metric, Order, Report, Unit, receive, send};
use crate::mount::{Mounted, Place};
use crate::server;
use crate::trace::Counts;
use crate::workload;

/// Serves the controller until it closes the stream.
pub(crate) fn run(args: &WorkerArgs) -> Result<()> {
    std::env::set_current_dir(&args.work).with_context(|| format!("entering {}", args.work.display()))?;
    let candidate = Candidate::named(&args.candidate).context("no such candidate")?;
    let mut link = Link { input: stdin().lock(), output: stdout().lock() };
    isolate(candidate, &mut link)?;
    let mut bench = match Bench::new(args, candidate, link) {
        Ok(bench) => bench,
        Err((mut link, error)) => return link.say(&Report::Unable(format!("{error:#}"))),
    };
    bench.link.say(&Report::Ready)?;
    while let Some(order) = receive(&mut bench.link.input)? {
        let Order::Run(name) = order else { bail!("an answer without a question") };
        let report = bench.perform(&name);
        bench.link.say(&report)?;
    }
    Ok(())
}

/// Enters a mount namespace and, for a rootless candidate, a user namespace whose maps the controller writes.
fn isolate(candidate: &Candidate, link: &mut Link) -> Result<()> {
    if candidate.rootless {
        unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).context("making a user namespace")?;
        link.ask(&Report::Unshared)?;
    } else {
        unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    }
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>).context("making mounts private")
}

#[derive(Debug)]
struct Link {
    input: StdinLock<'static>,
    output: StdoutLock<'static>,
}

impl Link {
    fn say(&mut self, report: &Report) -> Result<()> {
        send(&mut self.output, report)
    }

    /// Says something and waits until the controller has acted on it.
    fn ask(&mut self, report: &Report) -> Result<()> {
        self.say(report)?;
        match receive(&mut self.input)? {
            Some(Order::Ack) => Ok(()),
            other => bail!("expected an acknowledgement, got {other:?}"),
        }
    }
}

/// What a workload works with.
#[derive(Debug)]
pub(crate) struct Bench {
    link: Link,
    candidate: &'static Candidate,
    programs: Programs,
    work: PathBuf,
    quick: bool,
    /// Ask our server for its counts.
    ask: bool,
    main: Mounted,
    known: Vec<CString>,
    current: &'static str,
    scratches: u32,
    /// The unpacked archive, once a workload has needed it.
    pub(crate) tree: Option<PathBuf>,
}

impl Bench {
    fn new(
        args: &WorkerArgs,
        candidate: &'static Candidate,
        link: Link,
    ) -> std::result::Result<Self, (Link, anyhow::Error)> {
        let programs = Programs { unionfs: args.unionfs.clone(), tools: args.tools.clone() };
        match mount_stack(candidate, &programs, &args.work, Stack::Main) {
            Err(error) => Err((link, error)),
            Ok(main) => Ok(Self {
                link,
                candidate,
                programs,
                work: args.work.clone(),
                quick: args.quick,
                ask: args.ask,
                main,
                known: Vec::new(),
                current: "",
                scratches: 0,
                tree: None,
            }),
        }
    }

    fn perform(&mut self, name: &str) -> Report {
        let Some(workload) = workload::named(name) else {
            return Report::Failed(format!("no workload {name}"));
        };
        self.current = workload.name;
        match (workload.run)(self) {
            Ok(metrics) => Report::Done(metrics),
            Err(error) => Report::Failed(format!("{error:#}")),
        }
    }

    /// The united tree of the main stack.
    pub(crate) fn root(&self) -> &Path {
        self.main.root()
    }

    /// The amount for this kind of run.
    pub(crate) const fn amount(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    /// The archive that source-tree workloads unpack.
    pub(crate) fn archive(&self) -> PathBuf {
        let archive = if self.quick { &QUICK_ARCHIVE } else { &ARCHIVE };
        self.work.join(archive.name)
    }

    /// A new, empty directory of the united tree, so that it lies in the writable branch.
    pub(crate) fn scratch(&mut self) -> Result<PathBuf> {
        self.scratches += 1;
        let dir = self.root().join(format!("bench/{}-{}", self.current, self.scratches));
        fs::create_dir(&dir).with_context(|| format!("mkdir {}", dir.display()))?;
        Ok(dir)
    }

    /// Paths of 10,000 objects of the united tree that are no directories, all of them just looked up.
    pub(crate) fn known(&mut self) -> Result<Vec<CString>> {
        if self.known.is_empty() {
            let mut found = Vec::new();
            workload::walk(self.main.root(), &mut |path, kind| {
                if !kind.is_dir() {
                    found.push(path.to_path_buf());
                }
            })?;
            found.retain(|path| !path.starts_with(self.main.root().join("bench")));
            found.sort();
            found.truncate(10_000);
            self.known = found
                .iter()
                .map(|path| CString::new(path.as_os_str().as_bytes()).context("a name with NUL"))
                .collect::<Result<_>>()?;
        }
        Ok(self.known.clone())
    }

    /// Unites another stack for as long as the result lives.
    pub(crate) fn mount(&self, stack: Stack) -> Result<Mounted> {
        mount_stack(self.candidate, &self.programs, &self.work, stack)
    }

    /// Writes back what earlier workloads left dirty, so that nobody pays for others.
    pub(crate) fn settle(&self) -> Result<()> {
        let dir = fs::File::open(&self.work)?;
        rustix::fs::syncfs(&dir).context("syncfs of the work directory")
    }

    /// Makes the kernel drop what it can of `what`.
    pub(crate) fn drop_caches(&mut self, what: Drop) -> Result<()> {
        self.settle()?;
        self.link.ask(&Report::DropCaches(what as u8))
    }

    /// What our server has served so far, if the worker is to ask it.
    fn ask_server(&self, place: &Place) -> Result<Option<Counts>> {
        let is_asked = self.ask && self.candidate.is_ours();
        is_asked.then(|| server::served(&self.programs.unionfs, &place.root)).transpose()
    }

    /// Times `body`, which does `ops` operations on the main stack.
    pub(crate) fn time(&mut self, ops: usize, body: impl FnOnce() -> Result<()>) -> Result<Vec<Metric>> {
        let place = self.main.place()?;
        self.time_on(&place, ops, body)
    }

    /// Times `body`, which does `ops` operations on another filesystem.
    pub(crate) fn time_on(
        &mut self,
        place: &Place,
        ops: usize,
        body: impl FnOnce() -> Result<()>,
    ) -> Result<Vec<Metric>> {
        let before = self.ask_server(place)?;
        self.link.ask(&Report::Begin(place.connection))?;
        let begun = Instant::now();
        let done = body();
        let took = begun.elapsed();
        let served = before.map(|before| -> Result<Counts> {
            let after = self.ask_server(place)?.context("the server no longer tells its counts")?;
            Ok(server::between(&before, &after))
        });
        self.link.ask(&Report::End(served.transpose()?))?;
        done?;
        let ops = u64::try_from(ops)?;
        let value = took.as_secs_f64() * 1e6 / ops as f64;
        Ok(vec![Metric { name: self.current.to_owned(), value, unit: Unit::MicrosPerOp, ops }])
    }
}

/// What `/proc/sys/vm/drop_caches` takes (Documentation/admin-guide/sysctl/vm.rst).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Drop {
    /// Dentries and inodes.
    Slab = 2,
    /// Those and the page cache.
    All = 3,
}

fn mount_stack(candidate: &Candidate, programs: &Programs, work: &Path, stack: Stack) -> Result<Mounted> {
    let places = stack.places(work, candidate.name);
    Mounted::new(candidate, programs, &places, &stack.plain(work))
}
