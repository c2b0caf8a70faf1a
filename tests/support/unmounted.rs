//! The union core as a thing under test: paths walked by `lookup`, references given back as the kernel does.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use unionfs::branch::BranchSpec;
use unionfs::union::{InUse, LiveError};
use unionfs::{
    Attr, Errno, FileKind, Ino, Name, NewNode, Options, RenameFlags, Result, SetAttr, Time, TimeChange, Union,
};

use super::ops::{Action, Slot, Subject};
use super::sys::killed_at;
use super::tree::{Node, Tree};

/// How long the caller of the core remembers nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Memory {
    /// Every reference is given back at once: each operation finds a core that has forgotten all.
    Forgets,
    /// References are kept until the remount, as by a kernel with much memory.
    Keeps,
}

/// A union, driven by paths.
pub(crate) struct Core {
    /// `None` only while it is remounted.
    union: Option<Union>,
    list: String,
    options: Options,
    memory: Memory,
    references: Vec<Ino>,
    open: BTreeMap<Slot, Ino>,
    /// Objects may dispute a number (SEMANTICS.md, "Where we differ"): readdir need not know who gets a made-up one.
    pub(crate) disputes: bool,
}

impl Core {
    /// The union of a branch list in aufs's form.
    pub(crate) fn new(list: &str, options: &Options, memory: Memory) -> Self {
        let union = Some(open_union(list, options));
        Self {
            union,
            list: list.into(),
            options: options.clone(),
            memory,
            references: Vec::new(),
            open: BTreeMap::new(),
            disputes: false,
        }
    }

    /// The union itself.
    pub(crate) fn union(&self) -> &Union {
        self.union.as_ref().expect("mounted")
    }

    /// The node at `path`; the reference is given back after the operation.
    pub(crate) fn walk(&mut self, path: &Path) -> Result<Ino, Errno> {
        path.iter().try_fold(Ino::ROOT, |dir, name| self.step(dir, name).map(|(node, _)| node))
    }

    /// The node and attributes of one name of a directory.
    pub(crate) fn step(&mut self, dir: Ino, name: &OsStr) -> Result<(Ino, Attr), Errno> {
        let name = Name::new(name).map_err(|error| error.errno)?;
        let found = self.union().lookup(dir, name).map_err(|error| error.errno)?;
        let entry = found.ok_or(Errno::NOENT)?;
        self.references.push(entry.node);
        Ok((entry.node, entry.attr))
    }

