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
use crate::link::{Order, Report, receive, send};
use crate::results::Results;
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
    let rounds = args.rounds.unwrap_or(if args.quick { 1 } else { 5 });
    let mut results = Results::default();
    for round in 0..rounds {
        setup.play(round, &format!("round {}/{rounds}", round + 1), None, &mut results)?;
    }
    if !args.no_messages {
        match Tracer::new() {
            Ok(tracer) => setup.play(rounds, "messages", Some(&tracer), &mut results)?,
            Err(error) => results.note(format!("messages not counted: {error:#}")),
        }
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
    fn play(&self, round: u32, title: &str, tracer: Option<&Tracer>, results: &mut Results) -> Result<()> {
        let mut workers = Vec::new();
        for candidate in &self.candidates {
            // A plain filesystem and the kernel's overlay have no messages to count.
            if tracer.is_some() && candidate.program(&self.programs).is_none() {
                continue;
            }
            fixture::refresh(&self.work, candidate.name, candidate.kind == Kind::Plain)?;
            match Worker::start(candidate, self) {
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
                worker.run(workload, round, tracer, results);
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
    fn start(candidate: &'static Candidate, setup: &Setup) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("worker").args(["--candidate", candidate.name]);
        command.arg("--work").arg(&setup.work).arg("--tools").arg(&setup.programs.tools);
        command.arg("--unionfs").arg(&setup.programs.unionfs);
        command.args(setup.quick.then_some("--quick"));
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
    fn run(&mut self, workload: &Workload, round: u32, tracer: Option<&Tracer>, results: &mut Results) {
        if self.orders.is_none() {
            return;
        }
        if let Err(error) = self.attempt(workload, round, tracer, results) {
            eprint!("  {}: failed", self.candidate.name);
            results.note(format!("{}: {} gave no result: {error:#}", self.candidate.name, workload.name));
        }
    }

    fn attempt(
        &mut self,
        workload: &Workload,
        round: u32,
        tracer: Option<&Tracer>,
        results: &mut Results,
    ) -> Result<()> {
        self.order(&Order::Run(workload.name.to_owned()))?;
        let mut counts = None;
        loop {
            let report = self.next().inspect_err(|_| self.give_up())?;
            match (report, tracer) {
                (Report::DropCaches(what), _) => drop_caches(what)?,
                (Report::Begin(connection), Some(tracer)) => tracer.begin(connection)?,
                (Report::End, Some(tracer)) => counts = Some(tracer.end()?),
                (Report::Begin(_) | Report::End, None) => {}
                (Report::Failed(why), _) => bail!(why),
                (Report::Done(metrics), Some(_)) => {
                    let ops = metrics.first().map_or(1, |metric| metric.ops);
                    if let Some(counts) = counts {
                        results.count(self.candidate.name, workload.name, counts, ops);
                    }
                    return Ok(());
                }
                (Report::Done(metrics), None) => {
                    for metric in metrics {
                        eprint!("  {}", crate::results::short(metric.value, metric.unit));
                        results.add(round, self.candidate.name, metric);
                    }
                    return Ok(());
                }
                (other, _) => bail!("unexpected: {other:?}"),
            }
            self.order(&Order::Ack)?;
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
