//! Many threads wait for what one connection brings, and one of them at a time drives it (leader and followers).
//!
//! ```text
//!            takes the role              its own wish is granted, or its time is over
//!  waiting ------------------> driving ------------------------------------------------> gone, and the role is passed on:
//!     ^  told: granted, or it is its turn to drive                                        to a thread that waits, else to
//!     `--------------------- asleep on its seat                                           the task
//! ```
//!
//! So an answer needs no hop between threads where one thread calls: the caller itself reads it. All of this is under
//! one lock, the state's. Only the nap of the one that drives is not: it sleeps where the operating system tells of
//! news, and whoever changes what it must know sees under the lock that it naps, and ends that ([`attend`]).
//!
//! The rule against lost wakes: **nobody sleeps on a seat while the role is free and can be taken**, except one that has
//! been told. Whoever leaves passes the role on, whether it drove or not: the one that was told last may have run out
//! of time meanwhile.
//!
//! An asynchronous program leaves a task's waker here ([`Lead::set_task`]). The task drives whenever no thread does; a
//! thread takes the role from it without asking, because a task holds it only while it is polled, under the lock.

use crate::Deadline;
use std::collections::VecDeque;
use std::fmt;
use std::sync::PoisonError;
use std::task::Waker;

#[cfg(loom)]
use loom::sync::{Arc, Condvar, Mutex, MutexGuard};
#[cfg(not(loom))]
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

/// What is driven: a state behind a lock, with a [`Lead`] in it.
pub trait Driven {
    /// What the lock protects.
    type State;
    /// What a nap needs to know.
    type Nap;

    /// The lock.
    fn mutex(&self) -> &Mutex<Self::State>;

    /// Who drives, and who waits.
    fn lead(state: &mut Self::State) -> &mut Lead;

    /// Whether there is anything to drive. While there is not, those that wait are woken one by one, by [`Lead::wake`].
    fn can_drive(state: &Self::State) -> bool;

    /// Moves what can be moved, without waiting, and wakes whom that concerns. It may let others at the lock meanwhile.
    /// A nap, when there is no more to do: whatever happens after this, and not under the lock, ends that nap.
    fn turn<'a>(&'a self, state: MutexGuard<'a, Self::State>) -> (MutexGuard<'a, Self::State>, Option<Self::Nap>);

    /// Sleeps until there is news, a nudge has come, or `until` has. It may wake for nothing.
    fn nap(&self, nap: Self::Nap, until: Deadline);

    /// Ends the nap that is under way, or the next one.
    fn nudge(&self);

    /// Takes a nudge back that has done its work.
    fn hush(&self);
}

/// What somebody waits for.
pub trait Wish<S> {
    /// Whether the wait is over.
    fn granted(&mut self, state: &mut S) -> bool;

    /// Notes in `state` who is to be woken ([`Lead::wake`]) when it may be over. Called before each sleep, so it
    /// replaces what it noted before.
    fn enlist(&mut self, state: &mut S, waiter: Waiter);
}

/// Somebody who sleeps until told.
#[derive(Debug, Clone)]
pub enum Waiter {
    /// A thread, on its seat.
    Thread(Seat),
    /// A future.
    Task(Waker),
}

/// Where a thread sleeps. It belongs to one [`Lead`], and is lent to one thread after the other.
#[derive(Clone)]
pub struct Seat(Arc<Place>);

struct Place {
    told: Condvar,
}

impl fmt::Debug for Seat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seat")
    }
}

impl Seat {
    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Who drives, and who waits for it.
#[derive(Debug, Default)]
pub struct Lead {
    driven: bool,
    napping: bool,
    nudged: bool,
    // Those that sleep and were not told. The first is the next to drive.
    waiting: VecDeque<Seat>,
    // Threads that were told and have not come in yet.
    called: usize,
    free: Vec<Seat>,
    task: Option<Waker>,
}

impl Lead {
    /// Nobody drives, nobody waits.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a thread drives at the moment. Then a task leaves it alone.
    #[must_use]
    pub fn is_driven(&self) -> bool {
        self.driven
    }

    /// Threads that were told and want the lock: one that spins with it should let them in.
    #[must_use]
    pub fn called(&self) -> usize {
        self.called
    }

    /// The task that drives while no thread does; to be set anew whenever it is polled.
    pub fn set_task(&mut self, task: Option<Waker>) {
        self.task = task;
    }

