//! Copy-up: the first change of an object in a branch that is not written puts a copy into one that is.
//!
//! The copy is made in the work directory (content, owner, mode, attributes, times, the record of its origin), made
//! durable, and shown by one rename; a crash leaves the old state or the new one. Other objects go on meanwhile:
//! only the copied file's own copy-up lock is held while data moves.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use parking_lot::{Mutex, RwLockWriteGuard};
use rustix::fs::{Mode, OFlags, mkdirat, renameat};

use super::Union;
use super::copy::{Extent, Shown};
use super::data::OpenFile;
use crate::dir::{DirBody, Stand};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Data, FileBody, Node, Site};
use crate::place::Place;
use crate::types::{BranchIndex, Ino, Name};
use crate::work::{Temp, keeping_times};

/// How far an object is to be brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// To any branch that is written.
    Writable,
    /// To this one.
    On(BranchIndex),
}

/// A directory that is locked to show a copy.
type Above<'a> = (&'a Node, RwLockWriteGuard<'a, Body>);

impl Union {
    /// Makes sure that an object lies on a branch that is written; true if it was copied there now.
    ///
    /// Of a file that is there with its metadata only, the data is brought too, if it is asked for.
    ///
    /// # Errors
    ///
    /// `EROFS` if no branch above it takes changes.
    pub(super) fn promote(&self, node: &Arc<Node>, extent: Extent) -> Result<bool> {
        if !node.is_dir() {
            return self.bring_file(node, Goal::Writable, extent);
        }
        let top = {
            let body = node.body.read();
            let state = body.dir()?;
            if state.is_dead() || self.is_writable(state.top()) {
                return Ok(false);
            }
            state.top()
        };
        self.dir_on(node, self.copyup_branch(top, node.parent().as_ref())?)?;
        Ok(true)
    }

    /// Makes sure that the directory at `path`, if one is seen there, exists on a branch that is written.
    pub(crate) fn copy_up_path(&self, path: &[u8]) -> Result<()> {
        let mut dir = Ino::ROOT;
        for name in path.split(|&byte| byte == b'/') {
            match self.lookup(dir, Name::new(OsStr::from_bytes(name))?)? {
                Some(entry) => dir = entry.node,
                None => return Ok(()),
            }
        }
        let node = self.node(dir)?;
        if node.is_dir() { self.promote(&node, Extent::Whole).map(drop) } else { Ok(()) }
    }

    /// Makes sure that an object lies on this branch, for a name that it is to have there.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it lies higher by now.
    pub(super) fn bring(&self, node: &Arc<Node>, to: BranchIndex, extent: Extent) -> Result<()> {
        if node.is_dir() {
            self.dir_on(node, to)?;
        } else {
            self.bring_file(node, Goal::On(to), extent)?;
        }
        if self.branch_of(node)? == to { Ok(()) } else { Err(Error::rule("copy-up", Errno::AGAIN)) }
    }

    fn bring_file(&self, node: &Arc<Node>, goal: Goal, extent: Extent) -> Result<bool> {
        if self.is_settled(node, goal, extent) {
            return Ok(false);
        }
        let lock = Arc::clone(&self.copying.entry(node.ino).or_insert_with(|| Arc::new(Mutex::new(()))));
        let copied = {
            let _alone = lock.lock();
            if self.is_settled(node, goal, extent) {
                Ok(false)
            } else {
                self.again("copy-up", || self.copy_up_file(node, goal, extent)).map(|()| true)
            }
        };
        self.copying.remove_if(&node.ino, |_, entry| Arc::strong_count(entry) <= 2);
        copied
    }

    /// Whether a file, or what is wanted of it, lies where it is to be.
    fn is_settled(&self, node: &Node, goal: Goal, extent: Extent) -> bool {
        let Body::File(file) = &*node.body.read() else { return true };
        let enough = file.data.is_own() || (self.options.metacopy && extent == Extent::Metadata);
        let there = match goal {
            Goal::Writable => self.is_writable(file.branch),
            Goal::On(to) => file.branch <= to,
        };
        there && enough
    }

