//! Making a container: everything on disk, nothing running.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::rand::{GetRandomFlags, getrandom};

use super::{CONFIG, Config, Container};
use crate::clock;
use crate::error::{Error, On, Result};
use crate::paths::Paths;
use crate::request::Request;
use crate::rootfs;
use crate::rootless;
use crate::spec::mount::{NAME_RULE, is_name};
use crate::spec::{Base, Host, ImageDefaults, Source, Spec};
use crate::state::{Lock, write_json};
use crate::volumes::Volume;

/// The file that reserves a container's name before it is one.
const NAME: &str = "name";

/// An image, as far as a container is concerned.
#[derive(Clone, Debug, Default)]
pub struct ImageSource {
    /// Its identifier.
    pub id: String,
    /// As the user named it.
    pub name: String,
    /// What it says about running it.
    pub defaults: ImageDefaults,
    /// Its layers, the highest first.
    pub layers: Vec<PathBuf>,
}

/// Makes the container that `request` asks for. `image` is empty with `--rootfs`.
///
/// # Errors
///
/// [`Error::Option`] before anything was made; anything else leaves nothing behind.
pub fn create(paths: &Paths, request: &Request, image: &ImageSource, host: &Host) -> Result<Container> {
    let id = new_id()?;
    let mut spec = Spec::new(request, &image.defaults, &id, host)?;
    spec.fs = rootfs::choose(request.fs)?;
    let name = name(request, &id)?;
    let layers = match &spec.base {
        Base::Layer(path) => vec![path.clone()],
        Base::Image | Base::Directory(_) => image.layers.clone(),
    };
    let config = Config {
        id,
        name,
        created: clock::now(),
        image_id: image.id.clone(),
        image: image.name.clone(),
        layers,
        anonymous: Vec::new(),
        spec,
    };
    let container = Container { paths: paths.clone(), config };
    let lock = container.reserve()?;
    let made = container.make(request);
    drop(lock);
    made
}

impl Container {
    /// Takes the name and makes the directory, under the store's lock; nothing else can take long there.
    fn reserve(&self) -> Result<Lock> {
        let store = Lock::wait_for_store(self.paths.run())?;
        sweep(&self.paths)?;
        for entry in fs::read_dir(self.paths.containers()).into_iter().flatten().flatten() {
            if fs::read(entry.path().join(NAME)).is_ok_and(|name| name == self.config.name.as_bytes()) {
                let why =
                    format!("is the name of container {}; remove that first", entry.file_name().display());
                return Err(Error::option("--name", &self.config.name, why));
            }
        }
        let lock = Lock::try_take(&self.run_dir())?
            .ok_or_else(|| Error::State(format!("container {} is there already", self.config.id)))?;
        fs::create_dir_all(self.dir()).on("mkdir", self.dir())?;
        fs::write(self.dir().join(NAME), &self.config.name).on("write", self.dir().join(NAME))?;
        drop(store);
        Ok(lock)
    }

    fn make(mut self, request: &Request) -> Result<Self> {
        let made = self.make_parts(request);
        if made.is_err() {
            // The first failure is what the user is told.
            self.clean(true)
                .unwrap_or_else(|error| tracing::warn!(%error, "a part of the container is left"));
        }
        made.map(|()| self)
    }

    fn make_parts(&mut self, request: &Request) -> Result<()> {
        for mount in &mut self.config.spec.mounts {
            match &mount.source {
                Source::Anonymous => {
                    let volume = Volume::create(&self.paths, &new_id()?)?;
                    self.config.anonymous.push(volume.name.clone());
                    mount.source = Source::Volume(volume.name);
                }
                Source::Volume(name) => drop(Volume::create(&self.paths, name)?),
                Source::Host(_) | Source::Tmpfs(_) => {}
            }
        }
        let (directories, config) = (self.directories(), &self.config);
        rootless::as_root(|| rootfs::prepare(&directories, &config.spec, &config.layers, &config.name))?;
        if let Some(file) = &request.cidfile {
            let write = || {
                use std::io::Write;
                fs::File::create_new(file)?.write_all(self.config.id.as_bytes())
            };
            write().map_err(|error| Error::option("--cidfile", file, error.to_string()))?;
        }
        write_json(&self.dir().join(CONFIG), &self.config)
    }
}

/// Removes what a killed uctr was making or removing: directories that are no containers and that nobody has locked.
fn sweep(paths: &Paths) -> Result<()> {
    let names = |directory: &Path| fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in names(&paths.containers()).chain(names(paths.run())) {
        let (directory, run) =
            (paths.containers().join(entry.file_name()), paths.run().join(entry.file_name()));
        if directory.join(CONFIG).exists() || !is_id(&entry.file_name()) {
            continue;
        }
        match Lock::try_existing(&run) {
            Ok(None) => {} // at work
            // Whoever made it has finished since it was looked at.
            Ok(Some(_lock)) if directory.join(CONFIG).exists() => {}
            Ok(Some(lock)) => {
                rootless::as_root(|| remove_directories([&directory, &run]))?;
                drop(lock);
            }
            // The lock goes after the container's directory, so what is left here is nobody's: after a restart of the
            // machine, or when a removal is at its last step.
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                rootless::as_root(|| remove_directories([&directory]))?;
                if let Err(error) = fs::remove_dir(&run) {
                    tracing::debug!(%error, ?run, "left to whoever removes it");
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes directories with all that is in them; one that is not there is nothing to do.
pub(super) fn remove_directories<'a>(directories: impl IntoIterator<Item = &'a PathBuf>) -> Result<()> {
    for directory in directories {
        match fs::remove_dir_all(directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            removed => removed.on("remove", directory)?,
        }
    }
    Ok(())
}

fn name(request: &Request, id: &str) -> Result<String> {
    match &request.name {
        None => Ok(format!("uctr-{}", &id[..8])),
        Some(name) if is_name(name) => Ok(name.clone()),
        Some(name) => Err(Error::option("--name", name, format!("is not a name: {NAME_RULE}"))),
    }
}

/// Whether a directory of this name is a container's.
fn is_id(name: &OsStr) -> bool {
    name.len() == 64 && name.as_encoded_bytes().iter().all(u8::is_ascii_hexdigit)
}

/// 64 random hexadecimal digits: a new identifier.
///
/// # Errors
///
/// If the kernel has no randomness yet.
pub fn new_id() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom(&mut bytes, GetRandomFlags::empty()).on("getrandom", "a new identifier")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
