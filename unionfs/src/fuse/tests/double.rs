//! A small tree in memory with the core's API, for tests that concern only the protocol.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

use crate::error::{Errno, Error, Result};
use crate::fuse::Core;
use crate::tally::CacheStats;
use crate::types::*;

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) attr: Attr,
    pub(super) data: Vec<u8>,
    names: BTreeMap<OsString, u64>,
    xattrs: BTreeMap<OsString, Vec<u8>>,
    flags: u32,
    attributes: FsXattr,
    pub(super) lookups: u64,
}

#[derive(Debug)]
pub(super) struct Double {
    pub(super) nodes: Mutex<BTreeMap<u64, Node>>,
    /// Makes every `getattr` panic.
    pub(super) broken: AtomicBool,
    /// Makes every `getxattr` of `user.slow` wait until it is false.
    pub(super) slow: AtomicBool,
}

fn fail<T>(errno: Errno) -> Result<T> {
    Err(Error::rule("double", errno))
}

fn node(ino: u64, mode: u32, new: &NewNode) -> Node {
    let now = Time { sec: 1_700_000_000, nsec: 5 };
    let attr = Attr {
        ino,
        mode,
        nlink: 1,
        uid: new.uid,
        gid: new.gid,
        rdev: 0,
        size: 0,
        blocks: 0,
        blksize: 4096,
        atime: now,
        mtime: now,
        ctime: now,
    };
    Node {
        attr,
        data: Vec::new(),
        names: BTreeMap::new(),
        xattrs: BTreeMap::new(),
        flags: 0,
        attributes: FsXattr::default(),
        lookups: 0,
    }
}

impl Double {
    pub(super) fn new() -> Self {
        let owner = NewNode { mode: 0, umask: 0, uid: 0, gid: 0 };
        let root = node(1, libc::S_IFDIR | 0o755, &owner);
        Self {
            nodes: Mutex::new(BTreeMap::from([(1, root)])),
            broken: AtomicBool::new(false),
            slow: AtomicBool::new(true),
        }
    }

    fn with<T>(&self, ino: Ino, act: impl FnOnce(&mut Node) -> Result<T>) -> Result<T> {
        act(self.nodes.lock().get_mut(&ino.get()).ok_or(Error::rule("double", Errno::STALE))?)
    }

    fn find(&self, dir: Ino, name: Name<'_>) -> Result<Option<u64>> {
        self.with(dir, |node| Ok(node.names.get(name.as_os_str()).copied()))
    }

    fn entry(&self, ino: u64) -> Result<Entry> {
        let node = Ino::new(ino).ok_or(Error::rule("double", Errno::INVAL))?;
        self.with(node, |found| {
            found.lookups += 1;
            Ok(Entry { node, attr: found.attr })
        })
    }

    fn add(&self, dir: Ino, name: Option<Name<'_>>, kind: FileKind, new: &NewNode) -> Result<Entry> {
        let mut nodes = self.nodes.lock();
        let ino = nodes.keys().next_back().map_or(2, |last| last + 1);
        if let Some(name) = name {
            let names = &mut nodes.get_mut(&dir.get()).ok_or(Error::rule("double", Errno::STALE))?.names;
            if names.contains_key(name.as_os_str()) {
                return fail(Errno::EXIST);
            }
            names.insert(name.as_os_str().to_owned(), ino);
        }
        nodes.insert(ino, node(ino, kind.mode_bits() | new.mode & !new.umask, new));
        drop(nodes);
        self.entry(ino)
    }
}

impl Core for Double {
    fn cache_stats(&self) -> Vec<CacheStats> {
        Vec::new()
    }
    fn node_count(&self) -> usize {
        self.nodes.lock().len()
    }

