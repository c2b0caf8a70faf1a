//! `unionfs where`: which branch holds a path, and what lies beneath.
//!
//! The branches are looked at directly, by the same rules as the union follows: a whiteout or an opaque directory ends
//! what shows, a redirect leads on elsewhere. What is cut off is told too.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::layer::{Layer, kind, metacopy};
use super::subject::{branches_of, format_of, workdir_of};
use super::{ToolError, joined};
use crate::branch::BranchSpec;
use crate::error::Errno;
use crate::marks::{Format, whiteout_name};
use crate::types::FileKind;
use crate::union::absolute;
use crate::work::{LINKS, default_workdir};

/// Redirects that may lead to one another.
const REDIRECTS: usize = 40;

/// What a branch's object or whiteout means for the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This is what users see.
    Holds,
    /// What is in this directory shows in the merged one.
    Merges,
    /// This whiteout hides what lies below.
    Hides,
    /// This has the content of a file of which the one above has the metadata.
    Data,
    /// Something above hides it.
    Beneath,
}

/// What a branch has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An object of this kind.
    Object(FileKind),
    /// A whiteout, of any format.
    Whiteout,
}

/// What one branch has for a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The branch, 0 being that of the highest priority.
    pub branch: usize,
    /// What it means for the path.
    pub role: Role,
    /// What it is.
    pub what: What,
    /// Where it is, branch included.
    pub real: PathBuf,
    /// Nothing of lower branches shows in this directory.
    pub opaque: bool,
    /// This directory merges with this path of the branches below.
    pub redirect: Option<Vec<u8>>,
    /// The path from the root of the branch.
    at: Vec<u8>,
    /// The path in the union of the branches below that a directory merges with.
    below: Vec<u8>,
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Holds => "holds",
            Self::Merges => "merges",
            Self::Hides => "hides",
            Self::Data => "data",
            Self::Beneath => "beneath",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Object(FileKind::Regular) => "file",
            Self::Object(FileKind::Directory) => "directory",
            Self::Object(FileKind::Symlink) => "symlink",
            Self::Object(FileKind::Fifo) => "fifo",
            Self::Object(FileKind::Socket) => "socket",
            Self::Object(FileKind::CharDevice) => "char",
            Self::Object(FileKind::BlockDevice) => "block",
            Self::Whiteout => "whiteout",
        })
    }
}

/// What each branch has for `path`, which lies on a mounted union, by priority.
///
/// The last component is not followed if it is a symbolic link. The path need not exist: then no place
/// [holds](Role::Holds) it.
///
/// # Errors
///
/// A path that lies on no mounted union, or a branch that cannot be read.
pub fn whereis(path: &Path) -> Result<Vec<Place>, ToolError> {
    let (root, inside) = on_union(path)?;
    let specs = branches_of(&root)?.ok_or_else(|| ToolError::Refused {
        path: root.clone(),
        why: "this is not the root of a mounted union (a bind mount of part of one does not tell its branches)",
    })?;
    let format = format_of(&root)?;
    let layers = specs.iter().map(|spec| {
        let own = format == Format::Overlay && spec.perm.writable();
        Layer::open(spec, if own { Format::Overlay } else { Format::Aufs })
    });
    let layers = Layers(layers.collect::<Result<_, _>>()?);
    let mut places = layers.walk(0, &inside, REDIRECTS)?;
    if let Some(copy) = copy_by_another_name(path, &specs, &places, &root, format)? {
        let above = places.iter().position(|place| place.branch >= copy.branch).unwrap_or_default();
        places
            .iter_mut()
            .filter(|place| place.role == Role::Holds)
            .for_each(|place| place.role = Role::Beneath);
        places.insert(above, copy);
    }
    Ok(places)
}

