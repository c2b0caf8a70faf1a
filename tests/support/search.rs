//! Random cases: layers and operations drawn together, searched, and shrunk to the smallest that fails.

use std::hash::{BuildHasher, RandomState};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestError, TestRunner};

use super::layer::{Layer, Put, put};
use super::ops::Op;

/// A whole test case: layers from the top, the writable ones first, and what is done to their union.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) layers: Vec<Vec<Put>>,
    pub(crate) ops: Vec<Op>,
}

/// Operations of the longest sequences.
pub(crate) const LONGEST: usize = 200;

/// Layers below an upper one that is mostly empty at first, and up to `longest` operations: short sequences find things
/// that long ones hide, and the other way round.
pub(crate) fn case(
    lowers: std::ops::RangeInclusive<usize>,
    op: impl Strategy<Value = Op> + 'static,
    longest: usize,
) -> BoxedStrategy<Case> {
    let upper = prop_oneof![3 => Just(Vec::new()), 1 => vec(put(), 0..8)];
    let lowers = vec(vec(put(), 0..24), lowers);
    (upper, lowers, vec(op, 1..=longest))
        .prop_map(|(upper, lowers, ops)| {
            let layers = std::iter::once(upper).chain(lowers).collect();
            Case { layers, ops }
        })
        .boxed()
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

/// Where the cases begin: `UNIONFS_MODEL_SEED`, which may be `random`; else the same each time, so that what fails a
/// change is the change.
fn seed() -> u64 {
    match std::env::var("UNIONFS_MODEL_SEED").as_deref() {
        Ok("random") => RandomState::new().hash_one(()),
        Ok(text) => text.parse().unwrap_or_else(|error| panic!("UNIONFS_MODEL_SEED={text}: {error}")),
        Err(_) => 20_261_125,
    }
}

/// Runs random cases and, on a failure, shows the smallest one as code to paste into a regression test.
pub(crate) fn search(cases: u32, strategy: BoxedStrategy<Case>, check: impl Fn(&Case) -> Result<(), String>) {
    let seed = seed();
    let config = Config {
        cases,
        failure_persistence: None,
        max_shrink_iters: 4000,
        max_shrink_time: 60_000,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    // A case that panics has failed like any other; only the smallest is worth words.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = TestRunner::new(config).run(&strategy, |case| check(&case).map_err(TestCaseError::fail));
    std::panic::set_hook(hook);
    match result {
        Ok(()) => println!("{cases} cases from seed {seed}"),
        Err(TestError::Fail(why, case)) => {
            panic!("seed {seed}: {why}\nlayers: {:?}\nops: {:?}", case.layers, case.ops)
        }
        Err(TestError::Abort(why)) => panic!("seed {seed}: gave up: {why}"),
    }
}
