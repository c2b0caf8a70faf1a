//! Copies of the metadata only (`metacopy=on`): as users see them, and as the kernel's overlay reads and writes them.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown};
use std::path::Path;

use rustix::fs::{
    CWD, FallocateFlags, RenameFlags, SeekFrom, XattrFlags, copy_file_range, fallocate, lsetxattr,
    renameat_with, seek,
};
use rustix::io::Errno;
use rustix::mm::MapFlags;
use rustix::mount::{MountFlags, mount};

use crate::faults::Strace;
use crate::formats::{Overlay, seen};
use crate::support::branches::TestTree;
use crate::support::mount::{TestMount, host_ok, run};
use crate::support::sys::Mapping;
use crate::support::tree::{difference, read_xattrs};
use crate::support::user::as_user;

const PAGE: usize = 4096;
pub(crate) const ON: &str = "format=overlay,metacopy=on";

pub(crate) fn mounted(tree: TestTree, options: &str) -> TestMount {
    let work = tree.beside("work");
    fs::create_dir_all(&work).unwrap();
    TestMount::over(tree, &["-o", &format!("{options},workdir={}", work.display())])
}

pub(crate) fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn is_hollow(path: &Path) -> bool {
    read_xattrs(path).contains_key(OsStr::new("trusted.overlay.metacopy"))
}

/// A lower file `f` of four pages, each of its own letter, the third a hole; its copy holds the metadata only.
fn hollow_file() -> TestMount {
    let tree = TestTree::build(2, 1, |index, root| {
        if index == 1 {
            let file = File::create(root.join("f")).unwrap();
            for (page, letter) in [(0, b'a'), (1, b'b'), (3, b'd')] {
                file.write_all_at(&[letter; PAGE], page * PAGE as u64).unwrap();
            }
            file.sync_all().unwrap();
        }
    });
    let c = mounted(tree, ON);
    chmod(c.path("f"), 0o640);
    assert!(is_hollow(&c.upper("f")));
    c
}

#[test]
fn readers_of_every_kind_get_the_lower_data() {
    let mut c = hollow_file();
    for round in ["at once", "after a remount"] {
        let want = fs::read(c.lower("f")).unwrap();
        assert_eq!(fs::read(c.path("f")).unwrap(), want, "{round}: read");
        let file = File::open(c.path("f")).unwrap();
        let map = Mapping::new(&file, 4 * PAGE, MapFlags::SHARED, false).unwrap();
        assert_eq!(map.bytes(), want, "{round}: mmap");
        let hole = u64::try_from(2 * PAGE).unwrap();
        assert_eq!(seek(&file, SeekFrom::Hole(0)), Ok(hole), "{round}: SEEK_HOLE");
        assert_eq!(seek(&file, SeekFrom::Data(hole)), Ok(3 * PAGE as u64), "{round}: SEEK_DATA");
        let other = File::create(c.path("other")).unwrap();
        let (mut from, mut to) = (PAGE as u64, 0);
        assert_eq!(copy_file_range(&file, Some(&mut from), &other, Some(&mut to), PAGE), Ok(PAGE), "{round}");
        assert_eq!(fs::read(c.path("other")).unwrap(), [b'b'; PAGE], "{round}: copy_file_range");
        host_ok("cp", &["--reflink=auto".as_ref(), c.path("f").as_ref(), c.path("other").as_ref()]);
        assert_eq!(fs::read(c.path("other")).unwrap(), want, "{round}: cp");
        file.sync_all().unwrap();
        file.sync_data().unwrap();
        let (told, lower) = (fs::metadata(c.path("f")).unwrap(), fs::metadata(c.lower("f")).unwrap());
        assert_eq!((told.size(), told.blocks()), (lower.size(), lower.blocks()), "{round}");
        assert!(is_hollow(&c.upper("f")), "{round}: nothing was written");
        drop((map, file, other));
        c.remount();
    }
}