    fn parent<'p>(&mut self, path: &'p Path) -> Result<(Ino, Name<'p>), Errno> {
        let dir = self.walk(path.parent().unwrap_or_else(|| Path::new("")))?;
        Ok((dir, Name::new(path.file_name().unwrap_or_default()).map_err(|error| error.errno)?))
    }

    fn make(&mut self, path: &Path, kind: FileKind, mode: u32, target: &str) -> Result<(), Errno> {
        let (dir, name) = self.parent(path)?;
        let new = NewNode { mode, umask: 0, uid: 0, gid: 0 };
        let union = self.union();
        let made = match kind {
            FileKind::Regular => union.create(dir, name, &new),
            FileKind::Directory => union.mkdir(dir, name, &new),
            FileKind::Symlink => union.symlink(dir, name, OsStr::new(target), &new),
            kind => union.mknod(dir, name, kind, 0, &new),
        };
        let made = made.map_err(|error| error.errno)?;
        self.references.push(made.node);
        Ok(())
    }

    fn set(&mut self, path: &Path, change: SetAttr) -> Result<(), Errno> {
        let node = self.walk(path)?;
        self.union().setattr(node, &change).map(drop).map_err(|error| error.errno)
    }

    fn write(&self, node: Ino, at: usize, data: &[u8]) -> Result<(), Errno> {
        // The kernel sends no empty write.
        if data.is_empty() {
            return Ok(());
        }
        let wrote = self.union().write(node, at as u64, data, false).map_err(|error| error.errno)?;
        assert_eq!(wrote, data.len(), "short write");
        Ok(())
    }

    fn link(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        let node = self.walk(from)?;
        let (dir, name) = self.parent(to)?;
        let entry = self.union().link(node, dir, name).map_err(|error| error.errno)?;
        assert_eq!(entry.node, node, "link gave another node");
        self.references.push(entry.node);
        Ok(())
    }

    fn rename(&mut self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        // Two names of one inode: the kernel answers without asking (rename(2), vfs_rename).
        if !flags.contains(RenameFlags::NOREPLACE) && self.walk(to).ok() == Some(self.walk(from)?) {
            return Ok(());
        }
        let (dir, name) = self.parent(from)?;
        let (to_dir, to) = self.parent(to)?;
        self.union().rename(dir, name, to_dir, to, flags).map_err(|error| error.errno)
    }

    /// Gives references back as [`Memory`] says.
    fn settle(&mut self, all: bool) {
        if all || self.memory == Memory::Forgets {
            let union = self.union.as_ref().expect("mounted");
            self.references.drain(..).for_each(|node| union.forget(node, 1));
        }
    }

    fn remount(&mut self) {
        self.settle(true);
        let union = self.union.as_ref().expect("mounted");
        std::mem::take(&mut self.open).into_values().for_each(|node| union.forget(node, 1));
        self.union = None;
        self.union = Some(open_union(&self.list, &self.options));
    }

    /// Carries out an operation in a process that is killed at its `nth` system call, and mounts what is left. Whether the
    /// operation had ended before.
    pub(crate) fn crash(&mut self, action: Option<&Action>, nth: usize) -> bool {
        let ended = action.is_none_or(|action| {
            killed_at(nth, || {
                self.apply(action).ok();
            })
        });
        // Nothing is given back: what a union does when it goes is to remove directories that are empty.
        self.references.clear();
        self.open.clear();
        self.union = None;
        self.union = Some(open_union(&self.list, &self.options));
        ended
    }

    /// Changes the branches as a live union does it.
    pub(crate) fn rearrange(
        &mut self,
        change: impl FnOnce(&mut Union, &InUse) -> Result<(), LiveError>,
    ) -> Result<(), LiveError> {
        let open: HashSet<u64> = self.open.values().map(|node| node.get()).collect();
        let in_use = InUse { writing: open.clone(), open };
        let union = self.union.as_mut().expect("mounted");
        change(union, &in_use)?;
        let list: Vec<_> = union.branches().map(ToString::to_string).collect();
        self.list = list.join(":");
        Ok(())
    }

    /// Whether a number is taken: somebody has the object open, or refers to it though it has no name any more.
    pub(crate) fn takes(&self, number: u64) -> bool {
        let gone = |node| self.union().getattr(node).is_ok_and(|attr| attr.nlink == 0);
        self.open.values().any(|node| node.get() == number) || Ino::new(number).is_some_and(gone)
    }

    fn read_into(&mut self, tree: &mut Tree, path: PathBuf, node: Ino, attr: &Attr) {
        let shown = self.read_node(&path, node, attr);
        let is_dir = shown.kind == FileKind::Directory;
        tree.insert(path.clone(), shown);
        if is_dir {
            for (name, ino, kind) in list(self.union(), node) {
                let child = path.join(&name);
                let (node, attr) = self
                    .step(node, &name)
                    .unwrap_or_else(|error| panic!("{child:?} is listed, but lookup gives {error}"));
                let told = if self.disputes && made_up(attr.ino) { attr.ino } else { ino };
                assert_eq!((attr.ino, attr.kind()), (told, kind), "{child:?}: stat differs from readdir");
                self.read_into(tree, child, node, &attr);
            }
        }
    }

    fn read_node(&self, path: &Path, node: Ino, attr: &Attr) -> Node {
        let union = self.union();
        let again = union.getattr(node).unwrap_or_else(|error| panic!("getattr {path:?}: {error}"));
        // Blocks are allocated later than they are written (ext4's delayed allocation).
        let again = Attr { blocks: attr.blocks, ..again };
        assert_eq!(&again, attr, "{path:?}: getattr differs from lookup");
        let kind = attr.kind();
        let content = match kind {
            FileKind::Regular => read_all(union, node, path),
            FileKind::Symlink => {
                union.readlink(node).unwrap_or_else(|e| panic!("readlink {path:?}: {e}")).into_vec()
            }
            _ => Vec::new(),
        };
        Node {
            kind,
            mode: attr.mode & 0o7777,
            uid: attr.uid,
            gid: attr.gid,
            content,
            rdev: u64::from(attr.rdev),
            xattrs: xattrs(union, node, path),
            mtime: Some(attr.mtime.sec),
            // Directories count as one link whatever they tell: see Node.
            nlink: if kind == FileKind::Directory { 1 } else { u64::from(attr.nlink) },
            id: attr.ino,
        }
    }
}

/// Whether a number is of those that stand in for another that is taken.
pub(crate) const fn made_up(ino: u64) -> bool {
    ino >> 63 == 1
}

fn open_union(list: &str, options: &Options) -> Union {
    let specs = BranchSpec::parse_list(list).unwrap_or_else(|error| panic!("{list}: {error}"));
    Union::new(specs, options.clone()).unwrap_or_else(|error| panic!("{list}: {error}"))
}

/// The names of a directory with their numbers and kinds, read in pieces so that offsets are used too.
fn list(union: &Union, dir: Ino) -> Vec<(OsString, u64, FileKind)> {
    let mut all = Vec::new();
    let mut after = 0;
    for room in (1..).map(|piece| piece * 2 + 1) {
        let before = all.len();
        let mut ended = true;
        let result = union.read_dir(dir, after, true, &mut |entry| {
            if all.len() - before == room {
                ended = false;
                return false;
            }
            after = entry.next;
            all.push((entry.name.to_owned(), entry.ino, entry.kind));
            true
        });
        result.unwrap_or_else(|error| panic!("read_dir: {error}"));
        if ended {
            break;
        }
    }
    let names: BTreeSet<_> = all.iter().map(|(name, _, _)| name.clone()).collect();
    assert_eq!(names.len(), all.len(), "a name is listed twice: {all:?}");
    assert!(names.contains(OsStr::new(".")) && names.contains(OsStr::new("..")), "no dots: {names:?}");
    all.retain(|(name, _, _)| name != "." && name != "..");
    all
}

