//! Random operations: as indices, so that every shrunk sequence still means something, and then as paths.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::collection::vec;
use proptest::prelude::*;
use unionfs::{Errno, FileKind, RenameFlags};

use super::layer::{NAMES, Put, pick, put};
use super::tree::Tree;
use crate::model::Model;

/// Which of a few open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot(pub(crate) u8);

const SLOTS: u8 = 3;

/// One operation as it is drawn; every index counts modulo what exists when it is carried out.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Create(u8, u8, u16),
    Mkdir(u8, u8, u16),
    Fifo(u8, u8),
    Symlink(u8, u8),
    Write(u8, u16, u16, u8),
    Truncate(u8, u16),
    Punch(u8, u16, u16),
    Unlink(u8),
    Rmdir(u8),
    Link(u8, u8, u8),
    Rename(u8, u8, u8, u8),
    Chmod(u8, u16),
    Chown(u8, u8),
    Utimes(u8, u16),
    SetXattr(u8, u8, u8),
    RemoveXattr(u8, u8),
    Open(u8, u8),
    WriteOpen(u8, u16, u8),
    Remount,
    /// The server is killed at so many system calls of an operation, and the union is mounted again.
    Crash(Box<Op>, u8),
    /// A branch is put in at a place of the list, writable or not.
    Add(u8, bool, Vec<Put>),
    /// A branch is taken out of the list.
    Del(u8),
    /// A branch becomes writable, or read-only.
    Mod(u8, bool),
}

/// One operation with its paths.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    Create(PathBuf, u32),
    Mkdir(PathBuf, u32),
    Fifo(PathBuf, u32),
    Symlink(PathBuf, String),
    Write { path: PathBuf, at: usize, data: Vec<u8> },
    Truncate(PathBuf, usize),
    Punch { path: PathBuf, at: usize, len: usize },
    Unlink(PathBuf),
    Rmdir(PathBuf),
    Link(PathBuf, PathBuf),
    Rename(PathBuf, PathBuf, RenameFlags),
    Chmod(PathBuf, u32),
    Chown(PathBuf, u32, u32),
    Utimes(PathBuf, i64),
    SetXattr(PathBuf, String, Vec<u8>),
    RemoveXattr(PathBuf, String),
    Open(Slot, PathBuf),
    WriteOpen { slot: Slot, at: usize, data: Vec<u8> },
    Remount,
}

impl Action {
    /// The names that it is told.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        match self {
            Self::Link(from, to) | Self::Rename(from, to, _) => vec![from, to],
            Self::Create(path, _)
            | Self::Mkdir(path, _)
            | Self::Fifo(path, _)
            | Self::Symlink(path, _)
            | Self::Write { path, .. }
            | Self::Truncate(path, _)
            | Self::Punch { path, .. }
            | Self::Unlink(path)
            | Self::Rmdir(path)
            | Self::Chmod(path, _)
            | Self::Chown(path, ..)
            | Self::Utimes(path, _)
            | Self::SetXattr(path, ..)
            | Self::RemoveXattr(path, _)
            | Self::Open(_, path) => vec![path],
            Self::WriteOpen { .. } | Self::Remount => Vec::new(),
        }
    }
}

/// A file tree that operations change: the model, the core, a mount, a plain directory.
pub(crate) trait Subject {
    /// Carries out one operation.
    fn apply(&mut self, action: &Action) -> Result<(), Errno>;
    /// The whole tree as a user sees it.
    fn tree(&mut self) -> Tree;
    /// What a read of each open file gives.
    fn open_files(&mut self) -> BTreeMap<Slot, Vec<u8>>;
}

/// A random operation.
pub(crate) fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => any::<(u8, u8, u16)>().prop_map(|(d, n, m)| Op::Create(d, n, m)),
        4 => any::<(u8, u8, u16)>().prop_map(|(d, n, m)| Op::Mkdir(d, n, m)),
        1 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Fifo(d, n)),
        1 => any::<(u8, u8)>().prop_map(|(d, n)| Op::Symlink(d, n)),
        5 => (any::<u8>(), 0..9000_u16, 0..5000_u16, any::<u8>()).prop_map(|(f, at, len, b)| Op::Write(f, at, len, b)),
        2 => (any::<u8>(), 0..9000_u16).prop_map(|(f, size)| Op::Truncate(f, size)),
        1 => (any::<u8>(), 0..9000_u16, 1..9000_u16).prop_map(|(f, at, len)| Op::Punch(f, at, len)),
        6 => any::<u8>().prop_map(Op::Unlink),
        6 => any::<u8>().prop_map(Op::Rmdir),
        3 => any::<(u8, u8, u8)>().prop_map(|(f, d, n)| Op::Link(f, d, n)),
        9 => any::<(u8, u8, u8, u8)>().prop_map(|(f, d, n, how)| Op::Rename(f, d, n, how)),
        2 => any::<(u8, u16)>().prop_map(|(f, mode)| Op::Chmod(f, mode)),
        1 => any::<(u8, u8)>().prop_map(|(f, id)| Op::Chown(f, id)),
        1 => any::<(u8, u16)>().prop_map(|(f, time)| Op::Utimes(f, time)),
        2 => any::<(u8, u8, u8)>().prop_map(|(f, k, v)| Op::SetXattr(f, k, v)),
        1 => any::<(u8, u8)>().prop_map(|(f, k)| Op::RemoveXattr(f, k)),
        2 => any::<(u8, u8)>().prop_map(|(s, f)| Op::Open(s, f)),
        2 => (any::<u8>(), 0..9000_u16, any::<u8>()).prop_map(|(s, at, b)| Op::WriteOpen(s, at, b)),
        2 => Just(Op::Remount),
    ]
}

