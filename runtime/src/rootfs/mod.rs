//! The container's root filesystem: image layers, the init layer, the writable layer, and what makes one of them.
//!
//! `prepare` makes what lies on disk once, when the container is created. `Rootfs::mount` puts it together on
//! `merged`, in the mount namespace of the monitor, so that it is gone with the monitor however that ends.
//! `enter` is the other side: what the container's first process does to live in it.

pub(crate) mod enter;
mod init_layer;
mod overlay;
mod server;

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, unmount};

use crate::error::{Error, On, Result};
use crate::mounts::{Attr, Detached};
use crate::process::Process;
use crate::request::FsKind;
use crate::spec::{Base, Spec};
use crate::tree;
pub(crate) use init_layer::{Shown, list_shown, look_up};
pub use server::{Branches, serve};

/// The directory of a container and what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Directories {
    root: PathBuf,
}

impl Directories {
    /// Those of the container kept in `root`.
    pub(crate) fn of(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// The writable layer.
    pub(crate) fn writable(&self) -> PathBuf {
        self.root.join("diff")
    }

    /// The kernel overlay's scratch.
    pub(crate) fn work(&self) -> PathBuf {
        self.root.join("work")
    }

    /// The init layer.
    pub(crate) fn init(&self) -> PathBuf {
        self.root.join("init")
    }

    /// Where it is put together.
    pub(crate) fn merged(&self) -> PathBuf {
        self.root.join("merged")
    }
}

/// The way that `wanted` comes to on this machine.
///
/// # Errors
///
/// [`Error::Option`] if what was named does not work here.
pub(crate) fn choose(wanted: FsKind) -> Result<FsKind> {
    let refuse = |name: &str, why: String| Error::option("--fs", name, why);
    let device = || File::options().read(true).write(true).open("/dev/fuse").map(drop);
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let overlay = known.lines().any(|line| line.ends_with("\toverlay"));
    match wanted {
        FsKind::Fuse => device().map(|()| FsKind::Fuse).map_err(|error| {
            refuse("fuse", format!("/dev/fuse: {error}; load the module fuse, or use --fs copy"))
        }),
        FsKind::Overlay if overlay => Ok(FsKind::Overlay),
        FsKind::Overlay => {
            Err(refuse("overlay", "this kernel has no overlay filesystem (/proc/filesystems)".into()))
        }
        FsKind::Copy => Ok(FsKind::Copy),
        FsKind::Auto if device().is_ok() => Ok(FsKind::Fuse),
        FsKind::Auto if overlay => Ok(FsKind::Overlay),
        FsKind::Auto => Ok(FsKind::Copy),
    }
}

/// Makes the container's layers. `layers` are the image's, the highest first.
pub(crate) fn prepare(directories: &Directories, spec: &Spec, layers: &[PathBuf], name: &str) -> Result<()> {
    let (writable, init) = (directories.writable(), directories.init());
    for directory in [&writable, &directories.work(), &init, &directories.merged()] {
        fs::create_dir(directory).on("mkdir", directory)?;
    }
    match spec.base {
        // The files of /etc are bound over those of the directory, which is not ours to change.
        Base::Directory(_) => init_layer::make(&init, &writable, &[], spec, name),
        Base::Image | Base::Layer(_) => {
            init_layer::make(&init, &writable, layers, spec, name)?;
            if spec.fs == FsKind::Copy {
                copy_layers(&writable, layers, &init)?;
            }
            if spec.fs == FsKind::Overlay {
                layers.iter().try_for_each(|layer| overlay::readable(layer).map(drop))?;
            }
            Ok(())
        }
    }
}

fn copy_layers(target: &Path, layers: &[PathBuf], init: &Path) -> Result<()> {
    let open = |path: &Path| File::open(path).on("open", path);
    let root = open(target)?;
    for layer in layers.iter().rev().map(PathBuf::as_path).chain([init]) {
        let copy = tree::Copy::into(root.as_fd(), true);
        copy.run(open(layer)?.as_fd()).on("copy the layer", layer)?;
    }
    Ok(())
}

/// A root filesystem put together and mounted.
#[derive(Debug)]
pub(crate) struct Rootfs {
    merged: PathBuf,
    server: Option<server::Server>,
}

impl Rootfs {
    /// Mounts it in this mount namespace, which must be private.
    pub(crate) fn mount(directories: &Directories, spec: &Spec, layers: &[PathBuf]) -> Result<Self> {
        let merged = directories.merged();
        let mut rootfs = Self { merged: merged.clone(), server: None };
        match (&spec.base, spec.fs) {
            (Base::Directory(path), _) => bind(path, &merged)?,
            (_, FsKind::Copy) => bind(&directories.writable(), &merged)?,
            (_, FsKind::Overlay) => overlay::mount(directories, layers)?,
            (_, FsKind::Fuse | FsKind::Auto) => {
                let mut branches = Branches::default();
                branches.push(&directories.writable(), "rw");
                branches.push(&directories.init(), "ro+wh");
                layers.iter().for_each(|layer| branches.push(layer, "ro+wh"));
                rootfs.server =
                    Some(server::Server::start(&merged, &directories.work(), &branches, spec.io)?);
            }
        }
        if !spec.privileged {
            // An image may hold device nodes; those that a container may use are in its own /dev.
            let root = File::open(&merged).on("open", &merged)?;
            crate::mounts::set_at(root.as_fd(), &merged, Attr::MOUNT_ATTR_NODEV)?;
        }
        Ok(rootfs)
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.merged
    }

    /// The process without which it does not work.
    pub(crate) fn server(&self) -> Option<&Process> {
        self.server.as_ref().map(server::Server::process)
    }

    /// Takes it down. The container must be gone.
    pub(crate) fn unmount(self) -> Result<()> {
        let unmounted = unmount(&self.merged, UnmountFlags::DETACH).on("umount", &self.merged);
        let stopped = self.server.map_or(Ok(()), server::Server::stop);
        unmounted.and(stopped)
    }
}

fn bind(source: &Path, target: &Path) -> Result<()> {
    let place = File::open(target).on("open", target)?;
    Detached::clone_of(source)?.attach(place.as_fd())
}
