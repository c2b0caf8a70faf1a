//! Random operations on random layers: the core against the model, everything compared after every one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use crate::model::{Model, merge};
use crate::support::branches::TestTree;
use crate::support::core::{Core, Memory};
use crate::support::dir::Dir;
use crate::support::layer::{Layer, Put, put};
use crate::support::ops::{Op, Subject, op};
use crate::support::tree::{Tree, difference};

/// A whole test case: layers from the top, the writable ones first, and what is done to their union.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) layers: Vec<Vec<Put>>,
    pub(crate) ops: Vec<Op>,
}

/// Layers below an upper one that is mostly empty at first, and operations.
pub(crate) fn case(lowers: std::ops::RangeInclusive<usize>, ops: usize) -> impl Strategy<Value = Case> {
    let upper = prop_oneof![3 => Just(Vec::new()), 1 => vec(put(), 0..8)];
    let lowers = vec(vec(put(), 0..24), lowers);
    (upper, lowers, vec(op(), 1..ops)).prop_map(|(upper, lowers, ops)| {
        let layers = std::iter::once(upper).chain(lowers).collect();
        Case { layers, ops }
    })
}

impl Case {
    /// The layers as values.
    pub(crate) fn layers(&self) -> Vec<Layer> {
        (0_u8..).zip(&self.layers).map(|(seed, steps)| Layer::from_steps(steps, seed)).collect()
    }
}

/// How many cases: `UNIONFS_MODEL_CASES`, or what fits a CI run.
pub(crate) fn cases(default: u32) -> u32 {
    let told = std::env::var("UNIONFS_MODEL_CASES").ok();
    told.map_or(default, |text| {
        text.parse().unwrap_or_else(|error| panic!("UNIONFS_MODEL_CASES={text}: {error}"))
    })
}

/// Runs random cases and, on a failure, shows the smallest one as code to paste into a regression test.
pub(crate) fn search(
    cases: u32,
    strategy: impl Strategy<Value = Case>,
    check: impl Fn(&Case) -> Result<(), String>,
) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    let result = TestRunner::new(config).run(&strategy, |case| check(&case).map_err(TestCaseError::fail));
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\nlayers: {:?}\nops: {:?}", case.layers, case.ops),
        Err(TestError::Abort(why)) => panic!("gave up: {why}"),
    }
}

/// One case on the core: results, trees and open files as the model has them; lower branches untouched.
fn check(case: &Case, memory: Memory, writable: usize) -> Result<(), String> {
    let layers = case.layers();
    let branches = TestTree::from_layers(&layers, writable);
    let mut model = Model::new(&layers);
    let mut core = Core::new(&branches.list(), memory);
    let mut identities = Identities::default();
    compare(&mut model, &mut core, &mut identities, "at first")?;
    for (step, op) in case.ops.iter().enumerate() {
        let Some(action) = op.resolve(&model) else { continue };
        let (want, got) = (model.apply(&action), core.apply(&action));
        let when = format!("after step {step}, {action:?}");
        if want != got {
            return Err(format!("{when}: want {want:?}, got {got:?}"));
        }
        compare(&mut model, &mut core, &mut identities, &when)?;
    }
    branches.lower_changes().map_or(Ok(()), |changes| Err(format!("lower branches were written:\n{changes}")))
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

fn run(default: u32, memory: Memory) {
    search(cases(default), case(1..=3, 60), |case| check(case, memory, 1));
}

#[test]
fn random_operations_on_a_core_that_remembers() {
    run(300, Memory::Keeps);
}

#[test]
fn random_operations_on_a_core_that_forgets() {
    run(300, Memory::Forgets);
}

/// The model is only worth what it says of a real filesystem.
#[test]
fn the_model_is_what_a_plain_directory_does() {
    search(cases(300), case(1..=3, 60), |case| {
        let layers = case.layers();
        let plain =
            TestTree::build(1, 1, |_, root| Layer { nodes: merge(&layers), ..Layer::default() }.write(root));
        let mut dir = Dir::new(plain.branch(0), || ());
        let mut model = Model::new(&layers);
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
