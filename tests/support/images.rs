//! A store inside of a world that must not change, and programs run on it.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use uctr::image::{Digest, Image, ImportOptions, LoadOptions, Store};

/// What can be seen of everything below a directory, but for the store.
pub(crate) type Snapshot = BTreeMap<PathBuf, String>;

/// Looks at everything below `dir` except at `skip`.
pub(crate) fn snapshot(dir: &Path, skip: &Path) -> Snapshot {
    let mut seen = Snapshot::new();
    let mut queue = vec![dir.to_owned()];
    while let Some(path) = queue.pop() {
        if path == skip {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        let kind = meta.file_type();
        let content = match () {
            () if kind.is_dir() => {
                queue.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
                String::new()
            }
            () if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
            () if kind.is_file() => Digest::of(&fs::read(&path).unwrap()).to_string(),
            () if kind.is_fifo() => "fifo".into(),
            () => format!("device {:x}", meta.rdev()),
        };
        // The store is in this directory, so that this one's links and times are the store's.
        let inside = skip.starts_with(&path);
        let (nlink, mtime) = if inside { (0, 0) } else { (meta.nlink(), meta.mtime()) };
        let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
        seen.insert(path, format!("{mode:o} {uid}:{gid} {nlink} {mtime} {content}"));
    }
    seen
}

/// A store below a directory with canaries in it, which are looked at again when this is dropped.
pub(crate) struct World {
    pub(crate) dir: TempDir,
    before: Snapshot,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::at(&std::env::temp_dir())
    }

    /// A world in memory where there is one, for tests that make hundreds: each import waits for the disk.
    pub(crate) fn in_memory() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::at(memory) } else { Self::new() }
    }

    fn at(place: &Path) -> Self {
        let dir = tempfile::tempdir_in(place).unwrap();
        for sub in ["canary.d", "deep/er"] {
            fs::create_dir_all(dir.path().join(sub)).unwrap();
        }
        for file in ["canary", "canary.d/file", "deep/canary", "deep/er/canary"] {
            fs::write(dir.path().join(file), "untouched").unwrap();
        }
        let before = snapshot(dir.path(), &dir.path().join("deep/er/store"));
        Self { dir, before }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.path("deep/er/store")
    }

    pub(crate) fn store(&self) -> Store {
        Store::open(&self.root()).unwrap()
    }

    /// Panics if anything outside of the store changed.
    pub(crate) fn check(&self) {
        assert_eq!(
            snapshot(self.dir.path(), &self.root()),
            self.before,
            "something outside of the store changed"
        );
    }

    /// Writes a file beside the canaries, and says that it may be there.
    pub(crate) fn put(&mut self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        self.accept();
        path
    }

    /// Takes what is outside of the store now for what must stay.
    pub(crate) fn accept(&mut self) {
        self.before = snapshot(self.dir.path(), &self.root());
    }

    /// Panics unless the store is empty: no layer, no image, nothing half made.
    pub(crate) fn check_nothing_left(&self) {
        self.check();
        for part in ["layers", "tmp"] {
            let left: Vec<_> =
                fs::read_dir(self.root().join(part)).unwrap().map(|entry| entry.unwrap().path()).collect();
            assert!(left.is_empty(), "left in the store: {left:?}");
        }
        assert!(self.store().images().unwrap().is_empty());
    }

    /// Imports an archive as the image `x`, and tells where its tree lies.
    pub(crate) fn import(&self, archive: &[u8]) -> Result<PathBuf, String> {
        let store = self.store();
        let options = ImportOptions { name: Some("x".parse().unwrap()), ..ImportOptions::default() };
        store.import(archive, "x.tar", &options).map_err(|error| error_text(&error))?;
        let image = store.resolve("x").unwrap();
        Ok(image.layers[0].path.clone())
    }

    /// Imports an archive that must be taken; nothing outside may change, and saving must give the same archive again.
    pub(crate) fn taken(&self, archive: &[u8]) -> PathBuf {
        let tree = self.import(archive).unwrap_or_else(|error| panic!("refused: {error}"));
        self.check();
        assert!(layer_of(&self.store(), "x", 0) == archive, "save gives another archive than was imported");
        tree
    }

    /// Imports an archive that must be refused with all of these words, leaving nothing.
    pub(crate) fn refused(&self, archive: &[u8], words: &[&str]) {
        let error = self.import(archive).expect_err("it was taken");
        for word in words {
            assert!(error.contains(word), "{word:?} is not in: {error}");
        }
        self.check_nothing_left();
    }

    /// Runs `uctr` on the store.
    pub(crate) fn uctr(&self, args: &[&str]) -> Output {
        self.uctr_with(args, b"")
    }

    /// Runs `uctr` on the store with this on its standard input.
    pub(crate) fn uctr_with(&self, args: &[&str], input: &[u8]) -> Output {
        run(Command::new(env!("CARGO_BIN_EXE_uctr")).arg("--root").arg(self.root()).args(args), input)
    }
}

/// The error with all that it comes from.
pub(crate) fn error_text(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// What a program did.
#[derive(Debug)]
pub(crate) struct Output {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Output {
    /// Its output, if it succeeded.
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.status, 0, "{self:?}");
        self.out
    }

    /// Its complaint, if it failed with all of these words.
    pub(crate) fn fails(self, words: &[&str]) {
        assert_ne!(self.status, 0, "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "{word:?} is not in: {}", self.err);
        }
    }
}

/// Runs a program to its end, this being its standard input.
pub(crate) fn run(command: &mut Command, input: &[u8]) -> Output {
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(
            |error| {
                panic!("cannot run {command:?}: {error}");
            },
        );
    let mut stdin = child.stdin.take().unwrap();
    let output = std::thread::scope(|scope| {
        // It may end before it has read all.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    });
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Output { status: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
}

/// The tar stream of a layer (0 is the lowest) as `save` gives it out.
pub(crate) fn layer_of(store: &Store, image: &str, number: usize) -> Vec<u8> {
    let mut out = Vec::new();
    store.save(&[image.to_owned()], uctr::image::SaveFormat::DockerArchive, &mut out).unwrap();
    let members = members(&out);
    let manifest: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
    members[manifest[0]["Layers"][number].as_str().unwrap()].clone()
}

/// The members of an archive of ours.
pub(crate) fn members(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut archive = tar::Archive::new(archive);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        (entry.path().unwrap().to_string_lossy().into_owned(), content)
    });
    entries.collect()
}

/// Loads an archive from memory.
pub(crate) fn load(store: &Store, archive: &[u8], options: &LoadOptions) -> Result<Vec<Image>, String> {
    let mut stream = archive;
    let loaded = store.load(uctr::image::From::Stream(&mut stream, "x.tar"), options);
    let loaded = loaded.map_err(|error| error_text(&error))?;
    Ok(loaded.iter().map(|loaded| store.resolve(&loaded.id.to_string()).unwrap()).collect())
}

/// An extended attribute.
pub(crate) fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1 << 10];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

/// The names in a directory, sorted, as bytes.
pub(crate) fn names(dir: &Path) -> Vec<Vec<u8>> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().as_bytes().to_vec()).collect();
    names.sort();
    names
}
