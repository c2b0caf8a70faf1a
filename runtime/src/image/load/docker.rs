//! docker-archive: what `docker save` writes (Docker image spec v1.2, "Combined Image JSON + Filesystem Changeset Format").

use serde::Deserialize;

use super::super::config::{Document, null_is_default};
use super::super::digest::{Digest, ImageId};
use super::super::error::{Error, Result};
use super::super::layer::{Expected, compare};
use super::super::reference::Reference;
use super::super::session::NewImage;
use super::super::store::parse_json;
use super::platform::Platform;
use super::source::Source;
use super::{Found, Part};

/// The file that tells what is in the archive.
pub(super) const MANIFEST: &str = "manifest.json";

/// One image of the archive.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Manifest {
    config: String,
    #[serde(default, deserialize_with = "null_is_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "null_is_default")]
    layers: Vec<String>,
}

/// The images of the archive; all of them must be for a platform that is asked for.
pub(super) fn find(source: &Source, wanted: Option<&Platform>) -> Result<Vec<Found>> {
    let what = source.named(MANIFEST).display().to_string();
    let manifests: Vec<Manifest> = parse_json(&what, &source.document(MANIFEST)?)?;
    manifests.iter().map(|manifest| image(source, manifest, wanted)).collect()
}

fn image(source: &Source, manifest: &Manifest, wanted: Option<&Platform>) -> Result<Found> {
    let config = source.document(&manifest.config)?;
    let what = source.named(&manifest.config).display().to_string();
    let id = ImageId(Digest::of(&config));
    compare(&what, digest_in(&manifest.config), id.0)?;
    let document: Document = parse_json(&what, &config)?;
    let offered = Platform::of(&document);
    if let Some(wanted) = wanted.filter(|wanted| wanted.suits(&offered) == 0) {
        let (wanted, offered) = (wanted.to_string(), vec![offered.to_string()]);
        return Err(Error::NoPlatform { what: source.what.clone(), wanted, offered });
    }
    let layers = document.rootfs.diff_ids;
    if layers.len() != manifest.layers.len() {
        let rule =
            format!("{what} speaks of {} layers, {MANIFEST} of {}", layers.len(), manifest.layers.len());
        return Err(Error::NotAnImage { what: source.what.clone(), rule });
    }
    let part = |(path, diff_id): (&String, &_)| {
        let expected = Expected { blob: digest_of_blob(path), len: None, diff_id: Some(*diff_id) };
        Part { path: path.clone(), expected }
    };
    let parts = manifest.layers.iter().zip(&layers).map(part).collect();
    let names = manifest.repo_tags.iter().map(|name| name.parse()).collect::<Result<Vec<Reference>>>()?;
    Ok(Found { image: NewImage { id, config, manifest: None, names, layers }, parts })
}

/// The digest in a name such as `DIGEST.json` or `blobs/sha256/DIGEST`.
fn digest_in(path: &str) -> Option<Digest> {
    let name = path.rsplit('/').next()?;
    Digest::from_hex(name.strip_suffix(".json").unwrap_or(name))
}

/// The digest of a layer that lies among blobs. `DIGEST.tar` is not one: some name it after the blob, some after the tar.
fn digest_of_blob(path: &str) -> Option<Digest> {
    Digest::from_hex(path.strip_prefix("blobs/sha256/")?)
}
