//! An image as Docker tells of it (docker-image-inspect(1)).

use serde_json::{Value, json};

use super::config::{History, ImageConfig};
use super::error::Result;
use super::store::{Image, Store};

/// One step of an image's making, with what it added.
#[derive(Clone, Debug)]
pub struct Step {
    /// What the image says of it.
    pub history: History,
    /// Bytes of file content in its layer; 0 if it made none.
    pub size: u64,
}

impl Store {
    /// What `docker image inspect` tells of an image, field for field.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`].
    pub fn inspect(&self, given: &str) -> Result<Value> {
        let image = self.resolve(given)?;
        let document = &image.document;
        let trees: Vec<_> = image.layers.iter().map(|layer| layer.path.to_string_lossy()).collect();
        let comment = document.history.last().map_or("", |last| last.comment.as_str());
        let mut told = json!({
            "Id": image.id,
            "RepoTags": image.names.iter().map(super::Reference::familiar).collect::<Vec<_>>(),
            "RepoDigests": [],
            "Parent": "",
            "Comment": comment,
            "Created": document.created,
            "Author": document.author,
            "Config": docker_config(&image.config),
            "Architecture": document.architecture,
            "Os": document.os,
            "Size": self.size(document)?,
            "GraphDriver": {"Name": "unionfs", "Data": {"LowerDir": trees.join(":")}},
            "RootFS": {"Type": "layers", "Layers": document.rootfs.diff_ids},
        });
        if !document.variant.is_empty() {
            told["Variant"] = document.variant.clone().into();
        }
        Ok(told)
    }

    /// How an image came to be, the last step first.
    ///
    /// # Errors
    ///
    /// As [`Store::resolve`].
    pub fn history(&self, given: &str) -> Result<Vec<Step>> {
        let Image { document, .. } = self.resolve(given)?;
        let mut layers = document.rootfs.diff_ids.iter();
        let mut steps = Vec::new();
        for history in document.history.clone() {
            let layer = if history.empty_layer { None } else { layers.next() };
            let size = layer.map(|&id| self.layer_record(id)).transpose()?.map_or(0, |record| record.content);
            steps.push(Step { history, size });
        }
        // A history may be missing, or shorter than the list of layers.
        for &id in layers {
            steps.push(Step { history: History::default(), size: self.layer_record(id)?.content });
        }
        steps.reverse();
        Ok(steps)
    }
}

/// The configuration with the fields Docker always shows, empty lists and maps as `null` like Go's.
fn docker_config(config: &ImageConfig) -> Value {
    let list = |list: &Vec<String>| if list.is_empty() { Value::Null } else { json!(list) };
    let mut told = Value::Object(config.other.clone());
    for (name, value) in [
        ("User", json!(config.user)),
        ("Env", list(&config.env)),
        ("Cmd", list(&config.cmd)),
        ("Entrypoint", list(&config.entrypoint)),
        ("WorkingDir", json!(config.working_dir)),
        ("Volumes", if config.volumes.is_empty() { Value::Null } else { json!(config.volumes) }),
        ("Labels", if config.labels.is_empty() { Value::Null } else { json!(config.labels) }),
    ] {
        told[name] = value;
    }
    if !config.exposed_ports.is_empty() {
        told["ExposedPorts"] = json!(config.exposed_ports);
    }
    if !config.stop_signal.is_empty() {
        told["StopSignal"] = json!(config.stop_signal);
    }
    told
}
