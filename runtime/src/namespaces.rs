//! Which namespaces a container has, and what each needs before it is of use (namespaces(7)).

use nix::sched::{CloneFlags, unshare};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};

use crate::error::{On, Result};
use crate::spec::{Network, Spec};

/// The namespaces that a container's first process is born into.
///
/// The cgroup namespace is not among them: it shows as its root the group that its maker was in, so it can only be
/// made when the process is in its own ([`enter_own_cgroup_view`]).
pub(crate) fn at_birth(spec: &Spec) -> u64 {
    let mut flags = libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWUTS | libc::CLONE_NEWIPC;
    if spec.network == Network::None {
        flags |= libc::CLONE_NEWNET;
    }
    u64::from(flags.unsigned_abs())
}

/// Makes the process's own cgroup the root of what it sees of them (cgroup_namespaces(7)).
pub(crate) fn enter_own_cgroup_view() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWCGROUP).on("unshare", "cgroup namespace")
}

/// Leaves the host's mounts: they stay visible and follow the host's changes, but nothing mounted from here on
/// shows on the host.
pub(crate) fn enter_private_mounts() -> Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    unshare(CloneFlags::CLONE_NEWNS).on("unshare", "mount namespace")?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .on("mount --make-rslave", "/")
}

/// Sets the host name of this UTS namespace.
pub(crate) fn set_hostname(name: &str) -> Result<()> {
    rustix::system::sethostname(name.as_bytes()).on("sethostname", name)
}

/// Brings the loopback interface of this network namespace up: `RTM_NEWLINK` for interface 1 (rtnetlink(7)).
pub(crate) fn raise_loopback() -> Result<()> {
    const LOOPBACK: i32 = 1;
    const LENGTH: u32 = 32;
    let up = libc::IFF_UP.unsigned_abs();
    let mut message = Vec::with_capacity(LENGTH as usize);
    // struct nlmsghdr
    message.extend(LENGTH.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
    message.extend(u16::try_from(flags).unwrap_or_default().to_ne_bytes());
    message.extend([0; 8]); // sequence, port
    // struct ifinfomsg: family, padding, type, index, flags, change
    message.extend([0; 4]);
    message.extend(LOOPBACK.to_ne_bytes());
    message.extend(up.to_ne_bytes());
    message.extend(up.to_ne_bytes());
    let talk = || -> rustix::io::Result<i32> {
        let family = AddressFamily::NETLINK;
        let socket = rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
        let kernel = netlink::SocketAddrNetlink::new(0, 0);
        rustix::net::sendto(&socket, &message, SendFlags::empty(), &kernel)?;
        let mut answer = [0; 64];
        let (length, _) = rustix::net::recv(&socket, &mut answer[..], RecvFlags::empty())?;
        // struct nlmsgerr follows the header; its first field is 0 or a negative errno.
        let code = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.first_chunk::<4>());
        Ok(code.map_or(-libc::EIO, |bytes| i32::from_ne_bytes(*bytes)))
    };
    match talk().on("netlink", "loopback interface")? {
        0 => Ok(()),
        code => Err(std::io::Error::from_raw_os_error(-code)).on("bring up", "loopback interface"),
    }
}
