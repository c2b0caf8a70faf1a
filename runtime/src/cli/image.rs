//! Commands on images.

mod show;

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use uctr::image::{From, ImportOptions, LoadOptions, Platform, Reference, Removed, SaveFormat, Store};

use super::Context;

/// Commands on images.
#[derive(Debug, Subcommand)]
pub(crate) enum ImageCommand {
    /// Makes an image of a root filesystem in a tar archive.
    Import(ImportArgs),
    /// Loads images from a docker-archive or an OCI layout.
    Load(LoadArgs),
    /// Writes images to an archive.
    Save(SaveArgs),
    /// Lists images.
    Images(ListArgs),
    /// Removes images.
    Rmi(RemoveArgs),
    /// Gives an image one more name.
    Tag(TagArgs),
    /// Shows how an image came to be.
    History(HistoryArgs),
    /// Manages images.
    #[command(subcommand)]
    Image(ManageCommand),
}

/// The commands below `image`.
#[derive(Debug, Subcommand)]
pub(crate) enum ManageCommand {
    /// Shows all there is to know of images, as JSON.
    Inspect(InspectArgs),
    /// Lists images.
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Removes images.
    #[command(visible_alias = "remove")]
    Rm(RemoveArgs),
    /// Removes all images without a name that no container uses.
    Prune,
    /// Makes an image of a root filesystem in a tar archive.
    Import(ImportArgs),
    /// Loads images from a docker-archive or an OCI layout.
    Load(LoadArgs),
    /// Writes images to an archive.
    Save(SaveArgs),
    /// Gives an image one more name.
    Tag(TagArgs),
    /// Shows how an image came to be.
    History(HistoryArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ImportArgs {
    /// The archive, plain or compressed with gzip or zstd; `-` is standard input.
    file: PathBuf,
    /// The name it is to have.
    #[arg(value_name = "NAME[:TAG]")]
    name: Option<Reference>,
    /// Changes the configuration as a line of a Dockerfile would: CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER,
    /// VOLUME or WORKDIR.
    #[arg(short, long, value_name = "LINE")]
    change: Vec<String>,
    /// Words about it.
    #[arg(short, long)]
    message: Option<String>,
    /// What it runs on.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// The archive, or the directory of an OCI layout; `-` is standard input.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Says nothing.
    #[arg(short, long)]
    quiet: bool,
    /// Which to take of images for several platforms.
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Gives the image this name as well; a layout often has only a tag for it.
    #[arg(short, long, value_name = "NAME[:TAG]")]
    tag: Option<Reference>,
}

#[derive(Debug, Args)]
pub(crate) struct SaveArgs {
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Where to; `-` is standard output.
    #[arg(short, long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// The form of the archive.
    #[arg(long, value_enum, default_value_t = Format::DockerArchive)]
    format: Format,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// What `docker save` writes.
    DockerArchive,
    /// An OCI layout in a tar archive.
    #[value(alias = "oci-archive")]
    Oci,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only these: a repository, or a name with its tag.
    #[arg(value_name = "REPOSITORY[:TAG]")]
    only: Option<String>,
    /// Changes nothing: there are no intermediate images to show or hide.
    #[arg(short, long)]
    all: bool,
    /// Prints identities alone.
    #[arg(short, long)]
    quiet: bool,
    /// Prints identities whole.
    #[arg(long)]
    no_trunc: bool,
    /// Shows the digests of manifests too.
    #[arg(long)]
    digests: bool,
    /// `json`, or a Go template such as `{{.Repository}}:{{.Tag}}`.
    #[arg(long)]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct RemoveArgs {
    /// Names or identities.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// Removes all names at once, and the image as soon as no container uses it.
    #[arg(short, long)]
    force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TagArgs {
    /// The image.
    #[arg(value_name = "IMAGE")]
    source: String,
    /// Its new name.
    #[arg(value_name = "NAME[:TAG]")]
    target: Reference,
}

#[derive(Debug, Args)]
pub(crate) struct InspectArgs {
    /// Names or identities.
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
    /// A Go template such as `{{json .RootFS.Layers}}`.
    #[arg(short, long)]
    format: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// The image.
    image: String,
    /// Prints whole commands.
    #[arg(long)]
    no_trunc: bool,
}

/// Runs one of them and tells its exit status.
pub(crate) fn run(command: ImageCommand, context: &Context) -> anyhow::Result<u8> {
    let store = &Store::open(context.paths.data())?;
    match command {
        ImageCommand::Import(args) | ImageCommand::Image(ManageCommand::Import(args)) => import(store, args)?,
        ImageCommand::Load(args) | ImageCommand::Image(ManageCommand::Load(args)) => load(store, args)?,
        ImageCommand::Save(args) | ImageCommand::Image(ManageCommand::Save(args)) => save(store, &args)?,
        ImageCommand::Images(args) | ImageCommand::Image(ManageCommand::Ls(args)) => list(store, &args)?,
        ImageCommand::Rmi(args) | ImageCommand::Image(ManageCommand::Rm(args)) => remove(store, &args)?,
        ImageCommand::Tag(args) | ImageCommand::Image(ManageCommand::Tag(args)) => {
            store.tag(&args.source, &args.target)?;
        }
        ImageCommand::History(args) | ImageCommand::Image(ManageCommand::History(args)) => {
            let id = store.resolve(&args.image)?.id;
            put(&show::history(id, &store.history(&args.image)?, args.no_trunc))?;
        }
        ImageCommand::Image(ManageCommand::Inspect(args)) => inspect(store, &args)?,
        ImageCommand::Image(ManageCommand::Prune) => put(&show::removed(&store.prune()?))?,
    }
    Ok(0)
}

/// Writes to standard output; a reader that is gone is told of as any other failure.
fn put(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

fn import(store: &Store, args: ImportArgs) -> anyhow::Result<()> {
    let options = ImportOptions {
        name: args.name,
        changes: args.change,
        message: args.message,
        platform: args.platform,
    };
    let id = if args.file == Path::new("-") {
        store.import(input()?, "standard input", &options)?
    } else {
        let file = File::open(&args.file).with_context(|| format!("cannot open {}", args.file.display()))?;
        store.import(file, &args.file.display().to_string(), &options)?
    };
    put(&format!("{id}\n"))
}

fn load(store: &Store, args: LoadArgs) -> anyhow::Result<()> {
    let options = LoadOptions { platform: args.platform, name: args.tag };
    let loaded = if args.input == Path::new("-") {
        store.load(From::Stream(&mut input()?, "standard input"), &options)?
    } else {
        store.load(From::Path(&args.input), &options)?
    };
    if args.quiet { Ok(()) } else { put(&show::loaded(&loaded)) }
}

/// Standard input, unless a person sits at it.
fn input() -> anyhow::Result<io::StdinLock<'static>> {
    if io::stdin().is_terminal() {
        bail!("standard input is a terminal, not an archive; name a file, or feed one with `<`");
    }
    Ok(io::stdin().lock())
}

fn save(store: &Store, args: &SaveArgs) -> anyhow::Result<()> {
    let format = match args.format {
        Format::DockerArchive => SaveFormat::DockerArchive,
        Format::Oci => SaveFormat::OciArchive,
    };
    if args.output == Path::new("-") {
        if io::stdout().is_terminal() {
            bail!("standard output is a terminal, which an archive would garble; name a file with -o");
        }
        return Ok(store.save(&args.images, format, io::BufWriter::new(io::stdout().lock()))?);
    }
    let file =
        File::create(&args.output).with_context(|| format!("cannot make {}", args.output.display()))?;
    let regular = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let saved = store.save(&args.images, format, io::BufWriter::with_capacity(1 << 17, file));
    if saved.is_err() && regular {
        // Half an archive looks like a whole one.
        std::fs::remove_file(&args.output)
            .with_context(|| format!("cannot remove {}", args.output.display()))?;
    }
    Ok(saved?)
}

fn list(store: &Store, args: &ListArgs) -> anyhow::Result<()> {
    let rows = show::rows(&store.images()?, args.only.as_deref(), args.no_trunc);
    let text = match args.format.as_deref() {
        _ if args.quiet => show::identities(&rows),
        None | Some("table") => show::table(&rows, args.digests),
        Some("json") => rows.iter().map(|row| format!("{}\n", row.value())).collect(),
        Some(template) => {
            let lines = rows.iter().map(|row| Ok(uctr::template::render(template, &row.value())? + "\n"));
            lines.collect::<anyhow::Result<String>>()?
        }
    };
    put(&text)
}

/// Removes what it can, and fails if there was anything that it could not.
fn remove(store: &Store, args: &RemoveArgs) -> anyhow::Result<()> {
    let mut failures = Vec::new();
    for image in &args.images {
        match store.remove(image, args.force) {
            Ok(removed) => put(&show::removed(&removed))?,
            Err(error) => failures.push(error),
        }
    }
    let Some(last) = failures.pop() else { return Ok(()) };
    for error in failures {
        eprintln!("uctr: {:#}", anyhow::Error::new(error));
    }
    Err(last.into())
}

fn inspect(store: &Store, args: &InspectArgs) -> anyhow::Result<()> {
    let images = args.images.iter().map(|image| store.inspect(image)).collect::<Result<Vec<_>, _>>()?;
    let text = match &args.format {
        None => serde_json::to_string_pretty(&images)? + "\n",
        Some(template) => {
            let lines = images.iter().map(|image| Ok(uctr::template::render(template, image)? + "\n"));
            lines.collect::<anyhow::Result<String>>()?
        }
    };
    put(&text)
}

/// One line a step of a removal, as Docker prints it.
fn line(removed: &Removed) -> String {
    match removed {
        Removed::Untagged(name) => format!("Untagged: {}\n", name.familiar()),
        Removed::Image(id) => format!("Deleted: {id}\n"),
        Removed::Layer(id) => format!("Deleted: {id}\n"),
        Removed::Condemned(id) => format!("Kept until its last container is removed: {id}\n"),
    }
}
