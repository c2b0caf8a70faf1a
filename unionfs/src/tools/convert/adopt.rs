//! Whiteouts that unionfs-fuse has left in a branch, made ours.
//!
//! unionfs-fuse keeps them in a tree beside the objects, `.unionfs-fuse` in Debian's 1.0 and `.unionfs` elsewhere: `d/f`
//! hides what the branches below have by that name, and all below it, if the tree has a `d/f_HIDDEN~`, a file for a file
//! and a directory for a directory. A directory of the branch itself that is hidden so is opaque.
//!
//! First all whiteouts are written, then the tree leaves the branch by one rename. Until that, to begin again does no
//! harm.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, fsync, openat, renameat, statat, syncfs};

use super::Conversion;
use crate::branch::{Branch, BranchSpec, DIR_FLAGS, Perm, open_below};
use crate::error::Errno;
use crate::marks::{is_long, whiteout_name};
use crate::tools::layer::{Layer, LayerDir};
use crate::tools::rewrite::{Act, Editor, Facts, Plan, is_marked};
use crate::tools::{ToolError, joined};
use crate::union::{NewError, Options, Union};
use crate::work::{Work, keeping_times, read_names};

/// The names that the tree has had.
const TREES: [&str; 2] = [".unionfs-fuse", ".unionfs"];
/// What the name of a whiteout ends with.
const MARK: &[u8] = b"_HIDDEN~";

/// The directories in which names are hidden, and these names. A directory comes before those in it.
type Hidden = BTreeMap<Vec<u8>, BTreeSet<Vec<u8>>>;

/// What such a tree holds.
#[derive(Debug, Default)]
struct Tree {
    hidden: Hidden,
    /// The first thing in it that is neither a directory nor a whiteout.
    stranger: Option<Vec<u8>>,
}

impl Tree {
    /// Reads the tree of this name in a branch; `None` if there is none, or only a user's directory of the same name.
    fn read(root: &OwnedFd, name: &str) -> Result<Option<Self>, ToolError> {
        let fail = |op| ToolError::branch(name.as_bytes(), op);
        let dir = match openat(root, name, DIR_FLAGS, Mode::empty()) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(None),
            opened => opened.map_err(fail("open"))?,
        };
        let mut tree = Self::default();
        tree.gather(&dir, b"", false).map_err(fail("readdir"))?;
        match tree.stranger {
            Some(_) if tree.hidden.is_empty() => Ok(None),
            Some(path) => Err(ToolError::refused(
                &joined(name.as_bytes(), &path),
                "it is no whiteout of unionfs-fuse, among whose whiteouts it lies: move it elsewhere",
            )),
            None => Ok(Some(tree)),
        }
    }

    /// Collects what lies below `at`; with `beneath` a whiteout further up hides it all anyway.
    fn gather(&mut self, dir: &OwnedFd, at: &[u8], beneath: bool) -> Result<(), Errno> {
        let names = read_names(dir)?;
        let marked = names.iter().filter_map(|(name, ..)| name.strip_suffix(MARK));
        let marked: BTreeSet<_> = marked.filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect();
        for (name, ..) in &names {
            let path = joined(at, name);
            let stat = statat(dir, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let child = openat(dir, name.as_slice(), DIR_FLAGS, Mode::empty())?;
                self.gather(&child, &path, beneath || marked.contains(name))?;
            } else if !name.ends_with(MARK) {
                self.stranger.get_or_insert(path);
            }
        }
        if !beneath && !marked.is_empty() {
            self.hidden.insert(at.to_vec(), marked);
        }
        Ok(())
    }
}

/// Whether unionfs-fuse has left whiteouts in a branch.
#[must_use]
pub fn has_foreign_whiteouts(branch: &Path) -> bool {
    let Ok(root) = openat(CWD, branch, DIR_FLAGS, Mode::empty()) else { return false };
    TREES.iter().any(|name| !matches!(Tree::read(&root, name), Ok(None)))
}

/// Writes the whiteouts of unionfs-fuse as files `.wh.NAME`, and removes its tree; tells how many there were.
pub(super) fn adopt(branch: &Branch, layer: &Layer, how: &Conversion) -> Result<u64, ToolError> {
    let mut adopted = 0;
    for name in TREES {
        let Some(Tree { hidden, .. }) = Tree::read(&layer.root, name)? else { continue };
        have_directories(branch, layer, how, &hidden)?;
        let work = Work::open(branch, how.workdir.as_deref()).map_err(NewError::from)?;
        let editor = Editor::new(&work, how.userxattr);
        for (path, names) in &hidden {
            adopted += write_whiteouts(layer, &editor, path, names)?;
        }
        remove(&layer.root, &work, name).map_err(ToolError::branch(name.as_bytes(), "renameat"))?;
    }
    Ok(adopted)
}

/// Makes the directories that whiteouts are to be in and that the branch has not, as the branches below have them.
fn have_directories(
    branch: &Branch,
    layer: &Layer,
    how: &Conversion,
    hidden: &Hidden,
) -> Result<(), ToolError> {
    let absent = |path: &&Vec<u8>| matches!(open_below(&layer.root, path), Err(Errno::NOENT));
    let mut wanted = hidden.keys().filter(absent).peekable();
    let Some(first) = wanted.peek() else { return Ok(()) };
    let Some(lowers) = &how.lowers else {
        return Err(ToolError::refused(
            first,
            "names are hidden in this directory, which the branch has not: name the branches below with --lower, from \
             which it is copied",
        ));
    };
    let lowers = lowers.iter().map(|spec| BranchSpec { perm: Perm::READ_ONLY, ..spec.clone() });
    let specs = std::iter::once(branch.spec().clone()).chain(lowers).collect();
    let union = Union::new(specs, Options { workdir: how.workdir.clone(), ..Options::default() })?;
    wanted.try_for_each(|path| union.copy_up_path(path).map_err(ToolError::merged(path)))
}

/// Hides names in a directory. Where that is not there, nothing is there to be hidden.
fn write_whiteouts(
    layer: &Layer,
    editor: &Editor<'_>,
    path: &[u8],
    names: &BTreeSet<Vec<u8>>,
) -> Result<u64, ToolError> {
    if let Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) = open_below(&layer.root, path) {
        return Ok(0);
    }
    let dir = layer.read(path)?;
    let whiteout = |name: &Vec<u8>| {
        let content = if is_long(name) { name.clone() } else { Vec::new() };
        Act::Whiteout(whiteout_name(name).to_vec(), content)
    };
    let add: Vec<_> = names.iter().filter(|name| shows_below(&dir, name)).map(whiteout).collect();
    let count = add.len() as u64;
    let facts = Facts::of(&dir).map_err(ToolError::branch(path, "marks"))?;
    if count > 0 || facts.has_kept_times() {
        let plan = Plan { add, remove: Vec::new() };
        let done = editor.carry_out(&dir.fd, &plan);
        done.map_err(|(op, errno)| ToolError::branch(path, op)(errno))?;
    }
    Ok(count)
}

/// Whether the branch itself lets a name, or what is in the directory of that name, show from below.
fn shows_below(dir: &LayerDir, name: &[u8]) -> bool {
    match dir.names.get(name) {
        Some(said) if said.hidden() => false,
        Some(said) if said.is_dir() => !is_marked(dir, name),
        Some(said) => said.object.is_none(),
        None => true,
    }
}

fn remove(root: &OwnedFd, work: &Work, tree: &str) -> Result<(), Errno> {
    syncfs(root)?;
    let temp = work.temp();
    keeping_times(root, || renameat(root, tree, temp.dir(), temp.name.as_slice()))?;
    fsync(root)
}
