//! The walk over an upper that `diff` and `export` share: each change once, in an order that is always the same.
//!
//! A directory comes right before what is in it (tools that unpack a layer set a directory's times once they have left
//! it): its opaque mark, its whiteouts by name, its objects by name. Lower branches are looked at, by name, only where the upper has a change; they are walked in two cases, since
//! there the upper does not hold what a user sees: below a redirected directory, and to find the further names of a
//! hard-linked file that was copied up by one of them ([`super::links`]).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::layer::{Layer, LayerDir, Said};
use super::links::{Extras, origin_of};
use super::{Subject, ToolError, joined};
use crate::types::{Entry, FileKind, Ino, Name};
use crate::union::Union;

/// Who is told of the changes.
pub(super) trait Visitor {
    /// An object that the upper brings: new, changed, or copied up.
    fn object(&mut self, merged: &Union, object: &Object<'_>) -> Result<(), ToolError>;
    /// Nothing from below shows in this directory.
    fn opaque(&mut self, path: &[u8]) -> Result<(), ToolError>;
    /// A name of a lower branch that is gone.
    fn hidden(&mut self, hidden: &Hidden<'_>) -> Result<(), ToolError>;
}

/// An object that the upper brings.
#[derive(Debug)]
pub(super) struct Object<'a> {
    pub(super) path: &'a [u8],
    /// What the merged view says of it.
    pub(super) entry: Entry,
    /// Whether the view without the upper has an object by this path, as far as that is known.
    pub(super) before: bool,
}

/// A name that is gone.
#[derive(Debug)]
pub(super) struct Hidden<'a> {
    pub(super) path: &'a [u8],
    /// Whether the view without the upper has it, as far as that is known.
    pub(super) before: bool,
    /// An opaque mark above says so already.
    pub(super) implied: bool,
}

/// An upper and its surroundings.
#[derive(Debug)]
pub(super) struct Walk<'a> {
    pub(super) layer: &'a Layer,
    pub(super) merged: &'a Union,
    /// The view without the upper, where it is known.
    base: Option<&'a Union>,
    /// The lower branches are known, if only to be none.
    known: bool,
    extras: Extras,
}

/// A directory on the way.
#[derive(Clone, Copy, Debug)]
struct Dir {
    merged: Ino,
    /// The directory of this path in the view without the upper, if that has one.
    base: Option<Ino>,
    from: From,
}

/// A name on the way.
#[derive(Clone, Copy, Debug)]
struct Child {
    from: From,
    /// It bears the record of a copy-up; looked for only where the lower branches are not known.
    copied: bool,
}

/// Where a directory's changes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    /// In the upper's directory; `opaque` by a whiteout beside it.
    Upper { opaque: bool },
    /// All that the merged view has is new here: a directory above was redirected.
    Merged,
    /// Only further names of hard-linked files are in it or below.
    Extras,
}

impl<'a> Walk<'a> {
    /// A walk over `layer`, the upper of `subject`.
    pub(super) fn new(
        subject: &Subject,
        layer: &'a Layer,
        merged: &'a Union,
        base: Option<&'a Union>,
    ) -> Result<Self, ToolError> {
        let mut walk = Self { layer, merged, base, known: subject.knows_below(), extras: Extras::default() };
        if base.is_some() {
            walk.extras = Extras::find(&walk)?;
        }
        Ok(walk)
    }

    /// Walks the whole upper, the root's own object included.
    pub(super) fn run(&self, visitor: &mut dyn Visitor) -> Result<(), ToolError> {
        let attr = self.merged.getattr(Ino::ROOT).map_err(ToolError::merged(b""))?;
        let entry = Entry { node: Ino::ROOT, attr };
        let root = Dir {
            merged: Ino::ROOT,
            base: self.base.map(|_| Ino::ROOT),
            from: From::Upper { opaque: false },
        };
        visitor.object(self.merged, &Object { path: b"", entry, before: true })?;
        self.dir(b"", root, visitor)
    }

    fn dir(&self, path: &[u8], dir: Dir, visitor: &mut dyn Visitor) -> Result<(), ToolError> {
        let here = match dir.from {
            From::Upper { .. } => Some(self.layer.read(path)?),
            From::Merged | From::Extras => None,
        };
        let redirected = here.as_ref().is_some_and(|here| here.marks.redirect.is_some());
        if redirected && !self.known {
            return Err(ToolError::refused(
                path,
                "the directory was renamed and most of it is in the branches below: name them with --lower",
            ));
        }
        let opaque = redirected
            || match (&here, dir.from) {
                (Some(here), From::Upper { opaque }) => opaque || here.marks.opaque,
                _ => false,
            };
        let whole = redirected || dir.from == From::Merged;
        let mut children: BTreeMap<Vec<u8>, Child> = BTreeMap::new();
        let only = |from| move |name| (name, Child { from, copied: false });
        children.extend(self.extras.children(path).into_iter().map(only(From::Extras)));
        if whole {
            let all = names_of(self.merged, dir.merged).map_err(ToolError::merged(path))?;
            children.extend(all.into_iter().map(only(From::Merged)));
        } else if let Some(here) = &here {
            children
                .extend(here.objects().map(|(name, said)| (name.to_vec(), self.of_upper(here, name, said))));
        }
        if opaque {
            visitor.opaque(path)?;
        }
        if opaque || whole {
            self.lost(path, dir.base, &children, visitor)?;
        } else if let Some(here) = &here {
            self.whited_out(path, &dir, here, visitor)?;
        }
        // A tree may be deeper than a process may have files open.
        drop(here);
        children.into_iter().try_for_each(|(name, child)| self.child(path, &dir, &name, child, visitor))
    }

