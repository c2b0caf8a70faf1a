//! The store: names, lists, removal, and several at work at once.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use uctr::image::{Error, LoadOptions, Removed};

use crate::archives::{Packed, Tar};
use crate::support::{World, load, names, run};

fn layers(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|at| Tar::new().file(format!("file{at}"), vec![b'x'; 1000 * (at + 1)]).end()).collect()
}

/// Notes that a container stands on an image, as the runtime does.
fn container(world: &World, id: &str, image: &str) -> PathBuf {
    let dir = world.root().join("containers").join(id);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("config.json"), format!("{{\"image_id\": \"{image}\", \"more\": 1}}")).unwrap();
    dir
}

#[test]
fn import_makes_an_image_of_a_tar() {
    let world = World::new();
    let archive = Tar::new().dir("bin/").file("bin/sh", "#!").end();
    let change = r#"CMD ["/bin/sh"]"#;
    let args =
        ["import", "-c", change, "-c", "ENV A=b C=d", "-c", "WORKDIR /w", "-m", "mine", "-", "busybox:1"];
    let id = world.uctr_with(&args, &archive).ok();
    assert!(id.starts_with("sha256:") && id.len() == 72, "{id:?}");
    let told: Value = serde_json::from_str(&world.uctr(&["image", "inspect", "busybox:1"]).ok()).unwrap();
    let told = &told[0];
    assert_eq!(told["Id"], id.trim_end());
    assert_eq!(told["RepoTags"], serde_json::json!(["busybox:1"]));
    assert_eq!((&told["Os"], &told["Comment"]), (&"linux".into(), &"mine".into()));
    let config = serde_json::json!({
        "Cmd": ["/bin/sh"], "Env": ["A=b", "C=d"], "Entrypoint": null, "WorkingDir": "/w", "User": "",
        "Volumes": null, "Labels": null,
    });
    assert_eq!(told["Config"], config);
    let diff_id = uctr::image::Digest::of(&archive).to_string();
    assert_eq!(told["RootFS"], serde_json::json!({"Type": "layers", "Layers": [diff_id]}));
    let format = "{{.Architecture}} {{json .RootFS.Layers}} {{index .RepoTags 0}}";
    let line = world.uctr(&["image", "inspect", "-f", format, "busybox:1"]).ok();
    assert_eq!(line, format!("{} [\"{diff_id}\"] busybox:1\n", told["Architecture"].as_str().unwrap()));
    world.uctr(&["image", "inspect", "-f", "{{.Nope}}", "busybox:1"]).fails(&["no field \"Nope\""]);
    world.uctr_with(&["import", "-c", "RUN x", "-", "y"], &archive).fails(&["RUN x"]);
    world.uctr(&["import", "/nowhere.tar", "y"]).fails(&["/nowhere.tar", "No such file"]);
    world.uctr_with(&["import", "-", "BAD"], &archive).fails(&["BAD"]);
}

#[test]
fn images_lists_as_docker_does() {
    let world = World::new();
    assert_eq!(world.uctr(&["images"]).ok(), "REPOSITORY   TAG       IMAGE ID   CREATED   SIZE\n");
    let packed = Packed::new(&layers(2));
    load(&world.store(), &packed.docker("host:5000/some/app:1.0"), &LoadOptions::default()).unwrap();
    world.uctr(&["tag", "host:5000/some/app:1.0", "busybox"]).ok();
    world.uctr_with(&["import", "-"], &layers(3)[2]).ok();
    let (id, whole) = (packed.id().short(), packed.id().to_string());
    let table = world.uctr(&["images"]).ok();
    let lines: Vec<Vec<_>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["REPOSITORY", "TAG", "IMAGE", "ID", "CREATED", "SIZE"]);
    assert_eq!(lines[1][..2], ["<none>", "<none>"], "the newest comes first");
    assert_eq!((&lines[2][..3], lines[2].last()), (&["busybox", "latest", &id][..], Some(&"3kB")));
    assert_eq!(lines[3][..3], ["host:5000/some/app", "1.0", &id]);
    assert_eq!(world.uctr(&["images", "-q", "busybox"]).ok(), format!("{id}\n"));
    assert_eq!(world.uctr(&["images", "--no-trunc", "-q"]).ok().lines().last(), Some(whole.as_str()));
    let json = world.uctr(&["image", "ls", "--format", "json", "busybox:latest"]).ok();
    let row: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&row["Repository"], &row["Tag"], &row["ID"]),
        (&"busybox".into(), &"latest".into(), &id.into())
    );
    let names = world.uctr(&["images", "--format", "{{.Repository}}:{{.Tag}}", "host:5000/some/app"]).ok();
    assert_eq!(names, "host:5000/some/app:1.0\n");
    assert_eq!(world.uctr(&["images", "-q", "busybox:2"]).ok(), "");
    let history = world.uctr(&["history", "busybox"]).ok();
    let steps: Vec<Vec<_>> = history.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(steps[0], ["IMAGE", "CREATED", "CREATED", "BY", "SIZE", "COMMENT"]);
    assert_eq!(steps.len(), 4, "a step for the second layer, of which the history does not speak");
}

