//! Writes the manual pages and shell completions of both programs, from the same words that the programs read.
//!
//! `cargo run -p uctr --example docs -- DIRECTORY` makes `DIRECTORY/man/…` and `DIRECTORY/completions/…`.
#![allow(dead_code, reason = "of the command lines only their descriptions are used")]

#[path = "../src/cli/mod.rs"]
mod uctr_cli;
#[path = "../../unionfs/src/cli/mod.rs"]
mod unionfs_cli;

use std::fs;
use std::io;
use std::path::Path;

use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

fn main() -> io::Result<()> {
    let Some(at) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: docs DIRECTORY"));
    };
    let (man, completions) = (Path::new(&at).join("man"), Path::new(&at).join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for mut program in [unionfs_cli::Cli::command(), uctr_cli::Cli::command()] {
        clap_mangen::generate_to(program.clone(), &man)?;
        let name = program.get_name().to_owned();
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut program, &name, &completions)?;
        }
    }
    let mut helper = Vec::new();
    Man::new(mount_helper()).section("8").manual("Maintenance Commands").render(&mut helper)?;
    fs::write(man.join("mount.unionfs.8"), helper)
}

/// mount(8)'s helper, whose command line is not clap's.
fn mount_helper() -> Command {
    let flag = |name: &'static str, letter: char, help: &'static str| {
        Arg::new(name).short(letter).action(ArgAction::SetTrue).help(help)
    };
    Command::new("mount.unionfs")
        .about("Mount a union of directories, by mount(8) and fstab(5)")
        .long_about(
            "mount(8) calls this for the types unionfs and fuse.unionfs. SOURCE is shown in /proc/mounts and means \
             nothing else, unless no option names the branches: then it is the list of branches.\n\n\
             Examples:\n\n\
             mount -t unionfs -o dirs=/a=rw:/b=ro none /mnt\n\n\
             mount -t fuse.unionfs NAME /mnt -o lowerdir=/b:/c,upperdir=/a,workdir=/w\n\n\
             mount -o remount,append:/d=ro /mnt\n\n\
             In fstab(5):\n\n\
             none  /mnt  unionfs  dirs=/a=rw:/b=ro,nofail,x-systemd.requires=/b  0  0\n\n\
             The exit status is 1 for a command line that makes no sense and 32 for a mount that fails, as \
             mount(8) tells it.",
        )
        .arg(Arg::new("SOURCE").required(true).help("The name that /proc/mounts shows, or the branches"))
        .arg(Arg::new("MOUNTPOINT").required(true).help("The directory to mount on"))
        .arg(flag("sloppy", 's', "Leave out options that are not known"))
        .arg(flag("fake", 'f', "Only say whether the command line makes sense"))
        .arg(flag("no-mtab", 'n', "Accepted: nothing is written to /etc/mtab"))
        .arg(flag("verbose", 'v', "Accepted"))
        .arg(Arg::new("o").short('o').value_name("OPTION,…").help("Mount options, joined by commas"))
        .after_long_help(unionfs_cli::options_help())
        .disable_help_flag(true)
}
