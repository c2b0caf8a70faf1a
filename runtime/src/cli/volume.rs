//! Commands on volumes.

use std::io::Write;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use uctr::volumes::Volume;
use uctr::{Container, container, rootless};

use super::Context;

#[derive(Debug, Args)]
pub(crate) struct VolumeArgs {
    #[command(subcommand)]
    command: VolumeCommand,
}

/// Commands on volumes.
#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Make a volume.
    Create {
        /// Its name; a random one if there is none.
        name: Option<String>,
    },
    /// List volumes.
    Ls {
        /// Only names.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show volumes as JSON, or by a template.
    Inspect {
        /// A Go template such as {{.Mountpoint}}.
        #[arg(short, long, value_name = "TEMPLATE")]
        format: Option<String>,
        /// The volumes.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes that no container uses.
    Rm {
        /// None of that name is no error.
        #[arg(short, long)]
        force: bool,
        /// The volumes.
        #[arg(required = true)]
        names: Vec<String>,
    },
}

/// Runs one of them and tells its exit status.
pub(crate) fn run(args: VolumeArgs, context: &Context) -> anyhow::Result<u8> {
    let mut out = std::io::stdout();
    match args.command {
        VolumeCommand::Create { name } => {
            let name = name.map_or_else(container::new_id, Ok)?;
            writeln!(out, "{}", Volume::create(&context.paths, &name)?.name)?;
        }
        VolumeCommand::Ls { quiet } => {
            if !quiet {
                writeln!(out, "DRIVER    VOLUME NAME")?;
            }
            for volume in Volume::list(&context.paths)? {
                writeln!(out, "{}{}", if quiet { "" } else { "local     " }, volume.name)?;
            }
        }
        VolumeCommand::Inspect { format, names } => {
            let mut found = Vec::new();
            for name in &names {
                found.push(describe(&Volume::find(&context.paths, name)?));
            }
            match format {
                None => writeln!(out, "{}", serde_json::to_string_pretty(&found)?)?,
                Some(template) => {
                    for value in &found {
                        writeln!(out, "{}", super::list::render(&template, value)?)?;
                    }
                }
            }
        }
        VolumeCommand::Rm { force, names } => {
            for name in &names {
                remove(name, force, context).with_context(|| format!("volume {name}"))?;
                writeln!(out, "{name}")?;
            }
        }
    }
    Ok(0)
}

fn describe(volume: &Volume) -> Value {
    json!({
        "Name": volume.name,
        "Driver": "local",
        "Mountpoint": volume.data,
        "CreatedAt": volume.created().map(uctr::clock::at),
        "Labels": {},
        "Options": {},
        "Scope": "local",
    })
}

fn remove(name: &str, force: bool, context: &Context) -> anyhow::Result<()> {
    let volume = match Volume::find(&context.paths, name) {
        Err(uctr::Error::Absent { .. }) if force => return Ok(()),
        found => found?,
    };
    if let Some(user) = Container::list(&context.paths)?.iter().find(|container| container.uses_volume(name))
    {
        anyhow::bail!("is in use by container {}; remove that first", user.config().name);
    }
    Ok(rootless::as_root(|| volume.remove())?)
}
