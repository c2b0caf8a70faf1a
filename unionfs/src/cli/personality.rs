//! Whose command line this is: by the name the program was called, and by the shape of the arguments.
//!
//! | called as | arguments | read as | `/proc/mounts` | a mount that fails |
//! |---|---|---|---|---|
//! | `fuse-overlayfs` | any | fuse-overlayfs | `fuse.fuse-overlayfs` | 1 |
//! | `unionfs-fuse` | any | unionfs-fuse | `fuse.unionfs` | 1 |
//! | `mount.…` | any | helper of mount(8) | `fuse.unionfs` | 32 |
//! | anything else | a subcommand, nothing, `--help`, `--version` | our own | `fuse.unionfs` | 1 |
//! | | `-o` with `lowerdir=` | fuse-overlayfs | `fuse.unionfs` | 1 |
//! | | `A=RW:B=RO MNT`, or `-o` with `dirs=`, `br:` | unionfs-fuse | `fuse.unionfs` | 1 |

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use unionfs::mount::MountFlags;

use super::options::Unknown;

/// Whose command line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Personality {
    /// Our own subcommands.
    Native,
    /// fuse-overlayfs's, by its name.
    FuseOverlayfs,
    /// fuse-overlayfs's, by its words.
    Overlay,
    /// unionfs-fuse's.
    UnionfsFuse,
    /// mount(8)'s, for its helpers.
    Helper,
}

impl Personality {
    /// Reads the program's name and the arguments behind it.
    pub(super) fn of(program: &OsStr, arguments: &[OsString], commands: &[String]) -> Self {
        match Path::new(program).file_name().unwrap_or_default().as_bytes() {
            b"fuse-overlayfs" => Self::FuseOverlayfs,
            b"unionfs-fuse" => Self::UnionfsFuse,
            name if name.starts_with(b"mount.") => Self::Helper,
            _ => Self::by_shape(arguments, commands),
        }
    }

    fn by_shape(arguments: &[OsString], commands: &[String]) -> Self {
        let first = arguments.first().map_or(&b""[..], |first| first.as_bytes());
        if commands.iter().any(|command| command.as_bytes() == first) {
            return Self::Native;
        }
        let words = || option_words(arguments);
        if words().any(|word| word.starts_with(b"lowerdir") || word.starts_with(b"upperdir=")) {
            return Self::Overlay;
        }
        let branches =
            |word: &[u8]| word.starts_with(b"dirs=") || word.starts_with(b"br:") || word.starts_with(b"br=");
        if words().any(branches) || arguments.iter().any(|argument| looks_like_branches(argument)) {
            return Self::UnionfsFuse;
        }
        Self::Native
    }

    /// The letters that mean something there.
    pub(super) const fn letters(self) -> &'static str {
        match self {
            Self::Helper => "fnsvwrhV",
            _ => "fdshV",
        }
    }

    /// What becomes of words that nobody knows; `sloppy` is mount(8)'s `-s`.
    pub(super) const fn unknown(self, sloppy: bool) -> Unknown {
        match self {
            Self::FuseOverlayfs | Self::Overlay => Unknown::Ignored,
            _ if sloppy => Unknown::Ignored,
            _ => Unknown::Refused,
        }
    }

    /// The flags of mount(2) that nobody asked for.
    pub(super) fn default_flags(self, root: bool) -> MountFlags {
        match self {
            Self::FuseOverlayfs | Self::Overlay => {
                let nosuid = if root { MountFlags::empty() } else { MountFlags::NOSUID };
                MountFlags::NODEV | MountFlags::NOATIME | nosuid
            }
            _ => MountFlags::empty(),
        }
    }

    /// Whether files in the mount point are a reason to refuse.
    pub(super) const fn wants_empty(self) -> bool {
        matches!(self, Self::Native | Self::UnionfsFuse)
    }

    /// The exit status for a mount that failed (mount(8), "EXIT STATUS", for its helpers).
    pub(crate) const fn failure_status(self) -> u8 {
        if matches!(self, Self::Helper) { 32 } else { 1 }
    }
}

/// The words of all `-o`, roughly: enough to tell whose they are.
fn option_words(arguments: &[OsString]) -> impl Iterator<Item = &[u8]> {
    let behind_o = arguments.windows(2).filter(|pair| pair[0] == "-o").map(|pair| pair[1].as_bytes());
    let glued = arguments.iter().filter_map(|argument| argument.as_bytes().strip_prefix(b"-o"));
    behind_o.chain(glued).flat_map(|words| words.split(|&byte| byte == b','))
}

/// `A:B`, `A=RW`, `/a`: no subcommand that was mistyped.
fn looks_like_branches(argument: &OsStr) -> bool {
    let bytes = argument.as_bytes();
    !bytes.starts_with(b"-") && bytes.iter().any(|byte| matches!(byte, b':' | b'=' | b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn personality_follows_name_then_shape() {
        use Personality::*;
        for (case, line, want) in [
            ("podman", "fuse-overlayfs -o lowerdir=/a,upperdir=/b,workdir=/w,,volatile /m", FuseOverlayfs),
            ("a full path", "/usr/bin/fuse-overlayfs -V", FuseOverlayfs),
            (
                "mount.fuse3 -t fuse-overlayfs",
                "fuse-overlayfs overlay /m -o lowerdir=/a,dev,suid",
                FuseOverlayfs,
            ),
            ("our name, its words", "unionfs -o lowerdir=/a,upperdir=/b,workdir=/w /m", Overlay),
            ("mount.fuse -t fuse.unionfs", "unionfs NAME /m -o rw,lowerdir=/a,dev,suid", Overlay),
            ("glued", "unionfs -olowerdir=/a /m", Overlay),
            ("unionfs-fuse", "unionfs -o cow,max_files=3 A=RW:B=RO /m", UnionfsFuse),
            ("unionfs-fuse without options", "unionfs A=RW:B=RO /m", UnionfsFuse),
            ("its other name", "unionfs-fuse -h", UnionfsFuse),
            ("aufs's words", "unionfs none mnt -o br:A=rw:B=ro", UnionfsFuse),
            ("mount(8)", "/sbin/mount.unionfs none /m -o rw,dirs=A=rw:B", Helper),
            ("mount(8), type fuse.unionfs", "mount.fuse.unionfs N /m -o lowerdir=/a", Helper),
            ("a subcommand", "unionfs mount -o lowerdir=/a /m", Native),
            ("nothing", "unionfs", Native),
            ("help", "unionfs --help", Native),
            ("a mistyped subcommand", "unionfs mout", Native),
            ("another name", "ufs mount A:B C", Native),
        ] {
            let mut words = line.split(' ').map(OsString::from);
            let program = words.next().expect(case);
            let got = Personality::of(&program, &words.collect::<Vec<_>>(), &["mount".to_owned()]);
            assert_eq!(got, want, "{case}");
        }
    }
}
