//! A union filesystem in userspace.
//!
//! Many directories (branches) appear as one: the first branch that has a name decides what it is, a whiteout
//! hides what lies below, and the first change of an object in a read-only branch copies it up to a writable
//! one. Lower branches are never written.
//!
//! The layers, each knowing only those below it: [`mount`] and [`fuse`] (the kernel's side) → [`union`] (the
//! rules, as a library that returns values and never sees FUSE) → [`branch`] (one directory tree, every act
//! relative to a descriptor) → rustix.

pub mod error;
pub mod types;
pub mod union;

pub use error::{Errno, Error, Result};
pub use types::*;
pub use union::Union;
