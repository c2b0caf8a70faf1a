//! The store: where images and layers lie, how they are found, and who may change them when.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{DirBuilder, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self as rfs, FlockOperation, OFlags};
use rustix::io::Errno;

use super::config::{Document, ImageConfig};
use super::digest::{DiffId, Digest, ImageId};
use super::error::{Error, Result};
use super::layer::LayerRecord;
use super::reference::Reference;
use super::tree;
use super::unpack::Rights;

/// The fewest digits by which an image may be called: fewer would hit images by mistake.
const MIN_DIGITS: usize = 3;
/// The longest document that is taken, in bytes: it is held in memory.
pub(super) const MAX_DOCUMENT: u64 = 16 << 20;
const NAMES: &str = "names.json";

/// The names of all images.
pub(super) type Names = BTreeMap<Reference, ImageId>;

/// A store of images.
#[derive(Debug)]
pub struct Store {
    pub(super) path: PathBuf,
    pub(super) images: OwnedFd,
    pub(super) layers: OwnedFd,
    pub(super) tmp: OwnedFd,
    pub(super) rights: Rights,
}

/// An image and where its layers lie.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its identity.
    pub id: ImageId,
    /// All its names, sorted.
    pub names: Vec<Reference>,
    /// How to run it.
    pub config: ImageConfig,
    /// Its layers, the highest first; one that is in the image twice is only told at its highest place, since it hides
    /// all of what it has below.
    pub layers: Vec<Layer>,
    /// The whole configuration.
    pub document: Document,
}

/// A layer of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Its identity.
    pub diff_id: DiffId,
    /// Its tree.
    pub path: PathBuf,
}

/// What a list of images tells of one.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Its identity.
    pub id: ImageId,
    /// All its names, sorted; none if it is only known by its identity.
    pub names: Vec<Reference>,
    /// When it was made (RFC 3339), if that is known.
    pub created: Option<String>,
    /// Bytes of file content in its layers, those it shares included.
    pub size: u64,
    /// The digest of the manifest it came with.
    pub digest: Option<Digest>,
}

/// Keeps images and layers from being removed while it lives, as between finding an image and noting a container of it.
#[derive(Debug)]
pub struct Hold {
    _lock: File,
}

impl Store {
    /// Opens the store below `root`, making it if need be, and removes what an interrupted load left, and images that were
    /// removed by force whose containers are gone.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if a directory cannot be made or opened.
    pub fn open(root: &Path) -> Result<Self> {
        let cannot = |errno| Error::os("cannot open the store", root)(errno);
        DirBuilder::new()
            .recursive(true)
            .mode(0o711)
            .create(root)
            .map_err(Error::io("cannot make the store", root))?;
        let top = tree::open_dir(rfs::CWD, root).map_err(cannot)?;
        let path = root.canonicalize().map_err(Error::io("cannot open the store", root))?;
        // Layers hold set-user-ID programs of strangers: nobody else may reach them from outside a container.
        let part = |name| tree::ensure_dir(&top, name).map_err(cannot);
        let (images, layers, tmp) = (part("images")?, part("layers")?, part("tmp")?);
        let store = Self { path, images, layers, tmp, rights: Rights::of_process() };
        store.sweep()?;
        Ok(store)
    }

    /// Finds an image by name or identity, whole or at least three of its first digits.
    ///
    /// # Errors
    ///
    /// [`Error::NoImage`], [`Error::Ambiguous`], and [`Error::Damaged`] if a layer is gone.
    pub fn resolve(&self, given: &str) -> Result<Image> {
        let names = self.names()?;
        let id = self.identify(given, &names)?;
        let (document, _) = self.document(id)?;
        let mut layers = Vec::new();
        let mut seen = BTreeSet::new();
        for &diff_id in document.rootfs.diff_ids.iter().rev() {
            if seen.insert(diff_id) {
                self.layer_record(diff_id)?;
                layers.push(Layer { diff_id, path: self.layer_path(diff_id) });
            }
        }
        Ok(Image { id, names: names_of(id, &names), config: document.config.clone(), layers, document })
    }

