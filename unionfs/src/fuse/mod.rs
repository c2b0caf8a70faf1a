//! The kernel's side of the union: the FUSE protocol, spoken without a library's request loop.
//!
//! One codec (`wire`, `message`, `op`, `request`, `reply`) and one function from a request to a reply
//! (`serve`) stand behind every way a request can come in (`classic`: reads of `/dev/fuse`; `uring`: io_uring). The crate fuser is
//! used for what it is the right part for: fusermount3, the INIT handshake and capabilities (`negotiate`), and
//! notifications. Its request loop is not used, because
//!
//! - it blocks in read(2) after each reply, and a wake-up across CPUs is most of what a message costs;
//! - it does not pass on what a union needs: the kill flags of OPEN, SETATTR and SETXATTR, TMPFILE, STATX, SYNCFS,
//!   a READDIRPLUS entry without attributes, lifetimes of names and attributes told apart;
//! - it allocates for each directory reply and ties a node's number to its `st_ino`;
//! - it knows only `/dev/fuse`.

mod aliases;
mod api;
mod caches;
mod channel;
mod classic;
pub mod control;
mod follow;
mod message;
mod negotiate;
mod op;
mod opens;
mod reply;
mod request;
mod seats;
mod serve;
mod serve_ops;
mod spin;
mod stats;
#[cfg(test)]
mod tests;
mod uring;
mod wire;

pub use api::Core;
pub(crate) use caches::Caches;
pub(crate) use classic::{Reading, run};
pub use negotiate::{Feature, Features};
pub(crate) use negotiate::{MAX_WRITE, Negotiator, Wish};
pub(crate) use opens::{Lower, Opens};
pub(crate) use reply::Timeout;
pub(crate) use request::Dialect;
pub(crate) use serve::{Policy, Service};
pub use stats::{BUCKETS, OpStats, ReadStats, Stats};
pub(crate) use uring::Rings;
pub use wire::Opcode;