#[test]
fn the_first_change_of_the_data_brings_it_whatever_makes_it() {
    type Act = fn(&File);
    let acts: [(&str, Act); 5] = [
        ("write", |file| file.write_all_at(b"new", 10).unwrap()),
        ("mmap", |file| {
            let mut map = Mapping::new(file, PAGE, MapFlags::SHARED, true).unwrap();
            map.store(10, b"new");
            map.sync().unwrap();
        }),
        ("fallocate", |file| fallocate(file, FallocateFlags::empty(), 0, 5 * PAGE as u64).unwrap()),
        ("copy_file_range", |file| {
            copy_file_range(file, Some(&mut 0), file, Some(&mut (2 * PAGE as u64)), PAGE).unwrap();
        }),
        ("ftruncate", |file| file.set_len(5 * PAGE as u64).unwrap()),
    ];
    for (case, act) in acts {
        let mut c = hollow_file();
        let before = File::open(c.path("f")).unwrap();
        let mut want = fs::read(c.lower("f")).unwrap();
        assert_eq!(fs::read(c.path("f")).unwrap(), want, "{case}");
        let file = OpenOptions::new().read(true).write(true).open(c.path("f")).unwrap();
        act(&file);
        drop(file);
        match case {
            "write" | "mmap" => want[10..13].copy_from_slice(b"new"),
            "copy_file_range" => want[2 * PAGE..3 * PAGE].fill(b'a'),
            _ => want.resize(5 * PAGE, 0),
        }
        assert!(!is_hollow(&c.upper("f")), "{case}");
        let mut early = vec![0; want.len()];
        before.read_exact_at(&mut early, 0).unwrap();
        assert_eq!(early, want, "{case}: opened before");
        drop(before);
        c.remount();
        assert_eq!(fs::read(c.path("f")).unwrap(), want, "{case}");
        assert_eq!(fs::read(c.upper("f")).unwrap(), want, "{case}: in the upper");
        assert_eq!(fs::metadata(c.path("f")).unwrap().mode() & 0o7777, 0o640, "{case}");
    }
}

#[test]
fn opening_with_o_trunc_copies_no_data() {
    let c = hollow_file();
    let log = c.tree().beside("calls");
    {
        let words = ["-o", log.to_str().unwrap(), "-e", "trace=copy_file_range,pwrite64,ioctl,sendfile"];
        let _strace = Strace::attach(c.server(), &words);
        drop(OpenOptions::new().write(true).truncate(true).open(c.path("f")).unwrap());
    }
    let log = fs::read_to_string(log).unwrap();
    let copies = ["copy_file_range(", "pwrite64(", "FICLONE"];
    assert!(!copies.iter().any(|call| log.contains(call)), "{log}");
    assert_eq!((fs::metadata(c.path("f")).unwrap().len(), is_hollow(&c.upper("f"))), (0, false));
}

