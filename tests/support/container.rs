//! What the container tests share: a store with a busybox image in it, the program run on it, and a look around afterwards
//! for anything left behind.
#![allow(dead_code, reason = "each test program uses its own part of this")]
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// How a call of the program ended, and what it said.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let signal = output.status.signal().map(|signal| 1000 + signal);
        let status = output.status.code().or(signal).unwrap();
        Self { status, out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// A store of its own, and the program.
#[derive(Debug)]
pub(crate) struct Uctr {
    root: TempDir,
}

impl Uctr {
    /// A store with the image `busybox`.
    pub(crate) fn new() -> Self {
        Self::with_image(&[])
    }

    /// The same, with lines of a Dockerfile applied to the image.
    pub(crate) fn with_image(changes: &[&str]) -> Self {
        let uctr = Self::empty();
        let tar = uctr.path("busybox.tar");
        fs::write(&tar, busybox_layer()).unwrap();
        let mut args = vec!["import"];
        changes.iter().for_each(|change| args.extend(["--change", change]));
        args.extend([tar.to_str().unwrap(), "busybox"]);
        uctr.ok(&args);
        fs::remove_file(tar).unwrap();
        uctr
    }

    /// A store with nothing in it.
    pub(crate) fn empty() -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "the container tests make namespaces and cgroups: run as root"
        );
        Self { root: tempfile::Builder::new().prefix("uctr-test-").tempdir_in("/tmp").unwrap() }
    }

    /// A path in the store's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// A directory of the host to mount from, made with a file `f`.
    pub(crate) fn host_dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("f"), "host\n").unwrap();
        path
    }

    /// The program on this store.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_uctr"));
        command.arg("--root").arg(self.root.path()).args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    pub(crate) fn call(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Runs it to its end with something to read.
    pub(crate) fn feed(&self, args: &[&str], input: &[u8]) -> Done {
        let mut command = self.command(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        });
        writer.into()
    }

    /// Runs it, which must succeed, and gives what it said without the last newline.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let done = self.call(args);
        assert_eq!(done.status, 0, "uctr {args:?}: {done:?}");
        done.out.trim_end_matches('\n').to_owned()
    }

    /// Runs a script in a new container that is removed afterwards.
    pub(crate) fn script(&self, options: &[&str], script: &str) -> Done {
        self.call(&[&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat())
    }

    /// The same, which must succeed; what it said without the last newline.
    pub(crate) fn says(&self, options: &[&str], script: &str) -> String {
        self.ok(&[&["run", "--rm"], options, &["busybox", "sh", "-c", script]].concat())
    }

    /// Starts a detached container that runs a script, and gives its identifier.
    pub(crate) fn background(&self, options: &[&str], script: &str) -> String {
        self.ok(&[&["run", "-d"], options, &["busybox", "sh", "-c", script]].concat())
    }

    /// What inspect tells of a container.
    pub(crate) fn inspect(&self, name: &str) -> Value {
        let text = self.ok(&["inspect", name]);
        serde_json::from_str::<Vec<Value>>(&text).unwrap().remove(0)
    }

    /// A number from inspect.
    pub(crate) fn number(&self, name: &str, pointer: &str) -> i64 {
        self.inspect(name).pointer(pointer).and_then(Value::as_i64).unwrap()
    }

    /// The process numbers of the store's monitors and union servers.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let root = self.root.path().to_str().unwrap().as_bytes().to_vec();
        let holds = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(root.len()).any(|window| window == root)
        };
        let own = i32::try_from(std::process::id()).unwrap();
        let pids = fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|pid| *pid != own && holds(pid)).collect()
    }

    /// Loads an image of several layers, the lowest first, each a list of entries.
    pub(crate) fn load_layers(&self, name: &str, layers: &[Vec<u8>]) {
        let digest = |bytes: &[u8]| format!("sha256:{}", hex(&Sha256::digest(bytes)));
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": { "Cmd": ["sh"] },
            "rootfs": { "type": "layers", "diff_ids": layers.iter().map(|layer| digest(layer)).collect::<Vec<_>>() },
        });
        let names: Vec<String> = (0..layers.len()).map(|index| format!("{index}.tar")).collect();
        let manifest =
            json!([{ "Config": "config.json", "RepoTags": [format!("{name}:latest")], "Layers": names }]);
        let mut archive = Layer::new();
        archive.file("manifest.json", manifest.to_string().as_bytes(), 0o644);
        archive.file("config.json", config.to_string().as_bytes(), 0o644);
        for (name, layer) in names.iter().zip(layers) {
            archive.file(name, layer, 0o644);
        }
        let path = self.path("archive.tar");
        fs::write(&path, archive.finish()).unwrap();
        self.ok(&["load", "-i", path.to_str().unwrap()]);
        fs::remove_file(path).unwrap();
    }

    /// Removes all containers, and asserts that nothing of them is left in any namespace of the host.
    pub(crate) fn assert_clean(&self) {
        let ids = self.ok(&["ps", "-aq", "--no-trunc"]);
        for id in ids.lines() {
            self.ok(&["rm", "-f", "-v", id]);
        }
        for id in ids.lines() {
            assert_eq!(cgroups_of(id), Vec::<PathBuf>::new(), "cgroups of {id}");
        }
        self.assert_nothing_left();
    }

    /// Asserts that no container is left, in any form.
    pub(crate) fn assert_nothing_left(&self) {
        wait_until("no process of the store is left", || self.processes().is_empty());
        let names = |directory: &str| -> Vec<_> {
            let entries = fs::read_dir(self.path(directory)).into_iter().flatten();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };
        assert_eq!(names("containers"), Vec::<String>::new(), "directories of containers");
        assert_eq!(
            names("run").into_iter().filter(|name| name != "lock").collect::<Vec<_>>(),
            Vec::<String>::new()
        );
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.root.path().to_str().unwrap()), "mounts of the store:\n{mounts}");
    }
}

