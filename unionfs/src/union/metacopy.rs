//! Files of which kernel overlay copied up the metadata only: their content is looked for further down.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{AtFlags, Mode, OFlags, openat, statat};

use super::resolve::{REDIRECTS, absolute};
use super::{Union, path_on};
use crate::dir::DirBody;
use crate::error::{At, Errno, Error, Result};
use crate::inode::{Located, Node};
use crate::marks::read_metacopy;
use crate::place::Place;
use crate::types::{BranchIndex, FileKind, Name};

impl Union {
    /// Where the content of the file `name` on `branch` is, if not in itself.
    pub(super) fn data_of_metacopy(
        &self,
        dir: &Node,
        state: &DirBody,
        name: Name<'_>,
        branch: BranchIndex,
        place: &Place,
    ) -> Result<Option<Arc<Located>>> {
        let Some(redirect) = read_metacopy(place) else { return Ok(None) };
        let target = redirect.unwrap_or_else(|| name.as_bytes().to_vec());
        let (dirs, file) = if target.starts_with(b"/") {
            let path = absolute(&[], &target);
            let at = path.iter().rposition(|&byte| byte == b'/');
            let (parent, file) = at.map_or((&[][..], &path[..]), |at| (&path[..at], &path[at + 1..]));
            (self.follow(branch, parent, REDIRECTS)?, file.to_vec())
        } else {
            let _still = self.topology.read();
            let below = state.layers.iter().flatten().filter(|&&layer| layer > branch);
            (below.map(|&layer| (layer, path_on(dir, layer).into())).collect(), target)
        };
        for (layer, parent) in dirs {
            let fd = Arc::new(self.branch(layer).open_dir(&parent).at("openat2", layer)?);
            match statat(&fd, file.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) if FileKind::from_mode(stat.st_mode) == FileKind::Regular => {
                    let here = Place::Name(fd, file.as_slice().into());
                    if read_metacopy(&here).is_some() {
                        continue;
                    }
                    let path = if parent.is_empty() { file } else { [&*parent, &file].join(&b'/') };
                    return Ok(Some(Arc::new((layer, path.into()))));
                }
                Ok(_) => break,
                Err(Errno::NOENT) => {}
                Err(errno) => return Err(errno).at("statx", layer),
            }
        }
        Err(Error { op: "content of a metadata-only copy", branch: Some(branch), errno: Errno::IO })
    }

    /// Opens the content of such a file for reading.
    pub(super) fn open_located(&self, (branch, path): &Located) -> Result<OwnedFd> {
        let at = path.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = at.map_or((&[][..], &path[..]), |at| (&path[..at], &path[at + 1..]));
        let dir = self.branch(*branch).open_dir(parent).at("openat2", *branch)?;
        openat(&dir, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
            .at("openat", *branch)
    }
}
