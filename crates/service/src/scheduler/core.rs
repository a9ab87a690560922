//! Which job may run: the whole decision, without a thread, a lock or a clock.
//!
//! Every job gets a ticket, in the order of submission. A job may start when no running job excludes it and no waiting
//! job with an earlier ticket does (first in, first out for each key). Jobs with several keys take all of them in one
//! step, and wait only for earlier tickets or for running jobs, so no two of them can wait for each other.
//!
//! One exception makes it fair between readers and writers (phase-fair, after Brandenburg and Anderson, "Spin-based
//! reader-writer synchronization for multiprocessor real-time systems", 2010): when a write of a key ends, the readers
//! that wait for that key at that moment start before the next write. A reader so waits for one write at most where it
//! would have waited for a queue of them. A reader that starts this way starts at once and on all its keys, or not at
//! all; a write is so overtaken once for each write that is ahead of it in its lanes, and no more. Three things are
//! never overtaken: a barrier, an earlier write of the same session, and a write on another key.

use super::access::{Access, Mode};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Instant;

/// A job's place in the order of submission.
pub(super) type Ticket = u64;

struct Waiting<K, J> {
    access: Access<K>,
    job: J,
}

/// The state of one key. It exists as long as some unfinished job has the key.
#[derive(Default)]
struct Lane {
    readers: usize,
    writing: bool,
    waiting_reads: BTreeSet<Ticket>,
    waiting_writes: BTreeSet<Ticket>,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.readers == 0 && !self.writing && self.waiting_reads.is_empty() && self.waiting_writes.is_empty()
    }

    /// Whether the job of `ticket` may have the key now. `promoted`: waiting writes do not hold a read up.
    fn admits(&self, ticket: Ticket, mode: Mode, promoted: bool) -> bool {
        let earlier = |waiting: &BTreeSet<Ticket>| waiting.first().is_some_and(|first| *first < ticket);
        match mode {
            Mode::Read => !self.writing && (promoted || !earlier(&self.waiting_writes)),
            Mode::Write => {
                !self.writing && self.readers == 0 && !earlier(&self.waiting_writes) && !earlier(&self.waiting_reads)
            }
        }
    }
}

/// See the module.
pub(super) struct Core<K, J> {
    last: Ticket,
    waiting: BTreeMap<Ticket, Waiting<K, J>>,
    running: HashMap<Ticket, Access<K>>,
    lanes: HashMap<K, Lane>,
    /// Tickets of all unfinished jobs but snapshots: a barrier is due when it is the first.
    unfinished: BTreeSet<Ticket>,
    /// Barriers that wait or run.
    barriers: BTreeSet<Ticket>,
    /// Unfinished writes of each session.
    sessions: HashMap<u64, BTreeSet<Ticket>>,
    /// Snapshots that wait for a write of their session.
    snapshots: BTreeSet<Ticket>,
    expiries: BTreeSet<(Instant, Ticket)>,
    promotions: u64,
}

impl<K: Clone + Eq + Hash, J> Core<K, J> {
    pub(super) fn new() -> Self {
        Self {
            last: 0,
            waiting: BTreeMap::new(),
            running: HashMap::new(),
            lanes: HashMap::new(),
            unfinished: BTreeSet::new(),
            barriers: BTreeSet::new(),
            sessions: HashMap::new(),
            snapshots: BTreeSet::new(),
            expiries: BTreeSet::new(),
            promotions: 0,
        }
    }

    /// Jobs that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Jobs that have been started and have not finished.
    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    /// Keys that some unfinished job has.
    pub(super) fn lanes(&self) -> usize {
        self.lanes.len()
    }

    /// Readers that started before a write that had come earlier.
    pub(super) fn promotions(&self) -> u64 {
        self.promotions
    }

    /// When the next waiting job expires.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    /// Enters a job. It is handed to `start`, here and elsewhere, the moment it may run.
    pub(super) fn submit(&mut self, access: Access<K>, job: J, start: &mut Vec<(Ticket, J)>) -> Ticket {
        self.last += 1;
        let ticket = self.last;
        for (key, mode) in access.keys() {
            let lane = self.lanes.entry(key.clone()).or_default();
            match mode {
                Mode::Read => lane.waiting_reads.insert(ticket),
                Mode::Write => lane.waiting_writes.insert(ticket),
            };
        }
        if access.is_snapshot() {
            self.snapshots.insert(ticket);
        } else {
            self.unfinished.insert(ticket);
        }
        if access.is_barrier() {
            self.barriers.insert(ticket);
        }
        if let (Some(session), true) = (access.session, access.writes()) {
            self.sessions.entry(session).or_default().insert(ticket);
        }
        if let Some(at) = access.deadline.instant() {
            self.expiries.insert((at, ticket));
        }
        self.waiting.insert(ticket, Waiting { access, job });
        self.start_if_due(ticket, None, start);
        ticket
    }

    /// A running job has ended. Unknown tickets change nothing.
    pub(super) fn finish(&mut self, ticket: Ticket, start: &mut Vec<(Ticket, J)>) {
        let Some(access) = self.running.remove(&ticket) else { return };
        for (key, mode) in access.keys() {
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            match mode {
                Mode::Read => lane.readers -= 1,
                Mode::Write => lane.writing = false,
            }
        }
        self.left(ticket, &access, true, start);
    }

    /// Takes a job back that still waits.
    pub(super) fn cancel(&mut self, ticket: Ticket, start: &mut Vec<(Ticket, J)>) -> Option<J> {
        let Waiting { access, job } = self.waiting.remove(&ticket)?;
        self.no_longer_waits(ticket, &access);
        self.left(ticket, &access, false, start);
        Some(job)
    }

