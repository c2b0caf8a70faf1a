//! Acting as another user, as setfsuid and friends allow a thread to.

use rustix::fs::{Gid, Mode, Uid};
use rustix::process::umask;

/// Runs `work` on a thread that has this user, this group, no other groups and no capabilities.
///
/// Panics in it are panics here.
pub(crate) fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            // Groups first: they cannot be changed any more once the user is not root.
            rustix::thread::set_thread_groups(&[]).expect("setgroups");
            rustix::thread::set_thread_res_gid(gid, gid, gid).expect("setresgid");
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("setresuid");
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Sets the umask of the whole test process until the value goes.
pub(crate) struct Umask(Mode);

impl Umask {
    /// Sets it.
    pub(crate) fn set(mask: u32) -> Self {
        Self(umask(Mode::from_raw_mode(mask)))
    }
}

impl Drop for Umask {
    fn drop(&mut self) {
        umask(self.0);
    }
}