    fn of_upper(&self, here: &LayerDir, name: &[u8], said: &Said) -> Child {
        let copied = !self.known && origin_of(&here.place(name)).is_some();
        Child { from: From::Upper { opaque: said.file.is_some() }, copied }
    }

    /// Tells of one object and what is in it.
    fn child(
        &self,
        path: &[u8],
        dir: &Dir,
        name: &[u8],
        child: Child,
        visitor: &mut dyn Visitor,
    ) -> Result<(), ToolError> {
        let full = joined(path, name);
        let Some(entry) = look(self.merged, &full, dir.merged, name)? else {
            // A mounted union may have taken it away meanwhile.
            return Ok(());
        };
        let base = self.in_base(&full, dir.base, name)?;
        let before = if self.known { base.is_some() } else { child.copied };
        visitor.object(self.merged, &Object { path: &full, entry, before })?;
        if entry.attr.kind() == FileKind::Directory {
            let is_dir = |base: &Entry| base.attr.kind() == FileKind::Directory;
            let below =
                Dir { merged: entry.node, base: base.filter(is_dir).map(|base| base.node), from: child.from };
            self.dir(&full, below, visitor)?;
        }
        self.merged.forget(entry.node, 1);
        self.release(base);
        Ok(())
    }

    /// Tells of the whiteouts that stand alone.
    fn whited_out(
        &self,
        path: &[u8],
        dir: &Dir,
        here: &LayerDir,
        visitor: &mut dyn Visitor,
    ) -> Result<(), ToolError> {
        for name in here.whiteouts() {
            let full = joined(path, name);
            let base = self.in_base(&full, dir.base, name)?;
            self.release(base);
            let before = !self.known || base.is_some();
            visitor.hidden(&Hidden { path: &full, before, implied: false })?;
        }
        Ok(())
    }

    /// Tells of the names that the branches below have and an opaque directory has not.
    fn lost(
        &self,
        path: &[u8],
        base: Option<Ino>,
        children: &BTreeMap<Vec<u8>, Child>,
        visitor: &mut dyn Visitor,
    ) -> Result<(), ToolError> {
        let (Some(union), Some(base)) = (self.base, base) else { return Ok(()) };
        for name in names_of(union, base).map_err(ToolError::merged(path))? {
            if !children.contains_key(&name) {
                let full = joined(path, &name);
                visitor.hidden(&Hidden { path: &full, before: true, implied: true })?;
            }
        }
        Ok(())
    }

    /// The object of this path in the view without the upper, its node held.
    fn in_base(&self, path: &[u8], dir: Option<Ino>, name: &[u8]) -> Result<Option<Entry>, ToolError> {
        let (Some(union), Some(dir)) = (self.base, dir) else { return Ok(None) };
        look(union, path, dir, name)
    }

    fn release(&self, base: Option<Entry>) {
        if let (Some(union), Some(entry)) = (self.base, base) {
            union.forget(entry.node, 1);
        }
    }
}

/// The names of a directory of a union.
pub(super) fn names_of(union: &Union, dir: Ino) -> crate::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    union.read_dir(dir, 2, false, &mut |entry| {
        names.insert(entry.name.as_bytes().to_vec());
        true
    })?;
    Ok(names)
}

/// Looks a name up; the node it finds is held.
pub(super) fn look(union: &Union, path: &[u8], dir: Ino, name: &[u8]) -> Result<Option<Entry>, ToolError> {
    let name = Name::new(OsStr::from_bytes(name)).map_err(ToolError::merged(path))?;
    union.lookup(dir, name).map_err(ToolError::merged(path))
}

/// What is at a path, held.
pub(super) fn walk(union: &Union, path: &[u8]) -> Result<Option<(Ino, FileKind)>, ToolError> {
    let mut here = (Ino::ROOT, FileKind::Directory);
    for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
        let next = match here.1 {
            FileKind::Directory => look(union, path, here.0, name)?,
            _ => None,
        };
        union.forget(here.0, 1);
        match next {
            Some(entry) => here = (entry.node, entry.attr.kind()),
            None => return Ok(None),
        }
    }
    Ok(Some(here))
}
