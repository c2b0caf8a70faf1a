//! `unionfs where`.

use std::fs;
use std::path::Path;

use crate::support::mount::{TestMount, run};

/// The output, the directory of the test being `T`.
fn told(mount: &TestMount, paths: &[&str]) -> (String, Option<i32>) {
    let paths: Vec<_> = paths.iter().map(|path| mount.path(path).to_str().unwrap().to_owned()).collect();
    let mut args = vec!["where".to_owned()];
    args.extend(paths);
    let output = run(&args);
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let top = mount.tree().beside("").canonicalize().unwrap();
    let text = String::from_utf8(output.stdout).unwrap().replace(top.to_str().unwrap(), "T");
    (text, output.status.code())
}

#[test]
fn where_tells_every_branch_and_what_it_means() {
    let mount = TestMount::new(&["", "f=1 d/x=x gone=g over/in=i", "f=2 d/y=y d/x=2 over=file cut/c=c"]);
    fs::write(mount.path("f"), "up").unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    fs::remove_dir_all(mount.path("cut")).unwrap();
    fs::create_dir(mount.path("cut")).unwrap();
    let (text, status) = told(&mount, &["f", "d", "d/x", "gone", "over", "cut", "cut/c", "none"]);
    let want = "\
T/mnt/f
   0  holds    file       T/b0/f
   1  beneath  file       T/b1/f
   2  beneath  file       T/b2/f
T/mnt/d
   1  holds    directory  T/b1/d
   2  merges   directory  T/b2/d
T/mnt/d/x
   1  holds    file       T/b1/d/x
   2  beneath  file       T/b2/d/x
T/mnt/gone
   0  hides    whiteout   T/b0/.wh.gone
   1  beneath  file       T/b1/gone
T/mnt/over
   1  holds    directory  T/b1/over
   2  beneath  file       T/b2/over
T/mnt/cut
   0  holds    directory  T/b0/cut (opaque)
   2  beneath  directory  T/b2/cut
T/mnt/cut/c
   2  beneath  file       T/b2/cut/c
T/mnt/none
";
    assert_eq!(text, want);
    assert_eq!(status, Some(1), "some of the paths are not there");
}

#[test]
fn where_follows_renamed_directories() {
    for options in [&[][..], &["-o", "format=overlay"]] {
        let tree = crate::support::branches::TestTree::new(&["", "a/b/f=1 n/f=beneath", "a/b/f=2 a/b/g=g"]);
        let mount = TestMount::over(tree, options);
        fs::remove_dir_all(mount.path("n")).unwrap();
        fs::rename(mount.path("a"), mount.path("n")).unwrap();
        fs::rename(mount.path("n/b"), mount.path("n/c")).unwrap();
        fs::write(mount.path("n/c/f"), "up").unwrap();
        let (text, status) = told(&mount, &["n", "n/c/f", "n/c/g"]);
        let want = "\
T/mnt/n
   0  holds    directory  T/b0/n (continues at /a below)
   1  merges   directory  T/b1/a
   1  beneath  directory  T/b1/n
   2  merges   directory  T/b2/a
T/mnt/n/c/f
   0  holds    file       T/b0/n/c/f
   1  beneath  file       T/b1/a/b/f
   2  beneath  file       T/b2/a/b/f
T/mnt/n/c/g
   2  holds    file       T/b2/a/b/g
";
        assert_eq!(text, want, "{options:?}");
        assert_eq!(status, Some(0));
    }
}

#[test]
fn where_finds_a_copy_made_by_another_name() {
    let mount = TestMount::new(&["", "one=1 two=>one"]);
    fs::write(mount.path("one"), "changed").unwrap();
    assert_eq!(mount.read("two"), "changed");
    let (text, _) = told(&mount, &["two"]);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    let copy = lines[1].strip_prefix("   0  holds    file       T/").expect("a copy that holds it");
    assert_eq!(fs::read_to_string(mount.tree().beside(copy)).unwrap(), "changed");
    assert_eq!(lines[2], "   1  beneath  file       T/b1/two");
}

#[test]
fn where_refuses_paths_outside_of_unions() {
    let output = run(&["where", "/proc/self/status"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("not the root of a mounted union"), "{said}");
    assert!(Path::new("/proc/self/status").exists());
}

#[test]
fn where_tells_who_has_the_content_of_a_copy_of_the_metadata() {
    let tree = crate::support::branches::TestTree::new(&["", "near=n", "d/f=1 near=deep"]);
    let mount = TestMount::over(tree, &["-o", "format=overlay,metacopy=on"]);
    for path in ["d/f", "near"] {
        fs::set_permissions(mount.path(path), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
    fs::rename(mount.path("d/f"), mount.path("g")).unwrap();
    let (text, status) = told(&mount, &["g", "near"]);
    let want = "\
T/mnt/g
   0  holds    file       T/b0/g
   2  data     file       T/b2/d/f
T/mnt/near
   0  holds    file       T/b0/near
   1  data     file       T/b1/near
   2  beneath  file       T/b2/near
";
    assert_eq!((text.as_str(), status), (want, Some(0)));
}