/// As [`op`], with crashes in between.
pub(crate) fn crashing() -> impl Strategy<Value = Op> {
    let struck = (op(), any::<u8>()).prop_map(|(op, nth)| Op::Crash(Box::new(op), nth));
    prop_oneof![24 => op(), 1 => struck]
}

/// As [`crashing`], with changes of the branches in between: read-only ones come and go, and the highest is written or
/// is not.
pub(crate) fn rearranging() -> impl Strategy<Value = Op> {
    let add = (any::<u8>(), vec(put(), 0..12));
    prop_oneof![
        60 => crashing(),
        1 => add.prop_map(|(at, steps)| Op::Add(at, false, steps)),
        1 => any::<u8>().prop_map(Op::Del),
        2 => any::<bool>().prop_map(|writable| Op::Mod(0, writable)),
    ]
}

impl Op {
    /// What this operation means in the present tree; `None` when there is nothing to do it to, or it is not done to a
    /// tree.
    pub(crate) fn resolve(&self, model: &Model) -> Option<Action> {
        let at = Place(model);
        Some(match *self {
            Self::Create(dir, name, mode) => Action::Create(at.name(dir, name)?, perm(mode)),
            Self::Mkdir(dir, name, mode) => Action::Mkdir(at.name(dir, name)?, perm(mode)),
            Self::Fifo(dir, name) => Action::Fifo(at.name(dir, name)?, 0o644),
            Self::Symlink(dir, name) => Action::Symlink(at.name(dir, name)?, format!("to-{name}")),
            Self::Write(file, offset, len, byte) => {
                let data = vec![byte; usize::from(len)];
                Action::Write { path: at.file(file)?, at: usize::from(offset), data }
            }
            Self::Truncate(file, size) => Action::Truncate(at.file(file)?, usize::from(size)),
            Self::Punch(file, offset, len) => {
                Action::Punch { path: at.file(file)?, at: usize::from(offset), len: usize::from(len) }
            }
            Self::Unlink(any) => Action::Unlink(at.any(any)?),
            Self::Rmdir(any) => Action::Rmdir(at.any(any)?),
            Self::Link(any, dir, name) => Action::Link(at.any(any)?, at.name(dir, name)?),
            Self::Rename(any, dir, name, how) => {
                Action::Rename(at.any(any)?, at.name(dir, name)?, rename_flags(how))
            }
            Self::Chmod(index, mode) => Action::Chmod(at.permitted(index)?, perm(mode)),
            Self::Chown(any, id) => Action::Chown(at.any(any)?, u32::from(id), u32::from(id / 2)),
            Self::Utimes(any, time) => Action::Utimes(at.any(any)?, i64::from(time)),
            Self::SetXattr(index, key, value) => {
                Action::SetXattr(at.attributed(index)?, xattr_name(key), vec![value; usize::from(value)])
            }
            Self::RemoveXattr(index, key) => Action::RemoveXattr(at.attributed(index)?, xattr_name(key)),
            Self::Open(slot, file) => Action::Open(Slot(slot % SLOTS), at.file(file)?),
            Self::WriteOpen(slot, offset, byte) => {
                let slot = pick(model.open_slots(), slot)?;
                Action::WriteOpen { slot, at: usize::from(offset), data: vec![byte; 100] }
            }
            Self::Remount => Action::Remount,
            Self::Crash(..) | Self::Add(..) | Self::Del(..) | Self::Mod(..) => return None,
        })
    }
}

/// Modes that root can always list and read, for trees are compared by reading.
fn perm(mode: u16) -> u32 {
    u32::from(mode) & 0o777
}

fn rename_flags(how: u8) -> RenameFlags {
    match how % 6 {
        0 => RenameFlags::NOREPLACE,
        1 | 2 => RenameFlags::EXCHANGE,
        _ => RenameFlags::empty(),
    }
}

fn xattr_name(key: u8) -> String {
    ["user.a", "user.layer", "trusted.b"][usize::from(key) % 3].into()
}

/// Picks objects of the present tree.
struct Place<'a>(&'a Model);

impl Place<'_> {
    fn of(&self, index: u8, fits: impl Fn(FileKind) -> bool) -> Option<PathBuf> {
        pick(self.0.iter().filter(|(_, node)| fits(node.kind)).map(|(path, _)| path.clone()), index)
    }

    fn file(&self, index: u8) -> Option<PathBuf> {
        self.of(index, |kind| kind == FileKind::Regular)
    }

    /// What chmod(2) can change; the root too.
    fn permitted(&self, index: u8) -> Option<PathBuf> {
        self.of(index, |kind| kind != FileKind::Symlink)
    }

    /// What can have `user.` attributes (xattr(7)); the root too.
    fn attributed(&self, index: u8) -> Option<PathBuf> {
        self.of(index, |kind| matches!(kind, FileKind::Regular | FileKind::Directory))
    }

    /// Anything but the root.
    fn any(&self, index: u8) -> Option<PathBuf> {
        pick(self.0.iter().map(|(path, _)| path.clone()).filter(|path| !path.as_os_str().is_empty()), index)
    }

    fn name(&self, dir: u8, name: u8) -> Option<PathBuf> {
        let dir = self.of(dir, |kind| kind == FileKind::Directory)?;
        Some(dir.join(NAMES[usize::from(name) % NAMES.len()]))
    }
}
