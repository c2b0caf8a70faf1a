//! Copies of the metadata only (`metacopy=on`): when they are made, what they hold, and how the data comes.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, SeekFrom, XattrFlags, lsetxattr, mknodat, seek};
use unionfs::{Errno, Format, Ino, Name, Options, RenameFlags, SetAttr};

use crate::support::branches::TestTree;
use crate::support::ops::{Action, Subject};
use crate::support::tree::read_xattrs;
use crate::support::unmounted::{Core, Memory};
use crate::union_tables::shown;

fn options(metacopy: bool) -> Options {
    Options { format: Format::Overlay, metacopy, ..Options::default() }
}

fn unite(tree: &TestTree) -> Core {
    Core::new(&tree.list(), &options(true), Memory::Forgets)
}

/// The marks of kernel overlay that an object bears, without their prefix.
fn marks(path: &Path) -> BTreeMap<String, String> {
    let xattrs = read_xattrs(path).into_iter().filter_map(|(name, value)| {
        let name = name.into_string().unwrap();
        let mark = name.strip_prefix("trusted.overlay.").or_else(|| name.strip_prefix("user.overlay."))?;
        Some((mark.to_owned(), String::from_utf8(value).unwrap()))
    });
    xattrs.collect()
}

fn is_hollow(path: &Path) -> bool {
    marks(path).contains_key("metacopy")
}

/// Makes an object of a branch bear a mark of kernel overlay's.
fn mark(path: &Path, mark: &str, value: &str) {
    lsetxattr(path, format!("user.overlay.{mark}"), value.as_bytes(), XattrFlags::empty()).unwrap();
}

/// Makes `path` a copy of the metadata only, as the kernel does.
fn hollow(path: &Path, redirect: Option<&str>) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    File::create(path).unwrap().set_len(4).unwrap();
    mark(path, "metacopy", "");
    redirect.into_iter().for_each(|target| mark(path, "redirect", target));
    mark(path.parent().unwrap(), "impure", "y");
}

fn whiteout(path: &Path) {
    mknodat(CWD, path, FileType::CharacterDevice, Mode::empty(), 0).unwrap();
}

fn chmod(path: &str, mode: u32) -> Action {
    Action::Chmod(path.into(), mode)
}

fn rename(from: &str, to: &str) -> Action {
    Action::Rename(from.into(), to.into(), RenameFlags::empty())
}

fn write(path: &str, data: &str) -> Action {
    Action::Write { path: path.into(), at: 0, data: data.into() }
}

#[test]
fn a_change_of_the_metadata_alone_leaves_the_data_below() {
    let set = Action::SetXattr("d/f".into(), "user.a".into(), b"v".to_vec());
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    for (case, metacopy, act, at, hollow) in [
        ("chmod", true, chmod("d/f", 0o600), "d/f", true),
        ("chown", true, Action::Chown("d/f".into(), uid, gid), "d/f", true),
        ("utimes", true, Action::Utimes("d/f".into(), 77), "d/f", true),
        ("setxattr", true, set, "d/f", true),
        ("rename", true, rename("d/f", "g"), "g", true),
        ("exchange", true, Action::Rename("d/f".into(), "e/h".into(), RenameFlags::EXCHANGE), "e/h", true),
        ("write", true, write("d/f", "x"), "d/f", false),
        ("truncate", true, Action::Truncate("d/f".into(), 1), "d/f", false),
        ("link", true, Action::Link("d/f".into(), "g".into()), "g", false),
        ("chmod of an empty file", true, chmod("d/empty", 0o600), "d/empty", false),
        ("chmod of a file with two names", true, chmod("d/one", 0o600), "d/one", false),
        ("chmod with metacopy=off", false, chmod("d/f", 0o600), "d/f", false),
    ] {
        let tree = TestTree::new(&["", "d/f=text d/empty= d/one=1 d/two=>d/one e/h=here"]);
        let mut core = Core::new(&tree.list(), &options(metacopy), Memory::Forgets);
        core.apply(&act).unwrap_or_else(|errno| panic!("{case}: {errno}"));
        let copy = tree.branch(0).join(at);
        assert_eq!(is_hollow(&copy), hollow, "{case}");
        if hollow {
            let held = marks(&copy);
            assert_eq!(held.get("redirect").map(String::as_str), Some("/d/f"), "{case}");
            assert_eq!(held.get("origin").map(String::as_str), Some(""), "{case}");
            assert_eq!(marks(copy.parent().unwrap())["impure"], "y", "{case}");
            let file = File::open(&copy).unwrap();
            assert_eq!(
                (file.metadata().unwrap().len(), seek(&file, SeekFrom::Data(0))),
                (4, Err(Errno::NXIO))
            );
        }
        let want = shown(&mut core);
        core.apply(&Action::Remount).unwrap();
        assert_eq!(shown(&mut core), want, "{case}: after a remount");
    }
}

