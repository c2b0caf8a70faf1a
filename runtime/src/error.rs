//! What can fail, as a caller can act on it.

use std::io;
use std::path::Path;

/// A failure of the runtime. Each names the object, and what refused it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An option or argument asks for what cannot be; nothing was made yet.
    #[error("{option} {value:?}: {why}")]
    Option {
        /// The option as it is written on the command line.
        option: &'static str,
        /// The value given.
        value: String,
        /// The rule, and what would be right.
        why: String,
    },
    /// Nothing has this name or identifier.
    #[error("no such {kind}: {name}")]
    Absent {
        /// What was looked for: a container, a volume, an image.
        kind: &'static str,
        /// As it was given.
        name: String,
    },
    /// It exists, but its state forbids the act.
    #[error("{0}")]
    State(String),
    /// A system call failed.
    #[error("{call} {object}: {source}")]
    System {
        /// The call, or the act where it is several calls.
        call: &'static str,
        /// What it was done to.
        object: String,
        /// Why not.
        source: io::Error,
    },
    /// A file of the store does not hold what it should.
    #[error("{path}: {source}; the store is damaged")]
    Damaged {
        /// The file.
        path: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The container's command did not start: what the user is told, with Docker's exit status.
    #[error("{message}")]
    Command {
        /// 125, 126 or 127 (docker-run(1), "Exit status").
        status: u8,
        /// Already complete.
        message: String,
    },
}

/// What every act of the runtime returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The exit status for a failure of uctr itself (docker-run(1), "Exit status").
pub const ENGINE_FAILED: u8 = 125;

impl Error {
    /// An option that cannot be honoured.
    pub(crate) fn option(option: &'static str, value: impl Into<String>, why: impl Into<String>) -> Self {
        Self::Option { option, value: value.into(), why: why.into() }
    }

    /// The exit status of the program that ends with this failure.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Command { status, .. } => *status,
            _ => ENGINE_FAILED,
        }
    }

    /// The errno beneath, if a system call failed.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::System { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }
}

/// Adds the call and its object, at the place where both are known.
pub(crate) trait On<T> {
    /// `object` is what the call was done to, in the user's terms.
    fn on(self, call: &'static str, object: impl AsRef<Path>) -> Result<T>;
}

impl<T, E: Into<io::Error>> On<T> for std::result::Result<T, E> {
    fn on(self, call: &'static str, object: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::System {
            call,
            object: object.as_ref().display().to_string(),
            source: source.into(),
        })
    }
}
