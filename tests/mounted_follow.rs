//! A server that follows its client: on the client's CPU, of the lowest priority, and only while that is harmless.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{JoinHandle, available_parallelism, sleep, spawn};
use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::support::branches::TestTree;
use crate::support::mount::TestMount;

/// A thread that does something until it is dropped.
struct Restless {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Restless {
    fn new(mut act: impl FnMut() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = spawn(move || {
            while !told.load(Ordering::Relaxed) {
                act();
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Restless {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join).unwrap().unwrap();
    }
}

/// One that looks up names that have never been looked up, each a message.
fn client(c: &TestMount) -> (Restless, Arc<AtomicU64>) {
    let (root, count) = (c.root(), Arc::new(AtomicU64::new(0)));
    let counted = Arc::clone(&count);
    let look = move || {
        let name = format!("absent{}", counted.fetch_add(1, Ordering::Relaxed));
        assert!(!root.join(name).exists());
    };
    (Restless::new(look), count)
}

/// The threads of a server.
fn threads(server: Pid) -> Vec<Pid> {
    let tasks = std::fs::read_dir(format!("/proc/{server}/task", server = server.as_raw_pid())).unwrap();
    let id = |path: PathBuf| Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?);
    tasks.flatten().filter_map(|task| id(task.path())).collect()
}

/// Whether a thread has the policy `SCHED_IDLE` (the 41st field of /proc/PID/stat).
fn is_idle(thread: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", thread.as_raw_pid())).unwrap_or_default();
    let policy = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(38));
    policy.is_some_and(|policy| policy == libc::SCHED_IDLE.to_string())
}

fn follows(server: Pid) -> bool {
    threads(server).into_iter().any(is_idle)
}

fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        sleep(Duration::from_millis(1));
    }
}

fn mounted() -> TestMount {
    TestMount::over(TestTree::new(&["", "f"]), &["-o", "transport=classic"])
}

#[test]
fn server_follows_a_busy_client_and_is_as_before_when_that_rests() {
    let c = mounted();
    let server = c.server();
    let home = sched_getaffinity(None).unwrap();
    {
        let _busy = client(&c).0;
        until(|| follows(server));
    }
    until(|| !follows(server));
    until(|| threads(server).iter().all(|thread| sched_getaffinity(Some(*thread)).unwrap() == home));
}

#[test]
fn server_that_follows_is_not_starved_where_every_cpu_is_wanted() {
    let c = mounted();
    let (busy, count) = client(&c);
    until(|| follows(c.server()));
    let hog = |cpu| {
        let mut bound = false;
        Restless::new(move || {
            if !std::mem::replace(&mut bound, true) {
                let mut one = CpuSet::new();
                one.set(cpu);
                sched_setaffinity(None, &one).unwrap();
            }
            std::hint::spin_loop();
        })
    };
    let hogs: Vec<_> = (0..available_parallelism().unwrap().get()).map(hog).collect();
    let before = count.load(Ordering::Relaxed);
    until(|| count.load(Ordering::Relaxed) > before + 500);
    drop((hogs, busy));
}