#[test]
fn the_data_comes_with_the_first_change_of_it() {
    type Act = fn(&Core, Ino);
    let acts: [(&str, Act, &str); 6] = [
        ("write", |core, f| _ = core.union().write(f, 1, b"EX", false).unwrap(), "tEXt"),
        ("shrink", |core, f| _ = core.union().setattr(f, &size(2)).unwrap(), "te"),
        ("grow", |core, f| _ = core.union().setattr(f, &size(6)).unwrap(), "text\0\0"),
        ("cut off", |core, f| _ = core.union().setattr(f, &size(0)).unwrap(), ""),
        ("allocate", |core, f| core.union().fallocate(f, 0, 0, 6).unwrap(), "text\0\0"),
        ("copy into", |core, f| _ = core.union().copy_file_range(f, 0, f, 4, 2).unwrap(), "textte"),
    ];
    for (case, act, want) in acts {
        let tree = TestTree::new(&["", "d/f=text"]);
        let mut core = Core::new(&tree.list(), &options(true), Memory::Keeps);
        core.apply(&Action::SetXattr("d/f".into(), "user.a".into(), b"v".to_vec())).unwrap();
        core.apply(&chmod("d/f", 0o640)).unwrap();
        let node = core.walk(Path::new("d/f")).unwrap();
        act(&core, node);
        let copy = tree.branch(0).join("d/f");
        assert_eq!(marks(&copy), BTreeMap::new(), "{case}");
        assert_eq!(fs::read(&copy).unwrap(), want.as_bytes(), "{case}");
        assert_eq!(copy.metadata().unwrap().permissions().mode() & 0o7777, 0o640, "{case}");
        assert_eq!(read_xattrs(&copy)["user.a".as_ref() as &std::ffi::OsStr], b"v", "{case}");
        for round in ["at once", "after a remount"] {
            assert_eq!(shown(&mut core), format!("d/ d/f={want}"), "{case}, {round}");
            assert_eq!(core.walk(Path::new("d/f")), Ok(node), "{case}, {round}: st_ino");
            core.apply(&Action::Remount).unwrap();
        }
    }
}

fn size(size: u64) -> SetAttr {
    SetAttr { size: Some(size), ..SetAttr::default() }
}

#[test]
fn size_blocks_and_holes_are_those_of_the_data() {
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            let file = File::create(root.join("f")).unwrap();
            std::os::unix::fs::FileExt::write_all_at(&file, &[7; 65536], 1 << 20).unwrap();
            file.set_len(4 << 20).unwrap();
            file.sync_all().unwrap();
        }
    });
    let mut core = Core::new(&tree.list(), &options(true), Memory::Keeps);
    let lower = tree.branch(1).join("f").metadata().unwrap();
    core.apply(&chmod("f", 0o600)).unwrap();
    for round in ["at once", "after a remount"] {
        let node = core.walk(Path::new("f")).unwrap();
        let attr = core.union().getattr(node).unwrap();
        assert_eq!((attr.size, attr.blocks), (lower.size(), lower.blocks()), "{round}");
        let name = Name::from_bytes(b"f").unwrap();
        assert_eq!(core.union().lookup(Ino::ROOT, name).unwrap().unwrap().attr, attr, "{round}");
        core.union().forget(node, 1);
        assert_eq!(core.union().lseek(node, 0, unionfs::Seek::Data).unwrap(), 1 << 20, "{round}");
        assert!(is_hollow(&tree.branch(0).join("f")), "{round}");
        core.apply(&Action::Remount).unwrap();
    }
}

