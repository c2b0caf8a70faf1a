//! The read-only layer between image and writable layer: what a container finds in /etc by right of being one, and
//! the places that something is mounted on. None of it ever reaches a commit.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Component, Path, PathBuf};

use crate::error::{On, Result};
use crate::spec::{Network, Source, Spec};
use crate::tree::{Mark, mark};

/// What image layers show at a path, without following any link.
#[derive(Debug)]
pub(crate) enum Shown {
    /// Nothing.
    Absent,
    /// A directory, with the attributes of its highest part.
    Directory(fs::Metadata),
    /// Anything else.
    Other,
}

/// Looks `path` up in `layers`, the highest first, as the union would.
pub(crate) fn look_up(layers: &[PathBuf], path: &Path) -> Shown {
    match parts(layers, path) {
        None => Shown::Other,
        Some(parts) => {
            let first = parts.first().and_then(|part| fs::metadata(part).ok());
            first.map_or(Shown::Absent, Shown::Directory)
        }
    }
}

/// The names that `layers` show in the directory `path`.
pub(crate) fn list_shown(layers: &[PathBuf], path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = Vec::new();
    for part in parts(layers, path).into_iter().flatten() {
        names.extend(fs::read_dir(part).into_iter().flatten().flatten().map(|entry| entry.file_name()));
    }
    names.sort();
    names.dedup();
    let is_shown = |name: &OsString| {
        mark(name.as_encoded_bytes()) == Mark::Object
            && !matches!(look_up(layers, &path.join(name)), Shown::Absent)
    };
    names.retain(is_shown);
    names
}

/// The directories that make up `path`, the highest first, none if there is nothing; `None` if it is no directory.
fn parts(layers: &[PathBuf], path: &Path) -> Option<Vec<PathBuf>> {
    let mut parts: Vec<PathBuf> = layers.to_vec();
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let mut found = Vec::new();
        for part in &parts {
            let mut hidden = OsString::from(".wh.");
            hidden.push(name);
            if fs::symlink_metadata(part.join(hidden)).is_ok() {
                break;
            }
            let child = part.join(name);
            match fs::symlink_metadata(&child) {
                Ok(attributes) if attributes.is_dir() => found.push(child),
                Ok(_) if found.is_empty() => return None,
                Ok(_) => break,
                Err(_) => {}
            }
            if found.last().is_some_and(|last| last.join(".wh..wh..opq").exists()) {
                break;
            }
        }
        parts = found;
    }
    Some(parts)
}

/// Makes the layer in `init`, and gives its root and that of the writable layer the attributes of the image's.
pub(crate) fn make(init: &Path, writable: &Path, layers: &[PathBuf], spec: &Spec, name: &str) -> Result<()> {
    for root in [init, writable] {
        if let Shown::Directory(attributes) = look_up(layers, Path::new("/")) {
            imitate(root, &attributes)?;
        }
    }
    for place in ["proc", "sys", "dev"] {
        if !make_directory(init, layers, Path::new(place))? {
            // The image has something else there; a mount point it must be.
            let path = init.join(place);
            fs::create_dir_all(&path).on("mkdir", &path)?;
        }
    }
    if make_directory(init, layers, Path::new("etc"))? {
        for (file, text) in files(spec, name) {
            let path = init.join("etc").join(file);
            fs::write(&path, text).on("write", &path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).on("chmod", &path)?;
        }
    }
    for mount in &spec.mounts {
        let target = mount.target.strip_prefix("/").unwrap_or(&mount.target);
        let file = matches!(&mount.source, Source::Host(path) if !path.is_dir());
        if matches!(look_up(layers, target), Shown::Absent) {
            make_mount_point(init, layers, target, file)?;
        }
    }
    Ok(())
}

