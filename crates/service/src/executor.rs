//! Where handlers run when they do not run on the reactor's own thread.

use ginnel_base::{Deadline, thread};
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Work that runs once, on another thread.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs jobs somewhere else.
///
/// [`Pool`] is the built-in one. A runtime or a thread pool that a program has already is another: the trait is all
/// that a server or a [`KeyedScheduler`](crate::KeyedScheduler) asks of it.
pub trait Executor: Send + Sync + 'static {
    /// Takes `job` and returns at once: it neither runs the job nor waits for room.
    ///
    /// # Errors
    /// [`Rejected`] holds the job if there is no room for it, or if the executor is shutting down.
    fn execute(&self, job: Job) -> Result<(), Rejected>;

    /// Jobs that wait for a thread at this moment, if that is known: a server shows it to those who look at it. Asked
    /// some ten times a second at most.
    fn queued(&self) -> Option<usize> {
        None
    }
}

impl<E: Executor + ?Sized> Executor for Arc<E> {
    fn execute(&self, job: Job) -> Result<(), Rejected> {
        (**self).execute(job)
    }

    fn queued(&self) -> Option<usize> {
        (**self).queued()
    }
}

/// A job that an executor did not take. Dropping it drops what the job owns.
#[must_use = "the job was not run"]
pub struct Rejected(pub Job);

impl fmt::Debug for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rejected(..)")
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the executor has no room for another job")
    }
}

impl std::error::Error for Rejected {}

/// Jobs that wait in a [`Pool`] at most, unless it is told otherwise.
const DEFAULT_QUEUE: usize = 4096;
/// Threads that [`Pool::new`] starts at most, the extra ones included.
const DEFAULT_MOST: usize = 64;
/// How long a job waits before the threads count as stuck.
const STUCK_AFTER: Duration = Duration::from_millis(10);
/// How long an extra thread waits for a further job.
const EXTRA_STAYS: Duration = Duration::from_secs(5);

/// Threads with one bounded queue.
///
/// Jobs start in the order in which they came. Threads start when there is something to do, as many as the pool has;
/// idle threads sleep. When all of them are busy and a job has waited for ten milliseconds, they are taken to be
/// blocked, and an extra thread helps out, up to the pool's limit: jobs that hang cost a thread each, and not the pool.
/// A job that panics is logged; its thread goes on. Dropping the pool (its last clone) lets the threads finish what is
/// queued; the drop itself waits for nobody. Clones share the pool.
///
/// ```
/// use ginnel_service::{Executor, Pool};
/// use std::sync::mpsc;
///
/// let pool = Pool::new();
/// let (sender, receiver) = mpsc::channel();
/// pool.execute(Box::new(move || sender.send(6 * 7).unwrap()))?;
/// assert_eq!(receiver.recv()?, 42);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct Pool {
    shared: Arc<Owner>,
}

/// Its drop, and not that of the threads' part, is the end of the pool.
struct Owner(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    /// Wakes a thread that has no job.
    more: Condvar,
    /// Wakes the thread that looks after jobs that wait.
    stuck: Condvar,
    capacity: usize,
    threads: usize,
    most: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Jobs that have been taken so far: if it stands still while jobs wait, the threads are stuck.
    taken: u64,
    /// Threads there are, the extra ones included.
    started: usize,
    /// Threads that run a job.
    busy: usize,
    /// Threads that sleep, or are woken but have not yet looked.
    asleep: usize,
    /// There is a thread that looks after jobs that wait.
    attended: bool,
    closed: bool,
}

impl Pool {
    /// A pool with as many threads as this process may use processors (its affinity and its control group's CPU quota
    /// count), up to 64 when jobs block, and a queue of 4,096 jobs.
    #[must_use]
    pub fn new() -> Self {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::build(threads, DEFAULT_MOST, DEFAULT_QUEUE)
    }

    /// A pool of exactly `threads` threads, in which at most `queue` jobs wait.
    #[must_use]
    pub fn with(threads: NonZeroUsize, queue: usize) -> Self {
        Self::build(threads, 0, queue)
    }

