//! A file whose branch is full moves on to a writable branch with room (mergerfs's `moveonenospc`).

use std::sync::Arc;

use rustix::fs::{AtFlags, renameat, unlinkat};

use super::Union;
use super::copy::ALL_DATA;
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, FileBody, Node, Site};
use crate::types::{BranchIndex, FileKind, Name};
use crate::work::keeping_times;

impl Union {
    /// Whether a file that got no space should move on to a branch that has some.
    pub(super) fn moves_on(&self, node: &Node, errno: Errno) -> bool {
        self.options.move_on_enospc
            && node.kind == FileKind::Regular
            && matches!(errno, Errno::NOSPC | Errno::DQUOT)
    }

    /// Moves a file whose branch is full to a branch with room, under the same name.
    ///
    /// Both branches have the whole file for a moment; whichever shows, it is the same.
    pub(super) fn move_on(&self, node: &Arc<Node>) -> Result<()> {
        let stays = Error::rule("move on", Errno::NOSPC);
        let parent = node.parent().ok_or(stays)?;
        let from = self.branch_of(node)?;
        let to = self.roomier_branch(&parent, from).map_err(|_| stays)?.ok_or(stays)?;
        self.dir_on(&parent, to)?;
        let mut above = self.write_body(&parent)?;
        // Nobody writes to the file while this is held.
        let mut body = node.body.write();
        let name = node.link.lock().name.clone();
        let name = Name::from_bytes(&name)?;
        let mut found =
            self.find(&parent, above.dir()?, name)?.filter(|found| found.top == from).ok_or(stays)?;
        let movable =
            matches!(&*body, Body::File(FileBody { branch, site: Site::Linked, .. }) if *branch == from);
        if !movable || !node.is_linked_as(&parent, name.as_bytes()) || (to > from && found.covers()) {
            return Err(stays);
        }
        let source = self.place(node, &body)?;
        let (temp, shown) = self.copy_object(node, (from, &source), None, to, ALL_DATA)?;
        if shown.links > 1 {
            return Err(Error { op: "move on with hard links", branch: Some(from), errno: Errno::NOSPC });
        }
        let (old, new) = (self.dirfd(&parent, from)?, self.dirfd(&parent, to)?);
        keeping_times(&new, || renameat(temp.dir(), temp.name.as_slice(), &new, name.as_bytes()))
            .at("renameat", to)?;
        temp.moved();
        keeping_times(&old, || unlinkat(&old, name.as_bytes(), AtFlags::empty())).at("unlinkat", from)?;
        *body = Body::File(FileBody {
            branch: to,
            site: Site::Linked,
            real: shown.real,
            nameless: false,
            data: None,
        });
        self.files.remove(&node.ino);
        let state = above.dir_mut()?;
        state.pure = false;
        if let Some(listing) = &mut state.listing {
            found.moved_to(to);
            listing.set(self.hash, name.as_bytes(), Some(found));
        }
        Ok(())
    }

    /// The branch with the most room, other than the one that is full, in which a directory is or can be.
    fn roomier_branch(&self, dir: &Arc<Node>, full: BranchIndex) -> Result<Option<BranchIndex>> {
        let others = self.reach(dir)?.into_iter().map(|reached| reached.branch).filter(|&at| at != full);
        let room = others.map(|at| (self.room(at), at)).filter(|&(free, _)| free > self.options.min_free);
        Ok(room.max().map(|(_, at)| at))
    }
}
