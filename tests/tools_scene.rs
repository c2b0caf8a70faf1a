//! A union in which everything happened that leaves its own kind of mark in the upper, by our server or by the kernel's.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, lsetxattr, mknodat, utimensat,
};

use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, host_ok, run};
use crate::support::tree::{Tree, read_tree};

/// Who writes the upper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// Our server, in the aufs format.
    Aufs,
    /// Our server, in kernel overlay's format.
    Overlay,
    /// Our server, in kernel overlay's format, with copies of the metadata only.
    Metacopy,
    /// The kernel.
    Kernel,
}

/// Everyone whose uppers the tools must read.
pub(crate) const WRITERS: [Writer; 4] = [Writer::Aufs, Writer::Overlay, Writer::Metacopy, Writer::Kernel];

/// Two lower branches that share directories. Beside objects as of [`TestTree::new`], `-NAME` is a whiteout and `!DIR`
/// an opaque directory, in the format that their reader understands.
const LOWERS: [&str; 2] = [
    "b=b b2=>b keep/k=k d/f=f d/sub/s=s old/o=o old/deep/x=x -old/gone gone=gone file=file dir/a=a dir/b=b \
     swap1/one=1 swap2/two=2 link->b opq/up=up !opq big=big mode=mode same=same -mid",
    "d/g=g old/p=p old/gone=gone old/deep/y=y dir/c=c mid=mid opq/hidden=hidden keep/l=l swap1/un=un gone=gone2",
];

/// A tree whose lower branches, with marks that `writer` reads, are ready and whose upper is empty.
fn tree(writer: Writer) -> TestTree {
    TestTree::build(3, 1, |index, root| {
        let words = index.checked_sub(1).map_or("", |lower| LOWERS[lower]);
        words.split_whitespace().for_each(|word| put(root, word, writer));
    })
}

/// Makes one object of a branch, as of [`TestTree::new`].
pub(crate) fn put_plain(root: &Path, word: &str) {
    put(root, word, Writer::Aufs);
}

