//! Unpacking a layer's tar stream to a tree, so that nothing outside of the tree is ever touched.
//!
//! - A name with `..` in it, and a link whose target has it where that matters (a hard link), is refused; a slash at the
//!   start only means the layer's root.
//! - A symbolic link on the way to an entry is followed as a process whose root the layer is would follow it
//!   (openat2(2), `RESOLVE_IN_ROOT`). If it leads nowhere in this layer, the entry is refused.
//! - The last entry of a name wins, whatever kinds the two are; only a directory over a directory keeps what is in it.
//!   A file is never written through, always made anew.
//! - `.wh.NAME` and `.wh..wh..opq` are files like any other here: the union reads them as whiteouts.
//! - A directory that no entry speaks of is root's, with mode 0755 and the time of the entry that needed it.
//!
//! A process with full rights (root of the host) gets owners, modes, devices and xattrs as they are, or an error. For
//! others what they may not give is kept in the xattr `user.containers.override_stat`, a device then being an empty file
//! that has it ([`Rights`]).

mod ground;
mod path;
mod rights;

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;

use rustix::fs::{self as rfs, AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::error::{At, Fault};
use super::frame::FrameWriter;
use super::tar::{Entry, Kind, Segment, Source, TarReader};
use super::tree;
use ground::{Ground, blame};
use path::CleanPath;
use rights::Object;
pub(crate) use rights::Rights;

/// Bytes of content written at once.
const CHUNK: usize = 1 << 17;

/// What was unpacked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Entries of the archive.
    pub(super) entries: u32,
    /// Bytes of file content, hard links counted once.
    pub(super) content: u64,
}

/// The directories a layer is unpacked to.
#[derive(Debug)]
pub(super) struct Site {
    /// The tree.
    pub(super) diff: OwnedFd,
    /// Content that a later entry replaced.
    pub(super) replaced: OwnedFd,
    /// What is being removed.
    pub(super) trash: OwnedFd,
}

/// Unpacks all entries of a stream.
pub(super) fn unpack<S: Source>(
    reader: &mut TarReader<S, FrameWriter>,
    site: Site,
    rights: Rights,
) -> Result<Tally, At> {
    let ground = Ground::new(site.diff, site.replaced, site.trash)?;
    let mut unpacker = Unpacker { ground, rights, tally: Tally::default(), buffer: vec![0; CHUNK] };
    while let Some(entry) = reader.next()? {
        unpacker.entry(reader, &entry)?;
    }
    let tally = unpacker.tally;
    let offset = reader.offset();
    let unsettled = |(path, fault)| At { entry: Some(OsString::from_vec(path)), offset, fault };
    unpacker.ground.settle().map_err(unsettled)?;
    Ok(tally)
}

struct Unpacker {
    ground: Ground,
    rights: Rights,
    tally: Tally,
    buffer: Vec<u8>,
}

impl Unpacker {
    /// Makes what one entry says.
    fn entry<S: Source>(&mut self, reader: &mut TarReader<S, FrameWriter>, entry: &Entry) -> Result<(), At> {
        self.tally.entries += 1;
        if entry.kind == Kind::Label {
            return Ok(());
        }
        let blame = |fault| entry.fault(fault);
        let path = CleanPath::new(&entry.path).map_err(blame)?;
        if path.is_root() {
            return self.root(entry).map_err(blame);
        }
        let (dir, name) = path.split();
        let times = rights::times(entry.mtime, None);
        let (parent, above) = self.ground.enter(dir, &times).map_err(blame)?;
        let real = path::join(&above, name);
        let place = Place { dir: parent.as_fd(), name, real: &real };
        match entry.kind {
            Kind::File => self.file(reader, place, entry),
            Kind::Directory => self.directory(place, entry).map_err(blame),
            Kind::HardLink => self.hard_link(place, entry).map_err(blame),
            _ => self.special(place, entry).map_err(blame),
        }
    }

    /// The root of the layer is there already; the entry says what it is like.
    fn root(&mut self, entry: &Entry) -> Result<(), Fault> {
        if entry.kind != Kind::Directory {
            return Err(Fault::Root);
        }
        rights::give(self.rights, Object::Open(self.ground.root()), entry)?;
        let stat = rfs::fstat(self.ground.root()).map_err(Fault::os("cannot look at it"))?;
        self.ground.note_times(stat.st_ino, Vec::new(), rights::times(entry.mtime, entry.atime));
        Ok(())
    }

