//! What the kernel remembers of the union, to be told that it is no longer so.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use fuser::{INodeNo, Notifier};
use tracing::debug;

use super::aliases::Aliases;
use crate::types::Ino;

/// The kernel's caches of one mount, by file: every number of it is meant.
///
/// It keeps the connection open.
#[derive(Clone, Debug)]
pub(crate) struct Caches {
    notifier: Notifier,
    aliases: Arc<Aliases>,
}

impl Caches {
    /// The caches behind a connection, nothing told yet.
    pub(crate) fn new(notifier: Notifier) -> Self {
        Self { notifier, aliases: Arc::new(Aliases::new()) }
    }

    /// The numbers that the kernel has for files.
    pub(crate) fn aliases(&self) -> &Aliases {
        &self.aliases
    }

    /// A name is another object, or none.
    pub(crate) fn drop_name(&self, dir: Ino, name: &[u8]) {
        // ENOENT: the kernel does not know it.
        self.notifier.inval_entry(INodeNo(dir.get()), OsStr::from_bytes(name)).unwrap_or_default();
    }

    /// A directory lists other names, or a file has other content; attributes too.
    pub(crate) fn drop_content(&self, file: Ino) {
        self.drop_inode(file, 0);
    }

    /// Attributes have changed; with an offset below zero the kernel leaves the pages alone and takes no lock that a
    /// request could hold, so this may be said while one is being served.
    pub(crate) fn drop_attributes(&self, file: Ino) {
        self.drop_inode(file, -1);
    }

    fn drop_inode(&self, file: Ino, offset: i64) {
        for number in self.aliases.numbers(file) {
            // ENOENT: the kernel has forgotten it.
            if let Err(error) = self.notifier.inval_inode(INodeNo(number.get()), offset, 0) {
                debug!(%error, node = number.get(), offset, "not dropped");
            }
        }
    }
}
