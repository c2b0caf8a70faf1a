//! A container runtime that stands its containers on a userspace union filesystem.
//!
//! There is no daemon: each command does its work and ends, and what a container is stands in the kernel and in
//! one small file. The library never prints; the program in `main.rs` and `cli` does.
//!
//! The life of a container: [`request`] is what was typed, [`spec`] is that with every rule checked;
//! [`container::create`] makes the layers on disk, [`container::start`] a monitor that mounts them, makes the cgroups
//! and the first process; `init` is what that process does until execve. Every mechanism is a module of its own that takes
//! plain values.

pub mod cgroup;
pub mod clock;
pub mod console;
pub mod container;
pub mod error;
pub mod image;
pub mod log;
pub mod paths;
pub mod protect;
pub mod request;
pub mod rootfs;
pub mod rootless;
pub mod security;
pub mod spec;
pub mod state;
pub mod template;
pub mod volumes;

mod attend;
mod command;
mod init;
mod mounts;
mod namespaces;
mod process;
mod reaper;
mod relay;
mod streams;
mod sys;
mod tree;
mod user;

pub use container::Container;
pub use error::{Error, Result};
pub use paths::Paths;
