//! Copy-up: the first change of an object in a branch that is not written puts a copy into one that is.
//!
//! The copy is made in the work directory (content, owner, mode, attributes, times, the record of its origin), made
//! durable, and shown by one rename; a crash leaves the old state or the new one. Other objects go on meanwhile:
//! only the copied file's own copy-up lock is held while data moves.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, XattrFlags,
    copy_file_range, fstat, ftruncate, ioctl_ficlone, linkat, mkdirat, mknodat, renameat, seek, symlinkat,
    unlinkat,
};

use super::read::saturate;
use super::{Union, xattr};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, FileBody, Located, Node, Site};
use crate::place::Place;
use crate::types::{BranchIndex, FileKind};
use crate::work::{Temp, Work, keeping_times, times_of};

/// All of a file's content still matters.
pub(super) const ALL_DATA: u64 = u64::MAX;
/// One step of a copy through memory.
const CHUNK: usize = 128 * 1024;

impl Union {
    /// Makes sure that an object lies on a branch that is written; true if it was copied there now.
    ///
    /// A copied file gets `size` bytes, and is changed now if that is not [`ALL_DATA`].
    ///
    /// # Errors
    ///
    /// `EROFS` if no branch above it takes changes.
    pub(super) fn promote(&self, node: &Arc<Node>, size: u64) -> Result<bool> {
        if node.is_dir() {
            let top = {
                let body = node.body.read();
                let state = body.dir()?;
                if state.is_dead() || self.is_writable(state.top()) {
                    return Ok(false);
                }
                state.top()
            };
            self.dir_on(node, self.copyup_branch(top, node.parent().as_ref())?)?;
            return Ok(true);
        }
        if self.is_settled(node) {
            return Ok(false);
        }
        let lock = Arc::clone(&self.copying.entry(node.ino).or_insert_with(|| Arc::new(Mutex::new(()))));
        let copied = {
            let _alone = lock.lock();
            if self.is_settled(node) { Ok(false) } else { self.copy_up_file(node, size).map(|()| true) }
        };
        self.copying.remove_if(&node.ino, |_, entry| Arc::strong_count(entry) <= 2);
        copied
    }

    /// Whether a file, content and all, lies on a branch that is written.
    fn is_settled(&self, node: &Node) -> bool {
        match &*node.body.read() {
            Body::File(file) => self.is_writable(file.branch) && file.data.is_none(),
            Body::Dir(_) => true,
        }
    }

    fn copy_up_file(&self, node: &Arc<Node>, size: u64) -> Result<()> {
        let (from, data) = match &*node.body.read() {
            Body::File(file) => (file.branch, file.data.clone()),
            Body::Dir(_) => return Ok(()),
        };
        let parent = node.parent();
        let to = if self.is_writable(from) { from } else { self.copyup_branch(from, parent.as_ref())? };
        if let Some(parent) = &parent {
            self.dir_on(parent, to)?;
        }
        let source = self.place(node, &node.body.read())?;
        let (temp, shown) = self.copy_object(node, (from, &source), data.as_deref(), to, size)?;
        self.show_copy(node, parent.as_deref(), to, temp, shown)
    }

    /// Makes a complete and durable copy of an object, under a temporary name of another branch.
    pub(super) fn copy_object(
        &self,
        node: &Node,
        (from, source): (BranchIndex, &Place),
        data: Option<&Located>,
        to: BranchIndex,
        size: u64,
    ) -> Result<(Temp<'_>, Shown)> {
        let stat = source.stat().during("statx")?;
        let meant = self.meant(from, source, stat);
        let temp = self.must_work(to)?.temp();
        let form = self.disk_form(to, FileKind::from_mode(meant.st_mode));
        make_object(source, form, meant.st_rdev, &temp).at("copy-up", to)?;
        if node.kind == FileKind::Regular && size > 0 {
            let content = match data {
                Some(data) => self.open_located(data)?,
                None => source.open(OFlags::RDONLY).during("open")?,
            };
            let target = temp.place().open(OFlags::WRONLY).at("open", to)?;
            copy_data(&content, &target, size).at("copy-up", to)?;
        }
        self.copy_metadata((from, source, &meant), (to, &temp.place())).at("copy-up", to)?;
        if size != ALL_DATA {
            temp.place().utimens(&CHANGED_NOW).at("utimensat", to)?;
        }
        let real = temp.place().stat().at("statx", to)?.st_ino;
        self.record_origin(to, &temp.place(), node.ino, real).at("setxattr", to)?;
        if !self.options.volatile && stat.st_size > 0 && node.kind == FileKind::Regular {
            let file = temp.place().open(OFlags::RDONLY).at("open", to)?;
            self.must_work(to)?.settle(&file).at("fsync", to)?;
        }
        Ok((temp, Shown { real, links: saturate(stat.st_nlink) }))
    }

