//! Who is compared, and how each is started.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A way to unite layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    /// As tables and `--candidates` name it.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Runs in a user namespace with the identity map: root there, without any privilege over the host.
    pub(crate) rootless: bool,
}

/// What makes the union.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// No union: the merged tree as plain files on the filesystem that holds the layers.
    Plain,
    /// The kernel's overlay.
    Overlay,
    /// This project.
    Ours(Choice),
    /// fuse-overlayfs 2.0, the crate.
    FuseOverlayfs2,
    /// fuse-overlayfs 1.x of the distribution.
    FuseOverlayfs1,
    /// unionfs-fuse of the distribution.
    UnionfsFuse,
}

/// How ours is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Mount options, if any.
    options: &'static str,
    /// What must then be agreed on with the kernel, as `unionfs features` names it.
    pub(crate) live: &'static [&'static str],
}

const fn ours(options: &'static str, live: &'static [&'static str]) -> Kind {
    Kind::Ours(Choice { options, live })
}

const fn rootful(name: &'static str, kind: Kind) -> Candidate {
    Candidate { name, kind, rootless: false }
}

const fn rootless(name: &'static str, kind: Kind) -> Candidate {
    Candidate { name, kind, rootless: true }
}

/// The candidate that ratios are taken to.
pub(crate) const REFERENCE: &str = "overlay";

/// The peer that no workload of ours may be slower than.
pub(crate) const NEAREST_PEER: &str = "fuse-overlayfs-2";

/// Every candidate. mergerfs is not among them: it has no copy-up, so half of the workloads cannot run on it.
pub(crate) const ALL: &[Candidate] = &[
    rootful("ext4", Kind::Plain),
    rootful(REFERENCE, Kind::Overlay),
    rootful("ours", ours("", &[])),
    rootful("ours-stateless", ours("io=stateless,transport=classic", &[])),
    rootful("ours-passthrough", ours("io=passthrough,transport=classic", &["PASSTHROUGH"])),
    rootful("ours-volatile", ours("volatile", &[])),
    rootful("ours-passthrough-all", ours("io=passthrough-all,transport=classic", &["PASSTHROUGH"])),
    rootful("ours-uring", ours("io=stateless,transport=uring", &["OVER_IO_URING"])),
    rootful(
        "ours-uring-passthrough",
        ours("io=passthrough,transport=uring", &["OVER_IO_URING", "PASSTHROUGH"]),
    ),
    rootful(NEAREST_PEER, Kind::FuseOverlayfs2),
    rootful("fuse-overlayfs-1", Kind::FuseOverlayfs1),
    rootful("unionfs-fuse", Kind::UnionfsFuse),
    rootless("overlay-rootless", Kind::Overlay),
    rootless("ours-rootless", ours("", &[])),
    rootless("fuse-overlayfs-2-rootless", Kind::FuseOverlayfs2),
    rootless("fuse-overlayfs-1-rootless", Kind::FuseOverlayfs1),
];

/// Where programs are found.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    /// Our own.
    pub(crate) unionfs: PathBuf,
    /// The directory of peers built for the comparison.
    pub(crate) tools: PathBuf,
}

/// The places of one union: absolute paths, layers from the highest priority down.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) upper: PathBuf,
    pub(crate) work: PathBuf,
    pub(crate) target: PathBuf,
}

impl Candidate {
    /// The candidate of this name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|candidate| candidate.name == name)
    }

    /// Whether this is one of ours.
    pub(crate) const fn is_ours(&self) -> bool {
        matches!(self.kind, Kind::Ours(_))
    }

    /// The server's program, if the candidate has one.
    pub(crate) fn program(&self, programs: &Programs) -> Option<PathBuf> {
        match self.kind {
            Kind::Plain | Kind::Overlay => None,
            Kind::Ours(_) => Some(programs.unionfs.clone()),
            Kind::FuseOverlayfs2 => Some(programs.tools.join("fuse-overlayfs")),
            Kind::FuseOverlayfs1 => Some(PathBuf::from("/usr/bin/fuse-overlayfs")),
            Kind::UnionfsFuse => Some(PathBuf::from("/usr/bin/unionfs-fuse")),
        }
    }

    /// The arguments that make its server unite `places` and stay in the foreground.
    pub(crate) fn arguments(&self, places: &Places) -> Vec<OsString> {
        let target = places.target.clone().into_os_string();
        match self.kind {
            Kind::Plain | Kind::Overlay => Vec::new(),
            Kind::Ours(Choice { options, .. }) => {
                let branches = branch_list(places, "=rw", "=ro+wh");
                let mut arguments = vec!["mount".into(), "-f".into(), branches, target];
                if !options.is_empty() {
                    arguments.extend(["-o".into(), options.into()]);
                }
                arguments
            }
            Kind::FuseOverlayfs2 | Kind::FuseOverlayfs1 => {
                vec!["-f".into(), "-o".into(), overlay_options(places, ""), target]
            }
            Kind::UnionfsFuse => {
                let options = "cow,suid,dev,allow_other,default_permissions";
                let branches = branch_list(places, "=RW", "=RO");
                vec!["-f".into(), "-o".into(), options.into(), branches, target]
            }
        }
    }
}

/// `lowerdir=…,upperdir=…,workdir=…`, with `more` after it.
pub(crate) fn overlay_options(places: &Places, more: &str) -> OsString {
    let mut options = OsString::from("lowerdir=");
    options.push(join(places.layers.iter().map(PathBuf::as_path), ""));
    for (key, place) in [(",upperdir=", &places.upper), (",workdir=", &places.work)] {
        options.push(key);
        options.push(place);
    }
    options.push(more);
    options
}

fn branch_list(places: &Places, writable: &str, read_only: &str) -> OsString {
    let mut list = places.upper.clone().into_os_string();
    list.push(writable);
    list.push(":");
    list.push(join(places.layers.iter().map(PathBuf::as_path), read_only));
    list
}

fn join<'a>(paths: impl Iterator<Item = &'a Path>, suffix: &str) -> OsString {
    let mut list = OsString::new();
    for path in paths {
        if !list.is_empty() {
            list.push(":");
        }
        list.push(path);
        list.push(suffix);
    }
    list
}