fn put(root: &Path, word: &str, writer: Writer) {
    let kernel = writer == Writer::Kernel;
    let at = |path: &str| {
        let full = root.join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        full
    };
    if let Some((path, existing)) = word.split_once("=>") {
        fs::hard_link(root.join(existing), at(path)).unwrap();
    } else if let Some((path, target)) = word.split_once("->") {
        symlink(target, at(path)).unwrap();
    } else if let Some((path, content)) = word.split_once('=') {
        fs::write(at(path), content).unwrap();
    } else if let Some(dir) = word.strip_prefix('!') {
        if kernel {
            lsetxattr(at(dir), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        } else {
            fs::write(at(&format!("{dir}/.wh..wh..opq")), "").unwrap();
        }
    } else if let Some(name) = word.strip_prefix('-') {
        let full = at(name);
        if kernel {
            node(&full, FileType::CharacterDevice, 0);
        } else {
            let whiteout = format!(".wh.{}", full.file_name().unwrap().to_str().unwrap());
            fs::write(full.with_file_name(whiteout), "").unwrap();
        }
    }
}

/// An upper with a history, unmounted, and what its union looked like before and at the end.
pub(crate) struct Scene {
    held: Held,
    pub(crate) writer: Writer,
    pub(crate) base: Tree,
    pub(crate) merged: Tree,
    /// When each object was last changed.
    pub(crate) times: Vec<(PathBuf, i128)>,
}

/// Keeps the branches.
enum Held {
    Mount(TestMount),
    Tree(TestTree),
}

impl Scene {
    /// Lets `writer` mount the branches and everything happen.
    pub(crate) fn new(writer: Writer) -> Self {
        match writer {
            Writer::Aufs => Self::ours(writer, &[]),
            Writer::Overlay => Self::ours(writer, &["-o", "format=overlay"]),
            Writer::Metacopy => Self::ours(writer, &["-o", "format=overlay,metacopy=on"]),
            Writer::Kernel => Self::kernels("redirect_dir=on,metacopy=on"),
        }
    }

    /// An upper of the aufs format over lower branches whose marks the kernel reads too.
    pub(crate) fn over_kernel_marks() -> Self {
        Self::ours_over(tree(Writer::Kernel), Writer::Aufs, &[])
    }

    fn ours(writer: Writer, options: &[&str]) -> Self {
        Self::ours_over(tree(writer), writer, options)
    }

    fn ours_over(tree: TestTree, writer: Writer, options: &[&str]) -> Self {
        let mut mount = TestMount::over(tree, options);
        let base = read_tree(&mount.root());
        history(&mount.root(), writer);
        let merged = read_tree(&mount.root());
        let times = mtimes(&mount.root(), &merged);
        assert!(mount.unmount().success());
        Self { held: Held::Mount(mount), writer, base, merged, times }
    }

    /// An upper that the kernel wrote, mounted with these options.
    pub(crate) fn kernels(options: &str) -> Self {
        let tree = tree(Writer::Kernel);
        let mount = KernelMount::new(&tree, options);
        let base = read_tree(&mount.root);
        history(&mount.root, Writer::Kernel);
        let merged = read_tree(&mount.root);
        let times = mtimes(&mount.root, &merged);
        drop(mount);
        Self { held: Held::Tree(tree), writer: Writer::Kernel, base, merged, times }
    }

    /// The branches.
    pub(crate) fn tree(&self) -> &TestTree {
        match &self.held {
            Held::Mount(mount) => mount.tree(),
            Held::Tree(tree) => tree,
        }
    }

    /// The upper.
    pub(crate) fn upper(&self) -> String {
        self.tree().branch(0).to_str().unwrap().to_owned()
    }

    /// The lower branches, as `--lower` takes them.
    pub(crate) fn lowers(&self) -> String {
        format!("{}=ro+wh:{}=ro+wh", self.tree().branch(1).display(), self.tree().branch(2).display())
    }

    /// What our union shows of the branches, mounted read-only with a format.
    pub(crate) fn shown(&self, format: &str) -> (Tree, Vec<(PathBuf, i128)>) {
        let mnt = self.tree().beside("shown");
        fs::create_dir_all(&mnt).unwrap();
        let (branches, options) =
            (format!("{}=rw:{}", self.upper(), self.lowers()), format!("ro,format={format}"));
        ok(run(&["mount", "-o", &options, &branches, mnt.to_str().unwrap()]));
        let tree = read_tree(&mnt);
        let times = mtimes(&mnt, &tree);
        // A process that another test starts at this moment may have a file of the mount open until its exec.
        ok(run(&["umount", "--lazy", mnt.to_str().unwrap()]));
        (tree, times)
    }

    /// Runs one of our commands on the upper, the lower branches being told, and gives what it printed.
    pub(crate) fn tool(&self, command: &str, more: &[&str]) -> Vec<u8> {
        let (upper, lowers) = (self.upper(), self.lowers());
        let format = if self.writer == Writer::Aufs { "aufs" } else { "overlay" };
        let mut args = vec![command, &upper, "--lower", &lowers, "--format", format];
        args.extend(more);
        ok(run(&args))
    }
}

/// The standard output of a run that must have succeeded.
pub(crate) fn ok(output: Output) -> Vec<u8> {
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Kernel overlay over the branches of a tree.
pub(crate) struct KernelMount {
    pub(crate) root: PathBuf,
}

impl KernelMount {
    pub(crate) fn new(tree: &TestTree, options: &str) -> Self {
        let (root, work) = (tree.beside("kernel"), tree.beside("kernel.work"));
        for dir in [&root, &work] {
            fs::create_dir_all(dir).unwrap();
        }
        let lowers = [1, 2].map(|index| tree.branch(index).to_str().unwrap().to_owned()).join(":");
        let upper = tree.branch(0).display();
        let all = format!("lowerdir={lowers},upperdir={upper},workdir={},{options}", work.display());
        let words = ["-t", "overlay", "overlay", "-o", &all].map(OsStr::new);
        host_ok("mount", &[&words[..], &[root.as_os_str()]].concat());
        Self { root }
    }
}

impl Drop for KernelMount {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.root, rustix::mount::UnmountFlags::empty())
            .expect("unmount of kernel overlay");
    }
}

