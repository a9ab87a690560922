//! Wakes a crowd of sleeping readers on behalf of the writer.
//!
//! The kernel needs microseconds to wake one sleeper, whoever asks and by whatever means: 64 of them would hold a
//! publication up for some hundred. So where there are more than [`ONE_BY_ONE`] readers a thread of the writer's
//! process wakes them, and a publication pays for waking that thread, or for nothing while it is still at work. Readers
//! take no part in it, so none of them can hold up another.

use crate::tether;
use ginnel_memory::ring::Control;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Readers that a writer wakes itself: it costs no more than to wake somebody else for it.
pub(crate) const ONE_BY_ONE: usize = 2;

/// Who may have to be woken, and the thread that does it once there is a crowd.
#[derive(Debug)]
pub(crate) struct Crier {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Where the thread runs: a process made by `fork` has none.
    process: u32,
    started: bool,
}

/// Readers by slot, and how each is woken. Never changed, only replaced, so that the thread can go through one without
/// holding anybody up.
type Sockets = Arc<Vec<(usize, Arc<OwnedFd>)>>;

#[derive(Debug)]
struct Shared {
    control: Control,
    /// Held for a look or a change, never while something is sent.
    sockets: Mutex<Sockets>,
    called: AtomicBool,
    ended: AtomicBool,
    woken: AtomicU64,
}

impl Shared {
    fn sockets(&self) -> MutexGuard<'_, Sockets> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        while !self.ended.load(Ordering::Acquire) {
            // Taken before the look: who calls from here on is heard by the next one. AcqRel pairs with the swap in
            // `call`, so that the look finds whoever the caller has seen.
            if !self.called.swap(false, Ordering::AcqRel) {
                std::thread::park();
                continue;
            }
            self.round(tether::wake);
        }
    }

    /// Has `wake` wake all who sleep.
    fn round(&self, mut wake: impl FnMut(BorrowedFd<'_>)) {
        let mut known = self.sockets().clone();
        loop {
            for (slot, socket) in known.iter() {
                if self.control.take_armed(*slot) {
                    wake(socket.as_fd());
                    self.woken.fetch_add(1, Ordering::Relaxed);
                }
            }
            let now = self.sockets().clone();
            if Arc::ptr_eq(&known, &now) {
                return;
            }
            // A slot that has changed hands meanwhile: its reader's announcement was taken, and its former one woken.
            let is_known = |new: &Arc<OwnedFd>| known.iter().any(|(_, old)| Arc::ptr_eq(old, new));
            for (_, socket) in now.iter().filter(|(_, socket)| !is_known(socket)) {
                wake(socket.as_fd());
            }
            known = now;
        }
    }
}

impl Crier {
    pub(crate) fn new(control: Control) -> Self {
        let shared = Arc::new(Shared {
            control,
            sockets: Mutex::default(),
            called: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            woken: AtomicU64::new(0),
        });
        Self { shared, thread: None, process: std::process::id(), started: false }
    }

    /// From now on the reader in `slot` is woken by `socket`; and it is woken now, because a wake-up that was meant for
    /// it may have gone to the socket of the reader that had the slot before, or to its own former one.
    pub(crate) fn add(&self, slot: usize, socket: &Arc<OwnedFd>) {
        self.change(|sockets| {
            sockets.retain(|(known, _)| *known != slot);
            sockets.push((slot, Arc::clone(socket)));
        });
        tether::wake(socket.as_fd());
    }

    pub(crate) fn remove(&self, slot: usize) {
        self.change(|sockets| sockets.retain(|(known, _)| *known != slot));
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(usize, Arc<OwnedFd>)>)) {
        // The copy of a lock that the thread held when this process was made by `fork` is never given up. Nobody needs
        // the list here, because the thread that reads it is not here either.
        if !self.is_elsewhere() {
            change(Arc::make_mut(&mut self.shared.sockets()));
        }
    }

    /// Whether the thread is another process's, of which this one is a copy.
    fn is_elsewhere(&self) -> bool {
        self.thread.is_some() && self.process != std::process::id()
    }

    /// How many readers it has woken.
    pub(crate) fn woken(&self) -> u64 {
        self.shared.woken.load(Ordering::Relaxed)
    }

    /// Has all sleepers woken, and does not wait for it. False if nobody is there to do it.
    pub(crate) fn call(&mut self) -> bool {
        if !self.started {
            (self.started, self.process) = (true, std::process::id());
            let shared = Arc::clone(&self.shared);
            match ginnel_base::thread::spawn("ginnel-crier", move || shared.run()) {
                Ok(thread) => self.thread = Some(thread),
                Err(error) => tracing::debug!(%error, "no thread wakes the readers: the writer does"),
            }
        }
        let Some(thread) = &self.thread else { return false };
        if self.is_elsewhere() || thread.is_finished() {
            return false;
        }
        if !self.shared.called.swap(true, Ordering::AcqRel) {
            thread.thread().unpark();
        }
        true
    }
}

