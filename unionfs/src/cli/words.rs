//! The table of words that `-o` knows: each with what it takes, what it does and a line for the manual.
//!
//! One table serves every spelling that people already use: ours, kernel overlay's, fuse-overlayfs's, aufs's,
//! unionfs-fuse's and libfuse's. What asks for something that is not done is refused here, with the reason; what
//! only tunes another implementation is accepted and does nothing.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::str::FromStr;
use std::time::Duration;

use unionfs::mount::MountFlags;
use unionfs::{Format, IdMap, IdRule, OverrideStat};

use super::options::{MountChoice, unescaped};

/// What stands behind the word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Takes {
    Nothing,
    /// `word=VALUE`, called so in the manual.
    Value(&'static str),
    /// `word` or `word=VALUE`.
    Either(&'static str),
}

/// Takes a word's value into the choice, or says what would have been right.
type Act = fn(&mut MountChoice, &OsStr) -> Outcome;
type Outcome = Result<(), Cow<'static, str>>;

/// One word of `-o`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Word {
    pub(crate) name: &'static str,
    pub(crate) takes: Takes,
    pub(crate) help: &'static str,
    pub(crate) act: Act,
}

impl Word {
    /// The word with what stands behind it.
    fn spelling(&self) -> String {
        match self.takes {
            Nothing => self.name.to_owned(),
            Value(value) => format!("{}={value}", self.name),
            Either(value) => format!("{}[={value}]", self.name),
        }
    }
}

const fn word(name: &'static str, takes: Takes, help: &'static str, act: Act) -> Word {
    Word { name, takes, help, act }
}

use Takes::{Either, Nothing, Value};

/// Accepted, with no effect here.
const NO_EFFECT: Act = |_, _| Ok(());

