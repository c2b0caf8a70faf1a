//! Owner, mode and kind kept in an attribute, for branches where an inode cannot have them.
//!
//! A user's home on NFS takes no other owner, and nobody but root makes devices. There containers/storage
//! (`force_mask`) and fuse-overlayfs (`xattr_permissions=`) write a file or directory with a mode of the server's own
//! and put what it stands for into one attribute, `uid:gid:mode[:kind]` with the mode in octal and the kind one of
//! `file`, `dir`, `symlink`, `pipe`, `socket`, `block-MAJOR-MINOR`, `char-MAJOR-MINOR` (containers/storage,
//! pkg/idtools, `FormatContainersOverrideXattrDevice`). What is no directory and no symbolic link is a regular file on
//! disk.

use rustix::fs::{Stat, XattrFlags, major, makedev, minor};

use crate::error::Errno;
use crate::place::Place;
use crate::types::FileKind;

/// Whether such attributes count, and whether they are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverrideStat {
    /// They are attributes like any other.
    #[default]
    Off,
    /// A branch whose root has one is read by them.
    Read,
    /// As `Read`; and in writable branches `security.fuseoverlayfs.override_stat` is written, which needs privilege
    /// and works for every kind of object.
    Privileged,
    /// As `Read`; and in writable branches `user.containers.override_stat` is written.
    Containers,
}

/// The attribute of one branch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Privileged,
    Containers,
    /// What fuse-overlayfs wrote before 1.8; only read.
    Legacy,
}

/// In front of what `user.containers.override_stat` stands beside: `security.` attributes, which need privilege.
const CONTAINERS: &[u8] = b"user.containers.override_";

impl Key {
    pub(crate) const fn name(self) -> &'static [u8] {
        match self {
            Self::Privileged => b"security.fuseoverlayfs.override_stat",
            Self::Containers => b"user.containers.override_stat",
            Self::Legacy => b"user.fuseoverlayfs.override_stat",
        }
    }

    /// Whether an object of this kind can have the attribute at all.
    fn holds(self, stat: &Stat) -> bool {
        let kind = FileKind::from_mode(stat.st_mode);
        self == Self::Privileged || matches!(kind, FileKind::Regular | FileKind::Directory)
    }

    /// What the attribute of an object says; `None` where it has none, or none that can be understood.
    pub(crate) fn read(self, place: &Place, stat: &Stat) -> Option<Record> {
        let mut value = [0; 128];
        let len = if self.holds(stat) { place.getxattr(self.name(), &mut value).ok()? } else { return None };
        Record::parse(std::str::from_utf8(&value[..len]).ok()?)
    }

    /// Writes the attribute. A symbolic link that cannot have one gets its owner by chown(2), as far as that is
    /// permitted; its mode means nothing.
    pub(crate) fn write(self, place: &Place, record: &Record) -> Result<(), Errno> {
        match place.setxattr(self.name(), record.to_string().as_bytes(), XattrFlags::empty()) {
            Err(Errno::PERM) if record.kind == FileKind::Symlink => {
                place.chown(Some(record.uid), Some(record.gid)).unwrap_or_default();
                Ok(())
            }
            done => done,
        }
    }

    /// The attribute that an object has, of all those that are known.
    pub(crate) fn of(place: &Place) -> Option<Self> {
        let has = |key: &Self| !matches!(place.getxattr(key.name(), &mut [0; 128]), Err(_) | Ok(0));
        [Self::Privileged, Self::Containers, Self::Legacy].into_iter().find(has)
    }

    /// The name on disk of an attribute that a user names; `None` for those that are not for users.
    pub(crate) fn name_on_disk(self, name: &[u8]) -> Option<Vec<u8>> {
        if name == self.name() || name.starts_with(CONTAINERS) {
            return None;
        }
        match self {
            Self::Containers if name.starts_with(b"security.") => Some([CONTAINERS, name].concat()),
            _ => Some(name.to_vec()),
        }
    }

    /// The name that a user sees of one on disk; `None` for those that are not for users.
    pub(crate) fn name_shown(self, name: &[u8]) -> Option<&[u8]> {
        match (self, name.strip_prefix(CONTAINERS)) {
            (Self::Containers, Some(inner)) => Some(inner).filter(|inner| inner.starts_with(b"security.")),
            (_, Some(_)) => None,
            _ => Some(name).filter(|name| *name != self.name()),
        }
    }
}

/// What an attribute says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Permission bits, 07777.
    pub(crate) mode: u32,
    pub(crate) kind: FileKind,
    /// As `st_rdev`.
    pub(crate) rdev: u64,
}

impl Record {
    /// What an inode says by itself.
    pub(crate) fn of(stat: &Stat) -> Self {
        let kind = FileKind::from_mode(stat.st_mode);
        Self { uid: stat.st_uid, gid: stat.st_gid, mode: stat.st_mode & 0o7777, kind, rdev: stat.st_rdev }
    }

    /// Reads `uid:gid:mode[:kind]`; without a kind the object is what it is on disk, which [`Record::apply`] keeps.
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(':');
        let uid = words.next()?.parse().ok()?;
        let gid = words.next()?.parse().ok()?;
        let mode = u32::from_str_radix(words.next()?, 8).ok()? & 0o7777;
        let (kind, rdev) = words.next().map_or(Some((FileKind::Regular, 0)), parse_kind)?;
        words.next().is_none().then_some(Self { uid, gid, mode, kind, rdev })
    }

    /// Shows an inode as what the record says. A directory stays one, and nothing becomes one: what is on disk decides
    /// how it can be reached.
    pub(crate) fn apply(&self, stat: &mut Stat) {
        (stat.st_uid, stat.st_gid) = (self.uid, self.gid);
        let kind = match FileKind::from_mode(stat.st_mode) {
            FileKind::Regular if !matches!(self.kind, FileKind::Directory | FileKind::Symlink) => self.kind,
            own => own,
        };
        stat.st_mode = kind.mode_bits() | self.mode;
        if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) {
            stat.st_rdev = self.rdev;
        }
    }
}

