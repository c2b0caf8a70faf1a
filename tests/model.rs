//! The reference: what a union is, in forty lines over `BTreeMap`s, and how one POSIX tree then changes.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use unionfs::{Errno, FileKind, RenameFlags};

use crate::support::layer::Layer;
use crate::support::ops::{Action, Slot, Subject};
use crate::support::tree::{Node, Tree};

/// The merged tree of layers, highest priority first.
pub(crate) fn merge(layers: &[Layer]) -> Tree {
    let mut merged = Tree::new();
    let all: Vec<usize> = (0..layers.len()).collect();
    merged.insert(PathBuf::new(), identified(layers, 0, Path::new("")));
    merge_dir(layers, &all, Path::new(""), &mut merged);
    merged
}

/// Merges the directory `dir`, to which the layers `parts` contribute.
fn merge_dir(layers: &[Layer], parts: &[usize], dir: &Path, merged: &mut Tree) {
    let names: BTreeSet<OsString> = parts
        .iter()
        .flat_map(|part| layers[*part].nodes.keys())
        .filter(|path| path.parent() == Some(dir))
        .filter_map(|path| path.file_name().map(OsString::from))
        .collect();
    for name in names {
        let path = dir.join(name);
        let found = find(layers, parts, &path);
        if let Some(top) = found.first() {
            merged.insert(path.clone(), identified(layers, *top, &path));
            if layers[*top].nodes[&path].kind == FileKind::Directory {
                merge_dir(layers, &found, &path, merged);
            }
        }
    }
}

/// The layers that make up `path`: the first object, or the directories on top of one another.
fn find(layers: &[Layer], parts: &[usize], path: &Path) -> Vec<usize> {
    let mut found = Vec::new();
    for part in parts {
        let layer = &layers[*part];
        let is_dir = layer.nodes.get(path).map(|node| node.kind == FileKind::Directory);
        if is_dir == Some(true) || (is_dir == Some(false) && found.is_empty()) {
            found.push(*part);
        }
        if is_dir == Some(false) || layer.whiteouts.contains(path) || layer.opaques.contains(path) {
            break;
        }
    }
    found
}

fn identified(layers: &[Layer], layer: usize, path: &Path) -> Node {
    let node = &layers[layer].nodes[path];
    Node { id: node.id + ((layer as u64) << 32), ..node.clone() }
}

/// One POSIX tree: names, the inodes they lead to, and the files held open.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    names: BTreeMap<PathBuf, u64>,
    inodes: BTreeMap<u64, Node>,
    open: BTreeMap<Slot, u64>,
    next: u64,
}

impl Model {
    /// The tree that a union of these layers shows.
    pub(crate) fn new(layers: &[Layer]) -> Self {
        let mut merged = merge(layers);
        merged.values_mut().for_each(|node| node.nlink = 0);
        // Mounting makes the union's own directory in the branch's root, and so sets that one time.
        merged.entry(PathBuf::new()).and_modify(|root| root.mtime = None);
        Self::of(merged)
    }

    /// The same tree where it lies in a plain directory.
    pub(crate) fn plain(layers: &[Layer]) -> Self {
        let mut merged = merge(layers);
        merged.values_mut().for_each(|node| node.nlink = 0);
        Self::of(merged)
    }

    fn of(merged: Tree) -> Self {
        let names = merged.iter().map(|(path, node)| (path.clone(), node.id)).collect();
        let inodes = merged.into_values().map(|node| (node.id, node)).collect();
        Self { names, inodes, open: BTreeMap::new(), next: 1 << 60 }
    }

    /// The object that a path leads to.
    pub(crate) fn get(&self, path: &Path) -> Option<&Node> {
        self.names.get(path).map(|id| &self.inodes[id])
    }

