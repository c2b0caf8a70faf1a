//! File content: by node, never by handle, so that what was opened before copy-up sees what is written after.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::RwLockReadGuard;
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, fdatasync, fsync, seek, syncfs};
use rustix::io::{pread, pwrite};

use super::Union;
use super::copy::Extent;
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Body, Node};
use crate::place::Place;
use crate::sys;
use crate::types::{FileKind, FsXattr, Ino, Seek};

/// A file of a branch, open.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) fd: Arc<OwnedFd>,
    pub(crate) writable: bool,
}

/// A file that is open to be written and does not move to another branch meanwhile.
pub(super) struct Held<'a> {
    pub(super) file: Arc<OpenFile>,
    _still: Option<RwLockReadGuard<'a, Body>>,
}

impl Union {
    /// The open file behind a node, from the cache or opened now.
    pub(super) fn open_file(&self, node: &Node, write: bool) -> Result<Arc<OpenFile>> {
        if node.kind != FileKind::Regular {
            return Err(Error::rule("open", if node.is_dir() { Errno::ISDIR } else { Errno::INVAL }));
        }
        if let Some(file) = self.files.get(&node.ino).filter(|file| file.writable || !write) {
            return Ok(file);
        }
        // Locked until the file is in the cache: copy-up takes it out again under the lock for changing.
        let body = node.body.read();
        let Body::File(state) = &*body else { return Err(Error::rule("open", Errno::ISDIR)) };
        let place = self.file_place(node, state)?;
        let file = if self.is_writable(state.branch) && state.data.is_own() {
            open_upper(&place, write).at("open", state.branch)?
        } else if write {
            return Err(Error { op: "open", branch: Some(state.branch), errno: Errno::ROFS });
        } else {
            OpenFile { fd: Arc::new(self.open_content(&place, state)?), writable: false }
        };
        let file = Arc::new(file);
        self.files.put(node.ino, Arc::clone(&file));
        Ok(file)
    }

