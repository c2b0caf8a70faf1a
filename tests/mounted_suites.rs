//! Foreign suites on a mount: pjdfstest beside the plain directory below, and fsx.

use std::path::Path;
use std::process::{Command, Stdio};

/// Cases of pjdfstest that may fail on the mount and not on the directory below it.
const PJDFSTEST_LIMIT: u32 = 0;
/// Operations of fsx on each of its files.
const FSX_OPERATIONS: u32 = 20_000;

/// Runs a script of this repository on the program under test; its output is part of a failure.
fn script(name: &str, number: u32) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts").join(name);
    let mut command = Command::new(&path);
    command.arg(env!("CARGO_BIN_EXE_unionfs")).arg(number.to_string()).stdin(Stdio::null());
    let output = command.output().unwrap_or_else(|error| panic!("{path:?}: {error}"));
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    assert!(output.status.success(), "{name}: {said}{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn pjdfstest_fails_no_more_than_on_the_plain_directory() {
    script("pjdfstest.sh", PJDFSTEST_LIMIT);
}

#[test]
fn fsx_finds_every_byte_of_lower_and_upper_files() {
    script("fsx.sh", FSX_OPERATIONS);
}
