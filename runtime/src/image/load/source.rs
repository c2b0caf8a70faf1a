//! Where the parts of an image are read from: a directory, or a tar archive without unpacking it.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self as rfs, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::super::compress::{self, Compression, Unpacked};
use super::super::error::{Error, Result};
use super::super::session::Session;
use super::super::store::MAX_DOCUMENT;
use super::super::tar::{Kind, Source as TarSource, TarReader};
use super::super::tree;

/// How many links in an archive may lead on to others.
const MAX_LINKS: usize = 16;

/// A part of an image, open at its start.
pub(super) type Blob = Box<dyn Read + Send>;

/// A directory or an archive with the parts of images in it.
#[derive(Debug)]
pub(super) struct Source {
    /// What it is called in errors.
    pub(super) what: String,
    parts: Parts,
}

#[derive(Debug)]
enum Parts {
    Directory(OwnedFd),
    Archive { file: Arc<File>, members: HashMap<Vec<u8>, Member> },
}

/// A member of an archive.
#[derive(Clone, Debug)]
enum Member {
    Data { offset: u64, len: u64 },
    Link(Vec<u8>),
}

impl Source {
    /// Opens a directory or an archive.
    pub(super) fn open(session: &Session<'_>, path: &Path) -> Result<Self> {
        let what = path.display().to_string();
        let file = File::open(path).map_err(Error::io("cannot open", path))?;
        let kind = file.metadata().map_err(Error::io("cannot look at", path))?.file_type();
        if kind.is_dir() {
            return Ok(Self { what, parts: Parts::Directory(file.into()) });
        }
        if kind.is_file() { Self::archive(session, file, what) } else { Self::stream(session, file, &what) }
    }

    /// Takes an archive from a stream, which is kept in a file without a name meanwhile: what says which parts are layers
    /// may come last.
    pub(super) fn stream(session: &Session<'_>, stream: impl Read, what: &str) -> Result<Self> {
        let (kind, whole) = compress::peek(stream, what)?;
        let mut unpacked = Unpacked::new(kind, whole).map_err(Error::io("cannot read", what))?;
        let spool = spool(session).map_err(Error::io("cannot make a file to keep meanwhile", what))?;
        io::copy(&mut unpacked, &mut &spool).map_err(Error::io("cannot unpack", what))?;
        Self::index(spool, what.to_owned())
    }

    /// Takes an archive in a file; one that is compressed as a whole is unpacked first.
    fn archive(session: &Session<'_>, mut file: File, what: String) -> Result<Self> {
        let (kind, _) = compress::peek(&file, &what)?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io("cannot read", &what))?;
        if kind == Compression::Plain { Self::index(file, what) } else { Self::stream(session, file, &what) }
    }

    /// Notes where each member of the archive lies.
    fn index(file: File, what: String) -> Result<Self> {
        let wrong = |at| Error::Archive { archive: what.clone(), at };
        let file = Arc::new(file);
        let window = Window::whole(&file).map_err(Error::io("cannot read", &what))?;
        let mut reader = TarReader::new(Seeking(BufReader::with_capacity(1 << 14, window)), ());
        let mut members = HashMap::new();
        while let Some(entry) = reader.next().map_err(wrong)? {
            let member = match entry.kind {
                Kind::File => Member::Data { offset: reader.offset(), len: entry.size },
                Kind::Symlink => Member::Link(resolve(parent(&entry.path), &entry.link)),
                Kind::HardLink => Member::Link(resolve(b"", &entry.link)),
                _ => continue,
            };
            members.insert(resolve(b"", &entry.path), member);
        }
        Ok(Self { what, parts: Parts::Archive { file, members } })
    }

    /// Opens a part, `None` if there is none of this name; also tells its length.
    pub(super) fn part(&self, name: &str) -> Result<Option<(Blob, u64)>> {
        let (file, offset, len) = match &self.parts {
            Parts::Directory(dir) => {
                let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
                let fd = match tree::open_in(dir, name.as_bytes(), flags) {
                    Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
                    opened => opened.map_err(Error::os("cannot open", self.named(name)))?,
                };
                let stat = rfs::fstat(&fd).map_err(Error::os("cannot look at", self.named(name)))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                    return Ok(None);
                }
                (Arc::new(File::from(fd)), 0, u64::try_from(stat.st_size).unwrap_or_default())
            }
            Parts::Archive { file, members } => match find(members, name) {
                Some((offset, len)) => (file.clone(), offset, len),
                None => return Ok(None),
            },
        };
        Ok(Some((Box::new(Window { file, at: offset, end: offset + len }), len)))
    }

    /// The content of a part that must be there and must be small, such as a manifest.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>> {
        let missing = || Error::NotAnImage { what: self.what.clone(), rule: format!("it has no {name}") };
        let (mut blob, len) = self.part(name)?.ok_or_else(missing)?;
        if len > MAX_DOCUMENT {
            let rule = format!("its {name} is longer than {MAX_DOCUMENT} bytes");
            return Err(Error::NotAnImage { what: self.what.clone(), rule });
        }
        let mut text = Vec::new();
        blob.read_to_end(&mut text).map_err(Error::io("cannot read", self.named(name)))?;
        Ok(text)
    }

    /// Whether there is a part of this name.
    pub(super) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.part(name)?.is_some())
    }

    /// A part's name in errors.
    pub(super) fn named(&self, name: &str) -> PathBuf {
        Path::new(&self.what).join(name)
    }
}

