//! Capabilities and the other privileges of a container's processes (capabilities(7)).

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};

use crate::error::{Error, On, Result};

/// The names by number, from `include/uapi/linux/capability.h`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has unless told otherwise: Podman's eleven.
const DEFAULT: [&str; 11] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// A set of capabilities, a bit each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities(u64);

impl Default for Capabilities {
    fn default() -> Self {
        Self(DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |set, bit| set | bit))
    }
}

impl Capabilities {
    /// Every capability there is.
    pub const ALL: Self = Self((1 << NAMES.len()) - 1);

    /// The set after `--cap-drop` and `--cap-add`. Where both name ALL the single names win; Docker's rule.
    ///
    /// # Errors
    ///
    /// The name that is not one.
    pub(crate) fn adjusted(self, add: &[String], drop: &[String]) -> Result<Self, String> {
        let (add, add_all) = named(add)?;
        let (drop, drop_all) = named(drop)?;
        let base = match (add_all, drop_all) {
            (true, _) => Self::ALL.0,
            (false, true) => 0,
            (false, false) => self.0,
        };
        Ok(Self((base & !drop) | add))
    }

    /// The names as Docker and capabilities(7) write them, sorted by number.
    pub fn names(self) -> Vec<String> {
        let has = |number: &usize| self.0 >> number & 1 == 1;
        (0..NAMES.len()).filter(has).map(|number| format!("CAP_{}", NAMES[number])).collect()
    }

    /// Those of the set that this process itself may have.
    fn available(self) -> Self {
        let bounding = |number: &usize| {
            let capability = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
        };
        Self((0..NAMES.len()).filter(bounding).fold(0, |set, number| set | 1 << number) & self.0)
    }
}

fn bit(name: &str) -> Option<u64> {
    NAMES.iter().position(|known| *known == name).map(|number| 1 << number)
}

/// The bits of the names, and whether ALL is among them.
fn named(names: &[String]) -> Result<(u64, bool), String> {
    let mut set = (0, false);
    for name in names {
        let upper = name.to_ascii_uppercase();
        match upper.strip_prefix("CAP_").unwrap_or(&upper) {
            "ALL" => set.1 = true,
            known => set.0 |= bit(known).ok_or_else(|| name.clone())?,
        }
    }
    Ok(set)
}

/// Who a process of the container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    /// User.
    pub(crate) uid: u32,
    /// Group.
    pub(crate) gid: u32,
    /// Supplementary groups.
    pub(crate) groups: Vec<u32>,
}

/// Takes on an identity and gives up every capability outside `set`, for good.
///
/// The order is forced: the bounding set can be cut only while CAP_SETPCAP is there; groups and group before user,
/// for afterwards CAP_SETGID is gone; the capabilities last, kept over the change of user by `PR_SET_KEEPCAPS`.
/// A user other than root keeps none but in the bounding set, as in Docker: it has them again only through a
/// set-user-ID or capable file.
pub(crate) fn become_user(who: &Identity, set: Capabilities, groups_allowed: bool) -> Result<()> {
    let set = set.available();
    for number in (0..NAMES.len()).filter(|number| set.0 >> number & 1 == 0) {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // A capability that this kernel does not know cannot be had either.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno).on("drop a capability", NAMES[number]),
        }
    }
    rustix::thread::set_keep_capabilities(true).on("prctl", "PR_SET_KEEPCAPS")?;
    if groups_allowed {
        let groups: Vec<_> = who.groups.iter().map(|gid| rustix::process::Gid::from_raw(*gid)).collect();
        rustix::thread::set_thread_groups(&groups).on("setgroups", format!("{:?}", who.groups))?;
    }
    let (uid, gid) = (rustix::process::Uid::from_raw(who.uid), rustix::process::Gid::from_raw(who.gid));
    rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(|errno| not_mapped("group", who.gid, errno))?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).map_err(|errno| not_mapped("user", who.uid, errno))?;
    rustix::thread::set_keep_capabilities(false).on("prctl", "PR_SET_KEEPCAPS")?;
    rustix::thread::clear_ambient_capability_set().on("prctl", "PR_CAP_AMBIENT")?;
    let kept = CapabilitySet::from_bits_retain(if who.uid == 0 { set.0 } else { 0 });
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).on("capset", "this process")
}

/// EINVAL means that the identifier is not in the user namespace's map (setresuid(2)).
fn not_mapped(kind: &str, id: u32, errno: Errno) -> Error {
    Error::State(match errno {
        Errno::INVAL => {
            format!("{kind} {id} has no identifier here; /etc/subuid and /etc/subgid give out more of them")
        }
        _ => format!("become {kind} {id}: {errno}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_set_is_podmans() {
        assert_eq!(Capabilities::default(), Capabilities(0x8004_05fb));
    }

    #[test]
    fn adjusted_by_names() {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let of =
            |names: &[&str]| Capabilities(names.iter().filter_map(|name| bit(name)).fold(0, |a, b| a | b));
        for (case, add, drop, want) in [
            ("nothing", vec![], vec![], Ok(Capabilities::default())),
            ("any spelling", vec!["cap_net_raw"], vec!["ALL"], Ok(of(&["NET_RAW"]))),
            (
                "all but one",
                vec!["all"],
                vec!["SYS_ADMIN"],
                Ok(Capabilities(Capabilities::ALL.0 & !(1 << 21))),
            ),
            ("drop all", vec![], vec!["ALL"], Ok(Capabilities(0))),
            ("unknown", vec!["FLY"], vec![], Err("FLY".to_owned())),
        ] {
            assert_eq!(Capabilities::default().adjusted(&list(&add), &list(&drop)), want, "{case}");
        }
    }
}
