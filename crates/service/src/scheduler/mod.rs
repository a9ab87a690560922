//! Runs jobs on an executor, in an order that their keys allow.
//!
//! `core` decides which job may run; this file holds it behind a lock and hands what it starts to the executor.

mod access;
mod core;
#[cfg(test)]
mod model;

pub use access::Access;

use self::core::{Core, Ticket};
use crate::executor::Executor;
use std::collections::VecDeque;
use std::fmt;
use std::hash::Hash;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Why a job was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// As many jobs as are allowed wait already.
    #[error("{limit} jobs wait already, which is the limit: try again later")]
    Full {
        /// The limit that the scheduler was made with.
        limit: usize,
    },
}

/// What a scheduler has done so far, and what it holds at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SchedulerCounters {
    /// Jobs taken.
    pub submitted: u64,
    /// Jobs handed to the executor.
    pub started: u64,
    /// Jobs that ended, a panic included.
    pub finished: u64,
    /// Jobs refused because too many waited.
    pub refused: u64,
    /// Jobs that the executor had no room for; they were dropped.
    pub rejected: u64,
    /// Jobs cancelled before they started.
    pub cancelled: u64,
    /// Jobs dropped because their deadline came before they could start.
    pub expired: u64,
    /// Reads that started ahead of a write that had come earlier.
    pub promoted: u64,
    /// Jobs that wait now.
    pub waiting: u64,
    /// Jobs that run now, or wait for a thread of the executor.
    pub running: u64,
    /// Keys that some unfinished job has now.
    pub lanes: u64,
    /// Most jobs that have waited at one time.
    pub waiting_peak: u64,
}

type Job = Box<dyn FnOnce(Turn) + Send + 'static>;

/// Orders jobs by the keys they read and write, and runs them on an [`Executor`].
///
/// * Reads of a key run together; a write runs alone on its key; different keys do not meet.
/// * First come, first served for each key, with one exception: when a write ends, all reads that wait for that key
///   start before the next write (phase-fair). So neither readers nor writers starve.
/// * [`Access::snapshot`] bypasses all of it; [`Access::barrier`] runs alone. Jobs with several keys take them at once
///   and cannot deadlock.
/// * A job in a [session](Access::in_session) never overtakes an earlier write of that session.
/// * At most a fixed number of jobs wait. A key costs memory only while a job has it.
///
/// Submitting, cancelling and ending a job take a lock for as long as the decision takes; no job runs under it. A job
/// that panics ends its turn like any other. Clones share the scheduler.
///
/// ```
/// use ginnel_service::{Access, KeyedScheduler, Pool};
/// use std::sync::mpsc;
///
/// let scheduler = KeyedScheduler::new(Pool::new(), 1024);
/// let (sender, receiver) = mpsc::channel();
/// for number in 0..10 {
///     let sender = sender.clone();
///     scheduler.submit(Access::write("log"), move || sender.send(number).unwrap())?;
/// }
/// drop(sender);
/// assert!(receiver.iter().eq(0..10), "writes of one key keep their order");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct KeyedScheduler<K> {
    shared: Arc<Shared<K>>,
}

impl<K> Clone for KeyedScheduler<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

struct Shared<K> {
    state: Mutex<State<K>>,
    executor: Box<dyn Executor>,
    limit: usize,
}

struct State<K> {
    core: Core<K, Job>,
    /// Started, and not yet handed to the executor.
    due: VecDeque<(Ticket, Job)>,
    /// A thread hands over what is due.
    handing_over: bool,
    counters: SchedulerCounters,
}