    fn copy_up_file(&self, node: &Arc<Node>, goal: Goal, extent: Extent) -> Result<()> {
        let from = match &*node.body.read() {
            Body::File(file) => file.clone(),
            Body::Dir(_) => return Ok(()),
        };
        let parent = node.parent();
        let to = match goal {
            Goal::On(to) => to,
            Goal::Writable if self.is_writable(from.branch) => from.branch,
            Goal::Writable => self.copyup_branch(from.branch, parent.as_ref())?,
        };
        if let Some(parent) = &parent {
            self.dir_on(parent, to)?;
        }
        let parent = parent.as_deref();
        if self.is_writable(from.branch) {
            return self.copy_changing(node, &from, parent, to, extent);
        }
        let source = self.place(node, &node.body.read())?;
        let (temp, shown) = self.copy_object(node, &from, &source, to, extent)?;
        let above = self.lock_above(parent)?;
        self.show_copy(node, above, &mut node.body.write(), to, temp, shown)
    }

    /// Copies a file that lies on a writable branch, to another one or because its data is still below. Who may change
    /// what is being copied, or its names, waits; data below changes no more.
    fn copy_changing(
        &self,
        node: &Arc<Node>,
        from: &FileBody,
        parent: Option<&Node>,
        to: BranchIndex,
        extent: Extent,
    ) -> Result<()> {
        let begin = |from: &FileBody, source: &Place| {
            let stat = source.stat().during("statx")?;
            self.copy_content(node, from, (source, &stat), to, extent)
        };
        let begun = match &from.data {
            Data::Own => None,
            _ => Some(begin(from, &self.place(node, &node.body.read())?)?),
        };
        let above = self.lock_above(parent)?;
        let mut body = node.body.write();
        let source = self.place(node, &body)?;
        let Body::File(from) = &*body else { return Err(Error::rule("copy-up", Errno::ISDIR)) };
        let draft = begun.map_or_else(|| begin(from, &source), Ok)?;
        let stat = source.stat().during("statx")?;
        let (temp, shown) = self.copy_rest(node, (from.branch, &source, stat), draft)?;
        self.show_copy(node, above, &mut body, to, temp, shown)
    }

