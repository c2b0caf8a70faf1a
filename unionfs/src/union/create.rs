//! New objects and new names.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use parking_lot::RwLockWriteGuard;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RenameFlags, XattrFlags, linkat, mkdirat, mknodat, openat,
    renameat, renameat_with, symlinkat,
};

use super::Union;
use super::copy::Extent;
use super::data::OpenFile;
use super::placement::Seat;
use super::read::Seen;
use super::stat::decode_device;
use crate::branch::is_overlay_whiteout;
use crate::dir::{DirBody, Found};
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Data, FileBody, Link, Node, Site};
use crate::marks::{Format, whiteout_name};
use crate::place::Place;
use crate::types::{BranchIndex, Entry, FileKind, Ino, Name, NewNode};

pub(super) const DEFAULT_ACL: &[u8] = b"system.posix_acl_default";
const ACCESS_ACL: &[u8] = b"system.posix_acl_access";

/// A directory locked to take a new name that is free.
pub(super) struct Opening<'a> {
    dir: &'a Arc<Node>,
    body: RwLockWriteGuard<'a, Body>,
    pub(super) branch: BranchIndex,
    pub(super) fd: Arc<OwnedFd>,
    /// What hides the name, if anything.
    over: Option<Found>,
}

impl Union {
    /// Makes a regular file, fifo, socket or device; `rdev` is in the kernel's 32-bit form.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `EROFS`, `EPERM` for a name that belongs to the format, or what the branch said.
    pub fn mknod(&self, dir: Ino, name: Name<'_>, kind: FileKind, rdev: u32, new: &NewNode) -> Result<Entry> {
        let dir = self.dir_node(dir)?;
        let mut opening = self.open_name(&dir, name)?;
        let device = decode_device(rdev);
        let form = self.disk_form(opening.branch, kind);
        let marked = form == FileType::CharacterDevice && device == 0;
        if marked {
            self.mark_device(opening.branch, &opening.fd, name.as_bytes())?;
        }
        let on_disk = if form == FileType::RegularFile { 0 } else { device };
        self.make(&mut opening, name, (kind, device), new, |at, name, mode| {
            mknodat(at, name, form, mode, on_disk)
        })
    }

