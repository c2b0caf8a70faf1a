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
    let world = World::new();
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
