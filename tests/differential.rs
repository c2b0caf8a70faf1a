//! The same random operations on a mount and on a plain directory: the same results, the same trees.

use std::cell::RefCell;
use std::rc::Rc;

use crate::model::{Model, merge};
use crate::support::branches::TestTree;
use crate::support::dir::Dir;
use crate::support::layer::{Layer, Marks};
use crate::support::mount::TestMount;
use crate::support::ops::Subject;
use crate::support::search::{Case, case, cases, search};
use crate::support::tree::difference;

fn check(case: &Case) -> Result<(), String> {
    let layers = case.layers();
    let plain = TestTree::build(1, 1, |_, root| {
        Layer { nodes: merge(&layers), ..Layer::default() }.write(root, Marks::Aufs)
    });
    let mount = Rc::new(RefCell::new(TestMount::over(
        TestTree::from_layers(&layers, |at| at == 0, &[Marks::Aufs]),
        &[],
    )));
    let (again, root) = (Rc::clone(&mount), mount.borrow().root());
    let mut union = Dir::new(&root, move || again.borrow_mut().remount());
    let mut native = Dir::new(plain.branch(0), || ());
    // Only to tell what an operation's indices mean.
    let mut model = Model::new(&layers);
    for (step, op) in case.ops.iter().enumerate() {
        let Some(action) = op.resolve(&model) else { continue };
        model.apply(&action).ok();
        let (want, got) = (native.apply(&action), union.apply(&action));
        if want != got {
            return Err(format!("step {step}, {action:?}: want {want:?}, got {got:?}"));
        }
        let (mut want, got) = (native.tree(), union.tree());
        // Times are the model's to know, for the two are changed one after another; and the links that a layer hides.
        for (path, known) in model.tree() {
            want.entry(path).and_modify(|node| (node.mtime, node.nlink) = (known.mtime, known.nlink));
        }
        if let Some(difference) = difference(&want, &got) {
            return Err(format!("after step {step}, {action:?}:\n{difference}"));
        }
        if native.open_files() != union.open_files() {
            return Err(format!("after step {step}, {action:?}: an open file has other content"));
        }
    }
    drop(union);
    mount
        .borrow()
        .tree()
        .lower_changes()
        .map_or(Ok(()), |changes| Err(format!("lower branches were written:\n{changes}")))
}

#[test]
fn a_mount_does_what_a_plain_directory_does() {
    search(cases(60), case(1..=3, 60), check);
}
