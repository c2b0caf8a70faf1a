//! Volumes: directories of the store that outlive containers, and everything that is mounted over a root filesystem.

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::io::Errno;

use crate::error::{Error, On, Result};
use crate::mounts::{Attr, Detached, Kind, ensure_in_root, open_in_root};
use crate::paths::Paths;
use crate::spec::mount::{NAME_RULE, is_name};
use crate::spec::{Mount, MountOptions, Source};
use crate::tree;

/// A volume of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its name; for an anonymous one 64 hexadecimal digits.
    pub name: String,
    /// Its content.
    pub data: PathBuf,
}

impl Volume {
    /// The volume of this name, made if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] if it is no name.
    pub fn create(paths: &Paths, name: &str) -> Result<Self> {
        if !is_name(name) {
            return Err(Error::option("volume", name, format!("is not a name: {NAME_RULE}")));
        }
        let volume = Self::at(paths, name);
        match fs::create_dir_all(&volume.data) {
            Ok(()) => Ok(volume),
            Err(error) => Err(error).on("mkdir", &volume.data),
        }
    }

    fn at(paths: &Paths, name: &str) -> Self {
        Self { name: name.to_owned(), data: paths.volumes().join(name).join("_data") }
    }

    /// The volume of this name.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`].
    pub fn find(paths: &Paths, name: &str) -> Result<Self> {
        let volume = Self::at(paths, name);
        if is_name(name) && volume.data.is_dir() {
            return Ok(volume);
        }
        Err(Error::Absent { kind: "volume", name: name.to_owned() })
    }

    /// All volumes, by name.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn list(paths: &Paths) -> Result<Vec<Self>> {
        let directory = paths.volumes();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.on("read", &directory)?,
        };
        let mut volumes = Vec::new();
        for entry in entries {
            if let Some(name) = entry.on("read", &directory)?.file_name().to_str() {
                volumes.push(Self::at(paths, name));
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Removes it with its content. That no container uses it is for the caller to know.
    ///
    /// # Errors
    ///
    /// If a part of it cannot be removed.
    pub fn remove(self) -> Result<()> {
        let directory = self.data.parent().unwrap_or(&self.data);
        fs::remove_dir_all(directory).on("remove the volume", directory)
    }

    /// When it was made, or changed last, in seconds since the epoch.
    pub fn created(&self) -> Option<u64> {
        let modified = fs::metadata(self.data.parent()?).ok()?.modified().ok()?;
        modified.duration_since(std::time::UNIX_EPOCH).ok().map(|since| since.as_secs())
    }
}

/// Something to be mounted, with its source as a path of the host.
#[derive(Clone, Debug)]
pub(crate) enum Ready {
    /// A path bound to its target.
    Bind {
        /// On the host.
        source: PathBuf,
        /// In the container.
        target: PathBuf,
        /// How.
        options: MountOptions,
    },
    /// A tmpfs.
    Tmpfs {
        /// In the container.
        target: PathBuf,
        /// Options of tmpfs(5).
        data: Vec<String>,
        /// How.
        options: MountOptions,
    },
}

impl Ready {
    /// What `mount` comes to in this store.
    pub(crate) fn of(paths: &Paths, mount: &Mount) -> Result<Self> {
        let (target, options) = (mount.target.clone(), mount.options);
        match &mount.source {
            Source::Tmpfs(data) => Ok(Self::Tmpfs { target, data: data.clone(), options }),
            Source::Host(source) => Ok(Self::Bind { source: source.clone(), target, options }),
            Source::Volume(name) => {
                Ok(Self::Bind { source: Volume::find(paths, name)?.data, target, options })
            }
            Source::Anonymous => Err(Error::State("an anonymous volume was never made".into())),
        }
    }

    /// Mounts it below `root`. Where the target is missing it is made, so `root` must be writable still.
    pub(crate) fn attach(&self, root: BorrowedFd<'_>) -> Result<()> {
        match self {
            Self::Bind { source, target, options } => {
                let copy = if options.flat {
                    let place = File::options().read(true).open(source).on("open", source)?;
                    Detached::clone_at(place, source)?
                } else {
                    Detached::clone_of(source)?
                };
                let kind = Kind::of(copy.as_fd()).on("stat", source)?;
                let propagation = if options.slave { libc::MS_SLAVE } else { libc::MS_PRIVATE };
                let copy = copy.set(attributes(*options), propagation, !options.flat)?;
                copy.attach(ensure(root, target, kind)?.as_fd())
            }
            Self::Tmpfs { target, data, options } => {
                let data: Vec<&str> = data.iter().map(String::as_str).collect();
                let tmpfs = Detached::filesystem("tmpfs", &data, attributes(*options))?;
                tmpfs.attach(ensure(root, target, Kind::Directory)?.as_fd())
            }
        }
    }
}

fn ensure(root: BorrowedFd<'_>, target: &Path, kind: Kind) -> Result<rustix::fd::OwnedFd> {
    ensure_in_root(root, target, kind).on("make the mount point in the container", target)
}

fn attributes(options: MountOptions) -> Attr {
    let mut attr = Attr::empty();
    attr.set(Attr::MOUNT_ATTR_RDONLY, options.read_only);
    attr.set(Attr::MOUNT_ATTR_NOSUID, options.nosuid);
    attr.set(Attr::MOUNT_ATTR_NODEV, options.nodev);
    attr.set(Attr::MOUNT_ATTR_NOEXEC, options.noexec);
    attr
}

/// Fills the volumes of `mounts` that are still empty with what the root filesystem has at their targets, owner and
/// mode of the directory included.
pub(crate) fn seed(paths: &Paths, root: BorrowedFd<'_>, mounts: &[Mount]) -> Result<()> {
    for mount in mounts {
        if let Source::Volume(name) = &mount.source
            && !mount.options.no_copy
        {
            let volume = Volume::find(paths, name)?;
            seed_one(root, &mount.target, &volume.data)?;
        }
    }
    Ok(())
}

fn seed_one(root: BorrowedFd<'_>, target: &Path, data: &Path) -> Result<()> {
    let source = match open_in_root(root, target, OFlags::DIRECTORY | OFlags::RDONLY) {
        // The image has nothing there that a volume could begin with.
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
        opened => opened.on("open in the container", target)?,
    };
    let volume = File::open(data).on("open", data)?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&volume, FlockOperation::LockExclusive))
        .on("flock", data)?;
    if !tree::names(&volume).on("read", data)?.is_empty() {
        return Ok(());
    }
    tree::Copy::into(volume.as_fd(), false).run(source.as_fd()).on("fill the volume", data)
}