    /// All names, the root's among them, with their objects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&PathBuf, &Node)> {
        self.names.iter().map(|(path, id)| (path, &self.inodes[id]))
    }

    /// The content of the files held open, by slot.
    pub(crate) fn open_files(&self) -> BTreeMap<Slot, Vec<u8>> {
        self.open.iter().map(|(slot, id)| (*slot, self.inodes[id].content.clone())).collect()
    }

    /// Which files are held open.
    pub(crate) fn open_slots(&self) -> impl Iterator<Item = Slot> {
        self.open.keys().copied()
    }

    /// Closes the files that are held open.
    pub(crate) fn close(&mut self) {
        self.open.clear();
    }

    /// Takes over a tree that is not the model's to foresee. `known` tells by `st_ino` which object was there before.
    pub(crate) fn adopt(&mut self, tree: &Tree, known: impl Fn(u64) -> Option<u64>) {
        let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
        for node in tree.values() {
            ids.entry(node.id).or_insert_with(|| {
                self.next += 1;
                known(node.id).unwrap_or(self.next)
            });
        }
        self.names = tree.iter().map(|(path, node)| (path.clone(), ids[&node.id])).collect();
        for node in tree.values() {
            let id = ids[&node.id];
            let links = self.names.values().filter(|other| **other == id).count() as u64;
            self.inodes.insert(id, Node { id, nlink: node.nlink.wrapping_sub(links), ..node.clone() });
        }
        self.forget_time(Path::new(""));
    }

    /// Whether an object of this number can still be met.
    pub(crate) fn has(&self, id: u64) -> bool {
        self.names.values().chain(self.open.values()).any(|other| *other == id)
    }

    /// Nobody can know the time of this object's last change.
    pub(crate) fn forget_time(&mut self, path: &Path) {
        if let Ok(node) = self.node_mut(path) {
            node.mtime = None;
        }
    }

    /// Forgets the times of the directories of these names and above them; of all directories, if there is no name.
    pub(crate) fn forget_times_above(&mut self, paths: &[&Path]) {
        let above = |dir: &PathBuf| paths.is_empty() || paths.iter().any(|path| path.starts_with(dir));
        let dirs: Vec<PathBuf> = self.names.keys().filter(|name| above(name)).cloned().collect();
        for dir in &dirs {
            if self.is_dir(dir) {
                self.forget_time(dir);
            }
        }
    }

    /// Forgets the times that `other` does not know.
    pub(crate) fn forget_times_as(&mut self, other: &Self) {
        for (id, node) in &mut self.inodes {
            if other.inodes.get(id).is_none_or(|other| other.mtime.is_none()) {
                node.mtime = None;
            }
        }
    }

    fn is_dir(&self, path: &Path) -> bool {
        self.get(path).is_some_and(|node| node.kind == FileKind::Directory)
    }

    fn is_empty(&self, path: &Path) -> bool {
        !self.names.keys().any(|other| other.parent() == Some(path))
    }

    fn node_mut(&mut self, path: &Path) -> Result<&mut Node, Errno> {
        let id = self.names.get(path).ok_or(Errno::NOENT)?;
        self.inodes.get_mut(id).ok_or(Errno::NOENT)
    }

    /// A name came or went: nobody can know the directory's time of change any more.
    fn touch_parent(&mut self, path: &Path) {
        if let Some(parent) = path.parent() {
            self.forget_time(parent);
        }
    }

    fn add(&mut self, path: &Path, node: Node) -> Result<(), Errno> {
        if self.names.contains_key(path) {
            return Err(Errno::EXIST);
        }
        self.next += 1;
        self.inodes.insert(self.next, Node { id: self.next, nlink: 0, ..node });
        self.names.insert(path.into(), self.next);
        self.touch_parent(path);
        Ok(())
    }

    fn remove(&mut self, path: &Path, want_dir: bool) -> Result<(), Errno> {
        let is_dir = self.get(path).ok_or(Errno::NOENT)?.kind == FileKind::Directory;
        match (want_dir, is_dir) {
            (true, false) => return Err(Errno::NOTDIR),
            (false, true) => return Err(Errno::ISDIR),
            (true, true) if !self.is_empty(path) => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.names.remove(path);
        self.touch_parent(path);
        Ok(())
    }

    fn link(&mut self, from: &Path, to: &Path) -> Result<(), Errno> {
        if self.names.contains_key(to) {
            return Err(Errno::EXIST);
        }
        let node = self.get(from).ok_or(Errno::NOENT)?;
        if node.kind == FileKind::Directory {
            return Err(Errno::PERM);
        }
        self.names.insert(to.into(), node.id);
        self.touch_parent(to);
        Ok(())
    }

    /// The order of checks is the kernel's (fs/namei.c, `do_renameat2` and `vfs_rename`).
    fn rename(&mut self, from: &Path, to: &Path, flags: RenameFlags) -> Result<(), Errno> {
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let source = self.get(from).ok_or(Errno::NOENT)?.clone();
        let target = self.get(to).cloned();
        if flags.contains(RenameFlags::NOREPLACE) && target.is_some() {
            return Err(Errno::EXIST);
        }
        if exchange && target.is_none() {
            return Err(Errno::NOENT);
        }
        if to != from && to.starts_with(from) {
            return Err(Errno::INVAL);
        }
        if to != from && from.starts_with(to) {
            return Err(if exchange { Errno::INVAL } else { Errno::NOTEMPTY });
        }
        if target.as_ref().is_some_and(|target| target.id == source.id) {
            return Ok(());
        }
        if !exchange && target.is_some() {
            match (source.kind == FileKind::Directory, self.is_dir(to)) {
                (true, false) => return Err(Errno::NOTDIR),
                (false, true) => return Err(Errno::ISDIR),
                (true, true) if !self.is_empty(to) => return Err(Errno::NOTEMPTY),
                _ => {}
            }
        }
        let mut moved = self.take(from, to);
        if exchange {
            moved.extend(self.take(to, from));
        }
        self.names.remove(to);
        self.names.extend(moved);
        self.touch_parent(from);
        self.touch_parent(to);
        Ok(())
    }

    /// Takes `from` and all below it out of the tree, under the names they shall have at `to`.
    fn take(&mut self, from: &Path, to: &Path) -> BTreeMap<PathBuf, u64> {
        let (moved, kept) = std::mem::take(&mut self.names)
            .into_iter()
            .partition::<BTreeMap<_, _>, _>(|(path, _)| path.starts_with(from));
        self.names = kept;
        let renamed = |path: PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_path_buf(),
            Ok(rest) => to.join(rest),
            Err(_) => path,
        };
        moved.into_iter().map(|(path, id)| (renamed(path), id)).collect()
    }
}

