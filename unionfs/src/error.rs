//! The core's one error: which operation, on which branch, and the errno the caller is told.

use crate::types::BranchIndex;
pub use rustix::io::Errno;

/// An operation that failed: which one, where, and the errno the caller is told.
///
/// It is `Copy` and owns nothing, for `ENOENT` is the commonest answer of a union; the path lives in
/// the span of the request, not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{op}: {errno}{}", self.place())]
pub struct Error {
    /// The system call or rule that refused.
    pub op: &'static str,
    /// The branch it was tried on, if it was tried on one.
    pub branch: Option<BranchIndex>,
    /// What the caller is told.
    pub errno: Errno,
}

/// What every act of the core returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// A rule of the union itself said no.
    pub const fn rule(op: &'static str, errno: Errno) -> Self {
        Self { op, branch: None, errno }
    }

    fn place(&self) -> String {
        self.branch.map(|branch| format!(" (branch {})", branch.get())).unwrap_or_default()
    }
}

/// Adds where a system call failed, at the place where that is known.
pub trait At<T> {
    /// Names the system call and the branch.
    ///
    /// # Errors
    ///
    /// The same failure, with its context.
    fn at(self, op: &'static str, branch: BranchIndex) -> Result<T>;

    /// Names the system call, where no single branch is concerned.
    ///
    /// # Errors
    ///
    /// The same failure, with its context.
    fn during(self, op: &'static str) -> Result<T>;
}

impl<T> At<T> for std::result::Result<T, Errno> {
    fn at(self, op: &'static str, branch: BranchIndex) -> Result<T> {
        self.map_err(|errno| Error { op, branch: Some(branch), errno })
    }

    fn during(self, op: &'static str) -> Result<T> {
        self.map_err(|errno| Error::rule(op, errno))
    }
}
