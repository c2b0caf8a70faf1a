//! Root without being root: a user namespace in which the caller is user 0 (user_namespaces(7)).
//!
//! With an entry in /etc/subuid and the set-user-ID helpers newuidmap(1) and newgidmap(1) there are 65536 identifiers;
//! otherwise there is one, and `setgroups` is switched off, which the kernel demands then.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use rustix::process::{Gid, Uid, getegid, geteuid};

use crate::error::{Error, On, Result};
use crate::process::{Channel, Message, Process};

/// Whether this process is without privilege over the host.
pub fn needed() -> bool {
    !geteuid().is_root()
}

/// Runs `act` where it is root: at once if this process is, else in a child in a user namespace.
///
/// # Errors
///
/// That of `act`, or of making the namespace.
pub fn as_root(act: impl FnOnce() -> Result<()>) -> Result<()> {
    as_root_for_status(|| act().map(|()| 0)).map(drop)
}

/// As [`as_root`], for a command that has an exit status.
///
/// # Errors
///
/// As [`as_root`].
pub fn as_root_for_status(act: impl FnOnce() -> Result<u8>) -> Result<u8> {
    if !needed() {
        return act();
    }
    let (child, channel) = Process::spawn(0, None, |channel| {
        let done = enter(channel).and_then(|()| act());
        done.unwrap_or_else(|failure| {
            channel.send_failure(&failure);
            failure.exit_status()
        })
    })?;
    let told = map_child(&channel, &child).and_then(|()| channel.receive());
    drop(channel);
    let status = child.wait().on("wait for", "the child in a user namespace")?;
    match told? {
        Some((Message::Failed { status, message }, _)) => Err(Error::Command { status, message }),
        _ => Ok(status),
    }
}

/// Makes this process root of a new user namespace. Its parent must answer with [`map_child`].
///
/// # Errors
///
/// If user namespaces are switched off, or the parent could not map identifiers.
pub(crate) fn enter(channel: &Channel) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWUSER).map_err(|errno| {
        Error::State(format!(
            "unshare user namespace: {errno}; is user.max_user_namespaces 0, or kernel.unprivileged_userns_clone?"
        ))
    })?;
    channel.send(&Message::Unmapped, None)?;
    channel.await_go()?;
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid).on("setresgid", "0")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).on("setresuid", "0")
}

/// Waits until the child is in its user namespace, and gives it identifiers.
///
/// # Errors
///
/// What the child failed at, or the maps.
pub(crate) fn map_child(channel: &Channel, child: &Process) -> Result<()> {
    match channel.receive()? {
        Some((Message::Unmapped, _)) => {}
        Some((Message::Failed { message, .. }, _)) => return Err(Error::State(message)),
        _ => return Err(Error::State("the child in a user namespace died".into())),
    }
    map(child.pid())?;
    channel.send(&Message::Go, None)
}

/// Whether a process of this user namespace may set supplementary groups.
pub(crate) fn groups_allowed() -> bool {
    fs::read_to_string("/proc/self/setgroups").map_or(true, |text| text.trim() == "allow")
}

/// Whether this process is in the initial user namespace.
pub(crate) fn in_initial_namespace() -> bool {
    fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_ascii_whitespace().eq(["0", "0", "4294967295"]))
}

fn map(pid: i32) -> Result<()> {
    let (uid, gid) = (geteuid().as_raw(), getegid().as_raw());
    let name = user_name(uid);
    let range = |file: &str| {
        let text = fs::read_to_string(file).unwrap_or_default();
        subordinate(&text, name.as_deref(), uid)
    };
    match (range("/etc/subuid"), range("/etc/subgid")) {
        (Some(uids), Some(gids)) if installed("newuidmap") && installed("newgidmap") => {
            run_helper("newuidmap", pid, uid, uids)?;
            run_helper("newgidmap", pid, gid, gids)
        }
        _ => {
            let write = |file: &str, text: String| {
                let path = format!("/proc/{pid}/{file}");
                fs::write(&path, text).on("write", &path)
            };
            write("setgroups", "deny".into())?;
            write("uid_map", format!("0 {uid} 1"))?;
            write("gid_map", format!("0 {gid} 1"))
        }
    }
}

fn run_helper(helper: &'static str, pid: i32, own: u32, (first, count): (u32, u32)) -> Result<()> {
    let words = [pid.unsigned_abs(), 0, own, 1, 1, first, count].map(|number| number.to_string());
    let output = Command::new(helper).args(words).output().on("run", helper)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::State(format!("{}; check /etc/subuid and /etc/subgid", said.trim())))
}

fn installed(helper: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(helper).exists())
}

fn user_name(uid: u32) -> Option<String> {
    let passwd = fs::read_to_string(Path::new("/etc/passwd")).ok()?;
    let name_of = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    };
    passwd.lines().find_map(name_of)
}

/// The first range of a user, by name or number, in the text of subuid(5) or subgid(5): its start and length.
fn subordinate(text: &str, name: Option<&str>, uid: u32) -> Option<(u32, u32)> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let range = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (Some(owner) == name || owner.parse() == Ok(uid)).then_some(range)
    };
    text.lines().find_map(entry).filter(|(_, count)| *count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subordinate_by_name_or_number() {
        let text = "root:1:2\nann:100000:65536\n1005:300000:10\nempty:5:0\nbad:x:y\n";
        for (name, uid, want) in [
            (Some("ann"), 1000, Some((100_000, 65536))),
            (None, 1005, Some((300_000, 10))),
            (Some("empty"), 1, None),
            (Some("bad"), 1, None),
            (Some("nobody"), 65534, None),
        ] {
            assert_eq!(subordinate(text, name, uid), want, "{name:?} {uid}");
        }
    }
}
