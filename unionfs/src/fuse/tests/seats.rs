//! Seats: passing on, growing and shrinking, resting.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::thread;
use std::time::Instant;

use super::*;

/// Threads that serve requests which take as long as `work` says, until `over`.
fn serve(seats: &Arc<Seats>, threads: usize, work: fn(usize)) -> Vec<thread::JoinHandle<()>> {
    let mut handles: Vec<_> = (0..threads)
        .map(|me| {
            let seats = Arc::clone(seats);
            thread::spawn(move || {
                loop {
                    match seats.take(me) {
                        Seat::Yours => {}
                        Seat::NotNow => continue,
                        Seat::Never => break,
                    }
                    loop {
                        seats.begin(me);
                        work(me);
                        if !seats.finish(me) || seats.state.lock().over {
                            break;
                        }
                    }
                }
            })
        })
        .collect();
    let watched = Arc::clone(seats);
    handles.push(thread::spawn(move || watch(&watched, &|| ())));
    handles
}

/// Watches, while nobody follows anybody.
fn watch(seats: &Seats, hire: &dyn Fn()) {
    let nobody = std::fs::File::open("/dev/null").unwrap().into();
    seats.watch(&Keeper::new(&nobody), hire);
}

fn within(time: Duration, mut done: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + time;
    while Instant::now() < end {
        if done() {
            return true;
        }
        thread::sleep(Duration::from_millis(1));
    }
    false
}

#[test]
fn seat_of_a_stuck_thread_passes_on_and_comes_back() {
    static STARTED: AtomicUsize = AtomicUsize::new(0);
    static FREE: AtomicBool = AtomicBool::new(false);
    let seats = Arc::new(Seats::new(3, 2));
    let threads = serve(&seats, 3, |_| {
        STARTED.fetch_add(1, Ordering::SeqCst);
        while !FREE.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
    });
    assert!(within(Duration::from_secs(5), || STARTED.load(Ordering::SeqCst) == 3), "others take over");
    FREE.store(true, Ordering::SeqCst);
    assert!(within(Duration::from_secs(5), || STARTED.load(Ordering::SeqCst) > 100), "and go on");
    seats.end();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn seats_follow_the_load_up_and_down() {
    static BUSY: AtomicBool = AtomicBool::new(true);
    let seats = Arc::new(Seats::new(4, 4));
    let idle = Arc::clone(&seats);
    let threads = serve(&seats, 4, |_| thread::sleep(Duration::from_micros(100)));
    assert!(within(Duration::from_secs(5), || !seats.alone()), "grows while no reader finds it empty");
    let feeder = thread::spawn(move || {
        while BUSY.load(Ordering::SeqCst) {
            (0..100).for_each(|_| idle.found_empty());
            thread::sleep(Duration::from_micros(100));
        }
    });
    assert!(
        within(Duration::from_secs(5), || seats.state.lock().taken == 1 && seats.alone()),
        "shrinks to one"
    );
    BUSY.store(false, Ordering::SeqCst);
    feeder.join().unwrap();
    seats.end();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn seat_left_before_a_long_request_is_taken_by_another() {
    let seats = Seats::new(2, 2);
    assert_eq!(seats.take(0), Seat::Yours);
    seats.begin(0);
    seats.leave(0);
    assert_eq!(seats.take(1), Seat::Yours, "the other thread reads");
    assert!(!seats.finish(0), "the first has no seat when it is done");
    seats.begin(1);
    assert!(seats.finish(1), "the other keeps its own");
    seats.end();
    assert_eq!(seats.take(0), Seat::Never, "all over");
}

#[test]
fn watcher_that_has_rested_frees_the_stuck() {
    let seats = Arc::new(Seats::new(2, 2));
    let watched = Arc::clone(&seats);
    let watcher = thread::spawn(move || watch(&watched, &|| ()));
    assert_eq!(seats.take(0), Seat::Yours);
    assert!(within(Duration::from_secs(60), || seats.watcher_sleeps.load(Ordering::SeqCst)), "all quiet");
    thread::sleep(REST + Duration::from_millis(200));
    seats.begin(0);
    assert_eq!(seats.take(1), Seat::Yours, "the first is stuck in its request");
    seats.end();
    watcher.join().unwrap();
}

#[test]
fn thread_that_waits_in_vain_goes_home_and_one_is_hired_when_it_is_missed() {
    let (seats, hired) = (Arc::new(Seats::new(2, 2)), Arc::new(AtomicUsize::new(0)));
    let (watched, counted) = (Arc::clone(&seats), Arc::clone(&hired));
    let watcher = thread::spawn(move || {
        watch(&watched, &|| {
            counted.fetch_add(1, Ordering::SeqCst);
        })
    });
    assert_eq!((seats.take(0), seats.take(1)), (Seat::Yours, Seat::NotNow));
    assert_eq!(hired.load(Ordering::SeqCst), 0, "nobody is missed");
    seats.begin(0);
    assert!(within(Duration::from_secs(60), || hired.load(Ordering::SeqCst) > 0), "one is stuck");
    seats.end();
    watcher.join().unwrap();
}
