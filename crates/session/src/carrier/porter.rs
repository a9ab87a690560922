//! Threads that wait at the doorbells of many sessions, each at up to [`MAX_SLEEPS`], and tell whoever asked.
//!
//! Only a thread can sleep on the futex of a slot. A driver of many sessions has none to spare for each, so it hands a
//! doorbell in with a [`Waker`]. A wait costs the porter one look at all its doorbells and the kernel one at all their
//! words: that is for sessions that have become quiet; whoever expects an answer looks for itself for a while.
//!
//! Where the kernel cannot wait for many words (before Linux 5.16, or where a filter forbids it), a porter has one
//! doorbell.

use super::Doorbell;
use ginnel_memory::{Bell, MAX_SLEEPS, Sleep, sleep_on_any};
use rustix::io::Errno;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};

/// A porter looks at words and calls wakers.
const STACK: usize = 256 << 10;

/// A doorbell in a porter's care ([`Doorbell::attend`]), until it has been rung or this is dropped.
#[derive(Debug)]
#[must_use = "nobody attends to the doorbell when this is dropped"]
pub struct Attended {
    porter: Arc<Porter>,
    visit: Arc<Visit>,
}

#[derive(Debug)]
struct Visit {
    bell: Doorbell,
    waker: Mutex<Waker>,
    rung: AtomicBool,
}

#[derive(Debug)]
struct Porter {
    // Rung when the visits have changed.
    changed: Bell,
    visits: Mutex<Vec<Arc<Visit>>>,
}

/// The porters of this process. A forked child has copies of none and starts its own.
#[derive(Debug)]
struct Porters {
    process: u32,
    all: Vec<Arc<Porter>>,
}

fn porters() -> MutexGuard<'static, Porters> {
    static PORTERS: Mutex<Porters> = Mutex::new(Porters { process: 0, all: Vec::new() });
    let mut porters = lock(&PORTERS);
    let process = std::process::id();
    if porters.process != process {
        *porters = Porters { process, all: Vec::new() };
    }
    porters
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many doorbells a porter can attend to.
fn capacity() -> usize {
    static CAPACITY: OnceLock<usize> = OnceLock::new();
    *CAPACITY.get_or_init(|| {
        // Over at once, if the kernel knows the call at all.
        let bell = Bell::default();
        match sleep_on_any(&[], &bell, bell.count().wrapping_add(1)) {
            Err(Errno::NOSYS | Errno::PERM) => 1,
            _ => MAX_SLEEPS,
        }
    })
}

/// Has a porter wake `waker` once.
fn attend(bell: Doorbell, waker: &Waker) -> io::Result<Attended> {
    let visit = Arc::new(Visit { bell, waker: Mutex::new(waker.clone()), rung: AtomicBool::new(false) });
    let mut porters = porters();
    for porter in &porters.all {
        let mut visits = lock(&porter.visits);
        if visits.len() < capacity() {
            visits.push(Arc::clone(&visit));
            drop(visits);
            porter.changed.ring();
            return Ok(Attended { porter: Arc::clone(porter), visit });
        }
    }
    let porter = Arc::new(Porter { changed: Bell::default(), visits: Mutex::new(vec![Arc::clone(&visit)]) });
    // One stays, so that a single session that is quiet now and then does not start a thread each time.
    let (of_thread, stays) = (Arc::clone(&porter), porters.all.is_empty() && capacity() > 1);
    ginnel_base::thread::spawn_with_stack("ginnel-porter", STACK, move || of_thread.run(stays))?;
    porters.all.push(Arc::clone(&porter));
    Ok(Attended { porter, visit })
}

impl Doorbell {
    /// Has a thread of this process, shared by up to 63 doorbells, wake `waker` once when something has come since
    /// [`Carrier::arm`](super::Carrier::arm), be it before this call. It may be woken for nothing: the next attempt
    /// tells. Does not block; costs a few microseconds, so look for a while before.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn attend(self, waker: &Waker) -> io::Result<Attended> {
        attend(self, waker)
    }
}

impl Attended {
    /// Whether it has been rung; if not, `context` is woken when it is, and no other.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        self.waker().clone_from(context.waker());
        // SYNC visit.rung: after the waker is there; the porter takes the waker after it has said so.
        if self.visit.rung.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }

    fn waker(&self) -> MutexGuard<'_, Waker> {
        lock(&self.visit.waker)
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        let mut visits = lock(&self.porter.visits);
        if let Some(at) = visits.iter().position(|visit| Arc::ptr_eq(visit, &self.visit)) {
            visits.swap_remove(at);
            drop(visits);
            // It must not hold on to a region whose session is gone.
            self.porter.changed.ring();
        }
    }
}

impl Porter {
    /// Attends, for ever if it `stays`, else as long as anybody needs it.
    fn run(&self, stays: bool) {
        let mut attended = Vec::new();
        loop {
            let changed = self.changed.count();
            attended.clear();
            attended.extend(lock(&self.visits).iter().cloned());
            if attended.is_empty() && !stays && self.has_gone() {
                return;
            }
            let mut told = false;
            for visit in attended.iter().filter(|visit| visit.bell.is_rung()) {
                self.tell(visit);
                told = true;
            }
            if !told && self.sleep(&attended, changed).is_err() {
                // One of them cannot be slept on: the region is cut short, which its session finds out.
                attended.iter().filter(|visit| visit.bell.cannot_sleep()).for_each(|visit| self.tell(visit));
            }
        }
    }

    fn sleep(&self, attended: &[Arc<Visit>], changed: u32) -> Result<(), Errno> {
        if let ([visit], 1) = (attended, capacity()) {
            // As well as such a kernel can: it looks four times a second.
            return visit.bell.sleep(None).map_err(|_| Errno::FAULT);
        }
        let sleeps: Vec<Sleep<'_>> = attended.iter().map(|visit| visit.bell.as_sleep()).collect();
        match sleep_on_any(&sleeps, &self.changed, changed) {
            Ok(()) | Err(Errno::AGAIN | Errno::INTR) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn tell(&self, visit: &Arc<Visit>) {
        lock(&self.visits).retain(|other| !Arc::ptr_eq(other, visit));
        // SYNC visit.rung
        visit.rung.store(true, Ordering::Release);
        // Outside the locks: a waker may do as it likes.
        let waker = lock(&visit.waker).clone();
        waker.wake();
    }

    /// Leaves the list of porters, unless a visit has come meanwhile.
    fn has_gone(&self) -> bool {
        let mut porters = porters();
        let gone = lock(&self.visits).is_empty();
        if gone {
            porters.all.retain(|porter| !std::ptr::eq(&**porter, self));
        }
        gone
    }
}
