//! The scheduler with real threads: order, exclusion, panics, cancelling, bounds.

use ginnel_base::Deadline;
use ginnel_service::{Access, Executor, Job, KeyedScheduler, Pool, Rejected, ScheduleError};
use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

fn pool(threads: usize) -> Pool {
    Pool::with(NonZeroUsize::new(threads).unwrap(), 1 << 20)
}

/// Runs what it is given when it is told to, on the caller's thread.
#[derive(Clone, Default)]
struct Manual(Arc<Mutex<Vec<Job>>>);

impl Executor for Manual {
    fn execute(&self, job: Job) -> Result<(), Rejected> {
        self.0.lock().unwrap().push(job);
        Ok(())
    }
}

impl Manual {
    /// Runs what is there, not what comes meanwhile; how many jobs.
    fn turn(&self) -> usize {
        let jobs = std::mem::take(&mut *self.0.lock().unwrap());
        let count = jobs.len();
        jobs.into_iter().for_each(|job| job());
        count
    }
}

/// Submits jobs that write their names down, and gives the list.
struct Written {
    scheduler: KeyedScheduler<&'static str>,
    manual: Manual,
    names: Arc<Mutex<Vec<&'static str>>>,
}

impl Written {
    fn new() -> Self {
        let manual = Manual::default();
        Self { scheduler: KeyedScheduler::new(manual.clone(), 100), manual, names: Arc::default() }
    }

    fn submit(&self, name: &'static str, access: Access<&'static str>) -> ginnel_service::Scheduled {
        let names = Arc::clone(&self.names);
        self.scheduler.submit(access, move || names.lock().unwrap().push(name)).unwrap()
    }

    /// What ran in one turn of the executor.
    fn turn(&self) -> Vec<&'static str> {
        self.manual.turn();
        std::mem::take(&mut *self.names.lock().unwrap())
    }
}

#[test]
fn readers_that_wait_at_the_end_of_a_write_go_before_the_next_write() {
    let jobs = Written::new();
    jobs.submit("write 1", Access::write("a"));
    jobs.submit("read 1", Access::read("a"));
    jobs.submit("write 2", Access::write("a"));
    jobs.submit("read 2", Access::read("a"));
    jobs.submit("write 3", Access::write("a"));
    assert_eq!(jobs.turn(), ["write 1"]);
    assert_eq!(jobs.turn(), ["read 1", "read 2"], "one phase of reads");
    assert_eq!(jobs.turn(), ["write 2"]);
    assert_eq!(jobs.turn(), ["write 3"]);
    assert_eq!(jobs.scheduler.counters().promoted, 1);
}

#[test]
fn a_read_never_overtakes_a_write_of_its_own_session() {
    let jobs = Written::new();
    jobs.submit("write 1", Access::write("a"));
    jobs.submit("write of 7", Access::write("a").in_session(7));
    jobs.submit("read of 7", Access::read("a").in_session(7));
    jobs.submit("read of 8", Access::read("a").in_session(8));
    jobs.submit("snapshot of 7", Access::snapshot().in_session(7));
    jobs.submit("snapshot of 8", Access::snapshot().in_session(8));
    assert_eq!(jobs.turn(), ["write 1", "snapshot of 8"]);
    assert_eq!(jobs.turn(), ["read of 8"]);
    assert_eq!(jobs.turn(), ["write of 7"]);
    let mut rest = jobs.turn();
    rest.sort_unstable();
    assert_eq!(rest, ["read of 7", "snapshot of 7"]);
}

#[test]
fn a_barrier_runs_alone_and_in_its_place_and_snapshots_pass_it() {
    let jobs = Written::new();
    jobs.submit("before", Access::read("a"));
    jobs.submit("barrier", Access::barrier());
    jobs.submit("after", Access::read("a"));
    jobs.submit("elsewhere", Access::write("b"));
    jobs.submit("snapshot", Access::snapshot());
    assert_eq!(jobs.turn(), ["before", "snapshot"]);
    assert_eq!(jobs.turn(), ["barrier"]);
    assert_eq!(jobs.turn(), ["after", "elsewhere"]);
}

