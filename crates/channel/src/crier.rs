//! Wakes a crowd of sleeping readers on behalf of the writer.
//!
//! The kernel needs microseconds to wake one sleeper, whoever asks and by whatever means: 64 of them would hold a
//! publication up for some hundred. So where there are more than [`ONE_BY_ONE`] readers a thread of the writer's
//! process wakes them, and a publication pays for waking that thread, or for nothing while it is still at work. Readers
//! take no part in it, so none of them can hold up another.

use ginnel_memory::ring::Control;
use rustix::fd::{AsFd, OwnedFd};
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

#[derive(Debug)]
struct Shared {
    control: Control,
    sockets: Mutex<Vec<(usize, Arc<OwnedFd>)>>,
    called: AtomicBool,
    ended: AtomicBool,
    woken: AtomicU64,
}

impl Shared {
    fn sockets(&self) -> MutexGuard<'_, Vec<(usize, Arc<OwnedFd>)>> {
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
            for (slot, socket) in self.sockets().iter() {
                if self.control.take_armed(*slot) {
                    crate::tether::wake(socket.as_fd());
                    self.woken.fetch_add(1, Ordering::Relaxed);
                }
            }
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
        let mut sockets = self.shared.sockets();
        sockets.retain(|(known, _)| *known != slot);
        sockets.push((slot, Arc::clone(socket)));
        drop(sockets);
        crate::tether::wake(socket.as_fd());
    }

    pub(crate) fn remove(&self, slot: usize) {
        self.shared.sockets().retain(|(known, _)| *known != slot);
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
        if thread.is_finished() || self.process != std::process::id() {
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
        if self.process == std::process::id() {
            if let Some(thread) = &self.thread {
                thread.thread().unpark();
            }
            self.shared.sockets().clear();
        } else if let Ok(mut sockets) = self.shared.sockets.try_lock() {
            sockets.clear(); // after a `fork` nobody is left who would give up a lock that the thread held
        }
    }
}
