//! A branch as a value, and on disk: what images bring, with aufs's whiteouts and opaque marks.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use unionfs::{Errno, FileKind};

use super::tree::{Node, Tree};

/// The names that random trees use: few, so that layers collide often.
pub(crate) const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "a name\nof \u{fc}n\u{ed}t\u{e9}s"];

/// One branch: its objects, the names it hides, the directories that hide all below.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    pub(crate) nodes: Tree,
    pub(crate) whiteouts: BTreeSet<PathBuf>,
    pub(crate) opaques: BTreeSet<PathBuf>,
}

/// How a layer's whiteouts and opaque directories are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// aufs's and OCI layers': `.wh.NAME` and `.wh..wh..opq`.
    Aufs,
    /// Kernel overlay's: devices 0:0 and `trusted.overlay.opaque`.
    Overlay,
}

/// One step of making a random layer; indices count modulo what is there.
#[derive(Clone, Debug)]
pub(crate) enum Put {
    /// A file of so many bytes.
    File(u8, u8, u16),
    Dir(u8, u8),
    Symlink(u8, u8),
    Fifo(u8, u8),
    /// Another name for a file.
    Link(u8, u8, u8),
    Whiteout(u8, u8),
    Opaque(u8),
    /// An extended attribute on a file or directory.
    Xattr(u8, u8),
    Mode(u8, u16),
}

/// Random steps, directories and files before the rest.
pub(crate) fn put() -> impl Strategy<Value = Put> {
    prop_oneof![
        4 => (any::<u8>(), any::<u8>(), 0..9000_u16).prop_map(|(d, n, len)| Put::File(d, n, len)),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(d, n)| Put::Dir(d, n)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(d, n)| Put::Symlink(d, n)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(d, n)| Put::Fifo(d, n)),
        1 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(d, n, f)| Put::Link(d, n, f)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(d, n)| Put::Whiteout(d, n)),
        1 => any::<u8>().prop_map(Put::Opaque),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(i, v)| Put::Xattr(i, v)),
        1 => (any::<u8>(), any::<u16>()).prop_map(|(i, m)| Put::Mode(i, m)),
    ]
}

/// The `index`th of what is there, counted round.
pub(crate) fn pick<T>(items: impl Iterator<Item = T>, index: u8) -> Option<T> {
    let mut items: Vec<T> = items.collect();
    let len = items.len();
    (len > 0).then(|| items.swap_remove(usize::from(index) % len))
}

impl Layer {
    /// The layer that these steps make. `seed` keeps the content of layers apart.
    pub(crate) fn from_steps(steps: &[Put], seed: u8) -> Self {
        let mut layer = Self::default();
        layer
            .nodes
            .insert(PathBuf::new(), Node { mtime: Some(1_000), ..Node::new(FileKind::Directory, 0o755) });
        for (count, step) in steps.iter().enumerate() {
            layer.step(step, seed, count as u64 + 1);
        }
        layer
    }

    fn step(&mut self, step: &Put, seed: u8, id: u64) {
        let base = Node { id, mtime: i64::try_from(2_000 + id).ok(), ..Node::new(FileKind::Regular, 0o644) };
        match *step {
            Put::File(dir, name, len) => {
                let content = vec![b'A' + seed; usize::from(len)];
                self.insert(dir, name, Node { content, ..base });
            }
            Put::Dir(dir, name) => {
                self.insert(dir, name, Node { kind: FileKind::Directory, mode: 0o755, ..base })
            }
            Put::Symlink(dir, name) => {
                let content = format!("target-{seed}").into_bytes();
                self.insert(dir, name, Node { kind: FileKind::Symlink, mode: 0o777, content, ..base });
            }
            Put::Fifo(dir, name) => self.insert(dir, name, Node { kind: FileKind::Fifo, ..base }),
            Put::Link(dir, name, file) => {
                if let Some(node) =
                    pick(self.of_kind(FileKind::Regular), file).map(|path| self.nodes[&path].clone())
                {
                    self.insert(dir, name, node);
                }
            }
            Put::Whiteout(dir, name) => {
                if let Some(path) = self.free(dir, name) {
                    self.whiteouts.insert(path);
                }
            }
            Put::Opaque(dir) => {
                let dirs = self.of_kind(FileKind::Directory).filter(|path| path != Path::new(""));
                if let Some(path) = pick(dirs, dir) {
                    self.opaques.insert(path);
                }
            }
            Put::Xattr(index, value) => self.change(index, |node| {
                node.xattrs.insert(OsString::from("user.layer"), vec![value; 3]);
            }),
            Put::Mode(index, mode) => self.change(index, |node| node.mode = u32::from(mode) & 0o777 | 0o400),
        }
    }

