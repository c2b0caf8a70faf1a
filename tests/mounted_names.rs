//! Names: every byte, every length, and the ones that the union keeps for itself.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::fs::{CWD, FileType, mknodat, statvfs};
use rustix::io::Errno;

use crate::support::branches::{TestTree, ls};
use crate::support::mount::TestMount;

/// Names that trip programs up; each must be an ordinary name here.
fn odd_names() -> Vec<Vec<u8>> {
    let mut names: Vec<Vec<u8>> = [
        &b"\xff\xfe"[..],
        b"new\nline",
        b"tab\t",
        b" ",
        b"...",
        b"-f",
        b"a:b,c=d\\e",
        b"*",
        b"wh.x",
        b".whx",
        b".w",
        b"\x01",
    ]
    .map(<[u8]>::to_vec)
    .into();
    names.extend([255, 254, 252, 251, 250, 242].map(|len| vec![b'n'; len]));
    names.push("ü".repeat(127).into_bytes());
    names
}

#[test]
fn odd_names_are_ordinary_in_every_branch_and_act() {
    let names = odd_names();
    let tree = TestTree::build(2, 1, |index, root| {
        for name in names.iter().filter(|_| index == 1) {
            fs::write(root.join(OsStr::from_bytes(name)), "low").unwrap();
        }
    });
    let mut c = TestMount::over(tree, &[]);
    assert_eq!(fs::read_dir(c.root()).unwrap().count(), names.len());
    for name in &names {
        let path = c.path(OsStr::from_bytes(name));
        let shown = String::from_utf8_lossy(&name[..name.len().min(20)]).into_owned();
        assert_eq!(fs::read(&path).unwrap(), b"low", "{shown:?}");
        fs::write(&path, "changed").unwrap();
        let dir = c.path("dir");
        fs::create_dir_all(&dir).unwrap();
        fs::rename(&path, dir.join(OsStr::from_bytes(name))).unwrap();
        assert!(!path.exists(), "{shown:?}");
        fs::create_dir(&path).unwrap();
    }
    for round in ["at once", "after a remount"] {
        for name in &names {
            let name = OsStr::from_bytes(name);
            assert!(c.path(name).is_dir(), "{name:?} {round}");
            assert_eq!(fs::read(c.path("dir").join(name)).unwrap(), b"changed", "{name:?} {round}");
        }
        c.remount();
    }
    fs::remove_dir_all(c.path("dir")).unwrap();
    names.iter().for_each(|name| fs::remove_dir(c.path(OsStr::from_bytes(name))).unwrap());
    c.remount();
    assert_eq!(ls(&c.root()), "", "every lower name stays deleted");
}

#[test]
fn a_name_of_256_bytes_is_too_long() {
    let c = TestMount::new(&["", ""]);
    let error = File::create(c.path("n".repeat(256))).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENAMETOOLONG));
    assert_eq!(statvfs(c.root()).unwrap().f_namemax, 255);
}

#[test]
fn nobody_can_forge_a_whiteout() {
    let c = TestMount::new(&["mine=m", "x=x d/y=y"]);
    for name in [".wh.x", ".wh.", ".wh..wh..opq", ".wh..wh.plnk", "d/.wh.y", "d/.wh..wh..opq"] {
        let path = c.path(name);
        assert!(
            matches!(fs::symlink_metadata(&path), Err(error) if error.raw_os_error() == Some(libc::ENOENT)),
            "{name}"
        );
        for (act, result) in [
            ("create", File::create(&path).map(drop)),
            ("mkdir", fs::create_dir(&path)),
            ("symlink", symlink("t", &path)),
            ("link", fs::hard_link(c.path("mine"), &path)),
            ("rename", fs::rename(c.path("mine"), &path)),
            ("mknod", mknodat(CWD, &path, FileType::Fifo, 0o644.into(), 0).map_err(Into::into)),
        ] {
            assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EPERM), "{act} {name}");
        }
    }
    assert_eq!((ls(&c.root()), ls(&c.path("d"))), ("d mine x".into(), "y".into()));
}

#[test]
fn whiteouts_in_the_writable_branch_cannot_be_seen_or_removed() {
    let c = TestMount::new(&["", "x=x d/y=y"]);
    fs::remove_file(c.path("x")).unwrap();
    fs::remove_dir_all(c.path("d")).unwrap();
    fs::create_dir(c.path("d")).unwrap();
    for name in [".wh.x", "d/.wh..wh..opq", "d/.wh.y"] {
        assert_eq!(fs::remove_file(c.path(name)).unwrap_err().raw_os_error(), Some(libc::ENOENT), "{name}");
        assert_eq!(
            fs::rename(c.path(name), c.path("z")).unwrap_err().raw_os_error(),
            Some(libc::ENOENT),
            "{name}"
        );
    }
    fs::remove_dir(c.path("d")).unwrap();
    assert_eq!(ls(&c.root()), "");
}

#[test]
fn a_device_0_0_is_the_users_own() {
    let mut c = TestMount::new(&["", "low=l"]);
    for name in ["dev", "low"] {
        drop(fs::remove_file(c.path(name)));
        mknodat(CWD, c.path(name), FileType::CharacterDevice, 0o600.into(), 0).unwrap();
    }
    for round in ["at once", "after a remount"] {
        for name in ["dev", "low"] {
            let meta =
                fs::symlink_metadata(c.path(name)).unwrap_or_else(|error| panic!("{name} {round}: {error}"));
            assert_eq!((meta.mode() & libc::S_IFMT, meta.rdev()), (libc::S_IFCHR, 0), "{name} {round}");
        }
        c.remount();
    }
    assert_eq!(ls(&c.root()), "dev low");
}

#[test]
fn paths_longer_than_path_max_are_reached_step_by_step() {
    let part = "p".repeat(200);
    let deep = [part.as_str(); 18].join("/");
    let tree = TestTree::new(&["", &format!("{deep}/f=deep")]);
    let c = TestMount::over(tree, &[]);
    let mut dir = File::open(c.root()).unwrap();
    let open = |dir: &File, name: &str| {
        let flags = rustix::fs::OFlags::RDONLY;
        rustix::fs::openat(dir, name, flags, 0o644.into()).map(File::from)
    };
    for _ in 0..18 {
        dir = open(&dir, &part).unwrap();
    }
    for _ in 0..12 {
        rustix::fs::mkdirat(&dir, &part, 0o755.into()).unwrap();
        dir = open(&dir, &part).unwrap();
    }
    let flags = rustix::fs::OFlags::CREATE | rustix::fs::OFlags::RDWR;
    rustix::fs::openat(&dir, "new", flags, 0o644.into()).unwrap();
    assert_eq!(open(&dir, "absent").map(drop).unwrap_err(), Errno::NOENT);
}
