//! One sequence of operations on the core, crashes and changes of the branches among them: everything is compared
//! with the model after every one.

use std::collections::BTreeMap;
use std::path::PathBuf;

use unionfs::union::LiveError;
use unionfs::{BranchSpec, Errno, Options, Perm};

use crate::model::{Model, merge};
use crate::support::branches::{Ground, TestTree};
use crate::support::layer::{Layer, Marks, Put};
use crate::support::ops::{Action, Op, Subject};
use crate::support::search::Case;
use crate::support::tree::{Tree, difference};
use crate::support::unmounted::{Core, Memory, made_up};

/// The kind of union a case is tried on.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Which branches are writable, from the top; those that are not told are not.
    pub(crate) writable: &'static [bool],
    /// The formats of the layers, in turn.
    pub(crate) marks: &'static [Marks],
    pub(crate) options: Options,
    pub(crate) memory: Memory,
    pub(crate) ground: Ground,
}

/// One case on the core: results, trees and open files as the model has them; lower branches untouched.
pub(crate) fn check(case: &Case, setup: &Setup) -> Result<(), String> {
    let mut run = Run::new(case, setup);
    run.compare().map_err(|why| format!("at first: {why}"))?;
    for (step, op) in case.ops.iter().enumerate() {
        if run.disputed {
            break;
        }
        let why = run.step(op).and_then(|()| run.compare());
        why.map_err(|why| format!("step {step}, {op:?}: {why}"))?;
    }
    let changes = run.branches.lower_changes();
    changes.map_or(Ok(()), |changes| Err(format!("lower branches were written:\n{changes}")))
}

/// A union and its model on their way through a case.
struct Run<'a> {
    setup: &'a Setup,
    branches: TestTree,
    model: Model,
    core: Core,
    identities: Identities,
    /// How many layers there have been, which keeps their content apart.
    layers: u8,
    /// A branch has gone, and what it hid has the number of its copy, which moved away meanwhile. Which of the two keeps
    /// the number is not foreseen (SEMANTICS.md, "Where we differ"): this is the end.
    disputed: bool,
}

impl<'a> Run<'a> {
    fn new(case: &Case, setup: &'a Setup) -> Self {
        let layers = case.layers();
        let writable = |at: usize| setup.writable.get(at) == Some(&true);
        let branches = TestTree::from_layers(setup.ground, &layers, writable, setup.marks);
        let core = Core::new(&branches.list(), &setup.options, setup.memory);
        let count = u8::try_from(layers.len()).expect("few layers");
        let identities = Identities::default();
        Self { setup, branches, model: Model::new(&layers), core, identities, layers: count, disputed: false }
    }

    fn step(&mut self, op: &Op) -> Result<(), String> {
        match op {
            Op::Crash(op, nth) => self.crash(op.resolve(&self.model), usize::from(*nth)),
            Op::Add(at, writable, steps) => self.add(self.branches.place(*at), *writable, steps),
            Op::Del(at) => self.branches.above_lowest(*at).map_or(Ok(()), |at| self.del(at)),
            Op::Mod(at, writable) => {
                self.branches.above_lowest(*at).map_or(Ok(()), |at| self.change(at, *writable))
            }
            op => op.resolve(&self.model).map_or(Ok(()), |action| self.act(&action)),
        }
    }

    fn act(&mut self, action: &Action) -> Result<(), String> {
        let got = self.core.apply(action);
        if self.fixed(got) {
            return Ok(());
        }
        let want = self.model.apply(action);
        if same_verdict(want, got) { Ok(()) } else { Err(format!("want {want:?}, got {got:?}")) }
    }

    /// What lies on or below a branch that is not written, and above all that are, cannot change.
    fn fixed(&self, got: Result<(), Errno>) -> bool {
        !self.branches.writable(0) && matches!(got, Err(Errno::ROFS | Errno::XDEV))
    }

    /// The tree is the old one or the new one; the model goes on from that one.
    fn crash(&mut self, action: Option<Action>, nth: usize) -> Result<(), String> {
        let action = action.filter(|action| !matches!(action, Action::Remount));
        let mut new = self.model.clone();
        let done = action.as_ref().map_or(Ok(()), |action| new.apply(action));
        let ended = self.core.crash(action.as_ref(), nth);
        let got = self.core.tree();
        let mut old = self.model.clone();
        for model in [&mut old, &mut new] {
            action.iter().for_each(|action| model.forget_times_above(&action.paths()));
        }
        old.forget_times_as(&new);
        let mut wrong = Vec::new();
        for mut model in [new, old] {
            model.close();
            let tree = model.tree();
            // Two directories that were exchanged may differ in nothing but their numbers.
            let numbers = || self.identities.clone().check(&tree, &got);
            match difference(&tree, &got).map_or_else(numbers, Err) {
                Ok(()) => {
                    self.model = model;
                    break;
                }
                Err(difference) => wrong.push(difference),
            }
        }
        match &wrong[..] {
            [] => Ok(()),
            [new] if ended && done.is_ok() && self.branches.writable(0) => {
                Err(format!("it was done, and the tree is the old one:\n{new}"))
            }
            [_] => Ok(()),
            [new, old, ..] => Err(format!("neither the new tree\n{new}\nnor the old one\n{old}")),
        }
    }

