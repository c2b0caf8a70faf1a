//! One request in, one reply out: the translation between the protocol and the core.
//!
//! Every operation is three beats: take the arguments, call the core, write what it returned. What needs a fourth
//! belongs to the core. The policy on top of that is one: *answer once*. Only this server changes the branches, so
//! names (also absent ones), attributes, symlinks and listings are given for good, and what the kernel need not ask
//! is refused with `ENOSYS`, which it remembers for the life of the mount:
//!
//! - OPENDIR: listings have stable offsets, so no state belongs to an open directory (kernel ≥ 5.1);
//! - OPEN, in the stateless mode: data goes by node (kernel ≥ 3.16), and CREATE's handle is never given back;
//! - FLUSH, ACCESS (permissions are the kernel's to check), STATX (it adds only the time of birth), POLL, locks
//!   (the kernel's own suffice), INTERRUPT (a request once read is always answered), BMAP.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use tracing::{debug, error, trace, warn};

use super::api::Core;
use super::control::{COMMAND, Control};
use super::message::Message;
use super::op::Op;
use super::opens::{Opens, WALK_AGAIN};
use super::reply::{Opened, Reply, Timeout};
use super::request::Dialect;
use super::wire::Opcode;
use crate::error::{Errno, Error, Result};
use crate::types::Ino;

/// What a mount promises the kernel, fixed when it is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    /// How long a name, present or absent, is valid.
    pub(crate) name_for: Timeout,
    /// How long attributes are valid.
    pub(crate) attr_for: Timeout,
    /// Whether each listing is asked for anew: the time of a merged directory does not tell of its lower layers.
    pub(crate) relist: bool,
    /// Whether fsync(2) and syncfs(2) reach the branches; else the kernel is told not to ask.
    pub(crate) durable: bool,
    /// Whether extended attributes are served; else the kernel is told not to ask.
    pub(crate) xattrs: bool,
    /// How requests are laid out.
    pub(crate) dialect: Dialect,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Success, with this many bytes of payload.
    Payload(usize),
    /// Failure, with this errno.
    Refused(Errno),
    /// The kernel expects no reply.
    Silent,
}

/// The core, served by a policy.
#[derive(Debug)]
pub(crate) struct Service<C> {
    pub(super) core: Arc<C>,
    pub(super) policy: Policy,
    /// Where OPEN is answered; else it is refused for good, and open(2) and close(2) send no message.
    pub(super) opens: Option<Opens>,
    /// What answers the control attributes of the root.
    control: Option<Control>,
}

impl<C: Core> Service<C> {
    /// Serves `core` by `policy`, and OPEN if there are `opens`.
    pub(crate) const fn new(core: Arc<C>, policy: Policy, opens: Option<Opens>) -> Self {
        Self { core, policy, opens, control: None }
    }

    /// What is served.
    pub(crate) const fn core(&self) -> &Arc<C> {
        &self.core
    }

    /// Answers the control attributes of the root by `control`.
    pub(crate) fn controlled(self, control: Control) -> Self {
        Self { control: Some(control), ..self }
    }

    /// Answers a request for a control attribute; `None` if it is none.
    fn control(&self, op: &Op<'_>, uid: u32, room: &mut [u8]) -> Option<Result<usize>> {
        let control = self.control.as_ref()?;
        match op {
            Op::Getxattr { node: Ino::ROOT, name, size } => {
                let value = control.get(&*self.core, name.to_str()?)?;
                Some(Reply::into(room).xattr(&value, *size))
            }
            Op::Ioctl { node: Ino::ROOT, cmd: COMMAND, data, .. } => {
                let done = control.command(&*self.core, uid, data);
                Some(done.and_then(|()| Reply::into(room).ioctl(&[])))
            }
            _ => None,
        }
    }

    /// Answers one request, with the payload in `room`.
    ///
    /// A panic costs the caller an `EIO` and nobody else anything: the server goes on.
    pub(crate) fn serve(&self, message: &Message<'_>, room: &mut [u8]) -> Answer {
        let opcode = message.opcode();
        let answer = catch_unwind(AssertUnwindSafe(|| self.answer(message, room)));
        let answer = answer.unwrap_or_else(|_| {
            error!(op = opcode.name(), node = message.header.nodeid, "panic while serving; answered EIO");
            if silent(opcode) { Answer::Silent } else { Answer::Refused(Errno::IO) }
        });
        trace!(op = opcode.name(), node = message.header.nodeid, pid = message.header.pid, ?answer);
        answer
    }

    fn answer(&self, message: &Message<'_>, room: &mut [u8]) -> Answer {
        let op = match Op::parse(message, self.policy.dialect) {
            Ok(op) => op,
            Err(refused) if silent(message.opcode()) => {
                warn!(op = message.opcode().name(), %refused, "malformed request");
                return Answer::Silent;
            }
            Err(refused) => return refuse(message.opcode(), refused),
        };
        if self.never_asked(&op) {
            return Answer::Refused(Errno::NOSYS);
        }
        match op {
            Op::Forget { node, count } => self.forget(node, count),
            Op::BatchForget(nodes) => nodes.for_each(|(node, count)| self.forget(node, count)),
            op => {
                let op = match &self.opens {
                    Some(opens) => op.of_files(|number| opens.aliases().file(number)),
                    None => op,
                };
                let controlled = self.control(&op, message.header.uid, room);
                return match controlled.unwrap_or_else(|| self.act(op, Reply::into(room))) {
                    Ok(bytes) => Answer::Payload(bytes),
                    Err(refused) => refuse(message.opcode(), refused),
                };
            }
        }
        Answer::Silent
    }

