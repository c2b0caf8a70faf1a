//! What can go wrong with images, told by object, rule and fix.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::digest::Digest;

/// The result of an act on images.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An act on images that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("cannot {act} {}", path.display())]
    Io {
        /// What was tried.
        act: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// No image goes by this name or identity.
    #[error(
        "no image {given:?} here; `uctr images` lists what there is, `uctr load` and `uctr import` add one"
    )]
    NoImage {
        /// As it was typed.
        given: String,
    },
    /// Several identities begin like this.
    #[error("{given:?} is short for several images ({}); give more digits", found.join(", "))]
    Ambiguous {
        /// As it was typed.
        given: String,
        /// The identities it may mean.
        found: Vec<String>,
    },
    /// Not a name an image can have.
    #[error("{given:?} is no image name: {rule}")]
    BadName {
        /// As it was typed.
        given: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// Not a digest that is understood.
    #[error("{given:?} is no digest: it must be sha256: and 64 lower-case hexadecimal digits")]
    NoDigest {
        /// As it was found.
        given: String,
    },
    /// Content that is not what its digest says.
    #[error("{what} has digest {found}, not {expected}: it is damaged or was tampered with; fetch it again")]
    Mismatch {
        /// The blob or layer.
        what: String,
        /// The digest it should have.
        expected: Digest,
        /// The digest it has.
        found: Digest,
    },
    /// Content that is not as long as its descriptor says.
    #[error(
        "{what} is {found} bytes long, not {expected}: it is damaged or was tampered with; fetch it again"
    )]
    Length {
        /// The blob or layer.
        what: String,
        /// The length it should have.
        expected: u64,
        /// The length it has.
        found: u64,
    },
    /// An archive whose content cannot be taken.
    #[error("{archive}: {at}{}", at.fault.fix())]
    Archive {
        /// Which archive.
        archive: String,
        /// The entry and what is wrong with it.
        at: At,
    },
    /// Something that is no image in a form that is understood.
    #[error("{what} is no image archive: {rule}")]
    NotAnImage {
        /// The file.
        what: String,
        /// What is missing or wrong.
        rule: String,
    },
    /// A compression that is not built in.
    #[error("{what} is compressed with {kind}, which is not built in; unpack it first, as with `{fix}`")]
    Compression {
        /// The stream.
        what: String,
        /// Its compression.
        kind: &'static str,
        /// A command that unpacks it.
        fix: &'static str,
    },
    /// JSON that does not say what it must.
    #[error("{what} is not the JSON it must be")]
    Json {
        /// The document.
        what: String,
        /// Where and how it is wrong.
        source: serde_json::Error,
    },
    /// No image in an index is for the platform wanted.
    #[error("no image for {wanted} in {what}, only for {}; choose one with --platform", offered.join(", "))]
    NoPlatform {
        /// The archive.
        what: String,
        /// `os/architecture[/variant]`.
        wanted: String,
        /// Those it has.
        offered: Vec<String>,
    },
    /// A change to an image's configuration that cannot be understood.
    #[error("cannot make the change {given:?}: {rule}")]
    BadChange {
        /// As it was typed.
        given: String,
        /// The rule it breaks.
        rule: String,
    },
    /// An image that containers stand on.
    #[error("image {image} is in use by container {}; remove that first, or force it with -f", containers.join(", "))]
    InUse {
        /// The image.
        image: String,
        /// The containers' identities.
        containers: Vec<String>,
    },
    /// An image that would lose several names at once.
    #[error("image {image} has several names ({}); remove them one by one, or all with -f", names.join(", "))]
    ManyNames {
        /// The image.
        image: String,
        /// Its names.
        names: Vec<String>,
    },
    /// A part of the store that is gone or was changed by hand.
    #[error("{what} in the store is damaged: {rule}; remove the image with `uctr rmi -f` and load it again")]
    Damaged {
        /// The part.
        what: String,
        /// What is wrong with it.
        rule: String,
    },
}

