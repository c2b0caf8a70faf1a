//! Files whose content has found its place for good, so that the kernel may read and write it without asking.

use std::os::fd::OwnedFd;

use super::Union;
use super::data::OpenFile;
use crate::error::{Errno, Error, Result};
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
        duplicate(&file).map(Some)
    }

    /// The file that holds a node's content now, open to be read, for who may keep it when the content has gone to
    /// another one.
    ///
    /// `None` where files may go from one writable branch to another, with what is written to them.
    ///
    /// # Errors
    ///
    /// `EISDIR` or `EINVAL` for what has no content, and what the branch said.
    pub fn present_file(&self, node: Ino) -> Result<Option<OwnedFd>> {
        if self.files_move() {
            return Ok(None);
        }
        let file = self.open_file(&*self.node(node)?, false)?;
        duplicate(&file).map(Some)
    }

    /// Whether a file may yet go to another writable branch: to a higher one, or to any when its own is full.
    fn may_move(&self, node: &Node) -> bool {
        let Body::File(file) = &*node.body.read() else { return false };
        self.files_move()
            && (self.options.move_on_enospc || self.works[..file.branch.index()].iter().any(Option::is_some))
    }
}

fn duplicate(file: &OpenFile) -> Result<OwnedFd> {
    file.fd
        .try_clone()
        .map_err(|error| Error::rule("dup", Errno::from_io_error(&error).unwrap_or(Errno::MFILE)))
}
