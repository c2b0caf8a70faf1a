//! `unionfs export`: the changes of an upper as a layer (OCI image spec, layer.md).
//!
//! Whiteouts are `.wh.NAME`, opaque directories have `.wh..wh..opq`, whatever format the upper has them in. What
//! belongs to a union and not to its user stays out: work directories, marks, `*.unionfs.*`, `*.overlay.*`. A renamed
//! directory, which on disk is little more than a mark that leads to the branches below, is written out whole and
//! opaque, for a layer has no such mark.
//!
//! Attributes go out under the name they have on disk: what a nested union stored (`trusted.overlay.overlay.opaque`)
//! stays escaped, so that it is no mark in the branch which the layer is unpacked to. `security.selinux` belongs to
//! the machine and stays out.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use super::changes::{Hidden, Object, Visitor, Walk};
use super::pax::{Archive, Item};
use super::{Subject, ToolError, joined};
use crate::error::Errno;
use crate::marks::{OPAQUE, WHITEOUT_PREFIX};
use crate::types::{BranchIndex, FileKind, Ino};
use crate::union::{CONTENT_LOST, Union, decode_device, escaped, split};

/// Bytes read from a file at a time.
const CHUNK: usize = 128 * 1024;
/// Belongs to the machine and its policy, not to the tree.
const SELINUX: &[u8] = b"security.selinux";

/// What a layer cannot hold as it is; the rest of it is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// A socket was left out: archives have none.
    Socket(Vec<u8>),
    /// A character device 0:0 went into the layer; unpacked for kernel overlay it is a whiteout.
    ZeroDevice(Vec<u8>),
}

/// Writes the layer to `out`, in one pass, its entries in an order that is always the same.
///
/// # Errors
///
/// A branch that cannot be read, `out` that cannot be written, a name that begins with `.wh.` (in a layer that is a
/// whiteout), or a renamed directory while the branches below are not known. `out` then holds no usable layer.
pub fn export<W: Write>(subject: &Subject, out: W) -> Result<(W, Vec<Notice>), ToolError> {
    let layer = subject.layer()?;
    let (merged, base) = (subject.merged()?, subject.base()?);
    let mut writer = Writer { out: Archive::new(out), names: HashMap::new(), notices: Vec::new() };
    Walk::new(subject, &layer, &merged, base.as_ref())?.run(&mut writer)?;
    Ok((writer.out.finish()?, writer.notices))
}

/// The identity of a file, and the inode behind it: a forged record of an origin makes no two files one.
type Inode = (Ino, Option<(BranchIndex, u64)>);

struct Writer<W: Write> {
    out: Archive<W>,
    /// The first name of each file that has several.
    names: HashMap<Inode, Vec<u8>>,
    notices: Vec<Notice>,
}

impl<W: Write> Writer<W> {
    fn write(&mut self, union: &Union, object: &Object<'_>) -> Result<(), ToolError> {
        let (path, node, attr) = (object.path, object.entry.node, &object.entry.attr);
        let fail = || ToolError::merged(path);
        let mut item = Item::new(&entry_name(path, attr.kind()), attr);
        if attr.kind() != FileKind::Directory && attr.nlink > 1 {
            let file = (node, union.inode_of(node).map_err(fail())?);
            if let Some(first) = self.names.get(&file) {
                item.hard_link(first);
                return Ok(self.out.add(item)?);
            }
            self.names.insert(file, path.to_vec());
        }
        for (name, value) in xattrs(union, node).map_err(fail())? {
            item.xattr(&name, value);
        }
        match attr.kind() {
            FileKind::Symlink => item.target(union.readlink(node).map_err(fail())?.as_bytes()),
            FileKind::CharDevice | FileKind::BlockDevice => item.device(decode_device(attr.rdev))?,
            FileKind::Regular => {
                let content = Content { union, node, at: 0 };
                let content = io::BufReader::with_capacity(CHUNK, content);
                return self.out.add_file(item, attr.size, content).map_err(|error| unread(path, error));
            }
            _ => {}
        }
        Ok(self.out.add(item)?)
    }
}

impl<W: Write> Visitor for Writer<W> {
    fn object(&mut self, merged: &Union, object: &Object<'_>) -> Result<(), ToolError> {
        let attr = &object.entry.attr;
        if split(object.path).1.starts_with(WHITEOUT_PREFIX) {
            return Err(ToolError::refused(
                object.path,
                "a name that begins with \".wh.\" is a whiteout in a layer: rename it",
            ));
        }
        if attr.kind() == FileKind::Socket {
            self.notices.push(Notice::Socket(object.path.to_vec()));
            return Ok(());
        }
        if attr.kind() == FileKind::CharDevice && attr.rdev == 0 {
            self.notices.push(Notice::ZeroDevice(object.path.to_vec()));
        }
        self.write(merged, object)
    }

    fn opaque(&mut self, path: &[u8]) -> Result<(), ToolError> {
        Ok(self.out.add(Item::mark(&joined(path, OPAQUE)))?)
    }

    fn hidden(&mut self, hidden: &Hidden<'_>) -> Result<(), ToolError> {
        if hidden.implied {
            return Ok(());
        }
        let (dir, name) = split(hidden.path);
        Ok(self.out.add(Item::mark(&joined(dir, &[WHITEOUT_PREFIX, name].concat())))?)
    }
}

/// The name of an object's entry: relative, a directory's with a slash at its end.
fn entry_name(path: &[u8], kind: FileKind) -> Vec<u8> {
    match kind {
        FileKind::Directory if path.is_empty() => b"./".to_vec(),
        FileKind::Directory => [path, b"/"].concat(),
        _ => path.to_vec(),
    }
}

/// A user's attributes, by their names on disk.
fn xattrs(union: &Union, node: Ino) -> crate::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let names = match union.listxattr(node) {
        Err(error) if error.errno == Errno::OPNOTSUPP => return Ok(Vec::new()),
        names => names?,
    };
    let mut found = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| !name.is_empty() && *name != SELINUX) {
        let value = union.getxattr(node, &OsString::from_vec(name.to_vec()))?;
        found.push((escaped(OsStr::from_bytes(name)), value));
    }
    Ok(found)
}

/// Tells a failure to read the file from one to write the archive.
fn unread(path: &[u8], error: io::Error) -> ToolError {
    let read = error.get_ref().and_then(|inner| inner.downcast_ref::<crate::Error>());
    match read {
        Some(read) if read.op == CONTENT_LOST => ToolError::refused(
            path,
            "only its metadata is here, and its content in the branches below: name all of them with --lower",
        ),
        Some(read) => ToolError::merged(path)(*read),
        None if error.kind() == io::ErrorKind::UnexpectedEof => ToolError::refused(
            path,
            "the file became shorter while it was read: export again while nobody writes it",
        ),
        None => ToolError::Output(error),
    }
}

/// A file's content, read through the union.
struct Content<'a> {
    union: &'a Union,
    node: Ino,
    at: u64,
}

impl Read for Content<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let len = self.union.read(self.node, self.at, buf).map_err(io::Error::other)?;
        self.at += len as u64;
        Ok(len)
    }
}
