//! `unionfs convert`: an upper rewritten in place from one format of marks to the other.
//!
//! Every step leaves a tree that reads the same to a union of the aufs format, which reads the marks of all formats; so
//! an interrupted conversion loses nothing, and running it again finishes it. In each directory
//!
//! 1. the new marks are put beside the old ones, and the directory is made durable;
//! 2. the old marks are removed;
//! 3. the directory gets the times back that it had (kept in an attribute meanwhile).
//!
//! While it lasts, `converting` in the work directory tells so: in kernel overlay's format `.wh.` names are the user's,
//! and such a mount is refused until the conversion is finished. The index of hard links is copied, by links, before
//! that mark goes; from that moment the new format counts, and the old index is removed.
//!
//! Before all that, the whiteouts of unionfs-fuse become those of the aufs format (`adopt`).
//!
//! What one format has and the other cannot is refused before anything is changed: a real character device 0:0 (to
//! kernel overlay that is a whiteout), a user's name that begins with `.wh.`, a copy that has only metadata.

mod adopt;
mod places;
mod scan;

use std::path::{Path, PathBuf};

use rustix::fs::syncfs;

pub use self::adopt::has_foreign_whiteouts;
use self::places::Places;
use super::hold::refuse_mounted;
use super::layer::Layer;
use super::rewrite::{Act, Editor, Facts, Plan, to_aufs, to_overlay};
use super::{ToolError, joined};
use crate::branch::{Branch, BranchSpec, Perm};
use crate::marks::Format;
use crate::union::{NewError, absolute};

/// How an upper is to be converted.
#[derive(Clone, Debug, Default)]
pub struct Conversion {
    /// The format it is to have.
    pub to: Format,
    /// The work directory, if it is not where each format has it by default.
    pub workdir: Option<PathBuf>,
    /// Marks are `user.overlay.` attributes, for mounts with `-o userxattr`.
    pub userxattr: bool,
    /// The branches below, by priority. They are only read, and only needed where unionfs-fuse has hidden names in a
    /// directory that the upper has not.
    pub lowers: Option<Vec<BranchSpec>>,
}

/// What was rewritten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Whiteouts.
    pub whiteouts: u64,
    /// Marks of opaque directories.
    pub opaque: u64,
    /// Marks of renamed directories.
    pub redirects: u64,
    /// Entries of the index of hard links that were moved.
    pub linked: u64,
    /// Whiteouts of unionfs-fuse.
    pub adopted: u64,
}

/// Converts the upper at `path`. To do so again does no harm, and finishes what was interrupted.
///
/// # Errors
///
/// What stands in the way, before anything is changed; or what the filesystem said, and then it can be run again.
pub fn convert(path: &Path, how: &Conversion) -> Result<Converted, ToolError> {
    refuse_mounted(path)?;
    let spec = BranchSpec { path: path.to_owned(), perm: Perm::READ_WRITE };
    let branch = Branch::open(spec.clone()).map_err(NewError::from)?;
    let layer = Layer::open(&spec, Format::Aufs)?;
    let done = Converted { adopted: adopt::adopt(&branch, &layer, how)?, ..Converted::default() };
    if !Places::need_change(&branch, &layer, how)? {
        return Ok(done);
    }
    let places = Places::open(&branch, how)?;
    let editor = Editor::new(places.scratch(), how.userxattr);
    let mut converter = Converter { layer: &layer, editor, to: how.to, done };
    converter.dir(b"", &[])?;
    let fail = |op| ToolError::branch(b"", op);
    converter.done.linked = places.copy_index().map_err(fail("copy of the index of hard links"))?;
    syncfs(branch.root()).map_err(fail("syncfs"))?;
    places.finish().map_err(fail("end of the conversion"))?;
    Ok(converter.done)
}

struct Converter<'a> {
    layer: &'a Layer,
    editor: Editor<'a>,
    to: Format,
    done: Converted,
}

impl Converter<'_> {
    /// Converts a directory and what is in it; `above` is what its parent merges with in the branches below.
    fn dir(&mut self, path: &[u8], above: &[u8]) -> Result<(), ToolError> {
        let dir = self.layer.read(path)?;
        let fail = |op| ToolError::branch(path, op);
        let facts = Facts::of(&dir).map_err(fail("marks"))?;
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let below = match &dir.marks.redirect {
            Some(target) => absolute(above, target),
            None => joined(above, name),
        };
        let plan = match self.to {
            Format::Overlay => to_overlay(&dir, &facts, &below, self.editor.prefix),
            Format::Aufs => to_aufs(&dir, &facts, &below),
        };
        if !plan.is_empty() || facts.has_kept_times() {
            self.editor.carry_out(&dir.fd, &plan).map_err(|(op, errno)| fail(op)(errno))?;
            self.count(&plan);
        }
        let children: Vec<_> =
            dir.objects().filter(|(_, said)| said.is_dir()).map(|(name, _)| joined(path, name)).collect();
        drop(dir);
        children.iter().try_for_each(|child| self.dir(child, &below))
    }

    fn count(&mut self, plan: &Plan) {
        for act in &plan.add {
            let count = match act {
                Act::Device(_) | Act::Whiteout(..) => &mut self.done.whiteouts,
                Act::Opaque(content) if !content.is_empty() => &mut self.done.redirects,
                Act::Mark(name, _) if name.ends_with(b"redirect") => &mut self.done.redirects,
                _ => &mut self.done.opaque,
            };
            *count += 1;
        }
    }
}
