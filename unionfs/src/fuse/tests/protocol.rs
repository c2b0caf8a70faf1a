//! The protocol by bytes: each request as the kernel lays it out, in both shapes, and requests that nobody sends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use zerocopy::{FromBytes, IntoBytes};

use super::double::Double;
use crate::error::Errno;
use crate::fuse::message::Message;
use crate::fuse::op::Op;
use crate::fuse::reply::Timeout;
use crate::fuse::request::Dialect;
use crate::fuse::serve::{Answer, Policy, Service};
use crate::fuse::wire::*;

const POLICY: Policy = Policy {
    name_for: Timeout::FOREVER,
    attr_for: Timeout::FOREVER,
    relist: false,
    durable: true,
    xattrs: true,
    dialect: Dialect { setxattr_ext: true },
};

fn service(policy: Policy) -> Service<Double> {
    Service::new(Arc::new(Double::new()), policy, None)
}

/// A request as one read of the device gives it.
fn request(opcode: Opcode, nodeid: u64, args: &[&[u8]]) -> Vec<u8> {
    let args = args.concat();
    let len = u32::try_from(size_of::<InHeader>() + args.len()).unwrap();
    let header =
        InHeader { len, opcode: opcode.0, unique: 77, nodeid, uid: 1000, gid: 100, ..InHeader::default() };
    [header.as_bytes(), &args].concat()
}

/// What the service answers, and the payload.
fn ask(service: &Service<Double>, opcode: Opcode, nodeid: u64, args: &[&[u8]]) -> (Answer, Vec<u8>) {
    let bytes = request(opcode, nodeid, args);
    let mut room = vec![0xaa; 8192];
    let answer = service.serve(&Message::joined(&bytes).unwrap(), &mut room);
    if let Answer::Payload(len) = answer {
        room.truncate(len);
    }
    (answer, room)
}

fn entry(service: &Service<Double>, opcode: Opcode, args: &[&[u8]]) -> EntryOut {
    let (answer, payload) = ask(service, opcode, 1, args);
    assert!(matches!(answer, Answer::Payload(_)), "{}: {answer:?}", opcode.name());
    EntryOut::read_from_prefix(&payload).unwrap().0
}

#[test]
fn lookup_of_absent_name_is_a_negative_entry_with_a_lifetime() {
    let out = entry(&service(POLICY), Opcode::LOOKUP, &[b"nothing\0"]);
    assert_eq!((out.nodeid, out.entry_valid), (0, 1 << 30));
}

#[test]
fn create_takes_owner_from_the_caller_and_obeys_the_umask() {
    let service = service(POLICY);
    let arg = CreateIn { flags: 0, mode: 0o100_666, umask: 0o027, open_flags: 0 };
    let (answer, payload) = ask(&service, Opcode::CREATE, 1, &[arg.as_bytes(), b"f\0"]);
    assert_eq!(answer, Answer::Payload(128 + 16));
    let (out, opened) = EntryOut::read_from_prefix(&payload).unwrap();
    assert_eq!((out.attr.mode, out.attr.uid, out.attr.gid), (0o100_640, 1000, 100));
    let opened = OpenOut::read_from_bytes(opened).unwrap();
    assert_eq!((opened.fh, opened.open_flags), (0, flag::FOPEN_KEEP_CACHE | flag::FOPEN_NOFLUSH));
    for (case, flags, want) in [("without O_EXCL", 0, Errno::STALE), ("with", libc::O_EXCL, Errno::EXIST)] {
        let arg = CreateIn { flags: flags.cast_unsigned(), ..arg };
        let (answer, _) = ask(&service, Opcode::CREATE, 1, &[arg.as_bytes(), b"f\0"]);
        assert_eq!(answer, Answer::Refused(want), "existing, {case}");
    }
}

#[test]
fn latches_are_refused_with_enosys_and_nothing_else_is() {
    let quiet = Policy { durable: false, xattrs: false, ..POLICY };
    for (opcode, policy, latched) in [
        (Opcode::OPENDIR, POLICY, true),
        (Opcode::OPEN, POLICY, true),
        (Opcode::FLUSH, POLICY, true),
        (Opcode::ACCESS, POLICY, true),
        (Opcode::STATX, POLICY, true),
        (Opcode::INTERRUPT, POLICY, true),
        (Opcode::POLL, POLICY, true),
        (Opcode(999), POLICY, true),
        (Opcode::FSYNC, POLICY, false),
        (Opcode::FSYNC, quiet, true),
        (Opcode::LISTXATTR, POLICY, false),
        (Opcode::LISTXATTR, quiet, true),
        (Opcode::RELEASE, POLICY, false),
        (Opcode::STATFS, POLICY, false),
    ] {
        let (answer, _) = ask(&service(policy), opcode, 1, &[&[0; 64]]);
        assert_eq!(answer == Answer::Refused(Errno::NOSYS), latched, "{}: {answer:?}", opcode.name());
    }
}

