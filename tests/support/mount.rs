//! A union mounted by the program itself, and taken down again whatever happens.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use super::branches::TestTree;

/// How long a server may take to answer its first request, or to end after the unmount.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mounted union over a [`TestTree`]. When it goes, the mount and the server are gone and the lower branches proved.
pub(crate) struct TestMount {
    server: Child,
    options: Vec<String>,
    /// Last, so that the branches are looked at after the server has ended.
    tree: TestTree,
}

impl TestMount {
    /// Mounts branches that are told as to [`TestTree::new`].
    pub(crate) fn new(branches: &[&str]) -> Self {
        Self::over(TestTree::new(branches), &[])
    }

    /// Mounts a tree, with more arguments for `unionfs mount`.
    pub(crate) fn over(tree: TestTree, options: &[&str]) -> Self {
        require_fuse();
        fs::create_dir_all(tree.beside("mnt")).expect("mount point");
        let options: Vec<_> = options.iter().map(|option| (*option).to_owned()).collect();
        let server = serve(&tree, &options);
        Self { server, options, tree }
    }

    /// The mount point.
    pub(crate) fn root(&self) -> PathBuf {
        self.tree.beside("mnt")
    }

    /// A path on the mount.
    pub(crate) fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root().join(path)
    }

    /// A path in the writable branch.
    pub(crate) fn upper(&self, path: impl AsRef<Path>) -> PathBuf {
        self.tree.branch(0).join(path)
    }

    /// A path in the first lower branch.
    pub(crate) fn lower(&self, path: impl AsRef<Path>) -> PathBuf {
        self.tree.branch(1).join(path)
    }

    /// The branches.
    pub(crate) fn tree(&self) -> &TestTree {
        &self.tree
    }

    /// The branches, to be changed with those of the mount.
    pub(crate) fn tree_mut(&mut self) -> &mut TestTree {
        &mut self.tree
    }

    /// A file's text on the mount.
    pub(crate) fn read(&self, path: impl AsRef<Path>) -> String {
        let path = self.path(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {path:?}: {error}"))
    }

    /// The server's process.
    pub(crate) fn server(&self) -> Pid {
        Pid::from_child(&self.server)
    }

    /// Unmounts and mounts again: all that the server knew is gone.
    pub(crate) fn remount(&mut self) {
        let status = self.unmount();
        assert!(status.success(), "the server ended with {status}: {}", log(&self.tree));
        self.mount();
    }

    /// Mounts again what was unmounted.
    pub(crate) fn mount(&mut self) {
        self.server = serve(&self.tree, &self.options);
    }

    /// Whether the server was killed; waits for it.
    pub(crate) fn has_died(&mut self) -> bool {
        let end = Instant::now() + Duration::from_secs(3);
        while Instant::now() < end {
            if let Some(status) = self.server.try_wait().expect("wait") {
                return !status.success();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    }

    /// Takes the mount of a dead server away and mounts again.
    pub(crate) fn mount_again(&mut self) {
        let root = self.root();
        unmount(&root, UnmountFlags::DETACH).unwrap_or_else(|error| panic!("umount -l {root:?}: {error}"));
        self.server = serve(&self.tree, &self.options);
    }

    /// Mounts what was unmounted again, with other arguments if there are any.
    pub(crate) fn mount_with(&mut self, options: Option<&[&str]>) {
        if let Some(options) = options {
            self.options = options.iter().map(|option| (*option).to_owned()).collect();
        }
        self.server = serve(&self.tree, &self.options);
    }

    /// Kills the server and mounts again.
    pub(crate) fn crash(&mut self) {
        kill_process(self.server(), Signal::KILL).expect("kill");
        assert!(self.has_died(), "the server was killed and lives");
        self.mount_again();
    }

    /// Unmounts, and tells how the server ended.
    pub(crate) fn unmount(&mut self) -> ExitStatus {
        let root = self.root();
        unmount(&root, UnmountFlags::empty()).unwrap_or_else(|error| panic!("umount {root:?}: {error}"));
        self.wait()
    }

    /// Waits for the server to end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        match wait(&mut self.server) {
            Some(status) => status,
            None => panic!("the server does not end: {}", log(&self.tree)),
        }
    }
}

