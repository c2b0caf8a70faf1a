//! What is saved, read again by others and by us.

use std::fs;
use std::process::Command;

use crate::load::{carried, check_three, three};
use crate::support::{World, members, names, run};

#[test]
fn what_is_saved_is_read_by_skopeo_and_umoci() {
    let mut world = World::new();
    world.uctr_with(&["load", "-q", "-t", "x"], &carried().docker("x")).ok();
    for (format, transport) in [("docker-archive", "docker-archive"), ("oci", "oci-archive")] {
        let saved = world.path(&format!("{format}.tar"));
        world.uctr(&["save", "--format", format, "-o", saved.to_str().unwrap(), "x"]).ok();
        let (source, target) =
            (format!("{transport}:{}", saved.display()), world.path(&format!("{format}.layout")));
        let copy = format!("oci:{}:x", target.display());
        run(Command::new("skopeo").args(["copy", "--quiet", "--insecure-policy", &source, &copy]), b"").ok();
        let bundle = world.path(&format!("{format}.bundle"));
        let mut umoci = Command::new("umoci");
        umoci.args(["unpack", "--image", &format!("{}:x", target.display())]).arg(&bundle);
        run(&mut umoci, b"").ok();
        assert_eq!(names(&bundle.join("rootfs/etc")), [&b"one"[..], b"three"], "{format}");
        assert_eq!(names(&bundle.join("rootfs/opt")), [b"new"], "{format}");
        world.accept();
        let other = World::new();
        other.uctr(&["load", "-q", "-t", "y", "-i", target.to_str().unwrap()]).ok();
        check_three(&other, "y");
    }
}

#[test]
fn what_is_saved_is_the_same_again() {
    let world = World::new();
    world.uctr_with(&["load", "-q"], &carried().docker("busybox:1")).ok();
    world.uctr(&["tag", "busybox:1", "other/name:2"]).ok();
    for format in ["docker-archive", "oci"] {
        let saved = |world: &World| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_uctr"));
            command.arg("--root").arg(world.root()).args([
                "save",
                "--format",
                format,
                "busybox:1",
                "other/name:2",
            ]);
            command.output().unwrap().stdout
        };
        let archive = saved(&world);
        assert!(members(&archive).values().any(|member| *member == three()[1]), "a layer is not what it was");
        let other = World::new();
        let out = other.uctr_with(&["load"], &archive).ok();
        assert_eq!(out, "Loaded image: busybox:1\nLoaded image: other/name:2\n", "{format}");
        check_three(&other, "other/name:2");
        assert_eq!(other.store().resolve("busybox:1").unwrap().id.0, carried().id());
        assert!(saved(&other) == archive, "{format}: the same image gives another archive");
    }
}

#[test]
fn save_tells_of_a_layer_that_was_changed() {
    let mut world = World::new();
    world.uctr_with(&["load", "-q"], &carried().docker("x")).ok();
    let tree = world.store().resolve("x").unwrap().layers[1].path.clone();
    let saved = world.path("saved.tar");
    world.accept();
    for content in ["", "shorter", &"X".repeat(100_000), &"X".repeat(200_000)] {
        fs::write(tree.join("etc/three"), content).unwrap();
        world.uctr(&["save", "-o", saved.to_str().unwrap(), "x"]).fails(&["uctr: "]);
        assert!(!saved.exists(), "half an archive was left");
    }
    fs::remove_file(tree.join("etc/three")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", tree.join("etc/three")).unwrap();
    world.uctr(&["save", "-o", saved.to_str().unwrap(), "x"]).fails(&["uctr: "]);
    world.check();
}
