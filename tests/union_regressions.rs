//! Cases that random operations once found, each under the name of what went wrong.

use crate::support::layer::Put::{Dir, File, Link, Mode, Symlink, Whiteout};
use crate::support::ops::Op;
use crate::support::ops::Op::{Create, Rename, SetXattr, Write};
use crate::support::search::Case;
use crate::union_model::still_right;

#[test]
fn linking_a_lower_file_with_several_names_counts_the_new_one_once() {
    let layers = vec![vec![], vec![File(0, 67, 0), Link(0, 41, 0)]];
    still_right(&Case { layers, ops: vec![Op::Link(0, 0, 128)] });
}

#[test]
fn renaming_one_of_several_lower_names_finds_it() {
    let layers = vec![vec![], vec![Whiteout(0, 2)], vec![Symlink(0, 135), File(0, 136, 0), Link(0, 12, 78)]];
    still_right(&Case { layers, ops: vec![Rename(164, 120, 209, 124)] });
}

#[test]
fn hard_linked_lower_files_are_listed_under_the_number_that_stat_tells() {
    let lower = vec![
        Link(156, 168, 17),
        File(41, 14, 3949),
        Dir(247, 129),
        Mode(49, 64600),
        Whiteout(208, 55),
        Dir(185, 18),
        Link(127, 230, 99),
        Link(252, 45, 254),
    ];
    let ops = vec![Create(136, 54, 33685), Rename(208, 215, 72, 52), SetXattr(58, 48, 111)];
    still_right(&Case { layers: vec![vec![], lower], ops });
}

#[test]
fn copying_up_one_of_three_names_keeps_all_three_counted() {
    let layers = vec![vec![], vec![File(0, 43, 0), Link(0, 34, 0), File(0, 28, 0), Link(0, 170, 0)]];
    still_right(&Case { layers, ops: vec![Write(0, 0, 1, 0)] });
}

#[test]
fn moving_a_lower_directory_keeps_its_own_time_of_change() {
    let lower =
        vec![Dir(0, 5), File(32, 151, 0), Symlink(13, 51), Dir(72, 14), File(0, 1, 0), File(130, 167, 0)];
    let ops = vec![Rename(66, 53, 0, 75), Create(0, 0, 0)];
    still_right(&Case { layers: vec![vec![], lower], ops });
}