    /// A regular file: made, filled, then given all the rest.
    fn file<S: Source>(
        &mut self,
        reader: &mut TarReader<S, FrameWriter>,
        place: Place<'_>,
        entry: &Entry,
    ) -> Result<(), At> {
        let blame = |fault| entry.fault(fault);
        let made = self.make(place, |place| tree::create_file(place.dir, tree::os(place.name)));
        let file = made.map_err(|errno| blame(Fault::os("cannot make it")(errno)))?;
        let inode = rfs::fstat(&file).map_err(|errno| blame(Fault::os("cannot look at it")(errno)))?.st_ino;
        if !entry.segments.is_empty() {
            self.ground.note_content(inode, self.tally.entries);
        }
        for &segment in &entry.segments {
            if segment.len > 0 {
                self.fill(reader, &file, segment, entry)?;
                let kept = reader.tap.content(self.tally.entries, place.real, segment);
                kept.map_err(|source| blame(Fault::io("cannot keep the archive's headers")(source)))?;
            }
        }
        let object = Object::Open(file.as_fd());
        self.end_file(&file, entry).and_then(|()| rights::give(self.rights, object, entry)).map_err(blame)?;
        rights::set_times(object, &rights::times(entry.mtime, entry.atime)).map_err(blame)
    }

    /// Copies a stretch of content from the stream to the file.
    fn fill<S: Source>(
        &mut self,
        reader: &mut TarReader<S, FrameWriter>,
        file: &File,
        segment: Segment,
        entry: &Entry,
    ) -> Result<(), At> {
        let (mut at, mut left) = (segment.offset, segment.len);
        while left > 0 {
            let want = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let read = reader.content(&mut self.buffer[..want]).map_err(|mut unread| {
                unread.entry = Some(OsString::from_vec(entry.path.clone()));
                unread
            })?;
            let written = file.write_all_at(&self.buffer[..read], at);
            written.map_err(|source| entry.fault(Fault::io("cannot write it")(source)))?;
            at += read as u64;
            left -= read as u64;
            self.tally.content += read as u64;
        }
        Ok(())
    }

    /// A hole at the end is only a length.
    fn end_file(&self, file: &File, entry: &Entry) -> Result<(), Fault> {
        // GNU tar ends its map with an empty segment, which writes nothing.
        let last = entry.segments.iter().rfind(|segment| segment.len > 0);
        let end = last.map_or(0, |last| last.offset + last.len);
        if end < entry.size {
            file.set_len(entry.size).map_err(Fault::io("cannot make it that long"))
        } else {
            Ok(())
        }
    }

