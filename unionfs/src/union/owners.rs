//! Whose an object is and what it is: as its inode says, as an attribute says instead, and as ids are shown.
//!
//! All that the union tells goes through [`Union::meant`] and [`Union::shown_ids`], all that it writes through the others, so that the rest of
//! the union knows nothing of mappings and attributes.

use rustix::fs::{FileType, Mode, Stat};

use super::Union;
use crate::branch::BranchError;
use crate::creds::ActingAs;
use crate::error::{At, Errno, Error, Result};
use crate::ids::{IdRule, OVERFLOW, translate_acl};
use crate::inode::Body;
use crate::override_stat::{Key, OverrideStat, Record};
use crate::place::Place;
use crate::types::{BranchIndex, FileKind, NewNode, SetAttr};

/// The mode on disk of what an attribute gives its mode: nobody but the server gets at it.
const PRIVATE_FILE: u32 = 0o600;
const PRIVATE_DIR: u32 = 0o700;

impl Union {
    /// The attribute that a branch's objects are read by, if any.
    pub(super) fn override_key(&self, branch: BranchIndex) -> Option<Key> {
        match self.options.override_stat {
            OverrideStat::Off => None,
            OverrideStat::Read => self.branch(branch).override_key(),
            _ => self.written_key(branch).or_else(|| self.branch(branch).override_key()),
        }
    }

    /// The attribute that is written on a branch, if any.
    fn written_key(&self, branch: BranchIndex) -> Option<Key> {
        let key = match self.options.override_stat {
            OverrideStat::Off | OverrideStat::Read => self.override_key_of_written(branch)?,
            OverrideStat::Privileged => Key::Privileged,
            OverrideStat::Containers => Key::Containers,
        };
        self.is_writable(branch).then_some(key)
    }

    /// A branch that is read by attributes goes on being written with them.
    fn override_key_of_written(&self, branch: BranchIndex) -> Option<Key> {
        let reads = self.options.override_stat == OverrideStat::Read;
        self.branch(branch).override_key().filter(|key| reads && *key != Key::Legacy)
    }

    /// An inode's stat as its branch means it: owner, mode and kind from an attribute, where there is one.
    pub(super) fn meant(&self, branch: BranchIndex, place: &Place, mut stat: Stat) -> Stat {
        if let Some(record) = self.override_key(branch).and_then(|key| key.read(place, &stat)) {
            record.apply(&mut stat);
        }
        stat
    }

    /// The owner and group that users are shown.
    pub(super) fn shown_ids(&self, stat: &Stat) -> (u32, u32) {
        let ids = &self.options.ids;
        (ids.users.shown(stat.st_uid), ids.groups.shown(stat.st_gid))
    }

    /// Makes what is new be the caller's, until the value goes; who has no id on disk becomes nobody.
    pub(super) fn acting_as(&self, branch: BranchIndex, new: &NewNode) -> Option<ActingAs> {
        if self.written_key(branch).is_some() {
            return None;
        }
        let (uid, gid) = self.stored_ids(new);
        ActingAs::new(uid, gid)
    }

    fn stored_ids(&self, new: &NewNode) -> (u32, u32) {
        let ids = &self.options.ids;
        (ids.users.stored(new.uid).unwrap_or(OVERFLOW), ids.groups.stored(new.gid).unwrap_or(OVERFLOW))
    }

    /// The type that an object of this kind has on a branch's disk.
    pub(super) fn disk_form(&self, branch: BranchIndex, kind: FileKind) -> FileType {
        let plain = matches!(kind, FileKind::Directory | FileKind::Symlink);
        match self.written_key(branch) {
            Some(_) if !plain => FileType::RegularFile,
            _ => FileType::from_raw_mode(kind.mode_bits()),
        }
    }