    /// Changes a file (all its names) or a directory.
    fn change(&mut self, index: u8, change: impl Fn(&mut Node)) {
        let kinds = [FileKind::Regular, FileKind::Directory];
        let known = self.nodes.iter().filter(|(_, node)| kinds.contains(&node.kind));
        if let Some(id) = pick(known.map(|(_, node)| node.id), index) {
            self.nodes.values_mut().filter(|node| node.id == id).for_each(change);
        }
    }

    fn of_kind(&self, kind: FileKind) -> impl Iterator<Item = PathBuf> {
        self.nodes.iter().filter(move |(_, node)| node.kind == kind).map(|(path, _)| path.clone())
    }

    /// A place where the layer neither has nor hides a name.
    fn free(&self, dir: u8, name: u8) -> Option<PathBuf> {
        let dir = pick(self.of_kind(FileKind::Directory), dir)?;
        let path = dir.join(NAMES[usize::from(name) % NAMES.len()]);
        (!self.nodes.contains_key(&path) && !self.whiteouts.contains(&path)).then_some(path)
    }

    fn insert(&mut self, dir: u8, name: u8, node: Node) {
        if let Some(path) = self.free(dir, name) {
            self.nodes.insert(path, node);
        }
    }

    /// Writes the layer into the existing, empty directory `root`.
    pub(crate) fn write(&self, root: &Path, marks: Marks) {
        let mut first: BTreeMap<u64, PathBuf> = BTreeMap::new();
        for (path, node) in &self.nodes {
            let full = root.join(path);
            match first.get(&node.id) {
                Some(twin) => fs::hard_link(twin, &full).expect("link"),
                None => write_node(&full, node),
            }
            first.entry(node.id).or_insert(full);
        }
        for path in &self.whiteouts {
            match marks {
                Marks::Aufs => fs::write(root.join(whiteout(path)), "").expect("whiteout"),
                Marks::Overlay => mknod(&root.join(path), FileKind::CharDevice, 0),
            }
        }
        for path in &self.opaques {
            let full = root.join(path);
            match marks {
                Marks::Aufs => fs::write(full.join(".wh..wh..opq"), "").expect("opaque mark"),
                Marks::Overlay => {
                    rustix::fs::lsetxattr(full, "trusted.overlay.opaque", b"y", XattrFlags::empty())
                        .expect("opaque mark");
                }
            }
        }
        // Last and from the leaves up, for making a child changes its directory's times.
        for (path, node) in self.nodes.iter().rev() {
            set_mtime(&root.join(path), node.mtime.unwrap_or_default());
        }
    }
}

/// The aufs whiteout that hides `path`.
pub(crate) fn whiteout(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_else(|| OsStr::new(""));
    path.with_file_name([OsStr::new(".wh."), name].join(OsStr::new("")))
}

fn write_node(full: &Path, node: &Node) {
    match node.kind {
        FileKind::Regular => fs::write(full, &node.content).expect("write"),
        FileKind::Directory if full.is_dir() => {}
        FileKind::Directory => fs::create_dir(full).expect("mkdir"),
        FileKind::Symlink => symlink(OsStr::from_bytes(&node.content), full).expect("symlink"),
        kind => mknod(full, kind, node.rdev),
    }
    for (name, value) in &node.xattrs {
        rustix::fs::lsetxattr(full, name, value, XattrFlags::empty()).expect("lsetxattr");
    }
    let owner = (Some(Uid::from_raw(node.uid)), Some(Gid::from_raw(node.gid)));
    rustix::fs::chownat(CWD, full, owner.0, owner.1, AtFlags::SYMLINK_NOFOLLOW).expect("lchown");
    if node.kind != FileKind::Symlink {
        fs::set_permissions(full, fs::Permissions::from_mode(node.mode)).expect("chmod");
    }
}

fn mknod(full: &Path, kind: FileKind, rdev: u64) {
    let kind = rustix::fs::FileType::from_raw_mode(kind.mode_bits());
    rustix::fs::mknodat(CWD, full, kind, Mode::from_raw_mode(0o644), rdev).expect("mknod");
}

/// Sets the time of last change, to whole seconds, of the object itself.
pub(crate) fn set_mtime(full: &Path, seconds: i64) {
    try_set_mtime(full, seconds).expect("utimensat");
}

/// As [`set_mtime`], where it may be refused.
pub(crate) fn try_set_mtime(full: &Path, seconds: i64) -> Result<(), Errno> {
    let last_access = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
    let last_modification = Timespec { tv_sec: seconds, tv_nsec: 0 };
    let times = Timestamps { last_access, last_modification };
    rustix::fs::utimensat(CWD, full, &times, AtFlags::SYMLINK_NOFOLLOW)
}
