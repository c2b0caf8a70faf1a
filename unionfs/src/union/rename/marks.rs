//! The marks on disk that a rename needs, made before it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FileType, RenameFlags as Flags};

use super::{Entry, Here};
use crate::branch::is_overlay_whiteout;
use crate::error::{At, Result};
use crate::inode::{Moved, Node};
use crate::marks::Format;
use crate::types::{BranchIndex, Name, RenameFlags};
use crate::union::{Union, path_below, path_on};
use crate::work::remove_tree;

impl Union {
    /// Empties a directory that shows nothing of what only marks; all the while it shows nothing.
    pub(super) fn clear_marks(
        &self,
        branch: BranchIndex,
        parent: &Arc<OwnedFd>,
        name: Name<'_>,
        dir: &Arc<OwnedFd>,
        left: &[(Vec<u8>, FileType, u64)],
    ) -> Result<()> {
        match self.options.format {
            Format::Aufs => self.hide_beside(branch, parent, name)?,
            Format::Overlay => self.mark_dir(branch, dir, None)?,
        }
        left.iter().try_for_each(|(name, ..)| remove_tree(dir, name).at("unlinkat", branch))
    }

    /// A directory that merges with lower ones is told where they stay; one that moves over something becomes opaque.
    pub(super) fn mark_moved(
        &self,
        node: &Node,
        branch: BranchIndex,
        over: bool,
    ) -> Result<Option<Box<Moved>>> {
        if !node.is_dir() {
            return Ok(None);
        }
        let mut body = self.write_body(node)?;
        let state = body.dir_mut()?;
        let below: Vec<_> = state.layers.iter().flatten().copied().filter(|&layer| layer != branch).collect();
        if below.is_empty() {
            if over {
                self.mark_dir(branch, &self.dirfd(node, branch)?, None)?;
                state.marked(branch);
            }
            return Ok(None);
        }
        if let Some(moved) = node.link.lock().moved.as_ref().filter(|moved| moved.marked == branch) {
            return Ok(Some(moved.clone()));
        }
        let (target, located) = {
            let _still = self.topology.read();
            let located = below.iter().map(|&layer| (layer, path_on(node, layer).into())).collect();
            (path_below(node, branch), located)
        };
        let fd = self.dirfd(node, branch)?;
        self.mark_dir(branch, &fd, Some(&[b"/", target.as_slice()].concat()))?;
        state.marked(branch);
        Ok(Some(Box::new(Moved { marked: branch, target: target.into(), located })))
    }

    /// Makes sure that the source's name shows nothing of lower branches; tells the flag that renameat2 needs for it.
    pub(super) fn leave_behind(
        &self,
        here: &Here,
        branch: BranchIndex,
        fd: &OwnedFd,
        name: Name<'_>,
        how: RenameFlags,
    ) -> Result<Flags> {
        if how.contains(RenameFlags::WHITEOUT) {
            self.mark_device(branch, fd, name.as_bytes())?;
            return Ok(Flags::WHITEOUT);
        }
        if !here.found.needs_whiteout(branch) {
            return Ok(Flags::empty());
        }
        match self.options.format {
            Format::Aufs => self.hide_beside(branch, fd, name).map(|()| Flags::empty()),
            Format::Overlay => Ok(Flags::WHITEOUT),
        }
    }

    /// A device 0:0 takes its mark along; true if there is one to remove afterwards.
    pub(super) fn prepare_device(
        &self,
        here: &Here,
        branch: BranchIndex,
        ((from, name), (to, to_name)): (Entry<'_>, Entry<'_>),
        how: RenameFlags,
    ) -> Result<bool> {
        if !is_overlay_whiteout(&here.seen.stat) {
            return Ok(false);
        }
        self.mark_device(branch, to, to_name.as_bytes())?;
        let one = std::ptr::eq(from, to) && name == to_name;
        Ok(!one && !how.contains(RenameFlags::WHITEOUT))
    }
}
