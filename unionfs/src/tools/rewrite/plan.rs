//! What is to be done in one directory: first what is added, then what is removed.

use rustix::fs::{Mode, openat};

use super::kept;
use crate::branch::DIR_FLAGS;
use crate::error::Errno;
use crate::marks::{
    DEVICE_PREFIX, DirMarks, OPAQUE, OPAQUE_XATTRS, REDIRECT_XATTRS, WORK, is_long, read_small, whiteout_name,
};
use crate::place::Place;
use crate::tools::layer::LayerDir;

/// A change of one directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::tools) enum Act {
    /// Puts a character device 0:0 in this name's place.
    Device(Vec<u8>),
    /// Makes the whiteout file of this name, with this content.
    Whiteout(Vec<u8>, Vec<u8>),
    /// Makes the mark `.wh..wh..opq` with this content.
    Opaque(Vec<u8>),
    /// Sets an attribute of the directory.
    Mark(Vec<u8>, Vec<u8>),
    /// Marks the directory of this name in it opaque, by this attribute.
    MarkChild(Vec<u8>, Vec<u8>),
    /// Makes the mark `.wh..wh..opq` in the directory of this name in it.
    OpaqueChild(Vec<u8>),
    /// Removes a name.
    Unlink(Vec<u8>),
    /// Removes an attribute of the directory.
    Unmark(Vec<u8>),
    /// Removes an attribute of the object of this name.
    UnmarkChild(Vec<u8>, Vec<u8>),
}

/// All changes of one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::tools) struct Plan {
    pub(in crate::tools) add: Vec<Act>,
    pub(in crate::tools) remove: Vec<Act>,
}

impl Plan {
    pub(in crate::tools) const fn is_empty(&self) -> bool {
        self.add.is_empty() && self.remove.is_empty()
    }
}

/// What the directory itself tells, beside its names.
#[derive(Clone, Debug)]
pub(in crate::tools) struct Facts {
    /// The content of its `.wh..wh..opq`.
    opaque: Option<Vec<u8>>,
    /// Its attributes that are marks, with their values.
    pub(in crate::tools) carriers: Vec<(Vec<u8>, Vec<u8>)>,
    /// An interrupted conversion has kept its times.
    kept_times: bool,
}

impl Facts {
    pub(in crate::tools) fn of(dir: &LayerDir) -> Result<Self, Errno> {
        let place = Place::Fd(std::sync::Arc::clone(&dir.fd));
        let opaque = dir.opaque_file.then(|| read_small(&dir.fd, OPAQUE)).transpose()?;
        let mut facts = Self { opaque, carriers: Vec::new(), kept_times: false };
        let names = match place.list_xattrs() {
            Err(Errno::OPNOTSUPP) => return Ok(facts),
            names => names?,
        };
        for name in names.split(|&byte| byte == 0) {
            if OPAQUE_XATTRS.contains(&name) || REDIRECT_XATTRS.contains(&name) {
                facts.carriers.push((name.to_vec(), place.read_xattr(name)?));
            } else if kept::NAMES.contains(&name) {
                facts.kept_times = true;
            }
        }
        Ok(facts)
    }

    /// Whether an interrupted conversion has kept its times.
    pub(in crate::tools) const fn has_kept_times(&self) -> bool {
        self.kept_times
    }

    /// Whether a mark is there that only kernel overlay or fuse-overlayfs writes.
    pub(in crate::tools) fn has_carriers(&self) -> bool {
        !self.carriers.is_empty()
    }
}

/// The plan for kernel overlay's format; `below` is what the directory merges with, if it was renamed.
pub(in crate::tools) fn to_overlay(dir: &LayerDir, facts: &Facts, below: &[u8], prefix: &str) -> Plan {
    let mut plan = Plan::default();
    let opaque = format!("{prefix}opaque").into_bytes();
    for (name, said) in &dir.names {
        match &said.object {
            // In a layer of its own a whiteout beside a directory makes it opaque.
            Some(_) if said.is_dir() && said.file.is_some() && !is_marked(dir, name) => {
                plan.add.push(Act::MarkChild(name.clone(), opaque.clone()));
            }
            None if said.xattr || (said.file.is_some() && !said.device) => {
                plan.add.push(Act::Device(name.clone()));
            }
            _ => {}
        }
        if said.file.is_some() {
            plan.remove.push(Act::Unlink(whiteout_name(name).to_vec()));
        }
        if said.marked_device {
            plan.remove.push(Act::Unlink([DEVICE_PREFIX, name].concat()));
        }
    }
    let wanted =
        wanted(&dir.marks, below).map(|(word, value)| (format!("{prefix}{word}").into_bytes(), value));
    if let Some((name, value)) = &wanted
        && !facts.carriers.contains(&(name.clone(), value.clone()))
    {
        plan.add.push(Act::Mark(name.clone(), value.clone()));
    }
    if dir.opaque_file {
        plan.remove.push(Act::Unlink(OPAQUE.to_vec()));
    }
    let keep = wanted.map(|(name, _)| name);
    plan.unmark(facts, keep.as_deref());
    let leftovers = dir.private.iter().filter(|name| *name != WORK);
    plan.remove.extend(leftovers.map(|name| Act::Unlink(name.clone())));
    plan
}

/// The plan for the aufs format.
pub(in crate::tools) fn to_aufs(dir: &LayerDir, facts: &Facts, below: &[u8]) -> Plan {
    let mut plan = Plan::default();
    for (name, said) in &dir.names {
        if !said.device && !said.xattr {
            continue;
        }
        if said.file.is_none() {
            let content = if is_long(name) { name.clone() } else { Vec::new() };
            plan.add.push(Act::Whiteout(whiteout_name(name).to_vec(), content));
        }
        // Before `opaque="x"` goes: without that, an empty file would be an object.
        plan.remove.push(Act::Unlink(name.clone()));
    }
    let content =
        wanted(&dir.marks, below).map(|(word, value)| if word == "redirect" { value } else { Vec::new() });
    if let Some(content) = content.filter(|content| facts.opaque.as_ref() != Some(content)) {
        plan.add.push(Act::Opaque(content));
    }
    plan.unmark(facts, None);
    plan
}

impl Plan {
    fn unmark(&mut self, facts: &Facts, keep: Option<&[u8]>) {
        let others = facts.carriers.iter().filter(|(name, _)| Some(name.as_slice()) != keep);
        self.remove.extend(others.map(|(name, _)| Act::Unmark(name.clone())));
    }
}

/// The mark that a directory needs: the word and value of kernel overlay's attribute.
fn wanted(marks: &DirMarks, below: &[u8]) -> Option<(&'static str, Vec<u8>)> {
    if marks.redirect.is_some() {
        return Some(("redirect", [b"/", below].concat()));
    }
    marks.opaque.then(|| ("opaque", b"y".to_vec()))
}

/// Whether the directory of this name has a mark of its own, so that a whiteout beside it adds nothing.
pub(in crate::tools) fn is_marked(dir: &LayerDir, name: &[u8]) -> bool {
    let child = openat(&dir.fd, name, DIR_FLAGS, Mode::empty());
    let marks = child.and_then(|child| DirMarks::read(&std::sync::Arc::new(child), true));
    marks.is_ok_and(|marks| marks.redirect.is_some() || marks.opaque)
}