    /// All images, the newest first.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], [`Error::Json`] or [`Error::Damaged`] if the store cannot be read.
    pub fn images(&self) -> Result<Vec<Summary>> {
        let names = self.names()?;
        let mut images = Vec::new();
        for id in self.ids()? {
            let (document, digest) = match self.document(id) {
                // Removed since it was listed.
                Err(Error::NoImage { .. }) => continue,
                read => read?,
            };
            let size = self.size(&document)?;
            images.push(Summary { id, names: names_of(id, &names), created: document.created, size, digest });
        }
        let age =
            |image: &Summary| image.created.as_ref().and_then(|text| text.parse::<jiff::Timestamp>().ok());
        images.sort_by_key(|image| (std::cmp::Reverse(age(image)), image.id));
        Ok(images)
    }

    /// Gives an image one more name; an image that had it loses it.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`], and [`Error::Io`].
    pub fn tag(&self, source: &str, name: &Reference) -> Result<()> {
        let _lock = self.lock(FlockOperation::LockExclusive)?;
        let mut names = self.names()?;
        let id = self.identify(source, &names)?;
        self.pardon(id)?;
        names.insert(name.clone(), id);
        self.write_names(&names)
    }

    /// Keeps all images and layers from being removed until the result is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] if the lock cannot be had.
    pub fn hold(&self) -> Result<Hold> {
        Ok(Hold { _lock: self.lock(FlockOperation::LockShared)? })
    }

    /// Bytes of file content in the layers of an image.
    pub(super) fn size(&self, document: &Document) -> Result<u64> {
        document.rootfs.diff_ids.iter().map(|&id| Ok(self.layer_record(id)?.content)).sum()
    }