/// Lets the sockets go, which ends the sleep of every reader, and the thread with them. Does not wait for it to be
/// gone.
impl Drop for Crier {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release); // pairs with the load in `run`
        if !self.is_elsewhere() {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
            *self.shared.sockets() = Sockets::default();
        } else if let Ok(mut sockets) = self.shared.sockets.try_lock() {
            *sockets = Sockets::default(); // after a `fork` nobody is left who would give up a lock that the thread held
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ginnel_memory::identity::Identity;
    use ginnel_memory::ring::{Consumer, Geometry, Mode};
    use ginnel_memory::{PARAMS, Segment, Spec};
    use std::os::fd::AsRawFd;

    const READERS: usize = 4;

    fn segment(data: usize) -> Segment {
        let spec = Spec { kind: 1, layout: 1, instance: 1, params: [0; PARAMS], data, mirror: false };
        Segment::memfd("crier", &spec, false).unwrap()
    }

    /// The crier of a ring without a writer, and one of its readers in each slot.
    fn crier() -> (Crier, Vec<Consumer>) {
        let geometry = Geometry::fixed(Mode::Lossy, 16, 4, READERS).unwrap();
        let control = Control::new(segment(Control::bytes(READERS)).data_mut(), READERS).unwrap();
        let data = segment(geometry.data_bytes());
        let reader = |token| {
            let slot = control.claim(token, Identity::own()).unwrap();
            Consumer::new(geometry, data.header_words(), data.data(), control.clone(), slot, token).unwrap()
        };
        let readers = (1..=READERS as u64).map(reader).collect();
        (Crier::new(control), readers)
    }

    /// A reader's two ends.
    fn tether() -> (Arc<OwnedFd>, OwnedFd) {
        let (near, far) = crate::tether::pair().unwrap();
        (Arc::new(near), far)
    }

    #[test]
    fn nobody_waits_for_a_round_to_join_or_to_leave_and_whoever_takes_a_slot_over_meanwhile_is_woken() {
        let (crier, readers) = crier();
        let (first, _kept) = tether();
        let (second, _kept) = tether();
        for (slot, socket) in [(0, &first), (1, &second)] {
            crier.add(slot, socket);
            let _ = readers[slot].arm();
        }
        let (newcomer, _kept) = tether();
        let mut woken = Vec::new();
        crier.shared.round(|socket| {
            woken.push(socket.as_raw_fd());
            if woken.len() == 1 {
                // In the middle of the round, on the round's own thread: a lock that it held would be taken twice.
                crier.remove(1);
                crier.add(1, &newcomer);
            }
        });
        // The second's announcement was taken in its name, so its successor must hear of it.
        assert_eq!(woken, [&first, &second, &newcomer].map(|socket| socket.as_raw_fd()));
        assert_eq!(crier.woken(), 2);
    }

    #[test]
    fn a_copy_of_the_process_does_not_wait_for_a_lock_that_the_thread_held() {
        let (mut crier, _readers) = crier();
        assert!(crier.call(), "the thread has begun");
        let (shared, thread) = (Arc::clone(&crier.shared), crier.thread.as_ref().unwrap().thread().clone());
        // As a process made by `fork` finds it, if the thread was just then at its list.
        let held = shared.sockets();
        crier.process += 1;
        let (socket, _kept) = tether();
        crier.add(0, &socket);
        crier.remove(0);
        assert!(!crier.call(), "the thread is not here");
        drop(crier);
        assert!(held.is_empty());
        drop(held);
        thread.unpark();
    }
}
