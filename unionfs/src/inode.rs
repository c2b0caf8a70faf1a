//! The inode table: which object of which branch a node of the kernel stands for.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use dashmap::DashMap;
use dashmap::mapref::entry::Entry as Slot;
use parking_lot::{Mutex, RwLock};
use smallvec::SmallVec;

use crate::dir::DirBody;
use crate::types::{BranchIndex, FileKind, Ino};

/// One object that the kernel knows, or that has a descendant which the kernel knows.
///
/// Lock order: a directory's `body` before that of a directory below it or of its children, two unrelated ones by
/// [`Ino`]; then the union's topology lock; then `link`, which is held for a copy of its content and no more.
pub(crate) struct Node {
    pub(crate) ino: Ino,
    pub(crate) kind: FileKind,
    /// Known to have no `security.capability`, which the kernel asks for before the first write and at each exec.
    pub(crate) no_capability: AtomicBool,
    /// Lookups the kernel has not given back, plus one for each child node in the table.
    refs: AtomicU64,
    pub(crate) link: Mutex<Link>,
    pub(crate) body: RwLock<Body>,
}

/// A name as it is kept: most fit in without an allocation of their own.
pub(crate) type Label = SmallVec<[u8; 16]>;

/// The name by which a node is reached.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// `None` for the root, and for what has no name any more.
    pub(crate) parent: Option<Arc<Node>>,
    pub(crate) name: Label,
    pub(crate) moved: Option<Box<Moved>>,
}

/// A directory that was renamed: a mark in it leads to where the branches below have it.
#[derive(Clone, Debug)]
pub(crate) struct Moved {
    /// The branch whose directory carries the mark.
    pub(crate) marked: BranchIndex,
    /// The path that the mark holds, in the union of the branches below, without a leading slash.
    pub(crate) target: Box<[u8]>,
    /// Where each of them has it: paths from the branch's root.
    pub(crate) located: Vec<Located>,
}

/// What a node is made of.
#[derive(Debug)]
pub(crate) enum Body {
    File(FileBody),
    Dir(Box<DirBody>),
}

/// Where the one inode behind a node that is no directory lies.
#[derive(Clone, Debug)]
pub(crate) struct FileBody {
    pub(crate) branch: BranchIndex,
    pub(crate) site: Site,
    /// The inode's real number on that branch: guards against two objects being taken for one.
    pub(crate) real: u64,
    /// No name leads to it any more, even if its inode has one that is hidden.
    pub(crate) nameless: bool,
    pub(crate) data: Data,
}

/// Where the content of a file is.
#[derive(Clone, Debug, Default)]
pub(crate) enum Data {
    /// In the file itself.
    #[default]
    Own,
    /// In a file further down, of which this one has the metadata: kernel overlay's "metadata only copy up". `None` if
    /// it is not there.
    Below(Arc<Option<Located>>),
}

impl Data {
    /// In a file further down, if it is there.
    pub(crate) fn below(at: Option<Located>) -> Self {
        Self::Below(Arc::new(at))
    }

    pub(crate) const fn is_own(&self) -> bool {
        matches!(self, Self::Own)
    }

    /// Whether it is in a file of this branch, further down than the file itself.
    pub(crate) fn is_below_on(&self, branch: BranchIndex) -> bool {
        matches!(self, Self::Below(at) if at.as_ref().as_ref().is_some_and(|at| at.0 == branch))
    }
}

/// An object of a branch by its path from the branch's root.
pub(crate) type Located = (BranchIndex, Box<[u8]>);

/// How a file is found on its branch.
#[derive(Clone, Debug)]
pub(crate) enum Site {
    /// By the node's link.
    Linked,
    /// By its entry in the index of hard links that were copied up.
    Indexed,
    /// By a descriptor: the name is gone.
    Pinned(Arc<OwnedFd>),
}

impl fmt::Debug for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Node").field("ino", &self.ino).field("kind", &self.kind).finish_non_exhaustive()
    }
}

