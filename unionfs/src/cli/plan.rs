//! One mount, as every command line comes to say it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use unionfs::mount::MountFlags;
use unionfs::{BranchSpec, Perm};

use super::argv::Argv;
use super::options::{MountChoice, OptionError, shown_source};
use super::personality::Personality;
use super::{MountArgs, Refusal};

/// A mount that is asked for.
#[derive(Debug)]
pub(crate) struct MountPlan {
    /// By priority.
    pub(crate) branches: Vec<BranchSpec>,
    pub(crate) mountpoint: PathBuf,
    /// Everything that `-o` said.
    pub(crate) choice: MountChoice,
    /// The source that `/proc/mounts` shows, where the branches are not to be shown.
    pub(crate) source: Option<String>,
    /// The type that `/proc/mounts` shows behind `fuse.`.
    pub(crate) subtype: String,
    pub(crate) foreground: bool,
    /// Tell of every request, in the foreground.
    pub(crate) debug: bool,
    /// Only say whether it can be understood (mount(8), `-f`).
    pub(crate) fake: bool,
    /// Files in the mount point are a reason to refuse.
    pub(crate) wants_empty: bool,
    /// `lowerdir=` named the branches, so the written format may be the kernel's.
    pub(crate) overlay: bool,
    /// What was not understood and is left out.
    pub(crate) ignored: Vec<String>,
}

impl MountPlan {
    /// The plan of `unionfs mount`.
    pub(super) fn native(args: &MountArgs, root: bool) -> Result<Self, Refusal> {
        let argv = Argv { options: args.options.clone(), places: args.places.clone(), ..Argv::default() };
        let plan = Self::new(&argv, OsStr::new("unionfs"), Personality::Native, root)?;
        Ok(Self { foreground: args.foreground, ..plan })
    }

    /// The plan of a command line that another program's users write; `root` tells whether root mounts.
    pub(super) fn new(
        argv: &Argv,
        program: &OsStr,
        personality: Personality,
        root: bool,
    ) -> Result<Self, Refusal> {
        let sloppy = personality == Personality::Helper && argv.has('s');
        let (mut choice, mut ignored) =
            MountChoice::parse(&argv.options, personality.default_flags(root), personality.unknown(sloppy))?;
        for unknown in &argv.unknown {
            match personality {
                Personality::FuseOverlayfs | Personality::Overlay => ignored.push(unknown.clone()),
                _ => return Err(Refusal::UnknownOption(unknown.clone())),
            }
        }
        let (mountpoint, named) = places(&argv.places, &choice)?;
        let branches = branches(&choice, named, personality)?;
        let debug = personality != Personality::Helper && argv.has('d');
        if personality != Personality::Helper && argv.has('s') {
            choice.threads = Some(1);
        }
        Ok(Self {
            branches,
            mountpoint: mountpoint.into(),
            source: source(&choice, named, personality),
            subtype: subtype(&choice, argv, program, personality),
            foreground: personality != Personality::Helper && (argv.has('f') || debug),
            debug,
            fake: personality == Personality::Helper && argv.has('f'),
            wants_empty: personality.wants_empty() && !choice.nonempty,
            overlay: choice.lower.is_some(),
            ignored,
            choice,
        })
    }

    /// Whether no branch is to be written, whatever its permission.
    pub(crate) const fn read_only(&self) -> bool {
        self.choice.flags.contains(MountFlags::READ_ONLY)
    }

    /// The branch of the highest priority, if it is to be written.
    pub(crate) fn upper(&self) -> Option<&BranchSpec> {
        self.branches.first().filter(|spec| spec.perm.writable() && !self.read_only())
    }

    /// The source that `/proc/mounts` is to show.
    pub(crate) fn shown_source<'a>(&self, branches: impl Iterator<Item = &'a BranchSpec>) -> String {
        let listed = || branches.map(ToString::to_string).collect::<Vec<_>>().join(":");
        shown_source(&self.source.clone().unwrap_or_else(listed))
    }
}

