//! What `-o` chooses: the words become a value, and nothing is opened.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use unionfs::mount::{IoMode, MountFlags, Transport};
use unionfs::policy::{CopyupPolicy, CreatePolicy};
use unionfs::union::Udba;
use unionfs::{Format, Ids, OverrideStat};

use super::words::{self, Takes};

/// Everything that `-o` can say.
#[derive(Debug, Default)]
pub(crate) struct MountChoice {
    /// The branch list, by `dirs=` or `br=`.
    pub(crate) list: Option<OsString>,
    /// The read-only branches, by `lowerdir=`, still joined and escaped.
    pub(crate) lower: Option<OsString>,
    pub(crate) upper: Option<PathBuf>,
    pub(crate) workdir: Option<PathBuf>,
    /// What branch paths are below of.
    pub(crate) chroot: Option<PathBuf>,
    pub(crate) allow_other: Option<bool>,
    pub(crate) default_permissions: Option<bool>,
    pub(crate) flags: MountFlags,
    pub(crate) format: Option<Format>,
    pub(crate) volatile: bool,
    pub(crate) writeback: bool,
    pub(crate) io: IoMode,
    pub(crate) transport: Transport,
    pub(crate) no_acl: bool,
    pub(crate) no_xattrs: bool,
    pub(crate) timeout: Option<Duration>,
    pub(crate) threads: Option<usize>,
    pub(crate) max_files: Option<u64>,
    pub(crate) fsname: Option<String>,
    pub(crate) subtype: Option<String>,
    pub(crate) ids: Ids,
    pub(crate) create: CreatePolicy,
    pub(crate) copyup: CopyupPolicy,
    /// Bytes.
    pub(crate) min_free: u64,
    pub(crate) move_on_enospc: bool,
    pub(crate) udba: Udba,
    /// Which attribute holds owner, mode and kind, by `xattr_permissions=`.
    pub(crate) override_stat: Option<OverrideStat>,
    pub(crate) metacopy: bool,
    pub(crate) ino32: bool,
    /// A mount point with files in it is taken.
    pub(crate) nonempty: bool,
    /// The mount is there, and is to change.
    pub(crate) remount: bool,
    /// Changes of the branches of a mount that is there: the verb and its value.
    pub(crate) changes: Vec<(&'static str, OsString)>,
}

/// A word of `-o` that cannot be followed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OptionError {
    #[error("unknown mount option {0:?} (unionfs-mount(1) lists what there is)")]
    Unknown(String),
    #[error("mount option {word:?}: {want}")]
    Value { word: String, want: Cow<'static, str> },
}

/// What becomes of words that nobody knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// The command line is refused.
    Refused,
    /// They are collected, to be warned about.
    Ignored,
}

impl MountChoice {
    /// Reads all `-o` arguments, the flags starting as `flags`; unknown words that are not refused are given back.
    pub(crate) fn parse(
        arguments: &[OsString],
        flags: MountFlags,
        unknown: Unknown,
    ) -> Result<(Self, Vec<String>), OptionError> {
        let mut choice = Self { flags, ..Self::default() };
        let mut ignored = Vec::new();
        for word in arguments.iter().flat_map(|argument| split_commas(argument.as_bytes())) {
            match choice.word(&word) {
                Err(OptionError::Unknown(word)) if unknown == Unknown::Ignored => ignored.push(word),
                done => done?,
            }
        }
        Ok((choice, ignored))
    }

    /// Whether owner and mode are written into an attribute.
    pub(crate) const fn writes_override(&self) -> bool {
        matches!(self.override_stat, Some(OverrideStat::Privileged | OverrideStat::Containers))
    }

    fn word(&mut self, word: &[u8]) -> Result<(), OptionError> {
        if word.is_empty() || words::is_for_others(word) {
            return Ok(());
        }
        let (name, value) = split_value(word);
        let shown = || String::from_utf8_lossy(word).into_owned();
        if value.is_none()
            && let Some((_, flag, set)) = words::FLAGS.iter().find(|(flag, ..)| flag.as_bytes() == name)
        {
            self.flags.set(*flag, *set);
            return Ok(());
        }
        let Some(known) = words::find(name) else {
            return Err(OptionError::Unknown(shown()));
        };
        let value = match (known.takes, value) {
            (Takes::Nothing, Some(_)) => {
                return Err(OptionError::Value { word: shown(), want: "takes no value".into() });
            }
            (Takes::Value(_), None | Some(b"")) => {
                return Err(OptionError::Value { word: shown(), want: "needs a value".into() });
            }
            (_, value) => value.map(OsStr::from_bytes),
        };
        (known.act)(self, value.unwrap_or_default())
            .map_err(|want| OptionError::Value { word: shown(), want })
    }
}

