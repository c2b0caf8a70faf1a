//! A stage for foreign command lines: branches, a mount point, and our program under the names that callers know.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::mount::{UnmountFlags, unmount};

use crate::support::branches::TestTree;
use crate::support::mount::is_mounted;

/// How long a server may take to end once it has nothing to serve.
const PATIENCE: Duration = Duration::from_secs(60);

/// Branches `b0` (which may change), `b1`, …; beside them `m` to mount on, `w` to work in, `bin` with our program.
///
/// When it goes, no mount, no process and no change of a lower branch is left, or it panics.
pub(crate) struct Scene {
    tree: TestTree,
}

impl Scene {
    /// Branches that are told as to [`TestTree::new`].
    pub(crate) fn new(branches: &[&str]) -> Self {
        Self::over(TestTree::new(branches))
    }

    /// The same for branches that are there already.
    pub(crate) fn over(tree: TestTree) -> Self {
        assert!(rustix::process::geteuid().is_root(), "these tests need root");
        for dir in ["m", "w", "bin"] {
            fs::create_dir(tree.beside(dir)).unwrap();
        }
        for name in ["unionfs", "fuse-overlayfs", "unionfs-fuse", "mount.unionfs", "mount.fuse.unionfs"] {
            symlink(env!("CARGO_BIN_EXE_unionfs"), tree.beside("bin").join(name)).unwrap();
        }
        Self { tree }
    }

    /// A path beside the branches.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.tree.beside(name)
    }

    /// A path on the mount.
    pub(crate) fn on(&self, path: &str) -> PathBuf {
        self.tree.beside("m").join(path)
    }

    /// Runs a command line in the directory of the branches: the first word is one of our program's names.
    pub(crate) fn run(&self, line: &str) -> Output {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap();
        self.command(self.path("bin").join(program)).args(words).output().unwrap()
    }

    /// The same, which must succeed; gives what it said on standard error.
    pub(crate) fn ok(&self, line: &str) -> String {
        let output = self.run(line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{line}: {}: {said}", output.status);
        said
    }

    /// The same, which must fail; gives the exit status and what it said.
    pub(crate) fn refused(&self, line: &str) -> (i32, String) {
        let output = self.run(line);
        assert!(!output.status.success(), "{line}: succeeded");
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// A shell script that must succeed, in a mount namespace of its own where `mount -t unionfs` finds our helpers;
    /// gives what it printed.
    pub(crate) fn shell(&self, script: &str) -> String {
        let output = self.shell_output(script);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{script}\n{}: {said}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, however it ends.
    pub(crate) fn shell_output(&self, script: &str) -> Output {
        // Over what is installed: mount.fuse3 does not keep PATH.
        const HELPERS: &str = "mkdir -p .s/u .s/w .b/u .b/w
            mount -t overlay -o lowerdir=/usr/sbin,upperdir=.s/u,workdir=.s/w overlay /usr/sbin
            mount -t overlay -o lowerdir=/usr/bin,upperdir=.b/u,workdir=.b/w overlay /usr/bin
            ln -sf \"$PWD\"/bin/mount.* /usr/sbin/
            for name in unionfs fuse-overlayfs unionfs-fuse; do ln -sf \"$PWD\"/bin/$name /usr/bin/; done\n";
        fs::create_dir_all(self.path(".s")).unwrap();
        let script = format!("set -eu\n{HELPERS}{script}");
        self.command("unshare").args(["-m", "sh", "-c", &script]).output().unwrap()
    }

    /// A program that finds ours first, and runs in the directory of the branches.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env_remove("RUST_LOG")
            .current_dir(self.path(""))
            .stdin(Stdio::null());
        command
    }

    /// Unmounts, and waits for the server to end.
    pub(crate) fn unmount(&self) {
        let at = self.path("m");
        unmount(&at, UnmountFlags::empty()).unwrap_or_else(|error| panic!("umount {at:?}: {error}"));
        assert_eq!(self.wait_for_servers(), "", "the server did not end");
    }

    /// The line of /proc/self/mounts for the mount point, in words.
    pub(crate) fn mounts_line(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let at = self.path("m");
        let line = mounts.lines().find(|line| line.split(' ').nth(1) == at.to_str());
        line.unwrap_or_default().split(' ').map(String::from).collect()
    }

    /// Processes that serve something here, one a line, once they had time to end.
    pub(crate) fn wait_for_servers(&self) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            let servers = self.servers();
            if servers.is_empty() || Instant::now() > end {
                return servers.join("\n");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The command lines of processes that were started through a link in `bin`.
    pub(crate) fn servers(&self) -> Vec<String> {
        self.server_pids()
            .into_iter()
            .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/cmdline")).ok())
            .collect()
    }

    /// Their process numbers. A server's first argument tells what it is, and its second that it is one.
    pub(crate) fn server_pids(&self) -> Vec<i32> {
        let bin = self.path("bin");
        let ours = |pid: &i32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.starts_with(bin.as_os_str().as_encoded_bytes())
        };
        let processes = fs::read_dir("/proc").unwrap();
        processes.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).filter(ours).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let at = self.path("m");
        if is_mounted(&at) {
            let flags = if std::thread::panicking() { UnmountFlags::DETACH } else { UnmountFlags::empty() };
            if unmount(&at, flags).is_err() {
                unmount(&at, UnmountFlags::DETACH).ok();
            }
        }
        let left = self.wait_for_servers();
        if !std::thread::panicking() {
            assert_eq!(left, "", "servers were left behind");
        }
    }
}

/// A command's standard output, trimmed.
pub(crate) fn out(program: &str, arguments: &[&str], at: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(at).output().unwrap();
    assert!(output.status.success(), "{program} {at:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// `uid:gid mode` of an object, as stat(1) tells it.
pub(crate) fn owner(at: &Path) -> String {
    out("stat", &["-c", "%u:%g %a"], at)
}
