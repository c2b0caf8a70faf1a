//! The comparison: the same workloads on the same layers, through every union filesystem at hand.
//!
//! A controller prepares the layers, starts one worker per candidate and round, and lets the workers take
//! turns: each workload runs on all candidates before the next one begins, in an order that is reversed in
//! every other round. A worker lives in a mount namespace of its own (and, where the candidate is rootless, in
//! a user namespace), mounts its candidate there and runs the workloads it is told to; so nothing is left
//! mounted, whatever dies.
//!
//! ```text
//! main → cli → {controller, worker}
//! controller → {disk, fixture, trace, report → plot}      worker → {mount → server, workload}
//! both → {candidate, link}
//! ```

mod candidate;
mod cli;
mod controller;
mod disk;
mod fixture;
mod link;
mod machine;
mod mount;
mod plot;
mod report;
mod results;
mod server;
mod sys;
mod trace;
mod worker;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::{Args, Mode};

fn main() -> ExitCode {
    let args = Args::parse();
    let done = match &args.mode {
        Some(Mode::Worker(worker)) => worker::run(worker),
        None if args.list => {
            controller::list();
            Ok(())
        }
        None => controller::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error:#}");
            ExitCode::FAILURE
        }
    }
}