    /// Puts a finished copy in its place, and the node onto it.
    fn show_copy(
        &self,
        node: &Node,
        parent: Option<&Node>,
        to: BranchIndex,
        temp: Temp<'_>,
        shown: Shown,
    ) -> Result<()> {
        let mut above = match parent {
            Some(parent) => Some((parent, self.write_body(parent)?)),
            None => None,
        };
        let mut body = node.body.write();
        let name = node.link.lock().name.clone();
        // Unlinked while it was copied: nobody but those who have it open will see it.
        let above = above.as_mut().filter(|(parent, _)| node.is_linked_as(parent, &name));
        let pinned = matches!(&*body, Body::File(FileBody { site: Site::Pinned(_), .. }));
        let site = match above {
            Some((parent, state)) if !pinned => {
                let site = if shown.links > 1 {
                    self.index_copy(node, &temp, self.must_work(to)?, shown.links)
                        .at("index of hard links", to)?;
                    Site::Indexed
                } else {
                    Site::Linked
                };
                let dir = self.dirfd(parent, to)?;
                keeping_times(&dir, || renameat(temp.dir(), temp.name.as_slice(), &dir, &*name))
                    .at("renameat", to)?;
                temp.moved();
                if let Some(listing) = &mut state.dir_mut()?.listing
                    && let Some(mut found) = listing.get(self.hash, &name).cloned()
                {
                    found.copied_up(to);
                    listing.set(self.hash, &name, Some(found));
                }
                site
            }
            _ => Site::Pinned(temp.place().pin().at("open", to)?),
        };
        if matches!(site, Site::Indexed) {
            self.groups.copied(node.ino, to);
        }
        *body = Body::File(FileBody { branch: to, site, real: shown.real, data: None });
        self.files.remove(&node.ino);
        Ok(())
    }

    /// Makes the copy of a file with several names findable by each of them, and keeps count of them.
    fn index_copy(&self, node: &Node, temp: &Temp<'_>, work: &Work, links: u32) -> Result<(), Errno> {
        if self.groups.get(node.ino).and_then(|group| group.nlink).is_none() {
            self.groups.set_nlink(node.ino, work, links)?;
        }
        let link = super::groups::link_name(node.ino);
        // One may be left of an attempt that failed after this.
        unlink_if_there(work.links(), &link)?;
        linkat(temp.dir(), temp.name.as_slice(), work.links(), link.as_slice(), AtFlags::empty())
    }

    /// Makes sure that a directory, and all above it, exists on a branch that is written.
    pub(super) fn dir_on(&self, dir: &Arc<Node>, to: BranchIndex) -> Result<()> {
        loop {
            {
                let body = self.read_body(dir)?;
                let state = body.dir()?;
                Self::must_be_alive(state)?;
                if state.layers.iter().flatten().any(|&layer| layer == to) {
                    return Ok(());
                }
            }
            let parent = dir.parent().ok_or(Error::rule("copy-up", Errno::NOENT))?;
            self.dir_on(&parent, to)?;
            let mut above = self.write_body(&parent)?;
            let name = dir.link.lock().name.clone();
            if dir.is_linked_as(&parent, &name) {
                return self.copy_up_dir(&parent, above.dir_mut()?, dir, &name, to);
            }
        }
    }

    fn copy_up_dir(
        &self,
        parent: &Node,
        above: &mut crate::dir::DirBody,
        dir: &Node,
        name: &[u8],
        to: BranchIndex,
    ) -> Result<()> {
        let mut body = self.write_body(dir)?;
        let state = body.dir_mut()?;
        if state.layers.iter().flatten().any(|&layer| layer == to) {
            return Ok(());
        }
        let work = self.work(to).ok_or(Error::rule("copy-up", Errno::ROFS))?;
        let top = state.top();
        let source = Place::Fd(self.dirfd(dir, top)?);
        let stat = source.stat().at("statx", top)?;
        let temp = work.temp();
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
        // The rename changed nothing inside, but a directory's own times may have moved with it.
        if let Some(layers) = &mut state.layers {
            let at = layers.iter().position(|&layer| layer > to).unwrap_or(layers.len());
            layers.insert(at, to);
            state.candidates = layers.clone().into();
        }
        if let Some(listing) = &mut above.listing
            && let Some(mut found) = listing.get(self.hash, name).cloned()
        {
            found.copied_up(to);
            listing.set(self.hash, name, Some(found));
        }
        Ok(())
    }
}

