//! What is asked of a mounted union: its branches, features and counts, and changes of its branches.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use serde_json::Value;
use unionfs::fuse::control::{FEATURES, REFUSAL, STATS, send};
use unionfs::union::told_branches;

/// `unionfs branches`.
pub(crate) fn branches(mountpoint: &Path) -> anyhow::Result<()> {
    say(&ask_branches(mountpoint)?)
}

/// `unionfs add`, `del`, `mod`.
pub(crate) fn command(mountpoint: &Path, words: &[&OsStr]) -> anyhow::Result<()> {
    match send(mountpoint, words) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => bail!("{}", String::from_utf8_lossy(&ask(mountpoint, REFUSAL)?)),
        Err(Errno::PERM) => {
            bail!("{}: only root and the server's user may change branches", mountpoint.display())
        }
        Err(errno) => Err(errno).with_context(|| no_union(mountpoint)),
    }
}

/// How many branches a mounted union has.
pub(crate) fn branch_count(mountpoint: &Path) -> anyhow::Result<usize> {
    Ok(ask_branches(mountpoint)?.iter().filter(|&&byte| byte == b'\n').count())
}

/// A branch by a path that means the same to the server, which has a working directory of its own.
pub(crate) fn absolute(branch: &OsStr) -> OsString {
    if branch.as_bytes().starts_with(b"/") {
        return branch.to_owned();
    }
    let here = std::env::current_dir().unwrap_or_default().into_os_string().into_vec();
    OsString::from_vec([&here, b"/".as_slice(), branch.as_bytes()].concat())
}

/// `unionfs stats`.
pub(crate) fn stats(mountpoint: &Path, json: bool, watch: bool) -> anyhow::Result<()> {
    loop {
        let text = ask(mountpoint, STATS)?;
        if json {
            say(&[&text, b"\n".as_slice()].concat())?;
        } else {
            say(stats_table(&serde_json::from_slice(&text).context("stats")?).as_bytes())?;
        }
        if !watch {
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn stats_table(stats: &Value) -> String {
    let requests = &stats["requests"];
    let mut table = format!(
        "nodes {}  resident {} KiB  data mode {}  transport {}\nrequests: {} waiting, {} met while spinning, {} slept for\n{}\
         {:<18}{:>12}{:>14}{:>9}{:>9}\n",
        stats["nodes"],
        stats["rss_kib"],
        stats["io"].as_str().unwrap_or_default(),
        stats["transport"].as_str().unwrap_or_default(),
        requests["waiting"],
        requests["spinning"],
        requests["asleep"],
        cache_lines(&stats["caches"]),
        "operation",
        "count",
        "total µs",
        "p50 µs",
        "p99 µs",
    );
    for op in stats["ops"].as_array().into_iter().flatten() {
        let name = op["op"].as_str().unwrap_or_default();
        table += &format!(
            "{name:<18}{:>12}{:>14}{:>9}{:>9}\n",
            op["count"].to_string(),
            op["total_us"].to_string(),
            op["p50_us"].to_string(),
            op["p99_us"].to_string(),
        );
    }
    table
}

/// One line a cache: how many of a hundred questions it answered.
fn cache_lines(caches: &Value) -> String {
    let mut lines = String::new();
    for cache in caches.as_array().into_iter().flatten() {
        let count = |key: &str| cache[key].as_u64().unwrap_or_default();
        let (name, hits) = (cache["cache"].as_str().unwrap_or_default(), count("hits"));
        let asked = hits + count("misses");
        let rate = (100 * hits).checked_div(asked).map_or_else(|| "-".to_owned(), |rate| format!("{rate} %"));
        lines += &format!("{name:<24}{rate:>6} of {asked}\n");
    }
    lines
}

/// `unionfs features`.
pub(crate) fn features(mountpoint: &Path, json: bool) -> anyhow::Result<()> {
    let text = ask(mountpoint, FEATURES)?;
    if json {
        return say(&[&text, b"\n".as_slice()].concat());
    }
    let told: Value = serde_json::from_slice(&text).context("features")?;
    let mut table = format!("FUSE protocol {}\n", told["protocol"].as_str().unwrap_or_default());
    for one in told["features"].as_array().into_iter().flatten() {
        let state = match (one["live"] == true, one["asked"] == true) {
            (true, _) => "live",
            (false, true) => "not offered by this kernel",
            (false, false) => "not wanted",
        };
        let (name, why) = (one["name"].as_str().unwrap_or_default(), one["why"].as_str().unwrap_or_default());
        table += &format!("{name:<24}{state:<28}{why}\n");
    }
    say(table.as_bytes())
}

/// Reads a control attribute of a union's root.
fn ask(mountpoint: &Path, name: &str) -> anyhow::Result<Vec<u8>> {
    let mut value = vec![0; 1 << 16];
    let len = rustix::fs::getxattr(mountpoint, name, &mut *value).with_context(|| no_union(mountpoint))?;
    value.truncate(len);
    Ok(value)
}

fn ask_branches(mountpoint: &Path) -> anyhow::Result<Vec<u8>> {
    told_branches(mountpoint).with_context(|| no_union(mountpoint))
}

fn no_union(mountpoint: &Path) -> String {
    format!("{} is not the root of a mounted union", mountpoint.display())
}

fn say(text: &[u8]) -> anyhow::Result<()> {
    std::io::stdout().write_all(text).context("standard output")
}
