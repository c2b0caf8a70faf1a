//! `unionfs mount`: from what was typed to a mount that answers.

use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use unionfs::live::Live;
use unionfs::mount::{Access, MountFlags, MountOptions, Unmounter};
use unionfs::union::Udba;
use unionfs::{BranchSpec, Options, Union};

use crate::cli::{MountArgs, MountChoice};

/// What the background process says once the mount answers.
const READY: &[u8] = b"ready\n";

/// Mounts, and serves here (`--foreground`) or in a process of its own.
pub(crate) fn mount(args: &MountArgs) -> anyhow::Result<()> {
    if args.foreground || args.serve { serve(args) } else { in_background() }
}

/// Starts this program again to serve, and returns when the mount answers.
fn in_background() -> anyhow::Result<()> {
    let program = std::env::current_exe().context("/proc/self/exe")?;
    let mut server = Command::new(program)
        .args(std::env::args_os().skip(1))
        .arg("--serve")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
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

fn serve(args: &MountArgs) -> anyhow::Result<()> {
    let choice = MountChoice::parse(&args.options)?;
    let (branches, mountpoint) = places(args, &choice)?;
    let specs = BranchSpec::parse_list(&branches)?;
    let signals = block_signals()?;
    raise_open_files();
    let options = Options {
        format: choice.format,
        workdir: choice.workdir.clone(),
        volatile: choice.volatile,
        read_only: choice.flags.contains(MountFlags::READ_ONLY),
        create: choice.create,
        copyup: choice.copyup,
        min_free: choice.min_free,
        move_on_enospc: choice.move_on_enospc,
        udba: choice.udba,
    };
    let union = Union::new(specs, options)?;
    let mount = mount_options(&choice, &union, mountpoint);
    let server = mount.mount(Arc::new(Live::new(union)))?;
    unmount_on(signals, server.unmounter())?;
    if args.serve {
        detach_from_caller()?;
    }
    Ok(server.run()?)
}

/// The branch list and the mount point, which is the last of what was named.
fn places<'a>(args: &'a MountArgs, choice: &MountChoice) -> anyhow::Result<(OsString, &'a OsStr)> {
    match (args.places.as_slice(), &choice.branches) {
        ([mountpoint] | [_, mountpoint], Some(branches)) => Ok((branches.clone(), mountpoint)),
        ([branches, mountpoint], None) => Ok((branches.clone(), mountpoint)),
        _ => {
            bail!("branches and mount point are needed: write 'unionfs mount A:B MOUNTPOINT', or -o dirs=A:B")
        }
    }
}

fn mount_options(choice: &MountChoice, union: &Union, mountpoint: &OsStr) -> MountOptions {
    let root = rustix::process::geteuid().is_root();
    let everyone = choice.allow_other.unwrap_or(root);
    let mut flags = choice.flags;
    if !union.writable() {
        flags |= MountFlags::READ_ONLY;
    }
    let shown: Vec<_> = union.branches().map(ToString::to_string).collect();
    let source =
        choice.fsname.clone().unwrap_or_else(|| crate::cli::shown_source(OsStr::new(&shown.join(":"))));
    let options = MountOptions::new(mountpoint)
        .fsname(source)
        .access(if everyone { Access::Everyone } else { Access::Owner })
        .flags(flags)
        .default_permissions(choice.default_permissions.unwrap_or(true))
        .writeback(choice.writeback)
        .io(choice.io)
        .transport(choice.transport)
        .acl(!choice.no_acl)
        .xattrs(!choice.no_xattrs)
        .durable(!choice.volatile)
        .outside_changes(choice.udba != Udba::None)
        .timeout(if choice.udba == Udba::Reval { Some(Duration::ZERO) } else { choice.timeout });
    match choice.threads {
        Some(threads) => options.threads(threads),
        None => options,
    }
}

/// Signals that mean "unmount" are waited for by one thread; all others, started later, inherit the mask.
fn block_signals() -> anyhow::Result<SigSet> {
    let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
    signals.thread_block().context("sigprocmask")?;
    Ok(signals)
}

fn unmount_on(signals: SigSet, unmounter: Unmounter) -> anyhow::Result<()> {
    let wait = move || {
        while signals.wait().is_ok() {
            // Whoever still has files open keeps them; nobody new gets in.
            if unmounter.unmount().or_else(|_| unmounter.detach()).is_ok() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(wait).context("cannot start a thread")?;
    Ok(())
}

/// The mount answers: tells the waiting caller, and keeps nothing of its terminal or directory.
fn detach_from_caller() -> anyhow::Result<()> {
    rustix::process::setsid().ok();
    std::env::set_current_dir("/").context("chdir")?;
    let mut out = std::io::stdout();
    out.write_all(READY).and_then(|()| out.flush()).context("standard output")?;
    let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").context("/dev/null")?;
    rustix::stdio::dup2_stdin(&null).context("dup2")?;
    rustix::stdio::dup2_stderr(&null).context("dup2")?;
    rustix::stdio::dup2_stdout(&null).context("dup2")
}

/// As many open files as may be: directories and files are kept open while they are used.
fn raise_open_files() {
    let now = getrlimit(Resource::Nofile);
    // With fewer the caches are smaller, and all else is the same.
    setrlimit(Resource::Nofile, Rlimit { current: now.maximum, maximum: now.maximum }).unwrap_or_default();
}
