//! One branch alone: what each of its directories holds, and by which marks.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, openat, statat};

use super::{ToolError, joined};
use crate::branch::{BranchSpec, open_below};
use crate::error::Errno;
use crate::marks::{
    DEVICE_PREFIX, DirMarks, Format, Means, OPAQUE, Whiteout, is_long, meaning, read_metacopy, read_small,
    whiteout_by, whiteout_name,
};
use crate::place::Place;
use crate::types::FileKind;
use crate::work::read_names;

/// The root of a branch, open.
#[derive(Debug)]
pub(super) struct Layer {
    pub(super) root: Arc<OwnedFd>,
    pub(super) path: PathBuf,
    /// Names that begin with `.wh.` are the user's in kernel overlay's format, and marks in every other.
    pub(super) format: Format,
    /// Whether marks count at all: not in a branch that is `ro` without `+wh`.
    marked: bool,
}

/// One directory of a branch, read whole.
#[derive(Debug)]
pub(super) struct LayerDir {
    pub(super) fd: Arc<OwnedFd>,
    /// What its marks mean.
    pub(super) marks: DirMarks,
    /// A mark `.wh..wh..opq` is there.
    pub(super) opaque_file: bool,
    /// What the branch says of each name.
    pub(super) names: BTreeMap<Vec<u8>, Said>,
    /// Names that belong to aufs or to this union and say nothing of others.
    pub(super) private: Vec<Vec<u8>>,
    /// Whiteouts of long names whose own name does not fit what they hold.
    pub(super) strays: Vec<Vec<u8>>,
}

/// What a branch says of one name.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said {
    /// The object, unless it is itself a whiteout.
    pub(super) object: Option<Stat>,
    /// A file `.wh.NAME`, and what it is: a whiteout is an empty regular file.
    pub(super) file: Option<Stat>,
    /// A character device 0:0 that is a whiteout.
    pub(super) device: bool,
    /// An empty file with the whiteout attribute.
    pub(super) xattr: bool,
    /// A mark tells that the character device 0:0 of this name is a device.
    pub(super) marked_device: bool,
}

impl Said {
    /// Whether a whiteout of the name is there in any format.
    pub(super) const fn hidden(&self) -> bool {
        self.file.is_some() || self.device || self.xattr
    }

    /// The directory, if the object is one.
    pub(super) fn is_dir(&self) -> bool {
        self.object.is_some_and(|stat| kind(&stat) == FileKind::Directory)
    }
}

/// The kind of an object.
pub(super) const fn kind(stat: &Stat) -> FileKind {
    FileKind::from_mode(stat.st_mode)
}

/// A whiteout is an empty regular file; that of a long name has the name as its content.
pub(super) fn is_whiteout_file(stat: &Stat, name: &[u8]) -> bool {
    kind(stat) == FileKind::Regular && (stat.st_size == 0) != is_long(name)
}

/// The redirect of a copy of the metadata only, or nothing for "below, by the same name"; such a copy has a size, and
/// perhaps blocks with its attributes.
pub(super) fn metacopy(stat: &Stat, place: &Place) -> Option<Option<Vec<u8>>> {
    if kind(stat) == FileKind::Regular && stat.st_size > 0 { read_metacopy(place) } else { None }
}

impl Layer {
    /// Opens the directory that is a branch.
    pub(super) fn open(spec: &BranchSpec, format: Format) -> Result<Self, ToolError> {
        let path = &spec.path;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(CWD, path, flags, Mode::empty()).map_err(|source| {
            let hint = if source == Errno::NOTDIR { " (name the directory that is the branch)" } else { "" };
            ToolError::Branch { path: path.to_owned(), op: "open", source, hint }
        })?;
        Ok(Self { root: Arc::new(root), path: path.clone(), format, marked: spec.perm.whiteouts })
    }

