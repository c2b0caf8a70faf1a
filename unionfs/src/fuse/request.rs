//! Requests understood: from a [`Message`] to an [`Op`] that borrows its names and data.
//!
//! Whatever the bytes are, parsing ends in a value or an errno, never in a panic: a nested server, a fuzzer or a
//! newer kernel may send anything.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::message::{Message, Rest};
use super::op::{Forgets, Op, Open};
use super::wire::{self, Opcode, flag};
use crate::error::{Errno, Error, Result};
use crate::types::{FileKind, Ino, NewNode, RenameFlags, Seek, SetAttr, Time, TimeChange};

/// What was agreed at INIT and changes how requests are laid out.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Dialect {
    /// SETXATTR carries the extended structure (`FUSE_SETXATTR_EXT`).
    pub(crate) setxattr_ext: bool,
}

impl<'a> Op<'a> {
    /// Understands one message.
    ///
    /// # Errors
    ///
    /// `EINVAL` for what is shorter than its kind requires or names no node, and what [`crate::Name`] refuses.
    pub(crate) fn parse(message: &Message<'a>, dialect: Dialect) -> Result<Self> {
        Ok(match message.opcode() {
            Opcode::LOOKUP | Opcode::UNLINK | Opcode::RMDIR => named(message)?,
            Opcode::SYMLINK | Opcode::MKNOD | Opcode::MKDIR | Opcode::CREATE | Opcode::TMPFILE => {
                making(message)?
            }
            Opcode::RENAME | Opcode::RENAME2 | Opcode::LINK => moving(message)?,
            Opcode::FORGET | Opcode::BATCH_FORGET => forgetting(message)?,
            Opcode::GETATTR => Op::Getattr { node: node(message)? },
            Opcode::SETATTR => setattr(message)?,
            Opcode::READLINK => Op::Readlink { node: node(message)? },
            Opcode::OPEN | Opcode::RELEASE => opening(message)?,
            Opcode::OPENDIR => Op::Opendir,
            Opcode::RELEASEDIR => Op::Releasedir,
            Opcode::READ | Opcode::READDIR | Opcode::READDIRPLUS => reading(message)?,
            Opcode::WRITE => writing(message)?,
            Opcode::STATFS => Op::Statfs,
            Opcode::FSYNC | Opcode::FSYNCDIR => syncing(message)?,
            Opcode::SYNCFS => Op::Syncfs,
            Opcode::GETXATTR | Opcode::LISTXATTR => reading_xattr(message)?,
            Opcode::SETXATTR | Opcode::REMOVEXATTR => changing_xattr(message, dialect)?,
            Opcode::FALLOCATE | Opcode::LSEEK => ranging(message)?,
            Opcode::COPY_FILE_RANGE | Opcode::COPY_FILE_RANGE_64 => copying(message)?,
            Opcode::IOCTL => ioctl(message)?,
            Opcode::DESTROY => Op::Destroy,
            _ => Op::Refused,
        })
    }
}

/// A node number that cannot be.
const NO_NODE: Error = Error::rule("request", Errno::INVAL);

fn node(message: &Message<'_>) -> Result<Ino> {
    Ino::new(message.header.nodeid).ok_or(NO_NODE)
}

fn new_node(message: &Message<'_>, mode: u32, umask: u32) -> NewNode {
    NewNode { mode: mode & 0o7777, umask: umask & 0o777, uid: message.header.uid, gid: message.header.gid }
}

fn named<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (dir, name) = (node(message)?, message.rest().name()?);
    Ok(match message.opcode() {
        Opcode::UNLINK => Op::Unlink { dir, name },
        Opcode::RMDIR => Op::Rmdir { dir, name },
        _ => Op::Lookup { dir, name },
    })
}

