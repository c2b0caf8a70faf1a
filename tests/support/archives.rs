//! Archives made in code: tar streams, docker-archives and OCI layouts, good ones and others.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use uctr::image::Digest;

/// A tar archive under construction, with none of the tar crate's refusals.
#[derive(Clone, Default)]
pub(crate) struct Tar(Vec<u8>);

/// What an entry is like besides its name and content.
#[derive(Clone, Copy)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) mtime: u64,
    pub(crate) device: (u32, u32),
}

impl Default for Meta {
    fn default() -> Self {
        Self { mode: 0o644, uid: 0, gid: 0, mtime: 1_000_000_000, device: (0, 0) }
    }
}

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A header with these very bytes as name and link, then the content.
    pub(crate) fn entry(mut self, flag: u8, name: &[u8], link: &[u8], meta: Meta, content: &[u8]) -> Self {
        let mut tar = self;
        for (long, what) in [(b'L', name), (b'K', link)] {
            if what.len() > 100 {
                let text = [what, b"\0"].concat();
                tar = tar.entry(long, b"././@LongLink", b"", Meta::default(), &text);
            }
        }
        self = tar;
        let mut header = header(flag, name, link, meta, content.len() as u64);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.content(content)
    }

    /// Content with its padding.
    pub(crate) fn content(mut self, content: &[u8]) -> Self {
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// These bytes as they are.
    pub(crate) fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        self.entry(b'0', name.as_ref(), b"", Meta::default(), content.as_ref())
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>) -> Self {
        self.entry(b'5', name.as_ref(), b"", Meta { mode: 0o755, ..Meta::default() }, b"")
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'2', name.as_ref(), target.as_ref(), Meta { mode: 0o777, ..Meta::default() }, b"")
    }

    pub(crate) fn hard_link(self, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        self.entry(b'1', name.as_ref(), target.as_ref(), Meta::default(), b"")
    }

    /// A PAX header for the next entry.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
            // The length counts its own digits.
            let len = (1..).find(|len| len - len.to_string().len() == body.len()).unwrap();
            text.extend_from_slice(len.to_string().as_bytes());
            text.extend_from_slice(&body);
        }
        self.entry(b'x', b"PaxHeaders/x", b"", Meta::default(), &text)
    }

    /// The archive with its end mark.
    pub(crate) fn end(self) -> Vec<u8> {
        self.raw(&[0; 1024]).0
    }

    /// The archive as it stands.
    pub(crate) fn cut(self) -> Vec<u8> {
        self.0
    }
}

/// A header without its checksum; a name too long for its field is cut (a long name goes before it).
pub(crate) fn header(flag: u8, name: &[u8], link: &[u8], meta: Meta, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    let gnu = header.as_gnu_mut().unwrap();
    let (name, link) = (&name[..name.len().min(100)], &link[..link.len().min(100)]);
    gnu.name[..name.len()].copy_from_slice(name);
    gnu.linkname[..link.len()].copy_from_slice(link);
    gnu.typeflag = [flag];
    header.set_size(size);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid);
    header.set_gid(meta.gid);
    header.set_mtime(meta.mtime);
    header.set_device_major(meta.device.0).unwrap();
    header.set_device_minor(meta.device.1).unwrap();
    header
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// An image to be packed: its layers as tar streams, the lowest first, each with the blob that carries it.
#[derive(Clone)]
pub(crate) struct Packed {
    pub(crate) config: Vec<u8>,
    pub(crate) blobs: Vec<Vec<u8>>,
}

impl Packed {
    /// An image of these layers; the blobs are the layers themselves until they are replaced.
    pub(crate) fn new(layers: &[Vec<u8>]) -> Self {
        Self::for_architecture("amd64", layers)
    }

    pub(crate) fn for_architecture(architecture: &str, layers: &[Vec<u8>]) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer)).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "created": "2020-02-02T02:02:02Z",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": [{"created_by": "first"}, {"created_by": "nothing", "empty_layer": true}],
        });
        Self { config: serde_json::to_vec(&config).unwrap(), blobs: layers.to_vec() }
    }

    /// The layers carried by other blobs.
    pub(crate) fn carried(mut self, blobs: &[Vec<u8>]) -> Self {
        self.blobs = blobs.to_vec();
        self
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(&self.config)
    }

    /// The image as `docker save` wrote it until version 25.
    pub(crate) fn docker(&self, name: &str) -> Vec<u8> {
        let config = format!("{}.json", self.id().hex());
        let mut tar = Tar::new().file(&config, &self.config);
        let mut layers = Vec::new();
        for (at, blob) in self.blobs.iter().enumerate() {
            let dir = format!("{at:064}");
            tar = tar
                .dir(format!("{dir}/"))
                .file(format!("{dir}/VERSION"), "1.0")
                .file(format!("{dir}/layer.tar"), blob);
            layers.push(format!("{dir}/layer.tar"));
        }
        let manifest = json!([{"Config": config, "RepoTags": [name], "Layers": layers}]);
        tar.file("manifest.json", manifest.to_string()).end()
    }
}

/// An OCI layout: its files by name.
#[derive(Clone, Default)]
pub(crate) struct Layout(pub(crate) BTreeMap<String, Vec<u8>>);

impl Layout {
    /// A layout with these descriptors in its index.
    pub(crate) fn indexed(mut self, manifests: &[Value]) -> Self {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.0.insert("oci-layout".into(), br#"{"imageLayoutVersion": "1.0.0"}"#.to_vec());
        self.0.insert("index.json".into(), index.to_string().into_bytes());
        self
    }

    /// Adds a blob and tells its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, content: &[u8]) -> Value {
        let digest = Digest::of(content);
        self.0.insert(format!("blobs/sha256/{}", digest.hex()), content.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    }

    /// Adds an image and tells the descriptor of its manifest.
    pub(crate) fn image(&mut self, image: &Packed) -> Value {
        let config = self.blob("application/vnd.oci.image.config.v1+json", &image.config);
        let layers: Vec<_> = image
            .blobs
            .iter()
            // What a label says of the compression may be wrong; the first bytes tell.
            .map(|blob| self.blob("application/vnd.oci.image.layer.v1.tar+gzip", blob))
            .collect();
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.blob("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes())
    }

    /// Adds an index and tells its descriptor.
    pub(crate) fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "manifests": manifests});
        self.blob("application/vnd.oci.image.index.v1+json", index.to_string().as_bytes())
    }

    /// The layout as a tar archive.
    pub(crate) fn tar(&self) -> Vec<u8> {
        self.0.iter().fold(Tar::new(), |tar, (name, content)| tar.file(name, content)).end()
    }

    /// The layout as a directory.
    pub(crate) fn write(&self, dir: &Path) {
        for (name, content) in &self.0 {
            fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
            fs::write(dir.join(name), content).unwrap();
        }
    }
}

/// Gives a descriptor one more field.
pub(crate) fn with(mut descriptor: Value, field: &str, value: Value) -> Value {
    descriptor[field] = value;
    descriptor
}