    /// Takes the next job back whose deadline has passed at `now`.
    pub(super) fn expire(&mut self, now: Instant, start: &mut Vec<(Ticket, J)>) -> Option<J> {
        let &(at, ticket) = self.expiries.first()?;
        if at > now { None } else { self.cancel(ticket, start) }
    }

    /// What a job that ended or was taken back had held up. `ended`: it had run.
    fn left(&mut self, ticket: Ticket, access: &Access<K>, ended: bool, start: &mut Vec<(Ticket, J)>) {
        self.unfinished.remove(&ticket);
        let barrier = self.barriers.remove(&ticket);
        if let (Some(session), true) = (access.session, access.writes()) {
            if let Some(writes) = self.sessions.get_mut(&session) {
                writes.remove(&ticket);
                if writes.is_empty() {
                    self.sessions.remove(&session);
                }
            }
            let of_session = |ticket: &Ticket| self.waiting[ticket].access.session == Some(session);
            let snapshots: Vec<Ticket> = self.snapshots.iter().copied().filter(of_session).collect();
            for ticket in snapshots {
                self.start_if_due(ticket, None, start);
            }
        }
        if barrier {
            // Whatever came after it, up to the next barrier.
            let end = self.barriers.first().copied().unwrap_or(Ticket::MAX);
            let after: Vec<Ticket> = self.waiting.range(..=end).map(|(ticket, _)| *ticket).collect();
            for ticket in after {
                self.start_if_due(ticket, None, start);
            }
        } else {
            self.start_waiters_of(access, ended.then_some(access), start);
        }
        for (key, _) in access.keys() {
            if self.lanes.get(key).is_some_and(Lane::is_empty) {
                self.lanes.remove(key);
            }
        }
        if let Some(first) = self.barriers.first().copied() {
            self.start_if_due(first, None, start);
        }
    }

    /// Looks at those that wait for a key of `access`: first those that read one, then the others, each in order.
    fn start_waiters_of(&mut self, access: &Access<K>, ended: Option<&Access<K>>, start: &mut Vec<(Ticket, J)>) {
        let mut reads = BTreeSet::new();
        for (key, mode) in access.keys() {
            let Some(lane) = self.lanes.get(key) else { continue };
            let phase_ended = ended.is_some() && mode == Mode::Write;
            // Those behind a waiting write can start only if a write has just ended.
            let last = if phase_ended { None } else { lane.waiting_writes.first() }.copied().unwrap_or(Ticket::MAX);
            reads.extend(lane.waiting_reads.range(..=last));
        }
        for ticket in reads {
            self.start_if_due(ticket, ended, start);
        }
        // Of the writes of a lane only the first can be due.
        let first_write = |(key, _): (&K, Mode)| self.lanes.get(key)?.waiting_writes.first().copied();
        let writes: BTreeSet<Ticket> = access.keys().filter_map(first_write).collect();
        for ticket in writes {
            self.start_if_due(ticket, ended, start);
        }
    }

    /// Starts a waiting job if it may run. `ended`: the job whose end is the occasion.
    fn start_if_due(&mut self, ticket: Ticket, ended: Option<&Access<K>>, start: &mut Vec<(Ticket, J)>) {
        if !self.is_due(ticket, ended) {
            return;
        }
        let Some(Waiting { access, job }) = self.waiting.remove(&ticket) else { return };
        self.no_longer_waits(ticket, &access);
        for (key, mode) in access.keys() {
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            match mode {
                Mode::Read => lane.readers += 1,
                Mode::Write => lane.writing = true,
            }
        }
        let behind = |(key, mode): (&K, Mode)| {
            mode == Mode::Read && self.lanes[key].waiting_writes.first().is_some_and(|first| *first < ticket)
        };
        self.promotions += u64::from(access.keys().any(behind));
        self.running.insert(ticket, access);
        start.push((ticket, job));
    }

    fn is_due(&self, ticket: Ticket, ended: Option<&Access<K>>) -> bool {
        let Some(Waiting { access, .. }) = self.waiting.get(&ticket) else { return false };
        let own_writes = access.session.and_then(|session| self.sessions.get(&session)?.first());
        let sees_own_writes = own_writes.is_none_or(|first| *first >= ticket);
        if access.is_snapshot() {
            return sees_own_writes;
        }
        if access.is_barrier() {
            return self.unfinished.first() == Some(&ticket);
        }
        if self.barriers.first().is_some_and(|barrier| *barrier < ticket) {
            return false;
        }
        access.keys().all(|(key, mode)| {
            let wrote = |ended: &Access<K>| ended.keys().any(|(other, mode)| mode == Mode::Write && other == key);
            let promoted = mode == Mode::Read && sees_own_writes && ended.is_some_and(wrote);
            self.lanes.get(key).is_none_or(|lane| lane.admits(ticket, mode, promoted))
        })
    }

    fn no_longer_waits(&mut self, ticket: Ticket, access: &Access<K>) {
        for (key, mode) in access.keys() {
            let Some(lane) = self.lanes.get_mut(key) else { continue };
            match mode {
                Mode::Read => lane.waiting_reads.remove(&ticket),
                Mode::Write => lane.waiting_writes.remove(&ticket),
            };
        }
        self.snapshots.remove(&ticket);
        if let Some(at) = access.deadline.instant() {
            self.expiries.remove(&(at, ticket));
        }
    }
}
