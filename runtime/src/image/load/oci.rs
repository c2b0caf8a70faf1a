//! OCI image layouts (OCI image spec, "Image Layout", "Image Index", "Image Manifest").

use std::collections::BTreeMap;

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

/// The file that tells that a directory or archive is a layout.
pub(super) const LAYOUT: &str = "oci-layout";
/// The file that tells what is in it.
const INDEX: &str = "index.json";
/// How deep indexes may nest.
const MAX_DEPTH: usize = 4;
/// Where containerd and Docker put the whole name of an image.
const WHOLE_NAME: &str = "io.containerd.image.name";
/// Where all put a name or a tag.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default, deserialize_with = "null_is_default")]
    media_type: String,
    digest: Digest,
    size: u64,
    #[serde(default, deserialize_with = "null_is_default")]
    annotations: BTreeMap<String, String>,
    platform: Option<Platform>,
}

/// An index or a manifest: which it is, is told by what it has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Node {
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// The images of the layout. Where one name has images for several platforms, the one that suits best.
pub(super) fn find(source: &Source, wanted: Option<&Platform>) -> Result<Vec<Found>> {
    let what = source.named(INDEX).display().to_string();
    let index: Node = parse_json(&what, &source.document(INDEX)?)?;
    // One image may stand in the index once for each of its names.
    let mut roots: Vec<(Vec<String>, Vec<Descriptor>)> = Vec::new();
    for descriptor in index.manifests.unwrap_or_default().into_iter().filter(is_image) {
        let name = name_of(&descriptor);
        match roots.iter_mut().find(|(names, _)| names.first() == name.as_ref()) {
            Some((_, choices)) => choices.push(descriptor),
            None => roots.push((name.into_iter().collect(), vec![descriptor])),
        }
    }
    if roots.is_empty() {
        return Err(not_an_image(source, format!("its {INDEX} names no image")));
    }
    let host = Platform::host();
    roots
        .into_iter()
        .map(|(names, choices)| {
            // One alone is taken whatever it is for, unless a platform is asked for.
            let chosen = choose(source, choices, wanted.unwrap_or(&host), wanted.is_some(), 0)?;
            image(source, &chosen, references(&names))
        })
        .collect()
}

/// Attestations and signatures are no images, and say so by a platform or a note.
fn is_image(descriptor: &Descriptor) -> bool {
    let unknown = descriptor.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
    !unknown && !descriptor.annotations.contains_key("vnd.docker.reference.type")
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    [WHOLE_NAME, REF_NAME].iter().find_map(|key| descriptor.annotations.get(*key).cloned())
}

/// The names that say more than a tag: which image a tag alone is of, only the caller can know.
fn references(names: &[String]) -> Vec<Reference> {
    names.iter().filter(|name| name.contains([':', '/'])).filter_map(|name| name.parse().ok()).collect()
}

/// The descriptor of the manifest that suits best.
fn choose(
    source: &Source,
    choices: Vec<Descriptor>,
    wanted: &Platform,
    strict: bool,
    depth: usize,
) -> Result<Descriptor> {
    if depth > MAX_DEPTH {
        return Err(not_an_image(source, format!("its indexes nest deeper than {MAX_DEPTH}")));
    }
    let several = choices.len() > 1 || strict;
    let mut offered = Vec::new();
    let mut best: Option<(u32, Descriptor)> = None;
    for descriptor in choices {
        // What does not suit need not be there: Docker keeps only the platforms that it pulled.
        if let Some(platform) =
            descriptor.platform.as_ref().filter(|other| several && wanted.suits(other) == 0)
        {
            offered.push(platform.to_string());
            continue;
        }
        let descriptor = match node(source, &descriptor)?.manifests {
            Some(inner) => {
                let inner: Vec<_> = inner.into_iter().filter(is_image).collect();
                match choose(source, inner, wanted, strict, depth + 1) {
                    Err(Error::NoPlatform { offered: others, .. }) => {
                        offered.extend(others);
                        continue;
                    }
                    chosen => chosen?,
                }
            }
            None => descriptor,
        };
        let platform = platform_of(source, &descriptor)?;
        let score = if several { wanted.suits(&platform) } else { 1 };
        offered.push(platform.to_string());
        if score > best.as_ref().map_or(0, |(best, _)| *best) {
            best = Some((score, descriptor));
        }
    }
    let none = || Error::NoPlatform { what: source.what.clone(), wanted: wanted.to_string(), offered };
    best.map(|(_, descriptor)| descriptor).ok_or_else(none)
}

/// What an image runs on: its descriptor may tell, its configuration always does.
fn platform_of(source: &Source, descriptor: &Descriptor) -> Result<Platform> {
    if let Some(platform) = &descriptor.platform {
        return Ok(platform.clone());
    }
    let (_, config) = config_of(source, &node(source, descriptor)?)?;
    Ok(Platform::of(&config))
}

fn image(source: &Source, descriptor: &Descriptor, names: Vec<Reference>) -> Result<Found> {
    let manifest = blob(source, descriptor)?;
    let node: Node = parse_json(&path(descriptor), &manifest)?;
    let (config, document) = config_of(source, &node)?;
    let id = ImageId(Digest::of(&config));
    let (blobs, layers) = (node.layers.unwrap_or_default(), document.rootfs.diff_ids);
    if blobs.len() != layers.len() {
        let rule =
            format!("the configuration speaks of {} layers, the manifest of {}", layers.len(), blobs.len());
        return Err(not_an_image(source, rule));
    }
    let part = |(blob, diff_id): (&Descriptor, &_)| {
        let expected = Expected { blob: Some(blob.digest), len: Some(blob.size), diff_id: Some(*diff_id) };
        Part { path: path(blob), expected }
    };
    let parts = blobs.iter().zip(&layers).map(part).collect();
    Ok(Found { image: NewImage { id, config, manifest: Some(manifest), names, layers }, parts })
}

fn config_of(source: &Source, node: &Node) -> Result<(Vec<u8>, Document)> {
    let missing = || not_an_image(source, "its manifest names no configuration".into());
    let descriptor = node.config.as_ref().ok_or_else(missing)?;
    let known =
        descriptor.media_type.contains("image.config") || descriptor.media_type.contains("container.image");
    if !known {
        let rule =
            format!("its configuration is of the type {:?}, not that of an image", descriptor.media_type);
        return Err(not_an_image(source, rule));
    }
    let config = blob(source, descriptor)?;
    let document = parse_json(&path(descriptor), &config)?;
    Ok((config, document))
}

fn node(source: &Source, descriptor: &Descriptor) -> Result<Node> {
    parse_json(&path(descriptor), &blob(source, descriptor)?)
}

/// The content of a small blob, if it is what its descriptor says.
fn blob(source: &Source, descriptor: &Descriptor) -> Result<Vec<u8>> {
    let content = source.document(&path(descriptor))?;
    let what = source.named(&path(descriptor)).display().to_string();
    let found = content.len() as u64;
    if found != descriptor.size {
        return Err(Error::Length { what, expected: descriptor.size, found });
    }
    compare(&what, Some(descriptor.digest), Digest::of(&content))?;
    Ok(content)
}

fn path(descriptor: &Descriptor) -> String {
    format!("blobs/sha256/{}", descriptor.digest.hex())
}

fn not_an_image(source: &Source, rule: String) -> Error {
    Error::NotAnImage { what: source.what.clone(), rule }
}