impl Error {
    /// Wraps an error of the operating system with what was tried on what.
    pub(super) fn io(act: &'static str, path: impl AsRef<Path>) -> impl FnOnce(io::Error) -> Self {
        let path = path.as_ref().to_owned();
        move |source| Self::Io { act, path, source }
    }

    /// The same for the errors of rustix.
    pub(super) fn os(act: &'static str, path: impl AsRef<Path>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let wrap = Self::io(act, path);
        move |errno| wrap(errno.into())
    }
}

/// A fault and its place in an archive.
#[derive(Debug)]
pub struct At {
    /// The entry's name as the archive has it, if the fault has one.
    pub entry: Option<OsString>,
    /// Bytes from the archive's start (unpacked) to the header or to where the fault was seen.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.entry {
            Some(entry) => write!(f, "entry {entry:?} (at byte {}): {}", self.offset, self.fault),
            None => write!(f, "at byte {}: {}", self.offset, self.fault),
        }
    }
}

/// What is wrong with an archive or with an entry of one.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // The messages say it.
#[non_exhaustive]
pub enum Fault {
    #[error("the archive ends in the middle of it: it was cut short; fetch or make it again")]
    Truncated,
    #[error(
        "the archive ends without its end mark (two zero blocks): it was cut short; fetch or make it again"
    )]
    NoEndMark,
    #[error("a single zero block is no end mark, and more follows: the archive is damaged")]
    LoneZeroBlock,
    #[error("no tar header: its checksum is wrong; the archive is damaged or of another kind")]
    Checksum,
    #[error("the header's field for {0} is no number")]
    Number(&'static str),
    #[error("the extended header is no list of `LENGTH KEY=VALUE` records (pax(1))")]
    Pax,
    #[error("the extended header is longer than {0} bytes")]
    LongHeader(u64),
    #[error("an extended header that no entry follows")]
    Dangling,
    #[error("the map of its holes is wrong: {0}")]
    Sparse(&'static str),
    #[error("entries of type {0:?} are not known")]
    Type(char),
    #[error("its name may not have `..` in it, which could lead out of the layer")]
    DotDot,
    #[error("its link's target may not have `..` in it, which could lead out of the layer")]
    LinkDotDot,
    #[error("a name may not have a NUL byte in it")]
    Nul,
    #[error("its name has a component longer than 255 bytes")]
    LongName,
    #[error("its name is longer than 4095 bytes")]
    LongPath,
    #[error("only a directory can be the root of a layer")]
    Root,
    #[error("its parent {0:?} is a symbolic link that leads nowhere in this layer")]
    DanglingParent(OsString),
    #[error("its parent {0:?} is not a directory")]
    FileParent(OsString),
    #[error("its parent {0:?} is a loop of symbolic links")]
    LoopParent(OsString),
    #[error("its hard link leads to {0:?}, which is not in this layer")]
    NoTarget(OsString),
    #[error("its hard link leads to {0:?}, which is a directory")]
    DirectoryTarget(OsString),
    #[error("its symbolic link leads to no name at all")]
    EmptyLink,
    #[error("its owner {0} is not below 2^32 - 1")]
    Owner(u64),
    #[error("its device number {0}:{1} is out of range")]
    Device(u64, u64),
    #[error("{act}: {source}")]
    Io { act: &'static str, source: io::Error },
}

impl Fault {
    /// What can be done, where the fault does not say it.
    fn fix(&self) -> &'static str {
        match self {
            Self::Truncated | Self::NoEndMark | Self::LoneZeroBlock | Self::Checksum | Self::Io { .. } => "",
            _ => "; nothing of the archive was kept, make it anew without such an entry",
        }
    }

    /// Wraps an error of the operating system with what was tried.
    pub(super) fn io(act: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { act, source }
    }

    /// The same for the errors of rustix.
    pub(super) fn os(act: &'static str) -> impl FnOnce(rustix::io::Errno) -> Self {
        move |errno| Self::Io { act, source: errno.into() }
    }
}
