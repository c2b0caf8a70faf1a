//! The union: what a user sees, over branches, as a library that never sees FUSE.
//!
//! Every act takes `&self`, may be called from any thread at once, and returns values. Acts on a directory lock that
//! directory alone, acts on a file that file; data is copied under no lock but the copied file's own.

mod ahead;
mod align;
mod attr;
mod backing;
mod census;
mod copy;
mod copyup;
mod create;
mod data;
mod groups;
mod hide;
mod live;
mod metacopy;
mod moving;
mod origin;
mod owners;
mod path;
mod placement;
mod read;
mod refuse;
mod remove;
mod rename;
mod resolve;
mod stat;
mod udba;
mod xattr;

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use dashmap::DashMap;
use parking_lot::{Mutex, RwLock};

use crate::branch::{Branch, BranchError, BranchSpec};
use crate::devices::Devices;
use crate::dir::{DirBody, HashKey, Listings};
use crate::error::{At, Errno, Error, Result};
use crate::fdcache::FdCache;
use crate::ids::Ids;
use crate::inode::{Body, BuildInoHasher, FileBody, Inodes, Link, Node, Site};
use crate::marks::Format;
use crate::override_stat::OverrideStat;
use crate::place::Place;
use crate::policy::{CopyupPolicy, CreatePolicy};
use crate::tally::Tally;
use crate::types::{BranchIndex, FileKind, Ino};
use crate::work::{Work, beside, find_links, refuse_unfinished};
use ahead::Ahead;
use census::Names;
use data::OpenFile;
pub(crate) use data::seek_in;
use groups::{Groups, read_indexes};
pub use live::{InUse, LiveError};
pub(crate) use metacopy::CONTENT_LOST;
use moving::Numbers;
pub(crate) use origin::{ORIGINS, parse_origin};
pub(crate) use path::{joined, split};
use path::{path_below, path_on};
use placement::Placement;
pub use refuse::NewError;
use refuse::{refuse_metacopy, refuse_overlaps};
pub(crate) use resolve::absolute;
pub(crate) use stat::decode_device;
use udba::Watches;
pub use udba::{Outside, Udba, read_events};
pub(crate) use xattr::escaped;
pub use xattr::{BRANCHES, FORMAT, WORKDIR, told_branches};

/// Directory descriptors kept open.
const DIR_FDS: usize = 1024;
/// File descriptors kept open.
const FILE_FDS: usize = 1024;

/// What may be chosen about a union.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The format new marks are written in.
    pub format: Format,
    /// Where objects are made before they are shown: on the first writable branch's filesystem.
    pub workdir: Option<PathBuf>,
    /// `fsync` is not passed on: a crash of the host may lose what was written.
    pub volatile: bool,
    /// No branch is written, whatever its permission.
    pub read_only: bool,
    /// How the branch of a new object is chosen.
    pub create: CreatePolicy,
    /// How the branch of a copy is chosen.
    pub copyup: CopyupPolicy,
    /// Bytes that a branch should keep free: new objects go elsewhere before that.
    pub min_free: u64,
    /// Whether changes of branches that go past the union are looked for.
    pub udba: Udba,
    /// A file that finds its branch full moves to another one with room (mergerfs's `moveonenospc`).
    pub move_on_enospc: bool,
    /// Access control lists are not served; those on disk stay.
    pub no_acl: bool,
    /// How owners are shown, and stored.
    pub ids: Ids,
    /// Whether an attribute tells owner, mode and kind in an inode's place.
    pub override_stat: OverrideStat,
    /// A change of its metadata alone leaves a lower file's data where it is (kernel overlay's `metacopy=on`); of the
    /// overlay format only.
    pub metacopy: bool,
    /// `st_ino` fits 32 bits, for programs that know no larger ones (stat(2), `EOVERFLOW`).
    pub ino32: bool,
}

/// Branches united.
#[derive(Debug)]
pub struct Union {
    branches: Vec<Branch>,
    /// The work directory of each branch that is written.
    works: Vec<Option<Work>>,
    /// The index of hard links of each branch that is or could be written.
    links: Vec<Option<Arc<OwnedFd>>>,
    options: Options,
    devices: Devices,
    inodes: Inodes,
    groups: Groups,
    names: Names,
    numbers: Numbers,
    dirs: FdCache<(Ino, BranchIndex)>,
    files: FdCache<Ino, Arc<OpenFile>>,
    listings: Listings,
    ahead: Ahead,
    /// Names that were looked for in listings, and those that the branches were asked for.
    searches: Tally,
    placement: Placement,
    watches: Option<Watches>,
    hash: HashKey,
    /// Held for reading while a path is put together, for writing while a directory is renamed.
    topology: RwLock<()>,
    /// Held by the one rename that is under way between two directories.
    crossing: Mutex<()>,
    /// Files that stood for something else before the branches were last changed, and that nobody had open.
    orphans: HashSet<Ino>,
    /// One lock for each file that is being copied up.
    copying: DashMap<Ino, Arc<Mutex<()>>, BuildInoHasher>,
}