    /// Takes the store's lock: shared by those who count on what is there, exclusive for those who change it.
    pub(super) fn lock(&self, how: FlockOperation) -> Result<File> {
        let lock = self.path.join("images/lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rfs::openat(&self.images, "lock", flags, rfs::Mode::RUSR | rfs::Mode::WUSR);
        let file = file.map_err(Error::os("cannot open", &lock))?;
        loop {
            match rfs::flock(&file, how) {
                Err(Errno::INTR) => {}
                done => {
                    done.map_err(Error::os("cannot lock", &lock))?;
                    return Ok(file.into());
                }
            }
        }
    }

    /// All names.
    pub(super) fn names(&self) -> Result<Names> {
        match self.read(&self.images, NAMES)? {
            Some(text) => parse_json(&self.path.join("images").join(NAMES).to_string_lossy(), &text),
            None => Ok(Names::new()),
        }
    }

    /// Replaces all names at once; the exclusive lock must be held.
    pub(super) fn write_names(&self, names: &Names) -> Result<()> {
        let path = self.path.join("images").join(NAMES);
        let text =
            serde_json::to_vec_pretty(names).map_err(|source| Error::Json { what: NAMES.into(), source })?;
        // Only one holds the lock, so only a crash leaves the new file behind.
        tree::remove_tree(&self.images, b"names.new").map_err(Error::os("cannot write", &path))?;
        tree::write_file(&self.images, "names.new", &text).map_err(Error::io("cannot write", &path))?;
        rfs::renameat(&self.images, "names.new", &self.images, NAMES)
            .map_err(Error::os("cannot write", &path))?;
        rfs::fsync(&self.images).map_err(Error::os("cannot write", &path))
    }

    /// The identity that a name, an identity or the start of one means.
    pub(super) fn identify(&self, given: &str, names: &Names) -> Result<ImageId> {
        if let Some(id) = given.parse().ok().and_then(|name: Reference| names.get(&name)) {
            return Ok(*id);
        }
        let digits = given.strip_prefix("sha256:").unwrap_or(given);
        let hex = digits.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        if digits.len() < MIN_DIGITS || !hex {
            return Err(Error::NoImage { given: given.to_owned() });
        }
        let found: Vec<_> = self.ids()?.into_iter().filter(|id| id.hex().starts_with(digits)).collect();
        match found[..] {
            [id] => Ok(id),
            [] => Err(Error::NoImage { given: given.to_owned() }),
            _ => Err(Error::Ambiguous {
                given: given.to_owned(),
                found: found.iter().map(|id| id.0.short()).collect(),
            }),
        }
    }

    /// The identities of all images.
    pub(super) fn ids(&self) -> Result<Vec<ImageId>> {
        let listed = tree::list(&self.images).map_err(Error::os("cannot list", self.path.join("images")))?;
        let mut ids: Vec<_> = listed.iter().filter_map(|(name, _)| digest_named(name)).map(ImageId).collect();
        ids.sort();
        Ok(ids)
    }

    /// The configuration of an image, and the digest of its manifest if it came with one.
    pub(super) fn document(&self, id: ImageId) -> Result<(Document, Option<Digest>)> {
        let text = self.config_text(id)?;
        let dir = self.image_dir(id)?;
        let manifest = self.read(&dir, "manifest.json")?;
        Ok((
            parse_json(&format!("the configuration of {id}"), &text)?,
            manifest.map(|text| Digest::of(&text)),
        ))
    }

    /// The configuration of an image, byte for byte.
    pub(super) fn config_text(&self, id: ImageId) -> Result<Vec<u8>> {
        let gone =
            || Error::Damaged { what: format!("image {id}"), rule: "its configuration is gone".into() };
        let text = self.read(&self.image_dir(id)?, "config.json")?.ok_or_else(gone)?;
        if Digest::of(&text) != id.0 {
            return Err(Error::Damaged {
                what: format!("image {id}"),
                rule: "its configuration was changed".into(),
            });
        }
        Ok(text)
    }

    /// The directory of an image.
    pub(super) fn image_dir(&self, id: ImageId) -> Result<OwnedFd> {
        tree::open_dir(&self.images, id.hex()).map_err(|errno| match errno {
            Errno::NOENT => Error::NoImage { given: id.to_string() },
            errno => Error::os("cannot open", self.path.join("images").join(id.hex()))(errno),
        })
    }

    /// Where the tree of a layer lies.
    pub(super) fn layer_path(&self, id: DiffId) -> PathBuf {
        self.path.join("layers").join(id.hex()).join("diff")
    }

    /// The directory of a layer.
    pub(super) fn layer_dir(&self, id: DiffId) -> Result<OwnedFd> {
        tree::open_dir(&self.layers, id.hex()).map_err(|errno| match errno {
            Errno::NOENT => Error::Damaged { what: format!("layer {id}"), rule: "it is gone".into() },
            errno => Error::os("cannot open", self.layer_path(id))(errno),
        })
    }

    /// What is known of a layer.
    pub(super) fn layer_record(&self, id: DiffId) -> Result<LayerRecord> {
        let gone = || Error::Damaged { what: format!("layer {id}"), rule: "its layer.json is gone".into() };
        let text = self.read(&self.layer_dir(id)?, "layer.json")?.ok_or_else(gone)?;
        parse_json(&format!("layer.json of {id}"), &text)
    }

    /// The content of a small file of the store, `None` if there is no such file.
    pub(super) fn read(&self, dir: impl AsFd, name: &str) -> Result<Option<Vec<u8>>> {
        let file = match tree::open_file(dir, name) {
            Err(Errno::NOENT) => return Ok(None),
            opened => opened.map_err(Error::os("cannot open", self.path.join(name)))?,
        };
        let mut text = Vec::new();
        let read = file.take(MAX_DOCUMENT).read_to_end(&mut text);
        read.map_err(Error::io("cannot read", self.path.join(name)))?;
        Ok(Some(text))
    }
}

/// The names that lead to an image.
pub(super) fn names_of(id: ImageId, names: &Names) -> Vec<Reference> {
    names.iter().filter(|(_, named)| **named == id).map(|(name, _)| name.clone()).collect()
}

/// The digest that a directory is named after.
pub(super) fn digest_named(name: &[u8]) -> Option<Digest> {
    Digest::from_hex(std::str::from_utf8(name).ok()?)
}

/// Reads a JSON document.
pub(super) fn parse_json<T: serde::de::DeserializeOwned>(what: &str, text: &[u8]) -> Result<T> {
    serde_json::from_slice(text).map_err(|source| Error::Json { what: what.to_owned(), source })
}
