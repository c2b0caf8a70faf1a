//! The exchange of two names (renameat2(2), `RENAME_EXCHANGE`).

use rustix::fs::{RenameFlags as Flags, renameat_with};

use super::{Here, Locked, Side, linked, lock_files};
use crate::branch::is_overlay_whiteout;
use crate::error::{At, Result};
use crate::types::BranchIndex;
use crate::union::Union;

impl Union {
    /// Exchanges two names, both of which have their objects on `branch`.
    pub(super) fn exchange(
        &self,
        locked: &mut Locked<'_>,
        (from, here): (Side<'_>, &Here),
        (to, there): (Side<'_>, &Here),
        branch: BranchIndex,
    ) -> Result<()> {
        let (from_fd, to_fd) = (self.dirfd(from.dir, branch)?, self.dirfd(to.dir, branch)?);
        let moved = self.mark_moved(&here.node, branch, there.found.covers())?;
        let moved_back = self.mark_moved(&there.node, branch, here.found.covers())?;
        for (here, fd, name) in [(here, &to_fd, to.name), (there, &from_fd, from.name)] {
            if is_overlay_whiteout(&here.seen.stat) {
                self.mark_device(branch, fd, name.as_bytes())?;
            }
        }
        {
            let [one, other] = [here, there].map(|here| Some(&*here.node).filter(|node| !node.is_dir()));
            let _files = lock_files(one, other);
            let _still = self.still();
            let _topology = (here.node.is_dir() || there.node.is_dir()).then(|| self.topology.write());
            renameat_with(&from_fd, from.name.as_bytes(), &to_fd, to.name.as_bytes(), Flags::EXCHANGE)
                .at("renameat2", branch)?;
            self.relink(&here.node, linked(to, moved));
            self.relink(&there.node, linked(from, moved_back));
        }
        let arrived = self.arrived(&here.node, here.found.kind, branch, Some(&there.found))?;
        let returned = self.arrived(&there.node, there.found.kind, branch, Some(&here.found))?;
        if let Some(listing) = &mut locked.from.dir_mut()?.listing {
            listing.set(self.hash, from.name.as_bytes(), Some(returned));
        }
        if let Some(listing) = &mut locked.to().dir_mut()?.listing {
            listing.set(self.hash, to.name.as_bytes(), Some(arrived));
        }
        Ok(())
    }
}
