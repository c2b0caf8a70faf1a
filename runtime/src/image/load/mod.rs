//! Loading images from archives and layouts.

mod docker;
mod oci;
mod platform;
mod source;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::digest::{DiffId, ImageId};
use super::error::{Error, Result};
use super::layer::{self, Expected};
use super::reference::Reference;
use super::session::{Made, NewImage, Session};
use super::store::Store;
pub use platform::Platform;
use source::Source;

/// Where an archive comes from.
pub enum From<'a> {
    /// A file, or the directory of a layout.
    Path(&'a Path),
    /// A stream, with what it is called in errors.
    Stream(&'a mut dyn Read, &'a str),
}

impl std::fmt::Debug for From<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Path(path) => f.debug_tuple("Path").field(path).finish(),
            Self::Stream(_, what) => f.debug_tuple("Stream").field(what).finish_non_exhaustive(),
        }
    }
}

/// How images are to be loaded.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Which to take of images for several platforms; this machine's if not told.
    pub platform: Option<Platform>,
    /// One more name, for the only image there is.
    pub name: Option<Reference>,
}

/// An image that was loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loaded {
    /// Its identity.
    pub id: ImageId,
    /// The names it was given.
    pub names: Vec<Reference>,
}

/// A layer as it lies in an archive.
#[derive(Clone, Debug)]
struct Part {
    path: String,
    expected: Expected,
}

/// An image found in an archive, with a part for each of its layers.
#[derive(Debug)]
struct Found {
    image: NewImage,
    parts: Vec<Part>,
}

impl Store {
    /// Loads all images of a docker-archive or OCI layout; layers that are here already are not read.
    ///
    /// # Errors
    ///
    /// [`Error::NotAnImage`], [`Error::Archive`], [`Error::Mismatch`], [`Error::NoPlatform`] and the like for what is in
    /// the archive, [`Error::Io`] for what the system refuses. Then nothing was added.
    pub fn load(&self, from: From<'_>, options: &LoadOptions) -> Result<Vec<Loaded>> {
        let session = Session::begin(self)?;
        let source = match from {
            From::Path(path) => Source::open(&session, path)?,
            From::Stream(stream, what) => Source::stream(&session, stream, what)?,
        };
        let mut found = self.find(&source, options)?;
        if let Some(name) = &options.name {
            match &mut found[..] {
                [only] => only.image.names.push(name.clone()),
                several => {
                    let rule =
                        format!("it has {} images, and one name cannot be given to all", several.len());
                    return Err(Error::NotAnImage { what: source.what, rule });
                }
            }
        }
        let parts = found
            .iter()
            .flat_map(|found| found.image.layers.iter().copied().zip(found.parts.iter().cloned()));
        let parts: BTreeMap<_, _> = parts.collect();
        let images: Vec<_> = found.into_iter().map(|found| found.image).collect();
        self.install(&session, &source, &parts, &images)?;
        Ok(images.into_iter().map(|image| Loaded { id: image.id, names: image.names }).collect())
    }

    /// The images of the archive. What is both, as Docker writes it since version 25, is read as a layout, since that has
    /// digests for all of its parts.
    fn find(&self, source: &Source, options: &LoadOptions) -> Result<Vec<Found>> {
        if source.has(oci::LAYOUT)? {
            oci::find(source, options.platform.as_ref())
        } else if source.has(docker::MANIFEST)? {
            docker::find(source, options.platform.as_ref())
        } else {
            let rule = format!(
                "it has neither {} nor {}; for the tar of a root filesystem there is `uctr import`",
                oci::LAYOUT,
                docker::MANIFEST
            );
            Err(Error::NotAnImage { what: source.what.clone(), rule })
        }
    }

    /// Unpacks the layers that are missing and adds the images. Another process may remove a layer that was there at first,
    /// so this goes on until all are there at the same moment.
    fn install(
        &self,
        session: &Session<'_>,
        source: &Source,
        parts: &BTreeMap<DiffId, Part>,
        images: &[NewImage],
    ) -> Result<()> {
        let mut made = Made::new();
        let mut missing = self.missing(images)?;
        loop {
            self.unpack_all(source, parts, &missing, session, &mut made)?;
            session.sync()?;
            missing = session.commit(&made, images)?;
            if missing.is_empty() {
                return Ok(());
            }
        }
    }

    /// Unpacks layers, as many at once as there are processors: each is a directory of its own.
    fn unpack_all(
        &self,
        source: &Source,
        parts: &BTreeMap<DiffId, Part>,
        missing: &BTreeSet<DiffId>,
        session: &Session<'_>,
        made: &mut Made,
    ) -> Result<()> {
        let queue: Mutex<VecDeque<DiffId>> = Mutex::new(missing.iter().copied().collect());
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len());
        let work = || -> Result<Vec<DiffId>> {
            let mut done = Vec::new();
            loop {
                // A statement of its own: the lock must be free again while the layer is unpacked.
                let next = lock(&queue).pop_front();
                let Some(id) = next else { return Ok(done) };
                let unpacked = self.unpack_one(source, &parts[&id], id, session);
                // Others end what they have begun, and begin nothing more.
                unpacked.inspect_err(|_| lock(&queue).clear())?;
                done.push(id);
            }
        };
        let results: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
        });
        for result in results {
            let done = result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            made.extend(done.into_iter().map(|id| (id, id.hex())));
        }
        Ok(())
    }

    fn unpack_one(&self, source: &Source, part: &Part, id: DiffId, session: &Session<'_>) -> Result<()> {
        let what: PathBuf = source.named(&part.path);
        let what = what.display().to_string();
        let missing =
            || Error::NotAnImage { what: source.what.clone(), rule: format!("it has no {}", part.path) };
        let (blob, _) = source.part(&part.path)?.ok_or_else(missing)?;
        layer::make(&session.dir, &id.hex(), blob, &what, &part.expected, self.rights).map(drop)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
