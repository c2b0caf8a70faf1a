//! The protocol on a double of the core: by bytes, by random bytes, and on a real mount.

mod double;
mod mounted;
mod passed;
mod passthrough;
mod protocol;

use std::time::{Duration, Instant};

use crate::mount::Unmounter;

/// Unmounts; for a moment a process that another test has just started may hold what this one had open.
fn unmount(unmounter: &Unmounter) {
    let end = Instant::now() + Duration::from_secs(5);
    while let Err(error) = unmounter.unmount() {
        if Instant::now() > end || std::thread::panicking() {
            unmounter.detach().unwrap();
            assert!(std::thread::panicking(), "{error}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