#[test]
fn names_and_identities_find_an_image() {
    let world = World::new();
    let packed = Packed::new(&layers(1));
    let store = world.store();
    load(&store, &packed.docker("busybox"), &LoadOptions::default()).unwrap();
    let hex = packed.id().hex();
    for given in [
        "busybox",
        "busybox:latest",
        "docker.io/library/busybox",
        &hex,
        &hex[..12],
        &hex[..3],
        &format!("sha256:{hex}"),
    ] {
        assert_eq!(store.resolve(given).unwrap().id.0, packed.id(), "{given}");
    }
    for given in ["busybox:2", "other", &hex[..2], "", "sha256:", "../busybox", "BUSYBOX"] {
        assert!(matches!(store.resolve(given), Err(Error::NoImage { .. })), "{given}");
    }
    // Spaces after a document change its digest and nothing else.
    let spaced = (1..20_000).map(|count| {
        let mut other = packed.clone();
        other.config.resize(other.config.len() + count, b' ');
        other
    });
    let alike = spaced
        .into_iter()
        .find(|other| other.id().hex()[..3] == hex[..3])
        .expect("one of 20,000 begins alike");
    load(&store, &alike.docker("other"), &LoadOptions::default()).unwrap();
    assert!(matches!(store.resolve(&hex[..3]), Err(Error::Ambiguous { .. })));
    world.uctr(&["rmi", &hex[..3]]).fails(&["short for several", &packed.id().short()]);
}

#[test]
fn tag_moves_a_name() {
    let world = World::new();
    let store = world.store();
    let (one, two) = (Packed::new(&layers(1)), Packed::new(&layers(2)));
    load(&store, &one.docker("one"), &LoadOptions::default()).unwrap();
    load(&store, &two.docker("two"), &LoadOptions::default()).unwrap();
    world.uctr(&["tag", "one", "two"]).ok();
    assert_eq!(store.resolve("two").unwrap().id.0, one.id());
    assert!(store.resolve(&two.id().hex()).unwrap().names.is_empty());
    world.uctr(&["tag", "three", "four"]).fails(&["no image \"three\"", "uctr images"]);
    world.uctr(&["tag", "one", "FOUR"]).fails(&["FOUR"]);
    assert_eq!(
        world.uctr(&["image", "prune"]).ok().matches("Deleted").count(),
        2,
        "an image and its own layer"
    );
    assert!(store.resolve("one").is_ok());
}

#[test]
fn rmi_takes_names_then_images_then_layers_nobody_needs() {
    let world = World::new();
    let store = world.store();
    let (one, two) = (Packed::new(&layers(1)), Packed::new(&layers(2)));
    load(&store, &one.docker("one"), &LoadOptions::default()).unwrap();
    load(&store, &two.docker("two"), &LoadOptions::default()).unwrap();
    store.tag("two", &"alias".parse().unwrap()).unwrap();
    assert_eq!(world.uctr(&["rmi", "alias"]).ok(), "Untagged: alias:latest\n");
    store.tag("two", &"alias".parse().unwrap()).unwrap();
    world.uctr(&["rmi", &two.id().short()]).fails(&["several names (alias:latest, two:latest)", "-f"]);
    let upper = store.resolve("two").unwrap().layers[0].diff_id;
    let removed = store.remove(&two.id().hex(), true).unwrap();
    assert_eq!(removed.len(), 4);
    assert_eq!(removed[3], Removed::Layer(upper), "the layer that both have stays");
    assert_eq!(names(&world.root().join("layers")).len(), 1);
    world.uctr(&["rmi", "two", "one", "none"]).fails(&["no image \"two\"", "no image \"none\""]);
    world.check_nothing_left();
}

