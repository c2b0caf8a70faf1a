//! The part of a check that walks the upper.

use std::collections::BTreeMap;

use rustix::fs::Stat;

use super::below::{Below, follow, parent};
use super::{Kind, Problem};
use crate::branch::is_overlay_whiteout;
use crate::error::Errno;
use crate::marks::{DEVICE_PREFIX, Format, WHITEOUT_PREFIX, whiteout_name};
use crate::tools::changes::{look, walk};
use crate::tools::layer::{Layer, LayerDir, Said, is_whiteout_file, metacopy};
use crate::tools::rewrite::{Act, Editor, Facts, Plan, is_marked, to_aufs};
use crate::tools::{Subject, ToolError, joined};
use crate::types::{FileKind, Ino, Name};
use crate::union::{CONTENT_LOST, ORIGINS, Union, absolute, parse_origin};

/// What the upper says of hard links and origins.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// The object that records each origin: its inode and path.
    pub(super) claims: BTreeMap<String, (u64, Vec<u8>)>,
}

/// The walk.
pub(super) struct TreeCheck<'a> {
    layer: &'a Layer,
    base: Option<&'a Union>,
    known: bool,
    format: Format,
    guessed: bool,
    editor: Option<&'a Editor<'a>>,
    problems: Vec<Problem>,
    names: Names,
}

/// A directory on the way.
struct Here<'p> {
    path: &'p [u8],
    /// What it merges with in the union of the branches below.
    merges: Vec<u8>,
    below: Below,
}

impl<'a> TreeCheck<'a> {
    pub(super) fn new(
        subject: &Subject,
        layer: &'a Layer,
        base: Option<&'a Union>,
        editor: Option<&'a Editor<'a>>,
        problems: Vec<Problem>,
    ) -> Self {
        Self {
            layer,
            base,
            known: subject.knows_below(),
            format: subject.given.format,
            guessed: false,
            editor,
            problems,
            names: Names::default(),
        }
    }

    /// The format was guessed, so that in kernel overlay's an empty file named `.wh.NAME` may be a mark all the same.
    pub(super) const fn guess_user_names(&mut self, guessed: bool) {
        self.guessed = guessed;
    }

    pub(super) fn run(&mut self) -> Result<(), ToolError> {
        let below = match (self.known, self.base) {
            (false, _) => Below::Unknown,
            (true, None) => Below::Nothing,
            (true, Some(_)) => Below::Dir(Ino::ROOT),
        };
        self.dir(&Here { path: b"", merges: Vec::new(), below }, false)
    }

    pub(super) fn into_parts(self) -> (Vec<Problem>, Names) {
        (self.problems, self.names)
    }

    fn found(&mut self, path: &[u8], kind: Kind) {
        let repaired = self.editor.is_some() && kind.remedy().is_ok();
        self.problems.push(Problem { path: self.layer.real(path), kind, repaired });
    }

    /// Carries a repair out, if there is to be one.
    fn repair(&self, dir: &LayerDir, path: &[u8], plan: &Plan) -> Result<(), ToolError> {
        match self.editor {
            Some(editor) if !plan.is_empty() => {
                editor.carry_out(&dir.fd, plan).map_err(|(op, errno)| ToolError::branch(path, op)(errno))
            }
            _ => Ok(()),
        }
    }

    /// Checks a directory and what is in it; `cut` tells that a whiteout beside it makes it opaque.
    fn dir(&mut self, here: &Here<'_>, cut: bool) -> Result<(), ToolError> {
        let path = here.path;
        let mut dir = self.layer.read(path)?;
        if self.formats(&dir, here)? {
            dir = self.layer.read(path)?;
        }
        let facts = Facts::of(&dir).map_err(ToolError::branch(path, "marks"))?;
        let mut plan = Plan::default();
        let (merges, below) = self.marks(&dir, &facts, here, cut, &mut plan)?;
        for name in &dir.strays {
            self.found(&joined(path, name), Kind::Stray);
            plan.remove.push(Act::Unlink(name.clone()));
        }
        for (name, said) in &dir.names {
            self.name(&dir, here, (name, said), below, &mut plan)?;
        }
        if facts.has_kept_times() {
            self.found(path, Kind::KeptTimes);
            if let Some(editor) = self.editor {
                editor.restore_times(&dir.fd).map_err(ToolError::branch(path, "futimens"))?;
            }
        }
        self.repair(&dir, path, &plan)?;
        let children: Vec<_> = dir
            .objects()
            .filter(|(_, said)| said.is_dir())
            .map(|(name, said)| (name.to_vec(), said.file.is_some()))
            .collect();
        drop(dir);
        for (name, cut) in children {
            let held = self.lower(below, &joined(path, &name), &name)?;
            let below = match (below, held) {
                (Below::Unknown, _) => Below::Unknown,
                (_, Some((node, FileKind::Directory))) => Below::Dir(node),
                _ => Below::Nothing,
            };
            let child = Here { path: &joined(path, &name), merges: joined(&merges, &name), below };
            self.dir(&child, cut)?;
            self.release(held);
        }
        if let Below::Dir(node) = below
            && here.below != below
        {
            self.release(Some((node, FileKind::Directory)));
        }
        Ok(())
    }