impl<K: Clone + Eq + Hash + Send + 'static> KeyedScheduler<K> {
    /// A scheduler in which at most `limit` jobs wait. Running jobs do not count: their bound is the executor's.
    pub fn new(executor: impl Executor, limit: usize) -> Self {
        let state = State {
            core: Core::new(),
            due: VecDeque::new(),
            handing_over: false,
            counters: SchedulerCounters::default(),
        };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), executor: Box::new(executor), limit }) }
    }

    /// Runs `job` when `access` allows. Returns at once.
    ///
    /// The job's turn ends when it returns or panics. If the executor has no room at the moment at which the job is
    /// due, the job is dropped; what it owns can tell whoever waits for it.
    ///
    /// # Errors
    /// [`ScheduleError::Full`] if too many jobs wait already; `job` is dropped.
    pub fn submit(&self, access: Access<K>, job: impl FnOnce() + Send + 'static) -> Result<Scheduled, ScheduleError> {
        self.submit_turn(access, move |turn| {
            job();
            drop(turn);
        })
    }

    /// The same for a job whose turn ends later than its closure, such as one that goes on in an asynchronous task: it
    /// ends when the [`Turn`] is dropped.
    ///
    /// # Errors
    /// As [`submit`](Self::submit).
    pub fn submit_turn(
        &self,
        access: Access<K>,
        job: impl FnOnce(Turn) + Send + 'static,
    ) -> Result<Scheduled, ScheduleError> {
        let ticket = self.shared.change(|state, start| {
            if state.core.waiting() >= self.shared.limit {
                state.counters.refused += 1;
                return Err(ScheduleError::Full { limit: self.shared.limit });
            }
            state.counters.submitted += 1;
            Ok(state.core.submit(access, Box::new(job), start))
        })?;
        Ok(Scheduled { scheduler: Arc::clone(&self.shared) as Arc<dyn Tickets>, ticket })
    }

    /// Drops the jobs that have not started and whose deadline has passed at `now`; how many. The scheduler has no
    /// clock of its own: call this at [`next_expiry`](Self::next_expiry). A server does.
    pub fn expire(&self, now: Instant) -> usize {
        let mut expired = Vec::new();
        self.shared.change(|state, start| {
            while let Some(job) = state.core.expire(now, start) {
                expired.push(job);
            }
            state.counters.expired += expired.len() as u64;
        });
        expired.len()
    }

    /// When the next job that waits expires.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Instant> {
        self.shared.state().core.next_expiry()
    }

    /// What it has done so far, and what it holds now.
    #[must_use]
    pub fn counters(&self) -> SchedulerCounters {
        let state = self.shared.state();
        SchedulerCounters {
            promoted: state.core.promotions(),
            waiting: state.core.waiting() as u64,
            running: state.core.running() as u64,
            lanes: state.core.lanes() as u64,
            ..state.counters
        }
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> fmt::Debug for KeyedScheduler<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedScheduler").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl<K> Shared<K> {
    fn state(&self) -> MutexGuard<'_, State<K>> {
        // Nothing of the user's runs under this lock but `Hash`, `Eq` and `Clone` of the keys.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash + Send + 'static> Shared<K> {
    /// Changes the state under the lock, then hands over what has become due.
    fn change<T>(self: &Arc<Self>, change: impl FnOnce(&mut State<K>, &mut Vec<(Ticket, Job)>) -> T) -> T {
        let mut start = Vec::new();
        let mut state = self.state();
        let outcome = change(&mut state, &mut start);
        state.counters.waiting_peak = state.counters.waiting_peak.max(state.core.waiting() as u64);
        state.due.extend(start);
        self.hand_over(state);
        outcome
    }

    /// Hands what is due to the executor. One thread does it at a time, so that jobs of a key reach the executor in
    /// their order; a job that the executor drops ends its turn right here, and what that makes due is found by the
    /// same loop.
    fn hand_over<'a>(self: &'a Arc<Self>, mut state: MutexGuard<'a, State<K>>) {
        if state.handing_over {
            return;
        }
        state.handing_over = true;
        while let Some((ticket, job)) = state.due.pop_front() {
            state.counters.started += 1;
            drop(state);
            let turn = Turn { scheduler: Arc::clone(self) as Arc<dyn Tickets>, ticket };
            // Unwind safe: a job that is dropped on the way ends its turn. Without this, nobody would hand over any
            // more.
            let refused = match catch_unwind(AssertUnwindSafe(|| self.executor.execute(Box::new(move || job(turn))))) {
                Ok(outcome) => outcome.is_err(),
                Err(_) => {
                    tracing::error!("the executor panicked, or a job that it ran at once");
                    false
                }
            };
            state = self.state();
            state.counters.rejected += u64::from(refused);
        }
        state.handing_over = false;
    }
}

/// What a ticket is good for, whatever the keys are.
trait Tickets: Send + Sync {
    fn end_turn(self: Arc<Self>, ticket: Ticket);
    fn cancel(self: Arc<Self>, ticket: Ticket) -> bool;
}

impl<K: Clone + Eq + Hash + Send + 'static> Tickets for Shared<K> {
    fn end_turn(self: Arc<Self>, ticket: Ticket) {
        self.change(|state, start| {
            state.counters.finished += 1;
            state.core.finish(ticket, start);
        });
    }

    fn cancel(self: Arc<Self>, ticket: Ticket) -> bool {
        // The job is dropped outside of the lock.
        let job = self.change(|state, start| {
            let job = state.core.cancel(ticket, start);
            state.counters.cancelled += u64::from(job.is_some());
            job
        });
        job.is_some()
    }
}

/// The right of a job to run now. Others that its keys exclude wait until it is dropped.
#[must_use = "the turn ends when it is dropped"]
pub struct Turn {
    scheduler: Arc<dyn Tickets>,
    ticket: Ticket,
}

impl Drop for Turn {
    fn drop(&mut self) {
        Arc::clone(&self.scheduler).end_turn(self.ticket);
    }
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// A job that was submitted. Dropping it changes nothing.
pub struct Scheduled {
    scheduler: Arc<dyn Tickets>,
    ticket: Ticket,
}

impl Scheduled {
    /// Drops the job if it has not started; whether it was so. A job that runs goes on.
    pub fn cancel(&self) -> bool {
        Arc::clone(&self.scheduler).cancel(self.ticket)
    }
}

impl fmt::Debug for Scheduled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scheduled").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}