#[test]
fn a_cancelled_job_never_runs_and_lets_the_next_one_pass() {
    let jobs = Written::new();
    let running = jobs.submit("read", Access::read("a"));
    let waiting = jobs.submit("write", Access::write("a"));
    jobs.submit("read too", Access::read("a"));
    assert!(!running.cancel(), "it has been started");
    assert!(waiting.cancel());
    assert!(!waiting.cancel(), "once is enough");
    assert_eq!(jobs.turn(), ["read", "read too"]);
    assert_eq!((jobs.scheduler.counters().cancelled, jobs.scheduler.counters().lanes), (1, 0));
}

#[test]
fn a_job_that_has_not_started_by_its_deadline_is_dropped_and_what_it_owned_is_too() {
    let jobs = Written::new();
    jobs.submit("write", Access::write("a"));
    let owned = Arc::new(());
    let kept = Arc::clone(&owned);
    let now = Instant::now();
    let late = Access::write("a").until(Deadline::from(now, Duration::from_secs(1)));
    jobs.scheduler.submit(late, move || drop(kept)).unwrap();
    jobs.submit("patient", Access::write("a"));
    assert_eq!(jobs.scheduler.next_expiry(), Some(now + Duration::from_secs(1)));
    assert_eq!(jobs.scheduler.expire(now), 0);
    assert_eq!(jobs.scheduler.expire(now + Duration::from_secs(1)), 1);
    assert_eq!((Arc::strong_count(&owned), jobs.scheduler.next_expiry()), (1, None));
    assert_eq!(jobs.turn(), ["write"]);
    assert_eq!(jobs.turn(), ["patient"]);
}

#[test]
fn as_many_wait_as_are_allowed_and_the_next_is_refused() {
    let manual = Manual::default();
    let scheduler = KeyedScheduler::new(manual.clone(), 2);
    for _ in 0..3 {
        scheduler.submit(Access::write(1), || ()).unwrap();
    }
    assert_eq!(scheduler.submit(Access::write(1), || ()).unwrap_err(), ScheduleError::Full { limit: 2 });
    assert_eq!(manual.turn(), 1);
    scheduler.submit(Access::write(1), || ()).unwrap();
    let counters = scheduler.counters();
    assert_eq!((counters.refused, counters.waiting, counters.running, counters.waiting_peak), (1, 2, 1, 2));
}

#[test]
fn what_an_executor_has_no_room_for_is_dropped_and_holds_nobody_up() {
    /// Takes none.
    struct Shut;
    impl Executor for Shut {
        fn execute(&self, job: Job) -> Result<(), Rejected> {
            Err(Rejected(job))
        }
    }
    let scheduler = KeyedScheduler::new(Shut, 10);
    let owned = Arc::new(());
    for _ in 0..1000 {
        let kept = Arc::clone(&owned);
        scheduler.submit(Access::write(1), move || drop(kept)).unwrap();
    }
    let counters = scheduler.counters();
    assert_eq!((counters.rejected, counters.running, counters.waiting, counters.lanes), (1000, 0, 0, 0));
    assert_eq!(Arc::strong_count(&owned), 1);
}

#[test]
fn a_turn_may_outlive_its_closure() {
    let jobs = Written::new();
    let (sender, receiver) = mpsc::channel();
    jobs.scheduler.submit_turn(Access::write("a"), move |turn| sender.send(turn).unwrap()).unwrap();
    jobs.submit("next", Access::write("a"));
    jobs.manual.turn();
    let turn = receiver.recv().unwrap();
    assert!(jobs.turn().is_empty(), "the first has the key still");
    drop(turn);
    assert_eq!(jobs.turn(), ["next"]);
}

#[test]
fn a_panic_ends_its_turn() {
    let scheduler = KeyedScheduler::new(pool(2), 10);
    scheduler.submit(Access::write("a"), || panic!("of a test")).unwrap();
    let (sender, receiver) = mpsc::channel();
    scheduler.submit(Access::write("a"), move || sender.send(()).unwrap()).unwrap();
    receiver.recv_timeout(PATIENCE).expect("the job behind one that panicked runs");
}