    /// Reads up to `buf.len()` bytes at an offset; fewer only at the end of the file.
    ///
    /// # Errors
    ///
    /// `EISDIR`, `EINVAL` for what has no content, or what the branch said.
    pub fn read(&self, node: Ino, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let node = self.node(node)?;
        let file = self.open_file(&node, false)?;
        let mut done = if offset == 0 { self.read_beginning(&node, &file.fd, buf) } else { 0 };
        while done < buf.len() {
            match pread(&file.fd, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno).during("pread"),
            }
        }
        Ok(done)
    }

    /// Writes all of `data` at an offset; the first write of a lower file copies it up.
    ///
    /// `kill_suidgid` is the kernel's request to clear set-user-ID and set-group-ID (`FUSE_WRITE_KILL_SUIDGID`).
    ///
    /// # Errors
    ///
    /// `EROFS` where no branch above takes changes, `ENOSPC` and whatever else the branch said. Bytes written
    /// before a failure count: the number is returned, and the failure comes with the next write.
    pub fn write(&self, node: Ino, offset: u64, data: &[u8], kill_suidgid: bool) -> Result<usize> {
        let node = self.node(node)?;
        let mut held = self.hold_to_write(&node)?;
        let mut done = 0;
        while done < data.len() {
            match pwrite(&held.file.fd, &data[done..], offset + done as u64) {
                Ok(len) => done += len,
                Err(Errno::INTR) => {}
                Err(errno) if self.moves_on(&node, errno) => {
                    drop(held);
                    self.move_on(&node)?;
                    held = self.hold_to_write(&node)?;
                }
                Err(_) if done > 0 => break,
                Err(errno) => return Err(errno).during("pwrite"),
            }
        }
        drop(held);
        if kill_suidgid {
            self.kill_suidgid(&node)?;
        }
        Ok(done)
    }

    /// Whether files of writable branches can move from one to another.
    pub(super) fn files_move(&self) -> bool {
        self.options.move_on_enospc || self.works.iter().flatten().nth(1).is_some()
    }

    /// The file behind a node, copied up if it has to be, and kept where it is until the answer goes.
    pub(super) fn hold_to_write<'a>(&self, node: &'a Arc<Node>) -> Result<Held<'a>> {
        loop {
            let file = self.open_to_write(node)?;
            if !self.files_move() {
                return Ok(Held { file, _still: None });
            }
            let still = node.body.read();
            // Who moves a file takes it out of the cache.
            if self.files.get(&node.ino).is_some_and(|now| Arc::ptr_eq(&now, &file)) {
                return Ok(Held { file, _still: Some(still) });
            }
        }
    }

    /// The file behind a node, copied up if it has to be.
    pub(super) fn open_to_write(&self, node: &Arc<Node>) -> Result<Arc<OpenFile>> {
        if let Some(file) = self.files.get(&node.ino).filter(|file| file.writable) {
            return Ok(file);
        }
        self.promote(node, Extent::Whole)?;
        self.open_file(node, true)
    }

    /// Makes a file's content (and attributes, unless `datasync`) durable.
    ///
    /// # Errors
    ///
    /// What the branch said.
    pub fn fsync(&self, node: Ino, datasync: bool) -> Result<()> {
        let node = self.node(node)?;
        if self.options.volatile || node.kind != FileKind::Regular {
            return Ok(());
        }
        if let Some(hollow) = self.open_hollow(&node)? {
            return fsync(&hollow).during("fsync");
        }
        let file = self.open_file(&node, false)?;
        if !file.writable {
            return Ok(());
        }
        if datasync { fdatasync(&file.fd) } else { fsync(&file.fd) }.during("fsync")
    }

    /// Makes the names in a directory durable.
    ///
    /// # Errors
    ///
    /// What the branch said.
    pub fn fsync_dir(&self, dir: Ino) -> Result<()> {
        let dir = self.dir_node(dir)?;
        let body = self.read_body(&dir)?;
        let state = body.dir()?;
        if self.options.volatile || state.is_dead() {
            return Ok(());
        }
        for &branch in state.layers.iter().flatten().filter(|&&branch| self.is_writable(branch)) {
            fsync(self.dirfd(&dir, branch)?).at("fsync", branch)?;
        }
        Ok(())
    }

    /// Makes all that was written durable.
    ///
    /// # Errors
    ///
    /// What a branch said.
    pub fn syncfs(&self) -> Result<()> {
        if self.options.volatile {
            return Ok(());
        }
        for (at, branch) in self.branches.iter().enumerate().filter(|(at, _)| self.works[*at].is_some()) {
            syncfs(branch.root()).at("syncfs", super::index(at))?;
        }
        Ok(())
    }

    /// Allocates, punches, zeroes or shifts space of a file; `mode` as of fallocate(2).
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP` where the branch's filesystem cannot do it.
    pub fn fallocate(&self, node: Ino, mode: u32, offset: u64, len: u64) -> Result<()> {
        let node = self.node(node)?;
        let held = self.hold_to_write(&node)?;
        fallocate(&held.file.fd, FallocateFlags::from_bits_retain(mode), offset, len).during("fallocate")?;
        drop(held);
        self.kill_suidgid(&node)
    }

    /// Finds data or a hole at or after an offset.
    ///
    /// # Errors
    ///
    /// `ENXIO` past the end of the file.
    pub fn lseek(&self, node: Ino, offset: u64, whence: Seek) -> Result<u64> {
        let node = self.node(node)?;
        seek_in(&self.open_file(&node, false)?.fd, offset, whence)
    }

    /// Copies a range between two files, inside the branch's filesystem where that can.
    ///
    /// # Errors
    ///
    /// `EXDEV` where the branches cannot do it between them: the caller then reads and writes.
    pub fn copy_file_range(
        &self,
        from: Ino,
        from_offset: u64,
        to: Ino,
        to_offset: u64,
        len: u64,
    ) -> Result<usize> {
        let (from, to) = (self.node(from)?, self.node(to)?);
        // Both may be one file, which is on its writable branch once that is open to be written.
        let other = (from.ino != to.ino).then(|| self.open_file(&from, false)).transpose()?;
        let held = self.hold_to_write(&to)?;
        let (source, target) = (other.as_ref().unwrap_or(&held.file), &held.file);
        let (mut from_offset, mut to_offset) = (from_offset, to_offset);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        rustix::fs::copy_file_range(&source.fd, Some(&mut from_offset), &target.fd, Some(&mut to_offset), len)
            .during("copy_file_range")
    }

    /// The inode flags of ioctl_iflags(2).
    ///
    /// # Errors
    ///
    /// `ENOTTY` where there are none.
    pub fn inode_flags(&self, node: Ino) -> Result<u32> {
        let node = self.node(node)?;
        let fd = self.flags_fd(&node, &node.body.read())?;
        rustix::fs::ioctl_getflags(&fd).map(|flags| flags.bits()).during("FS_IOC_GETFLAGS")
    }

    /// Sets the inode flags of ioctl_iflags(2).
    ///
    /// # Errors
    ///
    /// `ENOTTY` where there are none, `EPERM` without privilege.
    pub fn set_inode_flags(&self, node: Ino, flags: u32) -> Result<()> {
        let node = self.node(node)?;
        self.promote(&node, Extent::Whole)?;
        let body = node.body.read();
        let fd = self.flags_fd(&node, &body)?;
        rustix::fs::ioctl_setflags(&fd, rustix::fs::IFlags::from_bits_retain(flags))
            .during("FS_IOC_SETFLAGS")?;
        // One that was opened when it could be written must not serve an immutable file's next writer.
        self.files.remove(&node.ino);
        Ok(())
    }

    /// The `struct fsxattr` of ioctl_xfs_fsgetxattr(2): flags in other words, and the project.
    ///
    /// # Errors
    ///
    /// `ENOTTY` where there is none.
    pub fn inode_attributes(&self, node: Ino) -> Result<FsXattr> {
        let node = self.node(node)?;
        let fd = self.flags_fd(&node, &node.body.read())?;
        sys::fsxattr(&fd).during("FS_IOC_FSGETXATTR")
    }

    /// Sets the `struct fsxattr`.
    ///
    /// # Errors
    ///
    /// `ENOTTY` where there is none, `EPERM` without privilege.
    pub fn set_inode_attributes(&self, node: Ino, attr: &FsXattr) -> Result<()> {
        let node = self.node(node)?;
        self.promote(&node, Extent::Whole)?;
        let body = node.body.read();
        let fd = self.flags_fd(&node, &body)?;
        sys::set_fsxattr(&fd, attr).during("FS_IOC_FSSETXATTR")?;
        self.files.remove(&node.ino);
        Ok(())
    }

    fn flags_fd(&self, node: &Node, body: &Body) -> Result<OwnedFd> {
        if !matches!(node.kind, FileKind::Regular | FileKind::Directory) {
            return Err(Error::rule("FS_IOC_GETFLAGS", Errno::NOTTY));
        }
        self.place(node, body)?.open(OFlags::RDONLY | OFlags::NONBLOCK).during("open")
    }
}

/// Finds data or a hole of an open file.
pub(crate) fn seek_in(file: &OwnedFd, offset: u64, whence: Seek) -> Result<u64> {
    let to = match whence {
        Seek::Data => SeekFrom::Data(offset),
        Seek::Hole => SeekFrom::Hole(offset),
    };
    seek(file, to).during("lseek")
}

/// A lower file is read without a trace where the reader may leave none (open(2), `O_NOATIME`).
pub(super) fn open_lower(place: &Place) -> Result<OwnedFd, Errno> {
    match place.open(OFlags::RDONLY | OFlags::NOATIME) {
        Err(Errno::PERM) => place.open(OFlags::RDONLY),
        done => done,
    }
}

/// Opened for reading and writing, so that one descriptor serves every later request.
fn open_upper(place: &Place, write: bool) -> Result<OpenFile, Errno> {
    match place.open(OFlags::RDWR) {
        Ok(fd) => Ok(OpenFile { fd: Arc::new(fd), writable: true }),
        Err(Errno::ACCESS | Errno::PERM) if write => {
            open_despite_mode(place).map(|fd| OpenFile { fd: Arc::new(fd), writable: true })
        }
        Err(Errno::ACCESS | Errno::PERM | Errno::TXTBSY | Errno::ROFS) if !write => {
            place.open(OFlags::RDONLY).map(|fd| OpenFile { fd: Arc::new(fd), writable: false })
        }
        Err(errno) => Err(errno),
    }
}

/// The kernel has let the caller open the file, perhaps before its mode took the right away; a server without
/// CAP_DAC_OVERRIDE gives itself the right for as long as its own open takes.
fn open_despite_mode(place: &Place) -> Result<OwnedFd, Errno> {
    let mode = place.stat()?.st_mode;
    place.chmod(mode | 0o600)?;
    let opened = place.open(OFlags::RDWR);
    place.chmod(mode)?;
    opened
}
