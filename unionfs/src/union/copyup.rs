//! Copy-up: the first change of an object in a branch that is not written puts a copy into one that is.
//!
//! The copy is made in the work directory (content, owner, mode, attributes, times, the record of its origin), made
//! durable, and shown by one rename; a crash leaves the old state or the new one. Other objects go on meanwhile:
//! only the copied file's own copy-up lock is held while data moves.

use std::sync::Arc;

use parking_lot::{Mutex, RwLockWriteGuard};
use rustix::fs::{Mode, OFlags, mkdirat, renameat};

use super::Union;
use super::copy::{ALL_DATA, Shown};
use crate::dir::{DirBody, Stand};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, FileBody, Node, Site};
use crate::place::Place;
use crate::types::BranchIndex;
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
    /// A copied file gets `size` bytes, and is changed now if that is not [`ALL_DATA`].
    ///
    /// # Errors
    ///
    /// `EROFS` if no branch above it takes changes.
    pub(super) fn promote(&self, node: &Arc<Node>, size: u64) -> Result<bool> {
        if !node.is_dir() {
            return self.bring_file(node, Goal::Writable, size);
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

    /// Makes sure that an object lies on this branch, for a name that it is to have there.
    ///
    /// # Errors
    ///
    /// `EAGAIN` if it lies higher by now.
    pub(super) fn bring(&self, node: &Arc<Node>, to: BranchIndex) -> Result<()> {
        if node.is_dir() {
            self.dir_on(node, to)?;
        } else {
            self.bring_file(node, Goal::On(to), ALL_DATA)?;
        }
        if self.branch_of(node)? == to { Ok(()) } else { Err(Error::rule("copy-up", Errno::AGAIN)) }
    }

    fn bring_file(&self, node: &Arc<Node>, goal: Goal, size: u64) -> Result<bool> {
        if self.is_settled(node, goal) {
            return Ok(false);
        }
        let lock = Arc::clone(&self.copying.entry(node.ino).or_insert_with(|| Arc::new(Mutex::new(()))));
        let copied = {
            let _alone = lock.lock();
            if self.is_settled(node, goal) {
                Ok(false)
            } else {
                self.copy_up_file(node, goal, size).map(|()| true)
            }
        };
        self.copying.remove_if(&node.ino, |_, entry| Arc::strong_count(entry) <= 2);
        copied
    }

    /// Whether a file, content and all, lies where it is to be.
    fn is_settled(&self, node: &Node, goal: Goal) -> bool {
        match (&*node.body.read(), goal) {
            (Body::File(file), Goal::Writable) => self.is_writable(file.branch) && file.data.is_none(),
            (Body::File(file), Goal::On(to)) => file.branch <= to && file.data.is_none(),
            (Body::Dir(_), _) => true,
        }
    }

    fn copy_up_file(&self, node: &Arc<Node>, goal: Goal, size: u64) -> Result<()> {
        let (from, data) = match &*node.body.read() {
            Body::File(file) => (file.branch, file.data.clone()),
            Body::Dir(_) => return Ok(()),
        };
        let parent = node.parent();
        let to = match goal {
            Goal::On(to) => to,
            Goal::Writable if self.is_writable(from) => from,
            Goal::Writable => self.copyup_branch(from, parent.as_ref())?,
        };
        if let Some(parent) = &parent {
            self.dir_on(parent, to)?;
        }
        let parent = parent.as_deref();
        if self.is_writable(from) && data.is_none() {
            return self.copy_between(node, parent, to, size);
        }
        let source = self.place(node, &node.body.read())?;
        let (temp, shown) = self.copy_object(node, (from, &source), data.as_deref(), to, size)?;
        let above = self.lock_above(parent)?;
        self.show_copy(node, above, &mut node.body.write(), to, temp, shown)
    }

    /// Copies a file from one writable branch to another. Who may write to the file, or change its names, waits.
    fn copy_between(
        &self,
        node: &Arc<Node>,
        parent: Option<&Node>,
        to: BranchIndex,
        size: u64,
    ) -> Result<()> {
        let above = self.lock_above(parent)?;
        let mut body = node.body.write();
        let Body::File(FileBody { branch: from, .. }) = *body else {
            return Err(Error::rule("copy-up", Errno::ISDIR));
        };
        let source = self.place(node, &body)?;
        let (temp, shown) = self.copy_object(node, (from, &source), None, to, size)?;
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
        let name = node.link.lock().name.clone();
        // Unlinked while it was copied: nobody but those who have it open will see it.
        let above = above.filter(|(parent, _)| node.is_linked_as(parent, &name));
        let Body::File(old) = &*body else { return Err(Error::rule("copy-up", Errno::ISDIR)) };
        let group = self.group_of(node.ino, old, shown.links);
        if let Some(links) = group {
            self.groups.index(node.ino, &temp, self.must_work(to)?, links).at("index of hard links", to)?;
        }
        let site = match above {
            Some((parent, state)) if !matches!(old.site, Site::Pinned(_)) => {
                let put = self.put_copy(parent, state, &name, to, &temp);
                put.inspect_err(|_| self.unindex(node.ino, to))?;
                temp.moved();
                if group.is_some() { Site::Indexed } else { Site::Linked }
            }
            _ if group.is_some() => Site::Indexed,
            _ => Site::Pinned(temp.place().pin().at("open", to)?),
        };
        let nameless = old.nameless;
        if let Some(links) = group {
            self.group_copied(node.ino, to, links);
        }
        *body = Body::File(FileBody { branch: to, site, real: shown.real, nameless, data: None });
        self.files.remove(&node.ino);
        Ok(())
    }

    /// Gives a copy its name.
    fn put_copy(
        &self,
        parent: &Node,
        mut state: RwLockWriteGuard<'_, Body>,
        name: &[u8],
        to: BranchIndex,
        temp: &Temp<'_>,
    ) -> Result<()> {
        let dir = self.dirfd(parent, to)?;
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
        self.record_origin(to, &copy, dir.ino, real).at("setxattr", to)?;
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
