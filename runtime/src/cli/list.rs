//! `ps` and `inspect`.

use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use serde_json::{Value, json};
use uctr::state::{State, Status};
use uctr::{Container, clock, container};

use super::Context;

#[derive(Args, Debug)]
pub(crate) struct PsArgs {
    /// Those that do not run too.
    #[arg(short, long)]
    all: bool,
    /// Only identifiers.
    #[arg(short, long)]
    quiet: bool,
    /// Whole identifiers and commands.
    #[arg(long)]
    no_trunc: bool,
    /// A line of JSON for each (json), or a template.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct InspectArgs {
    /// A Go template such as {{.State.Pid}}.
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// Containers, by name or identifier.
    #[arg(value_name = "CONTAINER", required = true)]
    names: Vec<String>,
}

/// One row of `ps`.
struct Row {
    id: String,
    image: String,
    command: String,
    created: String,
    status: String,
    state: Status,
    name: String,
}

/// Lists containers.
pub(crate) fn ps(args: &PsArgs, context: &Context) -> anyhow::Result<u8> {
    let mut rows = Vec::new();
    for container in Container::list(&context.paths)? {
        let state = container.state()?;
        if args.all || state.status == Status::Running {
            rows.push(row(&container, &state, args.no_trunc));
        }
    }
    let mut out = std::io::stdout().lock();
    match args.format.as_deref() {
        _ if args.quiet => rows.iter().try_for_each(|row| writeln!(out, "{}", row.id))?,
        None | Some("table") => table(&rows, &mut out)?,
        Some("json") => rows.iter().try_for_each(|row| writeln!(out, "{}", row.json()))?,
        Some(template) => {
            for row in &rows {
                writeln!(out, "{}", render(template, &row.json())?)?;
            }
        }
    }
    Ok(0)
}

fn row(container: &Container, state: &State, whole: bool) -> Row {
    let config = container.config();
    let mut command = config.spec.process.args.join(" ");
    if !whole && command.chars().count() > 20 {
        command = command.chars().take(19).chain(['…']).collect();
    }
    Row {
        id: config.id.chars().take(if whole { 64 } else { 12 }).collect(),
        image: config.image.clone(),
        command: format!("{command:?}"),
        created: format!("{} ago", age(&config.created)),
        status: match state.status {
            Status::Created => "Created".into(),
            Status::Running => format!("Up {}", age(&state.started_at)),
            Status::Exited => format!("Exited ({}) {} ago", state.exit_code, age(&state.finished_at)),
        },
        state: state.status,
        name: config.name.clone(),
    }
}

impl Row {
    fn json(&self) -> Value {
        json!({
            "ID": self.id,
            "Image": self.image,
            "Command": self.command,
            "RunningFor": self.created,
            "Status": self.status,
            "State": self.state,
            "Names": self.name,
        })
    }
}

fn table(rows: &[Row], out: &mut impl Write) -> std::io::Result<()> {
    let head = ["CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "NAMES"].map(str::to_owned);
    let body = rows.iter().map(|row| {
        [&row.id, &row.image, &row.command, &row.created, &row.status, &row.name].map(ToOwned::to_owned)
    });
    let cells: Vec<_> = std::iter::once(head).chain(body).collect();
    let width = |column: usize| cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..6).map(width).collect();
    for row in &cells {
        let line: String =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}   ")).collect();
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// How long ago, in the largest unit that fits, as Docker says it.
fn age(time: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let seconds = now.saturating_sub(clock::parse(time).unwrap_or(now));
    let units = [(604_800, "week"), (86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second")];
    let (size, unit) = units.into_iter().find(|(size, _)| seconds >= *size).unwrap_or((1, "second"));
    match seconds / size {
        0 => "Less than a second".into(),
        1 => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    }
}

/// Shows everything, or what a template asks for.
pub(crate) fn inspect(args: &InspectArgs, context: &Context) -> anyhow::Result<u8> {
    let mut found = Vec::new();
    for name in &args.names {
        found.push(container::inspect(&Container::find(&context.paths, name)?)?);
    }
    let mut out = std::io::stdout().lock();
    match &args.format {
        None => {
            serde_json::to_writer_pretty(&mut out, &found).context("standard output")?;
            writeln!(out)?;
        }
        Some(template) => {
            for value in &found {
                writeln!(out, "{}", render(template, value)?)?;
            }
        }
    }
    Ok(0)
}

pub(crate) fn render(template: &str, value: &Value) -> anyhow::Result<String> {
    Ok(uctr::template::render(template, value)?)
}