#[test]
fn rmi_refuses_what_a_container_stands_on() {
    let world = World::new();
    let store = world.store();
    let packed = Packed::new(&layers(2));
    load(&store, &packed.docker("x"), &LoadOptions::default()).unwrap();
    let dir = container(&world, "c0ffee", &packed.id().to_string());
    fs::create_dir_all(world.root().join("containers/unfinished")).unwrap();
    world.uctr(&["rmi", "x"]).fails(&["in use by container c0ffee", "-f"]);
    world.uctr(&["rmi", &packed.id().short()]).fails(&["in use by container c0ffee"]);
    store.tag("x", &"y".parse().unwrap()).unwrap();
    world.uctr(&["rmi", "y"]).ok();
    let out = world.uctr(&["rmi", "-f", "x"]).ok();
    assert_eq!(
        out,
        format!("Untagged: x:latest\nKept until its last container is removed: {}\n", packed.id())
    );
    assert_eq!(
        store.resolve(&packed.id().hex()).unwrap().layers.len(),
        2,
        "the container still has its layers"
    );
    assert!(store.collect().unwrap().is_empty());
    // Loading it again takes it back.
    load(&store, &packed.docker("x"), &LoadOptions::default()).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert!(store.collect().unwrap().is_empty());
    container(&world, "c0ffee", &packed.id().to_string());
    world.uctr(&["rmi", "-f", "x"]).ok();
    // So does a new name.
    store.tag(&packed.id().hex(), &"z".parse().unwrap()).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    assert!(world.store().resolve("z").is_ok());
    container(&world, "c0ffee", &packed.id().to_string());
    world.uctr(&["rmi", "-f", "z"]).ok();
    assert!(world.store().resolve(&packed.id().hex()).is_ok());
    fs::remove_dir_all(&dir).unwrap();
    // Whoever opens the store next removes it.
    world.store();
    world.check_nothing_left();
}

#[test]
fn damaged_store_is_told_and_can_be_mended() {
    let world = World::new();
    let store = world.store();
    let packed = Packed::new(&layers(2));
    load(&store, &packed.docker("x"), &LoadOptions::default()).unwrap();
    let layer = store.resolve("x").unwrap().layers[0].clone();
    fs::remove_dir_all(layer.path.parent().unwrap()).unwrap();
    world.uctr(&["image", "inspect", "x"]).fails(&[
        &layer.diff_id.to_string(),
        "it is gone",
        "load it again",
    ]);
    load(&store, &packed.docker("x"), &LoadOptions::default()).unwrap();
    assert_eq!(store.resolve("x").unwrap().layers.len(), 2);
    let config = world.root().join("images").join(packed.id().hex()).join("config.json");
    fs::write(&config, "{}").unwrap();
    world.uctr(&["image", "inspect", "x"]).fails(&["its configuration was changed"]);
    load(&store, &packed.docker("x"), &LoadOptions::default()).unwrap();
    assert_eq!(fs::read(&config).unwrap(), packed.config);
    fs::write(&config, "{}").unwrap();
    world.uctr(&["rmi", "x"]).ok();
    assert!(store.images().unwrap().is_empty());
    fs::write(world.root().join("images/names.json"), "{").unwrap();
    world.uctr(&["images"]).fails(&["names.json", "JSON"]);
}

/// Starts `uctr` with its standard input kept open.
fn start(world: &World, args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_uctr"));
    command.arg("--root").arg(world.root()).args(args).stdin(Stdio::piped()).stdout(Stdio::null());
    command.spawn().unwrap()
}

fn wait_for(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what} did not come");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn killed_import_leaves_nothing() {
    let world = World::new();
    world.store();
    let archive = Tar::new().file("one", vec![1; 1 << 20]).file("two", vec![2; 1 << 20]).end();
    let mut child = start(&world, &["import", "-", "x"]);
    let mut input = child.stdin.take().unwrap();
    input.write_all(&archive[..archive.len() - (1 << 19)]).unwrap();
    let session =
        || fs::read_dir(world.root().join("tmp")).unwrap().next().map(|entry| entry.unwrap().path());
    wait_for("the first file", || session().is_some_and(|dir| dir.join("layer/diff/two").exists()));
    // One at work is left alone.
    drop(world.store());
    assert!(session().unwrap().join("layer/diff/one").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(session().is_some());
    drop(input);
    world.store();
    world.check_nothing_left();
}

