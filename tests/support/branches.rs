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

use super::layer::{Layer, Marks};
use super::tree::read_xattrs;

/// Branches `b0`, `b1`, … (the first one writable), and room for a mount point and plain directories.
///
/// Every branch that is not writable is fingerprinted when it has been made, and must be the same when the tree goes.
pub(crate) struct TestTree {
    dir: TempDir,
    branches: Vec<PathBuf>,
    /// What the others were; `None` for one that may change.
    before: Vec<Option<Fingerprint>>,
}

/// All that a write could change of each object: content, metadata, inode, times of change.
type Fingerprint = BTreeMap<PathBuf, u64>;

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
            branches.len(),
            |_| true,
            |index, root| {
                branches[index].split_whitespace().for_each(|word| put(root, word));
            },
        )
    }

    /// Branches from values, their marks in turn as in `marks`; those for which `writable` is true may change.
    pub(crate) fn from_layers(layers: &[Layer], writable: impl Fn(usize) -> bool, marks: &[Marks]) -> Self {
        Self::made(layers.len(), writable, |index, root| {
            layers[index].write(root, marks[index % marks.len()])
        })
    }

    /// Branches filled by a function of their index and directory; the first `writable` of them may change.
    pub(crate) fn build(count: usize, writable: usize, fill: impl Fn(usize, &Path)) -> Self {
        Self::made(count, |index| index < writable, fill)
    }

    fn made(count: usize, writable: impl Fn(usize) -> bool, fill: impl Fn(usize, &Path)) -> Self {
        let dir = tempfile::Builder::new().prefix("unionfs-test-").tempdir().expect("temporary directory");
        let branches: Vec<_> = (0..count).map(|index| dir.path().join(format!("b{index}"))).collect();
        for (index, root) in branches.iter().enumerate() {
            fs::create_dir(root).expect("branch");
            fill(index, root);
        }
        let before =
            (0..count).map(|index| (!writable(index)).then(|| fingerprint(&branches[index]))).collect();
        Self { dir, branches, before }
    }

    /// The directory of a branch.
    pub(crate) fn branch(&self, index: usize) -> &Path {
        &self.branches[index]
    }

    /// A path beside the branches.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The branch list in aufs's form.
    pub(crate) fn list(&self) -> String {
        let perm = |index: usize| if self.before[index].is_none() { "rw" } else { "ro+wh" };
        let words = self
            .branches
            .iter()
            .enumerate()
            .map(|(index, root)| format!("{}={}", root.display(), perm(index)));
        words.collect::<Vec<_>>().join(":")
    }

    /// What became of the branches that may not change; `None` if nothing did.
    pub(crate) fn lower_changes(&self) -> Option<String> {
        let mut changes = Vec::new();
        for (before, root) in self.before.iter().zip(&self.branches) {
            let Some(before) = before else { continue };
            let after = fingerprint(root);
            let paths = before.keys().chain(after.keys());
            let mut changed: Vec<_> = paths.filter(|path| before.get(*path) != after.get(*path)).collect();
            changed.dedup();
            changes.extend(changed.into_iter().map(|path| root.join(path).display().to_string()));
        }
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