    /// The mode with which an object is made on a branch.
    pub(super) fn disk_mode(&self, branch: BranchIndex, kind: FileKind, mode: Mode) -> Mode {
        match (self.written_key(branch), kind) {
            (None, _) => mode,
            (Some(_), FileKind::Directory) => Mode::from_raw_mode(PRIVATE_DIR),
            (Some(_), _) => Mode::from_raw_mode(PRIVATE_FILE),
        }
    }

    /// Writes down what a new object is, where its inode does not say; `parent` is its directory.
    pub(super) fn describe_new(
        &self,
        branch: BranchIndex,
        parent: &Place,
        made: &Place,
        what: (FileKind, u64),
        new: &NewNode,
        mode: Mode,
    ) -> Result<(), Errno> {
        let Some(key) = self.written_key(branch) else { return Ok(()) };
        let (kind, rdev) = what;
        let (uid, mut gid) = self.stored_ids(new);
        let mut mode = mode.as_raw_mode();
        let above = self.meant(branch, parent, parent.stat()?);
        // As inode_init_owner() does for objects whose inode says it (inode(7)).
        if above.st_mode & libc::S_ISGID != 0 {
            gid = above.st_gid;
            mode |= if kind == FileKind::Directory { libc::S_ISGID } else { 0 };
        }
        key.write(made, &Record { uid, gid, mode, kind, rdev })
    }

    /// Changes owner and mode as SETATTR asks for it.
    pub(super) fn change_owner(&self, branch: BranchIndex, place: &Place, change: &SetAttr) -> Result<()> {
        let (uid, gid) = self.stored_change(change)?;
        if let Some(key) = self.written_key(branch) {
            return self.change_record(key, branch, place, (uid, gid), change);
        }
        if uid.is_some() || gid.is_some() {
            place.chown(uid, gid).during("fchownat")?;
        }
        match change.mode {
            Some(mode) => place.chmod(mode).during("fchmodat"),
            None if change.kill_suidgid => {
                let mode = place.stat().during("statx")?.st_mode;
                let cleared = without_set_ids(mode);
                if cleared == mode { Ok(()) } else { place.chmod(cleared).during("fchmodat") }
            }
            None => Ok(()),
        }
    }

    /// The ids on disk of a new owner and group; none where all are shown as one anyway.
    fn stored_change(&self, change: &SetAttr) -> Result<(Option<u32>, Option<u32>)> {
        let stored = |rule: &IdRule, id: Option<u32>| match id.filter(|_| !rule.squashes()) {
            // As an idmapped mount answers (notify_change() in fs/attr.c).
            Some(id) => rule.stored(id).ok_or(Error::rule("id mapping", Errno::OVERFLOW)).map(Some),
            None => Ok(None),
        };
        let ids = &self.options.ids;
        Ok((stored(&ids.users, change.uid)?, stored(&ids.groups, change.gid)?))
    }

    fn change_record(
        &self,
        key: Key,
        branch: BranchIndex,
        place: &Place,
        (uid, gid): (Option<u32>, Option<u32>),
        change: &SetAttr,
    ) -> Result<()> {
        let before = Record::of(&self.meant(branch, place, place.stat().during("statx")?));
        let mut after = before;
        after.uid = uid.unwrap_or(before.uid);
        after.gid = gid.unwrap_or(before.gid);
        // What chown(2) does to the bits of an inode.
        let chowned = (uid.is_some() || gid.is_some()) && before.kind != FileKind::Directory;
        if chowned || change.kill_suidgid {
            after.mode = without_set_ids(before.mode);
        }
        after.mode = change.mode.map_or(after.mode, |mode| mode & 0o7777);
        if after == before { Ok(()) } else { key.write(place, &after).during("setxattr") }
    }

    /// Gives a copy its origin's owner and mode; `meant` is the origin's stat as [`Union::meant`] tells it.
    pub(super) fn copy_owner(&self, to: BranchIndex, meant: &Stat, copy: &Place) -> Result<(), Errno> {
        if let Some(key) = self.written_key(to) {
            return key.write(copy, &Record::of(meant));
        }
        copy.chown(Some(meant.st_uid), Some(meant.st_gid))?;
        match FileKind::from_mode(meant.st_mode) {
            FileKind::Symlink => Ok(()),
            _ => copy.chmod(meant.st_mode),
        }
    }