impl Union {
    /// Unites the branches, the first of the highest priority.
    ///
    /// Sets the process's umask to 0: modes come from requests.
    ///
    /// # Errors
    ///
    /// A branch that cannot be opened, or whose work directory cannot be made or is in use.
    pub fn new(specs: Vec<BranchSpec>, mut options: Options) -> std::result::Result<Self, NewError> {
        let count = specs.len();
        if count == 0 {
            return Err(NewError::NoBranches);
        }
        if i16::try_from(count).is_err() {
            return Err(NewError::TooMany(count));
        }
        let branches = specs.into_iter().map(Branch::open).collect::<std::result::Result<Vec<_>, _>>()?;
        refuse_overlaps(&branches)?;
        refuse_metacopy(&branches, &options)?;
        let devices = Devices::default();
        for branch in branches.iter().rev() {
            devices.learn(branch.device(), branch.label());
        }
        let works = open_works(&branches, &options)?;
        let links = open_links(&branches, &works, &options);
        let (groups, numbers) = read_indexes(&links, &devices, &branches);
        // Told later, when the process may have changed its directory.
        options.workdir = options.workdir.map(|path| path.canonicalize().unwrap_or(path));
        let watches =
            (options.udba == Udba::Notify).then(Watches::new).transpose().map_err(NewError::Watch)?;
        let all = (0..count).map(index).collect();
        let root = DirBody { candidates: all, ..DirBody::default() };
        let root = Node::new(Ino::ROOT, FileKind::Directory, Link::default(), Body::Dir(Box::new(root)));
        rustix::process::umask(rustix::fs::Mode::empty());
        let union = Self {
            branches,
            works,
            links,
            options,
            devices,
            inodes: Inodes::new(root),
            groups,
            names: Names::default(),
            numbers,
            dirs: FdCache::new(DIR_FDS),
            files: FdCache::new(FILE_FDS),
            listings: Listings::new(),
            ahead: Ahead::new(),
            orphans: HashSet::new(),
            searches: Tally::new(),
            placement: Placement::new(count),
            watches,
            hash: HashKey(random_key()),
            topology: RwLock::new(()),
            crossing: Mutex::new(()),
            copying: DashMap::with_hasher_and_shard_amount(BuildInoHasher::default(), 8),
        };
        union.mark_override()?;
        Ok(union)
    }

    /// The branches, by priority.
    pub fn branches(&self) -> impl Iterator<Item = &BranchSpec> {
        self.branches.iter().map(Branch::spec)
    }

    /// Whether any branch takes changes.
    pub fn writable(&self) -> bool {
        self.works.iter().any(Option::is_some)
    }

    /// How many nodes the kernel is known to know.
    pub fn node_count(&self) -> usize {
        self.inodes.len()
    }

    fn branch(&self, at: BranchIndex) -> &Branch {
        &self.branches[at.index()]
    }

    fn work(&self, at: BranchIndex) -> Option<&Work> {
        self.works[at.index()].as_ref()
    }

    fn is_writable(&self, at: BranchIndex) -> bool {
        self.works[at.index()].is_some()
    }

    /// Whether no branch lies below.
    fn is_bottom(&self, at: BranchIndex) -> bool {
        at.index() + 1 == self.branches.len()
    }

    fn node(&self, ino: Ino) -> Result<Arc<Node>> {
        self.inodes.get(ino).ok_or(Error::rule("node", Errno::STALE))
    }

    fn dir_node(&self, ino: Ino) -> Result<Arc<Node>> {
        let node = self.node(ino)?;
        if node.is_dir() { Ok(node) } else { Err(Error::rule("node", Errno::NOTDIR)) }
    }

    /// The open directory of a node on one of its branches.
    fn dirfd(&self, dir: &Node, branch: BranchIndex) -> Result<Arc<OwnedFd>> {
        let key = (dir.ino, branch);
        if let Some(fd) = self.dirs.get(&key) {
            return Ok(fd);
        }
        let _still = self.topology.read();
        let path = path_on(dir, branch);
        let fd = Arc::new(self.branch(branch).open_dir(&path).at("openat2", branch)?);
        self.dirs.put(key, Arc::clone(&fd));
        Ok(fd)
    }

