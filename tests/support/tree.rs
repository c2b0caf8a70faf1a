//! A whole file tree as a value: read from a directory, compared with another, and told apart in words.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use unionfs::FileKind;

/// Everything a user can tell of one name; times only where they are known to stay.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: FileKind,
    /// Permission bits, 07777.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// A file's bytes or a symlink's target.
    pub(crate) content: Vec<u8>,
    /// `st_rdev` as stat(2) tells it.
    pub(crate) rdev: u64,
    pub(crate) xattrs: BTreeMap<OsString, Vec<u8>>,
    /// Seconds, or `None` where the model cannot know.
    pub(crate) mtime: Option<i64>,
    /// Links; 1 for every directory. In the model: 0, for it counts the names.
    pub(crate) nlink: u64,
    /// The same number for all names of one inode: `st_ino`, or the model's own.
    pub(crate) id: u64,
}

/// Names from the root (the empty path) down.
pub(crate) type Tree = BTreeMap<PathBuf, Node>;

impl Node {
    /// A new object without content.
    pub(crate) fn new(kind: FileKind, mode: u32) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            content: Vec::new(),
            rdev: 0,
            xattrs: BTreeMap::new(),
            mtime: None,
            nlink: 1,
            id: 0,
        }
    }
}

/// Reads the tree under `root`.
///
/// Panics when anything in it cannot be read: a tree that is listed but cannot be read is a failure.
pub(crate) fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    read_into(&mut tree, root, PathBuf::new());
    tree
}

fn read_into(tree: &mut Tree, root: &Path, path: PathBuf) {
    // Not join(""), which would add a slash and so follow a symlink.
    let full = if path.as_os_str().is_empty() { root.into() } else { root.join(&path) };
    let node = read_node(&full);
    let is_dir = node.kind == FileKind::Directory;
    tree.insert(path.clone(), node);
    if is_dir {
        for entry in fs::read_dir(&full).unwrap_or_else(|error| panic!("readdir {full:?}: {error}")) {
            let entry = entry.unwrap_or_else(|error| panic!("readdir {full:?}: {error}"));
            read_into(tree, root, path.join(entry.file_name()));
        }
    }
}

fn read_node(full: &Path) -> Node {
    let meta = fs::symlink_metadata(full).unwrap_or_else(|error| panic!("lstat {full:?}: {error}"));
    let kind = FileKind::from_mode(meta.mode());
    let content = match kind {
        FileKind::Regular => fs::read(full).unwrap_or_else(|error| panic!("read {full:?}: {error}")),
        FileKind::Symlink => fs::read_link(full)
            .unwrap_or_else(|error| panic!("readlink {full:?}: {error}"))
            .into_os_string()
            .into_vec(),
        _ => Vec::new(),
    };
    Node {
        kind,
        mode: meta.mode() & 0o7777,
        uid: meta.uid(),
        gid: meta.gid(),
        content,
        rdev: meta.rdev(),
        xattrs: read_xattrs(full),
        mtime: Some(meta.mtime()),
        nlink: if kind == FileKind::Directory { 1 } else { meta.nlink() },
        id: meta.ino(),
    }
}

/// All extended attributes of the object itself, links not followed.
pub(crate) fn read_xattrs(full: &Path) -> BTreeMap<OsString, Vec<u8>> {
    let mut list = vec![0_u8; 65536];
    let len = rustix::fs::llistxattr(full, &mut list[..])
        .unwrap_or_else(|error| panic!("llistxattr {full:?}: {error}"));
    let names = list[..len].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    names.map(|name| (OsString::from_vec(name.to_vec()), read_xattr(full, OsStr::from_bytes(name)))).collect()
}

fn read_xattr(full: &Path, name: &OsStr) -> Vec<u8> {
    let mut value = vec![0_u8; 65536];
    let len = rustix::fs::lgetxattr(full, name, &mut value[..])
        .unwrap_or_else(|error| panic!("lgetxattr {full:?} {name:?}: {error}"));
    value.truncate(len);
    value
}

/// What tells `got` from `want`, one line a difference, or `None` if a user could not.
pub(crate) fn difference(want: &Tree, got: &Tree) -> Option<String> {
    let mut out = String::new();
    for path in want.keys().filter(|path| !got.contains_key(*path)) {
        line(&mut out, path, "missing", &want[path].kind, &"-");
    }
    for path in got.keys().filter(|path| !want.contains_key(*path)) {
        line(&mut out, path, "should not be there", &"-", &got[path].kind);
    }
    let (want_twins, got_twins) = (twins(want), twins(got));
    for (path, want) in want {
        if let Some(node) = got.get(path) {
            compare(&mut out, path, want, node);
            if want_twins[path.as_path()] != got_twins[path.as_path()] {
                line(
                    &mut out,
                    path,
                    "first name of its inode",
                    &want_twins[path.as_path()],
                    &got_twins[path.as_path()],
                );
            }
        }
    }
    (!out.is_empty()).then_some(out)
}

fn compare(out: &mut String, path: &Path, want: &Node, got: &Node) {
    if want.kind != got.kind {
        return line(out, path, "kind", &want.kind, &got.kind);
    }
    if want.mode != got.mode && want.kind != FileKind::Symlink {
        line(out, path, "mode", &format_args!("{:o}", want.mode), &format_args!("{:o}", got.mode));
    }
    if (want.uid, want.gid) != (got.uid, got.gid) {
        line(out, path, "owner", &(want.uid, want.gid), &(got.uid, got.gid));
    }
    if want.content != got.content {
        line(out, path, "content", &brief(&want.content), &brief(&got.content));
    }
    if want.rdev != got.rdev {
        line(out, path, "rdev", &want.rdev, &got.rdev);
    }
    if want.xattrs != got.xattrs {
        line(out, path, "xattrs", &want.xattrs, &got.xattrs);
    }
    if let (Some(want), Some(got)) = (want.mtime, got.mtime)
        && want != got
    {
        line(out, path, "mtime", &want, &got);
    }
    if want.nlink != got.nlink {
        line(out, path, "nlink", &want.nlink, &got.nlink);
    }
}

fn line(out: &mut String, path: &Path, what: &str, want: &dyn std::fmt::Debug, got: &dyn std::fmt::Debug) {
    writeln!(out, "  {path:?}: {what}: want {want:?}, got {got:?}").expect("a String takes all");
}

/// The first name of each name's inode: equal in two trees when their hard links are.
fn twins(tree: &Tree) -> BTreeMap<&Path, &Path> {
    let mut first = BTreeMap::new();
    tree.iter()
        .map(|(path, node)| (path.as_path(), *first.entry(node.id).or_insert(path.as_path())))
        .collect()
}

/// Bytes as runs, for what tests write is mostly runs: `3×'a' 4096×'\0'`.
fn brief(bytes: &[u8]) -> String {
    let runs: Vec<_> = bytes.chunk_by(|a, b| a == b).take(12).collect();
    let shown = runs.iter().map(|run| format!("{}×{:?}", run.len(), char::from(run[0]))).collect::<Vec<_>>();
    format!("{} bytes: {}", bytes.len(), shown.join(" "))
}
