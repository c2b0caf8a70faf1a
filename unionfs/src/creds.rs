//! Acting as the caller while an object is made, so that it is the caller's from its first moment.

use std::sync::OnceLock;

use nix::unistd::{Gid, Uid, getegid, geteuid, setfsgid, setfsuid};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

/// The thread makes files as somebody else until this is dropped (setfsuid(2), setfsgid(2)).
///
/// The server keeps its capabilities meanwhile: whether the caller may do the thing, the kernel has decided.
#[derive(Debug)]
pub(crate) struct ActingAs {
    own_uid: Uid,
    own_gid: Gid,
}

impl ActingAs {
    /// Takes the ids on; `None` where they are the server's own, or where it may not.
    pub(crate) fn new(uid: u32, gid: u32) -> Option<Self> {
        let &(own_uid, own_gid) = own_ids();
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        if !own_uid.is_root() || (uid == own_uid && gid == own_gid) {
            return None;
        }
        let all = full_capabilities()?;
        let acting = Self { own_uid, own_gid };
        setfsgid(gid);
        setfsuid(uid);
        // Leaving user 0 has dropped what the union needs on the branch (capabilities(7), CAP_FS_MASK).
        if uid != own_uid && set_capabilities(None, all).is_err() {
            return None;
        }
        Some(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        setfsuid(self.own_uid);
        setfsgid(self.own_gid);
    }
}

/// The server's ids, which do not change.
fn own_ids() -> &'static (Uid, Gid) {
    static OWN: OnceLock<(Uid, Gid)> = OnceLock::new();
    OWN.get_or_init(|| (geteuid(), getegid()))
}

fn full_capabilities() -> Option<CapabilitySets> {
    static ALL: OnceLock<Option<CapabilitySets>> = OnceLock::new();
    *ALL.get_or_init(|| capabilities(None).ok())
}

/// Whether this process has a capability in the first user namespace, whose map of user numbers is the identity
/// (user_namespaces(7)).
pub(crate) fn capable_over_host(capability: CapabilitySet) -> bool {
    let first = std::fs::read_to_string("/proc/self/uid_map")
        .is_ok_and(|map| map.split_whitespace().eq(["0", "0", "4294967295"]));
    first && capabilities(None).is_ok_and(|sets| sets.effective.contains(capability))
}
