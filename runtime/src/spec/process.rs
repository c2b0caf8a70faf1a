//! The process of a container, from the options and what the image says.

use std::path::PathBuf;

use super::{Host, ImageDefaults, Process};
use crate::error::{Error, Result};
use crate::request::Request;
use crate::security::Capabilities;

/// Where a shell looks for commands when nobody says otherwise; Docker's value.
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(super) fn process(
    request: &Request,
    image: &ImageDefaults,
    hostname: &str,
    host: &Host,
) -> Result<Process> {
    let capabilities = match request.privileged {
        true => Capabilities::ALL,
        false => Capabilities::default(),
    };
    let refuse = |name| Error::option("--cap-add/--cap-drop", name, "no such capability (capabilities(7))");
    let cwd = match request.workdir.as_deref().unwrap_or(&image.working_dir) {
        "" => "/".into(),
        path => PathBuf::from(path),
    };
    if !cwd.is_absolute() {
        return Err(Error::option("--workdir", cwd.to_string_lossy(), "must be an absolute path"));
    }
    Ok(Process {
        args: args(request, image)?,
        env: env(request, image, hostname, host)?,
        cwd,
        user: request.user.clone().unwrap_or_else(|| image.user.clone()),
        groups: request.group_add.clone(),
        tty: request.tty,
        interactive: request.interactive,
        capabilities: capabilities.adjusted(&request.cap_add, &request.cap_drop).map_err(refuse)?,
        no_new_privileges: no_new_privileges(request)?,
    })
}

/// The command: `--entrypoint` replaces the image's and drops its CMD; words on the command line replace CMD.
fn args(request: &Request, image: &ImageDefaults) -> Result<Vec<String>> {
    // With --rootfs there is no image: the first word belongs to the command.
    let first = if request.rootfs.is_some() { request.image.as_slice() } else { &[] };
    let words: Vec<String> = first.iter().chain(&request.command).cloned().collect();
    let mut args = match request.entrypoint.as_deref() {
        None => image.entrypoint.clone(),
        Some("") => Vec::new(),
        Some(command) => vec![command.to_owned()],
    };
    if words.is_empty() && request.entrypoint.is_none() {
        args.extend(image.cmd.iter().cloned());
    }
    args.extend(words);
    if args.is_empty() {
        let name = request.image.as_deref().or(request.rootfs.as_deref()).unwrap_or_default();
        return Err(Error::option("COMMAND", "", format!("none was given, and {name:?} has no default")));
    }
    if args[0].is_empty() {
        return Err(Error::option("COMMAND", "", "is empty"));
    }
    Ok(args)
}

/// The environment: image, then what the runtime knows, then files, then `-e`; later ones win.
fn env(request: &Request, image: &ImageDefaults, hostname: &str, host: &Host) -> Result<Vec<String>> {
    let mut env = Environment::default();
    env.set(DEFAULT_PATH);
    env.set(&format!("HOSTNAME={hostname}"));
    env.set("container=uctr");
    if request.tty {
        env.set("TERM=xterm");
    }
    image.env.iter().for_each(|entry| env.set(entry));
    for file in &request.env_file {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Error::option("--env-file", file, error.to_string()))?;
        let mut entries =
            text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
        entries.try_for_each(|entry| env.apply("--env-file", entry, host))?;
    }
    request.env.iter().try_for_each(|entry| env.apply("--env", entry, host))?;
    Ok(env.0)
}

/// Variables in the order in which they were first set.
#[derive(Debug, Default)]
pub(crate) struct Environment(pub(crate) Vec<String>);

impl Environment {
    pub(crate) fn set(&mut self, entry: &str) {
        let key = entry.split('=').next().unwrap_or(entry);
        match self.0.iter_mut().find(|known| known.split('=').next() == Some(key)) {
            Some(known) => entry.clone_into(known),
            None => self.0.push(entry.to_owned()),
        }
    }

    /// Sets `KEY=VALUE`; `KEY` alone takes the caller's value, or unsets it where the caller has none.
    pub(crate) fn apply(&mut self, option: &'static str, entry: &str, host: &Host) -> Result<()> {
        match entry.split_once('=') {
            Some(("", _)) => return Err(Error::option(option, entry, "the variable has no name")),
            Some(_) => self.set(entry),
            None if entry.is_empty() => return Err(Error::option(option, entry, "the variable has no name")),
            None => match host.env.get(entry) {
                Some(value) => self.set(&format!("{entry}={value}")),
                None => self.0.retain(|known| known.split('=').next() != Some(entry)),
            },
        }
        Ok(())
    }
}

fn no_new_privileges(request: &Request) -> Result<bool> {
    let mut chosen = false;
    for option in &request.security_opt {
        match option.as_str() {
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => chosen = true,
            "no-new-privileges:false" | "no-new-privileges=false" => chosen = false,
            // There is no filter and no label that these would switch off.
            "seccomp=unconfined" | "apparmor=unconfined" | "label=disable" => {}
            _ => {
                return Err(Error::option(
                    "--security-opt",
                    option,
                    "is not known here; no-new-privileges is",
                ));
            }
        }
    }
    Ok(chosen)
}