    fn build(threads: NonZeroUsize, most: usize, capacity: usize) -> Self {
        let threads = threads.get();
        let (queue, more, stuck) = (Mutex::default(), Condvar::new(), Condvar::new());
        let shared = Shared { queue, more, stuck, capacity, threads, most: most.max(threads) };
        Self { shared: Arc::new(Owner(Arc::new(shared))) }
    }

    /// Threads that this pool has when none is stuck.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.shared.0.threads
    }

    /// Jobs that wait for a thread at this moment.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.0.queue().jobs.len()
    }
}

impl Default for Pool {
    fn default() -> Self {
        Self::new()
    }
}

impl Executor for Pool {
    fn queued(&self) -> Option<usize> {
        Some(Pool::queued(self))
    }

    fn execute(&self, job: Job) -> Result<(), Rejected> {
        let shared = &self.shared.0;
        let mut queue = shared.queue();
        // A job that a free thread is about to take does not wait: the bound is not for it.
        let free = shared.threads.saturating_sub(queue.busy);
        if queue.jobs.len() >= shared.capacity.saturating_add(free) {
            return Err(Rejected(job));
        }
        queue.jobs.push_back(job);
        if queue.asleep > 0 {
            drop(queue);
            shared.more.notify_one();
            return Ok(());
        }
        if queue.started < shared.threads {
            queue.started += 1;
            drop(queue);
            if let Err(error) = Shared::start(shared) {
                let mut queue = shared.queue();
                queue.started -= 1;
                // Somebody else may have taken it meanwhile; a thread that there is will.
                if queue.started == 0
                    && let Some(job) = queue.jobs.pop_back()
                {
                    tracing::warn!(%error, "no thread for a job");
                    return Err(Rejected(job));
                }
            }
            return Ok(());
        }
        if shared.most > shared.threads {
            shared.attend(queue);
        }
        Ok(())
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).field("queued", &self.queued()).finish_non_exhaustive()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.queue().closed = true;
        self.0.more.notify_all();
        self.0.stuck.notify_all();
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No job runs under this lock: the queue is whole after any panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(shared: &Arc<Self>) -> io::Result<()> {
        let of_thread = Arc::clone(shared);
        thread::spawn("ginnel-pool", move || of_thread.work()).map(drop)
    }

    /// Sees to it that somebody looks after jobs that wait.
    fn attend(self: &Arc<Self>, mut queue: MutexGuard<'_, Queue>) {
        if queue.attended {
            drop(queue);
            self.stuck.notify_one();
            return;
        }
        queue.attended = true;
        drop(queue);
        let of_thread = Arc::clone(self);
        if thread::spawn_with_stack("ginnel-pool-aid", 128 << 10, move || of_thread.look_after()).is_err() {
            self.queue().attended = false;
        }
    }

