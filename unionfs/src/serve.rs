//! From a plan to a mount that answers.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};
use unionfs::live::Live;
use unionfs::mount::{Access, MountFlags, MountOptions, Unmounter};
use unionfs::union::Udba;
use unionfs::{Format, Options, OverrideStat, Union};

use crate::checks;
use crate::cli::MountPlan;

/// The first argument of the process that serves in the background.
pub(crate) const SERVE: &str = "--serve";
/// What the background process says once the mount answers.
const READY: &[u8] = b"ready\n";
/// Callers of fuse-overlayfs set this to have no device whiteouts written.
const NO_DEVICE_WHITEOUTS: &str = "FUSE_OVERLAYFS_DISABLE_OVL_WHITEOUT";

/// Starts this program again to serve, and returns when the mount answers.
///
/// The background process has the caller's standard error until then, so that whoever waits for its end hears all
/// there is to hear and is not kept waiting (containers/storage reads it to the end).
pub(crate) fn in_background(argv: &[OsString]) -> anyhow::Result<()> {
    let program = std::env::current_exe().context("/proc/self/exe")?;
    // A lock or a pipe of the caller's must not stay open for as long as the mount lasts.
    unionfs::inherit_only_stdio();
    let mut server = Command::new(program)
        .arg0(argv.first().map_or_else(|| "unionfs".as_ref(), OsString::as_os_str))
        .arg(SERVE)
        .args(argv.iter().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start the server process")?;
    let mut said = Vec::new();
    if let Some(mut out) = server.stdout.take() {
        out.read_to_end(&mut said).context("cannot hear from the server process")?;
    }
    if said == READY {
        return Ok(());
    }
    // It has said why on standard error.
    let status = server.wait().context("cannot wait for the server process")?;
    std::process::exit(status.code().filter(|&code| code != 0).unwrap_or(1));
}

/// Mounts and serves in this process; `background` tells that somebody waits to hear that the mount answers.
pub(crate) fn serve(plan: &MountPlan, background: bool) -> anyhow::Result<()> {
    if background {
        // A key pressed at the caller's terminal is not for the server.
        rustix::process::setsid().context("setsid")?;
    }
    checks::check(plan)?;
    let signals = block_signals()?;
    unionfs::raise_open_files(plan.choice.max_files);
    let options = options(plan);
    let format = options.format;
    let union = Union::new(plan.branches.clone(), options)?;
    if let (Format::Overlay, true, Some(upper)) = (format, plan.overlay, plan.upper()) {
        Format::remember_overlay(&upper.path);
    }
    let mount = mount_options(plan, &union);
    let server = mount.mount(Arc::new(Live::new(union)))?;
    wait_for_signals(signals, server.unmounter())?;
    if background {
        detach_from_caller()?;
    }
    Ok(server.run()?)
}

fn options(plan: &MountPlan) -> Options {
    let choice = &plan.choice;
    Options {
        format: choice.format.unwrap_or_else(|| default_format(plan)),
        workdir: choice.workdir.clone().filter(|_| plan.branches.iter().any(|spec| spec.perm.writable())),
        volatile: choice.volatile,
        read_only: plan.read_only(),
        create: choice.create,
        copyup: choice.copyup,
        min_free: choice.min_free,
        move_on_enospc: choice.move_on_enospc,
        udba: outside(plan),
        no_acl: choice.no_acl,
        ids: choice.ids.clone(),
        override_stat: choice.override_stat.unwrap_or_else(|| default_override(plan)),
        metacopy: choice.metacopy,
        ino32: choice.ino32,
    }
}

/// The kernel's format where the upper directory can hold it and came by kernel overlay's words, so that the kernel
/// can mount it another time; else aufs's.
fn default_format(plan: &MountPlan) -> Format {
    match &plan.choice.workdir {
        Some(workdir) if plan.overlay && std::env::var_os(NO_DEVICE_WHITEOUTS).is_none() => {
            plan.upper().map_or(Format::Aufs, |upper| Format::that_fits(&upper.path, workdir))
        }
        _ => Format::Aufs,
    }
}

/// Layers that podman's `force_mask` made are read as what they stand for where they come by overlay's words.
const fn default_override(plan: &MountPlan) -> OverrideStat {
    if plan.overlay { OverrideStat::Read } else { OverrideStat::Off }
}

/// Who wants nothing to be remembered has branches that change behind the union's back.
fn outside(plan: &MountPlan) -> Udba {
    match plan.choice.udba {
        Udba::None if plan.choice.timeout == Some(Duration::ZERO) => Udba::Reval,
        udba => udba,
    }
}

fn mount_options(plan: &MountPlan, union: &Union) -> MountOptions {
    let choice = &plan.choice;
    let everyone = choice.allow_other.unwrap_or_else(|| rustix::process::geteuid().is_root());
    let mut flags = choice.flags;
    if !union.writable() {
        flags |= MountFlags::READ_ONLY;
    }
    let options = MountOptions::new(&plan.mountpoint)
        .fsname(plan.shown_source(union.branches()))
        .subtype(&plan.subtype)
        .access(if everyone { Access::Everyone } else { Access::Owner })
        .flags(flags)
        .default_permissions(choice.default_permissions.unwrap_or(true))
        .writeback(choice.writeback)
        .io(choice.io)
        .transport(choice.transport)
        // The attribute in the mode's place cannot follow a list.
        .acl(!choice.no_acl && !choice.writes_override())
        .xattrs(!choice.no_xattrs)
        .durable(!choice.volatile)
        .outside_changes(outside(plan) != Udba::None)
        .timeout(if outside(plan) == Udba::Reval { Some(Duration::ZERO) } else { choice.timeout });
    match choice.threads {
        Some(threads) => options.threads(threads),
        None => options,
    }
}

/// Signals are waited for by one thread; all others, started later, inherit the mask.
fn block_signals() -> anyhow::Result<SigSet> {
    let signals: SigSet =
        [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect();
    signals.thread_block().context("sigprocmask")?;
    Ok(signals)
}

/// SIGUSR1, by which fuse-overlayfs is asked for numbers, must do no harm ('unionfs stats' has them); all others
/// unmount.
fn wait_for_signals(signals: SigSet, unmounter: Unmounter) -> anyhow::Result<()> {
    let wait = move || {
        while let Ok(signal) = signals.wait() {
            // Whoever still has files open keeps them; nobody new gets in.
            if signal != Signal::SIGUSR1 && unmounter.unmount().or_else(|_| unmounter.detach()).is_ok() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// The mount answers: tells the waiting caller, and keeps nothing of what it stands on.
fn detach_from_caller() -> anyhow::Result<()> {
    std::env::set_current_dir("/").context("chdir")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("dup2")?;
    rustix::stdio::dup2_stderr(&null).context("dup2")?;
    let mut out = std::io::stdout();
    out.write_all(READY).and_then(|()| out.flush()).context("standard output")?;
    rustix::stdio::dup2_stdout(&null).context("dup2")
}