    /// Where an object is, for people.
    pub(super) fn real(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.path.clone() } else { self.path.join(OsStr::from_bytes(path)) }
    }

    /// Reads the directory at `path` from the root.
    pub(super) fn read(&self, path: &[u8]) -> Result<LayerDir, ToolError> {
        let mut dir = self.open_dir(path)?;
        let names = read_names(&dir.fd).map_err(ToolError::branch(path, "getdents64"))?;
        self.note(&mut dir, path, names.iter().map(|(name, ..)| name.as_slice()))?;
        Ok(dir)
    }

    /// The directory at `path`, of which only one name is looked at.
    pub(super) fn ask(&self, path: &[u8], name: &[u8]) -> Result<LayerDir, ToolError> {
        let mut dir = self.open_dir(path)?;
        let (whiteout, device) = (whiteout_name(name), [DEVICE_PREFIX, name].concat());
        self.note(&mut dir, path, [name, whiteout.as_slice(), &device].into_iter())?;
        Ok(dir)
    }

    /// The directory at `path`, of which only the marks are read.
    pub(super) fn open_dir(&self, path: &[u8]) -> Result<LayerDir, ToolError> {
        let fd = Arc::new(open_below(&self.root, path).map_err(ToolError::branch(path, "open"))?);
        let marks = match self.marked {
            true => DirMarks::read(&fd, self.format == Format::Aufs),
            false => Ok(DirMarks::default()),
        };
        let marks = marks.map_err(ToolError::branch(path, "opaque mark"))?;
        let (names, private, strays) = Default::default();
        Ok(LayerDir { fd, marks, opaque_file: false, names, private, strays })
    }

    fn note<'n>(
        &self,
        dir: &mut LayerDir,
        path: &[u8],
        names: impl Iterator<Item = &'n [u8]>,
    ) -> Result<(), ToolError> {
        for name in names {
            let means = match (self.marked, self.format) {
                (true, Format::Overlay) => Means::Object,
                (true, Format::Aufs) => meaning(name),
                // They are hidden all the same.
                (false, _) if meaning(name) == Means::Object => Means::Object,
                (false, _) => Means::Private,
            };
            match dir.note(name, means) {
                // Asked for and absent, or taken away by a mounted union meanwhile.
                Ok(()) | Err(Errno::NOENT | Errno::NAMETOOLONG) => {}
                Err(errno) => return Err(ToolError::branch(&joined(path, name), "stat")(errno)),
            }
        }
        if self.marked {
            dir.settle();
        }
        Ok(())
    }
}

impl LayerDir {
    fn said(&mut self, name: &[u8]) -> &mut Said {
        self.names.entry(name.to_vec()).or_default()
    }

    fn note(&mut self, name: &[u8], means: Means<'_>) -> Result<(), Errno> {
        let stat = statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW)?;
        match means {
            Means::Object => self.said(name).object = Some(stat),
            Means::Whiteout(hidden) => self.said(hidden).file = Some(stat),
            Means::LongWhiteout => {
                let hidden = read_small(&self.fd, name)?;
                if *whiteout_name(&hidden) == *name {
                    self.said(&hidden).file = Some(stat);
                } else {
                    self.strays.push(name.to_vec());
                }
            }
            Means::Device(device) => self.said(device).marked_device = true,
            Means::Private if name == OPAQUE => self.opaque_file = true,
            Means::Private => self.private.push(name.to_vec()),
        }
        Ok(())
    }

    /// All names are known: tells objects from the whiteouts that look like objects.
    fn settle(&mut self) {
        let xwhiteouts = self.marks.note().is_some_and(|note| note.xwhiteouts);
        for (name, said) in &mut self.names {
            let Some(stat) = said.object else { continue };
            let place = || Place::Name(Arc::clone(&self.fd), name.as_slice().into());
            let whiteout =
                whiteout_by(&stat, xwhiteouts, place, || Ok(said.marked_device)).unwrap_or_default();
            said.device = whiteout == Some(Whiteout::Device);
            said.xattr = whiteout == Some(Whiteout::Xattr);
            if whiteout.is_some() {
                said.object = None;
            }
        }
    }

    /// Where the object of a name is.
    pub(super) fn place(&self, name: &[u8]) -> Place {
        Place::Name(Arc::clone(&self.fd), name.into())
    }

    /// The objects, by name.
    pub(super) fn objects(&self) -> impl Iterator<Item = (&[u8], &Said)> {
        self.names.iter().filter(|(_, said)| said.object.is_some()).map(|(name, said)| (&**name, said))
    }

    /// The names that are whited out and have no object.
    pub(super) fn whiteouts(&self) -> impl Iterator<Item = &[u8]> {
        self.names.iter().filter(|(_, said)| said.object.is_none() && said.hidden()).map(|(name, _)| &**name)
    }
}
