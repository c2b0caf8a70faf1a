//! Random histories: whatever a union has written, the tools read, carry over and convert without a difference.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use unionfs::tools::check::{Kind as Problem, check};
use unionfs::tools::convert::{Conversion, convert};
use unionfs::tools::diff::{Kind, diff};
use unionfs::tools::export::export;
use unionfs::tools::{Given, Subject};
use unionfs::{BranchSpec, Format, Options};

use crate::diff::compare;
use crate::model::Model;
use crate::support::branches::{Ground, TestTree};
use crate::support::layer::Marks;
use crate::support::ops::{Action, Subject as _, op};
use crate::support::search::{Case, case, cases, search};
use crate::support::tree::{Tree, difference};
use crate::support::unmounted::{Core, Memory};

/// An upper with a random history, which no union has mounted any more.
struct History {
    tree: TestTree,
    format: Format,
    base: Tree,
    merged: Tree,
    /// A directory was renamed: what of it shares inodes with the rest, a layer cannot tell.
    renamed: bool,
}

impl History {
    fn new(case: &Case, format: Format) -> Self {
        let mut layers = case.layers();
        layers[0] = crate::support::layer::Layer::from_steps(&[], 0);
        let marks = if format == Format::Aufs { Marks::Aufs } else { Marks::Overlay };
        let tree = TestTree::from_layers(Ground::Disk, &layers, |at| at == 0, &[marks]);
        let base = Model::new(&layers).tree();
        let mut model = Model::new(&layers);
        let options = Options { volatile: true, format, ..Options::default() };
        let mut core = Core::new(&tree.list(), &options, Memory::Forgets);
        let mut renamed = false;
        for op in &case.ops {
            let Some(action) = op.resolve(&model) else { continue };
            let done = core.apply(&action);
            assert_eq!(model.apply(&action).is_ok(), done.is_ok(), "{action:?}: {done:?}");
            renamed |= matches!(action, Action::Rename(..));
        }
        let merged = core.tree();
        Self { tree, format, base, merged, renamed }
    }

    fn given(&self, format: Format) -> Given {
        let list = self.tree.list();
        let (_, lowers) = list.split_once(":").expect("lower branches");
        Given { lowers: Some(BranchSpec::parse_list(lowers).unwrap()), format, ..Given::default() }
    }

    fn subject(&self, format: Format) -> Subject {
        Subject::new(self.tree.branch(0), self.given(format)).unwrap()
    }

    /// What a union shows of these branches.
    fn shown(&self, list: &str, format: Format) -> Tree {
        let options = Options { read_only: true, format, ..Options::default() };
        Core::new(list, &options, Memory::Forgets).tree()
    }
}

/// Each random history in each format.
fn with_histories(test: impl Fn(&History) -> Result<(), String>) {
    for format in [Format::Aufs, Format::Overlay] {
        search(cases(60), case(1..=3, op(), 40), |case| {
            let history = History::new(case, format);
            test(&history)?;
            let changes = history.tree.lower_changes();
            changes.map_or(Ok(()), |changes| Err(format!("lower branches were written:\n{changes}")))
        });
    }
}

fn same(what: &str, want: &Tree, got: &Tree) -> Result<(), String> {
    difference(want, got).map_or(Ok(()), |difference| Err(format!("{what}:\n{difference}")))
}

fn clean(history: &History, format: Format) -> Result<(), String> {
    let problems = check(history.subject(format), Some(format), false).map_err(|error| error.to_string())?;
    // Of a lower file with several names, a name that another branch hides may be all that is left.
    let real: Vec<_> = problems.iter().filter(|problem| problem.kind != Problem::Orphan).collect();
    if real.is_empty() { Ok(()) } else { Err(format!("{format}: {real:?}")) }
}

#[test]
fn check_finds_nothing_in_random_histories() {
    with_histories(|history| clean(history, history.format));
}

#[test]
fn diff_of_random_histories_is_what_comparing_tells() {
    with_histories(|history| {
        let changes = diff(&history.subject(history.format)).map_err(|error| error.to_string())?;
        let of = |kind: Kind| -> BTreeSet<&Path> {
            let of_kind = changes.iter().filter(|change| change.kind == kind);
            of_kind.map(|change| Path::new(OsStr::from_bytes(&change.path[1..]))).collect()
        };
        let [added, changed, deleted] = compare(&history.base, &history.merged);
        if of(Kind::Added) != added {
            return Err(format!("added: want {added:?}, got {:?}", of(Kind::Added)));
        }
        if of(Kind::Deleted) != deleted {
            return Err(format!("deleted: want {deleted:?}, got {:?}", of(Kind::Deleted)));
        }
        let missed: Vec<_> = changed.difference(&of(Kind::Changed)).copied().map(Path::to_owned).collect();
        if missed.is_empty() { Ok(()) } else { Err(format!("changed, but not told: {missed:?}")) }
    });
}

#[test]
fn export_of_random_histories_carries_everything() {
    with_histories(|history| {
        let archive = history.tree.beside("layer.tar");
        export(&history.subject(history.format), File::create(&archive).unwrap())
            .map_err(|error| error.to_string())?;
        let layer = history.tree.beside("layer");
        crate::export::unpack(&archive, &layer);
        let list = history.tree.list();
        let (_, lowers) = list.split_once(':').expect("lower branches");
        let mut got = history.shown(&format!("{}=ro+wh:{lowers}", layer.display()), Format::Aufs);
        let mut want = history.merged.clone();
        for tree in [&mut want, &mut got] {
            for (id, node) in (1..).zip(tree.values_mut()) {
                // A layer has no count of the links that a lower file has lost.
                node.nlink = 1;
                node.id = if history.renamed { id } else { node.id };
            }
        }
        same("the exported layer over the lowers", &want, &got)
    });
}

#[test]
fn converting_random_histories_there_and_back_changes_nothing_shown() {
    with_histories(|history| {
        let other = match history.format {
            Format::Aufs => Format::Overlay,
            Format::Overlay => Format::Aufs,
        };
        for to in [other, history.format] {
            let how = Conversion { to, ..Conversion::default() };
            convert(history.tree.branch(0), &how).map_err(|error| error.to_string())?;
            same(&format!("{to}"), &history.merged, &history.shown(&history.tree.list(), to))?;
            clean(history, to)?;
        }
        Ok(())
    });
}
