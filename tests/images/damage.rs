//! Archives that are cut short, damaged, or lie about sizes.

use crate::archives::{Meta, Tar, gzip, header, zstd};
use crate::support::World;

/// A header whose size field is this, with a right checksum.
fn sized(flag: u8, name: &str, size: &[u8; 12]) -> Tar {
    let mut header = header(flag, name.as_bytes(), b"", Meta::default(), 0);
    header.as_gnu_mut().unwrap().size = *size;
    header.set_cksum();
    Tar::new().raw(header.as_bytes())
}

#[test]
fn archive_cut_anywhere_is_refused() {
    let world = World::new();
    let whole = Tar::new().file("first", "1").file("second", [b'x'; 700]).end();
    // first: 0..512 header, ..1024 content; second: ..1536 header, 1536..2236 content, ..2560 padding; ..3584 end mark.
    for (len, words) in [
        (0, &["end mark"][..]),
        (1, &["at byte 0", "in the middle"]),
        (511, &["at byte 0", "in the middle"]),
        (512, &["\"first\"", "in the middle"]),
        (800, &["in the middle"]),
        (1024, &["end mark", "at byte 1024"]),
        (1100, &["at byte 1024", "in the middle"]),
        (1536, &["\"second\"", "in the middle"]),
        (2000, &["\"second\"", "in the middle"]),
        (2236, &["in the middle"]),
        (2560, &["end mark"]),
        (3072, &["end mark"]),
    ] {
        world.refused(&whole[..len], &[words, &["cut short"]].concat());
    }
    world.taken(&whole);
}

#[test]
fn compressed_archive_cut_anywhere_is_refused() {
    let world = World::new();
    let whole = Tar::new().file("f", vec![7; 100_000]).end();
    for (case, packed) in [("gzip", gzip(&whole)), ("zstd", zstd(&whole))] {
        for len in [packed.len() / 2, packed.len() - 1] {
            let error = world.import(&packed[..len]).expect_err(case);
            assert!(error.contains("x.tar"), "{case}: {error}");
            world.check_nothing_left();
        }
    }
}

#[test]
fn rubbish_is_refused() {
    let world = World::new();
    world.refused(&[b'x'; 4096], &["x.tar", "at byte 0", "checksum"]);
    world.refused(b"#!/bin/sh\n", &["at byte 0", "in the middle"]);
    let damaged = Tar::new().file("good", "").raw(&[1; 512]).end();
    world.refused(&damaged, &["at byte 512", "checksum"]);
    world.refused(&Tar::new().raw(&[0; 512]).file("after", "").end(), &["zero block"]);
    world.refused(b"\xfd7zXZ\0rubbish", &["xz", "`xz -d`"]);
}

#[test]
fn what_follows_the_end_mark_is_kept_for_save() {
    let trailing = [&Tar::new().file("f", "x").end()[..], &[b'x'; 9000]].concat();
    World::new().taken(&trailing);
}

#[test]
fn sizes_beyond_all_bounds_are_refused() {
    let world = World::new();
    let base256 = |bytes: [u8; 8]| {
        let mut field = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        field[4..].copy_from_slice(&bytes);
        field
    };
    let most = base256(i64::MAX.to_be_bytes());
    world.refused(&sized(b'0', "big", &most).end(), &["\"big\""]);
    world.refused(&sized(b'0', "big", b"77777777777\0").content(b"few").end(), &["\"big\"", "in the middle"]);
    world.refused(&sized(b'0', "big", &[0xff; 12]).end(), &["\"big\"", "the size"]);
    world.refused(&sized(b'0', "big", b"99999999999\0").end(), &["\"big\"", "the size"]);
    world.refused(&sized(b'x', "pax", &most).end(), &["longer than 1048576"]);
    world.refused(&sized(b'L', "long", b"00010000000\0").end(), &["longer than 1048576"]);
    world.refused(&sized(b'g', "global", &most).end(), &["at byte"]);
    let pax = |size: &[u8]| Tar::new().pax(&[("size", size)]).file("big", "few").end();
    world.refused(&pax(b"18446744073709551615"), &["\"big\"", "the size"]);
    world.refused(&pax(b"99999999999999999999999"), &["\"big\"", "the size"]);
    world.refused(&pax(b"-1"), &["\"big\"", "the size"]);
    world.refused(&pax(b"9000000000000000000"), &["\"big\""]);
}

