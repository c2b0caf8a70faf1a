//! Giving images out as archives.
//!
//! Layers are put together again from tree and frame, byte for byte, so an image that is loaded again has the same
//! identity; and they are given out without compression, so their digests are their diff-ids.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde_json::{Value, json};

use super::digest::{DiffId, Digest, Hashing};
use super::error::{Error, Result};
use super::frame::Replay;
use super::reference::Reference;
use super::store::Store;

/// The form of an archive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SaveFormat {
    /// What `docker save` writes, readable by all.
    #[default]
    DockerArchive,
    /// An OCI layout in a tar archive.
    OciArchive,
}

const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";

/// An image to be given out, with the names to be given with it.
struct Chosen {
    config: Vec<u8>,
    layers: Vec<DiffId>,
    names: Vec<Reference>,
}

impl Store {
    /// Writes images to `out`: one that is called by name with this name, one that is called by identity without any.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`]; [`Error::Mismatch`] if a layer in the store was changed; [`Error::Io`].
    pub fn save(&self, given: &[String], format: SaveFormat, out: impl Write) -> Result<()> {
        let _hold = self.hold()?;
        let images = self.choose(given)?;
        let mut archive = Archive { store: self, out: tar::Builder::new(out), done: BTreeSet::new() };
        match format {
            SaveFormat::DockerArchive => archive.docker(&images)?,
            SaveFormat::OciArchive => archive.oci(&images)?,
        }
        archive.out.into_inner().and_then(|mut out| out.flush()).map_err(unwritten)
    }

    /// Each image once, with all names it was called by.
    fn choose(&self, given: &[String]) -> Result<Vec<Chosen>> {
        let mut chosen: Vec<(_, Chosen)> = Vec::new();
        for given in given {
            let image = self.resolve(given)?;
            let name = given.parse().ok().filter(|name| image.names.contains(name));
            match chosen.iter_mut().find(|(id, _)| *id == image.id) {
                Some((_, known)) => known.names.extend(name),
                None => {
                    let config = self.config_text(image.id)?;
                    let layers = image.document.rootfs.diff_ids;
                    chosen.push((image.id, Chosen { config, layers, names: name.into_iter().collect() }));
                }
            }
        }
        Ok(chosen.into_iter().map(|(_, chosen)| chosen).collect())
    }
}

/// An archive being written.
struct Archive<'a, W: Write> {
    store: &'a Store,
    out: tar::Builder<W>,
    /// What is in it already.
    done: BTreeSet<String>,
}

impl<W: Write> Archive<'_, W> {
    fn docker(&mut self, images: &[Chosen]) -> Result<()> {
        let mut manifests = Vec::new();
        for image in images {
            let config = format!("{}.json", Digest::of(&image.config).hex());
            self.bytes(&config, &image.config)?;
            let mut layers = Vec::new();
            for &id in &image.layers {
                let path = format!("{}.tar", id.hex());
                self.layer(&path, id)?;
                layers.push(path);
            }
            let names: Vec<_> = image.names.iter().map(Reference::familiar).collect();
            manifests.push(json!({"Config": config, "RepoTags": names, "Layers": layers}));
        }
        self.json("manifest.json", &Value::Array(manifests)).map(drop)
    }

    fn oci(&mut self, images: &[Chosen]) -> Result<()> {
        let mut manifests = Vec::new();
        for image in images {
            let descriptor = self.oci_image(image)?;
            let names = image.names.iter().map(|name| {
                let mut named = descriptor.clone();
                named["annotations"] = json!({
                    "io.containerd.image.name": name.to_string(),
                    "org.opencontainers.image.ref.name": name.to_string(),
                });
                named
            });
            let before = manifests.len();
            manifests.extend(names);
            if manifests.len() == before {
                manifests.push(descriptor);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": manifests});
        self.json("index.json", &index)?;
        self.json("oci-layout", &json!({"imageLayoutVersion": "1.0.0"})).map(drop)
    }

    /// Writes the blobs of an image and tells the descriptor of its manifest.
    fn oci_image(&mut self, image: &Chosen) -> Result<Value> {
        let config = Digest::of(&image.config);
        self.bytes(&blob_path(config), &image.config)?;
        let mut layers = Vec::new();
        for &id in &image.layers {
            let size = self.layer(&blob_path(id.0), id)?;
            layers.push(json!({"mediaType": LAYER_TYPE, "digest": id, "size": size}));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config, "size": image.config.len()},
            "layers": layers,
        });
        let text = to_text(&manifest)?;
        let digest = Digest::of(&text);
        self.bytes(&blob_path(digest), &text)?;
        Ok(json!({"mediaType": MANIFEST_TYPE, "digest": digest, "size": text.len()}))
    }

    /// Writes a layer, unless it is in already, and tells its length.
    fn layer(&mut self, path: &str, id: DiffId) -> Result<u64> {
        let len = self.store.layer_record(id)?.tar;
        if !self.done.insert(path.to_owned()) {
            return Ok(len);
        }
        let what = format!("layer {id} in the store");
        let replay = Replay::new(&self.store.layer_dir(id)?).map_err(Error::io("cannot read", &what))?;
        let mut stream = Hashing::new(replay);
        let written = self.out.append_data(&mut header(len), path, stream.by_ref().take(len));
        let mut rest = [0];
        let more = written.and_then(|()| stream.read(&mut rest)).map_err(unwritten)?;
        let (found, found_len) = stream.so_far();
        if found_len != len || more != 0 {
            return Err(Error::Length { what, expected: len, found: found_len });
        }
        super::layer::compare(&what, Some(id.0), found)?;
        Ok(len)
    }

    fn json(&mut self, path: &str, value: &Value) -> Result<u64> {
        self.bytes(path, &to_text(value)?)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<u64> {
        let len = bytes.len() as u64;
        if self.done.insert(path.to_owned()) {
            self.out.append_data(&mut header(len), path, bytes).map_err(unwritten)?;
        }
        Ok(len)
    }
}

/// The header of a member: the same image always gives the same archive.
fn header(len: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(len);
    header.set_mode(0o644);
    header
}

fn blob_path(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn to_text(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| Error::Json { what: "the archive's manifest".into(), source })
}

fn unwritten(source: io::Error) -> Error {
    Error::Io { act: "cannot write", path: "the archive".into(), source }
}
