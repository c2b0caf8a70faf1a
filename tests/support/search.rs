//! Random cases: layers and operations drawn together, searched, and shrunk to the smallest that fails.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestError, TestRunner};

use super::layer::{Layer, Put, put};
use super::ops::{Op, op};

/// A whole test case: layers from the top, the writable ones first, and what is done to their union.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) layers: Vec<Vec<Put>>,
    pub(crate) ops: Vec<Op>,
}

/// Layers below an upper one that is mostly empty at first, and operations.
pub(crate) fn case(lowers: std::ops::RangeInclusive<usize>, ops: usize) -> BoxedStrategy<Case> {
    let upper = prop_oneof![3 => Just(Vec::new()), 1 => vec(put(), 0..8)];
    let lowers = vec(vec(put(), 0..24), lowers);
    (upper, lowers, vec(op(), 1..ops))
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

/// Runs random cases and, on a failure, shows the smallest one as code to paste into a regression test.
pub(crate) fn search(cases: u32, strategy: BoxedStrategy<Case>, check: impl Fn(&Case) -> Result<(), String>) {
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    // A case that panics has failed like any other; only the smallest is worth words.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| ()));
    let result = TestRunner::new(config).run(&strategy, |case| check(&case).map_err(TestCaseError::fail));
    std::panic::set_hook(hook);
    match result {
        Ok(()) => {}
        Err(TestError::Fail(why, case)) => panic!("{why}\nlayers: {:?}\nops: {:?}", case.layers, case.ops),
        Err(TestError::Abort(why)) => panic!("gave up: {why}"),
    }
}