#[test]
fn privileges_and_acls_are_as_on_a_whole_copy() {
    let capability = [0, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let names = ["suid", "cap", "capown", "acl"];
    let tree = TestTree::build(2, 1, |index, root| {
        for name in names.iter().filter(|_| index == 1) {
            fs::write(root.join(name), "content").unwrap();
            chmod(root.join(name), 0o666);
        }
    });
    let mut c = mounted(tree, ON);
    for name in ["cap", "capown"] {
        lsetxattr(c.path(name), "security.capability", &capability, XattrFlags::empty()).unwrap();
    }
    chmod(c.path("suid"), 0o4777);
    host_ok("setfacl", &["-m".as_ref(), "u:1000:r".as_ref(), c.path("acl").as_ref()]);
    assert!(names.iter().all(|name| is_hollow(&c.upper(name))));
    chown(c.path("capown"), Some(7), None).unwrap();
    assert!(is_hollow(&c.upper("capown")), "chown keeps the data below");
    for name in ["suid", "cap", "acl"] {
        as_user(1001, 1001, || {
            OpenOptions::new().write(true).open(c.path(name)).unwrap().write_all_at(b"C", 0).unwrap();
        });
    }
    for round in ["at once", "after a remount"] {
        let has = |name: &str, xattr: &str| read_xattrs(&c.path(name)).contains_key(OsStr::new(xattr));
        assert_eq!(fs::metadata(c.path("suid")).unwrap().mode() & 0o7777, 0o777, "{round}");
        assert!(!has("cap", "security.capability") && !has("capown", "security.capability"), "{round}");
        assert!(has("acl", "system.posix_acl_access"), "{round}");
        let texts = names.map(|name| c.read(name));
        assert_eq!(texts, ["Content", "Content", "content", "Content"], "{round}");
        c.remount();
    }
}

#[test]
fn mapped_owners_and_modes_in_attributes_go_with_it() {
    for options in ["uidmapping=0:1000:10", "squash_to_uid=7", "xattr_permissions=2"] {
        let mut c = mounted(TestTree::new(&["", "f=text"]), &format!("{ON},{options}"));
        let owner = fs::metadata(c.path("f")).unwrap().uid();
        chmod(c.path("f"), 0o601);
        fs::rename(c.path("f"), c.path("g")).unwrap();
        assert!(is_hollow(&c.upper("g")), "{options}");
        for want in ["text", "Text"] {
            let told = fs::metadata(c.path("g")).unwrap();
            assert_eq!((told.uid(), told.mode() & 0o7777), (owner, 0o601), "{options}");
            assert_eq!(c.read("g"), want, "{options}");
            OpenOptions::new().write(true).open(c.path("g")).unwrap().write_all_at(b"T", 0).unwrap();
            c.remount();
        }
    }
}

#[test]
fn a_branch_with_the_data_of_an_open_file_is_in_use() {
    let c = mounted(TestTree::new(&["", "f=text", "g="]), ON);
    chmod(c.path("f"), 0o600);
    let file = File::open(c.path("f")).unwrap();
    let remove =
        |index: usize| run(&["del".as_ref(), c.root().as_os_str(), c.tree().branch(index).as_os_str()]);
    let said = String::from_utf8(remove(1).stderr).unwrap();
    assert!(said.contains("/f is open"), "{said}");
    assert!(remove(2).status.success());
    let mut text = [0; 4];
    file.read_exact_at(&mut text, 0).unwrap();
    assert_eq!(&text, b"text");
}

fn interop_tree() -> TestTree {
    TestTree::new(&[
        "",
        "d/e/mode=mode d/own=own d/time=time attr=attr d/moved=moved far/away=away d/gone=gone twin/a=twin",
        "deep/f=deep deep/trunc=trunc deep/filled=filled d/e/low=low sw/x=x sw/y=y",
    ])
}

/// Changes of the metadata of every kind; those named `f…` are followed by one of the data.
fn change_metadata(root: &Path) {
    let at = |path: &str| root.join(path);
    chmod(at("d/e/mode"), 0o604);
    chown(at("d/own"), Some(7), Some(8)).unwrap();
    let file = File::open(at("d/time")).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(77)).unwrap();
    lsetxattr(at("attr"), "user.a", b"v", XattrFlags::empty()).unwrap();
    chmod(at("d/moved"), 0o600);
    fs::rename(at("d/moved"), at("far/moved")).unwrap();
    fs::rename(at("far/away"), at("d/e/away")).unwrap();
    chmod(at("d/e/low"), 0o600);
    fs::rename(at("d"), at("D")).unwrap();
    chmod(at("D/gone"), 0o600);
    fs::remove_file(at("D/gone")).unwrap();
    fs::rename(at("deep"), at("D/deep")).unwrap();
    chmod(at("D/deep/f"), 0o600);
    chmod(at("twin/a"), 0o600);
    fs::hard_link(at("twin/a"), at("twin/b")).unwrap();
    chmod(at("D/deep/filled"), 0o600);
    OpenOptions::new().append(true).open(at("D/deep/filled")).unwrap().write_all_at(b"!", 6).unwrap();
    chmod(at("D/deep/trunc"), 0o600);
    drop(OpenOptions::new().write(true).truncate(true).open(at("D/deep/trunc")).unwrap());
    chmod(at("sw/x"), 0o600);
    renameat_with(CWD, at("sw/x"), CWD, at("sw/y"), RenameFlags::EXCHANGE).unwrap();
}

/// What is done to a tree that [`change_metadata`] left.
fn change_again(root: &Path) {
    let at = |path: &str| root.join(path);
    chmod(at("D/e/mode"), 0o640);
    fs::rename(at("far/moved"), at("D/e/moved")).unwrap();
    fs::rename(at("D/e"), at("E")).unwrap();
    OpenOptions::new().write(true).open(at("E/away")).unwrap().write_all_at(b"A", 0).unwrap();
    fs::rename(at("D/deep/f"), at("f")).unwrap();
    OpenOptions::new().write(true).open(at("attr")).unwrap().set_len(2).unwrap();
    OpenOptions::new().write(true).open(at("twin/b")).unwrap().write_all_at(b"T", 0).unwrap();
    fs::remove_file(at("D/time")).unwrap();
}

/// Our mount and the kernel's in turn, over the same branches.
fn kernels<T>(tree: &TestTree, look: impl FnOnce(&Path) -> T) -> T {
    let at = tree.beside("kernel");
    let _kernel = Overlay::new(&at, &[tree.branch(1), tree.branch(2)], tree.branch(0), &tree.beside("work"));
    look(&at)
}

#[test]
fn the_kernel_reads_and_changes_what_we_leave() {
    let mut c = mounted(interop_tree(), ON);
    change_metadata(&c.root());
    let hollow =
        ["D/e/mode", "D/own", "D/time", "attr", "far/moved", "D/e/away", "D/e/low", "D/deep/f", "sw/x"];
    for path in hollow {
        let file = File::open(c.upper(path)).unwrap();
        assert!(is_hollow(&c.upper(path)), "{path}");
        assert_eq!(seek(&file, SeekFrom::Data(0)), Err(Errno::NXIO), "{path} has data");
    }
    let ours = seen(&c.root());
    c.remount();
    assert_eq!(difference(&ours, &seen(&c.root())), None, "after a remount");
    c.unmount();
    let theirs = kernels(c.tree(), |at| {
        assert_eq!(difference(&ours, &seen(at)), None, "under the kernel's overlay");
        change_again(at);
        seen(at)
    });
    c.mount();
    assert_eq!(difference(&theirs, &seen(&c.root())), None, "what the kernel made of it");
}