/// What is put into a branch, by its place in the list.
type Fill = fn(&Path, usize);

const LAYERS: [(&str, Fill, &str); 6] = [
    (
        "by the same name, over a layer without it",
        |root, at| match at {
            0 => hollow(&root.join("d/f"), None),
            2 => fs::write(root.join("d/f"), "deep").unwrap(),
            _ => {}
        },
        "d/ d/f=deep",
    ),
    (
        "through a copy in the middle with a redirect of its own",
        |root, at| match at {
            0 => hollow(&root.join("d/f"), Some("/d/g")),
            1 => {
                hollow(&root.join("d/g"), Some("/d/old"));
                whiteout(&root.join("d/old"));
            }
            _ => fs::write(root.join("d/old"), "deep").unwrap(),
        },
        "d/ d/f=deep d/g=deep",
    ),
    (
        "through a name beside it",
        |root, at| match at {
            0 => hollow(&root.join("d/f"), Some("old")),
            1 => fs::write(root.join("d/old"), "near").unwrap(),
            _ => fs::write(root.join("d/old"), "deep").unwrap(),
        },
        "d/ d/f=near d/old=near",
    ),
    (
        "by an absolute path from a deep directory",
        |root, at| match at {
            0 => hollow(&root.join("d/f"), Some("/old")),
            1 => {}
            _ => fs::write(root.join("old"), "deep").unwrap(),
        },
        "d/ d/f=deep old=deep",
    ),
    (
        "below a copy of the same name in the middle",
        |root, at| match at {
            0 => hollow(&root.join("d/f"), Some("/d/f")),
            1 => hollow(&root.join("d/f"), None),
            _ => fs::write(root.join("d/f"), "deep").unwrap(),
        },
        "d/ d/f=deep",
    ),
    (
        "a copy in the middle alone",
        |root, at| match at {
            0 => {}
            1 => hollow(&root.join("d/f"), None),
            _ => fs::write(root.join("d/f"), "deep").unwrap(),
        },
        "d/ d/f=deep",
    ),
];

#[test]
fn content_is_found_through_layers_redirects_and_whiteouts() {
    for (case, fill, want) in LAYERS {
        let tree = TestTree::build(3, 1, |at, root| {
            fs::create_dir(root.join("d")).unwrap();
            fill(root, at);
        });
        let mut core = unite(&tree);
        assert_eq!(shown(&mut core), want, "{case}");
        core.apply(&chmod("d/f", 0o600)).unwrap();
        core.apply(&rename("d", "moved")).unwrap();
        core.apply(&Action::Mkdir("new".into(), 0o755)).unwrap();
        core.apply(&rename("moved/f", "new/f")).unwrap();
        assert!(is_hollow(&tree.branch(0).join("new/f")), "{case}");
        for round in ["moved", "remounted"] {
            assert_eq!(
                content(&mut core, "new/f"),
                &want[want.find("d/f=").unwrap() + 4..][..4],
                "{case}, {round}"
            );
            core.apply(&Action::Remount).unwrap();
        }
        core.apply(&write("new/f", "W")).unwrap();
        core.apply(&Action::Remount).unwrap();
        assert_eq!(content(&mut core, "new/f")[..1], *"W", "{case}");
    }
}

fn content(core: &mut Core, path: &str) -> String {
    let tree = core.tree();
    String::from_utf8(tree[Path::new(path)].content.clone()).unwrap()
}

#[test]
fn a_copy_without_its_data_can_be_seen_and_removed_but_not_read() {
    let tree = TestTree::build(2, 1, |at, root| {
        if at == 0 {
            hollow(&root.join("f"), Some("/gone"));
        }
    });
    let mut core = Core::new(&tree.list(), &options(true), Memory::Keeps);
    let node = core.walk(Path::new("f")).unwrap();
    assert_eq!(core.union().getattr(node).unwrap().size, 4);
    assert_eq!(core.union().read(node, 0, &mut [0; 4]).unwrap_err().errno, Errno::IO);
    assert_eq!(core.union().write(node, 0, b"x", false).unwrap_err().errno, Errno::IO);
    core.apply(&chmod("f", 0o600)).unwrap();
    core.apply(&rename("f", "g")).unwrap();
    core.apply(&Action::Truncate("g".into(), 0)).unwrap();
    assert_eq!(shown(&mut core), "g=");
    core.apply(&Action::Unlink("g".into())).unwrap();
    assert_eq!(shown(&mut core), "");
}