    /// Marks of a format that the rest of the upper does not have; true if they were rewritten.
    fn formats(&mut self, dir: &LayerDir, here: &Here<'_>) -> Result<bool, ToolError> {
        let facts = Facts::of(dir).map_err(ToolError::branch(here.path, "marks"))?;
        if self.format == Format::Overlay {
            let foreign = facts.carriers.iter().filter(|(name, _)| name.starts_with(b"user.fuseoverlayfs."));
            let like_marks = |(name, said): &(&[u8], &Said)| {
                name.starts_with(WHITEOUT_PREFIX)
                    && said.object.is_some_and(|stat| is_whiteout_file(&stat, b""))
            };
            let like_marks = dir.objects().filter(like_marks).count();
            let count = foreign.count() + if self.guessed { like_marks } else { 0 };
            if count > 0 {
                self.found(here.path, Kind::OtherFormat(count, self.format));
            }
            return Ok(false);
        }
        let merges = match &dir.marks.redirect {
            Some(target) => absolute(parent(&here.merges), target),
            None => here.merges.clone(),
        };
        let plan = to_aufs(dir, &facts, &merges);
        if plan.remove.is_empty() {
            return Ok(false);
        }
        self.found(here.path, Kind::OtherFormat(plan.remove.len(), self.format));
        self.repair(dir, here.path, &plan)?;
        Ok(self.editor.is_some())
    }

    /// The marks of the directory itself; tells what it merges with.
    fn marks(
        &mut self,
        dir: &LayerDir,
        facts: &Facts,
        here: &Here<'_>,
        cut: bool,
        plan: &mut Plan,
    ) -> Result<(Vec<u8>, Below), ToolError> {
        for (name, value) in &facts.carriers {
            if name.ends_with(b"opaque") && !matches!(value.as_slice(), b"y" | b"x") {
                self.found(here.path, Kind::BadMark(name.clone()));
                plan.remove.push(Act::Unmark(name.clone()));
            }
        }
        let nothing = if here.below == Below::Unknown { Below::Unknown } else { Below::Nothing };
        let Some(target) = &dir.marks.redirect else {
            let opaque = cut || dir.marks.opaque;
            return Ok((here.merges.clone(), if opaque { Below::Nothing } else { here.below }));
        };
        if dir.marks.opaque {
            self.found(here.path, Kind::TwoMarks);
        }
        let target = absolute(parent(&here.merges), target);
        let proper = !target.is_empty()
            && target.split(|&byte| byte == b'/').all(|name| Name::from_bytes(name).is_ok());
        let led = match self.base {
            Some(base) if proper => follow(base, &target)?,
            _ => None,
        };
        if let Some(node) = led {
            return Ok((target, Below::Dir(node)));
        }
        if proper && !self.known {
            return Ok((target, nothing));
        }
        self.found(here.path, Kind::Redirect(target.clone()));
        match self.format {
            Format::Aufs => plan.add.push(Act::Opaque(Vec::new())),
            Format::Overlay => {
                let prefix = self.editor.map_or("trusted.overlay.", |editor| editor.prefix);
                plan.add.push(Act::Mark(format!("{prefix}opaque").into_bytes(), b"y".to_vec()));
            }
        }
        let redirects = facts.carriers.iter().filter(|(name, _)| name.ends_with(b"redirect"));
        plan.remove.extend(redirects.map(|(name, _)| Act::Unmark(name.clone())));
        Ok((target, Below::Nothing))
    }

