//! Containers of the store: what each is, and where it is in its life.

mod create;
mod diff;
mod end;
mod exec;
mod inspect;
mod run;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use create::remove_directories;

use crate::error::{Error, On, Result};
use crate::paths::Paths;
use crate::rootfs::Directories;
use crate::spec::Spec;
use crate::state::{Lock, State, read_json};

pub use crate::request::ExecRequest;
pub use create::{ImageSource, create, new_id};
pub use diff::{Change, diff};
pub use end::{Removal, kill, remove, stop, wait};
pub use exec::exec;
pub use inspect::inspect;
pub use run::{Attend, Outcome, start};

/// The file that makes a directory a container; it is written last and removed first.
const CONFIG: &str = "config.json";

/// What was decided when the container was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Its name, which no other container has.
    pub name: String,
    /// When it was created, in RFC 3339.
    pub created: String,
    /// The image's identifier; empty for a root directory.
    pub image_id: String,
    /// The image as it was named.
    pub image: String,
    /// The image's layers, the highest first.
    pub layers: Vec<PathBuf>,
    /// The volumes that are removed with it if that is asked for.
    pub anonymous: Vec<String>,
    /// Everything else.
    pub spec: Spec,
}

/// A container of the store.
#[derive(Clone, Debug)]
pub struct Container {
    paths: Paths,
    config: Config,
}

impl Container {
    /// What it was created as.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where it is in its life.
    ///
    /// # Errors
    ///
    /// If its state cannot be read.
    pub fn state(&self) -> Result<State> {
        State::load(&self.run_dir())
    }

    /// Its output so far (see [`crate::log::Entry`]).
    pub fn log_path(&self) -> PathBuf {
        self.dir().join("log")
    }

    fn dir(&self) -> PathBuf {
        self.paths.containers().join(&self.config.id)
    }

    /// The directory of its state, which changes when its state does.
    pub fn state_dir(&self) -> PathBuf {
        self.run_dir()
    }

    fn run_dir(&self) -> PathBuf {
        self.paths.run().join(&self.config.id)
    }

    fn directories(&self) -> Directories {
        Directories::of(&self.dir())
    }

    /// The right to change it.
    fn lock(&self, act: &str) -> Result<Lock> {
        let name = &self.config.name;
        let lock = self
            .lock_unless_running()?
            .ok_or_else(|| Error::State(format!("cannot {act} container {name}: it is running")))?;
        if !self.dir().join(CONFIG).exists() {
            // It was removed since it was found.
            remove_directories(&[self.run_dir()])?;
            return Err(Error::Absent { kind: "container", name: name.clone() });
        }
        Ok(lock)
    }

    /// Its lock; `None` if it runs. Who has the lock and no monitor is making it, looking at it or removing it.
    fn lock_unless_running(&self) -> Result<Option<Lock>> {
        let start = Instant::now();
        loop {
            let lock = Lock::try_take(&self.run_dir())?;
            if lock.is_some() || self.state()?.monitor.is_some() || start.elapsed() > end::PATIENCE {
                return Ok(lock);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All containers, the newest first. One that is just being made or removed is not among them.
    ///
    /// # Errors
    ///
    /// If the store cannot be read.
    pub fn list(paths: &Paths) -> Result<Vec<Self>> {
        let directory = paths.containers();
        let entries = match fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.on("read", &directory)?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let path = entry.on("read", &directory)?.path().join(CONFIG);
            match read_json::<Config>(&path) {
                Ok(config) => containers.push(Self { paths: paths.clone(), config }),
                Err(Error::System { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        containers.sort_by(|a, b| b.config.created.cmp(&a.config.created));
        Ok(containers)
    }

    /// The container with this name, identifier, or beginning of an identifier.
    ///
    /// # Errors
    ///
    /// [`Error::Absent`], or [`Error::State`] if several identifiers begin so.
    pub fn find(paths: &Paths, word: &str) -> Result<Self> {
        let containers = Self::list(paths)?;
        let exact = |container: &&Self| container.config.name == word || container.config.id == word;
        if let Some(found) = containers.iter().find(exact) {
            return Ok(found.clone());
        }
        let mut begins = containers.into_iter().filter(|container| container.config.id.starts_with(word));
        match (begins.next().filter(|_| !word.is_empty()), begins.next()) {
            (None, _) => Err(Error::Absent { kind: "container", name: word.to_owned() }),
            (Some(found), None) => Ok(found),
            (Some(_), Some(_)) => {
                Err(Error::State(format!("several containers' identifiers begin with {word}")))
            }
        }
    }
}
