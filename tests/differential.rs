//! The same random operations on a mount and on a plain directory: the same results, the same trees.

use std::cell::RefCell;
use std::rc::Rc;

use proptest::strategy::Strategy;
use unionfs::{Format, Options};

use crate::model::{Model, merge};
use crate::support::branches::{Ground, TestTree};
use crate::support::dir::Dir;
use crate::support::layer::{Layer, Marks};
use crate::support::mount::{TestMount, run};
use crate::support::ops::{Op, Subject, crashing, rearranging};
use crate::support::search::{Case, LONGEST, case, cases, search};
use crate::support::tree::difference;
use crate::support::unmounted::{Core, Memory};

/// The kind of union that is mounted.
#[derive(Clone, Copy)]
struct Setup {
    writable: usize,
    marks: Marks,
    options: &'static str,
    ground: Ground,
}

const AUFS: Setup = Setup { writable: 1, marks: Marks::Aufs, options: "format=aufs", ground: Ground::Memory };
const OVERLAY: Setup = Setup { marks: Marks::Overlay, options: "format=overlay", ..AUFS };
const SEVERAL: Setup = Setup { writable: 3, options: "create=rr,cpup=bu", ..AUFS };

/// A mount, and the directory that is seen in it.
type Mounted = (Rc<RefCell<TestMount>>, Dir);

fn mount(layers: &[Layer], setup: Setup) -> Mounted {
    let tree = TestTree::from_layers(setup.ground, layers, |at| at < setup.writable, &[setup.marks]);
    let mount = Rc::new(RefCell::new(TestMount::over(tree, &["-o", setup.options])));
    let (again, root) = (Rc::clone(&mount), mount.borrow().root());
    (mount, Dir::new(&root, move || again.borrow_mut().remount()))
}

fn check(case: &Case, setup: Setup) -> Result<(), String> {
    let layers = case.layers();
    let merged = Layer { nodes: merge(&layers), ..Layer::default() };
    let plain = TestTree::from_layers(setup.ground, &[merged], |_| true, &[Marks::Aufs]);
    let mut native = Dir::new(plain.branch(0), || ());
    let (mount, mut union) = mount(&layers, setup);
    // Only to tell what an operation's indices mean.
    let mut model = Model::new(&layers);
    for (step, op) in case.ops.iter().enumerate() {
        let (op, crashes) = if let Op::Crash(op, _) = op { (&**op, true) } else { (op, false) };
        let Some(action) = op.resolve(&model) else { continue };
        model.apply(&action).ok();
        let (want, got) = (native.apply(&action), union.apply(&action));
        if want != got {
            return Err(format!("step {step}, {action:?}: want {want:?}, got {got:?}"));
        }
        if crashes {
            native.close();
            union.close();
            model.close();
            mount.borrow_mut().crash();
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
    untouched(&mount.borrow())
}

fn untouched(mount: &TestMount) -> Result<(), String> {
    let changes = mount.tree().lower_changes();
    changes.map_or(Ok(()), |changes| Err(format!("lower branches were written:\n{changes}")))
}

/// Most cases on tmpfs, for speed; some on the disk's filesystem, which users have.
fn differ(count: u32, setup: Setup) {
    for (ground, share) in [(Ground::Memory, 3), (Ground::Disk, 1)] {
        let setup = Setup { ground, ..setup };
        let cases = cases(count) * share / 4;
        search(cases, case(1..=3, crashing().boxed(), LONGEST), |case| check(case, setup));
    }
}

#[test]
fn a_mount_does_what_a_plain_directory_does() {
    differ(60, AUFS);
}

#[test]
fn a_mount_in_the_overlay_format_does_what_a_plain_directory_does() {
    differ(60, OVERLAY);
}

#[test]
fn a_mount_with_several_writable_branches_does_what_a_plain_directory_does() {
    differ(60, SEVERAL);
}

/// Changes the branches of a mount; whether it was possible.
fn rearrange(mount: &mut TestMount, op: &Op, count: &mut u8) {
    let root = mount.root();
    let tree = mount.tree_mut();
    let perm = |writable: bool| if writable { "rw" } else { "ro+wh" };
    let path = |tree: &TestTree, at: usize| tree.branch(at).display().to_string();
    let tell = |words: &[&str]| {
        let output = run(&[&[words[0], root.to_str().expect("UTF-8")], &words[1..]].concat());
        let why = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || why.contains("is open"), "{words:?}: {why}");
        output.status.success()
    };
    match op {
        Op::Add(at, writable, steps) => {
            *count += 1;
            let at = tree.place(*at);
            tree.insert(at, *writable, |root| Layer::from_steps(steps, *count).write(root, Marks::Aufs));
            let word = format!("{}={}", path(tree, at), perm(*writable));
            assert!(tell(&["add", &at.to_string(), &word]), "add {word}");
        }
        Op::Del(at) => {
            let at = tree.above_lowest(*at).filter(|at| tell(&["del", &path(tree, *at)]));
            at.into_iter().for_each(|at| tree.remove(at));
        }
        Op::Mod(at, writable) => {
            let word = |at: usize| format!("{}={}", path(tree, at), perm(*writable));
            let at = tree.above_lowest(*at).filter(|at| tell(&["mod", &word(*at)]));
            at.into_iter().for_each(|at| tree.set_writable(at, *writable));
        }
        _ => {}
    }
}

/// Whatever the kernel has cached: what it shows is what a union shows that has just been made of these branches.
fn check_rearranged(case: &Case) -> Result<(), String> {
    let layers = case.layers();
    let (mount, mut union) = mount(&layers, AUFS);
    let mut model = Model::new(&layers);
    let mut count = 9;
    let options = Options { read_only: true, format: Format::Aufs, ..Options::default() };
    for (step, op) in case.ops.iter().enumerate() {
        match op.resolve(&model) {
            Some(action) => {
                union.apply(&action).ok();
            }
            None => rearrange(&mut mount.borrow_mut(), op, &mut count),
        }
        let list = mount.borrow().tree().list();
        let want = Core::new(&list, &options, Memory::Forgets).tree();
        let got = union.tree();
        if let Some(difference) = difference(&want, &got) {
            return Err(format!("after step {step}, {op:?}:\n{difference}"));
        }
        if let Some((path, node)) = want.iter().find(|(path, node)| got[*path].id != node.id) {
            return Err(format!("after step {step}, {op:?}: {path:?}: st_ino is not {}", node.id));
        }
        model.adopt(&got, |_| None);
    }
    drop(union);
    untouched(&mount.borrow())
}

#[test]
fn a_mount_whose_branches_change_shows_what_a_new_one_shows() {
    let strategy = case(1..=3, rearranging().boxed(), LONGEST);
    search(cases(40), strategy.boxed(), check_rearranged);
}
