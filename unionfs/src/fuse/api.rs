//! What the protocol asks of the core, as a trait, so that the protocol can be tested by bytes alone.
//!
//! [`Core`] has exactly the methods of [`Union`] and nothing of FUSE. There are two implementors: the union, and
//! the double of this module's tests.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;

use rustix::fs::inotify::ReadFlags;

use crate::error::Result;
use crate::live::{Known, Live};
use crate::tally::CacheStats;
use crate::types::{
    Attr, DirEntry, Entry, FileKind, FsXattr, Ino, Name, NewNode, RenameFlags, Seek, SetAttr, StatFs,
};
use crate::union::{InUse, Outside, Union};

/// Declares the trait and hands each method to the inherent one of [`Union`].
macro_rules! core_api {
    ($(fn $name:ident(&self $(, $arg:ident: $type:ty)*) $(-> $ret:ty)?;)+) => {
        /// The union as the protocol sees it; the meaning of each method is told at [`Union`].
        #[allow(missing_docs, clippy::missing_errors_doc)]
        pub trait Core: Send + Sync + 'static {
            $(fn $name(&self $(, $arg: $type)*) $(-> $ret)?;)+

            /// Carries a command of the control attributes out; a failure is told in one line.
            fn command(&self, _words: &[&str], _in_use: &InUse) -> std::result::Result<(), String> {
                Err("this union takes no commands".to_owned())
            }

            /// Where to wait for changes behind the union's back.
            fn watch_fd(&self) -> Option<OwnedFd> {
                None
            }

            /// Takes note of such a change.
            fn outside(&self, _watch: i32, _events: ReadFlags, _name: Option<&[u8]>) -> Option<Outside> {
                None
            }

            /// What the kernel may have in its caches.
            fn known(&self) -> Vec<Known> {
                Vec::new()
            }
        }

        impl Core for Union {
            $(fn $name(&self $(, $arg: $type)*) $(-> $ret)? { Union::$name(self $(, $arg)*) })+
        }

        impl Core for Live {
            $(fn $name(&self $(, $arg: $type)*) $(-> $ret)? { Union::$name(&self.0.read() $(, $arg)*) })+

            fn command(&self, words: &[&str], in_use: &InUse) -> std::result::Result<(), String> {
                Live::command(self, words, in_use)
            }

            fn watch_fd(&self) -> Option<OwnedFd> {
                self.0.read().watch_fd()
            }

            fn outside(&self, watch: i32, events: ReadFlags, name: Option<&[u8]>) -> Option<Outside> {
                self.0.read().outside(watch, events, name)
            }

            fn known(&self) -> Vec<Known> {
                self.0.read().known()
            }
        }
    };
}

core_api! {
    fn node_count(&self) -> usize;
    fn cache_stats(&self) -> Vec<CacheStats>;
    fn lookup(&self, dir: Ino, name: Name<'_>) -> Result<Option<Entry>>;
    fn forget(&self, node: Ino, count: u64);
    fn getattr(&self, node: Ino) -> Result<Attr>;
    fn setattr(&self, node: Ino, change: &SetAttr) -> Result<Attr>;
    fn readlink(&self, node: Ino) -> Result<OsString>;
    fn mknod(&self, dir: Ino, name: Name<'_>, kind: FileKind, rdev: u32, new: &NewNode) -> Result<Entry>;
    fn mkdir(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry>;
    fn symlink(&self, dir: Ino, name: Name<'_>, target: &OsStr, new: &NewNode) -> Result<Entry>;
    fn create(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry>;
    fn tmpfile(&self, dir: Ino, new: &NewNode) -> Result<Entry>;
    fn link(&self, node: Ino, dir: Ino, name: Name<'_>) -> Result<Entry>;
    fn unlink(&self, dir: Ino, name: Name<'_>) -> Result<()>;
    fn rmdir(&self, dir: Ino, name: Name<'_>) -> Result<()>;
    fn rename(&self, dir: Ino, name: Name<'_>, to_dir: Ino, to: Name<'_>, flags: RenameFlags) -> Result<()>;
    fn read_dir(&self, dir: Ino, after: u64, inos: bool, sink: &mut dyn FnMut(DirEntry<'_>) -> bool) -> Result<()>;
    fn settled_file(&self, node: Ino, write: bool) -> Result<Option<OwnedFd>>;
    fn present_file(&self, node: Ino) -> Result<Option<OwnedFd>>;
    fn read(&self, node: Ino, offset: u64, buf: &mut [u8]) -> Result<usize>;
    fn write(&self, node: Ino, offset: u64, data: &[u8], kill_suidgid: bool) -> Result<usize>;
    fn fsync(&self, node: Ino, datasync: bool) -> Result<()>;
    fn fsync_dir(&self, node: Ino) -> Result<()>;
    fn syncfs(&self) -> Result<()>;
    fn fallocate(&self, node: Ino, mode: u32, offset: u64, len: u64) -> Result<()>;
    fn lseek(&self, node: Ino, offset: u64, whence: Seek) -> Result<u64>;
    fn copy_file_range(&self, from: Ino, from_offset: u64, to: Ino, to_offset: u64, len: u64) -> Result<usize>;
    fn statfs(&self) -> Result<StatFs>;
    fn getxattr(&self, node: Ino, name: &OsStr) -> Result<Vec<u8>>;
    fn listxattr(&self, node: Ino) -> Result<Vec<u8>>;
    fn setxattr(&self, node: Ino, name: &OsStr, value: &[u8], flags: u32) -> Result<()>;
    fn removexattr(&self, node: Ino, name: &OsStr) -> Result<()>;
    fn inode_flags(&self, node: Ino) -> Result<u32>;
    fn set_inode_flags(&self, node: Ino, flags: u32) -> Result<()>;
    fn inode_attributes(&self, node: Ino) -> Result<FsXattr>;
    fn set_inode_attributes(&self, node: Ino, attr: &FsXattr) -> Result<()>;
}
