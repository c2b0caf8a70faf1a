//! The same limits on a machine that has cgroup version 2 only, and a root that pivot_root cannot leave: in a guest.
#![allow(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

#[path = "support/container.rs"]
mod container;

use std::fs;
use std::path::Path;
use std::process::Command;

use container::{Done, small_program};

/// Runs a script in the guest of `tests/v2vm.sh`, with the program at hand as `$UCTR`.
fn in_guest(options: &[&str], script: &str) -> Done {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests");
    let work = tempfile::tempdir().unwrap();
    let program = small_program(work.path());
    let path = work.path().join("script");
    fs::write(&path, format!("UCTR={}\n{script}", program.display())).unwrap();
    Command::new(tests.join("v2vm.sh")).args(options).arg(&path).arg(&program).output().unwrap().into()
}

#[test]
fn limits_hold_on_version_2() {
    let done = in_guest(&[], include_str!("v2guest.sh"));
    assert_eq!(done.status, 0, "{}\n{}", done.out, done.err);
    assert!(!done.out.contains("FAILED"), "{}", done.out);
    assert!(done.out.matches("\nok ").count() >= 20, "{}", done.out);
}

#[test]
fn a_container_runs_on_the_initial_ramdisk() {
    let script = r#"
        grep -q '^rootfs / rootfs' /proc/mounts || exit 3
        tar -cf /image.tar -C / bin etc
        "$UCTR" --root /tmp/store import /image.tar busybox || exit 4
        for way in fuse overlay copy; do
            "$UCTR" --root /tmp/store run --rm --fs $way busybox sh -c 'ls / | tr "\n" " "; [ -e /script ] || echo inside' || exit 5
        done
        id=$("$UCTR" --root /tmp/store run -d busybox sleep 100)
        "$UCTR" --root /tmp/store exec -w / $id sh -c 'cd ../..; [ -e script ] || echo still inside' || exit 6
        "$UCTR" --root /tmp/store rm -f $id
    "#;
    let done = in_guest(&["-i"], script);
    assert_eq!(done.status, 0, "{}\n{}", done.out, done.err);
    assert_eq!(done.out.matches("bin dev etc proc sys inside").count(), 3, "{}", done.out);
    assert!(done.out.contains("still inside"), "{}", done.out);
}
