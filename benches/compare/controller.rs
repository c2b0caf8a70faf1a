//! The rounds: who runs what, when.

use std::fs;
use std::io::{BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::candidate::{ALL, Candidate, Kind, Programs, REFERENCE};
use crate::cli::Args;
use crate::link::{Metric, Order, Report, receive, send};
use crate::results::{Results, short};
use crate::trace::Tracer;
use crate::workload::{self, Workload};
use crate::{disk, fixture, machine, report};

/// The longest a worker may be silent: some workloads sync, and disks differ.
const SILENCE: Duration = Duration::from_secs(300);

/// Prints what can be asked for.
pub(crate) fn list() {
    println!("candidates: {}", ALL.iter().map(|candidate| candidate.name).collect::<Vec<_>>().join(", "));
    for workload in workload::all() {
        println!("{:22} {:18} {}", workload.class.as_str(), workload.name, workload.what);
    }
}

/// Prepares, plays all rounds and writes the report.
pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "root is needed: to mount overlay and to drop caches");
    // Before any thread exists: all that is mounted from here on ends with this program.
    unshare(CloneFlags::CLONE_NEWNS).context("making a mount namespace")?;
    let all = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, all, None::<&str>).context("making mounts private")?;
    fs::create_dir_all(&args.work).with_context(|| format!("making {}", args.work.display()))?;
    let setup = Setup::new(args)?;
    fixture::prepare(&setup.work)?;
    let _uring = args.enable_uring.then(machine::UringOn::new).transpose()?;
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let mut results = Results::default();
    for round in 0..rounds {
        setup.play(round, &format!("round {}/{rounds}", round + 1), &Count::No, &mut results)?;
    }
    if !args.no_messages {
        let count = if args.ask_server {
            Count::ByServer
        } else {
            Tracer::new().map_or_else(Count::without_tracer, Count::ByKernel)
        };
        setup.play(rounds, "messages", &count, &mut results)?;
    }
    fixture::clean(&setup.work)?;
    let facts = machine::facts(&setup.candidates, &setup.programs, &setup.work);
    let out = match &args.out {
        Some(out) => out.clone(),
        None if args.quick => fs::canonicalize(&args.work)?.join("results"),
        None => machine::results_dir()?,
    };
    report::write(&out, &results, &setup.candidates, &facts, rounds)
}

/// Who counts FUSE messages in a round.
enum Count {
    No,
    ByKernel(Tracer),
    /// Our own servers; those of others do not tell.
    ByServer,
}

impl Count {
    fn without_tracer(error: anyhow::Error) -> Self {
        eprintln!("compare: only our own messages are counted: {error:#}");
        Self::ByServer
    }

    /// Whether a round like this is of any use with the candidate.
    fn wants(&self, candidate: &Candidate) -> bool {
        match self {
            Self::No => true,
            Self::ByKernel(_) => !matches!(candidate.kind, Kind::Plain | Kind::Overlay),
            Self::ByServer => candidate.is_ours(),
        }
    }
}

struct Setup {
    candidates: Vec<&'static Candidate>,
    workloads: Vec<&'static Workload>,
    programs: Programs,
    work: PathBuf,
    quick: bool,
}

impl Setup {
    fn new(args: &Args) -> Result<Self> {
        let wanted = |name: &str| args.candidates.is_empty() || args.candidates.iter().any(|one| one == name);
        for name in &args.candidates {
            ensure!(Candidate::named(name).is_some(), "no candidate {name}; --list tells which there are");
        }
        let is_asked = |name: &str| args.only.is_empty() || args.only.iter().any(|one| name.starts_with(one));
        let workloads: Vec<_> = workload::all().filter(|workload| is_asked(workload.name)).collect();
        ensure!(!workloads.is_empty(), "no workload {}; --list tells which there are", args.only.join(", "));
        Ok(Self {
            candidates: ALL.iter().filter(|one| one.name == REFERENCE || wanted(one.name)).collect(),
            workloads,
            programs: Programs { unionfs: absolute(&args.unionfs)?, tools: absolute(&args.tools)? },
            work: disk::mount(&fs::canonicalize(&args.work)?)?,
            quick: args.quick,
        })
    }

    /// One round: every workload on every candidate in turn, with fresh writable branches.
    fn play(&self, round: u32, title: &str, count: &Count, results: &mut Results) -> Result<()> {
        let mut workers = Vec::new();
        for candidate in self.candidates.iter().filter(|candidate| count.wants(candidate)) {
            fixture::refresh(&self.work, candidate.name, candidate.kind == Kind::Plain)?;
            match Worker::start(candidate, self, count) {
                Ok(worker) => workers.push(worker),
                Err(error) => results.note(format!("{} did not take part: {error:#}", candidate.name)),
            }
        }
        for (index, workload) in self.workloads.iter().enumerate() {
            eprint!("{title} {:2}/{} {:18}", index + 1, self.workloads.len(), workload.name);
            // Who comes later may find a warmer disk: so everybody does, in turn.
            let forward = round.is_multiple_of(2);
            let mut order: Vec<_> = workers.iter_mut().collect();
            if !forward {
                order.reverse();
            }
            for worker in order {
                worker.run(workload, round, count, results);
            }
            eprintln!();
        }
        Ok(())
    }
}

