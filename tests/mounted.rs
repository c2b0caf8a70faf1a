//! The program and its mount, as users and kernels meet them. Root and /dev/fuse are required.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "mounted_attributes.rs"]
mod attributes;
#[path = "mounted_branches.rs"]
mod branches;
#[path = "mounted_cli.rs"]
mod cli;
#[path = "mounted_copyup.rs"]
mod copyup;
#[path = "mounted_data.rs"]
mod data;
mod differential;
#[path = "mounted_directories.rs"]
mod directories;
#[path = "mounted_disks.rs"]
mod disks;
#[path = "mounted_faults.rs"]
mod faults;
#[path = "mounted_follow.rs"]
mod follow;
#[path = "mounted_formats.rs"]
mod formats;
#[path = "mounted_identity.rs"]
mod identity;
#[path = "mounted_locks.rs"]
mod locks;
#[path = "mounted_metacopy.rs"]
mod metacopy;
#[path = "mounted_metacopy_faults.rs"]
mod metacopy_faults;
#[path = "mounted_metadata.rs"]
mod metadata;
#[allow(dead_code, reason = "the core's tests use the rest of it")]
mod model;
#[path = "mounted_names.rs"]
mod names;
#[path = "mounted_onefile.rs"]
mod onefile;
#[path = "mounted_suites.rs"]
mod suites;
mod support;
#[path = "mounted_union.rs"]
mod union;
