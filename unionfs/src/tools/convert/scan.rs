//! What stands in the way of a conversion, before anything is changed.

use super::Format;
use crate::branch::{DIR_FLAGS, is_overlay_whiteout};
use crate::marks::{OPAQUE, WORK, whiteout_name};
use crate::tools::layer::{Layer, LayerDir, Said, is_whiteout_file, kind, metacopy};
use crate::tools::rewrite::Facts;
use crate::tools::{ToolError, joined};
use crate::types::FileKind;
use crate::work::read_names;

/// What an upper has.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// There is something to convert.
    pub(super) any: bool,
    /// A name that is the user's if kernel overlay wrote the upper.
    ambiguous: Option<Vec<u8>>,
}

/// Looks through an upper; `fresh` means that no conversion of it was interrupted.
pub(super) fn scan(layer: &Layer, to: Format, fresh: bool) -> Result<Found, ToolError> {
    let mut found = Found::default();
    found.dir(layer, to, b"")?;
    match &found.ambiguous {
        Some(path) if to == Format::Aufs && fresh && found.any => Err(ToolError::refused(
            path,
            "in kernel overlay's format this name is a user's, in the aufs format it would be a mark: rename it (if this \
             upper mixes both formats and it is a mark, convert with '--to overlay' first)",
        )),
        _ => Ok(found),
    }
}

impl Found {
    fn dir(&mut self, layer: &Layer, to: Format, path: &[u8]) -> Result<(), ToolError> {
        let dir = layer.read(path)?;
        let facts = Facts::of(&dir).map_err(ToolError::branch(path, "marks"))?;
        self.any |= facts.has_kept_times();
        self.any |= match to {
            Format::Overlay => dir.opaque_file || facts.has_carriers(),
            Format::Aufs => facts.has_carriers(),
        };
        if dir.opaque_file && !facts.has_carriers() {
            self.ambiguous.get_or_insert_with(|| joined(path, OPAQUE));
        }
        for (name, said) in &dir.names {
            self.name(&dir, to, path, name, said)?;
        }
        for name in dir.private.iter().filter(|name| *name != WORK) {
            self.any |= to == Format::Overlay;
            self.ambiguous.get_or_insert_with(|| joined(path, name));
            if to == Format::Overlay && !is_removable(&dir, name) {
                let why = "it belongs to aufs and is in use or unknown: let 'auplink MOUNTPOINT flush' or remove it";
                return Err(ToolError::refused(&joined(path, name), why));
            }
        }
        let children: Vec<_> =
            dir.objects().filter(|(_, said)| said.is_dir()).map(|(name, _)| joined(path, name)).collect();
        drop(dir);
        children.iter().try_for_each(|child| self.dir(layer, to, child))
    }

    fn name(
        &mut self,
        dir: &LayerDir,
        to: Format,
        path: &[u8],
        name: &[u8],
        said: &Said,
    ) -> Result<(), ToolError> {
        let refuse = |name: &[u8], why| Err(ToolError::refused(&joined(path, name), why));
        let whiteout = whiteout_name(name);
        if let Some(stat) = &said.file {
            self.ambiguous.get_or_insert_with(|| joined(path, &whiteout));
            if !is_whiteout_file(stat, name) {
                return refuse(
                    &whiteout,
                    "it is no whiteout, which would be an empty file: rename or remove it",
                );
            }
        }
        self.any |= match to {
            Format::Overlay => said.file.is_some() || said.xattr || said.marked_device,
            Format::Aufs => said.device || said.xattr,
        };
        let Some(stat) = &said.object else { return Ok(()) };
        match to {
            Format::Overlay if is_overlay_whiteout(stat) => {
                refuse(name, "kernel overlay takes a character device 0:0 for a whiteout: remove it")
            }
            Format::Aufs if metacopy(stat, &dir.place(name)).is_some() => refuse(
                name,
                "its content is in the branches below, which the aufs format cannot tell: mount the union without \
                 metacopy=on and chmod(1) the file, which copies it",
            ),
            _ => Ok(()),
        }
    }
}

/// Whether something of aufs's own is empty.
fn is_removable(dir: &LayerDir, name: &[u8]) -> bool {
    let Ok(stat) = dir.place(name).stat() else { return true };
    match kind(&stat) {
        FileKind::Directory => rustix::fs::openat(&dir.fd, name, DIR_FLAGS, rustix::fs::Mode::empty())
            .and_then(read_names)
            .is_ok_and(|names| names.is_empty()),
        FileKind::Regular => stat.st_size == 0,
        _ => false,
    }
}