/// A candidate's process. Dropping it lets the process unmount and end.
struct Worker {
    candidate: &'static Candidate,
    child: Child,
    orders: Option<ChildStdin>,
    reports: Receiver<Result<Report>>,
}

impl Worker {
    fn start(candidate: &'static Candidate, setup: &Setup, count: &Count) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").args(["--candidate", candidate.name]);
        command.arg("--work").arg(&setup.work).arg("--tools").arg(&setup.programs.tools);
        command.arg("--unionfs").arg(&setup.programs.unionfs);
        command.args(setup.quick.then_some("--quick"));
        command.args(matches!(count, Count::ByServer).then_some("--ask"));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a worker")?;
        let orders = child.stdin.take();
        let output = child.stdout.take().context("no output")?;
        let mut worker = Self { candidate, child, orders, reports: read_reports(BufReader::new(output)) };
        loop {
            match worker.next()? {
                Report::Unshared => worker.map_ids()?,
                Report::Ready => return Ok(worker),
                Report::Unable(why) => bail!(why),
                other => bail!("unexpected: {other:?}"),
            }
        }
    }

    /// The identity map: the layers show the same owners as to everybody else.
    fn map_ids(&mut self) -> Result<()> {
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", self.child.id());
            fs::write(&path, "0 0 65536").with_context(|| format!("writing {path}"))?;
        }
        self.order(&Order::Ack)
    }

    fn order(&mut self, order: &Order) -> Result<()> {
        send(self.orders.as_mut().context("the worker was given up")?, order)
    }

    fn next(&self) -> Result<Report> {
        self.reports.recv_timeout(SILENCE).context("the worker is silent or gone")?
    }

    /// Runs one workload; a failure is a note in the results, never the end of the run.
    fn run(&mut self, workload: &Workload, round: u32, count: &Count, results: &mut Results) {
        if self.orders.is_none() {
            return;
        }
        if let Err(error) = self.attempt(workload, round, count, results) {
            eprint!("  {}: failed", self.candidate.name);
            results.note(format!("{}: {} gave no result: {error:#}", self.candidate.name, workload.name));
        }
    }

    fn attempt(
        &mut self,
        workload: &Workload,
        round: u32,
        count: &Count,
        results: &mut Results,
    ) -> Result<()> {
        self.order(&Order::Run(workload.name.to_owned()))?;
        let mut counts = None;
        loop {
            let report = self.next().inspect_err(|_| self.give_up())?;
            match (report, count) {
                (Report::DropCaches(what), _) => drop_caches(what)?,
                (Report::Begin(connection), Count::ByKernel(tracer)) => tracer.begin(connection)?,
                (Report::End(_), Count::ByKernel(tracer)) => counts = Some(tracer.end()?),
                (Report::End(served), Count::ByServer) => counts = served,
                (Report::Begin(_) | Report::End(_), _) => {}
                (Report::Failed(why), _) => bail!(why),
                (Report::Done(metrics), Count::No) => {
                    self.keep(metrics, round, results);
                    return Ok(());
                }
                (Report::Done(metrics), _) => {
                    let ops = metrics.first().map_or(1, |metric| metric.ops);
                    if let Some(counts) = counts {
                        results.count(self.candidate.name, workload.name, counts, ops);
                    }
                    return Ok(());
                }
                (other, _) => bail!("unexpected: {other:?}"),
            }
            self.order(&Order::Ack)?;
        }
    }

    fn keep(&self, metrics: Vec<Metric>, round: u32, results: &mut Results) {
        for metric in metrics {
            eprint!("  {}", short(metric.value, metric.unit));
            results.add(round, self.candidate.name, metric);
        }
    }

    /// Kills a worker that hangs; its server dies with it (`setpriv --pdeathsig`).
    fn give_up(&mut self) {
        self.orders = None;
        if let Err(error) = self.child.kill() {
            eprintln!("compare: cannot kill {}'s worker: {error}", self.candidate.name);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // The end of the stream is the order to unmount and end.
        self.orders = None;
        if let Err(error) = self.child.wait() {
            eprintln!("compare: {}'s worker: {error}", self.candidate.name);
        }
    }
}

fn read_reports(mut output: BufReader<std::process::ChildStdout>) -> Receiver<Result<Report>> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        while let Some(report) = receive(&mut output).transpose() {
            if sender.send(report).is_err() {
                break;
            }
        }
    });
    receiver
}

/// Workers change their directory. What is not there yet is the candidate's own failure.
fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("naming {}", path.display()))
}

fn drop_caches(what: u8) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open("/proc/sys/vm/drop_caches")?;
    file.write_all(what.to_string().as_bytes()).context("dropping caches")
}
