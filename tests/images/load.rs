//! Loading: docker-archive and OCI layout, all compressions, several platforms, and digests that do not match.

use std::fs;
use std::process::Command;

use serde_json::json;
use uctr::image::{LoadOptions, Platform};

use crate::archives::{Layout, Packed, Tar, gzip, with, zstd};
use crate::support::{World, load, names, run};

/// Three layers, with a whiteout and an opaque mark in the upper two.
pub(crate) fn three() -> Vec<Vec<u8>> {
    vec![
        Tar::new().dir("etc/").file("etc/one", "1").file("etc/two", "2").file("opt/gone", "x").end(),
        Tar::new().dir("etc/").file("etc/.wh.two", "").file("etc/three", vec![b'3'; 100_000]).end(),
        Tar::new().dir("opt/").file("opt/.wh..wh..opq", "").file("opt/new", "n").end(),
    ]
}

/// The same layers in each compression there is, one of them in two gzip members.
pub(crate) fn carried() -> Packed {
    let layers = three();
    let two_members = [gzip(&layers[1][..999]), gzip(&layers[1][999..])].concat();
    let blobs = [layers[0].clone(), two_members, zstd(&layers[2])];
    Packed::new(&layers).carried(&blobs)
}

pub(crate) fn check_three(world: &World, given: &str) {
    let image = world.store().resolve(given).unwrap();
    let trees: Vec<_> = image.layers.iter().map(|layer| layer.path.clone()).collect();
    assert_eq!(trees.len(), 3);
    assert_eq!(names(&trees[0].join("opt")), [&b".wh..wh..opq"[..], b"new"], "the highest comes first");
    assert_eq!(names(&trees[1].join("etc")), [&b".wh.two"[..], b"three"]);
    assert_eq!(names(&trees[2].join("etc")), [b"one", b"two"]);
    assert_eq!((image.config.cmd, image.config.env), (vec!["/bin/sh".into()], vec!["PATH=/bin".into()]));
    assert!(names(&world.root().join("tmp")).is_empty());
    world.check();
}

#[test]
fn docker_archive_of_all_compressions() {
    let mut world = World::new();
    let archive = carried().docker("busybox:1.36");
    let path = world.put("image.tar", &archive);
    let out = world.uctr(&["load", "-i", path.to_str().unwrap()]).ok();
    assert_eq!(out, "Loaded image: busybox:1.36\n");
    check_three(&world, "busybox:1.36");
    let image = world.store().resolve("docker.io/library/busybox:1.36").unwrap();
    assert_eq!(image.id.0, carried().id());
}

#[test]
fn docker_archive_from_a_stream_plain_and_compressed() {
    for archive in [carried().docker("x"), gzip(&carried().docker("x")), zstd(&carried().docker("x"))] {
        let world = World::new();
        assert_eq!(world.uctr_with(&["load"], &archive).ok(), "Loaded image: x:latest\n");
        check_three(&world, "x");
    }
}