impl Drop for TestMount {
    fn drop(&mut self) {
        let root = self.root();
        if is_mounted(&root) {
            let flags = if std::thread::panicking() { UnmountFlags::DETACH } else { UnmountFlags::empty() };
            if let Err(error) = unmount(&root, flags) {
                eprintln!("umount {root:?}: {error}");
                unmount(&root, UnmountFlags::DETACH).ok();
            }
        }
        let ended = wait(&mut self.server);
        if ended.is_none() {
            kill_process(Pid::from_child(&self.server), Signal::KILL).ok();
            drop(self.server.wait());
        }
        if std::thread::panicking() {
            eprintln!("what the server said: {}", log(&self.tree));
        } else {
            let status =
                ended.unwrap_or_else(|| panic!("the server did not end by itself: {}", log(&self.tree)));
            assert!(status.success(), "the server ended with {status}: {}", log(&self.tree));
        }
    }
}

/// Starts a server in the foreground and waits until the mount answers.
fn serve(tree: &TestTree, options: &[String]) -> Child {
    let said = File::options().create(true).append(true).open(tree.beside("log")).expect("log");
    let root = tree.beside("mnt");
    let mut command = unionfs();
    // The whole suite again in another mode: UNIONFS_TEST_OPTIONS=io=passthrough.
    let mode = std::env::var_os("UNIONFS_TEST_OPTIONS");
    let mode = mode.iter().flat_map(|words| [OsStr::new("-o"), words.as_os_str()]);
    command.args(["mount", "-f"]).args(mode).args(options).arg(tree.list()).arg(&root);
    let mut server = command.stdin(Stdio::null()).stderr(said).spawn().expect("unionfs");
    let end = Instant::now() + PATIENCE;
    while !is_mounted(&root) {
        if let Some(status) = server.try_wait().expect("wait") {
            panic!("unionfs mount ended with {status}: {}", log(tree));
        }
        if Instant::now() > end {
            drop(server.kill());
            panic!("no mount after {PATIENCE:?}: {}", log(tree));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    server
}

fn wait(server: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = server.try_wait().expect("wait") {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    None
}

fn log(tree: &TestTree) -> String {
    fs::read_to_string(tree.beside("log")).unwrap_or_default()
}

/// Whether something is mounted at `at`: a dead mount counts too.
pub(crate) fn is_mounted(at: &Path) -> bool {
    let parent = fs::symlink_metadata(at.parent().expect("a mount point has a parent")).expect("stat");
    match fs::symlink_metadata(at) {
        Ok(meta) => meta.dev() != parent.dev(),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// The program under test.
pub(crate) fn unionfs() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_unionfs"));
    command.env_remove("RUST_LOG");
    command
}

/// Runs the program to its end.
pub(crate) fn run<S: AsRef<OsStr>>(args: &[S]) -> Output {
    unionfs().args(args).stdin(Stdio::null()).output().expect("unionfs")
}

/// Runs a host program that the tests install; its absence is a failure that names the remedy.
pub(crate) fn host(program: &str, args: &[&OsStr]) -> Output {
    let result = Command::new(program).args(args).stdin(Stdio::null()).output();
    result.unwrap_or_else(|error| panic!("{program}: {error}: run scripts/setup.sh"))
}

/// Runs a host program that must succeed, and gives what it printed.
pub(crate) fn host_ok(program: &str, args: &[&OsStr]) -> String {
    let output = host(program, args);
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// These tests never pass by being skipped.
fn require_fuse() {
    assert!(rustix::process::geteuid().is_root(), "the mounted tests need root");
    assert!(Path::new("/dev/fuse").exists(), "the mounted tests need /dev/fuse");
}
