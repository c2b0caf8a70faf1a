//! Where everything is kept.

use std::path::{Path, PathBuf};

/// The directories of one store: what outlives a reboot, and what does not.
///
/// Root's is `/var/lib/uctr` with `/run/uctr`; a user's lies under `$XDG_DATA_HOME` and `$XDG_RUNTIME_DIR`
/// (XDG Base Directory Specification); `--root DIR` moves both, the second to `DIR/run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    data: PathBuf,
    run: PathBuf,
}

impl Paths {
    /// The store below `root`, its state in `root/run`.
    pub fn under(root: &Path) -> Self {
        Self { data: root.to_owned(), run: root.join("run") }
    }

    /// The store of the user `uid`, from the environment as `lookup` tells it.
    pub fn of_user(uid: u32, lookup: impl Fn(&str) -> Option<PathBuf>) -> Self {
        if uid == 0 {
            return Self { data: "/var/lib/uctr".into(), run: "/run/uctr".into() };
        }
        let absolute = |name: &str| lookup(name).filter(|path| path.is_absolute());
        let home = absolute("HOME").unwrap_or_else(|| "/".into());
        let data = absolute("XDG_DATA_HOME").unwrap_or_else(|| home.join(".local/share")).join("uctr");
        let run = match absolute("XDG_RUNTIME_DIR") {
            Some(dir) => dir.join("uctr"),
            None => data.join("run"),
        };
        Self { data, run }
    }

    /// The store itself: `layers/` and `images/` are its image half.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// State, locks and sockets.
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// One directory a container: `{diff,work,init,merged,config.json,log}`.
    pub fn containers(&self) -> PathBuf {
        self.data.join("containers")
    }

    /// One directory a volume, its content in `_data`.
    pub fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_user_by_environment() {
        let full = [("HOME", "/h"), ("XDG_DATA_HOME", "/d"), ("XDG_RUNTIME_DIR", "/r")];
        let relative = [("HOME", "/h"), ("XDG_DATA_HOME", "d"), ("XDG_RUNTIME_DIR", "")];
        for (case, uid, environment, data, run) in [
            ("root ignores it", 0, &full[..], "/var/lib/uctr", "/run/uctr"),
            ("all set", 1000, &full[..], "/d/uctr", "/r/uctr"),
            ("home only", 1000, &full[..1], "/h/.local/share/uctr", "/h/.local/share/uctr/run"),
            ("relative is void", 1000, &relative[..], "/h/.local/share/uctr", "/h/.local/share/uctr/run"),
        ] {
            let lookup = |name: &str| {
                environment.iter().find(|(known, _)| *known == name).map(|(_, value)| PathBuf::from(value))
            };
            let paths = Paths::of_user(uid, lookup);
            assert_eq!((paths.data(), paths.run()), (Path::new(data), Path::new(run)), "{case}");
        }
    }
}
