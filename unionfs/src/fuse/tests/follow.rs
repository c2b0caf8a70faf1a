//! Whether a client is to be followed: streaks, trials, pauses.

use zerocopy::IntoBytes;

use super::super::wire::InHeader;
use super::*;

#[test]
fn client_is_followed_after_a_brisk_streak_of_its_own() {
    let micros = Duration::from_micros;
    for (case, count, apart, odd, want) in [
        ("long and brisk", 40, micros(20), None, true),
        ("short", 20, micros(20), None, false),
        ("slow", 40, micros(600), None, false),
        ("another client's among them", 40, micros(20), Some((8, true)), false),
        ("another reader", 40, micros(20), Some((7, false)), false),
    ] {
        let mut streak = Streak::default();
        let start = Instant::now();
        let goes_on = |i: u32| {
            let (client, alone) = odd.filter(|_| i.is_multiple_of(10)).unwrap_or((7, true));
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
    let micros = Duration::from_micros;
    for (spinning, following, want) in [(12, 8, true), (12, 15, false), (12, 12, false)] {
        let (mut trial, mut now, mut follows) = (Trial::default(), Instant::now(), false);
        assert!(!trial.follows(now), "the first is only the beginning");
        let mut told = Vec::new();
        for _ in 0..2 * TURNS * TURN + STAY {
            now += micros(if follows { following } else { spinning });
            follows = trial.follows(now);
            told.push(follows);
        }
        let turns = |at| (1..TURNS * TURN).map(|count| (count / TURN) % 2 == 1).skip(at).collect::<Vec<_>>();
        let (tried, rest) = told.split_at((TURNS * TURN - 1) as usize);
        let (taken, again) = rest.split_at(STAY as usize);
        assert_eq!(tried, turns(0), "{spinning} and {following}");
        assert!(taken.iter().all(|follows| *follows == want), "{spinning} and {following}");
        assert_eq!(&again[1..tried.len() + 1], turns(0), "{spinning} and {following}: again");
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
