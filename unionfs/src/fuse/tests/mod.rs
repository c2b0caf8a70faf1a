//! The protocol on a double of the core: by bytes, by random bytes, and on a real mount.

mod double;
mod mounted;
mod passthrough;
mod protocol;
