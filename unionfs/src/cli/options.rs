//! The words of `-o`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use unionfs::Format;
use unionfs::mount::{IoMode, MountFlags, Transport};
use unionfs::policy::{CopyupPolicy, CreatePolicy, UnknownPolicy};
use unionfs::union::Udba;

/// Everything that `-o` can say.
#[derive(Debug, Default)]
pub(crate) struct MountChoice {
    /// The branch list, by `dirs=` or `br=`.
    pub(crate) branches: Option<OsString>,
    pub(crate) allow_other: Option<bool>,
    pub(crate) default_permissions: Option<bool>,
    pub(crate) flags: MountFlags,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) format: Format,
    pub(crate) volatile: bool,
    pub(crate) writeback: bool,
    pub(crate) io: IoMode,
    pub(crate) transport: Transport,
    pub(crate) no_acl: bool,
    pub(crate) no_xattrs: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) threads: Option<usize>,
    pub(crate) fsname: Option<String>,
    pub(crate) create: CreatePolicy,
    pub(crate) copyup: CopyupPolicy,
    pub(crate) min_free: u64,
    pub(crate) move_on_enospc: bool,
    pub(crate) udba: Udba,
}

/// A word of `-o` that cannot be followed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("unknown mount option {0:?}: see 'unionfs mount --help'")]
    Unknown(String),
    #[error("mount option {name}={value:?}: {want}")]
    Value { name: &'static str, value: String, want: &'static str },
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
}