    /// Makes a directory.
    ///
    /// # Errors
    ///
    /// As [`Union::mknod`].
    pub fn mkdir(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry> {
        let dir = self.dir_node(dir)?;
        let mut opening = self.open_name(&dir, name)?;
        let what = (FileKind::Directory, 0);
        self.make(&mut opening, name, what, new, |at, name, mode| mkdirat(at, name, mode))
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    ///
    /// As [`Union::mknod`].
    pub fn symlink(&self, dir: Ino, name: Name<'_>, target: &OsStr, new: &NewNode) -> Result<Entry> {
        let dir = self.dir_node(dir)?;
        let mut opening = self.open_name(&dir, name)?;
        self.make(&mut opening, name, (FileKind::Symlink, 0), new, |at, name, _| {
            symlinkat(target.as_bytes(), at, name)
        })
    }

    /// Makes a regular file that does not exist yet.
    ///
    /// # Errors
    ///
    /// As [`Union::mknod`].
    pub fn create(&self, dir: Ino, name: Name<'_>, new: &NewNode) -> Result<Entry> {
        let dir = self.dir_node(dir)?;
        let mut opening = self.open_name(&dir, name)?;
        let mut opened = None;
        let entry = self.make(&mut opening, name, (FileKind::Regular, 0), new, |at, name, mode| {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            opened = Some(openat(at, name, flags, mode)?);
            Ok(())
        })?;
        if let Some(fd) = opened {
            self.files.put(entry.node, Arc::new(OpenFile { fd: Arc::new(fd), writable: true }));
        }
        Ok(entry)
    }

    /// Makes a regular file without a name (open(2), `O_TMPFILE`), to which [`Union::link`] may give one.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where the branch's filesystem has no such files.
    pub fn tmpfile(&self, dir: Ino, new: &NewNode) -> Result<Entry> {
        let dir = self.dir_node(dir)?;
        // Of all branches this is the one from which a name can be given to it in most directories.
        let branch = self.again("O_TMPFILE", || {
            let branch = self.highest_branch(&dir)?;
            self.dir_on(&dir, branch).map(|()| branch)
        })?;
        let mut body = self.write_body(&dir)?;
        Self::must_be_alive(body.dir()?)?;
        self.align_dir(&dir, body.dir()?, branch)?;
        let fd = self.dirfd(&dir, branch)?;
        let mode = mode_of(new, has_default_acl(body.dir_mut()?, &fd));
        let what = (FileKind::Regular, 0);
        let file = {
            let _caller = self.acting_as(branch, new);
            let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
            openat(&fd, c".", flags, self.disk_mode(branch, what.0, mode)).at("openat", branch)?
        };
        let file = Arc::new(file);
        let place = Place::Fd(Arc::clone(&file));
        self.describe_new(branch, &Place::Fd(fd), &place, what, new, mode).at("setxattr", branch)?;
        drop(body);
        let stat = self.meant(branch, &place, place.stat().at("fstat", branch)?);
        let ino = self.devices.ino(stat.st_dev, stat.st_ino);
        let site = Site::Pinned(Arc::clone(&file));
        let body = Body::File(FileBody { branch, site, real: stat.st_ino, nameless: true, data: Data::Own });
        let node = self.inodes.intern(ino, || Node::new(ino, FileKind::Regular, Link::default(), body));
        Ok(Entry { node: node.ino, attr: self.attr_of(node.ino, &stat, 0) })
    }

    /// Gives an object one more name.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `EPERM` for a directory, `ENOENT` for an object whose last name is gone.
    pub fn link(&self, node: Ino, dir: Ino, name: Name<'_>) -> Result<Entry> {
        let (node, dir) = (self.node(node)?, self.dir_node(dir)?);
        if node.is_dir() {
            return Err(Error::rule("link", Errno::PERM));
        }
        let (mut opening, mut body, on) = self.again("link", || {
            let over = self.must_be_free(&dir, name)?;
            let on = self.link_branch(&node, &dir, over.as_ref())?;
            // A copy of the metadata only has one name.
            self.bring(&node, on, Extent::Whole)?;
            let opening = self.open_name_on(&dir, name, on)?;
            let body = node.body.write();
            match &*body {
                Body::File(file) if file.branch == on => Ok((opening, body, on)),
                _ => Err(Error::rule("link", Errno::AGAIN)),
            }
        })?;
        opening.body.dir_mut()?.pure = false;
        let place = self.place(&node, &body)?;
        if node.kind == FileKind::CharDevice && is_overlay_whiteout(&place.stat().at("statx", on)?) {
            self.mark_device(on, &opening.fd, name.as_bytes())?;
        }
        let counted = self.counted_so_far(&node, &body, &place)?;
        {
            let still = self.still();
            self.put(&mut opening, name, node.kind, |at, name| link_to(&place, at, name))?;
            counted.into_iter().for_each(|(key, links)| still.set(key, links + 1));
        }
        if let Body::File(file) = &mut *body {
            file.nameless = false;
            if matches!(file.site, Site::Pinned(_)) {
                file.site = Site::Linked;
                let link = Link { parent: Some(Arc::clone(&dir)), name: name.as_bytes().into(), moved: None };
                self.relink(&node, link);
            }
        }
        let attr = self.attr_now(&node, &body)?;
        drop(body);
        node.hold();
        Ok(Entry { node: node.ino, attr })
    }

    /// What a file is counted by that is to get one more name, and how many it has; `None` if its inode tells.
    fn counted_so_far(&self, node: &Node, body: &Body, place: &Place) -> Result<Option<(Ino, u32)>> {
        let Body::File(file) = body else { return Ok(None) };
        let grouped = self.groups.get(node.ino, file.branch).is_some();
        if !grouped && file.branch.index() == 0 {
            return Ok(None);
        }
        let stat = place.stat().at("statx", file.branch)?;
        let key = if grouped { node.ino } else { self.devices.ino(stat.st_dev, stat.st_ino) };
        let links = if file.nameless { 0 } else { self.links_of(node.ino, file.branch, &stat)? };
        Ok(Some((key, links)))
    }

    /// The branch on which a file can be given one more name.
    fn link_branch(&self, node: &Node, dir: &Arc<Node>, over: Option<&Found>) -> Result<BranchIndex> {
        let lowest = over.map_or_else(|| self.bottom(), |over| over.top);
        self.seat(&Seat { op: "link", dirs: &[dir], lowest, passengers: vec![self.passenger(node)?] })
    }

    /// Fails early where the name is taken, before anything is copied for it; tells what hides the name.
    fn must_be_free(&self, dir: &Node, name: Name<'_>) -> Result<Option<Found>> {
        if self.is_reserved(name) {
            return Err(Error::rule("reserved name", Errno::PERM));
        }
        let body = self.read_body(dir)?;
        Self::must_be_alive(body.dir()?)?;
        match self.find(dir, body.dir()?, name)? {
            Some(found) if found.visible => Err(Error::rule("name", Errno::EXIST)),
            over => Ok(over),
        }
    }

    fn open_name<'a>(&self, dir: &'a Arc<Node>, name: Name<'_>) -> Result<Opening<'a>> {
        self.again("name", || {
            let over = self.must_be_free(dir, name)?;
            let branch = self.create_branch(dir, over.as_ref())?;
            self.open_name_on(dir, name, branch)
        })
    }

    /// Locks a directory, on a writable branch, for a name that must be free.
    fn open_name_on<'a>(
        &self,
        dir: &'a Arc<Node>,
        name: Name<'_>,
        branch: BranchIndex,
    ) -> Result<Opening<'a>> {
        self.dir_on(dir, branch)?;
        let body = self.write_body(dir)?;
        Self::must_be_alive(body.dir()?)?;
        let over = self.find(dir, body.dir()?, name)?;
        match &over {
            Some(found) if found.visible => return Err(Error::rule("name", Errno::EXIST)),
            Some(found) if found.top < branch => return Err(Error::rule("name", Errno::AGAIN)),
            _ => {}
        }
        self.align_dir(dir, body.dir()?, branch)?;
        Ok(Opening { dir, body, branch, fd: self.dirfd(dir, branch)?, over })
    }