/// If a hard-linked lower file was copied up by another of its names, that copy is what this name shows. The index
/// of such copies has it by `st_ino`.
fn copy_by_another_name(
    path: &Path,
    specs: &[BranchSpec],
    places: &[Place],
    root: &Path,
    format: Format,
) -> Result<Option<Place>, ToolError> {
    let Some(holder) = places.iter().find(|place| place.role == Role::Holds) else { return Ok(None) };
    let Ok(stat) = path.symlink_metadata() else { return Ok(None) };
    if stat.is_dir() {
        return Ok(None);
    }
    let named = workdir_of(root)?;
    let first = specs.iter().position(|spec| spec.perm.writable());
    for (branch, spec) in specs[..holder.branch].iter().enumerate().filter(|(_, spec)| spec.perm.writable()) {
        let work = match &named {
            Some(named) if first == Some(branch) => named.clone(),
            _ => default_workdir(&spec.path, format),
        };
        let real = work.join(LINKS).join(stat.ino().to_string());
        if real.symlink_metadata().is_ok() {
            let what = What::Object(FileKind::from_mode(stat.mode()));
            return Ok(Some(Place { branch, role: Role::Holds, what, real, ..holder.clone() }));
        }
    }
    Ok(None)
}

/// The root of the union that a path lies on, and the path from there.
fn on_union(path: &Path) -> Result<(PathBuf, Vec<u8>), ToolError> {
    if branches_of(path).is_ok_and(|branches| branches.is_some()) {
        return Ok((path.to_owned(), Vec::new()));
    }
    let fail = |source: std::io::Error| {
        let source = Errno::from_io_error(&source).unwrap_or(Errno::IO);
        ToolError::Branch { path: path.to_owned(), op: "realpath", source, hint: "" }
    };
    let full = match path.file_name() {
        Some(name) => {
            let dir =
                path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
            dir.canonicalize().map_err(fail)?.join(name)
        }
        None => path.canonicalize().map_err(fail)?,
    };
    let device = |dir: &Path| dir.symlink_metadata().map(|stat| stat.dev());
    let mut root = full.parent().unwrap_or(&full);
    let union = device(root).map_err(fail)?;
    while let Some(above) = root.parent().filter(|above| device(above).is_ok_and(|device| device == union)) {
        root = above;
    }
    let inside = full.strip_prefix(root).unwrap_or_else(|_| Path::new(""));
    Ok((root.to_owned(), inside.as_os_str().as_bytes().to_vec()))
}

/// The branches, by priority.
struct Layers(Vec<Layer>);

/// What one branch has, before it is known what that means.
struct Candidate {
    branch: usize,
    /// The path of the object, or of what it would be.
    at: Vec<u8>,
    object: Option<FileKind>,
    hidden: bool,
    /// The directory it is in shows in the merged one.
    shows: bool,
    /// Where the whiteout is.
    whiteout: Vec<u8>,
    /// What the directory it is in merges with, in the union of the branches below.
    above: Vec<u8>,
    name: Vec<u8>,
}