/// Where a member's content lies, through links.
fn find(members: &HashMap<Vec<u8>, Member>, name: &str) -> Option<(u64, u64)> {
    let mut name = resolve(b"", name.as_bytes());
    for _ in 0..MAX_LINKS {
        match members.get(&name)? {
            Member::Data { offset, len } => return Some((*offset, *len)),
            Member::Link(target) => name.clone_from(target),
        }
    }
    None
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b"", |slash| &path[..slash])
}

/// A path in an archive from the archive's root, `..` taken by the letter: it only looks up what was indexed.
fn resolve(dir: &[u8], path: &[u8]) -> Vec<u8> {
    let from_root = path.starts_with(b"/");
    let mut whole = Vec::new();
    for component in if from_root { b"" } else { dir }.split(|&b| b == b'/').chain(path.split(|&b| b == b'/'))
    {
        match component {
            b"" | b"." => {}
            b".." => drop(whole.pop()),
            _ => whole.push(component),
        }
    }
    whole.join(&b'/')
}

/// A file without a name on the store's filesystem.
fn spool(session: &Session<'_>) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let file = rfs::openat(&session.dir, "spool", flags, Mode::RUSR | Mode::WUSR)?;
    rfs::unlinkat(&session.dir, "spool", AtFlags::empty())?;
    Ok(file.into())
}

/// A stretch of a file, read without moving the file's own offset: several read it at once.
#[derive(Debug)]
struct Window {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Window {
    fn whole(file: &Arc<File>) -> io::Result<Self> {
        Ok(Self { file: file.clone(), at: 0, end: file.metadata()?.len() })
    }
}

impl Read for Window {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.end - self.at).unwrap_or(usize::MAX));
        let count = self.file.read_at(&mut buffer[..want], self.at)?;
        if count == 0 && want > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file was cut while it was read"));
        }
        self.at += count as u64;
        Ok(count)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.end.checked_add_signed(by),
        };
        self.at = target
            .filter(|&at| at <= self.end)
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}

/// A window on which content is passed over by seeking.
struct Seeking(BufReader<Window>);

impl Read for Seeking {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl TarSource for Seeking {
    fn skip(&mut self, len: u64) -> io::Result<u64> {
        let window = self.0.get_ref();
        let left = window.end - window.at + self.0.buffer().len() as u64;
        let skipped = len.min(left);
        self.0.seek_relative(i64::try_from(skipped).map_err(io::Error::other)?)?;
        Ok(skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolve_by_letter() {
        for (dir, path, want) in [
            ("", "a/b", "a/b"),
            ("", "./a//b/", "a/b"),
            ("x/y", "../z/layer.tar", "x/z/layer.tar"),
            ("x", "/a", "a"),
            ("x", "../../../a", "a"),
            ("", "", ""),
        ] {
            assert_eq!(resolve(dir.as_bytes(), path.as_bytes()), want.as_bytes(), "{dir} {path}");
        }
    }
}
