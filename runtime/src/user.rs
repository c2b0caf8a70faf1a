//! Who `USER[:GROUP]` is, by the container's own /etc/passwd and /etc/group (passwd(5), group(5)).

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::security::Identity;

/// A user found in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    /// What the kernel is told.
    pub(crate) identity: Identity,
    /// The home directory: `/` for a number that has no entry.
    pub(crate) home: PathBuf,
}

/// One line of passwd(5).
#[derive(Debug)]
struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

/// One line of group(5).
#[derive(Debug)]
struct Group<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Looks `who` up in the texts of the two files; `extra` are groups to add.
///
/// A number needs no entry. Supplementary groups are those that list the user, unless a group was named.
///
/// # Errors
///
/// [`Error::Option`] for a name that has no entry.
pub(crate) fn find(who: &str, extra: &[String], passwd: &str, group: &str) -> Result<User> {
    let (user, chosen) = match who.split_once(':') {
        Some((user, chosen)) => (user, Some(chosen).filter(|chosen| !chosen.is_empty())),
        None => (who, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entries: Vec<Passwd<'_>> = passwd.lines().filter_map(passwd_line).collect();
    let number = user.parse::<u32>().ok();
    let entry = entries
        .iter()
        .find(|entry| entry.name == user)
        .or_else(|| number.and_then(|uid| entries.iter().find(|entry| entry.uid == uid)));
    let uid = entry.map(|entry| entry.uid).or(number).ok_or_else(|| {
        Error::option("--user", who, format!("no user {user:?} in the container's /etc/passwd"))
    })?;
    let gid = match chosen {
        Some(chosen) => group_id("--user", chosen, group)?,
        None => entry.map_or(0, |entry| entry.gid),
    };
    let mut groups = match (entry, chosen) {
        (Some(entry), None) => memberships(entry.name, group),
        _ => Vec::new(),
    };
    for name in extra {
        groups.push(group_id("--group-add", name, group)?);
    }
    groups.retain(|other| *other != gid);
    groups.sort_unstable();
    groups.dedup();
    let home = entry.map(|entry| entry.home).filter(|home| !home.is_empty()).unwrap_or("/");
    Ok(User { identity: Identity { uid, gid, groups }, home: home.into() })
}

fn group_id(option: &'static str, name: &str, group: &str) -> Result<u32> {
    let entry = group.lines().filter_map(group_line).find(|entry| entry.name == name);
    entry
        .map(|entry| entry.gid)
        .or_else(|| name.parse().ok())
        .ok_or_else(|| Error::option(option, name, "no such group in the container's /etc/group"))
}

fn memberships(user: &str, group: &str) -> Vec<u32> {
    let lists = |entry: &Group<'_>| entry.members.split(',').any(|member| member == user);
    group.lines().filter_map(group_line).filter(lists).map(|entry| entry.gid).collect()
}

fn passwd_line(line: &str) -> Option<Passwd<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let uid = fields.nth(1)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(Passwd { name, uid, gid, home: fields.nth(1).unwrap_or("") })
}

fn group_line(line: &str) -> Option<Group<'_>> {
    let mut fields = line.split(':');
    let name = fields.next()?;
    let gid = fields.nth(1)?.parse().ok()?;
    Some(Group { name, gid, members: fields.next().unwrap_or("") })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# no entry\nweb:x:33:34:::\napp:x:1000:1000::/home/app:/bin/sh\n1000x:x:7:7::/seven:\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nadm:x:4:app,web\nlog:x:5:app\n";

    #[test]
    fn find_by_name_and_number() {
        for (who, extra, want) in [
            ("", &[][..], Some((0, 0, &[][..], "/root"))),
            ("app", &[], Some((1000, 1000, &[4, 5], "/home/app"))),
            ("1000", &[], Some((1000, 1000, &[4, 5], "/home/app"))),
            ("web", &[], Some((33, 34, &[4], "/"))),
            ("app:www", &[], Some((1000, 34, &[], "/home/app"))),
            ("app:77", &[], Some((1000, 77, &[], "/home/app"))),
            ("4321", &[], Some((4321, 0, &[], "/"))),
            ("4321:4", &["log", "9"], Some((4321, 4, &[5, 9], "/"))),
            ("1000x", &[], Some((7, 7, &[], "/seven"))),
            (":adm", &[], Some((0, 4, &[], "/root"))),
            ("nobody", &[], None),
            ("app:nogroup", &[], None),
            ("app", &["nogroup"], None),
            ("-1", &[], None),
        ] {
            let extra: Vec<String> = extra.iter().map(|name| (*name).to_owned()).collect();
            let got = find(who, &extra, PASSWD, GROUP).ok();
            let want = want.map(|(uid, gid, groups, home)| User {
                identity: Identity { uid, gid, groups: groups.to_vec() },
                home: home.into(),
            });
            assert_eq!(got, want, "{who:?} {extra:?}");
        }
    }
}