impl Layers {
    /// What the branches from `first` on have for a path.
    fn walk(&self, first: usize, path: &[u8], left: usize) -> Result<Vec<Place>, ToolError> {
        let root = |branch| Candidate {
            branch,
            at: Vec::new(),
            object: Some(FileKind::Directory),
            hidden: false,
            shows: true,
            whiteout: Vec::new(),
            above: Vec::new(),
            name: Vec::new(),
        };
        let mut places = self.fold((first..self.0.len()).map(root).collect(), left)?;
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let mut candidates = Vec::new();
            for place in &places {
                candidates.extend(self.ask(place, name)?);
            }
            places = self.fold(candidates, left)?;
        }
        Ok(places)
    }

    fn ask(&self, dir: &Place, name: &[u8]) -> Result<Option<Candidate>, ToolError> {
        if dir.what != What::Object(FileKind::Directory) {
            return Ok(None);
        }
        let asked = self.0[dir.branch].ask(&dir.at, name)?;
        let Some(said) = asked.names.get(name) else { return Ok(None) };
        let at = joined(&dir.at, name);
        let whiteout = match said.file {
            Some(_) => joined(&dir.at, &whiteout_name(name)),
            None => at.clone(),
        };
        Ok(Some(Candidate {
            branch: dir.branch,
            at,
            object: said.object.as_ref().map(kind),
            hidden: said.hidden(),
            shows: dir.role != Role::Beneath,
            whiteout,
            above: dir.below.clone(),
            name: name.to_vec(),
        }))
    }

    /// Tells what shows of what the branches have.
    fn fold(&self, candidates: Vec<Candidate>, left: usize) -> Result<Vec<Place>, ToolError> {
        let mut places: Vec<Place> = Vec::new();
        let (mut open, mut data) = (true, None);
        for candidate in candidates {
            let shows = open && candidate.shows;
            let Some(object) = candidate.object else {
                let role = if shows { Role::Hides } else { Role::Beneath };
                open &= !candidate.shows;
                places.push(self.place(&candidate, role, What::Whiteout));
                continue;
            };
            let is_dir = object == FileKind::Directory;
            let first = !places.iter().any(|place| place.role == Role::Holds);
            let role = match (shows, first, is_dir) {
                (true, true, _) => Role::Holds,
                (true, false, true) => Role::Merges,
                _ => Role::Beneath,
            };
            let mut place = self.place(&candidate, role, What::Object(object));
            if is_dir {
                let marks = self.0[place.branch].open_dir(&place.at)?.marks;
                place.opaque = marks.opaque || candidate.hidden;
                place.redirect = marks.redirect.map(|target| absolute(&candidate.above, &target));
                if let Some(target) = &place.redirect {
                    place.below.clone_from(target);
                }
            }
            let leads = place.redirect.clone().filter(|_| role != Role::Beneath);
            open &= !candidate.shows || (is_dir && role != Role::Beneath && !place.opaque && leads.is_none());
            if role == Role::Holds && object == FileKind::Regular {
                data = self.data(&candidate, left)?;
            }
            let branch = place.branch;
            places.push(place);
            if let Some(target) = leads {
                places.extend(self.follow(branch, &target, left)?);
            }
        }
        if let Some(data) = data {
            places.retain(|place| (place.branch, &place.at) != (data.branch, &data.at));
            places.push(data);
        }
        places.sort_by_key(|place| place.branch);
        Ok(places)
    }

    /// The file with the content of one that has the metadata only.
    fn data(&self, file: &Candidate, left: usize) -> Result<Option<Place>, ToolError> {
        let dir = &file.at[..file.at.len() - file.name.len()];
        let dir = self.0[file.branch].ask(dir.strip_suffix(b"/").unwrap_or(dir), &file.name)?;
        let stat = dir.names.get(&file.name).and_then(|said| said.object);
        let redirect = stat.and_then(|stat| metacopy(&stat, &dir.place(&file.name)));
        let Some(redirect) = redirect else { return Ok(None) };
        let target = absolute(&file.above, redirect.as_deref().unwrap_or(&file.name));
        let places = self.walk(file.branch + 1, &target, hop(&target, left)?)?;
        let has =
            |place: &Place| place.what == What::Object(FileKind::Regular) && place.role != Role::Beneath;
        // The file there may be such a copy, too: then the lower one has the content.
        let found = places.into_iter().rfind(has);
        Ok(found.map(|place| Place { role: Role::Data, ..place }))
    }

    /// The directories that a redirect in `branch` leads to.
    fn follow(&self, branch: usize, target: &[u8], left: usize) -> Result<Vec<Place>, ToolError> {
        let mut places = self.walk(branch + 1, target, hop(target, left)?)?;
        places.retain(|place| {
            matches!(place.role, Role::Holds | Role::Merges)
                && place.what == What::Object(FileKind::Directory)
        });
        places.iter_mut().for_each(|place| place.role = Role::Merges);
        Ok(places)
    }

    fn place(&self, candidate: &Candidate, role: Role, what: What) -> Place {
        let at = if what == What::Whiteout { &candidate.whiteout } else { &candidate.at };
        let mut real = self.0[candidate.branch].path.clone();
        if !at.is_empty() {
            real.push(OsStr::from_bytes(at));
        }
        Place {
            branch: candidate.branch,
            role,
            what,
            real,
            opaque: false,
            redirect: None,
            at: candidate.at.clone(),
            below: if candidate.name.is_empty() {
                Vec::new()
            } else {
                joined(&candidate.above, &candidate.name)
            },
        }
    }
}

/// One redirect less to follow.
fn hop(target: &[u8], left: usize) -> Result<usize, ToolError> {
    left.checked_sub(1)
        .ok_or_else(|| ToolError::refused(target, "redirects lead to one another: see 'unionfs check'"))
}
