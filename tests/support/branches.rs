//! Branch directories in a temporary directory, made from a few words, and proof that the lower ones stayed.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, seek};
use tempfile::TempDir;

use super::layer::{Layer, Marks, pick};
use super::tree::read_xattrs;

/// Branches `b0`, `b1`, … (the first one writable), and room for a mount point and plain directories.
///
/// Every branch that is not writable is fingerprinted when it has been made, and must be the same when the tree goes.
pub(crate) struct TestTree {
    dir: TempDir,
    branches: Vec<Branch>,
    /// Those that were taken out of the list: nothing may write them any more.
    removed: Vec<Branch>,
}

struct Branch {
    root: PathBuf,
    /// What it was; `None` for one that may change.
    before: Option<Fingerprint>,
    /// It could be written at some time.
    written: bool,
}

impl Branch {
    fn new(root: PathBuf, writable: bool) -> Self {
        let before = (!writable).then(|| fingerprint(&root));
        Self { root, before, written: writable }
    }

    /// What was changed, though nothing may.
    fn changes(&self) -> Vec<String> {
        let Some(before) = &self.before else { return Vec::new() };
        let after = fingerprint(&self.root);
        let paths = before.keys().chain(after.keys());
        let mut changed: Vec<_> = paths.filter(|path| before.get(*path) != after.get(*path)).collect();
        changed.dedup();
        changed.into_iter().map(|path| self.root.join(path).display().to_string()).collect()
    }
}

/// All that a write could change of each object: content, metadata, inode, times of change.
type Fingerprint = BTreeMap<PathBuf, u64>;

/// Where a tree lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ground {
    /// The disk's filesystem, as with users: inode numbers come again, blocks are allocated late.
    Disk,
    /// tmpfs, which takes all that a union needs: several times as many cases in the same time.
    Memory,
}

impl Ground {
    fn dir(self) -> PathBuf {
        match self {
            Self::Disk => std::env::temp_dir(),
            Self::Memory => PathBuf::from("/dev/shm"),
        }
    }
}

impl TestTree {
    /// One branch for each text, which lists what is in it, separated by blanks:
    /// `dir/`, `file=content`, `link->target`, `new=>existing` (a hard link), `.wh.name=`. Parents are made.
    pub(crate) fn new(branches: &[&str]) -> Self {
        Self::build(branches.len(), 1, |index, root| {
            branches[index].split_whitespace().for_each(|word| put(root, word));
        })
    }

    /// As [`TestTree::new`], but every branch may change.
    pub(crate) fn loose(branches: &[&str]) -> Self {
        Self::made(
            Ground::Disk,
            branches.len(),
            |_| true,
            |index, root| {
                branches[index].split_whitespace().for_each(|word| put(root, word));
            },
        )
    }

    /// Branches from values, their marks in turn as in `marks`; those for which `writable` is true may change.
    pub(crate) fn from_layers(
        ground: Ground,
        layers: &[Layer],
        writable: impl Fn(usize) -> bool,
        marks: &[Marks],
    ) -> Self {
        Self::made(ground, layers.len(), writable, |index, root| {
            layers[index].write(root, marks[index % marks.len()])
        })
    }

    /// Branches filled by a function of their index and directory; the first `writable` of them may change.
    pub(crate) fn build(count: usize, writable: usize, fill: impl Fn(usize, &Path)) -> Self {
        Self::made(Ground::Disk, count, |index| index < writable, fill)
    }

    fn made(
        ground: Ground,
        count: usize,
        writable: impl Fn(usize) -> bool,
        fill: impl Fn(usize, &Path),
    ) -> Self {
        let dir = tempfile::Builder::new().prefix("unionfs-test-").tempdir_in(ground.dir());
        let dir = dir.expect("temporary directory");
        let mut tree = Self { dir, branches: Vec::new(), removed: Vec::new() };
        for index in 0..count {
            tree.insert(index, writable(index), |root| fill(index, root));
        }
        tree
    }

    /// Makes one more branch for a place of the list.
    pub(crate) fn insert(&mut self, at: usize, writable: bool, fill: impl FnOnce(&Path)) {
        let root = self.dir.path().join(format!("b{}", self.branches.len() + self.removed.len()));
        fs::create_dir(&root).expect("branch");
        fill(&root);
        self.branches.insert(at, Branch::new(root, writable));
    }

    /// Takes a branch out of the list.
    pub(crate) fn remove(&mut self, at: usize) {
        self.removed.push(self.branches.remove(at));
    }

    /// Lets a branch be changed from now on, or no more.
    pub(crate) fn set_writable(&mut self, at: usize, writable: bool) {
        let branch = &mut self.branches[at];
        branch.before = (!writable).then(|| fingerprint(&branch.root));
        branch.written |= writable;
    }