#[test]
fn a_copy_unlinked_while_open_keeps_its_content() {
    let tree = TestTree::new(&["", "f=text"]);
    let mut core = Core::new(&tree.list(), &options(true), Memory::Keeps);
    core.apply(&chmod("f", 0o600)).unwrap();
    let node = core.walk(Path::new("f")).unwrap();
    core.apply(&Action::Unlink("f".into())).unwrap();
    let read = |core: &Core| {
        let mut buf = [0; 8];
        let len = core.union().read(node, 0, &mut buf).unwrap();
        String::from_utf8(buf[..len].to_vec()).unwrap()
    };
    assert_eq!(read(&core), "text");
    core.union().fsync(node, false).unwrap();
    core.union().write(node, 0, b"T", false).unwrap();
    assert_eq!(read(&core), "Text");
    assert_eq!(shown(&mut core), "");
}

#[test]
fn no_change_of_the_metadata_is_lost_while_the_data_comes() {
    for round in 0..200 {
        let tree = TestTree::new(&["", "d/f=text e/"]);
        let mut core = Core::new(&tree.list(), &Options { volatile: true, ..options(true) }, Memory::Keeps);
        core.apply(&chmod("d/f", 0o600)).unwrap();
        let (node, d, e) = (
            core.walk(Path::new("d/f")).unwrap(),
            core.walk(Path::new("d")).unwrap(),
            core.walk(Path::new("e")).unwrap(),
        );
        let union = core.union();
        std::thread::scope(|scope| {
            scope.spawn(|| union.write(node, 0, b"T", false).unwrap());
            scope.spawn(|| {
                for mode in [0o601, 0o602, 0o604] {
                    union.setattr(node, &SetAttr { mode: Some(mode), ..SetAttr::default() }).unwrap();
                }
            });
            let name = Name::from_bytes(b"f").unwrap();
            scope.spawn(move || union.rename(d, name, e, name, RenameFlags::empty()).unwrap());
        });
        assert_eq!(union.getattr(node).unwrap().mode & 0o7777, 0o604, "round {round}");
        core.apply(&Action::Remount).unwrap();
        assert_eq!(shown(&mut core), "d/ e/ e/f=Text", "round {round}");
        assert_eq!(fs::metadata(tree.branch(0).join("e/f")).unwrap().mode() & 0o7777, 0o604, "round {round}");
    }
}

#[test]
fn a_union_without_the_option_fills_the_copies_that_it_changes() {
    let tree = TestTree::new(&["", "f=text g=keep"]);
    let mut core = unite(&tree);
    core.apply(&chmod("f", 0o600)).unwrap();
    core.apply(&chmod("g", 0o600)).unwrap();
    drop(core);
    let mut core = Core::new(&tree.list(), &options(false), Memory::Forgets);
    assert_eq!(shown(&mut core), "f=text g=keep");
    core.apply(&chmod("f", 0o640)).unwrap();
    assert!(!is_hollow(&tree.branch(0).join("f")) && is_hollow(&tree.branch(0).join("g")));
    assert_eq!(fs::read(tree.branch(0).join("f")).unwrap(), b"text");
    assert_eq!(shown(&mut core), "f=text g=keep");
}

#[test]
fn the_aufs_format_refuses_the_option() {
    let tree = TestTree::new(&["", "f=text"]);
    let specs = unionfs::branch::BranchSpec::parse_list(tree.list()).unwrap();
    let aufs = Options { metacopy: true, ..Options::default() };
    let error = unionfs::Union::new(specs.clone(), aufs.clone()).unwrap_err().to_string();
    assert!(error.contains("format=overlay"), "{error}");
    assert!(unionfs::Union::new(specs, Options { read_only: true, ..aufs }).is_ok());
}
