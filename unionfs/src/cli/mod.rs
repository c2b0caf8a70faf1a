//! What was typed: nothing is opened here.

mod options;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use options::{MountChoice, shown_source};
use tools::{CHECK, CONVERT, DIFF, EXPORT, WHERE};
pub(crate) use tools::{CheckArgs, ConvertArgs, DiffArgs, ExportArgs, WhereArgs};

/// Unites directories over FUSE.
#[derive(Debug, Parser)]
#[command(name = "unionfs", version, about, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Unite branches at a mount point: the first is writable, the others are read-only unless they say otherwise
    Mount(MountArgs),
    /// Unmount a union
    Umount(UmountArgs),
    /// Add a branch to a mounted union
    Add {
        /// The mount point
        mountpoint: PathBuf,
        /// Where in the list: 0 is the top
        place: usize,
        /// PATH[=PERM]; read-only with whiteouts unless it says otherwise
        branch: OsString,
    },
    /// Remove a branch from a mounted union
    Del {
        /// The mount point
        mountpoint: PathBuf,
        /// The branch's directory
        branch: OsString,
    },
    /// Change the permission of a branch of a mounted union
    Mod {
        /// The mount point
        mountpoint: PathBuf,
        /// PATH=PERM
        branch: OsString,
    },
    /// Tell what a mount has served: counts and times by operation, memory
    Stats {
        /// The mount point
        mountpoint: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
        /// Again every second
        #[arg(long)]
        watch: bool,
    },
    /// Tell what was negotiated with the kernel, and why not the rest
    Features {
        /// The mount point
        mountpoint: PathBuf,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the branches of a mounted union, one a line
    Branches {
        /// The mount point, or any directory whose union is asked for
        mountpoint: PathBuf,
    },
    /// List what a writable branch changes: A added, C changed, D deleted
    #[command(long_about = DIFF)]
    Diff(DiffArgs),
    /// Write what a writable branch changes as an OCI layer
    #[command(long_about = EXPORT)]
    Export(ExportArgs),
    /// Find, and repair, what crashes and foreign hands have left in a writable branch
    #[command(long_about = CHECK)]
    Check(CheckArgs),
    /// Rewrite the marks of a writable branch in the other format
    #[command(long_about = CONVERT)]
    Convert(ConvertArgs),
    /// Tell which branch holds a path of a mounted union, and what lies beneath
    #[command(long_about = WHERE)]
    Where(WhereArgs),
}

#[derive(Debug, Args)]
pub(crate) struct MountArgs {
    /// BRANCHES MOUNTPOINT; or MOUNTPOINT alone when -o dirs= or -o br= names the branches
    ///
    /// Branches are PATH[=PERM] joined by ':' (a colon in a path is written '\:'), PERM one of rw, ro, rr, with
    /// +wh (whiteouts in a ro or rr branch count) or +nolwh.
    #[arg(value_name = "BRANCHES MOUNTPOINT", num_args = 1..=2, required = true)]
    pub(crate) places: Vec<OsString>,
    /// Stay in the foreground
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Mount options, joined by commas
    #[arg(short, value_name = "OPTION,…")]
    pub(crate) options: Vec<OsString>,
    /// Serve as the background process of a mount: say so on standard output once the mount answers
    #[arg(long, hide = true)]
    pub(crate) serve: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Detach now, and let those who have files open finish
    #[arg(short, long)]
    pub(crate) lazy: bool,
    /// The mount point
    pub(crate) mountpoint: PathBuf,
}