    fn lock_above<'a>(&self, parent: Option<&'a Node>) -> Result<Option<Above<'a>>> {
        parent.map(|parent| Ok((parent, self.write_body(parent)?))).transpose()
    }

    /// Puts a finished copy in its place, and the node onto it.
    fn show_copy(
        &self,
        node: &Node,
        above: Option<Above<'_>>,
        body: &mut Body,
        to: BranchIndex,
        temp: Temp<'_>,
        shown: Shown,
    ) -> Result<()> {
        let (parent, name) = {
            let link = node.link.lock();
            (link.parent.as_ref().map(|parent| parent.ino), link.name.clone())
        };
        if let (Some((locked, _)), Some(parent)) = (&above, parent)
            && locked.ino != parent
        {
            return Err(Error::rule("copy-up", Errno::AGAIN));
        }
        // Unlinked while it was copied: nobody but those who have it open will see it.
        let above = above.filter(|(parent, _)| node.is_linked_as(parent, &name));
        let Body::File(old) = &*body else { return Err(Error::rule("copy-up", Errno::ISDIR)) };
        let grouped = shown.needs_index(old);
        let still = self.still();
        if grouped {
            self.index_copy(node.ino, &temp, to, self.must_work(to)?).at("index of hard links", to)?;
        }
        let site = match above {
            Some((parent, state)) if !matches!(old.site, Site::Pinned(_)) => {
                let put = self.put_copy(parent, state, &name, (to, &temp), &shown.data);
                put.inspect_err(|_| self.unindex(node.ino, to))?;
                temp.moved();
                if grouped { Site::Indexed } else { Site::Linked }
            }
            _ if grouped => Site::Indexed,
            _ => Site::Pinned(temp.place().pin().at("open", to)?),
        };
        let nameless = old.nameless;
        if grouped {
            still.renamed(shown.key, node.ino);
            self.group_copied(node.ino, (to, shown.real));
        }
        *body = Body::File(FileBody { branch: to, site, real: shown.real, nameless, data: shown.data });
        match shown.file {
            Some(fd) => self.files.put(node.ino, Arc::new(OpenFile { fd, writable: true })),
            None => self.files.remove(&node.ino),
        }
        Ok(())
    }

    /// Gives a copy its name.
    fn put_copy(
        &self,
        parent: &Node,
        mut state: RwLockWriteGuard<'_, Body>,
        name: &[u8],
        (to, temp): (BranchIndex, &Temp<'_>),
        data: &Data,
    ) -> Result<()> {
        let dir = self.dirfd(parent, to)?;
        if !data.is_own() {
            self.mark_impure(to, &dir, state.dir_mut()?)?;
        }
        keeping_times(&dir, || renameat(temp.dir(), temp.name.as_slice(), &dir, name)).at("renameat", to)?;
        let state = state.dir_mut()?;
        state.pure = false;
        self.copied_name(state, name, to);
        Ok(())
    }

    /// The listing tells that a name has a copy on this branch now.
    pub(super) fn copied_name(&self, state: &mut DirBody, name: &[u8], to: BranchIndex) {
        if let Some(listing) = &mut state.listing
            && let Some(mut found) = listing.get(self.hash, name).cloned()
        {
            found.copied_to(to);
            listing.set(self.hash, name, Some(found));
        }
    }

    /// Makes sure that a directory, and all above it, exists on a writable branch in which it is seen.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it would not be seen there any more: the branch was chosen before something else was changed.
    pub(super) fn dir_on(&self, dir: &Arc<Node>, to: BranchIndex) -> Result<()> {
        loop {
            {
                let body = self.read_body(dir)?;
                let state = body.dir()?;
                Self::must_be_alive(state)?;
                match state.stand(to) {
                    Stand::Has => return Ok(()),
                    Stand::Lacks => {}
                    Stand::Hidden => return Err(Error::rule("copy-up", Errno::AGAIN)),
                }
            }
            let parent = dir.parent().ok_or(Error::rule("copy-up", Errno::NOENT))?;
            self.dir_on(&parent, to)?;
            let mut above = self.write_body(&parent)?;
            let name = dir.link.lock().name.clone();
            if dir.is_linked_as(&parent, &name) {
                self.copy_up_dir(&parent, above.dir_mut()?, dir, &name, to)?;
            }
        }
    }

    fn copy_up_dir(
        &self,
        parent: &Node,
        above: &mut DirBody,
        dir: &Node,
        name: &[u8],
        to: BranchIndex,
    ) -> Result<()> {
        let mut body = self.write_body(dir)?;
        let state = body.dir_mut()?;
        if state.is_dead() || state.stand(to) != Stand::Lacks {
            return Ok(());
        }
        let top = state.top();
        let source = Place::Fd(self.dirfd(dir, top)?);
        let stat = source.stat().at("statx", top)?;
        let temp = self.must_work(to)?.temp();
        mkdirat(temp.dir(), temp.name.as_slice(), Mode::RWXU).at("mkdirat", to)?;
        let copy = Place::Fd(Arc::new(temp.place().open(OFlags::RDONLY | OFlags::DIRECTORY).at("open", to)?));
        let meant = self.meant(top, &source, stat);
        self.copy_metadata((top, &source, &meant), (to, &copy)).at("copy-up", to)?;
        let real = copy.stat().at("statx", to)?.st_ino;
        self.record_origin(to, &copy, dir.ino, real, false).at("setxattr", to)?;
        let target = self.dirfd(parent, to)?;
        keeping_times(&target, || renameat(temp.dir(), temp.name.as_slice(), &target, name))
            .at("renameat", to)?;
        temp.moved();
        if let Some(layers) = &mut state.layers {
            layers.insert(layers.partition_point(|&layer| layer < to), to);
            state.candidates = layers.clone().into();
        }
        above.pure = false;
        self.copied_name(above, name, to);
        Ok(())
    }
}
