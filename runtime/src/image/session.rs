//! Bringing images into the store: all in a directory of one's own first, then by renames under the lock.
//!
//! A session is a directory below `tmp/`, locked by flock(2) while its process lives. One that is not locked belongs to
//! nobody and is removed when a store is next opened. So a load that is killed leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self as rfs, FlockOperation, RenameFlags};
use rustix::io::Errno;

use super::digest::{DiffId, ImageId};
use super::error::{Error, Result};
use super::reference::Reference;
use super::store::Store;
use super::tree;

/// An image about to enter the store.
#[derive(Clone, Debug)]
pub(super) struct NewImage {
    /// Its identity: the digest of `config`.
    pub(super) id: ImageId,
    /// Its configuration, byte for byte.
    pub(super) config: Vec<u8>,
    /// The manifest it came with, byte for byte.
    pub(super) manifest: Option<Vec<u8>>,
    /// The names it is to have.
    pub(super) names: Vec<Reference>,
    /// The layers it needs.
    pub(super) layers: Vec<DiffId>,
}

/// Layers that were unpacked in a session: each with the name of its directory.
pub(super) type Made = BTreeMap<DiffId, String>;

/// A directory of one's own on the store's filesystem, removed when dropped.
#[derive(Debug)]
pub(super) struct Session<'a> {
    store: &'a Store,
    name: String,
    /// The directory; its lock tells others that it is in use.
    pub(super) dir: OwnedFd,
}

impl<'a> Session<'a> {
    /// Begins a session.
    pub(super) fn begin(store: &'a Store) -> Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        // Between mkdir and flock nobody may sweep.
        let _lock = store.lock(FlockOperation::LockShared)?;
        loop {
            let name = format!("{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
            let cannot = |errno| Error::os("cannot make", store.path.join("tmp").join(&name))(errno);
            let dir = match tree::make_dir(&store.tmp, &name) {
                // A process of this number was killed.
                Err(Errno::EXIST) => continue,
                made => made.map_err(cannot)?,
            };
            rfs::flock(&dir, FlockOperation::NonBlockingLockExclusive).map_err(cannot)?;
            return Ok(Self { store, name, dir });
        }
    }

    /// Has all that was written reach the disk, so that no name can survive a crash that its content did not.
    pub(super) fn sync(&self) -> Result<()> {
        rfs::syncfs(&self.dir).map_err(Error::os("cannot write to disk", &self.store.path))
    }

    /// Moves layers and images into the store if that makes the images whole, or else tells which layers they lack: those
    /// that were there when they were looked for, and were removed since.
    pub(super) fn commit(&self, made: &Made, images: &[NewImage]) -> Result<BTreeSet<DiffId>> {
        let _lock = self.store.lock(FlockOperation::LockExclusive)?;
        let mut missing = self.store.missing(images)?;
        missing.retain(|id| !made.contains_key(id));
        if !missing.is_empty() {
            return Ok(missing);
        }
        let cannot = |errno| Error::os("cannot move a layer to", self.store.path.join("layers"))(errno);
        for (id, name) in made {
            match rfs::renameat_with(&self.dir, name, &self.store.layers, id.hex(), RenameFlags::NOREPLACE) {
                // Another session made the same.
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(cannot(errno)),
            }
        }
        rfs::fsync(&self.store.layers).map_err(cannot)?;
        images.iter().try_for_each(|image| self.add_image(image))?;
        rfs::fsync(&self.store.images).map_err(cannot)?;
        let mut names = self.store.names()?;
        let named =
            |image: &NewImage| image.names.iter().map(|name| (name.clone(), image.id)).collect::<Vec<_>>();
        names.extend(images.iter().flat_map(named));
        self.store.write_names(&names)?;
        Ok(BTreeSet::new())
    }

    fn add_image(&self, image: &NewImage) -> Result<()> {
        let path = self.store.path.join("images").join(image.id.hex());
        let cannot = |errno| Error::os("cannot make", &path)(errno);
        // It may have been to go; now it is wanted again.
        self.store.pardon(image.id)?;
        if self.store.config_text(image.id).is_ok() {
            return Ok(());
        }
        // What is there is damaged, or nothing is.
        tree::remove_tree(&self.store.images, image.id.hex().as_bytes()).map_err(cannot)?;
        let name = format!("image-{}", image.id.hex());
        let dir = tree::make_dir(&self.dir, &name).map_err(cannot)?;
        tree::write_file(&dir, "config.json", &image.config).map_err(Error::io("cannot make", &path))?;
        if let Some(manifest) = &image.manifest {
            tree::write_file(&dir, "manifest.json", manifest).map_err(Error::io("cannot make", &path))?;
        }
        rfs::fsync(&dir).map_err(cannot)?;
        rfs::renameat(&self.dir, name, &self.store.images, image.id.hex()).map_err(cannot)
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if let Err(error) = tree::remove_tree(&self.store.tmp, self.name.as_bytes()) {
            tracing::warn!(%error, session = self.name, "left in tmp/ until the store is next opened");
        }
    }
}

impl Store {
    /// The layers that these images need and the store has not.
    pub(super) fn missing(&self, images: &[NewImage]) -> Result<BTreeSet<DiffId>> {
        let mut missing = BTreeSet::new();
        for &id in images.iter().flat_map(|image| &image.layers) {
            if !tree::exists(&self.layers, id.hex())
                .map_err(Error::os("cannot look at", self.layer_path(id)))?
            {
                missing.insert(id);
            }
        }
        Ok(missing)
    }

    /// Removes what was left: the directories of sessions whose process is gone, and images whose containers are. If
    /// others are at work, they or the next one will.
    pub(super) fn sweep(&self) -> Result<()> {
        self.sweep_sessions()?;
        for id in self.condemned()? {
            if self.containers_of(id)?.is_empty() {
                return self.collect().map(drop);
            }
        }
        Ok(())
    }

    fn sweep_sessions(&self) -> Result<()> {
        let cannot = |errno| Error::os("cannot clean", self.path.join("tmp"))(errno);
        if tree::list(&self.tmp).map_err(cannot)?.is_empty() {
            return Ok(());
        }
        let mut dead = Vec::new();
        match self.lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(_lock) => {
                for (name, _) in tree::list(&self.tmp).map_err(cannot)? {
                    let Ok(dir) = tree::open_dir(&self.tmp, tree::os(&name)) else { continue };
                    if rfs::flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                        dead.push((name, dir));
                    }
                }
            }
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // They are ours now, by their locks; removing may take long.
        dead.iter().try_for_each(|(name, _dir)| tree::remove_tree(&self.tmp, name).map_err(cannot))
    }
}