/// An object to be copied: its branch, its place, what it is meant to be.
type Origin<'a> = (BranchIndex, &'a Place, &'a Stat);

impl Union {
    /// Gives a copy its origin's owner, mode, extended attributes and times, in the order in which none undoes
    /// another.
    fn copy_metadata(&self, origin: Origin<'_>, (to, copy): (BranchIndex, &Place)) -> Result<(), Errno> {
        let (from, source, meant) = origin;
        self.copy_owner(to, meant, copy)?;
        self.copy_xattrs((from, source), (to, copy))?;
        copy.utimens(&times_of(meant))
    }

    fn copy_xattrs(
        &self,
        (from, source): (BranchIndex, &Place),
        (to, copy): (BranchIndex, &Place),
    ) -> Result<(), Errno> {
        let names = match source.list_xattrs() {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            names => names?,
        };
        for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && !xattr::is_private(name))
        {
            let shown = self.xattr_shown(from, name);
            let Some(Ok(target)) = shown.map(|shown| self.xattr_on_disk(to, shown.to_vec())) else {
                continue;
            };
            let value = match source.read_xattr(name) {
                Err(Errno::NODATA) => continue,
                value => value?,
            };
            match copy.setxattr(&target, &value, XattrFlags::empty()) {
                // A branch that cannot store an attribute must not make its files unchangeable.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// What is known of a finished copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shown {
    pub(super) real: u64,
    /// How many names its origin has.
    pub(super) links: u32,
}

/// Makes an object that is no directory under a temporary name, a file empty yet.
fn make_object(source: &Place, form: FileType, device: u64, temp: &Temp<'_>) -> Result<(), Errno> {
    let (name, mode) = (temp.name.as_slice(), Mode::RUSR | Mode::WUSR);
    match form {
        FileType::Symlink => symlinkat(source.readlink()?, temp.dir(), name),
        FileType::RegularFile => mknodat(temp.dir(), name, form, mode, 0),
        form => mknodat(temp.dir(), name, form, mode, device),
    }
}

/// The times of a file whose content changes now.
const CHANGED_NOW: Timestamps = Timestamps {
    last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    last_modification: Timespec { tv_sec: 0, tv_nsec: UTIME_NOW },
};

/// Copies content, `want` bytes of it or all: shared blocks if the filesystem can, else range by range with the holes
/// kept.
fn copy_data(source: &OwnedFd, target: &OwnedFd, want: u64) -> Result<(), Errno> {
    let size = u64::try_from(fstat(source)?.st_size).unwrap_or_default();
    let new_size = if want == ALL_DATA { size } else { want };
    if want >= size && size > 0 && ioctl_ficlone(target, source).is_ok() {
        return if new_size == size { Ok(()) } else { ftruncate(target, new_size) };
    }
    let end = size.min(new_size);
    let mut at = 0;
    while at < end {
        let data = match seek(source, SeekFrom::Data(at)) {
            Ok(data) if data < end => data,
            Ok(_) | Err(Errno::NXIO) => break,
            // A filesystem that does not know holes has none.
            Err(_) => at,
        };
        let hole = seek(source, SeekFrom::Hole(data)).unwrap_or(end).min(end);
        copy_range(source, target, data, hole)?;
        at = hole;
    }
    ftruncate(target, new_size)
}

fn copy_range(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> Result<(), Errno> {
    let (mut read_at, mut write_at) = (from, from);
    while read_at < end {
        let left = usize::try_from(end - read_at).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut read_at), target, Some(&mut write_at), left) {
            // The file became shorter under our hands.
            Ok(0) => return Ok(()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                return copy_through_memory(source, target, read_at, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_through_memory(source: &OwnedFd, target: &OwnedFd, from: u64, end: u64) -> Result<(), Errno> {
    let mut buf = vec![0; CHUNK];
    let mut at = from;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
        let got = rustix::io::pread(source, &mut buf[..want], at)?;
        if got == 0 {
            break;
        }
        let mut done = 0;
        while done < got {
            done += rustix::io::pwrite(target, &buf[done..got], at + done as u64)?;
        }
        at += got as u64;
    }
    Ok(())
}

/// Removes a name that may be absent.
pub(super) fn unlink_if_there(dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        done => done,
    }
}
