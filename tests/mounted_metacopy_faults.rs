//! Crashes and failing system calls at every step of every act on a copy of the metadata only, by strace(1) as in the
//! tests of all other acts.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};

use crate::faults::{Act, CHANGES, Target, failing_anywhere, killed_anywhere};
use crate::metacopy::{ON, chmod, mounted};
use crate::support::branches::TestTree;
use crate::support::mount::TestMount;

const ACTS: [(&str, Act); 8] = [
    ("chmod of a lower file", |root| fs::set_permissions(root.join("d/f"), Permissions::from_mode(0o600))),
    ("rename of a lower file", |root| fs::rename(root.join("d/f"), root.join("e/f"))),
    ("chmod of a hollow file", |root| {
        fs::set_permissions(root.join("hollow"), Permissions::from_mode(0o640))
    }),
    ("write to a hollow file", |root| {
        OpenOptions::new().write(true).open(root.join("hollow"))?.write_all_at(b"W", 0)
    }),
    ("truncate of a hollow file", |root| {
        OpenOptions::new().write(true).open(root.join("hollow"))?.set_len(3)
    }),
    ("rename of a hollow file", |root| fs::rename(root.join("hollow"), root.join("e/g"))),
    ("link of a hollow file", |root| fs::hard_link(root.join("hollow"), root.join("e/g"))),
    ("unlink of a hollow file", |root| fs::remove_file(root.join("hollow"))),
];

fn scene() -> TestMount {
    let c = mounted(TestTree::new(&["", "d/f=content hollow=content e/"]), &format!("{ON},threads=1"));
    chmod(c.path("hollow"), 0o600);
    c
}

const HOLLOW: Target = Target { mount: scene, acts: &ACTS };

#[test]
fn a_server_killed_at_any_step_leaves_the_old_tree_or_the_new_one() {
    killed_anywhere(&HOLLOW);
}

#[test]
fn a_call_that_fails_at_any_step_leaves_the_old_tree_or_the_act_done() {
    failing_anywhere(&HOLLOW, "ENOSPC", libc::ENOSPC, &CHANGES);
    failing_anywhere(&HOLLOW, "EIO", libc::EIO, &CHANGES);
}
