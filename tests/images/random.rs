//! Random archives: whatever they say, the outside stays as it is, and what is taken can be given back.

use std::os::unix::ffi::OsStrExt;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;

use crate::archives::{Meta, Tar};
use crate::support::{World, layer_of};

/// A path of few different components, so that entries meet.
#[derive(Clone, Debug)]
struct Place {
    absolute: bool,
    /// Begins at the canaries, by their absolute path.
    outside: bool,
    components: Vec<&'static str>,
}

impl Place {
    fn bytes(&self, world: &World) -> Vec<u8> {
        let mut path = Vec::new();
        if self.outside {
            path.extend_from_slice(world.dir.path().as_os_str().as_bytes());
        }
        if self.absolute || self.outside {
            path.push(b'/');
        }
        path.extend_from_slice(self.components.join("/").as_bytes());
        path
    }
}

#[derive(Clone, Debug)]
enum Op {
    File(Place, u8),
    Directory(Place, u32),
    Symlink(Place, Place),
    HardLink(Place, Place),
    Fifo(Place),
}

fn place() -> impl Strategy<Value = Place> {
    let component = prop_oneof![
        8 => prop::sample::select(vec!["a", "b", "c", "d"]),
        2 => prop::sample::select(vec!["..", ".", "", "canary", "canary.d", ".wh.a", ".wh..wh..opq"]),
    ];
    (prop::bool::weighted(0.1), prop::bool::weighted(0.1), vec(component, 1..5))
        .prop_map(|(absolute, outside, components)| Place { absolute, outside, components })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (place(), any::<u8>()).prop_map(|(at, byte)| Op::File(at, byte)),
        2 => (place(), 0..0o10000u32).prop_map(|(at, mode)| Op::Directory(at, mode)),
        3 => (place(), place()).prop_map(|(at, target)| Op::Symlink(at, target)),
        2 => (place(), place()).prop_map(|(at, target)| Op::HardLink(at, target)),
        1 => place().prop_map(Op::Fifo),
    ]
}

fn add(tar: Tar, op: &Op, world: &World) -> Tar {
    match op {
        Op::File(at, byte) => tar.file(at.bytes(world), vec![*byte; usize::from(*byte) * 3]),
        Op::Directory(at, mode) => {
            tar.entry(b'5', &at.bytes(world), b"", Meta { mode: *mode, ..Meta::default() }, b"")
        }
        Op::Symlink(at, target) => tar.symlink(at.bytes(world), target.bytes(world)),
        Op::HardLink(at, target) => tar.hard_link(at.bytes(world), target.bytes(world)),
        Op::Fifo(at) => tar.entry(b'6', &at.bytes(world), b"", Meta::default(), b""),
    }
}

/// Imports archives of these, leaving out each entry that is refused, and tells how many are taken.
fn import(ops: &[Op]) -> usize {
    let world = World::in_memory();
    let mut kept = Tar::new();
    let mut taken = 0;
    for op in ops {
        let more = add(kept.clone(), op, &world);
        let archive = more.clone().end();
        match world.import(&archive) {
            Ok(_) => {
                world.check();
                assert!(
                    layer_of(&world.store(), "x", 0) == archive,
                    "save gives another archive than was imported"
                );
                world.store().remove("x", false).unwrap();
                (kept, taken) = (more, taken + 1);
            }
            Err(error) => assert!(error.contains("x.tar: entry"), "the entry is not named: {error}"),
        }
        world.check_nothing_left();
    }
    taken
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_archives_touch_nothing_outside(ops in vec(op(), 1..12)) {
        import(&ops);
    }
}

/// An archive with a bit of everything in it.
fn everything() -> Vec<u8> {
    let meta = Meta { uid: 7, gid: 8, mode: 0o4755, device: (1, 3), ..Meta::default() };
    let sparse: &[(&str, &[u8])] = &[("GNU.sparse.map", b"0,9,600,3"), ("GNU.sparse.size", b"900")];
    Tar::new()
        .dir("./")
        .file("a", "text")
        .hard_link("b", "a")
        .symlink("c", "a/b")
        .pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.x", b"y"), ("path", b"d/e")])
        .entry(b'0', b"x", b"", meta, &[b'z'; 600])
        .pax(sparse)
        .file("holes", [b'h'; 12])
        .file("long/".repeat(40) + "f", "x")
        .entry(b'6', b"fifo", b"", meta, b"")
        .entry(b'3', b"null", b"", meta, b"")
        .end()
}

/// Changes bytes, and makes the checksums of all headers right again where they were.
fn mutate(mut archive: Vec<u8>, changes: &[(usize, u8)]) -> Vec<u8> {
    let is_header = |block: &[u8]| {
        let header = tar::Header::from_byte_slice(block);
        let mut right = header.clone();
        right.set_cksum();
        header.cksum().ok() == right.cksum().ok()
    };
    let headers: Vec<_> = archive.chunks(512).map(is_header).collect();
    for &(at, byte) in changes {
        let at = at % archive.len();
        archive[at] = byte;
    }
    for (block, _) in archive.chunks_mut(512).zip(headers).filter(|(_, header)| *header) {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
    archive
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mutated_archives_do_no_harm(changes in vec((any::<usize>(), prop_oneof![any::<u8>(), Just(0), Just(b'7')]), 1..6)) {
        let world = World::in_memory();
        let archive = mutate(everything(), &changes);
        match world.import(&archive) {
            Ok(_) => prop_assert!(layer_of(&world.store(), "x", 0) == archive, "save gives another archive"),
            Err(error) => prop_assert!(error.contains("x.tar: "), "{}", error),
        }
        world.check();
    }
}

#[test]
fn random_archives_are_often_taken() {
    // The test above would prove little if nearly all of its archives were refused at once.
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut entries, mut taken) = (0, 0);
    for _ in 0..16 {
        let ops = vec(op(), 1..12).new_tree(&mut runner).unwrap().current();
        entries += ops.len();
        taken += import(&ops);
    }
    assert!(taken * 3 > entries, "only {taken} of {entries} entries were taken");
}