#[test]
fn docker_archive_with_links_in_place_of_equal_layers() {
    // As `docker save` writes a layer that is in the archive already.
    let layer = Tar::new().file("f", "x").end();
    let packed = Packed::new(&[layer.clone(), layer.clone()]);
    let config = format!("{}.json", packed.id().hex());
    let manifest = json!([{"Config": config, "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let tar = Tar::new().file("manifest.json", manifest.to_string()).file(config, &packed.config);
    let tar = tar.dir("a/").file("a/layer.tar", &layer).dir("b/").symlink("b/layer.tar", "../a/layer.tar");
    let world = World::new();
    let image = &load(&world.store(), &tar.end(), &LoadOptions::default()).unwrap()[0];
    assert_eq!((image.document.rootfs.diff_ids.len(), image.layers.len()), (2, 1));
}

#[test]
fn docker_archive_with_names_that_lead_out_of_it() {
    let mut world = World::new();
    let canary = world.path("canary");
    for target in ["../canary", "../../../canary", canary.to_str().unwrap()] {
        let manifest = json!([{"Config": target, "RepoTags": ["x"], "Layers": []}]).to_string();
        load(&world.store(), &Tar::new().file("manifest.json", &manifest).end(), &LoadOptions::default())
            .expect_err("an archive without the file");
        // A directory is read as it is, but only inside.
        fs::create_dir_all(world.path("dir")).unwrap();
        world.put("dir/manifest.json", manifest.as_bytes());
        let dir = world.path("dir");
        world.uctr(&["load", "-i", dir.to_str().unwrap()]).fails(&[&format!("it has no {target}")]);
        world.check_nothing_left();
    }
}

#[test]
fn what_is_no_image_is_refused() {
    let world = World::new();
    let refused = |archive: &[u8], words: &[&str]| {
        let error = load(&world.store(), archive, &LoadOptions::default()).expect_err("it was taken");
        words.iter().for_each(|word| assert!(error.contains(word), "{word:?} is not in: {error}"));
        world.check_nothing_left();
    };
    refused(&three()[0], &["x.tar", "neither oci-layout nor manifest.json", "uctr import"]);
    refused(&[b'x'; 1024], &["x.tar", "checksum"]);
    refused(&Tar::new().file("manifest.json", "{").end(), &["x.tar/manifest.json", "JSON"]);
    refused(
        &Tar::new().file("manifest.json", "[{\"Config\": \"none.json\"}]").end(),
        &["it has no none.json"],
    );
    let packed = Packed::new(&three());
    refused(&packed.clone().carried(&three()[..2]).docker("x"), &["speaks of 3 layers", "of 2"]);
    refused(&packed.docker("Bad Name"), &["\"Bad Name\"", "no image name"]);
    let mut layout = Layout::default();
    let config = layout.blob("application/vnd.oci.empty.v1+json", b"{}");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": []}).to_string();
    let artifact = layout.blob("application/vnd.oci.image.manifest.v1+json", manifest.as_bytes());
    refused(
        &layout.clone().indexed(&[artifact]).tar(),
        &["application/vnd.oci.empty.v1+json", "not that of an image"],
    );
    refused(&Layout::default().indexed(&[]).tar(), &["names no image"]);
    let evil = json!({"digest": "sha256:../../../../canary", "size": 1});
    refused(&Layout::default().indexed(&[evil]).tar(), &["no digest"]);
}

#[test]
fn layer_that_is_not_what_its_digest_says_is_refused() {
    let layers = three();
    let mut evil = layers[1].clone();
    evil[600] ^= 1;
    for (case, blob) in
        [("plain", evil.clone()), ("gzip", gzip(&evil)), ("cut", gzip(&layers[1])[..200].to_vec())]
    {
        let packed = Packed::new(&layers).carried(&[layers[0].clone(), blob, layers[2].clone()]);
        let world = World::new();
        let error = load(&world.store(), &packed.docker("x"), &LoadOptions::default()).expect_err(case);
        assert!(error.contains("layer.tar"), "{case}: {error}");
        assert!(case == "cut" || error.contains("has digest sha256:"), "{case}: {error}");
        world.check_nothing_left();
    }
}

#[test]
fn nasty_entry_in_one_of_several_layers_leaves_nothing() {
    let mut layers = three();
    layers[2] = Tar::new().file("fine", "").symlink("out", "/").file("out/../../canary", "evil").end();
    let world = World::new();
    let error =
        load(&world.store(), &Packed::new(&layers).docker("x"), &LoadOptions::default()).expect_err("taken");
    assert!(error.contains("entry \"out/../../canary\"") && error.contains("2/layer.tar"), "{error}");
    world.check_nothing_left();
}

#[test]
fn blob_that_is_not_what_its_descriptor_says_is_refused() {
    let packed = carried();
    for (case, change, word) in [
        (
            "bytes",
            (|content: &mut Vec<u8>| *content.last_mut().unwrap() ^= 1) as fn(&mut Vec<u8>),
            "has digest",
        ),
        ("longer", |content| content.push(b'\n'), "bytes long, not"),
        ("shorter", |content| content.truncate(content.len() - 1), "bytes long, not"),
    ] {
        let mut layout = Layout::default();
        let image = layout.image(&packed);
        let whole = layout.indexed(&[image]);
        for blob in whole.0.keys().filter(|name| name.starts_with("blobs")) {
            let mut damaged = whole.clone();
            change(damaged.0.get_mut(blob).unwrap());
            let world = World::new();
            let error = load(&world.store(), &damaged.tar(), &LoadOptions::default()).expect_err(blob);
            assert!(error.contains(blob.as_str()) && error.contains(word), "{case}: {blob}: {error}");
            world.check_nothing_left();
            let mut gone = whole.clone();
            gone.0.remove(blob);
            let error = load(&world.store(), &gone.tar(), &LoadOptions::default()).expect_err(blob);
            assert!(error.contains(&format!("it has no {blob}")), "{blob}: {error}");
            world.check_nothing_left();
        }
    }
}

#[test]
fn compressed_blob_with_more_behind_it_is_refused() {
    let layers = vec![Tar::new().file("f", "x").end()];
    for blob in [
        [gzip(&layers[0]), b"trailing rubbish".to_vec()].concat(),
        [zstd(&layers[0]), b"rubbish".to_vec()].concat(),
    ] {
        let mut layout = Layout::default();
        let image = layout.image(&Packed::new(&layers).carried(&[blob]));
        let world = World::new();
        load(&world.store(), &layout.indexed(&[image]).tar(), &LoadOptions::default()).expect_err("taken");
        world.check_nothing_left();
    }
}

#[test]
fn oci_layout_as_directory_and_archive() {
    let mut layout = Layout::default();
    let image = layout.image(&carried());
    let named = with(image, "annotations", json!({"org.opencontainers.image.ref.name": "host:5000/app:v1"}));
    let layout = layout.indexed(&[named]);
    let world = World::new();
    assert_eq!(world.uctr_with(&["load"], &layout.tar()).ok(), "Loaded image: host:5000/app:v1\n");
    check_three(&world, "host:5000/app:v1");
    let mut world = World::new();
    layout.write(&world.path("layout"));
    world.accept();
    let dir = world.path("layout");
    let out = world.uctr(&["load", "-q", "-t", "mine", "-i", dir.to_str().unwrap()]).ok();
    assert_eq!(out, "");
    check_three(&world, "mine");
    check_three(&world, "host:5000/app:v1");
}

#[test]
fn tag_alone_says_no_name() {
    let mut layout = Layout::default();
    let image = layout.image(&carried());
    let tagged = with(image, "annotations", json!({"org.opencontainers.image.ref.name": "latest"}));
    let world = World::new();
    let out = world.uctr_with(&["load"], &layout.indexed(&[tagged]).tar()).ok();
    assert_eq!(out, format!("Loaded image ID: {}\n", carried().id()));
    check_three(&world, &carried().id().hex());
}

#[test]
fn index_of_several_platforms() {
    let mut layout = Layout::default();
    let image = |architecture: &str| Packed::for_architecture(architecture, &three());
    let mut manifest = |architecture: &str, variant: &str| {
        let platform = json!({"os": "linux", "architecture": architecture, "variant": variant});
        with(layout.image(&image(architecture)), "platform", platform)
    };
    let choices = [manifest("s390x", ""), manifest("amd64", ""), manifest("arm64", "v8")];
    let unknown = json!({"os": "unknown", "architecture": "unknown"});
    let attestation =
        with(layout.blob("application/vnd.oci.image.manifest.v1+json", b"{}"), "platform", unknown);
    let index = layout.index(&[&choices[..], &[attestation]].concat());
    let named = with(index, "annotations", json!({"io.containerd.image.name": "docker.io/library/x:latest"}));
    let archive = layout.clone().indexed(&[named]).tar();
    let chosen = |platform: &str| {
        let options = LoadOptions { platform: Some(platform.parse().unwrap()), name: None };
        load(&World::new().store(), &archive, &options).map(|images| images[0].document.architecture.clone())
    };
    assert_eq!(chosen("linux/amd64").unwrap(), "amd64");
    assert_eq!(chosen("linux/arm64").unwrap(), "arm64");
    assert_eq!(chosen("linux/s390x").unwrap(), "s390x");
    let error = chosen("linux/riscv64").unwrap_err();
    assert!(
        error.contains("no image for linux/riscv64") && error.contains("linux/s390x, linux/amd64"),
        "{error}"
    );
    let images = load(&World::new().store(), &archive, &LoadOptions::default()).unwrap();
    assert_eq!(images[0].document.architecture, Platform::host().architecture);
    // Platforms may also be told by the configurations alone, in an index that nests.
    let mut layout = Layout::default();
    let plain: Vec<_> = ["s390x", "arm64"].iter().map(|name| layout.image(&image(name))).collect();
    let inner = layout.index(&plain);
    let index = layout.index(&[inner]);
    let options = LoadOptions { platform: Some("linux/arm64".parse().unwrap()), name: None };
    let images = load(&World::new().store(), &layout.clone().indexed(&[index]).tar(), &options).unwrap();
    assert_eq!(images[0].document.architecture, "arm64");
}

#[test]
fn archive_that_is_both_is_read_as_a_layout() {
    // As Docker saves since version 25, having pulled one of two platforms.
    let mut layout = Layout::default();
    let packed = Packed::new(&three());
    let platform = |architecture: &str| json!({"os": "linux", "architecture": architecture});
    let pulled = with(layout.image(&packed), "platform", platform("amd64"));
    let mut elsewhere = Layout::default();
    let other = with(
        elsewhere.image(&Packed::for_architecture("s390x", &three()[..1])),
        "platform",
        platform("s390x"),
    );
    let index = layout.index(&[other, pulled]);
    let names = json!({"io.containerd.image.name": "docker.io/library/x:1", "org.opencontainers.image.ref.name": "1"});
    let mut layout = layout.indexed(&[with(index, "annotations", names)]);
    layout.0.insert("manifest.json".into(), b"[]".to_vec());
    let options = |platform: &str| LoadOptions { platform: Some(platform.parse().unwrap()), name: None };
    let world = World::new();
    load(&world.store(), &layout.tar(), &options("linux/amd64")).unwrap();
    assert_eq!(world.store().resolve("x:1").unwrap().id.0, packed.id());
    let error = load(&world.store(), &layout.tar(), &options("linux/s390x")).expect_err("it is not there");
    assert!(error.contains("it has no blobs/sha256/"), "{error}");
}

#[test]
fn docker_archive_for_another_platform_is_refused_if_one_is_asked_for() {
    let world = World::new();
    let archive = Packed::for_architecture("s390x", &three()).docker("x");
    let asked = |platform: &str| world.uctr_with(&["load", "--platform", platform], &archive);
    asked("linux/amd64").fails(&["no image for linux/amd64", "only for linux/s390x"]);
    world.check_nothing_left();
    asked("linux/s390x").ok();
    asked("s390x").fails(&["OS/ARCHITECTURE"]);
}

#[test]
fn image_for_another_processor_is_taken_if_it_is_the_only_one() {
    let mut layout = Layout::default();
    let image = layout.image(&Packed::for_architecture("s390x", &three()));
    let world = World::new();
    let archive = layout.indexed(&[image]).tar();
    let images = load(&world.store(), &archive, &LoadOptions::default()).unwrap();
    assert_eq!(images[0].document.architecture, "s390x");
    let options = LoadOptions { platform: Some("linux/amd64".parse().unwrap()), name: None };
    load(&world.store(), &archive, &options).expect_err("another was asked for");
}

#[test]
fn layout_of_several_images() {
    let mut layout = Layout::default();
    let (one, two) = (Packed::new(&three()[..1]), Packed::new(&three()[..2]));
    let name = |name: &str| json!({"org.opencontainers.image.ref.name": name});
    let (first, second) = (layout.image(&one), layout.image(&two));
    let manifests = [
        with(first.clone(), "annotations", name("a:1")),
        with(first, "annotations", name("b:1")),
        with(second, "annotations", name("c:1")),
    ];
    let archive = layout.indexed(&manifests).tar();
    let world = World::new();
    let out = world.uctr_with(&["load"], &archive).ok();
    assert_eq!(out, "Loaded image: a:1\nLoaded image: b:1\nLoaded image: c:1\n");
    assert_eq!(world.store().images().unwrap().len(), 2);
    assert_eq!(names(&world.root().join("layers")).len(), 2, "the layer they share is there once");
    world.uctr_with(&["load", "-t", "mine"], &archive).fails(&["one name cannot be given to all"]);
}

#[test]
fn skopeo_makes_a_layout_of_it_and_back() {
    let mut world = World::new();
    let archive = world.put("docker.tar", &carried().docker("busybox:latest"));
    let (source, layout) = (format!("docker-archive:{}", archive.display()), world.path("layout"));
    for (compression, tag) in [("gzip", "one"), ("zstd", "two")] {
        let target = format!("oci:{}:{tag}", layout.display());
        let mut skopeo = Command::new("skopeo");
        skopeo.args([
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-compress-format",
            compression,
            &source,
            &target,
        ]);
        run(&mut skopeo, b"").ok();
    }
    world.accept();
    world.uctr(&["load", "-q", "-i", layout.to_str().unwrap()]).ok();
    let images = world.store().images().unwrap();
    let ids: Vec<_> = images.iter().map(|image| image.id.to_string()).collect();
    assert!(!ids.is_empty());
    ids.iter().for_each(|id| check_three(&world, id));
}