#[rustfmt::skip]
pub(crate) static WORDS: &[Word] = &[
    // Branches.
    word("dirs", Value("LIST"), "The branches, as the first argument of 'unionfs mount' names them", |c, v| { c.list = Some(v.into()); Ok(()) }),
    word("br", Value("LIST"), "The same in aufs's words; br:LIST too", |c, v| { c.list = Some(v.into()); Ok(()) }),
    word("lowerdir", Value("DIR:DIR…"), "Read-only branches, the first on top; a colon in a path is written '\\:'", |c, v| { c.lower = Some(v.into()); Ok(()) }),
    word("lowerdir+", Value("DIR"), "One more read-only branch below the others", add_lower),
    word("upperdir", Value("DIR"), "The writable branch above them; without it the mount is read-only", |c, v| { c.upper = Some(unescaped(v)); Ok(()) }),
    word("workdir", Value("DIR"), "Where objects are made before they are shown: an empty directory on the writable branch's filesystem", |c, v| { c.workdir = Some(unescaped(v)); Ok(()) }),
    word("chroot", Value("DIR"), "Branch paths are below this directory", |c, v| { c.chroot = Some(v.into()); Ok(()) }),
    // What is written, and when.
    word("format", Value("aufs|overlay"), "How whiteouts and other marks are written (all are read): aufs works everywhere and is the OCI layer format, overlay can be mounted by the kernel; for lowerdir= command lines the default is overlay where the branch can hold it", format),
    word("volatile", Nothing, "Nothing is synced: fast, and a crash of the host may lose what was written", |c, _| { c.volatile = true; Ok(()) }),
    word("fsync", Value("0|1"), "0 is volatile", |c, v| { c.volatile = !truth(v)?; Ok(()) }),
    word("writeback", Either("0|1"), "The kernel collects small writes; less work, but times are the kernel's", |c, v| { c.writeback = truth(v)?; Ok(()) }),
    word("metacopy", Value("on|off"), "With on, a change of mode, owner, times or attributes of a lower file alone copies no data; needs format=overlay, and who mounts the branch with the kernel must say metacopy=on too. off by default", |c, v| { c.metacopy = v == "on"; one_of(v, &["on", "off"], "write on or off") }),
    // Which writable branch.
    word("create", Value("POLICY"), "Where new objects go: tdp (the highest writable branch that has the directory), ff, rr, mfs[:SEC], pmfs[:SEC], lfs, rand", |c, v| parsed(&mut c.create, v)),
    word("create_policy", Value("POLICY"), "The same", |c, v| parsed(&mut c.create, v)),
    word("cpup", Value("POLICY"), "Where copies go, above the original: tdp, bup (the nearest that has the directory), bu (the nearest)", |c, v| parsed(&mut c.copyup, v)),
    word("copyup", Value("POLICY"), "The same", |c, v| parsed(&mut c.copyup, v)),
    word("copyup_policy", Value("POLICY"), "The same", |c, v| parsed(&mut c.copyup, v)),
    word("minfreespace", Value("BYTES"), "Branches with less free space get no new objects while another has more; with K, M, G or T, too", |c, v| { c.min_free = size(text(v)?).ok_or("write a number of bytes, or one with K, M, G or T")?; Ok(()) }),
    word("moveonenospc", Either("true|false"), "A file that finds its branch full moves to one with room", |c, v| { c.move_on_enospc = v != "false"; Ok(()) }),
    // Who owns what.
    word("uidmapping", Value("DISK:SHOWN:LEN…"), "Users with ids from DISK on are shown with ids from SHOWN on, and new files stored the other way round", |c, v| map(&mut c.ids.users, v)),
    word("gidmapping", Value("DISK:SHOWN:LEN…"), "The same for groups", |c, v| map(&mut c.ids.groups, v)),
    word("squash_to_root", Nothing, "All files are shown as root's; chown(2) does nothing", squash_to_root),
    word("squash_to_uid", Value("UID"), "All files are shown with this owner, before squash_to_root", |c, v| squash(&mut c.ids.users, v)),
    word("squash_to_gid", Value("GID"), "All files are shown with this group, before squash_to_root", |c, v| squash(&mut c.ids.groups, v)),
    word("uid", Value("UID"), "The same as squash_to_uid", |c, v| squash(&mut c.ids.users, v)),
    word("gid", Value("GID"), "The same as squash_to_gid", |c, v| squash(&mut c.ids.groups, v)),
    word("xattr_permissions", Value("0|1|2"), "Owner, mode and device numbers are kept in an attribute instead of the inode: 1 security.fuseoverlayfs.override_stat, 2 user.containers.override_stat", xattr_permissions),
    // What is shown.
    word("allow_other", Nothing, "Everyone may use the mount (the default for root)", |c, _| { c.allow_other = Some(true); Ok(()) }),
    word("noallow_other", Nothing, "Only the user who mounts may use it", |c, _| { c.allow_other = Some(false); Ok(()) }),
    word("allow_root", Nothing, "The same as noallow_other, which on root's mounts is root alone; into a user's own mount the kernel lets root only with its parameter fuse.allow_sys_admin_access=Y", |c, _| { c.allow_other = Some(false); Ok(()) }),
    word("default_permissions", Nothing, "The kernel checks modes and ACLs (the default)", |c, _| { c.default_permissions = Some(true); Ok(()) }),
    word("nodefault_permissions", Nothing, "Modes are not checked: for a mount that only its owner uses", |c, _| { c.default_permissions = Some(false); Ok(()) }),
    word("relaxed_permissions", Nothing, "The same as nodefault_permissions", |c, _| { c.default_permissions = Some(false); Ok(()) }),
    word("acl", Nothing, "Access control lists are enforced (the default)", |c, _| { c.no_acl = false; Ok(()) }),
    word("noacl", Nothing, "Access control lists are not served", |c, _| { c.no_acl = true; Ok(()) }),
    word("noxattrs", Either("0|1"), "Extended attributes are not served", |c, v| { c.no_xattrs = truth(v)?; Ok(()) }),
    word("ino32_t", Nothing, "Inode numbers fit 32 bits", |c, _| { c.ino32 = true; Ok(()) }),
    word("timeout", Value("SECONDS"), "How long the kernel may believe what it was told; 0 where branches change behind the union's back. For good by default", |c, v| { c.timeout = Some(seconds(v)?); Ok(()) }),
    word("entry_timeout", Value("SECONDS"), "The same; of several the smallest counts", shorten),
    word("attr_timeout", Value("SECONDS"), "The same", shorten),
    word("negative_timeout", Value("SECONDS"), "The same", shorten),
    word("context", Value("LABEL"), "Without effect, as in fuse-overlayfs: how SELinux labels a FUSE mount is its policy's", NO_EFFECT),
    word("auto_unmount", Nothing, "Without effect, as in fuse-overlayfs: a server that is told to end unmounts, one that is killed leaves that to 'unionfs umount'", NO_EFFECT),
    word("fsname", Value("NAME"), "The source that /proc/mounts shows", |c, v| { c.fsname = Some(text(v)?.to_owned()); Ok(()) }),
    word("subtype", Value("NAME"), "The type that /proc/mounts shows behind 'fuse.'", |c, v| { c.subtype = Some(text(v)?.to_owned()); Ok(()) }),
    // How it is served.
    word("io", Value("MODE"), "How the data of files is reached: auto, stateless, passthrough or passthrough-all (large lower files too; who has one open when it is copied up keeps the old content)", |c, v| parsed(&mut c.io, v)),
    word("transport", Value("KIND"), "How requests come: auto, classic (/dev/fuse) or uring (io_uring, Linux 6.14 and enabled)", |c, v| parsed(&mut c.transport, v)),
    word("threads", Value("1…64"), "How many threads serve at most", threads),
    word("max_files", Value("NUMBER"), "How many files the server may have open; all that the limits allow by default", |c, v| { c.max_files = Some(number(v)?); Ok(()) }),
    word("nonempty", Nothing, "The mount point may have files in it", |c, _| { c.nonempty = true; Ok(()) }),
    // A mount that is there.
    word("remount", Nothing, "Change a mount: ro, rw and the words below", |c, _| { c.remount = true; Ok(()) }),
    word("add", Value("[INDEX:]BRANCH"), "Insert a branch, on top without an index", |c, v| change(c, "add", v)),
    word("ins", Value("INDEX:BRANCH"), "The same", |c, v| change(c, "ins", v)),
    word("append", Value("BRANCH"), "Add a branch at the bottom", |c, v| change(c, "append", v)),
    word("prepend", Value("BRANCH"), "Add a branch on top", |c, v| change(c, "prepend", v)),
    word("del", Value("DIR"), "Take a branch away", |c, v| change(c, "del", v)),
    word("mod", Value("DIR=PERM"), "Change a branch's permission", |c, v| change(c, "mod", v)),
    // Kernel overlay's, where one answer is always right here.
    word("redirect_dir", Value("on|follow|off"), "Directories can always be renamed, and redirects are always followed", |_, v| one_of(v, &["on", "follow", "off"], "redirects cannot be left unfollowed: write on, follow or off")),
    word("index", Value("on|off"), "Hard links are always kept together", |_, v| one_of(v, &["on", "off"], "write on or off")),
    word("xino", Either("on|off|auto|FILE"), "Inode numbers are always unique and stay over a remount", NO_EFFECT),
    word("nfs_export", Value("off"), "The mount cannot be exported by NFS", |_, v| one_of(v, &["off"], "nfs_export=on is not done: a FUSE mount with names in memory has no lasting handles")),
    word("uuid", Value("off|null|auto"), "The filesystem has no UUID", |_, v| one_of(v, &["off", "null", "auto"], "a FUSE mount has no UUID: write off, null or auto")),
    word("verity", Value("off"), "Digests are not checked", |_, v| one_of(v, &["off"], "fs-verity digests are not checked: mount with kernel overlay for verity=")),
    word("datadir+", Value("DIR"), "Refused: there are no data-only branches", |_, _| Err("data-only branches are not supported: give the directory as lowerdir+=".into())),
    word("plugins", Value("FILE"), "Refused: there are no plugins", |_, _| Err("plugins are not supported: their layers would be missing".into())),
    word("udba", Value("none|reval|notify"), "What of branches that change behind the union's back: nothing (the default), ask anew each time, or watch them", |c, v| parsed(&mut c.udba, v)),
];

