//! To come.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]
