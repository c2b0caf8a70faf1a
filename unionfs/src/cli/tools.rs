//! The offline tools' words.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use unionfs::tools::Given;
use unionfs::{BranchSpec, Format};

pub(super) const DIFF: &str = "\
List what a writable branch changes, one path a line: 'A' added, 'C' changed, 'D' deleted

A path is changed if the branches below show anything by it. A directory is listed when anything in it changed. Only \
the writable branch is walked, so the time taken depends on the changes and not on what lies below; of a directory \
that was renamed, all that is in it is listed.

Without the branches below (--lower, or a mounted union) a path counts as changed if it bears the record of a \
copy-up, else as added, and renamed directories cannot be read.";

pub(super) const EXPORT: &str = "\
Write what a writable branch changes as a layer of the OCI image format: a tar archive with whiteouts '.wh.NAME' and \
opaque marks '.wh..wh..opq', hard links, extended attributes and times to the nanosecond

The same branch gives the same bytes. Only the writable branch is walked; a directory that was renamed is written \
out whole, and so is a hard-linked file that was changed by one of its names. Sockets are left out, with a warning.";

pub(super) const CHECK: &str = "\
Find what a crash, a copy or a foreign hand has left in a writable branch, one problem a line, and repair it

Found are leftovers in the work directory, whiteouts that hide nothing or lie beside an object, marks of devices that \
are gone, redirects that lead nowhere, marks in another format than the rest, records of origins that are not an \
object's own, and orphans in the index of hard links. With the branches below (--lower) all of it is \
found, without them only what the branch tells by itself. A repair changes nothing that a union shows, and removes no \
file with content. Without --format the branch's format is the one that most of its marks have.

The exit status is
  0  no problems
  1  problems were found; with --repair, all of them were repaired
  4  some problems could not be repaired
  8  the check could not be done
  2  the command line is wrong";

pub(super) const CONVERT: &str = "\
Rewrite the marks of a writable branch in the other format, in place: to kernel overlay's, so that the kernel can mount \
it as upperdir, or to aufs's

It may be interrupted at any moment: run it again to finish it; until then the branch can be mounted with format=aufs. \
What the new format cannot hold is refused before anything is changed. An upper with renamed directories needs \
redirect_dir=on (or follow) when the kernel mounts it.

Whiteouts that unionfs-fuse left ('.unionfs-fuse', '.unionfs') become the union's own in either case. Where the \
upper lacks a directory in which names are hidden, it is copied from the branches below, so --lower must name them.

Until another work directory is named, kernel overlay's format has it beside the branch, in 'UPPER.work'.";

pub(super) const WHERE: &str = "\
Tell which branch holds a path of a mounted union, and what lies beneath

For each branch that has anything by the path, its number (0 is the first), what that means and what it is:
  holds    what users see
  merges   a directory whose content shows in the merged one
  hides    a whiteout, which hides what lies below
  beneath  hidden by something above

The exit status is 1 if one of the paths is not in its union.";

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// The writable branch of a union, or the mount point of one
    #[arg(value_name = "UPPER|MOUNTPOINT")]
    pub(crate) subject: PathBuf,
    #[command(flatten)]
    pub(crate) upper: UpperArgs,
    /// End each line with NUL instead of a newline, and write names as they are
    ///
    /// Without it a newline in a name is written '\012' and a backslash '\134', as in /proc/mounts.
    #[arg(short = 'z', long)]
    pub(crate) null: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// The writable branch of a union, or the mount point of one
    #[arg(value_name = "UPPER|MOUNTPOINT")]
    pub(crate) subject: PathBuf,
    #[command(flatten)]
    pub(crate) upper: UpperArgs,
    /// Write the layer to this file, which appears when it is complete; without it, to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The writable branch of a union that is not mounted
    #[arg(value_name = "UPPER")]
    pub(crate) subject: PathBuf,
    #[command(flatten)]
    pub(crate) upper: UpperArgs,
    /// Repair what can be repaired without loss
    #[arg(short, long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConvertArgs {
    /// The writable branch of a union that is not mounted
    #[arg(value_name = "UPPER")]
    pub(crate) upper: PathBuf,
    /// The format it is to have
    #[arg(long, value_name = "aufs|overlay")]
    pub(crate) to: Format,
    /// UPPER's work directory, if the union is mounted with -o workdir=
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<PathBuf>,
    /// Write user.overlay attributes, for kernel overlay mounted with -o userxattr (as they always are without root)
    #[arg(long)]
    pub(crate) userxattr: bool,
    /// The branches below UPPER, as in 'unionfs mount', for whiteouts of unionfs-fuse; they are only read
    #[arg(long, value_name = "BRANCHES")]
    pub(crate) lower: Option<OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct WhereArgs {
    /// Paths on mounted unions; they need not exist
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
}

/// What is told of an upper that is not mounted.
#[derive(Debug, Args)]
pub(crate) struct UpperArgs {
    /// The branches below UPPER, as in 'unionfs mount'; they are only read. A mounted union tells them itself
    #[arg(long, value_name = "BRANCHES")]
    lower: Option<OsString>,
    /// UPPER's work directory, if the union is mounted with -o workdir=
    #[arg(long, value_name = "DIR")]
    workdir: Option<PathBuf>,
    /// How UPPER is written: marks of every format are read, but with 'overlay' names that begin with '.wh.' are
    /// the user's
    #[arg(long, value_name = "aufs|overlay")]
    pub(crate) format: Option<Format>,
}

impl UpperArgs {
    /// As the tools take it.
    pub(crate) fn given(&self) -> anyhow::Result<Given> {
        let lowers = self.lower.as_ref().map(BranchSpec::parse_list).transpose()?;
        Ok(Given { lowers, workdir: self.workdir.clone(), format: self.format.unwrap_or_default() })
    }
}