impl Node {
    pub(crate) fn new(ino: Ino, kind: FileKind, link: Link, body: Body) -> Self {
        let no_capability = AtomicBool::new(false);
        Self {
            ino,
            kind,
            no_capability,
            refs: AtomicU64::new(0),
            link: Mutex::new(link),
            body: RwLock::new(body),
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// Counts one more reference of a node that is in the table because its caller has one.
    pub(crate) fn hold(&self) {
        self.refs.fetch_add(1, Ordering::Relaxed);
    }

    /// A copy of how it is reached.
    pub(crate) fn parent(&self) -> Option<Arc<Self>> {
        self.link.lock().parent.clone()
    }

    /// Whether it is reached as `name` of `parent`.
    pub(crate) fn is_linked_as(&self, parent: &Self, name: &[u8]) -> bool {
        let link = self.link.lock();
        link.parent.as_ref().is_some_and(|have| have.ino == parent.ino) && *link.name == *name
    }
}

/// Numbers are already well spread or small and dense: one multiplication mixes them enough for a hash table.
#[derive(Debug, Default)]
pub(crate) struct InoHasher(u64);

impl Hasher for InoHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(u64::from(byte));
        }
    }
    fn write_u64(&mut self, value: u64) {
        let mixed = (self.0.rotate_left(5) ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// A hasher builder for keys that are [`Ino`]s or made of numbers.
pub(crate) type BuildInoHasher = BuildHasherDefault<InoHasher>;

/// All nodes, by identity.
#[derive(Debug)]
pub(crate) struct Inodes {
    /// Nodes that left the table since it was last made smaller.
    forgotten: AtomicUsize,
    nodes: DashMap<Ino, Arc<Node>, BuildInoHasher>,
}

impl Inodes {
    /// A table with nothing but its root, which is never forgotten.
    pub(crate) fn new(root: Node) -> Self {
        let nodes = DashMap::with_hasher_and_shard_amount(BuildInoHasher::default(), 32);
        root.refs.store(1, Ordering::Relaxed);
        nodes.insert(root.ino, Arc::new(root));
        Self { forgotten: AtomicUsize::new(0), nodes }
    }

    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        self.nodes.get(&ino).map(|node| Arc::clone(&node))
    }

    /// How many nodes there are.
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// All nodes at this moment.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.nodes.iter().map(|node| Arc::clone(&node)).collect()
    }

    /// The node of this identity, made by `make` if there is none, with one more reference.
    ///
    /// `make` runs under the shard's lock and must take no other.
    pub(crate) fn intern(&self, ino: Ino, make: impl FnOnce() -> Node) -> Arc<Node> {
        match self.nodes.entry(ino) {
            Slot::Occupied(found) => {
                found.get().refs.fetch_add(1, Ordering::Relaxed);
                Arc::clone(found.get())
            }
            Slot::Vacant(free) => {
                let node = make();
                node.refs.store(1, Ordering::Relaxed);
                if let Some(parent) = &node.link.lock().parent {
                    parent.refs.fetch_add(1, Ordering::Relaxed);
                }
                Arc::clone(&free.insert(Arc::new(node)))
            }
        }
    }

    /// Gives `count` references back; true if the node, and perhaps ancestors of it, left the table.
    pub(crate) fn forget(&self, ino: Ino, count: u64, mut gone: impl FnMut(&Node)) {
        let mut next = Some((ino, count));
        while let Some((ino, count)) = next.take() {
            if ino == Ino::ROOT {
                return;
            }
            if let Some(node) = self.get(ino) {
                let before = node.refs.fetch_update(Ordering::AcqRel, Ordering::Acquire, |refs| {
                    Some(refs.saturating_sub(count))
                });
                if before.is_ok_and(|refs| refs > count) {
                    return;
                }
            }
            let removed = self.nodes.remove_if(&ino, |_, node| node.refs.load(Ordering::Acquire) == 0);
            if let Some((_, node)) = removed {
                self.forgotten.fetch_add(1, Ordering::Relaxed);
                gone(&node);
                next = node.parent().map(|parent| (parent.ino, 1));
            }
        }
    }

    /// Gives memory back after many nodes were forgotten.
    pub(crate) fn shrink(&self) {
        /// Fewer are not worth the time: the kernel forgets by the hundred under memory pressure.
        const MANY: usize = 512;
        let forgotten = self.forgotten.load(Ordering::Relaxed);
        if forgotten < MANY || forgotten < self.nodes.len() {
            return;
        }
        self.forgotten.store(0, Ordering::Relaxed);
        self.nodes.shrink_to_fit();
        crate::sys::give_memory_back();
    }

    /// Changes how a node is reached, keeping the count of references to its parents.
    pub(crate) fn relink(&self, node: &Node, link: Link, gone: impl FnMut(&Node)) {
        if let Some(parent) = &link.parent {
            parent.refs.fetch_add(1, Ordering::Relaxed);
        }
        let old = std::mem::replace(&mut *node.link.lock(), link);
        if let Some(parent) = old.parent {
            self.forget(parent.ino, 1, gone);
        }
    }
}
