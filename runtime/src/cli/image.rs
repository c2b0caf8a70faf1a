//! Commands on images.

use clap::Subcommand;

use super::Context;

/// Commands on images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {}

/// Runs one of them and tells its exit status.
pub(crate) fn run(command: ImageCommand, _context: &Context) -> anyhow::Result<u8> {
    match command {}
}
