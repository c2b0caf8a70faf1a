//! Whether a client is to be followed: streaks, trials, pauses.

use zerocopy::IntoBytes;

use super::super::wire::InHeader;
use super::*;

#[test]
fn client_is_followed_after_a_brisk_streak_of_its_own() {
    let micros = Duration::from_micros;
    type From = fn(u32) -> (u32, bool);
    let own: From = |_| (7, true);
    let cases: [(_, _, _, From, _); 7] = [
        ("long and brisk", 40, micros(20), own, true),
        ("short", 20, micros(20), own, false),
        ("slow", 40, micros(600), own, false),
        ("one client after another", 80, micros(20), |i| (i / 35, true), true),
        ("two by turns", 80, micros(20), |i| (i / 30 % 2, true), false),
        ("another client's among them", 40, micros(20), |i| (7 + u32::from(i % 10 == 0), true), false),
        ("another reader", 40, micros(20), |i| (7, i % 10 != 0), false),
    ];
    for (case, count, apart, from, want) in cases {
        let mut streak = Streak::default();
        let start = Instant::now();
        let goes_on = |i: u32| {
            let (client, alone) = from(i);
            streak.goes_on(client, alone, start + apart * i)
        };
        assert_eq!((1..count).map(goes_on).last(), Some(want), "{case}");
    }
}

#[test]
fn a_small_file_is_waited_for() {
    for (opcode, offset, size, want) in [
        (Opcode::LOOKUP, 0, 0, false),
        (Opcode::READ, 0, 4096, false),
        (Opcode::READ, 0, SMALL, false),
        (Opcode::READ, 0, SMALL + 4096, true),
        (Opcode::READ, 4096, 4096, true),
        (Opcode::WRITE, 4096, 4096, false),
    ] {
        let header = InHeader { opcode: opcode.0, ..InHeader::default() };
        let read = ReadIn { offset, size, ..ReadIn::default() };
        assert_eq!(
            overlaps(&Message::split(header, read.as_bytes(), &[])),
            want,
            "{opcode:?} {offset} {size}"
        );
    }
}

#[test]
fn the_quicker_way_is_taken_and_tried_again() {
    for (spinning, following, slow, want) in
        [(12, 8, 0, true), (12, 15, 0, false), (12, 12, 0, false), (40, 12, 0, true), (40, 30, 5000, true)]
    {
        let (mut trial, mut now, mut follows) = (Trial::default(), Instant::now(), false);
        assert!(!trial.follows(now), "the first is only the beginning");
        let mut tell = |count: u32| -> Vec<bool> {
            let mut told = Vec::new();
            for message in 0..count {
                // One that waits for a disk, each time that this way's turn comes.
                let waits = message % TURN == TURN - 1 && follows;
                now += Duration::from_micros(if waits { slow } else { 0 });
                now += Duration::from_micros(if follows { following } else { spinning });
                follows = trial.follows(now);
                told.push(follows);
            }
            told
        };
        let case = format!("{spinning} and {following}");
        let turns: Vec<_> = (1..TRIAL).map(|count| (count / TURN) % 2 == 1).collect();
        assert_eq!(tell(TRIAL - 1), turns, "{case}");
        // The first verdict is one that changes, if it is to follow.
        for stay in [if want { 512 } else { 1024 }, if want { 1024 } else { 2048 }] {
            assert!(tell(stay).iter().all(|follows| *follows == want), "{case}");
            assert!(!tell(1)[0], "{case}: a trial begins with spinning");
            assert_eq!(tell(TRIAL - 1), turns, "{case}: again");
        }
    }
}

#[test]
fn pauses_grow_until_there_was_peace() {
    let pause = Pause::new();
    let length = || std::iter::repeat_with(|| pause.is_over()).take_while(|over| !over).count();
    assert_eq!(length(), 0);
    for want in [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 65536] {
        pause.begin();
        assert_eq!(length(), want);
    }
    pause.forgive();
    pause.begin();
    assert_eq!(length(), 256);
}

#[test]
fn fields_of_a_thread_are_read_whatever_its_name() {
    let read = || {
        rustix::thread::set_name(c"a) 1 (b").unwrap();
        (stat_field(gettid(), PROCESSOR), stat_field(gettid(), POLICY))
    };
    let (cpu, policy) = std::thread::spawn(read).join().unwrap();
    let home = sched_getaffinity(None).unwrap();
    assert!(cpu.is_some_and(|cpu| home.is_set(cpu)) && policy == Some(0), "{cpu:?} {policy:?}");
}