/// Everything that leaves its own kind of mark.
fn history(root: &Path, writer: Writer) {
    let at = |path: &str| root.join(path);
    // New objects, of all kinds and with all that a layer must carry.
    fs::write(at("new"), "new").unwrap();
    lsetxattr(at("new"), "user.text", b"line\nline\0end", XattrFlags::empty()).unwrap();
    lsetxattr(at("new"), "trusted.t", b"", XattrFlags::empty()).unwrap();
    fs::hard_link(at("new"), at("new-link")).unwrap();
    symlink("x".repeat(300), at("long-target")).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"not-\xff-utf8\nline")), "n").unwrap();
    fs::create_dir_all(at(&format!("tree/{}/{}", "n".repeat(200), "m".repeat(250)))).unwrap();
    fs::write(at(&format!("tree/{}/{}/leaf", "n".repeat(200), "m".repeat(250))), "leaf").unwrap();
    node(&at("fifo"), FileType::Fifo, 0);
    node(&at("block"), FileType::BlockDevice, rustix::fs::makedev(259, 70000));
    fs::set_permissions(at("new"), fs::Permissions::from_mode(0o6751)).unwrap();
    std::os::unix::fs::chown(at("fifo"), Some(3_000_000), Some(70_000)).unwrap();
    set_times(&at("new"), -2, 123_456_789);
    // Copied up, whole and in part.
    fs::write(at("file"), "changed").unwrap();
    fs::set_permissions(at("mode"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(at("keep/k"), "changed").unwrap();
    std::os::unix::fs::chown(at("big"), Some(12), Some(34)).unwrap();
    // One of two names of a lower file: kernel overlay breaks the link unless it has an index.
    if writer != Writer::Kernel {
        fs::write(at("b"), "changed by one name").unwrap();
    }
    // Gone.
    fs::remove_file(at("gone")).unwrap();
    fs::remove_file(at("d/sub/s")).unwrap();
    // Replaced.
    fs::remove_dir_all(at("dir")).unwrap();
    fs::create_dir(at("dir")).unwrap();
    fs::write(at("dir/a"), "new a").unwrap();
    fs::remove_file(at("same")).unwrap();
    fs::create_dir_all(at("same/in")).unwrap();
    // Renamed, with changes before and after.
    fs::write(at("old/new"), "n").unwrap();
    fs::rename(at("old"), at("moved")).unwrap();
    fs::write(at("moved/o"), "changed").unwrap();
    fs::remove_file(at("moved/deep/y")).unwrap();
    fs::rename(at("moved/deep"), at("moved/deeper")).unwrap();
    host_rename_exchange(&at("swap1"), &at("swap2"));
}

fn host_rename_exchange(one: &Path, other: &Path) {
    rustix::fs::renameat_with(CWD, one, CWD, other, rustix::fs::RenameFlags::EXCHANGE).unwrap();
}

/// Makes a special file.
pub(crate) fn node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

/// Sets both times of an object.
pub(crate) fn set_times(path: &Path, tv_sec: i64, tv_nsec: i64) {
    let time = Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// The times of change of all objects, in nanoseconds.
pub(crate) fn mtimes(root: &Path, tree: &Tree) -> Vec<(PathBuf, i128)> {
    let time = |path: &PathBuf| {
        let stat = fs::symlink_metadata(root.join(path)).unwrap();
        i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec())
    };
    tree.keys().map(|path| (path.clone(), time(path))).collect()
}

/// A tree without what a layer cannot carry: our own records, and sockets.
pub(crate) fn carried(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    let own = |name: &OsString| name.as_bytes().starts_with(b"trusted.unionfs.");
    for node in tree.values_mut() {
        node.xattrs.retain(|name, _| !own(name));
    }
    tree
}