#[test]
fn maps_of_holes_that_lie_are_refused() {
    let world = World::new();
    let sparse = |records: &[(&str, &[u8])]| Tar::new().pax(records).file("holes", [b'x'; 512]).end();
    let v01 = |map: &'static [u8], size: &'static [u8]| {
        sparse(&[("GNU.sparse.map", map), ("GNU.sparse.size", size)])
    };
    world.refused(&v01(b"0,512,100,1", b"9999"), &["\"holes\"", "overlap"]);
    world.refused(&v01(b"0,512", b"100"), &["\"holes\"", "beyond the end"]);
    world.refused(&v01(b"0,513", b"9999"), &["\"holes\"", "more bytes than there are"]);
    world.refused(&v01(b"0", b"9999"), &["\"holes\"", "without a length"]);
    world.refused(&v01(b"18446744073709551615,1", b"9999"), &["\"holes\""]);
    world.refused(&v01(b"0,512", b"18446744073709551615"), &["\"holes\"", "that long"]);
    let v10: &[(&str, &[u8])] =
        &[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")];
    world.refused(&sparse(v10), &["\"holes\"", "a hole"]);
    let endless = Tar::new().pax(v10).file("holes", "1048577\n".repeat(64)).end();
    world.refused(&endless, &["\"holes\""]);
}

#[test]
fn name_of_a_sparse_file_counts_only_for_one() {
    // What only some readers take for the name could hide a file from a scanner.
    let world = World::new();
    let lone =
        Tar::new().pax(&[("GNU.sparse.name", b"hidden"), ("GNU.sparse.realsize", b"9")]).file("seen", "x");
    assert_eq!(crate::support::names(&world.taken(&lone.end())), [b"seen"]);
    let world = World::new();
    let map: &[(&str, &[u8])] =
        &[("GNU.sparse.name", b"real"), ("GNU.sparse.map", b"4,1"), ("GNU.sparse.size", b"9")];
    let tree = world.taken(&Tar::new().pax(map).file("GNUSparseFile.1/x", "y").end());
    assert_eq!(std::fs::read(tree.join("real")).unwrap(), b"\0\0\0\0y\0\0\0\0");
}

#[test]
fn extended_headers_that_are_none_are_refused() {
    let world = World::new();
    let pax = |text: &[u8]| Tar::new().entry(b'x', b"pax", b"", Meta::default(), text).file("f", "").end();
    for text in [&b"rubbish"[..], b"3 a=b\n", b"99 a=b\n", b"6 a-b\n"] {
        world.refused(&pax(text), &["\"f\"", "LENGTH KEY=VALUE"]);
    }
    world.refused(&Tar::new().pax(&[("path", b"x")]).end(), &["no entry follows"]);
    world.refused(&Tar::new().pax(&[("mtime", b"soon")]).file("f", "").end(), &["\"f\"", "time of change"]);
}

#[test]
fn kinds_and_owners_that_cannot_be_are_refused() {
    let world = World::new();
    world.refused(&Tar::new().entry(b'Z', b"odd", b"", Meta::default(), b"").end(), &["\"odd\"", "'Z'"]);
    let owner = |uid: &[u8]| Tar::new().pax(&[("uid", uid)]).file("f", "").end();
    // -1 would mean "leave alone".
    world.refused(&owner(b"4294967295"), &["\"f\"", "4294967295"]);
    world.refused(&owner(b"4294967296"), &["\"f\"", "4294967296"]);
    World::new().taken(&owner(b"4294967294"));
    let wide = Meta { device: (0o7_777_777, 0), ..Meta::default() };
    world.refused(
        &Tar::new().entry(b'3', b"dev", b"", wide, b"").end(),
        &["\"dev\"", "device number", "out of range"],
    );
}

#[test]
fn entries_without_content_have_none_whatever_their_size_says() {
    // A reader that believed the size would take the next header for content, and hide the file from itself.
    let tar = sized(b'2', "link", b"00000001000\0").file("seen", "");
    let mut link = tar.cut();
    link[157..161].copy_from_slice(b"seen");
    let mut header = tar::Header::from_byte_slice(&link[..512]).clone();
    header.set_cksum();
    link[..512].copy_from_slice(header.as_bytes());
    let world = World::new();
    let tree = world.taken(&Tar::new().raw(&link).end());
    assert_eq!(crate::support::names(&tree), [b"link", b"seen"]);
}
