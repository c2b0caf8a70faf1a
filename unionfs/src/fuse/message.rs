//! One request as it came in, before it is understood: a head, a fixed structure and what follows it.
//!
//! The two transports bring the same three parts in two shapes. A read of `/dev/fuse` gives them joined, without
//! gaps; a ring entry of FUSE over io_uring gives the head and the fixed structure in slots of their own and the
//! rest in the payload (`fuse_uring_args_to_ring` in the kernel's `dev_uring.c`; requests without a structure
//! leave the slot unused). [`Message`] hides the difference, so that there is one parser.

use zerocopy::{FromBytes, Immutable, KnownLayout};

use super::wire::{InHeader, Opcode};
use crate::error::{Errno, Error, Result};
use crate::types::Name;

/// A request in its three parts, borrowed from the transport's buffer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    pub(crate) header: InHeader,
    body: Body<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Body<'a> {
    Joined(&'a [u8]),
    Split { fixed: &'a [u8], rest: &'a [u8] },
}

impl<'a> Message<'a> {
    /// The request in `bytes`, which are what one read of `/dev/fuse` returned.
    ///
    /// `None` if there is not even a head, or if its length is not that of `bytes`; nobody can be told then.
    pub(crate) fn joined(bytes: &'a [u8]) -> Option<Self> {
        let (header, body) = InHeader::read_from_prefix(bytes).ok()?;
        let told = usize::try_from(header.len).ok()?;
        (told == bytes.len()).then_some(Self { header, body: Body::Joined(body) })
    }

    /// The request that a ring entry holds: its head, the slot for the structure, and the payload.
    pub(crate) const fn split(header: InHeader, fixed: &'a [u8], rest: &'a [u8]) -> Self {
        Self { header, body: Body::Split { fixed, rest } }
    }

    /// What the request asks for.
    pub(crate) const fn opcode(&self) -> Opcode {
        Opcode(self.header.opcode)
    }

    /// The fixed structure of the request, and what follows it.
    pub(crate) fn fixed<T: FromBytes + KnownLayout + Immutable>(&self) -> Result<(T, Rest<'a>)> {
        let (fixed, rest) = match self.body {
            Body::Joined(bytes) => T::read_from_prefix(bytes).map_err(|_| TRUNCATED)?,
            Body::Split { fixed, rest } => (T::read_from_prefix(fixed).map_err(|_| TRUNCATED)?.0, rest),
        };
        Ok((fixed, Rest(rest)))
    }

    /// What the request holds if it has no fixed structure.
    pub(crate) const fn rest(&self) -> Rest<'a> {
        match self.body {
            Body::Joined(rest) | Body::Split { rest, .. } => Rest(rest),
        }
    }
}

/// The request is shorter than its kind requires.
const TRUNCATED: Error = Error::rule("request", Errno::INVAL);

/// What follows the fixed structure: names ended by NUL, then data; taken from the front.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Bytes up to a NUL, which is dropped.
    pub(crate) fn text(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(TRUNCATED)?;
        let (text, after) = self.0.split_at(end);
        self.0 = &after[1..];
        Ok(text)
    }

    /// A component of a path, ended by NUL.
    pub(crate) fn name(&mut self) -> Result<Name<'a>> {
        Name::from_bytes(self.text()?)
    }

    /// The next `size` bytes.
    pub(crate) fn data(&mut self, size: u32) -> Result<&'a [u8]> {
        let size = usize::try_from(size).map_err(|_| TRUNCATED)?;
        let (data, after) = self.0.split_at_checked(size).ok_or(TRUNCATED)?;
        self.0 = after;
        Ok(data)
    }

    /// Another structure.
    pub(crate) fn fixed<T: FromBytes + KnownLayout + Immutable>(&mut self) -> Result<T> {
        let (fixed, after) = T::read_from_prefix(self.0).map_err(|_| TRUNCATED)?;
        self.0 = after;
        Ok(fixed)
    }
}