#[test]
fn forget_is_silent_even_if_malformed() {
    let service = service(POLICY);
    for args in [&[0u8; 0][..], &[0; 8], &[0xff; 8]] {
        for opcode in [Opcode::FORGET, Opcode::BATCH_FORGET] {
            assert_eq!(ask(&service, opcode, 1, &[args]).0, Answer::Silent);
        }
    }
}

#[test]
fn batch_forget_gives_back_each_count() {
    let service = service(POLICY);
    let made = MkdirIn { mode: 0o755, umask: 0 };
    let ino = entry(&service, Opcode::MKDIR, &[made.as_bytes(), b"d\0"]).nodeid;
    for _ in 0..4 {
        entry(&service, Opcode::LOOKUP, &[b"d\0"]);
    }
    let head = BatchForgetIn { count: 3, dummy: 0 };
    let list = [(ino, 2), (0, 9), (ino, 1)].map(|(nodeid, nlookup)| ForgetOne { nodeid, nlookup });
    ask(&service, Opcode::BATCH_FORGET, 0, &[head.as_bytes(), list.as_bytes()]);
    assert_eq!(service.core.nodes.lock()[&ino].lookups, 5 - 3);
}

#[test]
fn readdirplus_counts_one_lookup_for_each_name_that_fits() {
    let service = service(POLICY);
    for name in ["a", "bb", "ccc"] {
        let made = MknodIn { mode: libc::S_IFREG | 0o600, ..MknodIn::default() };
        entry(&service, Opcode::MKNOD, &[made.as_bytes(), name.as_bytes(), b"\0"]);
    }
    let record = (128 + 24 + 8) as u32;
    for (size, names) in [(record * 3, ". .. a"), (record * 4 - 1, ". .. a"), (record * 9, ". .. a bb ccc")] {
        let before: u64 = service.core.nodes.lock().values().map(|node| node.lookups).sum();
        let arg = ReadIn { size, ..ReadIn::default() };
        let (_, payload) = ask(&service, Opcode::READDIRPLUS, 1, &[arg.as_bytes()]);
        let mut seen = Vec::new();
        for record in payload.chunks(record as usize) {
            let (entry, rest) = EntryOut::read_from_prefix(record).unwrap();
            let (dirent, name) = Dirent::read_from_prefix(rest).unwrap();
            let name = String::from_utf8(name[..dirent.namelen as usize].to_vec()).unwrap();
            assert_eq!(entry.nodeid, if name.starts_with('.') { 0 } else { dirent.ino }, "{name}");
            assert_ne!(dirent.ino, 0, "{name}");
            seen.push(name);
        }
        assert_eq!(seen.join(" "), names);
        let after: u64 = service.core.nodes.lock().values().map(|node| node.lookups).sum();
        assert_eq!(after - before, seen.len() as u64 - 2);
    }
}

#[test]
fn panic_in_the_core_is_eio_for_the_caller_only() {
    let service = service(POLICY);
    service.core.broken.store(true, Ordering::Relaxed);
    assert_eq!(ask(&service, Opcode::GETATTR, 1, &[&[0; 16]]).0, Answer::Refused(Errno::IO));
    service.core.broken.store(false, Ordering::Relaxed);
    assert_eq!(ask(&service, Opcode::GETATTR, 1, &[&[0; 16]]).0, Answer::Payload(size_of::<AttrOut>()));
}

#[test]
fn xattr_size_is_told_checked_and_obeyed() {
    let service = service(POLICY);
    let arg = SetxattrIn { size: 5, flags: 0 };
    let name: &[u8] = b"user.x\0";
    let (answer, _) = ask(&service, Opcode::SETXATTR, 1, &[arg.as_bytes(), &[0; 8], name, b"value"]);
    assert_eq!(answer, Answer::Payload(0));
    for (size, want) in [
        (0, Answer::Payload(8)),
        (4, Answer::Refused(Errno::RANGE)),
        (5, Answer::Payload(5)),
        (100, Answer::Payload(5)),
    ] {
        let arg = GetxattrIn { size, padding: 0 };
        let (answer, payload) = ask(&service, Opcode::GETXATTR, 1, &[arg.as_bytes(), name]);
        assert_eq!(answer, want, "size {size}");
        if want == Answer::Payload(5) {
            assert_eq!(payload, b"value");
        }
    }
    let old = Policy { dialect: Dialect { setxattr_ext: false }, ..POLICY };
    let (answer, _) = ask(
        &Service::new(Arc::clone(&service.core), old, None),
        Opcode::SETXATTR,
        1,
        &[arg.as_bytes(), name, b"other"],
    );
    assert_eq!(answer, Answer::Payload(0), "short form");
    assert_eq!(ask(&service, Opcode::GETXATTR, 1, &[&100u64.to_ne_bytes(), name]).1, b"other");
}

