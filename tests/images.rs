//! Images: nasty archives against canaries, loading and saving against real clients, the store under concurrency.
//!
//! Needs root (owners, devices) and, for the clients, skopeo and umoci. Each says so by failing.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

#[path = "support/archives.rs"]
mod archives;
#[path = "images/attributes.rs"]
mod attributes;
#[path = "images/damage.rs"]
mod damage;
#[path = "images/load.rs"]
mod load;
#[path = "images/paths.rs"]
mod paths;
#[path = "images/random.rs"]
mod random;
#[path = "images/save.rs"]
mod save;
#[path = "images/store.rs"]
mod store;
#[path = "support/images.rs"]
mod support;