/// `name=value`; aufs also writes `br:value`, for its own words.
fn split_value(word: &[u8]) -> (&[u8], Option<&[u8]>) {
    let colon = word.iter().position(|&byte| byte == b':').filter(|&at| words::COLON.contains(&&word[..at]));
    match colon.or_else(|| word.iter().position(|&byte| byte == b'=')) {
        Some(at) => (&word[..at], Some(&word[at + 1..])),
        None => (word, None),
    }
}

/// Splits at commas. `\,` is a comma inside a word, and so is one between the quotes of `name="…"`, which is how
/// SELinux contexts are given. Other backslashes stay, for the branch lists read them themselves.
fn split_commas(text: &[u8]) -> Vec<Vec<u8>> {
    let mut words = vec![Vec::new()];
    let mut quoted = false;
    let mut bytes = text.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        let last = words.len() - 1;
        let word = &mut words[last];
        match byte {
            b',' if !quoted => words.push(Vec::new()),
            b'"' if quoted => quoted = false,
            b'"' if word.ends_with(b"=") => quoted = true,
            b'\\' if bytes.peek() == Some(&b',') => word.extend(bytes.next()),
            b'\\' => word.extend(std::iter::once(b'\\').chain(bytes.next())),
            _ => word.push(byte),
        }
    }
    words
}

/// A path in which a backslash takes the meaning of the byte behind it away.
pub(super) fn unescaped(path: &OsStr) -> PathBuf {
    let mut plain = Vec::with_capacity(path.len());
    let mut bytes = path.as_bytes().iter().copied();
    while let Some(byte) = bytes.next() {
        plain.push(if byte == b'\\' { bytes.next().unwrap_or(byte) } else { byte });
    }
    OsString::from_vec(plain).into()
}