    /// Wakes the task a last time.
    pub fn end_task(&mut self) {
        if let Some(task) = self.task.take() {
            task.wake();
        }
    }

    /// Whether there is one.
    #[must_use]
    pub fn has_task(&self) -> bool {
        self.task.is_some()
    }

    /// Tells one that waits.
    pub fn wake(&mut self, waiter: Waiter) {
        match waiter {
            Waiter::Task(waker) => waker.wake(),
            // One that is not there has been told already, or has gone.
            Waiter::Thread(seat) => {
                if let Some(at) = self.waiting.iter().position(|other| other.is(&seat)) {
                    self.waiting.remove(at);
                    self.call(&seat);
                }
            }
        }
    }

    fn call(&mut self, seat: &Seat) {
        self.called += 1;
        seat.0.told.notify_one();
    }

    fn pass_on(&mut self) {
        if self.driven {
            return;
        }
        if let Some(next) = self.waiting.pop_front() {
            self.call(&next);
        } else if let Some(task) = &self.task {
            task.wake_by_ref();
        }
    }

    fn sit(&mut self) -> Seat {
        let seat = self.free.pop().unwrap_or_else(|| Seat(Arc::new(Place { told: Condvar::new() })));
        self.waiting.push_back(seat.clone());
        seat
    }

    fn stand(&mut self, seat: Seat) {
        match self.waiting.iter().position(|other| other.is(&seat)) {
            // It was not told: its time is over, or it woke for nothing.
            Some(at) => _ = self.waiting.remove(at),
            None => self.called -= 1,
        }
        // Somebody may still hold it for a wake that then finds it not waiting, or wakes its next user for nothing.
        self.free.push(seat);
    }
}

/// The lock.
pub fn lock<D: Driven + ?Sized>(driven: &D) -> MutexGuard<'_, D::State> {
    driven.mutex().lock().unwrap_or_else(PoisonError::into_inner)
}

/// Something has changed that whoever drives must know: more to send, or a wish that is granted by this.
pub fn attend<D: Driven + ?Sized>(driven: &D, state: &mut D::State) {
    let lead = D::lead(state);
    if !lead.driven {
        if let Some(task) = &lead.task {
            task.wake_by_ref();
        }
    } else if lead.napping && !lead.nudged {
        lead.nudged = true;
        driven.nudge();
    }
}

/// Waits until `wish` is granted or `until` has come, and drives as long as nobody else does. Whether it was granted.
pub fn wait<'a, D: Driven + ?Sized>(
    driven: &'a D,
    mut state: MutexGuard<'a, D::State>,
    until: Deadline,
    wish: &mut impl Wish<D::State>,
) -> (MutexGuard<'a, D::State>, bool) {
    loop {
        let granted = wish.granted(&mut state);
        if granted || until.passed() {
            D::lead(&mut state).pass_on();
            return (state, granted);
        }
        state = if !D::lead(&mut state).driven && D::can_drive(&state) {
            drive(driven, state, until, wish)
        } else {
            sleep::<D>(state, until, wish)
        };
    }
}

fn drive<'a, D: Driven + ?Sized>(
    driven: &'a D,
    mut state: MutexGuard<'a, D::State>,
    until: Deadline,
    wish: &mut impl Wish<D::State>,
) -> MutexGuard<'a, D::State> {
    D::lead(&mut state).driven = true;
    loop {
        let nap;
        (state, nap) = driven.turn(state);
        if wish.granted(&mut state) || until.passed() || !D::can_drive(&state) {
            break;
        }
        if let Some(nap) = nap {
            D::lead(&mut state).napping = true;
            drop(state);
            driven.nap(nap, until);
            state = lock(driven);
            let lead = D::lead(&mut state);
            lead.napping = false;
            if std::mem::take(&mut lead.nudged) {
                driven.hush();
            }
        }
    }
    D::lead(&mut state).driven = false;
    state
}

fn sleep<'a, D: Driven + ?Sized>(
    mut state: MutexGuard<'a, D::State>,
    until: Deadline,
    wish: &mut impl Wish<D::State>,
) -> MutexGuard<'a, D::State> {
    let seat = D::lead(&mut state).sit();
    wish.enlist(&mut state, Waiter::Thread(seat.clone()));
    let mut state = match until.remaining() {
        None => seat.0.told.wait(state).unwrap_or_else(PoisonError::into_inner),
        Some(left) => seat.0.told.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
    };
    D::lead(&mut state).stand(seat);
    state
}

#[cfg(all(test, loom))]
mod loom_tests;
