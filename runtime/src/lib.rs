//! A container runtime that stands its containers on a userspace union filesystem.
//!
//! There is no daemon: each command does its work and ends, and what a container is stands in the kernel and in
//! one small file. The library never prints; the program in `main.rs` and `cli` does.

pub mod image;
pub mod paths;
pub mod template;

pub use paths::Paths;