/// The branches as `/proc/mounts` shows them, cut to what mount(2) takes.
pub(crate) fn shown_source(source: &str) -> String {
    const LONGEST: usize = 3000;
    let mut text = source.to_owned();
    if text.len() > LONGEST {
        let cut = (0..=LONGEST).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use unionfs::IdRule;

    use super::*;

    fn parse(text: &str) -> Result<MountChoice, OptionError> {
        MountChoice::parse(&[OsString::from(text)], MountFlags::empty(), Unknown::Refused)
            .map(|(choice, _)| choice)
    }

    #[test]
    fn options_are_read() {
        let choice = parse(r"ro,allow_other,dirs=/a\:b=rw:/c\,d,,noatime,x-systemd.automount,workdir=/w")
            .expect("valid");
        assert!(choice.flags.contains(MountFlags::READ_ONLY | MountFlags::NOATIME));
        assert_eq!(choice.allow_other, Some(true));
        assert_eq!(choice.list.expect("branches"), OsString::from(r"/a\:b=rw:/c,d"));
        assert_eq!(parse("br:/a=rw:/b=ro").expect("valid").list.expect("br:"), OsString::from("/a=rw:/b=ro"));
    }

    #[test]
    fn commas_in_quotes_and_behind_backslashes_are_no_separators() {
        for (case, text, want) in [
            (
                "a label",
                r#"context="system_u:object_r:x_t:s0:c1,c2",ro"#,
                &["context=system_u:object_r:x_t:s0:c1,c2", "ro"][..],
            ),
            ("empty words", "a,,b,", &["a", "", "b", ""]),
            ("a quote inside a path", r#"lowerdir=/a"b,ro"#, &[r#"lowerdir=/a"b"#, "ro"]),
            ("an escaped comma", r"upperdir=/a\,b", &["upperdir=/a,b"]),
            ("an escaped colon stays", r"lowerdir=/a\:b", &[r"lowerdir=/a\:b"]),
        ] {
            let words = split_commas(text.as_bytes());
            let words: Vec<_> = words.iter().map(|word| String::from_utf8_lossy(word)).collect();
            assert_eq!(words, want, "{case}");
        }
    }

    #[test]
    fn every_option_of_fuse_overlayfs_has_its_meaning() {
        let choice = parse(
            "lowerdir=/l1:/l2,upperdir=/u,workdir=/w,,volatile,uidmapping=:0:100000:65536,gidmapping=0:7:1,\
             xattr_permissions=2,noacl,timeout=0.5,fsync=0,noxattrs=1,static_nlink,xino=auto,ino32_t,writeback=1,\
             fast_ino=1,fast_ino_check=1,threaded=1,redirect_dir=off,context=\"a:b:c1,c2\",suid,dev,sync",
        )
        .expect("valid");
        assert_eq!(choice.lower.as_deref(), Some(OsStr::new("/l1:/l2")));
        assert_eq!((choice.upper, choice.workdir), (Some("/u".into()), Some("/w".into())));
        assert_eq!((choice.ids.users.shown(5), choice.ids.groups.shown(0)), (100_005, 7));
        assert!(choice.volatile && choice.no_acl && choice.no_xattrs && choice.ino32 && choice.writeback);
        assert_eq!(
            (choice.override_stat, choice.timeout),
            (Some(OverrideStat::Containers), Some(Duration::from_millis(500)))
        );
    }

    #[test]
    fn squash_to_one_id_outranks_root_and_mappings_in_any_order() {
        for text in [
            "squash_to_uid=7,squash_to_root,uidmapping=0:1:2",
            "squash_to_root,uidmapping=0:1:2,squash_to_uid=7",
            "uidmapping=0:1:2,squash_to_uid=7,squash_to_root",
        ] {
            let ids = parse(text).expect(text).ids;
            assert_eq!(ids, Ids { users: IdRule::Squash(7), groups: IdRule::Squash(0) }, "{text}");
        }
        assert_eq!(parse("uidmapping=0:5:1,squash_to_root").expect("valid").ids.users, IdRule::Squash(0));
    }

    #[test]
    fn words_of_fstab_and_of_libraries_are_accepted() {
        for text in [
            "defaults,noauto,_netdev,nofail,user,x-systemd.requires=/a,x-gvfs-hide,comment=x,uhelper=udisks2",
            "rw,user_id=0,group_id=0,default_permissions,allow_other",
            "cow,max_files=32768,hide_meta_files,use_ino,suid,dev,nonempty,chroot=/host,statfs_omit_ro",
            "index=off,metacopy=off,xino=off,nfs_export=off,redirect_dir=on,userxattr,uuid=null,volatile",
            "create=tdp,cpup=tdp,udba=none,noxino,dirwh=3,plink,nosum",
            "kernel_cache,big_writes,max_read=131072,entry_timeout=1,attr_timeout=1,auto_unmount",
        ] {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text).err());
        }
    }

    #[test]
    fn bad_options_are_named() {
        for (text, named) in [
            ("frobnicate", "frobnicate"),
            ("upperdirs=/x", "upperdirs"),
            ("format=zip", "format=zip"),
            ("timeout=-1", "timeout=-1"),
            ("threads=0", "threads=0"),
            ("uidmapping=1:2", "DISK:SHOWN:LENGTH"),
            ("squash_to_uid=root", "squash_to_uid=root"),
            ("xattr_permissions=3", "0, 1 or 2"),
            ("upperdir", "needs a value"),
            ("lowerdir=", "needs a value"),
            ("volatile=1", "takes no value"),
            ("redirect_dir=nofollow", "redirect"),
            ("metacopy=maybe", "metacopy"),
            ("nfs_export=on", "nfs_export"),
            ("verity=require", "verity"),
            ("datadir+=/x", "data-only"),
            ("plugins=/a.so", "plugins"),
            ("create=best", "best"),
            ("minfreespace=4X", "minfreespace=4X"),
        ] {
            let error = parse(text).expect_err(text).to_string();
            assert!(error.contains(named), "{text}: {error}");
        }
    }

    #[test]
    fn changes_of_a_mount_keep_their_order() {
        let choice = parse("remount,append:/ro2=ro,del:/old,add=1:/x").expect("valid");
        assert!(choice.remount);
        let told: Vec<_> = choice.changes.iter().map(|(verb, value)| (*verb, value.to_str())).collect();
        assert_eq!(told, [("append", Some("/ro2=ro")), ("del", Some("/old")), ("add", Some("1:/x"))]);
    }
}
