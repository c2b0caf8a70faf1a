//! podman and buildah over our program, as root and as a user with subordinate ids, each in a mount namespace and a
//! store of its own; images are made here and nothing is fetched.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// Who runs the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Root,
    /// A user with subordinate ids.
    User,
}

/// What unites the layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Union {
    Ours,
    Kernel,
}

/// The user's number and name, known only inside the namespaces of these tests.
const USER: u32 = 4242;

/// What every script may use: `podman` and `buildah` over the store, `$R` for `podman run`.
const TOOLS: &str = r#"
S=$PWD/store; mkdir -p $S/tmp
stored() { program=$1; shift; command $program --log-level error --root $S/root --runroot $S/run --storage-driver overlay $UNION "$@"; }
podman() { stored podman --tmpdir $S/tmp --cgroup-manager cgroupfs --events-backend file --runtime /usr/sbin/runc "$@"; }
buildah() { stored buildah "$@"; }
R="--network none --ulimit nofile=20000:20000 --ulimit nproc=4096:4096"
finish() { status=$?; podman rm -fa -t 0 >rm.log 2>&1 || cat rm.log; podman system migrate >/dev/null 2>&1 || :
    rmdir /sys/fs/cgroup/*/libpod_parent 2>/dev/null || :; exit $status; }
trap finish EXIT
podman import -q --change 'CMD ["/bin/sh"]' rootfs.tar localhost/base >/dev/null
"#;

/// Runs a script over a fresh store that has the image `localhost/base`; gives what it printed.
///
/// Nothing of it may be left: no mount, no process.
pub(crate) fn script(who: Who, union: Union, text: &str) -> String {
    let dir = stage();
    let at = dir.path();
    let mount_program = match union {
        Union::Ours => format!("--storage-opt overlay.mount_program={}/bin/fuse-overlayfs", at.display()),
        Union::Kernel => String::new(),
    };
    let text = format!("set -eu\nUNION='{mount_program}'\n{TOOLS}\n{text}");
    fs::write(at.join("script"), text).unwrap();
    let run = match who {
        Who::Root => "exec sh script".to_owned(),
        Who::User => as_user(at),
    };
    // Mounts of ours stay private; the engines keep theirs in the namespace, too.
    let output = Command::new("unshare")
        .args(["-m", "sh", "-euc", &run])
        .current_dir(at)
        .env("TMPDIR", at)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{who:?} {union:?}: {}\n{}{said}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    assert_nothing_left(at);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A directory with our program, an image's tar archive and room for a store.
fn stage() -> TempDir {
    let dir = tempfile::Builder::new().prefix("unionfs-test-").tempdir().unwrap();
    let at = dir.path();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    chown(at, Some(USER), Some(USER)).unwrap();
    fs::create_dir(at.join("bin")).unwrap();
    symlink(env!("CARGO_BIN_EXE_unionfs"), at.join("bin/fuse-overlayfs")).unwrap();
    let root = at.join("rootfs");
    for path in ["bin", "etc", "dev", "proc", "sys", "var", "opt", "tmp"] {
        fs::create_dir_all(root.join(path)).unwrap();
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::copy("/usr/bin/busybox", root.join("bin/busybox")).expect("busybox-static: run scripts/setup.sh");
    let applets = [
        "sh", "ls", "cat", "id", "touch", "rm", "mkdir", "stat", "mv", "ln", "chmod", "chown", "sleep",
        "mkfifo",
    ];
    for applet in applets.iter().chain(&["find", "sort", "sed", "true", "head"]) {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\napp:x:1000:1000::/tmp:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\napp:x:1000:\n").unwrap();
    fs::write(root.join("opt/file"), "lower").unwrap();
    let tar = Command::new("tar")
        .args(["-cf", "rootfs.tar", "--owner=0", "--group=0", "--mtime=@1", "-C", "rootfs", "."])
        .current_dir(at)
        .status()
        .unwrap();
    assert!(tar.success());
    dir
}

/// Runs the script as a user that only this mount namespace knows, with 65536 subordinate ids.
fn as_user(at: &Path) -> String {
    format!(
        r#"at={at}
        mkdir -m 700 run home; chown {USER}:{USER} run home rootfs.tar
        {{ cat /etc/passwd; echo tester:x:{USER}:{USER}::$at/home:/bin/sh; }} > passwd
        {{ cat /etc/group; echo tester:x:{USER}:; }} > group
        echo tester:100000:65536 > subids
        mknod -m 666 fuse c 10 229
        mount --bind passwd /etc/passwd; mount --bind group /etc/group; mount --bind fuse /dev/fuse
        touch /etc/subuid /etc/subgid
        mount --bind subids /etc/subuid; mount --bind subids /etc/subgid
        exec setpriv --reuid={USER} --regid={USER} --clear-groups \
            env -i HOME=$at/home USER=tester PATH=$PATH XDG_RUNTIME_DIR=$at/run TMPDIR=$at sh script"#,
        at = at.display()
    )
}

fn assert_nothing_left(at: &Path) {
    let at = at.to_str().unwrap();
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mounts: Vec<_> = mounts.lines().filter(|line| line.contains(at)).collect();
    assert!(mounts.is_empty(), "left mounted: {mounts:?}");
    let servers = || {
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
        lines.filter(|line| line.contains(at)).collect::<Vec<_>>()
    };
    for _ in 0..200 {
        if servers().is_empty() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    panic!("left running: {:?}", servers());
}