    /// One name of a directory, under which the branches below have `below`.
    fn name(
        &mut self,
        dir: &LayerDir,
        here: &Here<'_>,
        (name, said): (&Vec<u8>, &Said),
        below: Below,
        plan: &mut Plan,
    ) -> Result<(), ToolError> {
        let full = joined(here.path, name);
        let whiteout = whiteout_name(name).to_vec();
        let zero = said.object.is_some_and(|stat| is_overlay_whiteout(&stat));
        if said.marked_device && !zero {
            let mark = [DEVICE_PREFIX, name].concat();
            self.found(&joined(here.path, &mark), Kind::DeviceMark);
            plan.remove.push(Act::Unlink(mark));
        }
        if said.file.is_some_and(|stat| !is_whiteout_file(&stat, name)) {
            self.found(&joined(here.path, &whiteout), Kind::NoWhiteout);
        } else if let (Some(_), Some(_)) = (&said.object, &said.file) {
            self.found(&joined(here.path, &whiteout), Kind::Beside);
            if said.is_dir() && !is_marked(dir, name) {
                plan.add.push(self.opaque_child(name));
            }
            plan.remove.push(Act::Unlink(whiteout));
        } else if said.hidden() && said.object.is_none() && self.is_dangling(below, &full, name)? {
            let shown = if said.file.is_some() { whiteout } else { name.clone() };
            self.found(&joined(here.path, &shown), Kind::Dangling);
            plan.remove.push(Act::Unlink(shown));
        }
        match &said.object {
            Some(stat) => self.object(dir, here, name, stat, below, plan),
            None => Ok(()),
        }
    }

    fn opaque_child(&self, name: &[u8]) -> Act {
        let prefix = self.editor.map_or("trusted.overlay.", |editor| editor.prefix);
        match self.format {
            Format::Aufs => Act::OpaqueChild(name.to_vec()),
            Format::Overlay => Act::MarkChild(name.to_vec(), format!("{prefix}opaque").into_bytes()),
        }
    }

    fn is_dangling(&self, below: Below, full: &[u8], name: &[u8]) -> Result<bool, ToolError> {
        let held = self.lower(below, full, name)?;
        self.release(held);
        Ok(below != Below::Unknown && held.is_none())
    }

    /// Records that an object bears.
    fn object(
        &mut self,
        dir: &LayerDir,
        here: &Here<'_>,
        name: &[u8],
        stat: &Stat,
        below: Below,
        plan: &mut Plan,
    ) -> Result<(), ToolError> {
        let (full, place) = (joined(here.path, name), dir.place(name));
        for attribute in ORIGINS {
            let value = match place.read_xattr(attribute) {
                Ok(value) => value,
                Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::ACCESS | Errno::PERM) => continue,
                Err(errno) => return Err(ToolError::branch(&full, "lgetxattr")(errno)),
            };
            let problem = match parse_origin(&value) {
                Some((origin, real)) if real == stat.st_ino => self.claim(origin, stat, &full),
                _ => Some(Kind::ForeignOrigin),
            };
            if let Some(problem) = problem {
                self.found(&full, problem);
                plan.remove.push(Act::UnmarkChild(name.to_vec(), attribute.to_vec()));
            }
        }
        if let Some(redirect) = metacopy(stat, &place) {
            let target = redirect.map(|target| absolute(&here.merges, &target));
            if !self.has_content(below, &full, name, target.as_deref())? {
                self.found(&full, Kind::LostContent);
            }
        }
        Ok(())
    }

    /// Notes which object an origin belongs to; two inodes cannot both be the copy.
    fn claim(&mut self, origin: &str, stat: &Stat, full: &[u8]) -> Option<Kind> {
        let (inode, other) =
            self.names.claims.entry(origin.to_owned()).or_insert_with(|| (stat.st_ino, full.to_vec()));
        (*inode != stat.st_ino).then(|| Kind::SharedOrigin(other.clone()))
    }

    fn has_content(
        &self,
        below: Below,
        full: &[u8],
        name: &[u8],
        target: Option<&[u8]>,
    ) -> Result<bool, ToolError> {
        let held = match (self.base, target) {
            _ if below == Below::Unknown => return Ok(true),
            (Some(base), Some(target)) => walk(base, target)?,
            _ => self.lower(below, full, name)?,
        };
        let there = |base: &Union, node| {
            // It may be such a copy itself.
            !base.read(node, 0, &mut [0]).is_err_and(|error| error.op == CONTENT_LOST)
        };
        let found = self
            .base
            .zip(held)
            .is_some_and(|(base, (node, kind))| kind == FileKind::Regular && there(base, node));
        self.release(held);
        Ok(found)
    }

    /// What the branches below show by a name, its node held.
    fn lower(&self, below: Below, full: &[u8], name: &[u8]) -> Result<Option<(Ino, FileKind)>, ToolError> {
        let (Some(base), Below::Dir(dir)) = (self.base, below) else { return Ok(None) };
        Ok(look(base, full, dir, name)?.map(|entry| (entry.node, entry.attr.kind())))
    }

    fn release(&self, held: Option<(Ino, FileKind)>) {
        if let (Some(base), Some((node, _))) = (self.base, held) {
            base.forget(node, 1);
        }
    }
}
