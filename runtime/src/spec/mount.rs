//! `-v` and `--tmpfs`: what is to be mounted where.

use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Something mounted over the root filesystem.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// What is mounted.
    pub source: Source,
    /// Where in the container: absolute, without `.` and `..`.
    pub target: PathBuf,
    /// How.
    pub options: MountOptions,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path of the host.
    Host(PathBuf),
    /// A volume with a name that somebody chose.
    Volume(String),
    /// A volume that lives no longer than its container may want it; it gets its name when it is made.
    Anonymous,
    /// Memory, with these options of tmpfs(5).
    Tmpfs(Vec<String>),
}

/// How something is mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(clippy::struct_excessive_bools)]
pub struct MountOptions {
    /// Not to be written.
    pub read_only: bool,
    /// Set-user-ID bits have no effect.
    pub nosuid: bool,
    /// Device nodes cannot be opened.
    pub nodev: bool,
    /// Nothing in it can be executed.
    pub noexec: bool,
    /// Mounts that the host makes below the source later appear in the container (`MS_SLAVE`).
    pub slave: bool,
    /// Only the source itself, without what is mounted below it.
    pub flat: bool,
    /// A new volume is not filled with what the image has at its place.
    pub no_copy: bool,
}

impl Mount {
    /// From the text of `-v`. Unless told, device nodes in it cannot be opened, as in Podman: a host's directory may well hold
    /// some, and what a container may use is in its own `/dev`.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] naming the part that is wrong.
    pub(crate) fn from_volume(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::option("--volume", text, why);
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, options) = match parts[..] {
            [target] => (Source::Anonymous, target, ""),
            [source, target] => (source_of(source).map_err(refuse)?, target, ""),
            [source, target, options] => (source_of(source).map_err(refuse)?, target, options),
            _ => return Err(refuse("too many colons; it is [SOURCE:]TARGET[:OPTIONS]".into())),
        };
        let target = target_of(target).map_err(refuse)?;
        let mut mount =
            Self { source, target, options: MountOptions { nodev: true, ..MountOptions::default() } };
        for word in options.split(',').filter(|word| !word.is_empty()) {
            mount.options.apply(word).map_err(refuse)?;
        }
        Ok(mount)
    }

    /// From the text of `--tmpfs`.
    ///
    /// # Errors
    ///
    /// [`Error::Option`] naming the part that is wrong.
    pub(crate) fn from_tmpfs(text: &str) -> Result<Self> {
        let refuse = |why: String| Error::option("--tmpfs", text, why);
        let (target, words) = text.split_once(':').unwrap_or((text, ""));
        let mut options = MountOptions { nosuid: true, nodev: true, noexec: true, ..MountOptions::default() };
        let mut data = Vec::new();
        for word in words.split(',').filter(|word| !word.is_empty()) {
            match word.split_once('=') {
                Some(("size" | "mode" | "uid" | "gid" | "nr_inodes", _)) => data.push(word.to_owned()),
                _ => options.apply(word).map_err(refuse)?,
            }
        }
        Ok(Self { source: Source::Tmpfs(data), target: target_of(target).map_err(refuse)?, options })
    }

    /// The volume the image declares at `target`.
    pub(crate) fn of_image(target: &str) -> Result<Self> {
        let target = target_of(target).map_err(|why| Error::option("the image's volume", target, why))?;
        let options = MountOptions { nodev: true, ..MountOptions::default() };
        Ok(Self { source: Source::Anonymous, target, options })
    }
}

impl MountOptions {
    fn apply(&mut self, word: &str) -> Result<(), String> {
        match word {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "nosuid" => self.nosuid = true,
            "suid" => self.nosuid = false,
            "nodev" => self.nodev = true,
            "dev" => self.nodev = false,
            "noexec" => self.noexec = true,
            "exec" => self.noexec = false,
            "rslave" | "slave" => self.slave = true,
            "rprivate" | "private" => self.slave = false,
            "bind" => self.flat = true,
            "rbind" => self.flat = false,
            "nocopy" => self.no_copy = true,
            "copy" => self.no_copy = false,
            // Labels of SELinux, which scripts give everywhere; without SELinux they mean nothing.
            "z" | "Z" => {}
            "shared" | "rshared" => {
                return Err(format!("{word} would show the container's mounts to the host; use rslave"));
            }
            _ => return Err(format!("unknown option {word:?}")),
        }
        Ok(())
    }
}

fn source_of(text: &str) -> Result<Source, String> {
    if text.starts_with('/') {
        return Ok(Source::Host(PathBuf::from(text)));
    }
    if !is_name(text) {
        return Err(format!("{text:?} is neither an absolute path nor the name of a volume ({NAME_RULE})"));
    }
    Ok(Source::Volume(text.to_owned()))
}

fn target_of(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("the target {text:?} must be an absolute path in the container"));
    }
    let mut clean = PathBuf::from("/");
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => return Err(format!("the target {text:?} must not contain \"..\"")),
            _ => {}
        }
    }
    if clean == Path::new("/") {
        return Err("the target must not be the container's root".into());
    }
    Ok(clean)
}

/// What a name of a container or volume may look like.
pub(crate) const NAME_RULE: &str = "letters, digits, _ . and -, beginning with a letter or digit";

/// Whether `text` may name a container or a volume.
pub(crate) fn is_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    text.len() <= 255
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_by_syntax() {
        let plain = MountOptions { nodev: true, ..MountOptions::default() };
        let ro = MountOptions { read_only: true, ..plain };
        for (text, want) in [
            ("/data", Some((Source::Anonymous, "/data", plain))),
            ("/h:/c", Some((Source::Host("/h".into()), "/c", plain))),
            ("/h:/c/./d/:ro", Some((Source::Host("/h".into()), "/c/d", ro))),
            ("cache:/c:ro,z", Some((Source::Volume("cache".into()), "/c", ro))),
            (
                "/h:/c:noexec,rw",
                Some((Source::Host("/h".into()), "/c", MountOptions { noexec: true, ..plain })),
            ),
            ("/h:/c:dev", Some((Source::Host("/h".into()), "/c", MountOptions::default()))),
            ("data", None),
            ("", None),
            ("/h:c", None),
            ("./h:/c", None),
            ("/h:/c:rx", None),
            ("/h:/c:rshared", None),
            ("/h:/c:ro:x", None),
            ("/h:/", None),
            ("/h:/a/../b", None),
            ("-bad:/c", None),
            (":/c", None),
        ] {
            let got = Mount::from_volume(text).ok();
            let want = want.map(|(source, target, options)| Mount { source, target: target.into(), options });
            assert_eq!(got, want, "{text:?}");
        }
    }

    #[test]
    fn tmpfs_by_syntax() {
        let safe = MountOptions { nosuid: true, nodev: true, noexec: true, ..MountOptions::default() };
        for (text, want) in [
            ("/t", Some((vec![], safe))),
            (
                "/t:size=1m,mode=700,exec",
                Some((vec!["size=1m", "mode=700"], MountOptions { noexec: false, ..safe })),
            ),
            ("/t:ro", Some((vec![], MountOptions { read_only: true, ..safe }))),
            ("t", None),
            ("/t:what=1", None),
            ("/t:huge", None),
        ] {
            let got = Mount::from_tmpfs(text).ok();
            let want = want.map(|(data, options)| Mount {
                source: Source::Tmpfs(data.into_iter().map(str::to_owned).collect()),
                target: "/t".into(),
                options,
            });
            assert_eq!(got, want, "{text:?}");
        }
    }
}