    /// The life of a thread.
    fn work(&self) {
        let mut done = 0;
        while let Some(job) = self.next(done) {
            done = 1;
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                tracing::error!("a job panicked");
            }
        }
    }

    /// Gives back the `done` jobs that this thread was busy with, and waits for the next.
    fn next(&self, done: usize) -> Option<Job> {
        let mut queue = self.queue();
        queue.busy -= done;
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                queue.busy += 1;
                queue.taken += 1;
                return Some(job);
            }
            if queue.closed {
                queue.started -= 1;
                return None;
            }
            queue.asleep += 1;
            if queue.started <= self.threads {
                queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.asleep -= 1;
            } else {
                let (back, waited) = self.more.wait_timeout(queue, EXTRA_STAYS).unwrap_or_else(PoisonError::into_inner);
                queue = back;
                queue.asleep -= 1;
                if waited.timed_out() && queue.jobs.is_empty() && queue.started > self.threads {
                    queue.started -= 1;
                    return None;
                }
            }
        }
    }

    /// Starts an extra thread whenever the jobs that wait have made no progress for some time; ends when none waits.
    fn look_after(self: &Arc<Self>) {
        let mut queue = self.queue();
        while !queue.jobs.is_empty() && !queue.closed {
            let taken = queue.taken;
            let end = Deadline::after(STUCK_AFTER);
            while !end.passed() && !queue.jobs.is_empty() && queue.taken == taken && !queue.closed {
                let left = end.remaining().unwrap_or_default();
                queue = self.stuck.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
            }
            if queue.taken == taken && !queue.jobs.is_empty() && queue.started < self.most {
                queue.started += 1;
                drop(queue);
                let refused = Self::start(self).is_err();
                queue = self.queue();
                queue.started -= usize::from(refused);
            }
        }
        queue.attended = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn threads(count: usize) -> NonZeroUsize {
        NonZeroUsize::new(count).unwrap()
    }

    /// Occupies a thread of `pool` until the returned sender is dropped.
    fn occupy(pool: &Pool) -> mpsc::Sender<()> {
        let (hold, held) = mpsc::channel::<()>();
        let (started, starts) = mpsc::channel();
        pool.execute(Box::new(move || {
            started.send(()).unwrap();
            let _ = held.recv();
        }))
        .unwrap();
        starts.recv_timeout(PATIENCE).expect("an idle thread takes a job");
        hold
    }

    #[test]
    fn a_full_queue_gives_the_job_back() {
        let pool = Pool::with(threads(1), 2);
        let hold = occupy(&pool);
        let (sender, receiver) = mpsc::channel();
        for number in 0..2 {
            let sender = sender.clone();
            pool.execute(Box::new(move || sender.send(number).unwrap())).unwrap();
        }
        let one_more = sender.clone();
        let Rejected(job) = pool.execute(Box::new(move || one_more.send(99).unwrap())).unwrap_err();
        assert_eq!(pool.queued(), 2);
        job();
        drop(hold);
        let order: Vec<i32> = (0..3).map(|_| receiver.recv_timeout(PATIENCE).unwrap()).collect();
        assert_eq!(order, [99, 0, 1], "a job that came back is the caller's, the others run in order");
    }

    #[test]
    fn a_panic_costs_its_job_and_not_the_thread() {
        let pool = Pool::with(threads(1), 8);
        pool.execute(Box::new(|| panic!("of a test"))).unwrap();
        let (sender, receiver) = mpsc::channel();
        pool.execute(Box::new(move || sender.send(std::thread::current().name().map(str::to_owned)).unwrap())).unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().as_deref(), Some("ginnel-pool"));
    }

    #[test]
    fn dropping_the_pool_runs_what_is_queued_and_ends_the_threads() {
        let pool = Pool::with(threads(2), 64);
        let shared = Arc::downgrade(&pool.shared.0);
        let holds = [occupy(&pool), occupy(&pool)];
        let (sender, receiver) = mpsc::channel();
        for _ in 0..32 {
            let sender = sender.clone();
            pool.execute(Box::new(move || sender.send(()).unwrap())).unwrap();
        }
        drop(pool);
        drop((holds, sender));
        assert_eq!(receiver.iter().count(), 32);
        let end = Deadline::after(PATIENCE);
        while shared.upgrade().is_some() {
            assert!(!end.passed(), "the threads of a dropped pool go on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn as_many_jobs_run_at_once_as_there_are_threads() {
        let pool = Pool::with(threads(3), 0);
        let holds: Vec<_> = (0..3).map(|_| occupy(&pool)).collect();
        assert!(pool.execute(Box::new(|| ())).is_err(), "no thread is idle and no queue is allowed");
        drop(holds);
    }

    #[test]
    fn jobs_that_hang_cost_a_thread_each_and_not_the_pool() {
        let pool = Pool::build(threads(2), 5, 64);
        let (hold, held) = mpsc::channel::<()>();
        let held = Arc::new(Mutex::new(held));
        for _ in 0..4 {
            let held = Arc::clone(&held);
            // One waits for the sender, the others for the lock: until `hold` is dropped.
            pool.execute(Box::new(move || assert!(held.lock().unwrap().recv().is_err()))).unwrap();
        }
        let (sender, receiver) = mpsc::channel();
        pool.execute(Box::new(move || sender.send(()).unwrap())).unwrap();
        receiver.recv_timeout(PATIENCE).expect("an extra thread helps out");
        drop(hold);
    }

    #[test]
    fn a_pool_that_is_not_used_has_no_thread() {
        let pool = Pool::new();
        assert_eq!(pool.shared.0.queue().started, 0);
        drop(occupy(&pool));
        assert_eq!(pool.shared.0.queue().started, 1);
    }
}
