//! Files whose content has found its place for good, so that the kernel may read and write it without asking.

use std::os::fd::OwnedFd;

use super::Union;
use crate::error::{Errno, Result};
use crate::inode::{Body, Node};
use crate::types::{FileKind, Ino};

impl Union {
    /// The file that holds a node's content as long as the node lives, open; copied up first if it is to be written.
    ///
    /// `None` while that may still change: the file lies in a branch that takes no changes, of a union that takes
    /// some, so a later write copies it up; or there is another writable branch to which a later act may bring it.
    /// Whoever would read the old file then would not see the write.
    ///
    /// # Errors
    ///
    /// `EROFS`, `ENOSPC` and what else copying up may say; `EISDIR` or `EINVAL` for what has no content.
    pub fn settled_file(&self, node: Ino, write: bool) -> Result<Option<OwnedFd>> {
        let node = self.node(node)?;
        if write {
            self.open_to_write(&node)?;
        } else if self.writable() && node.kind == FileKind::Regular {
            match &*node.body.read() {
                Body::File(state) if !state.data.is_own() || !self.is_writable(state.branch) => {
                    return Ok(None);
                }
                _ => {}
            }
        }
        if self.may_move(&node) {
            return Ok(None);
        }
        // From here on the file can only have settled.
        let file = self.open_file(&node, write)?;
        let fd = file.fd.try_clone();
        fd.map(Some).map_err(|error| {
            let errno = Errno::from_io_error(&error).unwrap_or(Errno::MFILE);
            crate::error::Error::rule("dup", errno)
        })
    }

    /// Whether a file may yet go to another writable branch: to a higher one, or to any when its own is full.
    fn may_move(&self, node: &Node) -> bool {
        let Body::File(file) = &*node.body.read() else { return false };
        self.files_move()
            && (self.options.move_on_enospc || self.works[..file.branch.index()].iter().any(Option::is_some))
    }
}
