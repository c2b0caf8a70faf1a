//! Random operations on random layers: the core against the model, everything compared after every one.

use proptest::prelude::{BoxedStrategy, Strategy};
use unionfs::policy::{CopyupPolicy, CreatePolicy};
use unionfs::{Format, Options};

use crate::model::{Model, merge};
use crate::support::branches::{Ground, TestTree};
use crate::support::dir::Dir;
use crate::support::layer::{Layer, Marks};
use crate::support::ops::{Subject, crashing, op, rearranging};
use crate::support::search::{Case, LONGEST, case, cases, search};
use crate::support::tree::difference;
use crate::support::unmounted::Memory;
use crate::union_sequence::{Setup, check};

/// No host crashes here, so nothing need wait for a disk.
pub(crate) fn fast() -> Options {
    Options { volatile: true, ..Options::default() }
}

/// Random cases on one kind of union, by a core that remembers and by one that forgets.
fn run(count: u32, writable: &'static [bool], marks: &'static [Marks], options: &Options) {
    run_cases(count, &case(1..=3, crashing().boxed(), LONGEST), writable, marks, options);
}

/// As [`run`], while branches come, go and change, but for the lowest, which is never written.
fn run_rearranging(count: u32, writable: &'static [bool], marks: &'static [Marks], options: &Options) {
    run_cases(count, &case(writable.len()..=3, rearranging().boxed(), LONGEST), writable, marks, options);
}

/// Of every eight cases one is on the disk.
fn run_cases(
    count: u32,
    strategy: &BoxedStrategy<Case>,
    writable: &'static [bool],
    marks: &'static [Marks],
    options: &Options,
) {
    for (memory, ground, share) in [
        (Memory::Keeps, Ground::Memory, 7),
        (Memory::Forgets, Ground::Memory, 7),
        (Memory::Keeps, Ground::Disk, 1),
        (Memory::Forgets, Ground::Disk, 1),
    ] {
        let setup = Setup { writable, marks, options: options.clone(), memory, ground };
        search(cases(count) * share / 16, strategy.clone(), |case| check(case, &setup));
    }
}

#[test]
fn random_operations_in_the_aufs_format() {
    run(1400, &[true], &[Marks::Aufs], &fast());
}

#[test]
fn random_operations_in_the_overlay_format() {
    run(1400, &[true], &[Marks::Overlay], &Options { format: Format::Overlay, ..fast() });
}

#[test]
fn random_operations_with_copies_of_the_metadata_only() {
    let options = Options { format: Format::Overlay, metacopy: true, ..fast() };
    run(300, &[true], &[Marks::Overlay], &options);
    run(300, &[true, true], &[Marks::Overlay], &options);
}

#[test]
fn random_operations_on_layers_of_several_formats() {
    run(400, &[true], &[Marks::Aufs, Marks::Overlay], &fast());
    run(400, &[true], &[Marks::Overlay, Marks::Aufs], &Options { format: Format::Overlay, ..fast() });
}

/// The model is only worth what it says of a real filesystem.
#[test]
fn the_model_is_what_a_plain_directory_does() {
    search(cases(500), case(1..=3, op(), LONGEST), |case| {
        let layers = case.layers();
        let plain = TestTree::build(1, 1, |_, root| {
            Layer { nodes: merge(&layers), ..Layer::default() }.write(root, Marks::Aufs)
        });
        let mut dir = Dir::new(plain.branch(0), || ());
        let mut model = Model::plain(&layers);
        for (step, op) in case.ops.iter().enumerate() {
            let Some(action) = op.resolve(&model) else { continue };
            let (want, got) = (dir.apply(&action), model.apply(&action));
            if want != got {
                return Err(format!("step {step}, {action:?}: want {want:?}, got {got:?}"));
            }
            if let Some(difference) = difference(&model.tree(), &dir.tree()) {
                return Err(format!("after step {step}, {action:?}:\n{difference}"));
            }
            if dir.open_files() != Subject::open_files(&mut model) {
                return Err(format!("after step {step}, {action:?}: an open file has other content"));
            }
        }
        Ok(())
    });
}

#[test]
fn random_operations_on_two_writable_branches() {
    run(800, &[true, true], &[Marks::Aufs], &fast());
}

#[test]
fn random_operations_on_writable_branches_taken_in_turn() {
    let options = Options { create: CreatePolicy::RoundRobin, copyup: CopyupPolicy::BottomUp, ..fast() };
    run(800, &[true, true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_on_writable_branches_taken_at_random() {
    let options = Options { create: CreatePolicy::Random, copyup: CopyupPolicy::BottomUpParent, ..fast() };
    run(600, &[true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_on_writable_branches_in_the_overlay_format() {
    let options = Options { format: Format::Overlay, create: CreatePolicy::Random, ..fast() };
    run(800, &[true, true, true], &[Marks::Overlay], &options);
}

#[test]
fn random_operations_on_writable_branches_with_others_between() {
    let options = Options { create: CreatePolicy::RoundRobin, ..fast() };
    run(600, &[true, false, true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_on_writable_branches_below_others() {
    let options = Options { create: CreatePolicy::Random, ..fast() };
    run(500, &[false, true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_by_free_space() {
    let hour = std::time::Duration::from_secs(3600);
    for create in [
        CreatePolicy::FirstFound,
        CreatePolicy::MostFree(hour),
        CreatePolicy::ParentMostFree(hour),
        CreatePolicy::LeastFree,
    ] {
        run(200, &[true, true, true], &[Marks::Aufs], &Options { create, ..fast() });
    }
}

#[test]
fn random_operations_while_branches_come_and_go() {
    run_rearranging(600, &[true], &[Marks::Aufs], &fast());
}

#[test]
fn random_operations_while_branches_come_and_go_in_the_overlay_format() {
    run_rearranging(600, &[true], &[Marks::Overlay], &Options { format: Format::Overlay, ..fast() });
}
