//! Other people's command lines and programs, with ours in the place of the one they know.
//!
//! | what callers rely on | where it is tested |
//! |---|---|
//! | fuse-overlayfs: arguments, escapes, links as layers, many layers, read-only, defaults, `/proc/mounts`, when it returns, what it releases, signals, `-V`, `-f`, every option | `overlay`; lists as text: `unionfs/src/cli/` |
//! | id maps, squashing, `xattr_permissions` with devices and `security.*` | `owners` |
//! | Podman: run, exec, diff, cp, commit, save, load, volumes, `--uidmap`, `keep-id`, force_mask, reset; as root and as a user | `podman` |
//! | Buildah: RUN steps, layers as kernel overlay makes them, working containers; as root and as a user | `buildah` |
//! | containerd: unpack and run; its `mount.fuse3` command line and its probe | `containerd`, `helper` |
//! | mount(8), fstab(5), remount; words of kernel overlay, aufs and unionfs-fuse | `helper`; whiteouts of unionfs-fuse: `tools_adopt.rs` |
//! | bad command lines | `refusals` |
//! | what is installed, and that it goes away again | `package` |
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
