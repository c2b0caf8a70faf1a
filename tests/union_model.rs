//! Random operations on random layers: the core against the model, everything compared after every one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use unionfs::policy::{CopyupPolicy, CreatePolicy};
use unionfs::{Errno, Format, Options};

use crate::model::{Model, merge};
use crate::support::branches::TestTree;
use crate::support::dir::Dir;
use crate::support::layer::{Layer, Marks};
use crate::support::ops::Subject;
use crate::support::search::{Case, case, cases, search};
use crate::support::tree::{Tree, difference};
use crate::support::unmounted::{Core, Memory};

/// The kind of union a case is tried on.
struct Setup {
    /// Which branches are writable, from the top; those that are not told are not.
    writable: &'static [bool],
    /// The formats of the layers, in turn.
    marks: &'static [Marks],
    options: Options,
    memory: Memory,
}

/// One case on the core: results, trees and open files as the model has them; lower branches untouched.
fn check(case: &Case, setup: &Setup) -> Result<(), String> {
    let layers = case.layers();
    let writable = |at: usize| setup.writable.get(at) == Some(&true);
    let branches = TestTree::from_layers(&layers, writable, setup.marks);
    let mut model = Model::new(&layers);
    let mut core = Core::new(&branches.list(), &setup.options, setup.memory);
    let mut identities = Identities::default();
    compare(&mut model, &mut core, &mut identities, "at first")?;
    for (step, op) in case.ops.iter().enumerate() {
        let Some(action) = op.resolve(&model) else { continue };
        let got = core.apply(&action);
        let when = format!("after step {step}, {action:?}");
        // What lies on or below a branch that is not written, and above all that are, cannot change.
        let fixed = !writable(0) && matches!(got, Err(Errno::ROFS | Errno::XDEV));
        if !fixed {
            let want = model.apply(&action);
            if !same_verdict(want, got) {
                return Err(format!("{when}: want {want:?}, got {got:?}"));
            }
        }
        compare(&mut model, &mut core, &mut identities, &when)?;
    }
    branches.lower_changes().map_or(Ok(()), |changes| Err(format!("lower branches were written:\n{changes}")))
}

/// Which of several reasons refuses is the kernel's to choose, before the core is asked (and the differential run's to
/// compare); that something is refused, and that a merged directory is not empty, is the core's.
fn same_verdict(want: Result<(), Errno>, got: Result<(), Errno>) -> bool {
    match want {
        Err(Errno::NOTEMPTY) => got == want,
        _ => got.is_ok() == want.is_ok(),
    }
}

fn compare(
    model: &mut Model,
    core: &mut Core,
    identities: &mut Identities,
    when: &str,
) -> Result<(), String> {
    let (want, got) = (model.tree(), core.tree());
    if let Some(difference) = difference(&want, &got) {
        return Err(format!("{when}:\n{difference}"));
    }
    if model.open_files() != core.open_files() {
        return Err(format!("{when}: an open file has other content"));
    }
    identities.check(&want, &got).map_err(|why| format!("{when}: {why}"))
}

/// `st_ino` by the model's inode: it may never change, neither by copy-up nor by rename nor by remount.
#[derive(Default)]
struct Identities(BTreeMap<u64, (u64, PathBuf)>);

impl Identities {
    fn check(&mut self, want: &Tree, got: &Tree) -> Result<(), String> {
        let mut owners: BTreeMap<u64, u64> = BTreeMap::new();
        for (path, node) in want {
            let ino = got[path].id;
            if *owners.entry(ino).or_insert(node.id) != node.id {
                return Err(format!("{path:?} has the st_ino {ino} of another object"));
            }
            let (first, was) = self.0.entry(node.id).or_insert_with(|| (ino, path.clone()));
            if *first != ino {
                return Err(format!("{path:?}: st_ino is {ino}, but was {first} when it was {was:?}"));
            }
        }
        Ok(())
    }
}

/// Nothing crashes here, so nothing need wait for a disk.
fn fast() -> Options {
    Options { volatile: true, ..Options::default() }
}

/// Random cases on one kind of union, by a core that remembers and by one that forgets.
fn run(writable: &'static [bool], marks: &'static [Marks], options: &Options) {
    run_some(150, writable, marks, options);
}

fn run_some(count: u32, writable: &'static [bool], marks: &'static [Marks], options: &Options) {
    for memory in [Memory::Keeps, Memory::Forgets] {
        let setup = Setup { writable, marks, options: options.clone(), memory };
        search(cases(count), case(1..=3, 60), |case| check(case, &setup));
    }
}

/// A case that failed once, on both formats and both kinds of caller.
pub(crate) fn still_right(case: &Case) {
    for (marks, format) in [(&[Marks::Aufs], Format::Aufs), (&[Marks::Overlay], Format::Overlay)] {
        for memory in [Memory::Keeps, Memory::Forgets] {
            let options = Options { format, ..fast() };
            check(case, &Setup { writable: &[true], marks, options, memory })
                .unwrap_or_else(|why| panic!("{format:?}, {memory:?}: {why}"));
        }
    }
}

/// As [`still_right`], of a union with several writable branches.
pub(crate) fn still_right_on(
    case: &Case,
    writable: &'static [bool],
    create: CreatePolicy,
    copyup: CopyupPolicy,
) {
    for memory in [Memory::Keeps, Memory::Forgets] {
        let options = Options { create, copyup, ..fast() };
        check(case, &Setup { writable, marks: &[Marks::Aufs], options, memory })
            .unwrap_or_else(|why| panic!("{create:?}, {copyup:?}, {memory:?}: {why}"));
    }
}

#[test]
fn random_operations_in_the_aufs_format() {
    run(&[true], &[Marks::Aufs], &fast());
}

#[test]
fn random_operations_in_the_overlay_format() {
    run(&[true], &[Marks::Overlay], &Options { format: Format::Overlay, ..fast() });
}

#[test]
fn random_operations_on_layers_of_several_formats() {
    run(&[true], &[Marks::Aufs, Marks::Overlay], &fast());
    run(&[true], &[Marks::Overlay, Marks::Aufs], &Options { format: Format::Overlay, ..fast() });
}

/// The model is only worth what it says of a real filesystem.
#[test]
fn the_model_is_what_a_plain_directory_does() {
    search(cases(300), case(1..=3, 60), |case| {
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
    run(&[true, true], &[Marks::Aufs], &fast());
}

#[test]
fn random_operations_on_writable_branches_taken_in_turn() {
    let options = Options { create: CreatePolicy::RoundRobin, copyup: CopyupPolicy::BottomUp, ..fast() };
    run(&[true, true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_on_writable_branches_taken_at_random() {
    let options = Options { create: CreatePolicy::Random, copyup: CopyupPolicy::BottomUpParent, ..fast() };
    run(&[true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_on_writable_branches_in_the_overlay_format() {
    let options = Options { format: Format::Overlay, create: CreatePolicy::Random, ..fast() };
    run(&[true, true, true], &[Marks::Overlay], &options);
}

#[test]
fn random_operations_on_writable_branches_with_others_between() {
    let options = Options { create: CreatePolicy::RoundRobin, ..fast() };
    run(&[true, false, true, true], &[Marks::Aufs], &options);
}

#[test]
fn random_operations_on_writable_branches_below_others() {
    let options = Options { create: CreatePolicy::Random, ..fast() };
    run(&[false, true, true], &[Marks::Aufs], &options);
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
        run_some(40, &[true, true, true], &[Marks::Aufs], &Options { create, ..fast() });
    }
}