    /// A place above the lowest branch, which is always one that was never written, as an image is.
    pub(crate) fn place(&self, at: u8) -> usize {
        usize::from(at) % self.branches.len()
    }

    /// Any branch but the lowest.
    pub(crate) fn above_lowest(&self, at: u8) -> Option<usize> {
        pick(0..self.branches.len() - 1, at)
    }

    /// Whether a branch may change.
    pub(crate) fn writable(&self, at: usize) -> bool {
        self.branches[at].before.is_none()
    }

    /// The directory of a branch.
    pub(crate) fn branch(&self, index: usize) -> &Path {
        &self.branches[index].root
    }

    /// A path beside the branches.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The branch list in aufs's form.
    pub(crate) fn list(&self) -> String {
        let perm = |branch: &Branch| if branch.before.is_none() { "rw" } else { "ro+wh" };
        let words = self.branches.iter().map(|branch| format!("{}={}", branch.root.display(), perm(branch)));
        words.collect::<Vec<_>>().join(":")
    }

    /// What became of the branches that may not change; `None` if nothing did.
    pub(crate) fn lower_changes(&self) -> Option<String> {
        let all = self.branches.iter().chain(&self.removed);
        let changes: Vec<_> = all.flat_map(Branch::changes).collect();
        (!changes.is_empty()).then(|| changes.join("\n"))
    }
}

impl Drop for TestTree {
    fn drop(&mut self) {
        if !std::thread::panicking()
            && let Some(changes) = self.lower_changes()
        {
            panic!("lower branches were written:\n{changes}");
        }
    }
}

fn put(root: &Path, word: &str) {
    if let Some((path, existing)) = word.split_once("=>") {
        fs::hard_link(root.join(existing), parented(root, path)).expect("link");
    } else if let Some((path, target)) = word.split_once("->") {
        symlink(target, parented(root, path)).expect("symlink");
    } else if let Some((path, content)) = word.split_once('=') {
        fs::write(parented(root, path), content).expect("write");
    } else {
        fs::create_dir_all(root.join(word)).expect("mkdir");
    }
}

fn parented(root: &Path, path: &str) -> PathBuf {
    let full = root.join(path);
    fs::create_dir_all(full.parent().expect("below the root")).expect("parents");
    full
}

/// The fingerprint of all objects under `root`.
pub(crate) fn fingerprint(root: &Path) -> Fingerprint {
    let mut found = Fingerprint::new();
    let mut pending = vec![PathBuf::new()];
    while let Some(path) = pending.pop() {
        let full = root.join(&path);
        let meta = fs::symlink_metadata(&full).expect("lstat of a branch");
        if meta.is_dir() {
            let entries = fs::read_dir(&full).expect("readdir of a branch");
            pending.extend(entries.map(|entry| path.join(entry.expect("readdir of a branch").file_name())));
        }
        let mut hash = DefaultHasher::new();
        (meta.ino(), meta.mode(), meta.uid(), meta.gid(), meta.nlink(), meta.size(), meta.rdev())
            .hash(&mut hash);
        (meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec()).hash(&mut hash);
        read_xattrs(&full).hash(&mut hash);
        if meta.is_file() {
            hash_data(&full, &mut hash);
        } else if meta.is_symlink() {
            fs::read_link(&full).expect("readlink of a branch").hash(&mut hash);
        }
        found.insert(path, hash.finish());
    }
    found
}

/// Hashes a file's data and where it lies, without reading its holes.
fn hash_data(full: &Path, hash: &mut DefaultHasher) {
    let file = File::open(full).expect("open of a branch's file");
    let mut buf = vec![0; 1 << 16];
    let mut at = 0;
    while let Ok(data) = seek(&file, SeekFrom::Data(at)) {
        let hole = seek(&file, SeekFrom::Hole(data)).expect("SEEK_HOLE");
        (data, hole).hash(hash);
        at = data;
        while at < hole {
            let room = usize::try_from((hole - at).min(1 << 16)).expect("at most 64 KiB");
            let len = file.read_at(&mut buf[..room], at).expect("read of a branch's file");
            buf[..len].hash(hash);
            at = if len == 0 { hole } else { at + len as u64 };
        }
    }
}

/// The names in a directory, sorted, blanks between.
pub(crate) fn ls(dir: &Path) -> String {
    let entries = fs::read_dir(dir).unwrap_or_else(|error| panic!("readdir {dir:?}: {error}"));
    let mut names: Vec<_> = entries.map(|entry| entry.expect("readdir").file_name()).collect();
    names.sort();
    names.join(OsStr::from_bytes(b" ")).to_string_lossy().into_owned()
}

/// As [`ls`], of a branch, without the directories that the union keeps there for itself.
pub(crate) fn visible(branch: &Path) -> String {
    ls(branch).split(' ').filter(|name| !name.starts_with(".wh..wh.")).collect::<Vec<_>>().join(" ")
}