/// Words that are accepted and do nothing here: what they ask for is always so, or belongs to another implementation.
#[rustfmt::skip]
pub(crate) const NO_MEANING: &[&str] = &[
    // fuse-overlayfs and kernel overlay: attributes count without a lookup, links of directories are 1, labels of
    // SELinux are the kernel's.
    "static_nlink", "fast_ino", "fast_ino_check", "threaded", "fscontext", "defcontext", "rootcontext",
    "userxattr", "override_creds", "nooverride_creds",
    // unionfs-fuse: copy-on-write is always on, nothing of ours shows in the mount.
    "cow", "preserve_branch", "hide_meta_dir", "hide_meta_files", "noinitgroups", "statfs_omit_ro", "debug_file",
    "stats",
    // aufs: pseudo links, its caches and its tables.
    "noxino", "trunc_xino", "trunc_xino_path", "itrunc_xino", "trunc_xib", "notrunc_xib", "plink", "noplink",
    "clean_plink", "list_plink", "nosum", "dirwh", "rdcache", "rdblk", "rdhash", "warn_perm", "nowarn_perm",
    "verbose", "v", "quiet", "q", "dio", "nodio", "diropq", "nodirperm1", "nodirren", "dirren",
    // libfuse.
    "use_ino", "readdir_ino", "kernel_cache", "auto_cache", "noauto_cache", "direct_io", "intr", "intr_signal",
    "hard_remove", "noforget", "remember", "nopath", "big_writes", "large_read", "async_read", "sync_read",
    "atomic_o_trunc", "splice_read", "splice_write", "splice_move", "no_splice_read", "no_splice_write",
    "no_splice_move", "max_read", "max_write", "max_readahead", "max_background", "congestion_threshold",
    "ac_attr_timeout", "clone_fd", "max_idle_threads", "max_threads", "async_dio", "no_remote_lock",
    "no_remote_flock", "no_remote_posix_lock", "fd", "rootmode", "user_id", "group_id", "blksize",
    // mount(8) and fstab(5).
    "defaults", "auto", "noauto", "user", "nouser", "users", "owner", "group", "_netdev", "nofail", "silent", "loud",
    "mand", "nomand", "comment", "uhelper", "helper", "lazytime", "nolazytime",
];

