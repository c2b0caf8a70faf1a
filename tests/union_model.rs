//! Random operations on random layers: the core against the model, everything compared after every one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use unionfs::Errno;

use crate::model::{Model, merge};
use crate::support::branches::TestTree;
use crate::support::dir::Dir;
use crate::support::layer::Layer;
use crate::support::ops::Subject;
use crate::support::search::{Case, case, cases, search};
use crate::support::tree::{Tree, difference};
use crate::support::unmounted::{Core, Memory};

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
        if !same_verdict(want, got) {
            return Err(format!("{when}: want {want:?}, got {got:?}"));
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
