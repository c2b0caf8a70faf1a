//! Making an image of one tar stream.

use std::io::Read;

use super::change;
use super::config::{Document, History, ImageConfig, RootFs};
use super::digest::{Digest, ImageId};
use super::error::{Error, Result};
use super::layer::{self, Expected};
use super::load::Platform;
use super::reference::Reference;
use super::session::{Made, NewImage, Session};
use super::store::Store;
use crate::clock;

/// How an image is to be made of a tar stream.
#[derive(Clone, Debug, Default)]
pub struct ImportOptions {
    /// The name it is to have.
    pub name: Option<Reference>,
    /// Changes to its configuration, each a line of a Dockerfile.
    pub changes: Vec<String>,
    /// Words about it.
    pub message: Option<String>,
    /// What it runs on; this machine if not told.
    pub platform: Option<Platform>,
}

impl Store {
    /// Makes an image of a root filesystem, a tar stream that may be compressed; `what` names the stream in errors.
    ///
    /// # Errors
    ///
    /// [`Error::Archive`] if an entry cannot be taken, [`Error::BadChange`], [`Error::Compression`], [`Error::Io`].
    pub fn import(&self, stream: impl Read, what: &str, options: &ImportOptions) -> Result<ImageId> {
        // Refuse what can be refused before the long work.
        let mut config = ImageConfig::default();
        options.changes.iter().try_for_each(|line| change::apply(&mut config, line))?;
        let session = Session::begin(self)?;
        let record = layer::make(&session.dir, "layer", stream, what, &Expected::default(), self.rights)?;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let created = Some(clock::now());
        let comment = options.message.clone().unwrap_or_else(|| format!("Imported from {what}"));
        let document = Document {
            created: created.clone(),
            architecture: platform.architecture,
            variant: platform.variant,
            os: platform.os,
            config,
            rootfs: RootFs { kind: "layers".into(), diff_ids: vec![record.diff_id] },
            history: vec![History { created, comment, ..History::default() }],
            ..Document::default()
        };
        let config = serde_json::to_vec(&document)
            .map_err(|source| Error::Json { what: "the image's configuration".into(), source })?;
        let id = ImageId(Digest::of(&config));
        let names = options.name.iter().cloned().collect();
        let image = NewImage { id, config, manifest: None, names, layers: vec![record.diff_id] };
        session.sync()?;
        let made = Made::from([(record.diff_id, "layer".to_owned())]);
        // It needs no layer but the one it brings, so none can be missing.
        session.commit(&made, &[image])?;
        Ok(id)
    }
}