impl std::fmt::Display for Record {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}:{}:{:04o}:", self.uid, self.gid, self.mode)?;
        match self.kind {
            FileKind::Regular => out.write_str("file"),
            FileKind::Directory => out.write_str("dir"),
            FileKind::Symlink => out.write_str("symlink"),
            FileKind::Fifo => out.write_str("pipe"),
            FileKind::Socket => out.write_str("socket"),
            FileKind::BlockDevice => write!(out, "block-{}-{}", major(self.rdev), minor(self.rdev)),
            FileKind::CharDevice => write!(out, "char-{}-{}", major(self.rdev), minor(self.rdev)),
        }
    }
}

fn parse_kind(word: &str) -> Option<(FileKind, u64)> {
    let plain = match word {
        "file" => FileKind::Regular,
        "dir" => FileKind::Directory,
        "symlink" => FileKind::Symlink,
        "pipe" => FileKind::Fifo,
        "socket" => FileKind::Socket,
        device => {
            let mut words = device.split('-');
            let kind = match words.next()? {
                "block" => FileKind::BlockDevice,
                "char" => FileKind::CharDevice,
                _ => return None,
            };
            let (major, minor) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
            return words.next().is_none().then(|| (kind, makedev(major, minor)));
        }
    };
    Some((plain, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_and_written_as_containers_storage_does() {
        for (text, uid, gid, mode, kind, device) in [
            ("1000:1011:0644:file", 1000, 1011, 0o644, FileKind::Regular, (0, 0)),
            ("1001:1012:0755:dir", 1001, 1012, 0o755, FileKind::Directory, (0, 0)),
            ("1002:1013:0777:symlink", 1002, 1013, 0o777, FileKind::Symlink, (0, 0)),
            ("1003:1014:0666:pipe", 1003, 1014, 0o666, FileKind::Fifo, (0, 0)),
            ("1004:1015:0700:socket", 1004, 1015, 0o700, FileKind::Socket, (0, 0)),
            ("1005:1016:0600:block-8-0", 1005, 1016, 0o600, FileKind::BlockDevice, (8, 0)),
            ("1006:1017:0600:char-1-3", 1006, 1017, 0o600, FileKind::CharDevice, (1, 3)),
            ("1012:1022:4755:file", 1012, 1022, 0o4755, FileKind::Regular, (0, 0)),
        ] {
            let want = Record { uid, gid, mode, kind, rdev: makedev(device.0, device.1) };
            assert_eq!(Record::parse(text), Some(want), "{text}");
            assert_eq!(want.to_string(), text);
        }
    }

    #[test]
    fn older_and_foreign_spellings_are_read_and_bad_ones_are_not() {
        let record = Record { uid: 0, gid: 5, mode: 0o555, kind: FileKind::Regular, rdev: 0 };
        for text in ["0:5:555", "0:5:0555", "0:5:0100555", "0:5:555:file"] {
            assert_eq!(Record::parse(text), Some(record), "{text}");
        }
        for text in [
            "",
            "0",
            "0:0",
            "0:0:8",
            "-1:0:644",
            "0:0:644:",
            "0:0:644:door",
            "0:0:644:char",
            "0:0:644:char-1",
            "0:0:644:char-1-2-3",
            "0:0:644:char1:3",
            "0:0:644:file:more",
        ] {
            assert_eq!(Record::parse(text), None, "{text}");
        }
    }

    #[test]
    fn nothing_becomes_a_directory_or_stops_being_one() {
        let dir = std::fs::metadata("/").map(|_| rustix::fs::stat("/").expect("stat /")).expect("/");
        let mut shown = dir;
        Record::parse("7:8:600:char-1-3").expect("valid").apply(&mut shown);
        assert_eq!((shown.st_mode, shown.st_uid, shown.st_gid), (libc::S_IFDIR | 0o600, 7, 8));
        assert_eq!(shown.st_rdev, dir.st_rdev);
        let mut file = dir;
        file.st_mode = libc::S_IFREG | 0o600;
        for (text, want) in [
            ("0:0:644:dir", libc::S_IFREG),
            ("0:0:644:symlink", libc::S_IFREG),
            ("0:0:644:pipe", libc::S_IFIFO),
        ] {
            let mut shown = file;
            Record::parse(text).expect(text).apply(&mut shown);
            assert_eq!(shown.st_mode, want | 0o644, "{text}");
        }
    }

    #[test]
    fn names_of_attributes_are_moved_out_of_the_way() {
        let key = Key::Containers;
        let disk = b"user.containers.override_security.capability";
        assert_eq!(key.name_on_disk(b"security.capability").as_deref(), Some(&disk[..]));
        assert_eq!(key.name_shown(disk), Some(&b"security.capability"[..]));
        assert_eq!(key.name_on_disk(b"user.a").as_deref(), Some(&b"user.a"[..]));
        assert_eq!(key.name_shown(b"user.a"), Some(&b"user.a"[..]));
        for hidden in [&b"user.containers.override_stat"[..], b"user.containers.override_x"] {
            assert_eq!((key.name_on_disk(hidden), key.name_shown(hidden)), (None, None), "{hidden:?}");
        }
        assert_eq!(
            Key::Privileged.name_on_disk(b"security.capability").as_deref(),
            Some(&b"security.capability"[..])
        );
        assert_eq!(Key::Privileged.name_shown(b"security.fuseoverlayfs.override_stat"), None);
    }
}
