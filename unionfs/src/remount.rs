//! `mount -o remount`: changes of a mount that is there, in aufs's words (aufs(5), "remount").

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Context, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::cli::MountPlan;
use crate::control;

/// Changes the branches in the order in which they are told, then the flags; a change that fails ends it.
pub(crate) fn remount(plan: &MountPlan) -> anyhow::Result<()> {
    for (verb, value) in &plan.choice.changes {
        change(plan, verb, value).with_context(|| format!("{verb}:{}", value.display()))?;
    }
    let flags = MsFlags::from_bits_retain(plan.choice.flags.bits()) | MsFlags::MS_REMOUNT;
    match mount(None::<&str>, &plan.mountpoint, None::<&str>, flags, None::<&str>) {
        Ok(()) => Ok(()),
        Err(errno) => {
            let hint = if errno == Errno::EINVAL { " (nothing is mounted there)" } else { "" };
            bail!("cannot remount {}: mount(2): {}{hint}", plan.mountpoint.display(), errno.desc())
        }
    }
}

fn change(plan: &MountPlan, verb: &str, value: &OsStr) -> anyhow::Result<()> {
    let at = &plan.mountpoint;
    let add = |place: usize, branch: &OsStr| {
        let place = OsString::from(place.to_string());
        control::command(at, &["add".as_ref(), &place, &control::absolute(branch)])
    };
    match verb {
        "add" | "ins" => {
            let (place, branch) = place_and_branch(value).unwrap_or((0, value));
            add(place, branch)
        }
        "append" => add(control::branch_count(at)?, value),
        "prepend" => add(0, value),
        verb => control::command(at, &[verb.as_ref(), &control::absolute(value)]),
    }
}

/// `INDEX:BRANCH`.
fn place_and_branch(value: &OsStr) -> Option<(usize, &OsStr)> {
    let colon = value.as_bytes().iter().position(|&byte| byte == b':')?;
    let (place, branch) = value.as_bytes().split_at(colon);
    Some((std::str::from_utf8(place).ok()?.parse().ok()?, OsStr::from_bytes(&branch[1..])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn place_of_a_branch_is_the_number_before_the_first_colon() {
        for (text, want) in [
            ("1:/a=rw", Some((1, "/a=rw"))),
            ("0:/a:b", Some((0, "/a:b"))),
            ("/a", None),
            ("/a:b", None),
            ("x:/a", None),
        ] {
            let got = place_and_branch(OsStr::new(text));
            assert_eq!(got, want.map(|(place, branch)| (place, OsStr::new(branch))), "{text}");
        }
    }
}