    /// Refuses what users may not have of access control lists.
    pub(super) fn must_serve(&self, name: &[u8]) -> Result<()> {
        let refused = self.options.no_acl && is_acl(name);
        if refused { Err(Error::rule("access control list", Errno::OPNOTSUPP)) } else { Ok(()) }
    }

    /// The name on disk of an attribute; `EPERM` for one that is not for users, `EOPNOTSUPP` for lists that the
    /// attribute in the mode's place cannot follow.
    pub(super) fn xattr_on_disk(&self, branch: BranchIndex, name: Vec<u8>) -> Result<Vec<u8>> {
        match self.override_key(branch) {
            None => Ok(name),
            Some(_) if is_acl(&name) => Err(Error::rule("access control list", Errno::OPNOTSUPP)),
            Some(key) => key.name_on_disk(&name).ok_or(Error::rule("reserved attribute", Errno::PERM)),
        }
    }

    /// The name that users see of an attribute on disk, if they do.
    pub(super) fn xattr_shown<'a>(&self, branch: BranchIndex, name: &'a [u8]) -> Option<&'a [u8]> {
        match self.override_key(branch) {
            None => Some(name),
            Some(_) if is_acl(name) => None,
            Some(key) => key.name_shown(name),
        }
    }

    /// The value of an attribute as users see it.
    pub(super) fn xattr_value_shown(&self, name: &[u8], value: Vec<u8>) -> Vec<u8> {
        let ids = &self.options.ids;
        if ids.is_identity() || !is_acl(name) {
            return value;
        }
        translate_acl(&value, |id| Some(ids.users.shown(id)), |id| Some(ids.groups.shown(id)))
            .unwrap_or(value)
    }

    /// The value on disk of an attribute that a user sets.
    pub(super) fn xattr_value_on_disk(&self, name: &[u8], value: &[u8]) -> Result<Vec<u8>> {
        let ids = &self.options.ids;
        if ids.is_identity() || !is_acl(name) {
            return Ok(value.to_vec());
        }
        translate_acl(value, |id| ids.users.stored(id), |id| ids.groups.stored(id))
            .ok_or(Error::rule("access control list", Errno::INVAL))
    }

    /// Makes a writable branch tell by its root that attributes count there, as who unites it next must know.
    pub(super) fn mark_override(&self) -> Result<(), BranchError> {
        for at in (0..self.branches.len()).map(super::index) {
            let branch = self.branch(at);
            let Some(key) = self.written_key(at).filter(|key| branch.override_key() != Some(*key)) else {
                continue;
            };
            let marked = branch
                .root_place()
                .and_then(|root| key.write(&root, &Record { uid: 0, gid: 0, ..Record::of(&root.stat()?) }));
            let path = branch.spec().path.clone();
            let hint = " (xattr_permissions= needs a branch that can hold the attribute)";
            marked.map_err(|errno| BranchError { path, op: "setxattr", errno, hint })?;
        }
        Ok(())
    }
}

/// The branch on which an object is found.
pub(super) fn branch_of(body: &Body) -> BranchIndex {
    match body {
        Body::Dir(dir) => {
            let layers = dir.layers.as_deref().unwrap_or(&dir.candidates);
            layers.first().copied().unwrap_or(BranchIndex::new(0))
        }
        Body::File(file) => file.branch,
    }
}

/// Clears set-user-ID, and set-group-ID where the group may execute, as a write by a user without CAP_FSETID does
/// (inode(7)).
const fn without_set_ids(mode: u32) -> u32 {
    let group = if mode & libc::S_IXGRP == 0 { 0 } else { libc::S_ISGID };
    mode & !(libc::S_ISUID | group)
}

pub(super) fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}
