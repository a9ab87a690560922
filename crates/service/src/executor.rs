//! Where handlers run when they do not run on the reactor's own thread.

use ginnel_base::thread;
use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// Work that runs once, on another thread.
pub type Job = Box<dyn FnOnce() + Send + 'static>;

/// Runs jobs somewhere else.
///
/// [`Pool`] is the built-in one. A runtime or a thread pool that a program has already is another: the trait is all that a server or a
/// [`KeyedScheduler`](crate::KeyedScheduler) asks of it.
pub trait Executor: Send + Sync + 'static {
    /// Takes `job` and returns at once: it neither runs the job nor waits for room.
    ///
    /// # Errors
    /// [`Rejected`] holds the job if there is no room for it, or if the executor is shutting down.
    fn execute(&self, job: Job) -> Result<(), Rejected>;
}

impl<E: Executor + ?Sized> Executor for Arc<E> {
    fn execute(&self, job: Job) -> Result<(), Rejected> {
        (**self).execute(job)
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

/// A fixed number of threads with one bounded queue.
///
/// Jobs start in the order in which they came. A job that panics is logged; its thread goes on. Idle threads sleep. Dropping the pool
/// (its last clone) lets the threads finish what is queued; the drop itself waits for nobody. Clones share the pool.
///
/// ```
/// use ginnel_service::{Executor, Pool};
/// use std::sync::mpsc;
///
/// let pool = Pool::new()?;
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
    more: Condvar,
    capacity: usize,
    threads: usize,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Threads that run a job.
    busy: usize,
    /// Threads that sleep, or are woken but have not yet looked.
    asleep: usize,
    closed: bool,
}

impl Pool {
    /// A pool with as many threads as this process may use processors (its affinity and its control group's CPU quota count), and a queue of
    /// 4,096 jobs.
    ///
    /// # Errors
    /// What the system says if it has no thread left.
    pub fn new() -> io::Result<Self> {
        let threads = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Self::with(threads, DEFAULT_QUEUE)
    }

    /// A pool with `threads` threads in which at most `queue` jobs wait.
    ///
    /// # Errors
    /// What the system says if it has no thread left. Threads that were started by then end.
    pub fn with(threads: NonZeroUsize, queue: usize) -> io::Result<Self> {
        let shared =
            Arc::new(Shared { queue: Mutex::default(), more: Condvar::new(), capacity: queue, threads: threads.get() });
        // From here on a drop ends the threads that have been started.
        let pool = Self { shared: Arc::new(Owner(Arc::clone(&shared))) };
        for number in 0..threads.get() {
            let of_thread = Arc::clone(&shared);
            thread::spawn(format!("ginnel-pool-{number}"), move || of_thread.work())?;
        }
        Ok(pool)
    }

    /// Threads of this pool.
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

impl Executor for Pool {
    fn execute(&self, job: Job) -> Result<(), Rejected> {
        let shared = &self.shared.0;
        let mut queue = shared.queue();
        // A job that a free thread is about to take does not wait: the bound is not for it.
        if queue.jobs.len() >= shared.capacity.saturating_add(shared.threads - queue.busy) {
            return Err(Rejected(job));
        }
        queue.jobs.push_back(job);
        let wake = queue.asleep > 0;
        drop(queue);
        if wake {
            shared.more.notify_one();
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
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        // No job runs under this lock: the queue is whole after any panic.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
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
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue.asleep += 1;
            queue = self.more.wait(queue).unwrap_or_else(PoisonError::into_inner);
            queue.asleep -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

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
        let pool = Pool::with(threads(1), 2).unwrap();
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
        let pool = Pool::with(threads(1), 8).unwrap();
        pool.execute(Box::new(|| panic!("of a test"))).unwrap();
        let (sender, receiver) = mpsc::channel();
        pool.execute(Box::new(move || sender.send(std::thread::current().name().map(str::to_owned)).unwrap())).unwrap();
        assert_eq!(receiver.recv_timeout(PATIENCE).unwrap().as_deref(), Some("ginnel-pool-0"));
    }

    #[test]
    fn dropping_the_pool_runs_what_is_queued_and_ends_the_threads() {
        let pool = Pool::with(threads(2), 64).unwrap();
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
        let end = std::time::Instant::now() + PATIENCE;
        while shared.upgrade().is_some() {
            assert!(std::time::Instant::now() < end, "the threads of a dropped pool go on");
            std::thread::yield_now();
        }
    }

    #[test]
    fn as_many_jobs_run_at_once_as_there_are_threads() {
        let pool = Pool::with(threads(3), 0).unwrap();
        let holds: Vec<_> = (0..3).map(|_| occupy(&pool)).collect();
        assert!(pool.execute(Box::new(|| ())).is_err(), "no thread is idle and no queue is allowed");
        drop(holds);
    }
}