    fn make(
        &self,
        opening: &mut Opening<'_>,
        name: Name<'_>,
        what: (FileKind, u64),
        new: &NewNode,
        build: impl FnOnce(&Arc<OwnedFd>, &[u8], Mode) -> Result<(), Errno>,
    ) -> Result<Entry> {
        let mode = mode_of(new, has_default_acl(opening.body.dir_mut()?, &opening.fd));
        let (branch, parent) = (opening.branch, Place::Fd(Arc::clone(&opening.fd)));
        let disk_mode = self.disk_mode(branch, what.0, mode);
        {
            let _caller = self.acting_as(branch, new);
            self.put(opening, name, what.0, |at, name| {
                build(at, name, disk_mode)?;
                let made = Place::Name(Arc::clone(at), name.into());
                self.describe_new(branch, &parent, &made, what, new, mode)
            })?;
        }
        let found = Found::made(what.0, branch, opening.over.as_ref());
        let seen = self.look_at_new(opening, name)?;
        self.enter(opening.dir, name, &found, &seen, true).ok_or(Error::rule("new object", Errno::STALE))
    }

    fn look_at_new(&self, opening: &Opening<'_>, name: Name<'_>) -> Result<Seen> {
        let place = Place::Name(Arc::clone(&opening.fd), name.as_bytes().into());
        let stat = place.stat().at("statx", opening.branch)?;
        let ino = self.devices.ino(stat.st_dev, stat.st_ino);
        let stat = self.meant(opening.branch, &place, stat);
        Ok(Seen { fresh: true, ..Seen::new(ino, stat, opening.branch) })
    }

    /// Puts a new name on disk, over the whiteout that hides what lies below, and into the listing.
    fn put(
        &self,
        opening: &mut Opening<'_>,
        name: Name<'_>,
        kind: FileKind,
        build: impl FnOnce(&Arc<OwnedFd>, &[u8]) -> Result<(), Errno>,
    ) -> Result<()> {
        let (branch, bytes) = (opening.branch, name.as_bytes());
        let whiteout = opening.over.as_ref().is_some_and(|over| over.top == branch);
        let hidden_by_file = whiteout
            && (self.options.format == Format::Aufs)
            && rustix::fs::statat(&opening.fd, whiteout_name(bytes).as_slice(), AtFlags::SYMLINK_NOFOLLOW)
                .is_ok();
        if whiteout && !hidden_by_file {
            self.put_over_device(opening, bytes, kind, build)?;
        } else {
            build(&opening.fd, bytes).at("create", branch)?;
            if hidden_by_file && self.may_unhide(opening, bytes, kind) {
                self.unhide(branch, &opening.fd, bytes);
            }
        }
        let found = Found::made(kind, branch, opening.over.as_ref());
        let state = opening.body.dir_mut()?;
        if let Some(listing) = &mut state.listing {
            listing.set(self.hash, bytes, Some(found));
            self.grown(opening.dir.ino, listing);
        }
        self.touched(opening.dir, state, branch);
        Ok(())
    }