/// What changes a flag of mount(2): the word, the flag, whether it is set.
const FLAG_WORDS: [(&str, MountFlags, bool); 19] = [
    ("ro", MountFlags::READ_ONLY, true),
    ("rw", MountFlags::READ_ONLY, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("relatime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("sync", MountFlags::SYNC, true),
    ("async", MountFlags::SYNC, false),
    ("dirsync", MountFlags::DIRSYNC, true),
    ("nosymfollow", MountFlags::NOSYMFOLLOW, true),
    ("symfollow", MountFlags::NOSYMFOLLOW, false),
    ("norelatime", MountFlags::NOATIME, false),
];

/// What mount(8) and fstab(5) say to each other, and no filesystem acts on.
const IGNORED: [&str; 13] = [
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail",
    "nonempty", "silent", "loud",
];

impl MountChoice {
    /// Reads all `-o` arguments, later words before earlier ones.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, OptionError> {
        let mut choice = Self::default();
        for word in arguments.iter().flat_map(|argument| split_commas(argument.as_bytes())) {
            choice.word(&word)?;
        }
        Ok(choice)
    }

    fn word(&mut self, word: &[u8]) -> Result<(), OptionError> {
        if word.is_empty() {
            return Ok(());
        }
        // aufs also writes `br:A:B`.
        let at = match word.strip_prefix(b"br:") {
            Some(_) => Some(2),
            None => word.iter().position(|&byte| byte == b'='),
        };
        let (name, value) = at.map_or((word, None), |at| (&word[..at], Some(&word[at + 1..])));
        let name = String::from_utf8_lossy(name);
        match value {
            Some(value) => self.valued(&name, OsStr::from_bytes(value)),
            None => self.plain(&name),
        }
    }

    fn plain(&mut self, name: &str) -> Result<(), OptionError> {
        if let Some((_, flag, set)) = FLAG_WORDS.iter().find(|(word, ..)| *word == name) {
            self.flags.set(*flag, *set);
            return Ok(());
        }
        match name {
            "allow_other" => self.allow_other = Some(true),
            "noallow_other" => self.allow_other = Some(false),
            "default_permissions" => self.default_permissions = Some(true),
            "nodefault_permissions" => self.default_permissions = Some(false),
            "moveonenospc" => self.move_on_enospc = true,
            "volatile" => self.volatile = true,
            "writeback" => self.writeback = true,
            "noacl" => self.no_acl = true,
            "noxattrs" => self.no_xattrs = true,
            _ if IGNORED.contains(&name) || name.starts_with("x-") => {}
            _ => return Err(OptionError::Unknown(name.to_owned())),
        }
        Ok(())
    }

    fn valued(&mut self, name: &str, value: &OsStr) -> Result<(), OptionError> {
        let text = value.to_string_lossy();
        let refuse = |name, want| Err(OptionError::Value { name, value: text.to_string(), want });
        match name {
            "dirs" | "br" => self.branches = Some(value.to_owned()),
            "workdir" => self.workdir = Some(value.into()),
            "fsname" => self.fsname = Some(text.into_owned()),
            "format" => match &*text {
                "aufs" => self.format = Format::Aufs,
                "overlay" => self.format = Format::Overlay,
                _ => return refuse("format", "write aufs or overlay"),
            },
            "timeout" => {
                match text.parse::<f64>().ok().and_then(|secs| Duration::try_from_secs_f64(secs).ok()) {
                    Some(timeout) => self.timeout = Some(timeout),
                    None => return refuse("timeout", "write a number of seconds"),
                }
            }
            "create" | "create_policy" => self.create = text.parse()?,
            "cpup" | "copyup" | "copyup_policy" => self.copyup = text.parse()?,
            "moveonenospc" => self.move_on_enospc = text != "false",
            "udba" => match text.parse() {
                Ok(udba) => self.udba = udba,
                Err(want) => return refuse("udba", want),
            },
            "minfreespace" => match parse_size(&text) {
                Some(size) => self.min_free = size,
                None => return refuse("minfreespace", "write a number of bytes, or one with K, M, G or T"),
            },
            "io" => match text.parse() {
                Ok(io) => self.io = io,
                Err(want) => return refuse("io", want),
            },
            "transport" => match text.parse() {
                Ok(transport) => self.transport = transport,
                Err(want) => return refuse("transport", want),
            },
            "threads" => match text.parse() {
                Ok(threads @ 1..=64) => self.threads = Some(threads),
                _ => return refuse("threads", "write a number from 1 to 64"),
            },
            _ if name.starts_with("x-") || name == "comment" => {}
            _ => return Err(OptionError::Unknown(format!("{name}={text}"))),
        }
        Ok(())
    }
}

/// `4G`: a number of bytes, K, M, G and T counting by 1024.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = match text.find(|letter: char| !letter.is_ascii_digit()) {
        Some(at) => text.split_at(at),
        None => (text, ""),
    };
    let shift = match unit.to_ascii_uppercase().as_str() {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Splits at commas; `\,` is a comma inside a word. Other backslashes stay, for the branch list reads them itself.
fn split_commas(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let last = words.len() - 1;
        match byte {
            b',' => words.push(Vec::new()),
            b'\\' if bytes.peek() == Some(&b',') => words[last].extend(bytes.next()),
            b'\\' => words[last].extend(std::iter::once(b'\\').chain(bytes.next())),
            _ => words[last].push(byte),
        }
    }
    words
}

/// The branches as `/proc/mounts` shows them, cut to what mount(2) takes.
pub(crate) fn shown_source(branches: &OsStr) -> String {
    const LONGEST: usize = 3000;
    let mut text = String::from_utf8_lossy(&branches.to_owned().into_vec()).into_owned();
    if text.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<MountChoice, OptionError> {
        MountChoice::parse(&[OsString::from(text)])
    }

    #[test]
    fn options_are_read() {
        let choice = parse(r"ro,allow_other,dirs=/a\:b=rw:/c\,d,,noatime,x-systemd.automount,workdir=/w")
            .expect("valid");
        assert!(choice.flags.contains(MountFlags::READ_ONLY | MountFlags::NOATIME));
        assert_eq!(choice.allow_other, Some(true));
        assert_eq!(choice.branches.expect("branches"), OsString::from(r"/a\:b=rw:/c,d"));
        assert_eq!(
            parse("br:/a=rw:/b=ro").expect("valid").branches.expect("branches"),
            OsString::from("/a=rw:/b=ro")
        );
    }

    #[test]
    fn bad_options_are_named() {
        for (text, named) in [
            ("frobnicate", "frobnicate"),
            ("format=zip", "format=\"zip\""),
            ("timeout=-1", "timeout"),
            ("threads=0", "threads"),
            ("upperdirs=/x", "upperdirs"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
