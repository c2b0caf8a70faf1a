//! Foreign suites on a mount: pjdfstest beside the plain directory below, and fsx; and proof that the mode which the
//! whole run was asked for is the one it ran in.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::mount::{TestMount, run};

/// Cases of pjdfstest that may fail on the mount and not on the directory below it.
const PJDFSTEST_LIMIT: &str = "0";
/// Operations of fsx on each of its files.
const FSX_OPERATIONS: &str = "100000";

/// Runs a script of this repository on the program under test; its output is part of a failure.
fn script(name: &str, arguments: &[&str]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    let mut command = Command::new(&path);
    command.arg(env!("CARGO_BIN_EXE_unionfs")).args(arguments).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

fn fsx(file: &str, options: &str) {
    script("fsx.sh", &[file, options, FSX_OPERATIONS]);
}

#[test]
fn pjdfstest_fails_no_more_than_on_the_plain_directory() {
    script("pjdfstest.sh", &[PJDFSTEST_LIMIT]);
}

#[test]
fn fsx_of_a_lower_file_stateless() {
    fsx("in-place", "io=stateless");
}

#[test]
fn fsx_of_a_lower_file_passthrough() {
    fsx("in-place", "io=passthrough");
}

#[test]
fn fsx_of_a_truncated_lower_file_stateless() {
    fsx("truncated", "io=stateless");
}

#[test]
fn fsx_of_a_truncated_lower_file_passthrough() {
    fsx("truncated", "io=passthrough");
}

#[test]
fn fsx_of_an_upper_file_stateless() {
    fsx("new", "io=stateless");
}

#[test]
fn fsx_of_an_upper_file_passthrough() {
    fsx("new", "io=passthrough");
}

#[test]
fn the_mode_that_was_asked_for_is_live() {
    let asked = std::env::var("UNIONFS_TEST_OPTIONS").unwrap_or_default();
    let c = TestMount::new(&["", "f=f"]);
    let told = run(&["features".as_ref(), "--json".as_ref(), c.root().as_os_str()]);
    let told: Value = serde_json::from_slice(&told.stdout).unwrap();
    let live = |name: &str| {
        let features = told["features"].as_array().unwrap();
        features.iter().any(|one| one["name"] == name && one["live"] == true)
    };
    for (option, feature) in [
        ("io=passthrough", "PASSTHROUGH"),
        ("io=passthrough-all", "PASSTHROUGH"),
        ("transport=uring", "OVER_IO_URING"),
    ] {
        if asked.split(',').any(|word| word == option) {
            assert!(live(feature), "{option} was asked for, and this host does not offer it: {told}");
        }
    }
}
