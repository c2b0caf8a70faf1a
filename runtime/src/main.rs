//! The program: parse, dispatch, and turn a failure into one line and an exit status.

mod cli;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = match cli::Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return cli::refuse_usage(&usage),
    };
    match cli::dispatch(cli) {
        Ok(status) => ExitCode::from(status),
        Err(failure) => {
            eprintln!("uctr: {failure:#}");
            ExitCode::from(cli::exit_status(&failure))
        }
    }
}