/// Many threads submit transfers between accounts; each touches two keys, all audit now and then. A broken exclusion
/// loses money, a lost wake hangs.
#[test]
fn transfers_between_accounts_lose_nothing_under_many_threads() {
    const ACCOUNTS: usize = 8;
    let rounds = if std::env::var_os("GINNEL_SOAK").is_some() { 50_000 } else { 2_000 };
    let scheduler = KeyedScheduler::new(pool(8), usize::MAX);
    let accounts: Arc<Vec<AtomicI64>> = Arc::new((0..ACCOUNTS).map(|_| AtomicI64::new(1000)).collect());
    let (sender, receiver) = mpsc::channel();
    std::thread::scope(|scope| {
        for submitter in 0..4usize {
            let (scheduler, sender, accounts) = (scheduler.clone(), sender.clone(), Arc::clone(&accounts));
            scope.spawn(move || {
                for round in 0..rounds {
                    let (from, to) = ((round + submitter) % ACCOUNTS, (round * 7 + submitter * 3 + 1) % ACCOUNTS);
                    let (sender, accounts) = (sender.clone(), Arc::clone(&accounts));
                    if round % 50 == 0 {
                        let all = (0..ACCOUNTS).fold(Access::read(0), |access, account| access.and_read(account));
                        let audit = move || {
                            let total: i64 = accounts.iter().map(|account| account.load(Ordering::Relaxed)).sum();
                            sender.send(total).unwrap();
                        };
                        scheduler.submit(if round % 100 == 0 { Access::barrier() } else { all }, audit).unwrap();
                        continue;
                    }
                    let transfer = move || {
                        // Not atomic on purpose: whoever runs beside it sees or loses money.
                        let (has, gets) =
                            (accounts[from].load(Ordering::Relaxed), accounts[to].load(Ordering::Relaxed));
                        std::thread::yield_now();
                        if from != to {
                            accounts[from].store(has - 1, Ordering::Relaxed);
                            accounts[to].store(gets + 1, Ordering::Relaxed);
                        }
                        sender.send(ACCOUNTS as i64 * 1000).unwrap();
                    };
                    scheduler.submit(Access::write(from).and_write(to), transfer).unwrap();
                }
            });
        }
    });
    drop(sender);
    for _ in 0..4 * rounds {
        assert_eq!(receiver.recv_timeout(PATIENCE).expect("a job is lost"), ACCOUNTS as i64 * 1000);
    }
    let end = Instant::now() + PATIENCE;
    while scheduler.counters().finished < 4 * rounds as u64 {
        assert!(Instant::now() < end, "a turn does not end");
        std::thread::yield_now();
    }
    assert_eq!((scheduler.counters().lanes, scheduler.counters().running), (0, 0));
}

/// Readers and writers that come without end on one key: each of them has its turn within a few phases.
#[test]
fn nobody_starves_while_others_keep_coming() {
    let jobs = Written::new();
    let waited: Arc<Mutex<HashMap<usize, usize>>> = Arc::default();
    let phase = Arc::new(AtomicUsize::new(0));
    for step in 0..2_000usize {
        for number in 0..2 {
            let (waited, phase, id) = (Arc::clone(&waited), Arc::clone(&phase), step * 2 + number);
            let came = phase.load(Ordering::Relaxed);
            let access = if (step + number) % 3 == 0 { Access::write("a") } else { Access::read("a") };
            let job = move || {
                waited.lock().unwrap().insert(id, phase.load(Ordering::Relaxed) - came);
            };
            // A full scheduler refuses: that bounds the queue, and so the wait.
            let _ = jobs.scheduler.submit(access, job);
        }
        jobs.manual.turn();
        phase.fetch_add(1, Ordering::Relaxed);
    }
    while jobs.manual.turn() > 0 {
        phase.fetch_add(1, Ordering::Relaxed);
    }
    let counters = jobs.scheduler.counters();
    let waited = waited.lock().unwrap();
    assert_eq!((waited.len() as u64, counters.waiting), (counters.submitted, 0));
    // 100 wait at most; each phase ends at least one write of theirs or all their reads.
    let longest = waited.values().max().unwrap();
    assert!(*longest <= 2 * 100 + 2, "a job waited {longest} phases");
}