#[test]
fn we_read_and_change_what_the_kernel_leaves() {
    for options in [ON, "format=overlay"] {
        let tree = interop_tree();
        fs::create_dir(tree.beside("work")).unwrap();
        let theirs = kernels(&tree, |at| {
            change_metadata(at);
            seen(at)
        });
        let mut c = mounted(tree, options);
        assert_eq!(difference(&theirs, &seen(&c.root())), None, "{options}: the kernel's upper");
        change_again(&c.root());
        assert_eq!(is_hollow(&c.upper("f")), options == ON, "{options}: a renamed copy");
        let ours = seen(&c.root());
        c.remount();
        assert_eq!(difference(&ours, &seen(&c.root())), None, "{options}: after a remount");
        c.unmount();
        let mut theirs = kernels(c.tree(), seen);
        let mut ours = ours;
        // What we keep together by an index of our own, the kernel sees as two files.
        for tree in [&mut ours, &mut theirs] {
            tree.retain(|path, _| !path.starts_with("twin"));
        }
        assert_eq!(difference(&ours, &theirs), None, "{options}: under the kernel's overlay again");
        c.mount();
    }
}

/// Without `metacopy=on` nobody is shown a hole for the content.
#[test]
fn a_kernel_that_is_not_told_refuses_and_never_shows_zeros() {
    let mut c = mounted(TestTree::new(&["", "f=text", ""]), ON);
    chmod(c.path("f"), 0o600);
    c.unmount();
    let (upper, lower, work) = (c.tree().branch(0), c.tree().branch(1), c.tree().beside("work"));
    let at = c.tree().beside("kernel");
    fs::create_dir(&at).unwrap();
    let data = |more: &str| {
        let dirs =
            format!("lowerdir={},upperdir={},workdir={}", lower.display(), upper.display(), work.display());
        std::ffi::CString::new(format!("{dirs},{more}")).unwrap()
    };
    let both = data("userxattr,metacopy=on");
    let refused = mount("overlay", &at, "overlay", MountFlags::empty(), Some(both.as_c_str()));
    assert_eq!(refused, Err(Errno::INVAL), "the kernel has no metacopy=on with userxattr");
    let off = data("metacopy=off");
    mount("overlay", &at, "overlay", MountFlags::empty(), Some(off.as_c_str())).unwrap();
    let read = fs::read(at.join("f"));
    rustix::mount::unmount(&at, rustix::mount::UnmountFlags::empty()).unwrap();
    assert_eq!(read.unwrap_err().raw_os_error(), Some(libc::EPERM));
    c.mount();
}

/// What rule 7 of issue 3 asks, measured: no byte of a large file moves for a change of its metadata.
#[test]
fn a_change_of_metadata_alone_moves_no_byte_of_a_large_file() {
    const SIZE: u64 = 64 << 20;
    for (options, moves) in [(ON, false), ("format=overlay", true), ("format=aufs", true)] {
        let tree = TestTree::build(2, 1, |index, root| {
            if index == 1 {
                fs::write(root.join("big"), vec![1; usize::try_from(SIZE).unwrap()]).unwrap();
            }
        });
        let c = mounted(tree, options);
        let log = c.tree().beside("calls");
        {
            let words = ["-o", log.to_str().unwrap(), "-e", "trace=copy_file_range,pwrite64,ioctl"];
            let _strace = Strace::attach(c.server(), &words);
            chmod(c.path("big"), 0o600);
            chown(c.path("big"), Some(1), None).unwrap();
            File::open(c.path("big")).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        let log = fs::read_to_string(log).unwrap();
        let copied: u64 = log.lines().filter_map(copied_bytes).sum();
        assert_eq!(copied, if moves { SIZE } else { 0 }, "{options}: {log}");
        assert_eq!(fs::metadata(c.path("big")).unwrap().len(), SIZE);
    }
}

/// What a traced call moved; all of a file if it shared its blocks.
fn copied_bytes(line: &str) -> Option<u64> {
    let (call, result) = line.rsplit_once(" = ")?;
    let result: u64 = result.trim().parse().ok()?;
    if call.contains("FICLONE") { Some(64 << 20) } else { (!call.contains("ioctl(")).then_some(result) }
}