impl Drop for Uctr {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let ids = self.call(&["ps", "-aq", "--no-trunc"]).out;
            ids.lines().for_each(|id| drop(self.call(&["rm", "-f", "-v", id])));
        } else {
            self.assert_clean();
        }
    }
}

/// The cgroups of a container, in every hierarchy.
pub(crate) fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let mut places = vec![PathBuf::from("/sys/fs/cgroup")];
    places.extend(fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path()));
    places.into_iter().map(|place| place.join("uctr").join(id)).filter(|place| place.exists()).collect()
}

/// Waits for what must come soon.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A tar archive in the making.
pub(crate) struct Layer(tar::Builder<Vec<u8>>);

impl Layer {
    pub(crate) fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_600_000_000);
        header
    }

    pub(crate) fn dir(&mut self, name: &str, mode: u32) {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.0.append_data(&mut header, format!("{name}/"), &[][..]).unwrap();
    }

    pub(crate) fn owned_dir(&mut self, name: &str, mode: u32, owner: u64) {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        header.set_uid(owner);
        header.set_gid(owner);
        self.0.append_data(&mut header, format!("{name}/"), &[][..]).unwrap();
    }

    pub(crate) fn file(&mut self, name: &str, content: &[u8], mode: u32) {
        let mut header = Self::header(tar::EntryType::Regular, mode, content.len() as u64);
        self.0.append_data(&mut header, name, content).unwrap();
    }

    pub(crate) fn link(&mut self, name: &str, target: &str) {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.0.append_link(&mut header, name, target).unwrap();
    }

    pub(crate) fn device(&mut self, name: &str, major: u32, minor: u32) {
        let mut header = Self::header(tar::EntryType::Char, 0o666, 0);
        header.set_device_major(major).unwrap();
        header.set_device_minor(minor).unwrap();
        self.0.append_data(&mut header, name, &[][..]).unwrap();
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A small root filesystem: busybox with its applets, two users, some content.
pub(crate) fn busybox_layer() -> Vec<u8> {
    let mut layer = Layer::new();
    busybox_into(&mut layer);
    layer.finish()
}

/// The same as entries of a larger layer.
pub(crate) fn busybox_into(layer: &mut Layer) {
    let busybox = Path::new("/bin/busybox");
    assert!(busybox.exists(), "no /bin/busybox: apt-get install busybox-static");
    for (name, mode) in [("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("root", 0o700), ("usr", 0o755)] {
        layer.dir(name, mode);
    }
    layer.file("bin/busybox", &fs::read(busybox).unwrap(), 0o755);
    let list = Command::new(busybox).arg("--list").output().unwrap().stdout;
    for applet in String::from_utf8(list).unwrap().lines().filter(|applet| *applet != "busybox") {
        layer.link(&format!("bin/{applet}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/home/app:/bin/sh\n";
    layer.file("etc/passwd", passwd.as_bytes(), 0o644);
    layer.file("etc/group", b"root:x:0:\nadm:x:4:app\nwww:x:33:\napp:x:1000:\n", 0o644);
    layer.dir("home", 0o755);
    layer.owned_dir("home/app", 0o750, 1000);
    layer.dir("var", 0o755);
    layer.owned_dir("var/data", 0o751, 1000);
    layer.file("var/data/seed", b"seed\n", 0o640);
    layer.file("usr/plain", b"not a program\n", 0o644);
    layer.file("usr/no-interpreter", b"#!/no/such/interpreter\n", 0o755);
    layer.file("usr/garbage", b"\x7fELF and nothing more", 0o755);
}

/// A digest of everything in a tree: names, modes, owners, times and content.
pub(crate) fn fingerprint(root: &Path) -> String {
    use std::os::unix::fs::MetadataExt;
    let mut hash = Sha256::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let line = (
            path.display(),
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
        );
        hash.update(format!("{:?}", (line.0.to_string(), line.1, line.2, line.3, line.4, line.5, line.6)));
        if meta.is_dir() {
            let mut children: Vec<_> =
                fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
            children.sort();
            todo.extend(children);
        } else if meta.is_file() {
            hash.update(fs::read(&path).unwrap());
        }
    }
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy of the program without its debugging information, in a directory where others may run it.
pub(crate) fn small_program(directory: &Path) -> PathBuf {
    let path = directory.join("uctr");
    let stripped = Command::new("strip").arg("-o").arg(&path).arg(env!("CARGO_BIN_EXE_uctr")).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(env!("CARGO_BIN_EXE_uctr"), &path).unwrap();
    }
    path
}