#[test]
fn killed_load_leaves_nothing_at_any_moment() {
    let mut world = World::new();
    let many: Vec<_> = (0..6)
        .map(|layer| {
            (0..200).fold(Tar::new(), |tar, at| tar.file(format!("{layer}/{at}"), vec![b'x'; 2000])).end()
        })
        .collect();
    let path = world.put("x.tar", &Packed::new(&many).docker("x"));
    let mut whole = 0;
    for delay in (0..200).step_by(10) {
        let mut child = start(&world, &["load", "-i", path.to_str().unwrap()]);
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = world.store();
        assert!(names(&world.root().join("tmp")).is_empty(), "left after {delay} ms");
        // All of it is there, or none of it is seen.
        if store.resolve("x").is_ok() {
            whole += 1;
            store.remove("x", false).unwrap();
        }
        // Killed between the last rename and the names, a whole image is left without one.
        store.prune().unwrap();
        world.check_nothing_left();
    }
    assert!(whole < 20, "none was killed in time");
}

#[test]
fn loads_and_removals_at_once_are_safe() {
    let mut world = World::new();
    let packed: Vec<_> = (1..4).map(|count| Packed::new(&layers(count))).collect();
    let paths: Vec<_> = packed
        .iter()
        .enumerate()
        .map(|(at, packed)| world.put(&format!("{at}.tar"), &packed.docker(&format!("x{at}"))))
        .collect();
    std::thread::scope(|scope| {
        for worker in 0..6 {
            let (world, paths) = (&world, &paths);
            scope.spawn(move || {
                for round in 0..5 {
                    let at = (worker + round) % paths.len();
                    world.uctr(&["load", "-q", "-i", paths[at].to_str().unwrap()]).ok();
                    if worker % 2 == 0 {
                        // Another may have been first.
                        let output = world.uctr(&["rmi", &format!("x{}", (at + 1) % paths.len())]);
                        assert!(output.status == 0 || output.err.contains("no image"), "{output:?}");
                    }
                }
            });
        }
    });
    for (at, packed) in packed.iter().enumerate() {
        world.uctr(&["load", "-q", "-i", paths[at].to_str().unwrap()]).ok();
        assert_eq!(world.store().resolve(&format!("x{at}")).unwrap().id.0, packed.id());
    }
    assert_eq!(names(&world.root().join("layers")).len(), 3);
    assert!(names(&world.root().join("tmp")).is_empty());
    world.check();
}

#[test]
fn full_disk_is_told_and_leaves_nothing() {
    let world = World::new();
    fs::create_dir(world.root()).unwrap();
    // The mount is in a namespace of its own and goes with it.
    let script = r#"mount -t tmpfs -o size=2m none "$1" && "$0" --root "$1" import - x; echo "status $?"; ls "$1/tmp" "$1/layers""#;
    let mut unshare = Command::new("unshare");
    unshare.args(["--mount", "sh", "-c", script, env!("CARGO_BIN_EXE_uctr")]).arg(world.root());
    let archive = Tar::new().file("small", "x").file("large", vec![b'x'; 4 << 20]).end();
    let output = run(&mut unshare, &archive);
    assert!(output.err.contains("entry \"large\"") && output.err.contains("No space left"), "{output:?}");
    let root = world.root().display().to_string();
    assert_eq!(output.out, format!("status 125\n{root}/layers:\n\n{root}/tmp:\n"));
}

#[test]
fn hold_keeps_images_from_going() {
    let world = World::new();
    let store = world.store();
    load(&store, &Packed::new(&layers(1)).docker("x"), &LoadOptions::default()).unwrap();
    let hold = store.hold().unwrap();
    let mut child = start(&world, &["rmi", "x"]);
    std::thread::sleep(Duration::from_millis(300));
    assert!(child.try_wait().unwrap().is_none(), "it did not wait");
    assert!(store.resolve("x").is_ok());
    drop(hold);
    assert!(child.wait().unwrap().success());
    assert!(store.resolve("x").is_err());
}