    /// A directory, perhaps one that is there already.
    fn directory(&mut self, place: Place<'_>, entry: &Entry) -> Result<(), Fault> {
        match rfs::mkdirat(place.dir, tree::os(place.name), Mode::RWXU) {
            Err(Errno::EXIST) if !place.is(FileType::Directory)? => {
                self.ground
                    .clear(place.dir, place.name)
                    .map_err(Fault::os("cannot replace what has its name"))?;
                rfs::mkdirat(place.dir, tree::os(place.name), Mode::RWXU)
                    .map_err(Fault::os("cannot make it"))?;
            }
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Fault::os("cannot make it")(errno)),
        }
        let made = tree::open_dir(place.dir, tree::os(place.name)).map_err(Fault::os("cannot open it"))?;
        rights::give(self.rights, Object::Open(made.as_fd()), entry)?;
        let inode = rfs::fstat(&made).map_err(Fault::os("cannot look at it"))?.st_ino;
        let times = rights::times(entry.mtime, entry.atime);
        self.ground.note_times(inode, place.real.to_vec(), times);
        Ok(())
    }

    /// Another name of an earlier entry; a link as the target is not followed.
    fn hard_link(&mut self, place: Place<'_>, entry: &Entry) -> Result<(), Fault> {
        let named = || OsString::from_vec(entry.link.clone());
        let target = CleanPath::new(&entry.link).map_err(|fault| match fault {
            Fault::DotDot => Fault::LinkDotDot,
            fault => fault,
        })?;
        if target.is_root() {
            return Err(Fault::DirectoryTarget(named()));
        }
        let (dir, name) = target.split();
        let dir = match self.ground.open(dir) {
            Err(Errno::NOENT) => return Err(Fault::NoTarget(named())),
            opened => opened.map_err(blame(dir))?,
        };
        let source = Place { dir: dir.as_fd(), name, real: b"" };
        let stat = match source.stat() {
            Err(Errno::NOENT) => return Err(Fault::NoTarget(named())),
            stat => stat.map_err(Fault::os("cannot look at its link's target"))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Fault::DirectoryTarget(named()));
        }
        // A link to itself, or the same link twice: clearing the place could remove the last name.
        if place.stat().is_ok_and(|there| there.st_ino == stat.st_ino) {
            return Ok(());
        }
        self.make(place, |place| {
            rfs::linkat(source.dir, tree::os(source.name), place.dir, tree::os(place.name), AtFlags::empty())
        })
        .map_err(|errno| match errno {
            // The place it was to be put in was the target's directory.
            Errno::NOENT => Fault::NoTarget(named()),
            errno => Fault::os("cannot make the hard link")(errno),
        })
    }

    /// A symbolic link, fifo or device.
    fn special(&mut self, place: Place<'_>, entry: &Entry) -> Result<(), Fault> {
        let made = match entry.kind {
            Kind::Symlink if entry.link.is_empty() => return Err(Fault::EmptyLink),
            Kind::Symlink if entry.link.contains(&0) => return Err(Fault::Nul),
            Kind::Symlink => self
                .make(place, |place| rfs::symlinkat(tree::os(&entry.link), place.dir, tree::os(place.name))),
            _ => self.node(place, entry)?,
        };
        match made {
            Err(Errno::PERM) if self.rights == Rights::Limited => return self.stand_in(place, entry),
            made => made.map_err(Fault::os("cannot make it"))?,
        }
        let object = Object::Named(place.dir, place.name);
        rights::give(self.rights, object, entry)?;
        rights::set_times(object, &rights::times(entry.mtime, entry.atime))
    }

    fn node(&mut self, place: Place<'_>, entry: &Entry) -> Result<Result<(), Errno>, Fault> {
        let kind = match entry.kind {
            Kind::Char => FileType::CharacterDevice,
            Kind::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let (major, minor) = entry.device;
        // The kernel's device numbers have 12 bits for the major, 20 for the minor (MINORBITS, linux/kdev_t.h).
        let part = |number: u64, limit: u32| u32::try_from(number).ok().filter(|&part| part < limit);
        let (Some(major), Some(minor)) = (part(major, 1 << 12), part(minor, 1 << 20)) else {
            return Err(Fault::Device(major, minor));
        };
        let device = rfs::makedev(major, minor);
        Ok(self.make(place, |place| rfs::mknodat(place.dir, tree::os(place.name), kind, Mode::RWXU, device)))
    }

    /// An empty file in place of a device that may not be made.
    fn stand_in(&mut self, place: Place<'_>, entry: &Entry) -> Result<(), Fault> {
        let made = self.make(place, |place| tree::create_file(place.dir, tree::os(place.name)));
        let file = made.map_err(Fault::os("cannot make a file in the device's place"))?;
        let kind = if entry.kind == Kind::Char { "char" } else { "block" };
        let (major, minor) = entry.device;
        let object = Object::Open(file.as_fd());
        rights::keep(object, entry, &format!(":{kind}-{major}-{minor}"))?;
        rights::chmod(object, entry.mode)?;
        rights::set_times(object, &rights::times(entry.mtime, entry.atime))
    }

    /// Makes something new, after clearing its place if need be.
    fn make<T>(&mut self, place: Place<'_>, act: impl Fn(Place<'_>) -> Result<T, Errno>) -> Result<T, Errno> {
        match act(place) {
            Err(Errno::EXIST) => {
                self.ground.clear(place.dir, place.name)?;
                act(place)
            }
            done => done,
        }
    }
}

/// A name in an open directory.
#[derive(Clone, Copy)]
struct Place<'a> {
    dir: BorrowedFd<'a>,
    name: &'a [u8],
    /// The path below the layer's root, without links.
    real: &'a [u8],
}

impl Place<'_> {
    fn stat(self) -> Result<rfs::Stat, Errno> {
        rfs::statat(self.dir, tree::os(self.name), AtFlags::SYMLINK_NOFOLLOW)
    }

    fn is(self, kind: FileType) -> Result<bool, Fault> {
        let stat = self.stat().map_err(Fault::os("cannot look at what is there"))?;
        Ok(FileType::from_raw_mode(stat.st_mode) == kind)
    }
}