/// Makes `place` with its parents; false where the image has something that is no directory on the way.
fn make_directory(init: &Path, layers: &[PathBuf], place: &Path) -> Result<bool> {
    let mut so_far = PathBuf::new();
    for component in place.components() {
        so_far.push(component);
        let path = init.join(&so_far);
        let shown = look_up(layers, &so_far);
        if matches!(shown, Shown::Other) || is_mark(component) {
            return Ok(false);
        }
        match fs::create_dir(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
            made => made.on("mkdir", &path)?,
        }
        match shown {
            Shown::Directory(attributes) => imitate(&path, &attributes)?,
            _ => fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).on("chmod", &path)?,
        }
    }
    Ok(true)
}

fn make_mount_point(init: &Path, layers: &[PathBuf], target: &Path, file: bool) -> Result<()> {
    let directory = if file { target.parent().unwrap_or(target) } else { target };
    if make_directory(init, layers, directory)? && file {
        let path = init.join(target);
        fs::File::create(&path).on("create", &path)?;
    }
    Ok(())
}

fn is_mark(component: Component<'_>) -> bool {
    mark(component.as_os_str().as_encoded_bytes()) != Mark::Object
}

fn imitate(path: &Path, attributes: &fs::Metadata) -> Result<()> {
    chown(path, Some(attributes.uid()), Some(attributes.gid())).on("chown", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(attributes.mode() & 0o7777)).on("chmod", path)
}

/// The files of /etc.
pub(crate) fn files(spec: &Spec, name: &str) -> [(&'static str, String); 3] {
    let host = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let shares_network = spec.network == Network::Host;
    let hosts = if shares_network { host("/etc/hosts") } else { own_hosts(&spec.hostname, name) };
    [
        ("hosts", hosts),
        ("hostname", format!("{}\n", spec.hostname)),
        ("resolv.conf", resolv_conf(&host("/etc/resolv.conf"), shares_network)),
    ]
}

fn own_hosts(hostname: &str, name: &str) -> String {
    format!(
        "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\t{hostname} {name}\n"
    )
}

/// The host's resolver configuration, without the servers on its loopback interface, which is not the container's.
fn resolv_conf(host: &str, shares_network: bool) -> String {
    let local = |line: &&str| {
        let server = line.strip_prefix("nameserver").map(str::trim);
        server.is_some_and(|server| server.starts_with("127.") || server == "::1")
    };
    let lines = host.lines().filter(|line| shares_network || !local(line));
    lines.flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn look_up_as_the_union_would() {
        let temp = tempfile::tempdir().unwrap();
        let layer = |name: &str, dirs: &[&str], files: &[&str]| {
            let layer = temp.path().join(name);
            fs::create_dir(&layer).unwrap();
            dirs.iter().for_each(|dir| fs::create_dir_all(layer.join(dir)).unwrap());
            files.iter().for_each(|file| fs::write(layer.join(file), "").unwrap());
            layer
        };
        let top = layer("top", &["a", "opaque"], &[".wh.gone", "opaque/.wh..wh..opq", "file"]);
        let bottom = layer("bottom", &["a/b", "gone/c", "opaque/d", "file"], &["a/plain"]);
        let layers = [top, bottom];
        for (path, want) in [
            ("/", "directory"),
            ("a", "directory"),
            ("a/b", "directory"),
            ("a/plain", "other"),
            ("a/none", "absent"),
            ("gone", "absent"),
            ("gone/c", "absent"),
            ("opaque", "directory"),
            ("opaque/d", "absent"),
            ("file", "other"),
            ("file/x", "other"),
        ] {
            let got = match look_up(&layers, Path::new(path)) {
                Shown::Absent => "absent",
                Shown::Directory(_) => "directory",
                Shown::Other => "other",
            };
            assert_eq!(got, want, "{path}");
        }
    }

    #[test]
    fn resolv_conf_drops_loopback_servers() {
        let host = "search example\nnameserver 127.0.0.53\nnameserver 192.0.2.1\nnameserver ::1\n";
        assert_eq!(resolv_conf(host, false), "search example\nnameserver 192.0.2.1\n");
        assert_eq!(resolv_conf(host, true), host);
    }
}