    /// Whether the kernel is to be told never to ask for this again.
    const fn never_asked(&self, op: &Op<'_>) -> bool {
        match op {
            Op::Refused => true,
            Op::Opendir => !self.policy.relist,
            Op::Open { .. } => self.opens.is_none(),
            Op::Fsync { .. } | Op::Fsyncdir { .. } | Op::Syncfs => !self.policy.durable,
            Op::Getxattr { .. } | Op::Listxattr { .. } | Op::Setxattr { .. } | Op::Removexattr { .. } => {
                !self.policy.xattrs
            }
            _ => false,
        }
    }

    fn act(&self, op: Op<'_>, out: Reply<'_>) -> Result<usize> {
        let core = &*self.core;
        match op {
            Op::Lookup { dir, name } => self.lookup(dir, name, out),
            Op::Getattr { node } => out.attr(&core.getattr(node)?, self.attr_for(node)),
            Op::Setattr { node, change } => out.attr(&core.setattr(node, &change)?, self.attr_for(node)),
            Op::Readlink { node } => out.bytes(core.readlink(node)?.as_encoded_bytes()),
            Op::Symlink { dir, name, target, new } => self.entry(core.symlink(dir, name, target, &new)?, out),
            Op::Mknod { dir, name, kind, rdev, new } => {
                self.entry(core.mknod(dir, name, kind, rdev, &new)?, out)
            }
            Op::Mkdir { dir, name, new } => self.entry(core.mkdir(dir, name, &new)?, out),
            Op::Create { dir, name, new, open } => self.create(dir, name, &new, open, out),
            Op::Tmpfile { dir, new, open } => self.created(core.tmpfile(dir, &new)?, open, out),
            Op::Link { node, dir, name } => self.entry(core.link(node, dir, name)?, out),
            Op::Unlink { dir, name } => core.unlink(dir, name).map(nothing),
            Op::Rmdir { dir, name } => core.rmdir(dir, name).map(nothing),
            Op::Rename { dir, name, to_dir, to, flags } => {
                core.rename(dir, name, to_dir, to, flags).map(nothing)
            }
            Op::Open { node, open } => out.opened(self.open(node, open)?),
            Op::Release { node, handle } => Ok(self.release(node, handle)),
            Op::Releasedir | Op::Destroy => Ok(0),
            Op::Readdir { dir, after, size, plus } => self.readdir(dir, after, size, plus, out),
            Op::Read { node, offset, size } => core.read(node, offset, out.room(size)),
            Op::Write { node, offset, data, kill_suidgid } => {
                out.written(core.write(node, offset, data, kill_suidgid)?)
            }
            Op::Statfs => out.statfs(&core.statfs()?),
            Op::Fsync { node, datasync } => core.fsync(node, datasync).map(nothing),
            Op::Fsyncdir { node } => core.fsync_dir(node).map(nothing),
            Op::Syncfs => core.syncfs().map(nothing),
            Op::Getxattr { node, name, size } => out.xattr(&core.getxattr(node, name)?, size),
            Op::Listxattr { node, size } => out.xattr(&core.listxattr(node)?, size),
            Op::Setxattr { node, name, value, flags, kill_sgid } => {
                self.setxattr(node, name, value, flags, kill_sgid)
            }
            Op::Removexattr { node, name } => core.removexattr(node, name).map(nothing),
            Op::Fallocate { node, mode, offset, len } => core.fallocate(node, mode, offset, len).map(nothing),
            Op::Lseek { node, offset, whence } => out.offset(self.lseek(node, offset, whence)?),
            Op::CopyFileRange { from, from_offset, to, to_offset, len, wide } => {
                self.copy_file_range((from, from_offset), (to, to_offset), len, wide, out)
            }
            Op::Ioctl { node, cmd, data, out_size } => self.ioctl(node, cmd, data, out_size, out),
            // Without flags: the listing is not kept.
            Op::Opendir => out.opened(Opened::default()),
            Op::Refused | Op::Forget { .. } | Op::BatchForget(_) => {
                Err(Error::rule("dispatch", Errno::IO)) // answered before
            }
        }
    }
}

/// The payload of an operation that only succeeds.
#[allow(clippy::trivially_copy_pass_by_ref)]
pub(super) const fn nothing((): ()) -> usize {
    0
}

const fn silent(opcode: Opcode) -> bool {
    matches!(opcode, Opcode::FORGET | Opcode::BATCH_FORGET)
}

/// Turns a failure of the core into an answer, and logs it once, by how surprising it is.
///
/// An `ENOSYS` of a branch must not be seen as ours: the kernel would never ask again, for any file of the mount.
fn refuse(opcode: Opcode, refused: Error) -> Answer {
    let errno = match refused.errno {
        Errno::NOSYS => Errno::OPNOTSUPP,
        errno => errno,
    };
    match errno {
        Errno::STALE if refused.op == WALK_AGAIN.op => debug!(op = opcode.name(), "to be looked up again"),
        Errno::IO | Errno::STALE | Errno::MFILE | Errno::NFILE | Errno::NOMEM => {
            warn!(op = opcode.name(), %refused, "refused");
        }
        _ => debug!(op = opcode.name(), %refused, "refused"),
    }
    Answer::Refused(errno)
}
