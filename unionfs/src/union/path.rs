//! Where a directory is: paths put together from links, on one branch or in the union of those below it.
//!
//! For what climbs, the topology lock must be held, or a rename could take the path apart while it is put together.

use std::sync::Arc;

use crate::inode::{Link, Node};
use crate::types::BranchIndex;

/// The path of a directory from the root of a branch.
pub(super) fn path_on(dir: &Node, branch: BranchIndex) -> Vec<u8> {
    climb(dir, |link| {
        let moved = link.moved.iter().flat_map(|moved| &moved.located).find(|(on, _)| *on == branch);
        moved.map(|(_, path)| path.to_vec())
    })
}

/// The path of a directory in the union of the branches below `branch`: what a redirect mark on `branch` would hold.
pub(super) fn path_below(dir: &Node, branch: BranchIndex) -> Vec<u8> {
    climb(dir, |link| {
        let moved = link.moved.as_ref().filter(|moved| moved.marked == branch);
        moved.map(|moved| moved.target.to_vec())
    })
}

/// Joins the names on the way up, until `whole` knows the whole path of a directory, or the root is reached.
fn climb(dir: &Node, whole: impl Fn(&Link) -> Option<Vec<u8>>) -> Vec<u8> {
    let step = |node: &Node| {
        let link = node.link.lock();
        whole(&link).map_or_else(|| (link.name.to_vec(), link.parent.clone()), |path| (path, None))
    };
    let mut names = Vec::new();
    let mut next: Option<(Vec<u8>, Option<Arc<Node>>)> = Some(step(dir));
    while let Some((name, parent)) = next {
        if !name.is_empty() {
            names.push(name);
        }
        next = parent.map(|parent| step(&parent));
    }
    names.reverse();
    names.join(&b'/')
}

/// The path of `name` in the directory `dir`, both without a leading slash; the root is empty.
pub(crate) fn joined(dir: &[u8], name: &[u8]) -> Vec<u8> {
    if dir.is_empty() { name.to_vec() } else { [dir, name].join(&b'/') }
}

/// The directory and the name of such a path.
pub(crate) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}
