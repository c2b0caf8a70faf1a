//! Extended attributes: all of a user's, none of the formats' own.

use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::atomic::Ordering;

use rustix::fs::XattrFlags;

use super::Union;
use super::copy::Extent;
use super::owners::{branch_of, is_acl};
use super::udba::Udba;
use crate::branch::BranchSpec;
use crate::error::{At, Errno, Error, Result};
use crate::types::Ino;

/// What belongs to a union format: this one's, kernel overlay's, fuse-overlayfs's.
const PRIVATE: [&[u8]; 5] =
    [b"trusted.unionfs.", b"user.unionfs.", b"trusted.overlay.", b"user.overlay.", b"user.fuseoverlayfs."];

/// Whether an attribute on disk is a mark of a union and no user's.
///
/// A user of this union who stores such a name (a union or overlay nested on top) gets it escaped by one more
/// word, `trusted.overlay.overlay.opaque` as kernel overlay does it (overlayfs.rst, "Nesting overlayfs mounts").
pub(super) fn is_private(name: &[u8]) -> bool {
    split_private(name).is_some_and(|(prefix, rest)| !rest.starts_with(own_word(prefix)))
}

fn split_private(name: &[u8]) -> Option<(&'static [u8], &[u8])> {
    PRIVATE.iter().find_map(|&prefix| Some((prefix, name.strip_prefix(prefix)?)))
}

/// `overlay.` of `trusted.overlay.`.
fn own_word(prefix: &[u8]) -> &[u8] {
    let dot = prefix.iter().position(|&byte| byte == b'.').unwrap_or_default();
    &prefix[dot + 1..]
}

/// The name on disk of a name that a user gives.
pub(crate) fn escaped(name: &OsStr) -> Vec<u8> {
    let name = name.as_bytes();
    match split_private(name) {
        Some((prefix, rest)) => [prefix, own_word(prefix), rest].concat(),
        None => name.to_vec(),
    }
}

/// The name that a user sees of one on disk; `None` for a mark.
fn unescaped(name: &[u8]) -> Option<Vec<u8>> {
    match split_private(name) {
        Some((prefix, rest)) => Some([prefix, rest.strip_prefix(own_word(prefix))?].concat()),
        None => Some(name.to_vec()),
    }
}

/// The attribute of file capabilities (capabilities(7)).
const CAPABILITY: &str = "security.capability";

/// The virtual attribute of the root that tells the branches, one line each, like aufs's `/sys/fs/aufs/si_*/br*`.
/// `….branches.0`, `.1` and so on are its parts: an attribute holds 64 KiB at most (xattr(7)).
pub const BRANCHES: &str = "user.unionfs.ctl.branches";
/// Bytes of each part of that list but the last, which has fewer.
const PART: usize = 1 << 15;
/// The virtual attribute of the root that tells the format of new marks, `aufs` or `overlay`.
pub const FORMAT: &str = "user.unionfs.ctl.format";
/// The virtual attribute of the root that tells the work directory that was chosen, or nothing for the default.
pub const WORKDIR: &str = "user.unionfs.ctl.workdir";

/// The branches of the union mounted at `root`, a line `PATH=PERM` each.
///
/// # Errors
///
/// `ENODATA` or `EOPNOTSUPP` if that is no root of a union.
pub fn told_branches(root: &Path) -> std::result::Result<Vec<u8>, Errno> {
    let mut list = Vec::new();
    for part in 0.. {
        let had = list.len();
        list.resize(had + PART, 0);
        let len = rustix::fs::getxattr(root, format!("{BRANCHES}.{part}"), &mut list[had..])?;
        list.truncate(had + len);
        if len < PART {
            break;
        }
    }
    Ok(list)
}

impl Union {
    /// The value of an extended attribute.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none of this name.
    pub fn getxattr(&self, node: Ino, name: &OsStr) -> Result<Vec<u8>> {
        if let Some(told) = self.told(node, name) {
            return Ok(told);
        }
        let node = self.node(node)?;
        let capability = name == CAPABILITY && self.options.udba == Udba::None;
        if capability && node.no_capability.load(Ordering::Acquire) {
            return Err(Error::rule("getxattr", Errno::NODATA));
        }
        let body = node.body.read();
        self.must_serve(name.as_bytes())?;
        let on_disk = match self.xattr_on_disk(branch_of(&body), escaped(name)) {
            Err(Error { errno: Errno::PERM, .. }) => return Err(Error::rule("getxattr", Errno::NODATA)),
            name => name?,
        };
        let value = match self.place(&node, &body)?.read_xattr(&on_disk) {
            // The kernel asks for lists before it lets anybody open a file: a branch that can have none has none.
            Err(Errno::OPNOTSUPP) if is_acl(&on_disk) => Err(Errno::NODATA),
            value => value,
        };
        if capability && value == Err(Errno::NODATA) {
            node.no_capability.store(true, Ordering::Release);
        }
        Ok(self.xattr_value_shown(&on_disk, value.during("getxattr")?))
    }

