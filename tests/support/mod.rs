//! What the union's tests share: trees on disk, a model of what they should be, and the things under test.
#![allow(dead_code, reason = "each test program uses its own part of this")]

pub(crate) mod branches;
pub(crate) mod dir;
pub(crate) mod layer;
pub(crate) mod mount;
pub(crate) mod ops;
pub(crate) mod search;
pub(crate) mod sys;
pub(crate) mod tree;
pub(crate) mod unmounted;
pub(crate) mod user;