/// Words that change a flag of mount(2): the word, the flag, whether it is set.
#[rustfmt::skip]
pub(crate) const FLAGS: [(&str, MountFlags, bool); 22] = [
    ("ro", MountFlags::READ_ONLY, true), ("rw", MountFlags::READ_ONLY, false),
    ("nodev", MountFlags::NODEV, true), ("dev", MountFlags::NODEV, false),
    ("nosuid", MountFlags::NOSUID, true), ("suid", MountFlags::NOSUID, false),
    ("noexec", MountFlags::NOEXEC, true), ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true), ("atime", MountFlags::NOATIME, false),
    ("relatime", MountFlags::NOATIME, false), ("norelatime", MountFlags::NOATIME, false),
    ("strictatime", MountFlags::NOATIME, false), ("nostrictatime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true), ("diratime", MountFlags::NODIRATIME, false),
    ("sync", MountFlags::SYNC, true), ("async", MountFlags::SYNC, false),
    ("dirsync", MountFlags::DIRSYNC, true), ("nosymfollow", MountFlags::NOSYMFOLLOW, true),
    ("symfollow", MountFlags::NOSYMFOLLOW, false), ("suiddir", MountFlags::NOSUID, false),
];

/// aufs's words that may have a colon in the place of `=` (aufs(5)).
pub(crate) const COLON: &[&[u8]] = &[b"br", b"add", b"ins", b"append", b"prepend", b"del", b"mod"];

/// The word of this name.
pub(crate) fn find(name: &[u8]) -> Option<Word> {
    let known = WORDS.iter().find(|word| word.name.as_bytes() == name).copied();
    let ignored = || NO_MEANING.iter().find(|word| word.as_bytes() == name);
    known.or_else(|| ignored().map(|name| word(name, Either("VALUE"), "", NO_EFFECT)))
}

/// Whether a word is meant for other programs that read fstab(5): `x-systemd.…`, `X-mount.…`.
pub(crate) fn is_for_others(word: &[u8]) -> bool {
    word.starts_with(b"x-") || word.starts_with(b"X-")
}

/// All words with their meaning, for `--help` and the manual.
pub(crate) fn help() -> String {
    let mut text = "Mount options:\n".to_owned();
    for word in WORDS {
        text.push_str(&format!("  {}\n          {}\n", word.spelling(), word.help));
    }
    text.push_str(
        "  ro, rw, [no]dev, [no]suid, [no]exec, [no]atime, [no]diratime, sync, dirsync, nosymfollow\n",
    );
    text.push_str("          As in mount(8)\n\n");
    text.push_str("Accepted without effect: ");
    text.push_str(&NO_MEANING.join(", "));
    text.push_str(", x-…");
    text
}

