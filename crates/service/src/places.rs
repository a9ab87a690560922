//! The places of a server: which sessions it has, and which of them makes room when all are taken.

use crate::server::Shared;
use ginnel_base::Deadline;
use rustix::net::Shutdown;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The sessions of a server. At most as many as it may have, and those that are leaving because they have made room.
#[derive(Debug)]
pub(crate) struct Places {
    most: usize,
    // How long a session must have been idle before it makes room.
    idle_for: Duration,
    began: Instant,
    table: Mutex<Table>,
    left: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    last: u64,
    sessions: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    // A second descriptor of the session's socket: a session whose handler hangs is hung up on from outside.
    socket: OwnedFd,
    state: Arc<State>,
}

/// `BUSY`, `LEAVING`, or since when the session waits for a request, in nanoseconds since the server began, counted from 2.
#[derive(Debug)]
struct State(AtomicU64);

const BUSY: u64 = 0;
const LEAVING: u64 = 1;
const FIRST: u64 = 2;

impl State {
    fn is_leaving(&self) -> bool {
        self.0.load(Ordering::Relaxed) == LEAVING
    }
}

impl Places {
    pub(crate) fn new(most: usize, idle_for: Duration) -> Self {
        Self { most, idle_for, began: Instant::now(), table: Mutex::default(), left: Condvar::new() }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // The table is whole after any panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX - FIRST) + FIRST
    }

    /// Sessions that hold a place.
    pub(crate) fn taken(&self) -> usize {
        self.table().taken()
    }

    pub(crate) fn hang_up_on_all(&self) {
        for entry in self.table().sessions.values() {
            let _ = rustix::net::shutdown(&entry.socket, Shutdown::Both);
        }
    }

    /// Waits until no session is left, at most until `deadline`; how many are left.
    pub(crate) fn wait_until_empty(&self, deadline: Deadline) -> usize {
        let mut table = self.table();
        while !table.sessions.is_empty() && !deadline.passed() {
            table = match deadline.remaining() {
                Some(left) => self.left.wait_timeout(table, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.left.wait(table).unwrap_or_else(PoisonError::into_inner),
            };
        }
        table.sessions.len()
    }

    /// Hangs up on the session that has been idle longest, if that is long enough. It is not asked: a request that comes in this
    /// moment is not executed, and its client sends it again on a new session.
    fn make_room(&self, table: &Table) -> bool {
        let now = self.now();
        let patience = u64::try_from(self.idle_for.as_nanos()).unwrap_or(u64::MAX);
        loop {
            let since = |entry: &Entry| entry.state.0.load(Ordering::Relaxed);
            let idle = table.sessions.values().filter(|entry| since(entry) >= FIRST);
            let Some(idlest) = idle.min_by_key(|entry| since(entry)) else { return false };
            let found = since(idlest);
            if found < FIRST {
                continue;
            }
            if now.saturating_sub(found) < patience {
                return false;
            }
            // Relaxed: the word is all that is told. Whoever swaps it first decides between this and a request.
            if idlest.state.0.compare_exchange(found, LEAVING, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                let _ = rustix::net::shutdown(&idlest.socket, Shutdown::Both);
                return true;
            }
        }
    }
}

impl Table {
    fn taken(&self) -> usize {
        self.sessions.values().filter(|entry| !entry.state.is_leaving()).count()
    }
}

/// The place of one session; given back on drop, panic or not.
#[derive(Debug)]
pub(crate) struct Place {
    shared: Arc<Shared>,
    id: u64,
    state: Arc<State>,
}

impl Place {
    /// A free place, or that of a session which makes room; `None` if the server is full of sessions that are in use.
    pub(crate) fn take(shared: &Arc<Shared>, socket: BorrowedFd<'_>) -> Option<Self> {
        let socket = socket.try_clone_to_owned().ok()?;
        let places = &shared.places;
        let mut table = places.table();
        if table.taken() >= places.most {
            if !places.make_room(&table) {
                return None;
            }
            shared.counters.made_room.fetch_add(1, Ordering::Relaxed);
        }
        table.last += 1;
        let (id, state) = (table.last, Arc::new(State(AtomicU64::new(BUSY))));
        table.sessions.insert(id, Entry { socket, state: Arc::clone(&state) });
        Some(Self { shared: Arc::clone(shared), id, state })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The session waits for a request from now on. False if it has made room.
    pub(crate) fn rest(&self) -> bool {
        let now = self.shared.places.now();
        self.state.0.compare_exchange(BUSY, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    /// A request has come. False if the session has made room before it.
    pub(crate) fn work(&self) -> bool {
        let before = self.state.0.load(Ordering::Relaxed);
        before != LEAVING && self.state.0.compare_exchange(before, BUSY, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shared.places.table().sessions.remove(&self.id);
        self.shared.places.left.notify_all();
    }
}