    /// Where a node is for the next system call; its body must stay locked until that is made.
    fn place(&self, node: &Node, body: &Body) -> Result<Place> {
        match body {
            Body::Dir(body) => match &body.gone {
                Some(fd) => Ok(Place::Fd(Arc::clone(fd))),
                None if body.is_dead() => Err(Error::rule("directory", Errno::STALE)),
                None => Ok(Place::Fd(self.dirfd(node, body.top())?)),
            },
            Body::File(file) => self.file_place(node, file),
        }
    }

    fn file_place(&self, node: &Node, file: &FileBody) -> Result<Place> {
        match &file.site {
            Site::Pinned(fd) => Ok(Place::Fd(Arc::clone(fd))),
            Site::Indexed => {
                let links = self.links[file.branch.index()].as_ref();
                let links = links.ok_or(Error::rule("index", Errno::STALE))?;
                Ok(Place::Name(Arc::clone(links), self.link_name(node.ino, file.branch)))
            }
            Site::Linked => {
                let (parent, name) = {
                    let link = node.link.lock();
                    (link.parent.clone(), link.name.as_ref().into())
                };
                let parent = parent.ok_or(Error::rule("link", Errno::STALE))?;
                Ok(Place::Name(self.dirfd(&parent, file.branch)?, name))
            }
        }
    }

    /// Forgets what was kept for a node that left the table.
    fn evict(&self, node: &Node) {
        if !node.is_dir() {
            self.files.remove(&node.ino);
            self.numbers.let_go(node.ino);
            return;
        }
        // It may be this thread that has the directory locked; then its branches are not to be asked for.
        match node.body.try_read().as_deref() {
            Some(Body::Dir(state)) => self.evict_dir(node.ino, state),
            _ => {
                self.listings.gone(node.ino);
                (0..self.branches.len()).for_each(|at| self.dirs.remove(&(node.ino, index(at))));
            }
        }
    }

    fn evict_dir(&self, dir: Ino, state: &DirBody) {
        self.listings.gone(dir);
        for &branch in state.candidates.iter().chain(state.layers.iter().flatten()) {
            self.dirs.remove(&(dir, branch));
        }
    }

    fn relink(&self, node: &Node, link: Link) {
        self.inodes.relink(node, link, |gone| self.evict(gone));
    }
}

impl DirBody {
    /// Whether its name is gone: it lives on, empty, for those who have it open.
    pub(crate) fn is_dead(&self) -> bool {
        self.layers.as_ref().is_some_and(Vec::is_empty)
    }

    /// The branch of the highest priority.
    pub(crate) fn top(&self) -> BranchIndex {
        self.layers.as_deref().unwrap_or(&self.candidates)[0]
    }
}

/// The place in the list of branches; [`Union::new`] has checked that it fits.
fn index(at: usize) -> BranchIndex {
    BranchIndex::new(u16::try_from(at).unwrap_or(u16::MAX))
}

/// Where the work directory of a writable branch is; `None` for inside the branch.
fn workdir_of(branches: &[Branch], at: usize, options: &Options) -> Option<PathBuf> {
    let first = branches.iter().position(Branch::writable) == Some(at);
    match options.format {
        _ if first && options.workdir.is_some() => options.workdir.clone(),
        Format::Aufs => None,
        Format::Overlay => Some(beside(&branches[at].spec().path)),
    }
}

fn open_works(branches: &[Branch], options: &Options) -> std::result::Result<Vec<Option<Work>>, BranchError> {
    let mut works = Vec::with_capacity(branches.len());
    for (at, branch) in branches.iter().enumerate() {
        let written = branch.writable() && !options.read_only;
        let path = workdir_of(branches, at, options);
        if branch.writable() && options.format == Format::Overlay {
            refuse_unfinished(branch, path.as_deref())?;
        }
        works.push(written.then(|| Work::open(branch, path.as_deref())).transpose()?);
    }
    Ok(works)
}

/// Opens the index of hard links of each branch whose marks count, also where nothing is to be written now.
fn open_links(branches: &[Branch], works: &[Option<Work>], options: &Options) -> Vec<Option<Arc<OwnedFd>>> {
    let open = |(at, branch): (usize, &Branch)| match &works[at] {
        Some(work) => Some(Arc::clone(work.links())),
        None if branch.spec().perm.whiteouts => {
            find_links(branch, workdir_of(branches, at, options).as_deref())
        }
        None => None,
    };
    branches.iter().enumerate().map(open).collect()
}

/// A key that nobody can guess, from the standard library's random hash state.
fn random_key() -> [u64; 2] {
    use std::hash::{BuildHasher, RandomState};
    let state = RandomState::new();
    [state.hash_one(1_u64), state.hash_one(2_u64)]
}