#[test]
fn setxattr_of_an_acl_clears_the_set_group_id_bit_when_told() {
    for (kill, want) in [(0, 0o2755), (flag::SETXATTR_ACL_KILL_SGID, 0o755)] {
        let service = service(POLICY);
        let made = MkdirIn { mode: 0o2755, umask: 0 };
        let ino = entry(&service, Opcode::MKDIR, &[made.as_bytes(), b"d\0"]).nodeid;
        let head = SetxattrIn { size: 1, flags: 0 };
        let ext = SetxattrExt { setxattr_flags: kill, padding: 0 };
        let name: &[u8] = b"system.posix_acl_access\0";
        ask(&service, Opcode::SETXATTR, ino, &[head.as_bytes(), ext.as_bytes(), name, b"x"]);
        assert_eq!(service.core.nodes.lock()[&ino].attr.mode & 0o7777, want, "flags {kill}");
    }
}

#[test]
fn requests_that_are_malformed_get_an_errno() {
    let long = [b'n'; 256];
    let unknown_flag = Rename2In { newdir: 1, flags: 1 << 9, padding: 0 };
    for (case, opcode, args, want) in [
        ("no NUL", Opcode::LOOKUP, &[&b"abc"[..]][..], Errno::INVAL),
        ("no name", Opcode::UNLINK, &[], Errno::INVAL),
        ("empty name", Opcode::LOOKUP, &[b"\0"], Errno::INVAL),
        ("slash", Opcode::LOOKUP, &[b"a/b\0"], Errno::INVAL),
        ("long name", Opcode::LOOKUP, &[&long, b"\0"], Errno::NAMETOOLONG),
        ("half a structure", Opcode::SETATTR, &[&[0; 40]], Errno::INVAL),
        ("less data than told", Opcode::WRITE, &[&[0xff; 40], b"abc"], Errno::INVAL),
        ("rename flag", Opcode::RENAME2, &[unknown_flag.as_bytes(), b"a\0b\0"], Errno::INVAL),
        ("second name missing", Opcode::RENAME2, &[&1u64.to_ne_bytes(), &[0; 8], b"a\0"], Errno::INVAL),
        ("node 0", Opcode::LINK, &[&0u64.to_ne_bytes(), b"a\0"], Errno::INVAL),
        ("ioctl", Opcode::IOCTL, &[&[0; 32]], Errno::NOTTY),
    ] {
        assert_eq!(ask(&service(POLICY), opcode, 1, args).0, Answer::Refused(want), "{case}");
    }
    assert!(Message::joined(&[0; 39]).is_none(), "less than a head");
    let mut bytes = request(Opcode::STATFS, 1, &[]);
    bytes.push(0);
    assert!(Message::joined(&bytes).is_none(), "length differs");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// Whatever comes in, something goes out, and the double stands.
    #[test]
    fn random_arguments_never_panic(opcode in 0u32..60, nodeid in 0u64..4, args in prop::collection::vec(any::<u8>(), 0..200)) {
        let service = service(POLICY);
        let bytes = request(Opcode(opcode), nodeid, &[&args]);
        let message = Message::joined(&bytes).unwrap();
        // The double cannot hold what a random offset asks for; parsing is what is tested there.
        let op = Op::parse(&message, POLICY.dialect);
        let heavy = matches!(op, Ok(Op::Write { .. } | Op::Read { .. } | Op::Setattr { .. } | Op::Fallocate { .. }
            | Op::CopyFileRange { .. } | Op::Lseek { .. }));
        if !heavy {
            let answer = service.serve(&message, &mut vec![0; 4096]);
            prop_assert_ne!(answer, Answer::Refused(Errno::IO));
        }
        prop_assert!(Message::joined(&args).is_none() || args.len() >= 40);
    }

    /// Both shapes of a request mean the same.
    #[test]
    fn split_request_is_understood_like_a_joined_one(opcode in 0u32..54, args in prop::collection::vec(any::<u8>(), 0..200), cut in 0usize..128) {
        let bytes = request(Opcode(opcode), 1, &[&args]);
        let joined = Message::joined(&bytes).unwrap();
        let split = Message::split(joined.header, &args[..cut.min(args.len())], &args[cut.min(args.len())..]);
        // With the cut where the structure ends, the two must agree; elsewhere parsing must merely not panic.
        let wanted = format!("{:?}", Op::parse(&joined, POLICY.dialect));
        let got = format!("{:?}", Op::parse(&split, POLICY.dialect));
        let structure = fixed_size(Opcode(opcode));
        prop_assert!(Some(cut) != structure || cut > args.len() || wanted == got, "{wanted}\n{got}");
    }
}

/// The bytes of the structure that opens a request of this kind.
fn fixed_size(opcode: Opcode) -> Option<usize> {
    Some(match opcode {
        Opcode::MKNOD | Opcode::CREATE | Opcode::RENAME2 | Opcode::SETXATTR => 16,
        Opcode::MKDIR | Opcode::LINK | Opcode::GETXATTR | Opcode::BATCH_FORGET => 8,
        Opcode::WRITE | Opcode::READ => 40,
        Opcode::IOCTL => 32,
        Opcode::LOOKUP | Opcode::SYMLINK | Opcode::UNLINK => 0,
        _ => return None,
    })
}