    /// What a virtual attribute of the root tells.
    fn told(&self, node: Ino, name: &OsStr) -> Option<Vec<u8>> {
        if node != Ino::ROOT {
            return None;
        }
        match name.to_str()? {
            BRANCHES => Some(self.branch_lines()),
            FORMAT => Some(self.options.format.to_string().into_bytes()),
            WORKDIR => Some(self.options.workdir.clone()?.into_os_string().into_vec()),
            name => {
                let part: usize = name.strip_prefix(BRANCHES)?.strip_prefix('.')?.parse().ok()?;
                Some(self.branch_lines().chunks(PART).nth(part).unwrap_or_default().to_vec())
            }
        }
    }

    fn branch_lines(&self) -> Vec<u8> {
        let line = |branch: &BranchSpec| {
            [branch.path.as_os_str().as_bytes(), format!("={}\n", branch.perm).as_bytes()].concat()
        };
        self.branches().flat_map(line).collect()
    }

    /// The names of all extended attributes, each ended by NUL.
    ///
    /// # Errors
    ///
    /// What the branch said.
    pub fn listxattr(&self, node: Ino) -> Result<Vec<u8>> {
        let node = self.node(node)?;
        let body = node.body.read();
        let names = self.place(&node, &body)?.list_xattrs().during("listxattr")?;
        let mut shown = Vec::with_capacity(names.len());
        let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
        for name in names.filter(|name| self.must_serve(name).is_ok()) {
            if let Some(name) = self.xattr_shown(branch_of(&body), name).and_then(unescaped) {
                shown.extend_from_slice(&name);
                shown.push(0);
            }
        }
        Ok(shown)
    }

    /// Sets an extended attribute, copying the object up first; `flags` are `XATTR_CREATE` and `XATTR_REPLACE`.
    ///
    /// # Errors
    ///
    /// `EEXIST`, `ENODATA` by the flags, or what the branch said.
    pub fn setxattr(&self, node: Ino, name: &OsStr, value: &[u8], flags: u32) -> Result<()> {
        let node = self.node(node)?;
        self.must_serve(name.as_bytes())?;
        let name = escaped(name);
        let value = self.xattr_value_on_disk(&name, value)?;
        self.refuse_before_copying(node.ino, &name, flags)?;
        self.promote(&node, Extent::Metadata)?;
        let flags = XattrFlags::from_bits_retain(flags);
        {
            // Alone: nobody may find that there is none, and remember it after it was set.
            let body = node.body.write();
            node.no_capability.store(false, Ordering::Release);
            let name = self.xattr_on_disk(branch_of(&body), name.clone())?;
            self.place(&node, &body)?.setxattr(&name, &value, flags).during("setxattr")?;
        }
        if node.is_dir() && name == b"system.posix_acl_default" {
            node.body.write().dir_mut()?.default_acl = None;
        }
        Ok(())
    }

    /// A change that its flags forbid must not copy anything up.
    fn refuse_before_copying(&self, node: Ino, name: &[u8], flags: u32) -> Result<()> {
        let node = self.node(node)?;
        let flags = XattrFlags::from_bits_retain(flags);
        if flags.is_empty() {
            return Ok(());
        }
        let there = {
            let body = node.body.read();
            let name = self.xattr_on_disk(branch_of(&body), name.to_vec())?;
            self.place(&node, &body)?.read_xattr(&name)
        };
        match there {
            Ok(_) if flags.contains(XattrFlags::CREATE) => Err(Error::rule("setxattr", Errno::EXIST)),
            Err(Errno::NODATA) if flags.contains(XattrFlags::REPLACE) => {
                Err(Error::rule("setxattr", Errno::NODATA))
            }
            _ => Ok(()),
        }
    }

    /// Removes an extended attribute, copying the object up first.
    ///
    /// # Errors
    ///
    /// `ENODATA` if there is none of this name.
    pub fn removexattr(&self, node: Ino, name: &OsStr) -> Result<()> {
        let node = self.node(node)?;
        let name = escaped(name);
        {
            let body = node.body.read();
            let name = self.xattr_on_disk(branch_of(&body), name.clone())?;
            self.place(&node, &body)?.read_xattr(&name).during("removexattr")?;
        }
        self.promote(&node, Extent::Metadata)?;
        {
            let body = node.body.read();
            let name = self.xattr_on_disk(branch_of(&body), name.clone())?;
            self.place(&node, &body)?.removexattr(&name).during("removexattr")?;
        }
        if node.is_dir() && name == b"system.posix_acl_default" {
            node.body.write().dir_mut()?.default_acl = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_hidden_and_nested_marks_kept() {
        for (user, disk) in [
            ("user.a", "user.a"),
            ("trusted.overlay.opaque", "trusted.overlay.overlay.opaque"),
            ("user.overlay.overlay.x", "user.overlay.overlay.overlay.x"),
            ("user.fuseoverlayfs.opaque", "user.fuseoverlayfs.fuseoverlayfs.opaque"),
        ] {
            assert_eq!(escaped(OsStr::new(user)), disk.as_bytes(), "{user}");
            assert_eq!(unescaped(disk.as_bytes()).as_deref(), Some(user.as_bytes()), "{disk}");
            assert!(!is_private(disk.as_bytes()), "{disk}");
        }
        for mark in ["trusted.overlay.opaque", "user.unionfs.origin"] {
            assert!(is_private(mark.as_bytes()) && unescaped(mark.as_bytes()).is_none(), "{mark}");
        }
    }
}