/// Writes into a file's bytes as pwrite(2) does.
fn overwrite(node: &mut Node, at: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let end = at + data.len();
    node.content.resize(node.content.len().max(end), 0);
    node.content[at..end].copy_from_slice(data);
    node.mtime = None;
}

impl Subject for Model {
    fn apply(&mut self, action: &Action) -> Result<(), Errno> {
        match action {
            Action::Create(path, mode) => self.add(path, Node::new(FileKind::Regular, *mode)),
            Action::Mkdir(path, mode) => self.add(path, Node::new(FileKind::Directory, *mode)),
            Action::Fifo(path, mode) => self.add(path, Node::new(FileKind::Fifo, *mode)),
            Action::Symlink(path, target) => {
                let content = target.clone().into_bytes();
                self.add(path, Node { content, ..Node::new(FileKind::Symlink, 0o777) })
            }
            Action::Write { path, at, data } => {
                overwrite(self.node_mut(path)?, *at, data);
                Ok(())
            }
            Action::Truncate(path, size) => {
                let node = self.node_mut(path)?;
                node.content.resize(*size, 0);
                node.mtime = None;
                Ok(())
            }
            Action::Punch { path, at, len } => {
                let node = self.node_mut(path)?;
                let end = node.content.len().min(at + len);
                node.content[(*at).min(end)..end].fill(0);
                node.mtime = None;
                Ok(())
            }
            Action::Unlink(path) => self.remove(path, false),
            Action::Rmdir(path) => self.remove(path, true),
            Action::Link(from, to) => self.link(from, to),
            Action::Rename(from, to, flags) => self.rename(from, to, *flags),
            Action::Chmod(path, mode) => self.node_mut(path).map(|node| node.mode = *mode),
            Action::Chown(path, uid, gid) => {
                self.node_mut(path).map(|node| (node.uid, node.gid) = (*uid, *gid))
            }
            Action::Utimes(path, seconds) => self.node_mut(path).map(|node| node.mtime = Some(*seconds)),
            Action::SetXattr(path, name, value) => {
                self.node_mut(path)?.xattrs.insert(name.into(), value.clone());
                Ok(())
            }
            Action::RemoveXattr(path, name) => {
                self.node_mut(path)?.xattrs.remove(&OsString::from(name)).map(drop).ok_or(Errno::NODATA)
            }
            Action::Open(slot, path) => {
                let id = self.node_mut(path)?.id;
                self.open.insert(*slot, id);
                Ok(())
            }
            Action::WriteOpen { slot, at, data } => {
                let id = self.open.get(slot).ok_or(Errno::BADF)?;
                overwrite(self.inodes.get_mut(id).ok_or(Errno::BADF)?, *at, data);
                Ok(())
            }
            Action::Remount => {
                self.close();
                Ok(())
            }
        }
    }

    fn tree(&mut self) -> Tree {
        let mut links: BTreeMap<u64, u64> = BTreeMap::new();
        self.names.values().for_each(|id| *links.entry(*id).or_default() += 1);
        let node = |id: &u64| Node {
            nlink: links[id].wrapping_add(self.inodes[id].nlink),
            ..self.inodes[id].clone()
        };
        self.names.iter().map(|(path, id)| (path.clone(), node(id))).collect()
    }

    fn open_files(&mut self) -> BTreeMap<Slot, Vec<u8>> {
        Self::open_files(self)
    }
}
