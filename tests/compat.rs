//! Other people's command lines and programs, with ours in the place of the one they know.
//!
//! Root, /dev/fuse, and podman, buildah and containerd as Debian has them (`scripts/setup.sh`) are required.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "compat_buildah.rs"]
mod buildah;
#[path = "compat_containerd.rs"]
mod containerd;
#[path = "compat_engine.rs"]
mod engine;
#[path = "compat_helper.rs"]
mod helper;
#[allow(dead_code, reason = "the core's tests use it")]
mod model;
#[path = "compat_overlay.rs"]
mod overlay;
#[path = "compat_owners.rs"]
mod owners;
#[path = "compat_package.rs"]
mod package;
#[path = "compat_podman.rs"]
mod podman;
#[path = "compat_refusals.rs"]
mod refusals;
#[path = "compat_scene.rs"]
mod scene;
mod support;
