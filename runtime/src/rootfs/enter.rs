//! The child's side: fills the root filesystem with what the kernel provides, and makes it the root.
//!
//! Every path is resolved below the descriptor of the new root, and places such as `/proc` must be plain directories,
//! so that no link in an image can lead a mount elsewhere.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, RawMode};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_move, unmount};

use crate::cgroup::CgroupView;
use crate::error::{Error, On, Result};
use crate::mounts::{Attr, Detached, Kind, open_plain, set_at};
use crate::tree;

/// The devices that every container has (runtime-spec, config-linux.md, "Default Devices"), by major and minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// The links in /dev.
const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// What no container may read: it tells of the host or can harm it. Docker's and Podman's lists together.
const MASKED: [&str; 13] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/selinux",
];

/// What no container may write.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The new root, not yet entered.
#[derive(Debug)]
pub(crate) struct Root {
    fd: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// The filesystem mounted on `path`.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(CWD, path, flags, Mode::empty()).on("open", path)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    fn place(&self, path: &str) -> Result<OwnedFd> {
        let relative = Path::new(path.trim_start_matches('/'));
        open_plain(self.fd.as_fd(), relative, OFlags::PATH).on("open in the container", path)
    }

    /// Mounts a filesystem on a plain directory, which is made where it is missing.
    fn mount(&self, path: &str, kind: &str, options: &[&str], attr: Attr) -> Result<()> {
        match rustix::fs::mkdirat(&self.fd, path.trim_start_matches('/'), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST | Errno::ROFS | Errno::ACCESS | Errno::PERM) => {}
            Err(errno) => return Err(errno).on("mkdir in the container", path),
        }
        let place = self.place(path)?;
        Detached::filesystem(kind, options, attr)?.attach(place.as_fd())
    }

    /// /proc, of this process's PID namespace.
    pub(crate) fn mount_proc(&self) -> Result<()> {
        self.mount("/proc", "proc", &[], safe())
    }

    /// /sys, read-only unless `writable`.
    ///
    /// A user namespace that does not own its network namespace may not mount one (fs/sysfs/mount.c); it sees the host's.
    pub(crate) fn mount_sys(&self, writable: bool) -> Result<()> {
        let attr = if writable { safe() } else { safe() | Attr::MOUNT_ATTR_RDONLY };
        match self.mount("/sys", "sysfs", &[], attr) {
            Err(error) if error.errno() == Some(libc::EPERM) => {
                let place = self.place("/sys")?;
                Detached::clone_of(Path::new("/sys"))?.set(attr, 0, true)?.attach(place.as_fd())
            }
            mounted => mounted,
        }
    }

    /// The cgroups below /sys/fs/cgroup, read-only unless `writable`. Where the kernel does not allow it the directory stays empty.
    pub(crate) fn mount_cgroups(&self, views: &[CgroupView], writable: bool) -> Result<()> {
        const PLACE: &str = "/sys/fs/cgroup";
        let attr = if writable { safe() } else { safe() | Attr::MOUNT_ATTR_RDONLY };
        if views.is_empty() {
            return Ok(());
        }
        if views.iter().any(|view| view.name.is_some()) {
            self.mount(PLACE, "tmpfs", &["mode=755"], safe())?;
        }
        for view in views {
            let path = view.name.as_ref().map_or_else(|| PLACE.to_owned(), |name| format!("{PLACE}/{name}"));
            let options: Vec<&str> = view.options.iter().map(String::as_str).collect();
            if let Err(error) = self.mount(&path, view.kind, &options, attr) {
                tracing::debug!(%error, path, "this cgroup hierarchy is not shown");
            }
        }
        let place = self.place(PLACE)?;
        set_at(place.as_fd(), Path::new(PLACE), attr)
    }

    /// /dev and what belongs in it. `own_nodes` tells whether device nodes can be made here: not in a user namespace.
    pub(crate) fn mount_dev(&self, own_nodes: bool, shm_size: u64) -> Result<()> {
        let attr = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_STRICTATIME;
        self.mount("/dev", "tmpfs", &["mode=755", "size=65536k"], attr)?;
        let dev = self.place("/dev")?;
        for (name, major, minor) in DEVICES {
            if own_nodes {
                make_node(
                    dev.as_fd(),
                    Path::new(name),
                    FileType::CharacterDevice,
                    rustix::fs::makedev(major, minor),
                )?;
            } else {
                self.bind_node(dev.as_fd(), name)?;
            }
        }
        for (name, target) in LINKS {
            rustix::fs::symlinkat(target, &dev, name).on("symlink /dev/", name)?;
        }
        self.mount_terminals()?;
        self.mount("/dev/shm", "tmpfs", &["mode=1777", &format!("size={shm_size}")], safe())?;
        match self.mount("/dev/mqueue", "mqueue", &[], safe()) {
            // This kernel has no POSIX message queues.
            Err(error) if error.errno() == Some(libc::ENODEV) => {
                rustix::fs::unlinkat(&dev, "mqueue", rustix::fs::AtFlags::REMOVEDIR)
                    .on("rmdir", "/dev/mqueue")
            }
            mounted => mounted,
        }
    }

    /// /dev/pts, with terminals in group 5 (`tty` in every distribution), or no group where that one is not mapped.
    fn mount_terminals(&self) -> Result<()> {
        let attr = Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NOEXEC;
        let options = ["newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
        match self.mount("/dev/pts", "devpts", &options, attr) {
            Err(error) if error.errno() == Some(libc::EINVAL) => {
                self.mount("/dev/pts", "devpts", &options[..3], attr)
            }
            mounted => mounted,
        }
    }

    fn bind_node(&self, dev: BorrowedFd<'_>, name: &str) -> Result<()> {
        let host = Path::new("/dev").join(name);
        let mode = Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(dev, name, FileType::RegularFile, mode, 0).on("create", &host)?;
        let place = self.place(&format!("/dev/{name}"))?;
        Detached::clone_of(&host)?.attach(place.as_fd())
    }

    /// Gives a privileged container every device node of the host.
    pub(crate) fn add_host_devices(&self) -> Result<()> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let host = rustix::fs::openat(CWD, "/dev", flags, Mode::empty()).on("open", "/dev")?;
        let dev = self.place("/dev")?;
        add_devices(host.as_fd(), dev.as_fd(), 0).on("copy the device nodes of", "/dev")
    }

    /// Hides or write-protects the parts of /proc and /sys that are not a container's business.
    pub(crate) fn protect_kernel_files(&self) -> Result<()> {
        let mut empty: Option<&str> = None;
        for path in MASKED {
            let Ok(place) = self.place(path) else { continue };
            if Kind::of(&place).on("stat", path)? == Kind::File {
                let null = self.place("/dev/null")?;
                Detached::clone_at(null, Path::new("/dev/null"))?.attach(place.as_fd())?;
                continue;
            }
            // All share one empty filesystem, which is copied from the first place where it was put.
            match empty {
                None => {
                    let attr = safe() | Attr::MOUNT_ATTR_RDONLY;
                    Detached::filesystem("tmpfs", &["nr_inodes=1", "mode=555"], attr)?
                        .attach(place.as_fd())?;
                    empty = Some(path);
                }
                Some(first) => {
                    Detached::clone_at(self.place(first)?, Path::new(first))?.attach(place.as_fd())?
                }
            }
        }
        for path in READ_ONLY {
            let Ok(place) = self.place(path) else { continue };
            let copy = Detached::clone_at(&place, Path::new(path))?;
            copy.set(safe() | Attr::MOUNT_ATTR_RDONLY, 0, false)?.attach(place.as_fd())?;
        }
        Ok(())
    }

    /// Puts a terminal where programs look for the console.
    pub(crate) fn bind_console(&self, terminal: BorrowedFd<'_>) -> Result<()> {
        let dev = self.place("/dev")?;
        let mode = Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(&dev, "console", FileType::RegularFile, mode, 0).on("create", "/dev/console")?;
        let place = self.place("/dev/console")?;
        Detached::clone_at(terminal, Path::new("terminal"))?.attach(place.as_fd())
    }

    /// Write-protects the root filesystem itself; what is mounted in it stays as it is.
    pub(crate) fn make_read_only(&self) -> Result<()> {
        set_at(self.fd.as_fd(), &self.path, Attr::MOUNT_ATTR_RDONLY)
    }

    /// Makes it the root of this mount namespace and takes the old one away.
    ///
    /// pivot_root(2) cannot leave the initial ramdisk's root, which has no parent mount; there the new root is moved
    /// over the old one and entered with chroot(2).
    pub(crate) fn switch(self) -> Result<()> {
        rustix::process::fchdir(&self.fd).on("chdir", &self.path)?;
        match rustix::process::pivot_root(".", ".") {
            // The old root now lies over the new one, at the same place.
            Ok(()) => unmount(".", UnmountFlags::DETACH).on("umount", "the old root")?,
            Err(Errno::INVAL) => {
                mount_move(".", "/").on("mount --move", &self.path)?;
                rustix::process::chroot(".").on("chroot", &self.path)?;
            }
            Err(errno) => return Err(errno).on("pivot_root", &self.path),
        }
        rustix::process::chdir("/").on("chdir", "/")
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn safe() -> Attr {
    Attr::MOUNT_ATTR_NOSUID | Attr::MOUNT_ATTR_NODEV | Attr::MOUNT_ATTR_NOEXEC
}

fn make_node(dev: BorrowedFd<'_>, name: &Path, kind: FileType, device: u64) -> Result<()> {
    rustix::fs::mknodat(dev, name, kind, Mode::from_raw_mode(0o666), device).on("mknod in /dev:", name)
}

/// Copies device nodes, not what the container has of its own; /dev is seldom deeper than three directories.
fn add_devices(host: BorrowedFd<'_>, dev: BorrowedFd<'_>, depth: usize) -> Result<(), Errno> {
    for name in tree::names(host)? {
        if depth == 0 && matches!(name.to_bytes(), b"pts" | b"shm" | b"mqueue" | b"console" | b"hugepages") {
            continue;
        }
        let stat = rustix::fs::statat(host, &name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_raw_mode(stat.st_mode & RawMode::from(0o7777u16));
        match FileType::from_raw_mode(stat.st_mode) {
            kind @ (FileType::CharacterDevice | FileType::BlockDevice) => {
                match rustix::fs::mknodat(dev, &name, kind, mode, stat.st_rdev) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
            }
            FileType::Directory if depth < 3 => {
                rustix::fs::mkdirat(dev, &name, mode)?;
                add_devices(
                    tree::open_dir(host, &name)?.as_fd(),
                    tree::open_dir(dev, &name)?.as_fd(),
                    depth + 1,
                )?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Lets every user of the container's own network namespace ping and bind low ports, as Docker does.
pub(crate) fn relax_own_network() {
    for (file, value) in [
        ("/proc/sys/net/ipv4/ping_group_range", "0 2147483647"),
        ("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ] {
        if let Err(error) = fs::write(file, value) {
            tracing::debug!(%error, file, "left as it is");
        }
    }
}

/// The file of `path` as text, in the root that this process has; nothing if it cannot be read.
pub(crate) fn read_text(path: &str) -> Result<String> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(Error::System { call: "read", object: path.into(), source: error }),
    }
}
