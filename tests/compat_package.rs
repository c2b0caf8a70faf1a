//! The Debian package and `make install`: what they lay out works, and goes away again.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::scene::Scene;

/// The directory of the programs under test.
fn programs() -> PathBuf {
    let at = Path::new(env!("CARGO_BIN_EXE_unionfs")).parent().unwrap().to_owned();
    assert!(at.join("uctr").exists(), "the package holds uctr, too: build the whole workspace");
    at
}

fn run(program: impl AsRef<Path>, arguments: &[&Path]) {
    let output = Command::new(program.as_ref()).args(arguments).output().unwrap();
    assert!(output.status.success(), "{:?}: {}", program.as_ref(), String::from_utf8_lossy(&output.stderr));
}

/// Manual pages and completions, as the build writes them.
fn docs(scene: &Scene) -> PathBuf {
    let docs = scene.path("docs");
    run(programs().join("examples/docs"), &[&docs]);
    docs
}

fn packaging(script: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").join(script)
}

#[test]
fn the_package_installs_runs_and_removes_cleanly() {
    let scene = Scene::new(&["", "f=one"]);
    let package = scene.path("unionfs.deb");
    run(packaging("deb.sh"), &[&programs(), &docs(&scene), &package]);
    let seen = scene.shell(
        r#"for at in usr var etc; do
               mkdir -p .p/$at/u .p/$at/w
               mount -t overlay -o lowerdir=/$at,upperdir=.p/$at/u,workdir=.p/$at/w overlay /$at
           done
           rm -f /usr/sbin/mount.unionfs /usr/sbin/mount.fuse.unionfs /usr/bin/unionfs /usr/bin/unionfs-fuse
           export PATH=/usr/sbin:/usr/bin DEBIAN_FRONTEND=noninteractive
           for other in fuse-overlayfs unionfs-fuse; do dpkg -P --force-all $other >/dev/null 2>&1 || :; done
           find /usr -path '*unionfs*' -o -name '*fuse-overlayfs*' -o -name '*uctr*' | sort > before
           dpkg -i --force-depends unionfs.deb >/dev/null
           dpkg --verify unionfs; unionfs --version; uctr --version | sed 's/ .*//'; fuse-overlayfs -V | head -n 1
           for page in unionfs.1 unionfs-mount.1 mount.unionfs.8 mount.fuse.unionfs.8 fuse-overlayfs.1 uctr.1 uctr-run.1; do
               section=${page##*.}; test -s "$(readlink -f /usr/share/man/man$section/$page.gz)" || echo "no $page"
           done
           mount -t unionfs -o dirs=b0=rw:b1=ro none m; ls m; umount m
           dpkg -P unionfs >/dev/null 2>&1
           find /usr -path '*unionfs*' -o -name '*fuse-overlayfs*' -o -name '*uctr*' | sort | diff before - && echo clean"#,
    );
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(seen, format!("unionfs {version}\nuctr\nfuse-overlayfs: version 1.16\nf\nclean\n"));
}

#[test]
fn the_package_is_the_same_from_the_same_input() {
    let scene = Scene::new(&[""]);
    let docs = docs(&scene);
    let [first, second] = ["first.deb", "second.deb"].map(|name| {
        run(packaging("deb.sh"), &[&programs(), &docs, &scene.path(name)]);
        fs::read(scene.path(name)).unwrap()
    });
    assert!(first == second, "two builds differ");
}

#[test]
fn install_lays_out_programs_links_pages_and_completions_below_its_prefix() {
    let scene = Scene::new(&[""]);
    let at = scene.path("dest");
    run(packaging("install.sh"), &[&programs(), &docs(&scene), Path::new("/opt/u"), &at]);
    let root = at.join("opt/u");
    for (path, target) in [
        ("bin/fuse-overlayfs", "unionfs"),
        ("bin/unionfs-fuse", "unionfs"),
        ("sbin/mount.unionfs", "../bin/unionfs"),
        ("sbin/mount.fuse.unionfs", "../bin/unionfs"),
    ] {
        assert_eq!(fs::read_link(root.join(path)).unwrap(), Path::new(target), "{path}");
        assert!(root.join(path).metadata().unwrap().is_file(), "{path} leads nowhere");
    }
    for path in [
        "bin/uctr",
        "share/man/man1/unionfs.1",
        "share/man/man8/mount.unionfs.8",
        "share/man/man1/uctr.1",
        "share/man/man1/uctr-run.1",
        "share/bash-completion/completions/unionfs",
        "share/bash-completion/completions/uctr",
        "share/zsh/vendor-completions/_unionfs",
        "share/fish/vendor_completions.d/unionfs.fish",
        "share/zsh/vendor-completions/_uctr",
        "share/fish/vendor_completions.d/uctr.fish",
    ] {
        assert!(root.join(path).exists(), "{path}");
    }
}

#[test]
fn install_leaves_the_helper_of_another_program_alone() {
    let scene = Scene::new(&[""]);
    let at = scene.path("dest");
    fs::create_dir_all(at.join("usr/sbin")).unwrap();
    fs::write(at.join("usr/sbin/mount.unionfs"), "another's").unwrap();
    symlink("somewhere", at.join("usr/sbin/mount.fuse.unionfs")).unwrap();
    run(packaging("install.sh"), &[&programs(), &docs(&scene), Path::new("/usr"), &at]);
    assert_eq!(fs::read_to_string(at.join("usr/sbin/mount.unionfs")).unwrap(), "another's");
    assert_eq!(fs::read_link(at.join("usr/sbin/mount.fuse.unionfs")).unwrap(), Path::new("../bin/unionfs"));
}

#[test]
fn the_manual_tells_every_mount_option() {
    let scene = Scene::new(&[""]);
    let docs = docs(&scene);
    for page in ["man/unionfs-mount.1", "man/mount.unionfs.8"] {
        let text = fs::read_to_string(docs.join(page)).unwrap().replace('\\', "");
        for option in [
            "dirs=LIST",
            "lowerdir=",
            "upperdir=",
            "workdir=",
            "xattr_permissions=",
            "uidmapping=",
            "volatile",
            "udba=",
        ] {
            assert!(text.contains(option), "{page} does not tell {option}");
        }
    }
}

#[test]
fn the_manual_tells_every_command_of_the_runtime() {
    let scene = Scene::new(&[""]);
    let docs = docs(&scene);
    let help = Command::new(programs().join("uctr")).arg("--help").output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    let commands = help.split("Commands:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let commands: Vec<_> = commands.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(commands.contains(&"run") && commands.len() > 10, "{help}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        let text = fs::read_to_string(docs.join(format!("man/uctr-{command}.1"))).unwrap();
        assert!(text.contains(".SH SYNOPSIS"), "uctr-{command}(1) has no synopsis");
    }
}
