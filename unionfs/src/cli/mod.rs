//! What was typed: nothing is opened here.

mod argv;
mod options;
mod personality;
mod plan;
mod tools;
mod words;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, Parser, Subcommand};
use unionfs::SpecError;

use argv::Argv;
pub(crate) use options::OptionError;
pub(crate) use personality::Personality;
pub(crate) use plan::MountPlan;
use tools::{CHECK, CONVERT, DIFF, EXPORT, WHERE};
pub(crate) use tools::{CheckArgs, ConvertArgs, DiffArgs, ExportArgs, WhereArgs};
pub(crate) use words::help as options_help;

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
    #[command(after_long_help = options_help())]
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
    /// BRANCHES MOUNTPOINT; or MOUNTPOINT alone when -o dirs=, br= or lowerdir= names the branches
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
}

#[derive(Debug, Args)]
pub(crate) struct UmountArgs {
    /// Detach now, and let those who have files open finish
    #[arg(short, long)]
    pub(crate) lazy: bool,
    /// The mount point
    pub(crate) mountpoint: PathBuf,
}

/// What a command line asks for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// A mount, whoever's words it came in.
    Mount(Box<MountPlan>),
    /// Another command of ours.
    Command(Command),
    /// Something to print.
    Say(String),
    /// What clap has to say: help, our version, or what is wrong with our own commands.
    Clap(clap::Error),
}

/// A command line that cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    #[error("no mount point: it is the last argument")]
    NoMountpoint,
    #[error("no branches: write 'unionfs mount A:B MOUNTPOINT', or -o lowerdir=… or -o dirs=A:B")]
    NoBranches,
    #[error("no lowerdir specified: upperdir= needs lowerdir= below it")]
    NoLower,
    #[error("upperdir= needs workdir=: an empty directory on the same filesystem")]
    NoWorkdir,
    #[error("dirs= (or br=) and lowerdir= both name the branches: use one")]
    TwoLists,
    #[error("unexpected argument {0:?}: branches and one mount point are enough")]
    TooMany(String),
    #[error("unknown option {0}")]
    UnknownOption(String),
    #[error(transparent)]
    NoValue(#[from] argv::NoValue),
    #[error(transparent)]
    Option(OptionError),
    #[error(transparent)]
    Branches(#[from] SpecError),
}

/// Who speaks: the name the program was called, and how it is expected to behave.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    pub(crate) program: OsString,
    pub(crate) personality: Personality,
}

impl Speaker {
    /// Who speaks for a command line whose first word is the program's name.
    pub(crate) fn of(argv: &[OsString]) -> Self {
        let program = argv.first().cloned().unwrap_or_else(|| "unionfs".into());
        let mut commands: Vec<_> =
            Cli::command().get_subcommands().map(|command| command.get_name().to_owned()).collect();
        commands.push("help".to_owned());
        let personality = Personality::of(&program, argv.get(1..).unwrap_or_default(), &commands);
        Self { program, personality }
    }

    /// The name that messages begin with.
    pub(crate) fn name(&self) -> String {
        Path::new(&self.program)
            .file_name()
            .unwrap_or_else(|| OsStr::new("unionfs"))
            .to_string_lossy()
            .into_owned()
    }

    /// What a command line asks for; `root` tells whether root asks.
    pub(crate) fn read(&self, argv: &[OsString], root: bool) -> Result<Invocation, Refusal> {
        if self.personality == Personality::Native {
            return match Cli::try_parse_from(argv) {
                Ok(Cli { command: Command::Mount(args) }) => {
                    Ok(Invocation::Mount(Box::new(MountPlan::native(&args, root)?)))
                }
                Ok(Cli { command }) => Ok(Invocation::Command(command)),
                Err(said) => Ok(Invocation::Clap(said)),
            };
        }
        let argv = Argv::read(argv.get(1..).unwrap_or_default(), self.personality.letters())?;
        if argv.has('V') {
            return Ok(Invocation::Say(self.version()));
        }
        if argv.has('h') {
            return Ok(Invocation::Say(self.help()));
        }
        MountPlan::new(&argv, &self.program, self.personality, root)
            .map(|plan| Invocation::Mount(Box::new(plan)))
    }

    /// fuse-overlayfs's users look for `fuse-overlayfs: version N` to tell what it can do.
    fn version(&self) -> String {
        let own = concat!("unionfs ", env!("CARGO_PKG_VERSION"));
        match self.personality {
            Personality::FuseOverlayfs => {
                format!("fuse-overlayfs: version 1.16\n{own} (takes fuse-overlayfs's command line)\n")
            }
            _ => format!("{own}\n"),
        }
    }

    fn help(&self) -> String {
        let name = self.name();
        let line = match self.personality {
            Personality::FuseOverlayfs | Personality::Overlay => {
                "[-f] [-d] -o lowerdir=A[:B…][,upperdir=C,workdir=D][,OPTION…] MOUNTPOINT"
            }
            Personality::Helper => "SOURCE MOUNTPOINT [-sfnv] -o dirs=A=rw:B=ro[,OPTION…]",
            _ => "[-f] [-d] [-o OPTION,…] A=RW:B=RO[:…] MOUNTPOINT",
        };
        format!("usage: {name} {line}\n\nThe options are told in unionfs-mount(1).\n")
    }
}

#[cfg(test)]
mod tests;