    fn add(&mut self, at: usize, writable: bool, steps: &[Put]) -> Result<(), String> {
        let layer = Layer::from_steps(steps, self.layers);
        self.layers += 1;
        let marks = self.setup.marks[0];
        self.branches.insert(at, writable, |root| layer.write(root, marks));
        let perm = if writable { Perm::READ_WRITE } else { Perm::READ_ONLY };
        let spec = BranchSpec { path: self.branches.branch(at).into(), perm };
        let want = (at == 0).then(|| covered(layer, &mut self.model));
        let done = self.core.rearrange(|union, in_use| union.add_branch(at, spec, in_use));
        done.map_err(|error| error.to_string())?;
        self.settle(want)
    }

    fn del(&mut self, at: usize) -> Result<(), String> {
        let path = self.branches.branch(at).to_owned();
        let done = self.core.rearrange(|union, in_use| union.remove_branch(&path, in_use));
        match done {
            Err(LiveError::Busy { .. }) if self.model.open_slots().next().is_some() => return Ok(()),
            done => done.map_err(|error| error.to_string())?,
        }
        self.branches.remove(at);
        self.settle(None)
    }

    fn change(&mut self, at: usize, writable: bool) -> Result<(), String> {
        let path = self.branches.branch(at).to_owned();
        let perm = if writable { Perm::READ_WRITE } else { Perm::READ_ONLY };
        let done = self.core.rearrange(|union, in_use| union.change_branch(&path, perm, in_use));
        match done {
            Err(LiveError::Busy { .. }) if self.model.open_slots().next().is_some() => return Ok(()),
            done => done.map_err(|error| error.to_string())?,
        }
        self.branches.set_writable(at, writable);
        let same = self.model.tree();
        self.settle(Some(same))
    }

    /// After a change of the branches the union shows what one that is mounted now shows, and what was foreseen.
    fn settle(&mut self, foreseen: Option<Tree>) -> Result<(), String> {
        let options = Options { read_only: true, ..self.setup.options.clone() };
        let mut fresh = Core::new(&self.branches.list(), &options, Memory::Keeps);
        fresh.disputes = true;
        let fresh = fresh.tree();
        if let Some(difference) = foreseen.and_then(|mut want| {
            want.entry(PathBuf::new()).and_modify(|root| root.mtime = None);
            difference(&want, &fresh)
        }) {
            return Err(format!("what a new union shows is not what these branches are:\n{difference}"));
        }
        // Nothing is open in the new one: only who comes second has a number that was made up.
        self.disputed = fresh.values().any(|node| made_up(node.id));
        if self.disputed {
            return Ok(());
        }
        let got = self.core.tree();
        if let Some(difference) = difference(&fresh, &got) {
            return Err(format!("want what a new union shows:\n{difference}"));
        }
        for (path, node) in &fresh {
            let stands_in = made_up(got[path].id) && self.core.takes(node.id);
            if got[path].id != node.id && !stands_in {
                return Err(format!("{path:?}: st_ino is {}, and in a new union {}", got[path].id, node.id));
            }
        }
        let known = self.identities.known(&self.model);
        self.model.adopt(&got, |ino| known.get(&ino).copied());
        Ok(())
    }

    fn compare(&mut self) -> Result<(), String> {
        if self.disputed {
            return Ok(());
        }
        let (want, got) = (self.model.tree(), self.core.tree());
        if let Some(difference) = difference(&want, &got) {
            return Err(format!("\n{difference}"));
        }
        if self.model.open_files() != self.core.open_files() {
            return Err("an open file has other content".into());
        }
        self.identities.check(&want, &got)
    }
}

/// Which of several reasons refuses is the kernel's to choose, before the core is asked (and the differential run's to
/// compare); that something is refused, and that a merged directory is not empty, is the core's.
fn same_verdict(want: Result<(), Errno>, got: Result<(), Errno>) -> bool {
    match want {
        Err(Errno::NOTEMPTY) => got == want,
        _ => got.is_ok() == want.is_ok(),
    }
}

/// What is seen when a layer is put on top: names that it covers count no more.
fn covered(layer: Layer, model: &mut Model) -> Tree {
    let mut tree = merge(&[layer, Layer { nodes: model.tree(), ..Layer::default() }]);
    let mut links: BTreeMap<u64, u64> = BTreeMap::new();
    tree.values().for_each(|node| *links.entry(node.id).or_default() += 1);
    tree.values_mut().for_each(|node| node.nlink = links[&node.id]);
    tree
}

/// `st_ino` by the model's inode: it may never change, neither by copy-up nor by rename nor by remount.
#[derive(Clone, Default)]
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
            // One that stood in for a number that was taken ends with what took it.
            if made_up(*first) {
                *first = ino;
            }
            if *first != ino {
                return Err(format!("{path:?}: st_ino is {ino}, but was {first} when it was {was:?}"));
            }
        }
        Ok(())
    }

    /// The model's objects that can still be met, by `st_ino`.
    fn known(&self, model: &Model) -> BTreeMap<u64, u64> {
        let there = self.0.iter().filter(|(id, _)| model.has(**id));
        there.map(|(id, (ino, _))| (*ino, *id)).collect()
    }
}
