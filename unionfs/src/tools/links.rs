//! Hard-linked lower files of which one name was copied up: where their further names are.
//!
//! The union keeps such a file one file: the index in the work directory leads every name of the lower inode to the
//! copy. A layer has no such index, so what it says of one name it must say of all.

use std::collections::{BTreeMap, BTreeSet};

use super::ToolError;
use super::changes::{Walk, look, names_of, walk};
use super::joined;
use crate::place::Place;
use crate::types::{FileKind, Ino};
use crate::union::Union;

/// Attributes that tell where a copy came from.
const ORIGINS: [&[u8]; 4] =
    [b"trusted.unionfs.origin", b"user.unionfs.origin", b"trusted.overlay.origin", b"user.overlay.origin"];

/// The record of its origin that an object bears, if any; it is not looked into.
pub(super) fn origin_of(place: &Place) -> Option<(&'static [u8], Vec<u8>)> {
    ORIGINS.iter().find_map(|&name| Some((name, place.read_xattr(name).ok()?)))
}

/// The objects of a union that are no directories.
pub(super) fn identities(union: &Union) -> Result<BTreeSet<Ino>, ToolError> {
    let mut all = Found { union, names: BTreeMap::new() };
    all.merged(b"", Ino::ROOT)?;
    Ok(all.names.into_keys().collect())
}

/// Names of files that the upper has under other names only.
#[derive(Debug, Default)]
pub(super) struct Extras(BTreeSet<Vec<u8>>);

impl Extras {
    /// Looks for them, in the whole merged view if there may be any.
    pub(super) fn find(walk: &Walk<'_>) -> Result<Self, ToolError> {
        let mut groups = walk.merged.copied_groups().map_err(ToolError::merged(b""))?;
        if groups.is_empty() {
            return Ok(Self::default());
        }
        let mut found = Found { union: walk.merged, names: BTreeMap::new() };
        found.upper(walk, b"")?;
        groups.retain(|ino, nlink| {
            let known = found.names.get(ino).map_or(0, Vec::len);
            usize::try_from(*nlink) != Ok(known)
        });
        if groups.is_empty() {
            return Ok(Self::default());
        }
        let mut all = Found { union: walk.merged, names: BTreeMap::new() };
        all.merged(b"", Ino::ROOT)?;
        let missing = groups.keys().flat_map(|ino| all.names.remove(ino).unwrap_or_default());
        let mut extras: BTreeSet<_> = missing.collect();
        for path in found.names.values().flatten() {
            extras.remove(path);
        }
        Ok(Self(extras))
    }

    /// The names in the directory `path` by which further names are reached.
    pub(super) fn children(&self, path: &[u8]) -> BTreeSet<Vec<u8>> {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let below = self.0.range(start.clone()..).map_while(|full| full.strip_prefix(start.as_slice()));
        below.filter_map(|rest| rest.split(|&byte| byte == b'/').next()).map(<[u8]>::to_vec).collect()
    }
}

/// Names by the identity of their file.
struct Found<'a> {
    union: &'a Union,
    names: BTreeMap<Ino, Vec<Vec<u8>>>,
}

impl Found<'_> {
    /// Those of the upper.
    fn upper(&mut self, changes: &Walk<'_>, path: &[u8]) -> Result<(), ToolError> {
        let dir = changes.layer.read(path)?;
        let objects: Vec<_> = dir.objects().map(|(name, said)| (joined(path, name), *said)).collect();
        drop(dir);
        for (full, said) in objects {
            if said.is_dir() {
                self.upper(changes, &full)?;
            } else if said.object.is_some_and(|stat| stat.st_nlink > 1)
                && let Some((node, _)) = walk(self.union, &full)?
            {
                self.names.entry(node).or_default().push(full);
                self.union.forget(node, 1);
            }
        }
        Ok(())
    }

    /// Those of the merged view.
    fn merged(&mut self, path: &[u8], dir: Ino) -> Result<(), ToolError> {
        for name in names_of(self.union, dir).map_err(ToolError::merged(path))? {
            let full = joined(path, &name);
            let Some(entry) = look(self.union, &full, dir, &name)? else { continue };
            if entry.attr.kind() == FileKind::Directory {
                self.merged(&full, entry.node)?;
            } else {
                self.names.entry(entry.node).or_default().push(full);
            }
            self.union.forget(entry.node, 1);
        }
        Ok(())
    }
}
