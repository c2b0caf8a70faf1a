//! The container's first process, from its birth to execve.
//!
//! One list, in the only order that works:
//!
//! 1. not dumpable: until execve nothing in the container may look into this process (proc_pid_fd(5))
//! 2. await go: before that its cgroup and its user's identifiers are not in place
//! 3. session: of its own, so that a terminal can be its controlling one
//! 4. cgroup namespace: made only now, for it takes the present cgroup as its root
//! 5. host name, and the loopback interface up
//! 6. /proc, /sys, cgroups, /dev: below the new root, while the host's devices can still be bound
//! 7. network settings, then masks: the settings lie in what is write-protected next
//! 8. volumes: the host's paths are still there, and no one outside this mount namespace sees the binds
//! 9. terminal: of the container's own devpts
//! 10. root read-only: after the last mount point was made in it
//! 11. switch root: from here on every path is the container's
//! 12. user, working directory, privileges, standard streams, execve ([`command::execute`])
//!
//! The process speaks to its maker over a channel that closes at execve, so silence means that the command runs.

use std::convert::Infallible;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::process::DumpableBehavior;

use crate::cgroup::CgroupView;
use crate::command::{self, Start, Stdio};
use crate::console;
use crate::error::{On, Result};
use crate::namespaces;
use crate::process::{Channel, Message};
use crate::rootfs::enter::{self, Root};
use crate::spec::{Network, Spec};
use crate::volumes::Ready;

/// Everything that the first process needs, prepared by its maker.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    /// What the container is to be.
    pub(crate) spec: &'a Spec,
    /// Where its root filesystem is mounted.
    pub(crate) root: &'a Path,
    /// What is mounted over it.
    pub(crate) mounts: Vec<Ready>,
    /// The cgroup hierarchies to show.
    pub(crate) cgroups: Vec<CgroupView>,
    /// Its standard streams, unless it has a terminal.
    pub(crate) stdio: Option<Stdio>,
    /// Whether this is the initial user namespace, where device nodes can be made.
    pub(crate) own_nodes: bool,
    /// Whether supplementary groups can be set.
    pub(crate) groups_allowed: bool,
}

/// Runs the list. It returns only if that cannot be done, and tells its maker why.
pub(crate) fn run(plan: Plan<'_>, channel: &Channel) -> u8 {
    let Err(failure) = enter_container(plan, channel);
    channel.send_failure(&failure);
    failure.exit_status()
}

fn enter_container(plan: Plan<'_>, channel: &Channel) -> Result<Infallible> {
    let spec = plan.spec;
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).on("prctl", "PR_SET_DUMPABLE")?;
    channel.await_go()?;
    rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::setsid().on("setsid", "the first process")?;
    namespaces::enter_own_cgroup_view()?;
    namespaces::set_hostname(&spec.hostname)?;
    if spec.network == Network::None {
        namespaces::raise_loopback()?;
    }
    let root = Root::open(plan.root)?;
    mount_kernel_filesystems(&root, &plan)?;
    protect_kernel(&root, spec)?;
    for mount in &plan.mounts {
        mount.attach(root.as_fd())?;
    }
    let stdio = match plan.stdio {
        Some(stdio) => stdio,
        None => open_terminal(&root, channel)?,
    };
    if spec.read_only {
        root.make_read_only()?;
    }
    root.switch()?;
    command::execute(&Start {
        process: &spec.process,
        stdio,
        groups_allowed: plan.groups_allowed,
        make_cwd: !spec.read_only,
        die_with_parent: true,
        init: spec.init,
    })
}

fn mount_kernel_filesystems(root: &Root, plan: &Plan<'_>) -> Result<()> {
    let spec = plan.spec;
    root.mount_proc()?;
    root.mount_sys(spec.privileged)?;
    root.mount_cgroups(&plan.cgroups, spec.privileged)?;
    root.mount_dev(plan.own_nodes, spec.shm_size)?;
    if spec.privileged && plan.own_nodes {
        root.add_host_devices()?;
    }
    Ok(())
}

fn protect_kernel(root: &Root, spec: &Spec) -> Result<()> {
    if spec.privileged {
        return Ok(());
    }
    if spec.network == Network::None {
        enter::relax_own_network();
    }
    root.protect_kernel_files()
}

fn open_terminal(root: &Root, channel: &Channel) -> Result<Stdio> {
    let pair = console::open(root.as_fd())?;
    root.bind_console(pair.terminal.as_fd())?;
    console::control(pair.terminal.as_fd())?;
    channel.send(&Message::Console, Some(pair.master.as_fd()))?;
    Stdio::of_terminal(&pair.terminal)
}

/// The files of /etc as binds, for a root directory that is not ours to put a layer under.
pub(crate) fn binds_of_generated(init: &Path) -> Vec<Ready> {
    let bind = |name: &str| Ready::Bind {
        source: init.join("etc").join(name),
        target: PathBuf::from("/etc").join(name),
        options: crate::spec::MountOptions::default(),
    };
    ["hosts", "hostname", "resolv.conf"].into_iter().map(bind).collect()
}
