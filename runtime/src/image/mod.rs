//! Images: how they are kept, found, brought in, given out and removed.
//!
//! # The store
//!
//! ```text
//! ROOT/images/lock                 flock(2): shared by who counts on what is there, exclusive for who changes it
//! ROOT/images/names.json           name -> identity, all of them; replaced as a whole
//! ROOT/images/<id>/config.json     the configuration, byte for byte: its SHA-256 is the identity
//! ROOT/images/<id>/manifest.json   the OCI manifest it came with, if it came with one
//! ROOT/images/condemned/<id>       it was removed by force, and goes when its last container is gone
//! ROOT/layers/<diff-id>/diff/      the tree of a layer, as its tar has it; whiteouts are `.wh.` files
//! ROOT/layers/<diff-id>/layer.json identity, sizes
//! ROOT/layers/<diff-id>/frame.zst  the tar stream without the content of its files, to put it together again
//! ROOT/layers/<diff-id>/replaced/  content that later entries of the same tar replaced, if there is any
//! ROOT/tmp/<pid>-<n>/              a command at work; see the module `session`
//! ROOT/containers/<id>/config.json not ours; `image_id` in it tells which image the container stands on
//! ```
//!
//! A layer is stored once, whatever images have it, and never changed. A load unpacks to `tmp/`, all layers at once, checks
//! every digest while it reads, and then renames under the lock: so two loads of the same image are safe, and one that is
//! killed leaves nothing behind.
//!
//! What may be in a layer's tar and what becomes of it is told in the module `unpack`.

mod change;
mod compress;
mod config;
mod digest;
mod error;
mod frame;
mod import;
mod inspect;
mod layer;
mod load;
mod reference;
mod remove;
mod save;
mod session;
mod store;
mod tar;
mod tree;
mod unpack;

pub use config::{Document, Empty, History, ImageConfig, RootFs};
pub use digest::{DiffId, Digest, ImageId};
pub use error::{At, Error, Fault, Result};
pub use import::ImportOptions;
pub use inspect::Step;
pub use load::{From, LoadOptions, Loaded, Platform};
pub use reference::Reference;
pub use remove::Removed;
pub use save::SaveFormat;
pub use store::{Hold, Image, Layer, Store, Summary};
