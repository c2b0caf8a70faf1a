//! Extended attributes and what lives in them: ACLs, capabilities.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use rustix::fs::{CWD, FileType, XattrFlags, mknodat};
use rustix::io::Errno;

use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, host_ok};
use crate::support::tree::read_xattrs;
use crate::support::user::{Umask, as_user};

fn mode(c: &TestMount, path: &str) -> u32 {
    fs::symlink_metadata(c.path(path)).unwrap().mode() & 0o7777
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[test]
fn capabilities_are_dropped_by_a_write_and_kept_by_a_chmod() {
    let capability = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tree = TestTree::build(2, 1, |index, root| {
        for name in ["f", "g"].iter().filter(|_| index == 1) {
            fs::write(root.join(name), "x").unwrap();
            rustix::fs::setxattr(root.join(name), "security.capability", &capability, XattrFlags::empty())
                .unwrap();
        }
    });
    let mut c = TestMount::over(tree, &[]);
    chmod(c.path("f"), 0o755);
    OpenOptions::new().write(true).open(c.path("g")).unwrap().write_all_at(b"y", 0).unwrap();
    for round in ["at once", "after a remount"] {
        let has = |path: &str| read_xattrs(&c.path(path)).contains_key(OsStr::new("security.capability"));
        assert_eq!((has("f"), has("g")), (true, false), "{round}");
        c.remount();
    }
}

#[test]
fn acls_decide_are_inherited_and_survive_copy_up() {
    let mut c = TestMount::new(&["", "d/x=x d/f=f"]);
    let arg = |path: &str| c.path(path).into_os_string();
    chmod(c.path("d/f"), 0o600);
    chmod(c.path("d"), 0o755);
    host_ok("setfacl", &["-m".as_ref(), "u:1000:rw".as_ref(), &arg("d/f")]);
    host_ok("setfacl", &["-d".as_ref(), "-m".as_ref(), "u:1000:rwx,g::rx,o::-".as_ref(), &arg("d")]);
    let umask = Umask::set(0o077);
    fs::write(c.path("d/new"), "").unwrap();
    fs::create_dir(c.path("d/sub")).unwrap();
    drop(umask);
    for round in ["at once", "after a remount"] {
        as_user(1000, 1000, || drop(OpenOptions::new().write(true).open(c.path("d/f")).unwrap()));
        let denied = as_user(1001, 1001, || OpenOptions::new().write(true).open(c.path("d/f")).map(drop));
        assert_eq!(denied.unwrap_err().raw_os_error(), Some(libc::EACCES), "{round}");
        let told = |path: &str| host_ok("getfacl", &["-cpn".as_ref(), c.path(path).as_os_str()]);
        assert!(told("d/f").contains("user:1000:rw-"), "{round}: {}", told("d/f"));
        // A default ACL takes the umask's place (acl(5)).
        assert!(
            told("d/new").contains("user:1000:rwx") && told("d/new").contains("mask::rw-"),
            "{round}: {}",
            told("d/new")
        );
        assert!(told("d/sub").contains("default:user:1000:rwx"), "{round}: {}", told("d/sub"));
        assert_eq!((mode(&c, "d/new"), mode(&c, "d/sub")), (0o660, 0o770), "{round}");
        c.remount();
    }
}

#[test]
fn default_acls_are_inherited_as_on_ext4() {
    const DEFAULTS: [&str; 4] = [
        "u::rwx,g::rx,o::-",
        "u:1000:rwx,g::rx,o::-",
        "u::rx,g:7:rw,m::r,o::x",
        "g::-,u:1000:-,u:1001:rwx,o::r",
    ];
    for acl in DEFAULTS {
        let c = TestMount::new(&["", "d/x="]);
        let plain = c.tree().beside("plain");
        fs::create_dir(&plain).unwrap();
        chmod(c.path("d"), 0o755);
        chmod(&plain, 0o755);
        let told = [plain, c.path("d")].map(|dir| {
            host_ok("setfacl", &["-d".as_ref(), "-m".as_ref(), acl.as_ref(), dir.as_os_str()]);
            make_some_of_each_mode(&dir);
            Command::new("getfacl").args(["-Rpn", "."]).current_dir(&dir).output().unwrap().stdout
        });
        let [plain, ours] = told.map(|text| {
            let text = String::from_utf8(text).unwrap();
            let objects = text.split_terminator("\n\n").filter(|object| !object.starts_with("# file: ./x\n"));
            objects.map(str::to_owned).collect::<BTreeSet<_>>()
        });
        assert_eq!(plain.len(), 1 + 3 * 5 * 4, "the directory, and what was made: {plain:?}");
        assert_eq!(ours, plain, "{acl}");
    }
}

/// Files, directories and fifos of several modes and umasks in a directory.
fn make_some_of_each_mode(dir: &Path) {
    for mask in [0o022, 0o077, 0o000] {
        let umask = Umask::set(mask);
        for mode in [0o666, 0o600, 0o755, 0o2775, 0o000] {
            let at = |kind: &str| dir.join(format!("{kind}-{mode:o}-{mask:o}"));
            drop(OpenOptions::new().write(true).create_new(true).mode(mode).open(at("file")).unwrap());
            fs::DirBuilder::new().mode(mode).create(at("dir")).unwrap();
            fs::write(at("dir").join("below"), "").unwrap();
            mknodat(CWD, at("fifo"), FileType::Fifo, mode.into(), 0).unwrap();
        }
        drop(umask);
    }
}

#[test]
fn extended_attributes_answer_as_on_ext4() {
    let c = TestMount::new(&["", "f=f d/g=g"]);
    let plain = c.tree().beside("plain");
    fs::write(&plain, "f").unwrap();
    let long = "user.".to_owned() + &"n".repeat(251);
    let steps: [(&str, &str, &[u8], XattrFlags); 9] = [
        ("new", "user.a", b"1", XattrFlags::empty()),
        ("create what is there", "user.a", b"2", XattrFlags::CREATE),
        ("replace", "user.a", b"3", XattrFlags::REPLACE),
        ("replace what is not there", "user.b", b"4", XattrFlags::REPLACE),
        ("empty value", "user.empty", b"", XattrFlags::empty()),
        ("trusted", "trusted.t", b"\0\xff", XattrFlags::empty()),
        ("no namespace", "plain", b"x", XattrFlags::empty()),
        ("unknown namespace", "nospace.x", b"x", XattrFlags::empty()),
        ("name too long", &long, b"x", XattrFlags::empty()),
    ];
    for (case, name, value, flags) in steps {
        let results = [plain.clone(), c.path("f")].map(|path| rustix::fs::setxattr(path, name, value, flags));
        assert_eq!(results[0], results[1], "{case}");
        assert_eq!(read_xattrs(&plain), read_xattrs(&c.path("f")), "{case}");
    }
    let mut small = [0; 1];
    assert_eq!(rustix::fs::getxattr(c.path("f"), "trusted.t", &mut small[..]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::listxattr(c.path("f"), &mut small[..]), Err(Errno::RANGE));
    assert_eq!(rustix::fs::getxattr(c.path("f"), "user.none", &mut small[..]), Err(Errno::NODATA));
    assert_eq!(rustix::fs::removexattr(c.path("f"), "user.none"), Err(Errno::NODATA));
    assert_eq!(rustix::fs::removexattr(c.path("f"), "user.a"), Ok(()));
    assert!(
        read_xattrs(&c.path("d")).is_empty() && read_xattrs(&c.path("d/g")).is_empty(),
        "ours are not shown"
    );
    fs::write(c.path("d/g"), "copied").unwrap();
    assert!(
        read_xattrs(&c.path("d")).is_empty() && read_xattrs(&c.path("d/g")).is_empty(),
        "ours are not shown"
    );
}