fn text(value: &OsStr) -> Result<&str, &'static str> {
    value.to_str().ok_or("write UTF-8")
}

fn number(value: &OsStr) -> Result<u64, &'static str> {
    text(value)?.parse().map_err(|_| "write a number")
}

/// A word alone is true.
fn truth(value: &OsStr) -> Result<bool, &'static str> {
    match text(value)? {
        "" | "1" => Ok(true),
        "0" => Ok(false),
        _ => Err("write 0 or 1"),
    }
}

/// A policy, read as its own type reads it.
fn parsed<T: FromStr>(policy: &mut T, value: &OsStr) -> Outcome
where
    T::Err: ToString,
{
    *policy = text(value)?.parse::<T>().map_err(|refused| refused.to_string())?;
    Ok(())
}

/// `4G`: a number of bytes, K, M, G and T counting by 1024.
fn size(text: &str) -> Option<u64> {
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

fn seconds(value: &OsStr) -> Result<Duration, &'static str> {
    // What is longer than a Duration is for good, too.
    let seconds = text(value)?.parse::<f64>().ok().filter(|seconds| *seconds >= 0.0);
    let seconds = seconds.ok_or("write a number of seconds")?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn shorten(choice: &mut MountChoice, value: &OsStr) -> Outcome {
    let timeout = seconds(value)?;
    choice.timeout = Some(choice.timeout.map_or(timeout, |shorter| shorter.min(timeout)));
    Ok(())
}

fn format(choice: &mut MountChoice, value: &OsStr) -> Outcome {
    choice.format = Some(match text(value)? {
        "aufs" => Format::Aufs,
        "overlay" => Format::Overlay,
        _ => return Err("write aufs or overlay".into()),
    });
    Ok(())
}

fn threads(choice: &mut MountChoice, value: &OsStr) -> Outcome {
    match text(value)?.parse() {
        Ok(threads @ 1..=64) => choice.threads = Some(threads),
        _ => return Err("write a number from 1 to 64".into()),
    }
    Ok(())
}

fn add_lower(choice: &mut MountChoice, value: &OsStr) -> Outcome {
    let lower = choice.lower.get_or_insert_default();
    if !lower.is_empty() {
        lower.push(":");
    }
    lower.push(value);
    Ok(())
}

/// A squash set before stays, for it outranks mappings.
fn map(rule: &mut IdRule, value: &OsStr) -> Outcome {
    let map = IdMap::parse(text(value)?).map_err(|refused| refused.to_string())?;
    if !rule.squashes() {
        *rule = IdRule::Map(map);
    }
    Ok(())
}

fn squash(rule: &mut IdRule, value: &OsStr) -> Outcome {
    let id = text(value)?.parse().ok().filter(|&id| id != u32::MAX);
    *rule = IdRule::Squash(id.ok_or("write a numeric id")?);
    Ok(())
}

/// Root takes the place of mappings, not of an id that was named.
fn squash_to_root(choice: &mut MountChoice, _: &OsStr) -> Outcome {
    for rule in [&mut choice.ids.users, &mut choice.ids.groups] {
        if !rule.squashes() {
            *rule = IdRule::Squash(0);
        }
    }
    Ok(())
}

fn xattr_permissions(choice: &mut MountChoice, value: &OsStr) -> Outcome {
    choice.override_stat = match text(value)? {
        "0" => None,
        "1" => Some(OverrideStat::Privileged),
        "2" => Some(OverrideStat::Containers),
        _ => return Err("write 0, 1 or 2".into()),
    };
    Ok(())
}

fn change(choice: &mut MountChoice, verb: &'static str, value: &OsStr) -> Outcome {
    choice.changes.push((verb, value.to_owned()));
    Ok(())
}

fn one_of(value: &OsStr, allowed: &[&str], want: &'static str) -> Outcome {
    if allowed.iter().any(|word| value == *word) { Ok(()) } else { Err(want.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_told_twice() {
        let words = WORDS.iter().map(|word| word.name);
        let mut all: Vec<_> =
            words.chain(NO_MEANING.iter().copied()).chain(FLAGS.map(|(word, ..)| word)).collect();
        all.sort_unstable();
        let twice: Vec<_> = all.windows(2).filter(|pair| pair[0] == pair[1]).collect();
        assert!(twice.is_empty(), "{twice:?}");
    }
}