/// The mount point, which is the last place, and what was named before it.
fn places<'a>(
    places: &'a [OsString],
    choice: &MountChoice,
) -> Result<(&'a OsStr, Option<&'a OsStr>), Refusal> {
    let named = choice.lower.is_some() || choice.upper.is_some() || choice.list.is_some() || choice.remount;
    match places {
        [] => Err(Refusal::NoMountpoint),
        [mountpoint] if named => Ok((mountpoint, None)),
        [_] => Err(Refusal::NoBranches),
        [first, mountpoint] => Ok((mountpoint, Some(first))),
        // fuse-overlayfs: of many the last counts.
        [.., last] if choice.lower.is_some() => Ok((last, None)),
        [_, _, third, ..] => Err(Refusal::TooMany(third.to_string_lossy().into_owned())),
    }
}

fn branches(
    choice: &MountChoice,
    named: Option<&OsStr>,
    personality: Personality,
) -> Result<Vec<BranchSpec>, Refusal> {
    if choice.remount {
        return Ok(Vec::new());
    }
    let specs = match (&choice.lower, &choice.upper, &choice.list) {
        (Some(_), _, Some(_)) | (None, Some(_), Some(_)) => return Err(Refusal::TwoLists),
        (None, Some(_), None) => return Err(Refusal::NoLower),
        (Some(lower), upper, None) => overlay_branches(choice, lower, upper.as_deref())?,
        (None, None, Some(list)) => BranchSpec::parse_list(list)?,
        // unionfs-fuse's branches are read-only unless they say otherwise.
        (None, None, None) if personality == Personality::UnionfsFuse => {
            BranchSpec::parse_list_from(named.unwrap_or_default(), Perm::READ_ONLY)?
        }
        // What fstab(5) writes where there is no device.
        (None, None, None) if named.is_some_and(|named| named == "none") => return Err(Refusal::NoBranches),
        (None, None, None) => BranchSpec::parse_list(named.unwrap_or_default())?,
    };
    Ok(match &choice.chroot {
        Some(chroot) => specs.into_iter().map(|spec| below(chroot, spec)).collect(),
        None => specs,
    })
}

fn overlay_branches(
    choice: &MountChoice,
    lower: &OsStr,
    upper: Option<&Path>,
) -> Result<Vec<BranchSpec>, Refusal> {
    if upper.is_some() && choice.workdir.is_none() {
        return Err(Refusal::NoWorkdir);
    }
    let upper = upper.map(|path| BranchSpec { path: path.to_owned(), perm: Perm::READ_WRITE });
    let lower = BranchSpec::parse_paths(lower)?;
    Ok(upper.into_iter().chain(lower).collect())
}

fn below(chroot: &Path, spec: BranchSpec) -> BranchSpec {
    let path = chroot.join(spec.path.strip_prefix("/").unwrap_or(&spec.path));
    BranchSpec { path, ..spec }
}

/// fuse-overlayfs shows its own name; a name that is given beside the branches is shown as it is.
fn source(choice: &MountChoice, named: Option<&OsStr>, personality: Personality) -> Option<String> {
    if choice.fsname.is_some() {
        return choice.fsname.clone();
    }
    if personality == Personality::FuseOverlayfs {
        return Some("fuse-overlayfs".to_owned());
    }
    let beside = choice.lower.is_some() || choice.list.is_some();
    named.filter(|_| beside).map(|name| name.to_string_lossy().into_owned())
}

/// The name that scripts look for in `/proc/mounts`, which never is a program's path.
fn subtype(choice: &MountChoice, argv: &Argv, program: &OsStr, personality: Personality) -> String {
    let by_type = argv.fstype.as_ref().map(|fstype| fstype.to_string_lossy().into_owned());
    let by_type = by_type.map(|fstype| fstype.strip_prefix("fuse.").unwrap_or(&fstype).to_owned());
    let by_name = match personality {
        Personality::FuseOverlayfs => Path::new(program).file_name().map(OsStr::to_string_lossy),
        _ => None,
    };
    choice
        .subtype
        .clone()
        .or(by_type)
        .or_else(|| by_name.map(std::borrow::Cow::into_owned))
        .unwrap_or_else(|| "unionfs".to_owned())
}

impl From<OptionError> for Refusal {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}
