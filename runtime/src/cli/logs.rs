//! `logs`.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::mem::MaybeUninit;

use anyhow::Context as _;
use clap::Args;
use rustix::fs::inotify;
use uctr::Container;
use uctr::log::Entry;
use uctr::state::Status;

use super::Context;

#[derive(Args, Debug)]
pub(crate) struct LogsArgs {
    /// Go on until the container ends.
    #[arg(short, long)]
    follow: bool,
    /// Begin with the last LINES lines, or with all.
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all")]
    tail: String,
    /// The time before each line.
    #[arg(short, long)]
    timestamps: bool,
    /// The container, by name or identifier.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// Prints a container's output: what it wrote to standard output there, and to standard error there.
pub(crate) fn logs(args: &LogsArgs, context: &Context) -> anyhow::Result<u8> {
    let container = Container::find(&context.paths, &args.name)?;
    let tail = match args.tail.as_str() {
        "all" => None,
        number => Some(
            number.parse::<usize>().with_context(|| format!("--tail {number:?}: not a number of lines"))?,
        ),
    };
    let path = container.log_path();
    if !container.config().spec.log {
        anyhow::bail!("container {} keeps no log (--log-driver none)", container.config().name);
    }
    let file = match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && !args.follow => return Ok(0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            anyhow::bail!("container {} has not been started", container.config().name)
        }
        file => file.with_context(|| format!("open {}", path.display()))?,
    };
    let mut reader = BufReader::new(file);
    let lines = read_lines(&mut reader)?;
    let skip = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    lines.iter().skip(skip).try_for_each(|line| print(line, args.timestamps))?;
    if args.follow {
        follow(&container, &mut reader, args.timestamps)?;
    }
    Ok(0)
}

/// The complete lines that are there; the monitor writes whole ones.
fn read_lines(reader: &mut BufReader<File>) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let mut line = String::new();
    while reader.read_line(&mut line).context("the log")? > 0 {
        lines.push(std::mem::take(&mut line));
    }
    Ok(lines)
}

fn print(line: &str, timestamps: bool) -> anyhow::Result<()> {
    let entry: Entry = serde_json::from_str(line).context("the log is damaged")?;
    let text = if timestamps { format!("{} {}", entry.time, entry.log) } else { entry.log };
    match entry.stream.as_str() {
        "stderr" => std::io::stderr().write_all(text.as_bytes()).context("standard error"),
        _ => std::io::stdout().write_all(text.as_bytes()).context("standard output"),
    }
}

/// Prints what is added, until the container has ended. The kernel tells of each change (inotify(7)): of the log, and of the
/// state, which the monitor writes last.
fn follow(container: &Container, reader: &mut BufReader<File>, timestamps: bool) -> anyhow::Result<()> {
    let changes = inotify::init(inotify::CreateFlags::CLOEXEC).context("inotify_init")?;
    let what = inotify::WatchFlags::MODIFY | inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE_SELF;
    inotify::add_watch(&changes, container.log_path(), what).context("inotify_add_watch")?;
    inotify::add_watch(&changes, container.state_dir(), what).context("inotify_add_watch")?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        // Asked before reading: what was written before the end is then read after it.
        let ended = container.state()?.status != Status::Running;
        read_lines(reader)?.iter().try_for_each(|line| print(line, timestamps))?;
        if ended {
            return Ok(());
        }
        inotify::Reader::new(&changes, &mut buffer).next().context("inotify")?;
    }
}