fn read_all(union: &Union, node: Ino, path: &Path) -> Vec<u8> {
    let mut content = Vec::new();
    let mut buf = vec![0; 8192];
    loop {
        let got = union.read(node, content.len() as u64, &mut buf);
        match got.unwrap_or_else(|error| panic!("read {path:?}: {error}")) {
            0 => return content,
            len => content.extend_from_slice(&buf[..len]),
        }
    }
}

fn xattrs(union: &Union, node: Ino, path: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let names = union.listxattr(node).unwrap_or_else(|error| panic!("listxattr {path:?}: {error}"));
    let get = |name: &[u8]| {
        let value = union.getxattr(node, OsStr::from_bytes(name));
        value.unwrap_or_else(|error| panic!("getxattr {path:?} {name:?}: {error}"))
    };
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| (OsString::from_vec(name.to_vec()), get(name))).collect()
}

impl Subject for Core {
    fn apply(&mut self, action: &Action) -> Result<(), Errno> {
        let result = self.act(action);
        self.settle(false);
        result
    }

    fn tree(&mut self) -> Tree {
        let mut tree = Tree::new();
        let root =
            self.union().getattr(Ino::ROOT).unwrap_or_else(|error| panic!("getattr of the root: {error}"));
        self.read_into(&mut tree, PathBuf::new(), Ino::ROOT, &root);
        self.settle(false);
        tree
    }

    fn open_files(&mut self) -> BTreeMap<Slot, Vec<u8>> {
        let union = self.union();
        self.open
            .iter()
            .map(|(slot, node)| (*slot, read_all(union, *node, Path::new("an open file"))))
            .collect()
    }
}

impl Core {
    fn act(&mut self, action: &Action) -> Result<(), Errno> {
        match action {
            Action::Create(path, mode) => self.make(path, FileKind::Regular, *mode, ""),
            Action::Mkdir(path, mode) => self.make(path, FileKind::Directory, *mode, ""),
            Action::Fifo(path, mode) => self.make(path, FileKind::Fifo, *mode, ""),
            Action::Symlink(path, target) => self.make(path, FileKind::Symlink, 0o777, target),
            Action::Write { path, at, data } => {
                let node = self.walk(path)?;
                self.write(node, *at, data)
            }
            Action::Truncate(path, size) => {
                self.set(path, SetAttr { size: Some(*size as u64), ..SetAttr::default() })
            }
            Action::Punch { path, at, len } => {
                let node = self.walk(path)?;
                let how = (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE).cast_unsigned();
                self.union().fallocate(node, how, *at as u64, *len as u64).map_err(|error| error.errno)
            }
            Action::Unlink(path) => {
                let (dir, name) = self.parent(path)?;
                self.union().unlink(dir, name).map_err(|error| error.errno)
            }
            Action::Rmdir(path) => {
                let (dir, name) = self.parent(path)?;
                self.union().rmdir(dir, name).map_err(|error| error.errno)
            }
            Action::Link(from, to) => self.link(from, to),
            Action::Rename(from, to, flags) => self.rename(from, to, *flags),
            Action::Chmod(path, mode) => self.set(path, SetAttr { mode: Some(*mode), ..SetAttr::default() }),
            Action::Chown(path, uid, gid) => {
                self.set(path, SetAttr { uid: Some(*uid), gid: Some(*gid), ..SetAttr::default() })
            }
            Action::Utimes(path, seconds) => {
                let mtime = Some(TimeChange::To(Time { sec: *seconds, nsec: 0 }));
                self.set(path, SetAttr { mtime, ..SetAttr::default() })
            }
            Action::SetXattr(path, name, value) => {
                let node = self.walk(path)?;
                self.union().setxattr(node, OsStr::new(name), value, 0).map_err(|error| error.errno)
            }
            Action::RemoveXattr(path, name) => {
                let node = self.walk(path)?;
                self.union().removexattr(node, OsStr::new(name)).map_err(|error| error.errno)
            }
            Action::Open(slot, path) => self.open(*slot, path),
            Action::WriteOpen { slot, at, data } => self.write(self.open[slot], *at, data),
            Action::Remount => {
                self.remount();
                Ok(())
            }
        }
    }

    /// Holds a file: one more reference, which outlives the operation.
    fn open(&mut self, slot: Slot, path: &Path) -> Result<(), Errno> {
        let node = self.walk(path)?;
        let kept = self.references.pop();
        assert_eq!(kept, Some(node), "the last reference is the file's");
        if let Some(closed) = self.open.insert(slot, node) {
            self.union().forget(closed, 1);
        }
        Ok(())
    }
}