fn making<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let dir = node(message)?;
    Ok(match message.opcode() {
        Opcode::SYMLINK => {
            let mut rest = message.rest();
            let name = rest.name()?;
            let target = OsStr::from_bytes(rest.text()?);
            Op::Symlink { dir, name, target, new: new_node(message, 0o777, 0) }
        }
        Opcode::MKNOD => {
            let (arg, mut rest): (wire::MknodIn, _) = message.fixed()?;
            let new = new_node(message, arg.mode, arg.umask);
            Op::Mknod { dir, name: rest.name()?, kind: FileKind::from_mode(arg.mode), rdev: arg.rdev, new }
        }
        Opcode::MKDIR => {
            let (arg, mut rest): (wire::MkdirIn, _) = message.fixed()?;
            Op::Mkdir { dir, name: rest.name()?, new: new_node(message, arg.mode, arg.umask) }
        }
        opcode => {
            let (arg, mut rest): (wire::CreateIn, _) = message.fixed()?;
            let new = new_node(message, arg.mode, arg.umask);
            let open = open(arg.flags, arg.open_flags);
            if opcode == Opcode::TMPFILE {
                Op::Tmpfile { dir, new, open }
            } else {
                Op::Create { dir, name: rest.name()?, new, open }
            }
        }
    })
}

fn moving<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let dir = node(message)?;
    let (to_dir, flags, mut rest) = match message.opcode() {
        Opcode::LINK => {
            let (arg, mut rest): (wire::LinkIn, Rest<'a>) = message.fixed()?;
            let node = Ino::new(arg.oldnodeid).ok_or(NO_NODE)?;
            return Ok(Op::Link { node, dir, name: rest.name()? });
        }
        Opcode::RENAME => {
            let (arg, rest): (wire::RenameIn, _) = message.fixed()?;
            (arg.newdir, 0, rest)
        }
        _ => {
            let (arg, rest): (wire::Rename2In, _) = message.fixed()?;
            (arg.newdir, arg.flags, rest)
        }
    };
    let flags = RenameFlags::from_bits(flags).ok_or(Error::rule("rename flags", Errno::INVAL))?;
    let to_dir = Ino::new(to_dir).ok_or(NO_NODE)?;
    Ok(Op::Rename { dir, name: rest.name()?, to_dir, to: rest.name()?, flags })
}

fn forgetting<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    if message.opcode() == Opcode::FORGET {
        let (arg, _): (wire::ForgetIn, _) = message.fixed()?;
        return Ok(Op::Forget { node: node(message)?, count: arg.nlookup });
    }
    let (arg, rest): (wire::BatchForgetIn, _) = message.fixed()?;
    Ok(Op::BatchForget(Forgets::new(arg.count, rest)))
}

fn setattr<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, _): (wire::SetattrIn, _) = message.fixed()?;
    let has = |bit: u32| arg.valid & bit != 0;
    let time = |set, now, sec: u64, nsec| {
        has(set).then(|| {
            if has(now) { TimeChange::Now } else { TimeChange::To(Time { sec: sec.cast_signed(), nsec }) }
        })
    };
    let change = SetAttr {
        mode: has(flag::FATTR_MODE).then_some(arg.mode & 0o7777),
        uid: has(flag::FATTR_UID).then_some(arg.uid),
        gid: has(flag::FATTR_GID).then_some(arg.gid),
        size: has(flag::FATTR_SIZE).then_some(arg.size),
        atime: time(flag::FATTR_ATIME, flag::FATTR_ATIME_NOW, arg.atime, arg.atimensec),
        mtime: time(flag::FATTR_MTIME, flag::FATTR_MTIME_NOW, arg.mtime, arg.mtimensec),
        kill_suidgid: has(flag::FATTR_KILL_SUIDGID),
    };
    Ok(Op::Setattr { node: node(message)?, change })
}

fn open(flags: u32, open_flags: u32) -> Open {
    Open { flags: flags.cast_signed(), kill_suidgid: open_flags & flag::OPEN_KILL_SUIDGID != 0 }
}

fn opening<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let node = node(message)?;
    if message.opcode() == Opcode::RELEASE {
        let (arg, _): (wire::ReleaseIn, _) = message.fixed()?;
        return Ok(Op::Release { node, handle: arg.fh });
    }
    let (arg, _): (wire::OpenIn, _) = message.fixed()?;
    Ok(Op::Open { node, open: open(arg.flags, arg.open_flags) })
}

fn reading<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, _): (wire::ReadIn, _) = message.fixed()?;
    let node = node(message)?;
    Ok(match message.opcode() {
        Opcode::READ => Op::Read { node, offset: arg.offset, size: arg.size },
        opcode => {
            let plus = opcode == Opcode::READDIRPLUS;
            Op::Readdir { dir: node, after: arg.offset, size: arg.size, plus }
        }
    })
}

