//! The union's rules without a mount: tables, and random operations against the model.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should panic")]

mod model;
mod support;
mod union_identity;
mod union_metacopy;
mod union_model;
mod union_regressions;
mod union_sequence;
mod union_tables;
mod union_writable;