    fn lookup(&self, dir: Ino, name: Name<'_>) -> Result<Option<Entry>> {
        self.find(dir, name)?.map(|ino| self.entry(ino)).transpose()
    }
    fn forget(&self, node: Ino, count: u64) {
        if let Some(node) = self.nodes.lock().get_mut(&node.get()) {
            node.lookups = node.lookups.saturating_sub(count);
        }
    }
    fn getattr(&self, node: Ino) -> Result<Attr> {
        assert!(!self.broken.load(Ordering::Relaxed), "broken on purpose");
        self.with(node, |node| Ok(node.attr))
    }
    fn setattr(&self, node: Ino, change: &SetAttr) -> Result<Attr> {
        self.with(node, |node| {
            let attr = &mut node.attr;
            attr.mode = change.mode.map_or(attr.mode, |mode| attr.mode & libc::S_IFMT | mode);
            attr.uid = change.uid.unwrap_or(attr.uid);
            attr.gid = change.gid.unwrap_or(attr.gid);
            if let Some(TimeChange::To(time)) = change.mtime {
                attr.mtime = time;
            }
            if let Some(size) = change.size {
                node.data.resize(usize::try_from(size).unwrap(), 0);
                attr.size = size;
            }
            Ok(*attr)
        })
    }
    fn readlink(&self, node: Ino) -> Result<OsString> {
        self.with(node, |node| Ok(OsString::from(String::from_utf8(node.data.clone()).unwrap())))
    }
    fn mknod(&self, dir: Ino, name: Name<'_>, kind: FileKind, rdev: u32, new: &NewNode) -> Result<Entry> {
        let mut entry = self.add(dir, Some(name), kind, new)?;
        entry.attr.rdev = rdev;
        self.with(entry.node, |node| {
            node.attr.rdev = rdev;
            Ok(entry)
        })
    }
    fn mkdir(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry> {
        self.add(dir, Some(name), FileKind::Directory, new)
    }
    fn symlink(&self, dir: Ino, name: Name<'_>, target: &OsStr, new: &NewNode) -> Result<Entry> {
        let entry = self.add(dir, Some(name), FileKind::Symlink, new)?;
        self.with(entry.node, |node| {
            node.data = target.as_encoded_bytes().to_vec();
            Ok(entry)
        })
    }
    fn create(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry> {
        self.add(dir, Some(name), FileKind::Regular, new)
    }
    fn tmpfile(&self, dir: Ino, new: &NewNode) -> Result<Entry> {
        self.add(dir, None, FileKind::Regular, new)
    }
    fn link(&self, node: Ino, dir: Ino, name: Name<'_>) -> Result<Entry> {
        self.with(dir, |dir| Ok(dir.names.insert(name.as_os_str().to_owned(), node.get())))?;
        self.entry(node.get())
    }
    fn unlink(&self, dir: Ino, name: Name<'_>) -> Result<()> {
        let gone = self.with(dir, |dir| Ok(dir.names.remove(name.as_os_str())))?;
        gone.map(|_| ()).ok_or(Error::rule("double", Errno::NOENT))
    }
    fn rmdir(&self, dir: Ino, name: Name<'_>) -> Result<()> {
        let ino = self.find(dir, name)?.ok_or(Error::rule("double", Errno::NOENT))?;
        let empty = self.with(Ino::new(ino).unwrap(), |node| Ok(node.names.is_empty()))?;
        if empty { self.unlink(dir, name) } else { fail(Errno::NOTEMPTY) }
    }
    fn rename(&self, dir: Ino, name: Name<'_>, to_dir: Ino, to: Name<'_>, flags: RenameFlags) -> Result<()> {
        if flags.contains(RenameFlags::NOREPLACE) && self.find(to_dir, to)?.is_some() {
            return fail(Errno::EXIST);
        }
        let moved = self.with(dir, |dir| Ok(dir.names.remove(name.as_os_str())))?;
        let moved = moved.ok_or(Error::rule("double", Errno::NOENT))?;
        self.with(to_dir, |dir| Ok(dir.names.insert(to.as_os_str().to_owned(), moved)))?;
        Ok(())
    }
    /// Offsets are 1 and 2 for the dots and the child's number + 2 for others, in order of numbers.
    fn read_dir(
        &self,
        dir: Ino,
        after: u64,
        _inos: bool,
        sink: &mut dyn FnMut(DirEntry<'_>) -> bool,
    ) -> Result<()> {
        let nodes = self.nodes.lock();
        let names = &nodes.get(&dir.get()).ok_or(Error::rule("double", Errno::STALE))?.names;
        let dots = [(OsStr::new("."), dir.get(), 1), (OsStr::new(".."), dir.get(), 2)];
        let mut all: Vec<_> =
            dots.into_iter().chain(names.iter().map(|(name, ino)| (&**name, *ino, ino + 2))).collect();
        all.sort_by_key(|(.., next)| *next);
        for (name, ino, next) in all.into_iter().filter(|(.., next)| *next > after) {
            let kind = nodes[&ino].attr.kind();
            if !sink(DirEntry { name, ino, kind, next }) {
                break;
            }
        }
        Ok(())
    }
    fn settled_file(&self, _node: Ino, _write: bool) -> Result<Option<OwnedFd>> {
        Ok(None)
    }
    fn present_file(&self, _node: Ino) -> Result<Option<OwnedFd>> {
        Ok(None)
    }
    fn read(&self, node: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.with(node, |node| {
            let rest = node.data.get(usize::try_from(offset).unwrap()..).unwrap_or_default();
            let len = rest.len().min(buf.len());
            buf[..len].copy_from_slice(&rest[..len]);
            Ok(len)
        })
    }
    fn write(&self, node: Ino, offset: u64, data: &[u8], kill_suidgid: bool) -> Result<usize> {
        self.with(node, |node| {
            let start = usize::try_from(offset).unwrap();
            let end = start + data.len();
            node.data.resize(node.data.len().max(end), 0);
            node.data[start..end].copy_from_slice(data);
            node.attr.size = node.data.len() as u64;
            if kill_suidgid {
                node.attr.mode &= !(libc::S_ISUID | libc::S_ISGID);
            }
            Ok(data.len())
        })
    }
    fn fsync(&self, _node: Ino, _datasync: bool) -> Result<()> {
        Ok(())
    }
    fn fsync_dir(&self, _node: Ino) -> Result<()> {
        Ok(())
    }
    fn syncfs(&self) -> Result<()> {
        Ok(())
    }
    fn fallocate(&self, node: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        if mode != 0 {
            return fail(Errno::OPNOTSUPP);
        }
        let size = self.getattr(node)?.size.max(offset + len);
        self.setattr(node, &SetAttr { size: Some(size), ..SetAttr::default() }).map(|_| ())
    }
    fn lseek(&self, node: Ino, offset: u64, whence: Seek) -> Result<u64> {
        let size = self.getattr(node)?.size;
        match whence {
            _ if offset >= size => fail(Errno::NXIO),
            Seek::Data => Ok(offset),
            Seek::Hole => Ok(size),
        }
    }
    fn copy_file_range(&self, from: Ino, from_at: u64, to: Ino, to_at: u64, len: u64) -> Result<usize> {
        let mut data = vec![0; usize::try_from(len.min(1 << 20)).unwrap()];
        let size = self.read(from, from_at, &mut data)?;
        self.write(to, to_at, &data[..size], false)
    }
    fn statfs(&self) -> Result<StatFs> {
        Ok(StatFs {
            blocks: 1000,
            bfree: 500,
            bavail: 400,
            files: 100,
            ffree: 50,
            bsize: 4096,
            frsize: 4096,
            namelen: 255,
        })
    }
    fn getxattr(&self, node: Ino, name: &OsStr) -> Result<Vec<u8>> {
        while name == "user.slow" && self.slow.load(Ordering::Relaxed) {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        self.with(node, |node| node.xattrs.get(name).cloned().ok_or(Error::rule("double", Errno::NODATA)))
    }
    fn listxattr(&self, node: Ino) -> Result<Vec<u8>> {
        self.with(node, |node| {
            Ok(node.xattrs.keys().flat_map(|name| [name.as_encoded_bytes(), b"\0"].concat()).collect())
        })
    }
    fn setxattr(&self, node: Ino, name: &OsStr, value: &[u8], _flags: u32) -> Result<()> {
        self.with(node, |node| {
            node.xattrs.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
    }
    fn removexattr(&self, node: Ino, name: &OsStr) -> Result<()> {
        self.with(node, |node| {
            node.xattrs.remove(name).map(|_| ()).ok_or(Error::rule("double", Errno::NODATA))
        })
    }
    fn inode_flags(&self, node: Ino) -> Result<u32> {
        self.with(node, |node| Ok(node.flags))
    }
    fn inode_attributes(&self, node: Ino) -> Result<FsXattr> {
        self.with(node, |node| Ok(node.attributes))
    }
    fn set_inode_attributes(&self, node: Ino, attr: &FsXattr) -> Result<()> {
        self.with(node, |node| {
            node.attributes = *attr;
            Ok(())
        })
    }
    fn set_inode_flags(&self, node: Ino, flags: u32) -> Result<()> {
        self.with(node, |node| {
            node.flags = flags;
            Ok(())
        })
    }
}