fn writing<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, mut rest): (wire::WriteIn, _) = message.fixed()?;
    Ok(Op::Write {
        node: node(message)?,
        offset: arg.offset,
        data: rest.data(arg.size)?,
        kill_suidgid: arg.write_flags & flag::WRITE_KILL_SUIDGID != 0,
    })
}

fn syncing<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, _): (wire::FsyncIn, _) = message.fixed()?;
    let node = node(message)?;
    Ok(if message.opcode() == Opcode::FSYNC {
        Op::Fsync { node, datasync: arg.fsync_flags & flag::FSYNC_FDATASYNC != 0 }
    } else {
        Op::Fsyncdir { node }
    })
}

fn reading_xattr<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, mut rest): (wire::GetxattrIn, _) = message.fixed()?;
    let node = node(message)?;
    Ok(if message.opcode() == Opcode::LISTXATTR {
        Op::Listxattr { node, size: arg.size }
    } else {
        Op::Getxattr { node, name: OsStr::from_bytes(rest.text()?), size: arg.size }
    })
}

fn changing_xattr<'a>(message: &Message<'a>, dialect: Dialect) -> Result<Op<'a>> {
    let node = node(message)?;
    if message.opcode() == Opcode::REMOVEXATTR {
        return Ok(Op::Removexattr { node, name: OsStr::from_bytes(message.rest().text()?) });
    }
    let (arg, extended, mut rest) = setxattr_head(message, dialect)?;
    let name = OsStr::from_bytes(rest.text()?);
    let kill_sgid = extended.setxattr_flags & flag::SETXATTR_ACL_KILL_SGID != 0;
    Ok(Op::Setxattr { node, name, value: rest.data(arg.size)?, flags: arg.flags, kill_sgid })
}

fn setxattr_head<'a>(
    message: &Message<'a>,
    dialect: Dialect,
) -> Result<(wire::SetxattrIn, wire::SetxattrExt, Rest<'a>)> {
    if dialect.setxattr_ext {
        let (both, rest): (wire::SetxattrLong, _) = message.fixed()?;
        Ok((both.head, both.ext, rest))
    } else {
        let (head, rest) = message.fixed()?;
        Ok((head, wire::SetxattrExt::default(), rest))
    }
}

fn ranging<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let node = node(message)?;
    if message.opcode() == Opcode::FALLOCATE {
        let (arg, _): (wire::FallocateIn, _) = message.fixed()?;
        return Ok(Op::Fallocate { node, mode: arg.mode, offset: arg.offset, len: arg.length });
    }
    let (arg, _): (wire::LseekIn, _) = message.fixed()?;
    let whence = match arg.whence.cast_signed() {
        libc::SEEK_DATA => Seek::Data,
        libc::SEEK_HOLE => Seek::Hole,
        _ => return Err(Error::rule("lseek whence", Errno::INVAL)),
    };
    Ok(Op::Lseek { node, offset: arg.offset, whence })
}

fn copying<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, _): (wire::CopyFileRangeIn, _) = message.fixed()?;
    if arg.flags != 0 {
        return Err(Error::rule("copy_file_range flags", Errno::INVAL));
    }
    Ok(Op::CopyFileRange {
        from: node(message)?,
        from_offset: arg.off_in,
        to: Ino::new(arg.nodeid_out).ok_or(NO_NODE)?,
        to_offset: arg.off_out,
        len: arg.len,
        wide: message.opcode() == Opcode::COPY_FILE_RANGE_64,
    })
}

fn ioctl<'a>(message: &Message<'a>) -> Result<Op<'a>> {
    let (arg, mut rest): (wire::IoctlIn, _) = message.fixed()?;
    if arg.flags & flag::IOCTL_UNRESTRICTED != 0 {
        return Err(Error::rule("ioctl", Errno::NOTTY)); // CUSE only; a filesystem's are self-describing
    }
    Ok(Op::Ioctl {
        node: node(message)?,
        cmd: arg.cmd,
        data: rest.data(arg.in_size)?,
        out_size: arg.out_size,
    })
}
