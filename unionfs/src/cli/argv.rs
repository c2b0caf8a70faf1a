//! Command lines of other mount programs: letters, `-o` words and places in any order.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// What stood on a command line, not judged yet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Argv {
    /// The arguments of `-o`.
    pub(super) options: Vec<OsString>,
    /// What is no option, in order.
    pub(super) places: Vec<OsString>,
    /// Single letters, and long options by the letter they stand for.
    pub(super) letters: Vec<char>,
    /// The value of `-t`.
    pub(super) fstype: Option<OsString>,
    /// Options that nobody knows.
    pub(super) unknown: Vec<String>,
}

/// An option that must have a value has none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("option -{0} needs a value")]
pub(crate) struct NoValue(char);

/// Letters with a value: mount options, a type (mount.fuse3), a namespace (mount(8), `-N`).
const VALUED: &[u8] = b"otN";
/// Long options and the letters they stand for.
const LONG: [(&str, char); 4] =
    [("--help", 'h'), ("--version", 'V'), ("--debug", 'd'), ("--foreground", 'f')];

impl Argv {
    /// Reads the arguments, the program's name not among them; `letters` are those that mean something.
    pub(super) fn read(arguments: &[OsString], letters: &str) -> Result<Self, NoValue> {
        let mut argv = Self::default();
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            match argument.as_bytes() {
                b"--" => {
                    argv.places.extend(rest.by_ref().cloned());
                }
                long if long.starts_with(b"--") => match LONG.iter().find(|(name, _)| argument == *name) {
                    Some((_, letter)) => argv.letters.push(*letter),
                    None => argv.unknown.push(argument.to_string_lossy().into_owned()),
                },
                [b'-', letter, glued @ ..] if VALUED.contains(letter) => {
                    let value = match glued {
                        [] => rest.next().cloned().ok_or_else(|| NoValue(char::from(*letter)))?,
                        glued => OsString::from_vec(glued.to_vec()),
                    };
                    argv.valued(*letter, value);
                }
                [b'-', cluster @ ..] if !cluster.is_empty() => argv.cluster(cluster, letters),
                _ => argv.places.push(argument.clone()),
            }
        }
        Ok(argv)
    }

    fn valued(&mut self, letter: u8, value: OsString) {
        match letter {
            b'o' => self.options.push(value),
            b't' => self.fstype = Some(value),
            // A mount namespace: mount(8) has entered it before it calls a helper.
            _ => {}
        }
    }

    fn cluster(&mut self, cluster: &[u8], letters: &str) {
        if cluster.iter().all(|&letter| letters.contains(char::from(letter))) {
            self.letters.extend(cluster.iter().map(|&letter| char::from(letter)));
        } else {
            self.unknown.push(format!("-{}", OsStr::from_bytes(cluster).to_string_lossy()));
        }
    }

    /// Whether a letter was given.
    pub(super) fn has(&self, letter: char) -> bool {
        self.letters.contains(&letter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Argv {
        let words: Vec<_> = line.split(' ').map(OsString::from).collect();
        Argv::read(&words, "fdhVsnv").expect(line)
    }

    #[test]
    fn callers_command_lines_are_read() {
        for (case, line, options, places, letters) in [
            ("containers/storage", "-o lowerdir=/a,upperdir=/b /m", "lowerdir=/a,upperdir=/b", "/m", ""),
            ("mount.fuse3", "overlay /m -o lowerdir=/a,dev,suid", "lowerdir=/a,dev,suid", "overlay /m", ""),
            (
                "containerd",
                "overlay /m -o workdir=/w -o upperdir=/u",
                "workdir=/w upperdir=/u",
                "overlay /m",
                "",
            ),
            ("glued and repeated", "-olowerdir=/a -ovolatile -f /m", "lowerdir=/a volatile", "/m", "f"),
            ("mount(8)", "none /m -sfnv -o rw", "rw", "none /m", "sfnv"),
            ("long", "--debug -o x /m", "x", "/m", "d"),
            ("behind two dashes", "-o x -- -m", "x", "-m", ""),
        ] {
            let argv = read(line);
            let join = |words: &[OsString]| words.join(OsStr::new(" ")).into_string().expect(case);
            assert_eq!(join(&argv.options), options, "{case}");
            assert_eq!(join(&argv.places), places, "{case}");
            assert_eq!(argv.letters.iter().collect::<String>(), letters, "{case}");
        }
    }

    #[test]
    fn unknown_options_are_kept_and_missing_values_refused() {
        assert_eq!(read("-x --what /m").unknown, ["-x", "--what"]);
        assert_eq!(Argv::read(&["-o".into()], ""), Err(NoValue('o')));
        assert_eq!(read("-t fuse-overlayfs overlay /m").fstype, Some("fuse-overlayfs".into()));
    }
}
