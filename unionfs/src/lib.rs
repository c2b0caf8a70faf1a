//! A union filesystem in userspace.
//!
//! Many directories (branches) appear as one: the first branch that has a name decides what it is, a whiteout
//! hides what lies below, and the first change of an object in a read-only branch copies it up to a writable
//! one. Lower branches are never written.
//!
//! The layers, each knowing only those below it: [`mount`] and [`fuse`] (the kernel's side) → [`union`] (the
//! rules, as a library that returns values and never sees FUSE) → [`branch`] (one directory tree, every act
//! relative to a descriptor) → rustix.

pub mod branch;
mod creds;
mod devices;
mod dir;
pub mod error;
mod fdcache;
pub mod fuse;
mod ids;
mod inode;
pub mod live;
mod marks;
pub mod mount;
mod open_files;
mod override_stat;
mod place;
pub mod policy;
mod probe;
mod sys;
mod tally;
pub mod tools;
pub mod types;
pub mod union;
pub mod users;
mod work;

pub use branch::{BranchSpec, Perm, SpecError};
pub use error::{Errno, Error, Result};
pub use ids::{IdMap, IdMapError, IdRule, Ids};
pub use marks::Format;
pub use open_files::raise_open_files;
pub use override_stat::OverrideStat;
pub use sys::inherit_only_stdio;
pub use tally::CacheStats;
pub use types::*;
pub use union::{Options, Union};
