//! Kernel overlay's format, both ways: an upper that we wrote under the kernel's overlay, and the kernel's under ours.

use std::ffi::CString;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::support::branches::TestTree;
use crate::support::mount::TestMount;
use crate::support::tree::{Tree, difference, read_tree};

/// A kernel overlay mount that goes with its guard.
pub(crate) struct Overlay(PathBuf);

impl Overlay {
    pub(crate) fn new(at: &Path, lowers: &[&Path], upper: &Path, work: &Path) -> Self {
        fs::create_dir_all(at).unwrap();
        let lowers: Vec<_> = lowers.iter().map(|lower| lower.display().to_string()).collect();
        let data = format!(
            "lowerdir={},upperdir={},workdir={},redirect_dir=on,metacopy=on",
            lowers.join(":"),
            upper.display(),
            work.display()
        );
        let data = CString::new(data).unwrap();
        mount("overlay", at, "overlay", MountFlags::empty(), Some(data.as_c_str())).unwrap();
        Self(at.to_owned())
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        unmount(&self.0, UnmountFlags::empty()).unwrap();
    }
}

fn tree() -> TestTree {
    TestTree::new(&[
        "",
        "d/n/3=three d/2=over",
        "d/e/f/1=one d/2=two gone/g=1 keep/k=kept file=1 other=2 empty/x/y= big/a/b/c=deep link->file",
    ])
}

/// Leaves every kind of mark behind.
fn change(root: &Path) {
    let at = |path: &str| root.join(path);
    fs::remove_file(at("file")).unwrap();
    fs::rename(at("d"), at("dd")).unwrap();
    fs::write(at("dd/e/f/new"), "new").unwrap();
    fs::remove_dir_all(at("gone")).unwrap();
    fs::create_dir(at("gone")).unwrap();
    fs::write(at("gone/in"), "in").unwrap();
    fs::rename(at("keep"), at("gone/kept")).unwrap();
    fs::rename(at("gone/kept/k"), at("k2")).unwrap();
    fs::write(at("other"), "changed").unwrap();
    fs::remove_dir_all(at("empty/x")).unwrap();
    fs::create_dir(at("made")).unwrap();
    fs::rename(at("made"), at("empty/x")).unwrap();
    fs::rename(at("dd"), at("d3")).unwrap();
    fs::rename(at("d3/e"), at("e2")).unwrap();
    fs::set_permissions(at("big/a/b/c"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(at("big/a"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::remove_file(at("link")).unwrap();
    symlink("elsewhere", at("link")).unwrap();
    fs::write(at(".wh.user"), "a user's name in this format").unwrap();
}

/// What a user sees. The kernel's overlay does not know our records and shows them to root.
pub(crate) fn seen(root: &Path) -> Tree {
    let mut tree = read_tree(root);
    for node in tree.values_mut() {
        node.xattrs.retain(|name, _| !name.to_string_lossy().contains("unionfs.origin"));
    }
    tree
}

#[test]
fn the_kernel_reads_what_we_write_in_its_format() {
    let tree = tree();
    let work = tree.beside("work");
    fs::create_dir(&work).unwrap();
    let option = format!("format=overlay,workdir={}", work.display());
    let mut c = TestMount::over(tree, &["-o", &option]);
    change(&c.root());
    let ours = seen(&c.root());
    c.remount();
    assert_eq!(difference(&ours, &seen(&c.root())), None, "after a remount");
    let at = c.tree().beside("kernel");
    c.unmount();
    {
        let (upper, lower, lowest) = (c.tree().branch(0), c.tree().branch(1), c.tree().branch(2));
        let _kernel = Overlay::new(&at, &[lower, lowest], upper, &work);
        assert_eq!(difference(&ours, &seen(&at)), None, "under the kernel's overlay");
    }
}

#[test]
fn we_read_what_the_kernel_writes() {
    let tree = tree();
    let (at, work) = (tree.beside("kernel"), tree.beside("work"));
    fs::create_dir(&work).unwrap();
    let theirs = {
        let _kernel = Overlay::new(&at, &[tree.branch(1), tree.branch(2)], tree.branch(0), &work);
        change(&at);
        seen(&at)
    };
    let option = format!("format=overlay,workdir={}", work.display());
    let mut c = TestMount::over(tree, &["-o", &option]);
    assert_eq!(difference(&theirs, &seen(&c.root())), None, "the kernel's upper as our writable branch");
    fs::write(c.path("k2"), "data that was metadata only").unwrap();
    assert_eq!(c.read("k2"), "data that was metadata only");
    c.remount();
    assert_eq!(c.read("k2"), "data that was metadata only");
    assert_eq!(fs::metadata(c.path("big/a/b/c")).unwrap().len(), 4);
}
