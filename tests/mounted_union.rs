//! What makes it a union: priority, whiteouts, opaque directories, and all of it again after a remount.

use std::fs;
use std::path::Path;

use crate::support::branches::{ls, visible};
use crate::support::mount::TestMount;

#[test]
fn the_first_example_works_to_the_letter() {
    let mut c = TestMount::new(&["a=a-of-A x=x-of-A", "b=b-of-B x=x-of-B"]);
    assert_eq!(ls(&c.root()), "a b x");
    assert_eq!(c.read("x"), "x-of-A");

    fs::remove_file(c.path("b")).unwrap();
    assert_eq!(ls(&c.root()), "a x");
    assert!(c.upper(".wh.b").is_file(), "rm C/b makes A/.wh.b");
    assert_eq!(fs::read_to_string(c.lower("b")).unwrap(), "b-of-B");

    c.remount();
    assert_eq!(ls(&c.root()), "a x");
    assert!(!c.path("b").exists());
}

#[test]
fn writing_a_lower_file_makes_the_copy_in_the_writable_branch() {
    let mut c = TestMount::new(&["a=a", "b=b-of-B d/e/f=deep"]);
    fs::write(c.path("b"), "new").unwrap();
    fs::write(c.path("d/e/f"), "new too").unwrap();
    for round in ["at once", "after a remount"] {
        assert_eq!((c.read("b"), c.read("d/e/f")), ("new".into(), "new too".into()), "{round}");
        assert_eq!(fs::read_to_string(c.upper("b")).unwrap(), "new", "{round}");
        assert_eq!(fs::read_to_string(c.upper("d/e/f")).unwrap(), "new too", "{round}");
        c.remount();
    }
    assert_eq!(fs::read_to_string(c.lower("b")).unwrap(), "b-of-B");
}

#[test]
fn reading_and_listing_change_no_branch() {
    let c = TestMount::new(&["a=a", "b=b d/e=e", "z->b"]);
    assert_eq!(
        (c.read("a"), c.read("b"), c.read("z"), c.read("d/e")),
        ("a".into(), "b".into(), "b".into(), "e".into())
    );
    assert_eq!(ls(&c.path("d")), "e");
    assert_eq!(visible(c.tree().branch(0)), "a", "nothing came to the writable branch");
}

#[test]
fn whiteouts_and_opaque_directories_of_middle_layers_hide_what_lies_below() {
    let middle = "kept=middle .wh.gone= d/m=m d/.wh..wh..opq= e/.wh.gone=";
    let c = TestMount::new(&["u=u", middle, "gone=low kept=low d/low=low e/gone=low e/stays=low"]);
    assert_eq!(ls(&c.root()), "d e kept u");
    assert_eq!(c.read("kept"), "middle");
    assert_eq!((ls(&c.path("d")), ls(&c.path("e"))), ("m".into(), "stays".into()));
    for hidden in [".wh.gone", "gone", "d/.wh..wh..opq", "d/low", "e/gone", "e/.wh.gone"] {
        assert!(fs::symlink_metadata(c.path(hidden)).is_err(), "{hidden} is visible");
    }
}

#[test]
fn a_name_may_come_and_go_over_a_lower_one() {
    let mut c = TestMount::new(&["", "x=low"]);
    for round in 0..3 {
        fs::remove_file(c.path("x")).unwrap();
        assert!(c.upper(".wh.x").exists(), "round {round}");
        c.remount();
        assert!(!c.path("x").exists(), "round {round}");
        fs::write(c.path("x"), "new").unwrap();
        assert!(!c.upper(".wh.x").exists(), "round {round}: the whiteout goes when the name is back");
        c.remount();
        assert_eq!(c.read("x"), "new", "round {round}");
    }
}

#[test]
fn a_directory_made_again_stays_empty_at_every_level() {
    for path in ["d", "p/d", "p/q/d"] {
        let lower = format!("{path}/one=1 {path}/two/three=3 other=o");
        let mut c = TestMount::new(&["", &lower]);
        fs::remove_dir_all(c.path(path)).unwrap();
        fs::create_dir(c.path(path)).unwrap();
        assert_eq!(ls(&c.path(path)), "", "{path}");
        c.remount();
        assert_eq!(ls(&c.path(path)), "", "{path} after a remount");
        fs::write(c.path(path).join("one"), "new").unwrap();
        c.remount();
        assert_eq!(ls(&c.path(path)), "one", "{path}: only what was made again");
        assert_eq!(c.read(Path::new(path).join("one")), "new", "{path}");
    }
}

#[test]
fn everything_in_the_root_can_go() {
    let mut c = TestMount::new(&["a=a", "b=b d/e=e l->b"]);
    for entry in fs::read_dir(c.root()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { fs::remove_dir_all(&path).unwrap() } else { fs::remove_file(&path).unwrap() }
    }
    assert_eq!(ls(&c.root()), "");
    c.remount();
    assert_eq!(ls(&c.root()), "");
}

#[test]
fn one_kind_may_replace_another_across_layers() {
    let mut c = TestMount::new(&["f-over-d=file d-over-f/x=x", "f-over-d/inner=i d-over-f=file d=f f/g=g"]);
    assert_eq!((c.read("f-over-d"), ls(&c.path("d-over-f"))), ("file".into(), "x".into()));
    fs::remove_file(c.path("f-over-d")).unwrap();
    fs::create_dir(c.path("f-over-d")).unwrap();
    fs::remove_dir_all(c.path("d-over-f")).unwrap();
    fs::remove_file(c.path("d")).unwrap();
    fs::create_dir(c.path("d")).unwrap();
    fs::remove_dir_all(c.path("f")).unwrap();
    fs::write(c.path("f"), "now a file").unwrap();
    for round in ["at once", "after a remount"] {
        assert_eq!((ls(&c.path("f-over-d")), ls(&c.path("d"))), (String::new(), String::new()), "{round}");
        assert!(!c.path("d-over-f").exists(), "{round}");
        assert_eq!(c.read("f"), "now a file", "{round}");
        c.remount();
    }
}

#[test]
fn a_directory_is_empty_only_if_the_merged_one_is() {
    let c = TestMount::new(&["d/", "d/low=l e/.wh.low= e/", "e/low=l"]);
    assert_eq!(fs::remove_dir(c.path("d")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    fs::remove_file(c.path("d/low")).unwrap();
    fs::remove_dir(c.path("d")).unwrap();
    fs::remove_dir(c.path("e")).unwrap();
    assert_eq!(ls(&c.root()), "");
}

#[test]
fn a_hundred_branches_are_one_tree() {
    let words: Vec<_> =
        (0..100).map(|index| format!("f{index}=of-{index} d/g{index}=g all=of-{index}")).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let c = TestMount::new(&words);
    assert_eq!(ls(&c.root()).split(' ').count(), 102);
    assert_eq!(ls(&c.path("d")).split(' ').count(), 100);
    assert_eq!((c.read("all"), c.read("f99"), c.read("d/g50")), ("of-0".into(), "of-99".into(), "g".into()));
    fs::write(c.path("f99"), "changed").unwrap();
    assert_eq!(fs::read_to_string(c.upper("f99")).unwrap(), "changed");
}
