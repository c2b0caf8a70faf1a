//! The offline tools' output: `unionfs diff`, `export`, `where`.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, bail};
use unionfs::tools::Subject;
use unionfs::tools::check::check;
use unionfs::tools::convert::{Conversion, Converted, convert};
use unionfs::tools::diff::diff;
use unionfs::tools::export::{Notice, export};
use unionfs::tools::whereis::{Place, Role, whereis};
use unionfs::{BranchSpec, Format};

use crate::cli::{CheckArgs, ConvertArgs, DiffArgs, ExportArgs, WhereArgs};

/// Bytes written to an archive at a time.
const CHUNK: usize = 256 * 1024;

/// Prints the changes, a line each.
pub(crate) fn print_diff(args: &DiffArgs) -> anyhow::Result<()> {
    let changes = diff(&Subject::new(&args.subject, args.upper.given()?)?)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let mut print = || {
        for change in &changes {
            write!(out, "{} ", change.kind)?;
            if args.null {
                out.write_all(&change.path)?;
                out.write_all(b"\0")?;
            } else {
                out.write_all(&one_line(&change.path))?;
                out.write_all(b"\n")?;
            }
        }
        out.flush()
    };
    print().context("standard output")
}

/// A path without newlines, as /proc/mounts writes it.
fn one_line(path: &[u8]) -> Vec<u8> {
    let escape = |&byte: &u8| match byte {
        b'\n' => b"\\012".to_vec(),
        b'\\' => b"\\134".to_vec(),
        byte => vec![byte],
    };
    path.iter().flat_map(escape).collect()
}

/// Writes the layer.
pub(crate) fn write_export(args: &ExportArgs) -> anyhow::Result<()> {
    let given = args.upper.given()?;
    // Opened first: the union sets the umask to 0.
    let target = args.output.as_deref().map(Target::new).transpose()?;
    if target.is_none() && io::stdout().is_terminal() {
        bail!("a layer is no text for a terminal: write it to a file with -o FILE, or into a pipe");
    }
    let subject = Subject::new(&args.subject, given)?;
    let notices = match target {
        Some(target) => target.fill(&subject)?,
        None => {
            let (mut out, notices) = export(&subject, BufWriter::with_capacity(CHUNK, io::stdout().lock()))?;
            out.flush().context("standard output")?;
            notices
        }
    };
    for notice in notices {
        match notice {
            Notice::Socket(path) => {
                eprintln!("unionfs: {}: sockets are left out of layers", path_text(&path))
            }
            Notice::ZeroDevice(path) => eprintln!(
                "unionfs: {}: a character device 0:0 is a whiteout wherever kernel overlay unpacks the layer",
                path_text(&path)
            ),
        }
    }
    Ok(())
}

fn path_text(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}

/// A file that appears under its name when it is complete.
struct Target<'a> {
    path: &'a Path,
    part: tempfile::NamedTempFile,
}

impl<'a> Target<'a> {
    fn new(path: &'a Path) -> anyhow::Result<Self> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        let part = tempfile::Builder::new()
            .prefix(".unionfs-export-")
            .permissions(mode)
            .tempfile_in(dir)
            .with_context(|| format!("cannot make a file in {}", dir.display()))?;
        Ok(Self { path, part })
    }

    fn fill(self, subject: &Subject) -> anyhow::Result<Vec<Notice>> {
        let out = BufWriter::with_capacity(CHUNK, self.part.as_file());
        let (out, notices) = export(subject, out)?;
        let file: &File = out.into_inner().map_err(io::IntoInnerError::into_error).context("write")?;
        file.sync_all().context("fsync")?;
        self.part.persist(self.path).with_context(|| format!("cannot make {}", self.path.display()))?;
        Ok(notices)
    }
}

/// Problems were found; if a repair was asked for, all of them were repaired.
const PROBLEMS: i32 = 1;
/// Some problems could not be repaired.
const NOT_REPAIRED: i32 = 4;
/// The check could not be done.
const NOT_CHECKED: i32 = 8;

/// Prints the problems; the exit statuses are like fsck(8)'s.
pub(crate) fn print_check(args: &CheckArgs) -> anyhow::Result<()> {
    let checked = args.upper.given().and_then(|given| {
        let subject = Subject::new(&args.subject, given)?;
        Ok(check(subject, args.upper.format, args.repair)?)
    });
    let problems = checked.unwrap_or_else(|failure| {
        eprintln!("unionfs: {failure:#}");
        std::process::exit(NOT_CHECKED);
    });
    let mut out = io::stdout().lock();
    for problem in &problems {
        let end = match (problem.kind.remedy(), problem.repaired) {
            (Ok(done), true) => done.to_owned(),
            (Ok(_), false) if args.repair => "not repaired".to_owned(),
            (Ok(done), false) => format!("with --repair: {done}"),
            (Err(advice), _) => advice.to_owned(),
        };
        out.write_all(&one_line(problem.path.as_os_str().as_bytes()))
            .and_then(|()| writeln!(out, ": {} [{end}]", problem.kind))
            .context("standard output")?;
    }
    match (problems.is_empty(), problems.iter().all(|problem| problem.repaired)) {
        (true, _) => Ok(()),
        (false, all) => std::process::exit(if args.repair && !all { NOT_REPAIRED } else { PROBLEMS }),
    }
}

/// Converts, and tells what was rewritten.
pub(crate) fn print_convert(args: ConvertArgs) -> anyhow::Result<()> {
    let lowers = args.lower.as_ref().map(BranchSpec::parse_list).transpose()?;
    let how = Conversion { to: args.to, workdir: args.workdir, userxattr: args.userxattr, lowers };
    let Converted { whiteouts, opaque, redirects, linked, adopted } = convert(&args.upper, &how)?;
    let mut said = format!(
        "{}: {} format: {whiteouts} whiteouts, {opaque} opaque directories, {redirects} renamed directories rewritten\n",
        args.upper.display(),
        how.to
    );
    if adopted > 0 {
        said.push_str(&format!("{}: {adopted} whiteouts of unionfs-fuse adopted\n", args.upper.display()));
    }
    if linked > 0 && how.to == Format::Overlay {
        eprintln!(
            "unionfs: hard-linked lower files were changed by one of their names: the kernel shows the old content by \
             the others, a union does not"
        );
    }
    io::stdout().write_all(said.as_bytes()).context("standard output")
}

/// Prints what each branch has; an exit status of 1 tells that one of the paths is not in its union.
pub(crate) fn print_where(args: &WhereArgs) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    let mut all_there = true;
    for path in &args.paths {
        let places = whereis(path)?;
        all_there &= places.iter().any(|place| place.role == Role::Holds);
        print_places(&mut out, path, &places).context("standard output")?;
    }
    if !all_there {
        std::process::exit(1);
    }
    Ok(())
}

fn print_places(out: &mut impl Write, path: &Path, places: &[Place]) -> io::Result<()> {
    out.write_all(&one_line(path.as_os_str().as_bytes()))?;
    out.write_all(b"\n")?;
    for place in places {
        write!(out, "  {:>2}  {:<8} {:<10} ", place.branch, place.role, place.what)?;
        out.write_all(&one_line(place.real.as_os_str().as_bytes()))?;
        if let Some(target) = &place.redirect {
            out.write_all(b" (continues at /")?;
            out.write_all(&one_line(target))?;
            out.write_all(b" below)")?;
        } else if place.opaque {
            out.write_all(b" (opaque)")?;
        }
        out.write_all(b"\n")?;
    }
    Ok(())
}
