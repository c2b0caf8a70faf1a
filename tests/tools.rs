//! The offline tools on uppers that real mounts wrote. Root, /dev/fuse and kernel overlay are required.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "tools_adopt.rs"]
mod adopt;
#[path = "tools_check.rs"]
mod check;
#[path = "tools_convert.rs"]
mod convert;
#[path = "tools_diff.rs"]
mod diff;
#[path = "tools_export.rs"]
mod export;
#[allow(dead_code, reason = "the core's tests use it")]
mod model;
#[path = "tools_random.rs"]
mod random;
#[path = "tools_scene.rs"]
mod scene;
mod support;
#[path = "tools_where.rs"]
mod whereis;