    /// Whether the whiteout beside a new object may go. A directory must be opaque by a mark of its own first; until
    /// then the whiteout beside it makes it so.
    fn may_unhide(&self, opening: &Opening<'_>, name: &[u8], kind: FileKind) -> bool {
        if kind != FileKind::Directory {
            return true;
        }
        let opened =
            openat(&opening.fd, name, crate::branch::DIR_FLAGS, Mode::empty()).at("openat", opening.branch);
        let marked = opened.and_then(|fd| self.mark_dir(opening.branch, &Arc::new(fd), None));
        marked.inspect_err(|error| tracing::warn!(%error, "a whiteout stays beside its directory")).is_ok()
    }

    /// What was made in the work directory has not inherited the default ACL of its directory (acl(5)).
    fn inherit_acl(&self, opening: &Opening<'_>, made: &Place, kind: FileKind) -> Result<()> {
        let parent = Place::Fd(Arc::clone(&opening.fd));
        let acl = match parent.read_xattr(DEFAULT_ACL) {
            Ok(acl) if kind != FileKind::Symlink => acl,
            _ => return Ok(()),
        };
        let set = |name: &[u8], acl: &[u8]| {
            made.setxattr(name, acl, XattrFlags::empty()).at("setxattr", opening.branch)
        };
        if kind == FileKind::Directory {
            set(DEFAULT_ACL, &acl)?;
        }
        let mode = made.stat().at("statx", opening.branch)?.st_mode;
        set(ACCESS_ACL, &acl)?;
        // The mask entry, which the group bits set, allows no more than the mode that was asked for.
        let inherited = made.stat().at("statx", opening.branch)?.st_mode;
        made.chmod(inherited & mode).at("fchmodat", opening.branch)
    }

    /// Makes the object aside and swaps it in for the whiteout device in one rename.
    fn put_over_device(
        &self,
        opening: &Opening<'_>,
        name: &[u8],
        kind: FileKind,
        build: impl FnOnce(&Arc<OwnedFd>, &[u8]) -> Result<(), Errno>,
    ) -> Result<()> {
        let branch = opening.branch;
        let temp = self.must_work(branch)?.temp();
        build(temp.dir(), &temp.name).at("create", branch)?;
        self.inherit_acl(opening, &temp.place(), kind)?;
        if kind == FileKind::Directory {
            let fd = temp.place().open(OFlags::RDONLY | OFlags::DIRECTORY).at("open", branch)?;
            self.mark_dir(branch, &Arc::new(fd), None)?;
            // The whiteout goes with the temporary name.
            return renameat_with(temp.dir(), temp.name.as_slice(), &opening.fd, name, RenameFlags::EXCHANGE)
                .at("renameat2", branch);
        }
        renameat(temp.dir(), temp.name.as_slice(), &opening.fd, name).at("renameat", branch)?;
        temp.moved();
        Ok(())
    }
}

/// Whether a directory has a default ACL for its children, by its copy on the branch they are made on.
fn has_default_acl(state: &mut DirBody, fd: &Arc<OwnedFd>) -> bool {
    *state.default_acl.get_or_insert_with(|| {
        let place = Place::Fd(Arc::clone(fd));
        matches!(place.getxattr(DEFAULT_ACL, &mut [0; 8]), Ok(_) | Err(Errno::RANGE))
    })
}

/// The mode to make an object with: a default ACL takes the umask's place (acl(5)).
fn mode_of(new: &NewNode, default_acl: bool) -> Mode {
    let umask = if default_acl { 0 } else { new.umask };
    Mode::from_raw_mode(new.mode & 0o7777 & !umask)
}

pub(super) fn link_to(place: &Place, at: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match place {
        Place::Name(dir, old) => linkat(dir, old.as_slice(), at, name, AtFlags::empty()),
        Place::Fd(_) | Place::File(_) => linkat(CWD, place.proc_path(), at, name, AtFlags::SYMLINK_FOLLOW),
    }
}
