//! What is refused about a mount point before anything is mounted.
//!
//! Branches that overlap are the union's business, and so is a branch that cannot be opened.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, bail};
use rustix::thread::{CapabilitySet, capabilities};
use unionfs::BranchSpec;
use unionfs::tools::convert::has_foreign_whiteouts;

use crate::cli::MountPlan;

/// A directory, whatever path leads to it.
type Identity = (u64, u64);

/// Refuses a mount point inside a branch where the union would be part of itself, and one with files in it for those
/// whose callers expect that.
pub(crate) fn check(plan: &MountPlan) -> anyhow::Result<()> {
    if plan.choice.move_on_enospc && plan.choice.io.passes_through() {
        bail!(
            "moveonenospc with io=passthrough: the kernel writes past the server, which cannot move the file (leave one out)"
        );
    }
    let at = &plan.mountpoint;
    // What is wrong with it itself, mounting tells.
    let Ok(path) = fs::canonicalize(at) else { return Ok(()) };
    let branches: Vec<_> =
        plan.branches.iter().filter_map(|spec| Some((identity(&spec.path).ok()?, spec))).collect();
    for above in path.ancestors().skip(1).filter_map(|above| identity(above).ok()) {
        let outer = branches.iter().find(|(branch, spec)| *branch == above && is_looked_through(plan, spec));
        if let Some((_, outer)) = outer {
            bail!(
                "mount point {at:?} lies inside branch {:?}: the union would be part of itself",
                outer.path
            );
        }
    }
    let own = identity(&path).with_context(|| format!("mount point {at:?}"))?;
    if plan.wants_empty && path.is_dir() && branches.iter().all(|(branch, _)| *branch != own) {
        let mut entries = fs::read_dir(at).with_context(|| format!("mount point {at:?}"))?;
        if entries.next().is_some() {
            bail!("mount point {at:?} is not empty: its files would be hidden (-o nonempty allows it)");
        }
    }
    Ok(())
}

/// For each branch with whiteouts of unionfs-fuse: what they mean here, and the command that makes them ours.
pub(crate) fn foreign_whiteouts(plan: &MountPlan) -> impl Iterator<Item = String> {
    let branches = plan.branches.iter().enumerate();
    branches.filter(|(_, spec)| has_foreign_whiteouts(&spec.path)).map(|(at, spec)| {
        let path = &spec.path;
        let below: Vec<_> = plan.branches[at + 1..].iter().map(ToString::to_string).collect();
        let lower = if below.is_empty() { String::new() } else { format!(" --lower {:?}", below.join(":")) };
        format!(
            "branch {path:?} has whiteouts of unionfs-fuse, which are not read: what they hid shows again (unmount, and \
             make them ours, once: unionfs convert {path:?} --to aufs{lower})"
        )
    })
}

/// Whether what is mounted inside a branch shows in it: not where the branch gets a mount of its own.
fn is_looked_through(plan: &MountPlan, spec: &BranchSpec) -> bool {
    let own_mount = capabilities(None).is_ok_and(|held| held.effective.contains(CapabilitySet::SYS_ADMIN));
    !own_mount || (spec.perm.writable() && !plan.read_only())
}

fn identity(path: &std::path::Path) -> io::Result<Identity> {
    let stat = fs::metadata(path)?;
    Ok((stat.dev(), stat.ino()))
}
