//! Removing names, images, and the layers that no image needs any more.

use std::collections::BTreeSet;

use rustix::fs::{self as rfs, AtFlags, FlockOperation};
use rustix::io::Errno;
use serde::Deserialize;

use super::digest::{DiffId, ImageId};
use super::error::{Error, Result};
use super::reference::Reference;
use super::session::Session;
use super::store::{Names, Store, digest_named, names_of};
use super::tree;

/// The directory of marks.
const CONDEMNED: &str = "condemned";

/// What a removal did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// A name was taken away.
    Untagged(Reference),
    /// An image is gone.
    Image(ImageId),
    /// A layer is gone.
    Layer(DiffId),
    /// An image will go with its last container; until then it stays without a name.
    Condemned(ImageId),
}

/// What is read of a container's `config.json`.
#[derive(Deserialize)]
struct ContainerRecord {
    image_id: Option<String>,
}

impl Store {
    /// Removes a name, and with its last name the image and what of its layers no other image needs. By identity, an
    /// image goes with its only name; `force` removes several, and lets containers keep what they stand on for as long
    /// as they are there.
    ///
    /// # Errors
    ///
    /// [`Error::NoImage`], [`Error::InUse`] and [`Error::ManyNames`] without `force`, [`Error::Io`].
    pub fn remove(&self, given: &str, force: bool) -> Result<Vec<Removed>> {
        let session = Session::begin(self)?;
        let lock = self.lock(FlockOperation::LockExclusive)?;
        let mut names = self.names()?;
        let id = self.identify(given, &names)?;
        let going = self.names_going(given, id, &names, force)?;
        let mut removed: Vec<_> = going.iter().cloned().map(Removed::Untagged).collect();
        let last = going.len() == names_of(id, &names).len();
        if last && !force {
            let containers = self.containers_of(id)?;
            if !containers.is_empty() {
                let containers = containers.iter().map(|id| id.chars().take(12).collect()).collect();
                return Err(Error::InUse { image: given.to_owned(), containers });
            }
        }
        names.retain(|name, _| !going.contains(name));
        self.write_names(&names)?;
        if last {
            self.condemn(id)?;
        }
        removed.extend(self.collect_into(&session)?);
        if last && !removed.contains(&Removed::Image(id)) {
            removed.push(Removed::Condemned(id));
        }
        drop(lock);
        Ok(removed)
    }

    /// Removes the images that a forced removal left to their containers, where these are gone now, and all layers that
    /// no image needs. Opening the store does it too.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the store cannot be read or changed.
    pub fn collect(&self) -> Result<Vec<Removed>> {
        let session = Session::begin(self)?;
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        self.collect_into(&session)
    }

    /// Removes all images without a name that no container stands on.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the store cannot be read or changed.
    pub fn prune(&self) -> Result<Vec<Removed>> {
        let session = Session::begin(self)?;
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let names = self.names()?;
        for id in self.ids()? {
            if names_of(id, &names).is_empty() && self.containers_of(id)?.is_empty() {
                self.condemn(id)?;
            }
        }
        self.collect_into(&session)
    }

    /// The names that are to go.
    fn names_going(&self, given: &str, id: ImageId, names: &Names, force: bool) -> Result<Vec<Reference>> {
        let by_name = given.parse::<Reference>().ok().filter(|name| names.contains_key(name));
        if let Some(name) = by_name {
            return Ok(vec![name]);
        }
        let all = names_of(id, names);
        if all.len() > 1 && !force {
            let names = all.iter().map(Reference::familiar).collect();
            return Err(Error::ManyNames { image: given.to_owned(), names });
        }
        Ok(all)
    }

    /// Marks an image to go when no container stands on it; the exclusive lock must be held.
    fn condemn(&self, id: ImageId) -> Result<()> {
        let cannot =
            |errno| Error::os("cannot mark for removal", self.path.join("images").join(id.hex()))(errno);
        let marks = tree::ensure_dir(&self.images, CONDEMNED).map_err(cannot)?;
        match tree::create_file(marks, id.hex()) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(cannot(errno)),
        }
    }

    /// Takes that mark away; the exclusive lock must be held.
    pub(super) fn pardon(&self, id: ImageId) -> Result<()> {
        match rfs::unlinkat(&self.images, format!("{CONDEMNED}/{}", id.hex()), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::os("cannot keep", self.path.join("images").join(id.hex()))(errno)),
        }
    }

    /// The images with that mark.
    pub(super) fn condemned(&self) -> Result<Vec<ImageId>> {
        let cannot = |errno| Error::os("cannot list", self.path.join("images").join(CONDEMNED))(errno);
        let marks = match tree::open_dir(&self.images, CONDEMNED) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened.map_err(cannot)?,
        };
        let listed = tree::list(&marks).map_err(cannot)?;
        Ok(listed.iter().filter_map(|(name, _)| digest_named(name)).map(ImageId).collect())
    }

    /// Moves what is to go into the session, which removes it when the lock is free again.
    fn collect_into(&self, session: &Session<'_>) -> Result<Vec<Removed>> {
        let mut removed = Vec::new();
        let mut needed = BTreeSet::new();
        let cannot = |errno| Error::os("cannot remove an image from", &self.path)(errno);
        let (condemned, ids) = (self.condemned()?, self.ids()?);
        // A crash can leave the mark of an image that is gone.
        condemned.iter().filter(|id| !ids.contains(id)).try_for_each(|&id| self.pardon(id))?;
        for id in ids {
            if condemned.contains(&id) && self.containers_of(id)?.is_empty() {
                let name = format!("removed-image-{}", id.hex());
                rfs::renameat(&self.images, id.hex(), &session.dir, name).map_err(cannot)?;
                self.pardon(id)?;
                removed.push(Removed::Image(id));
                continue;
            }
            match self.document(id) {
                Ok((document, _)) => needed.extend(document.rootfs.diff_ids),
                Err(error) => {
                    tracing::warn!(%error, "no layer is removed, since it is not known which ones this image needs");
                    return Ok(removed);
                }
            }
        }
        for (name, _) in tree::list(&self.layers).map_err(cannot)? {
            let Some(id) = digest_named(&name).map(DiffId).filter(|id| !needed.contains(id)) else {
                continue;
            };
            rfs::renameat(&self.layers, id.hex(), &session.dir, format!("removed-{}", id.hex()))
                .map_err(cannot)?;
            removed.push(Removed::Layer(id));
        }
        Ok(removed)
    }

    /// The containers whose `config.json` names this image.
    pub(super) fn containers_of(&self, id: ImageId) -> Result<Vec<String>> {
        let path = self.path.join("containers");
        let cannot = |errno| Error::os("cannot look for containers in", &path)(errno);
        let dir = match tree::open_dir(rfs::CWD, &path) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            opened => opened.map_err(cannot)?,
        };
        let mut using = Vec::new();
        for (name, _) in tree::list(&dir).map_err(cannot)? {
            let Ok(container) = tree::open_dir(&dir, tree::os(&name)) else { continue };
            let Some(text) = self.read(&container, "config.json")? else { continue };
            let what = path.join(tree::os(&name)).join("config.json").display().to_string();
            let record: ContainerRecord = super::store::parse_json(&what, &text)?;
            if record.image_id.is_some_and(|image| image == id.to_string() || image == id.hex()) {
                using.push(String::from_utf8_lossy(&name).into_owned());
            }
        }
        using.sort();
        Ok(using)
    }
}
