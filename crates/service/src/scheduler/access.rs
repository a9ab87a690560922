//! What a job touches, and so which jobs it excludes.

use ginnel_base::Deadline;
use std::hash::Hash;

/// How a job uses a key. The order matters: of two uses of one key the greater one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mode {
    Read,
    Write,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind<K> {
    Snapshot,
    /// The job of one key needs no allocation.
    One(K, Mode),
    Many(Vec<(K, Mode)>),
    Barrier,
}

/// What a job touches: nothing that changes, keys to read and to write, or everything.
///
/// ```
/// use ginnel_service::Access;
///
/// let transfer = Access::write("alice").and_write("bob").and_read("rates").in_session(7);
/// let everything = Access::<&str>::barrier();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Access<K> {
    pub(super) kind: Kind<K>,
    pub(super) session: Option<u64>,
    pub(super) deadline: Deadline,
}

impl<K: Eq + Hash> Access<K> {
    fn new(kind: Kind<K>) -> Self {
        Self { kind, session: None, deadline: Deadline::NEVER }
    }

    /// Reads a snapshot that no write changes: it starts at once, beside whatever runs. In a session it waits for the
    /// earlier writes of that session, because a session sees its own writes.
    pub fn snapshot() -> Self {
        Self::new(Kind::Snapshot)
    }

    /// Reads `key`: together with other reads, never together with a write of that key.
    pub fn read(key: K) -> Self {
        Self::new(Kind::One(key, Mode::Read))
    }

    /// Writes `key`: alone on that key.
    pub fn write(key: K) -> Self {
        Self::new(Kind::One(key, Mode::Write))
    }

    /// Alone: after everything that was submitted before it, and before everything that is submitted after it. Only
    /// snapshots run beside it.
    pub fn barrier() -> Self {
        Self::new(Kind::Barrier)
    }

    /// Reads `key` as well. A barrier stays a barrier.
    pub fn and_read(self, key: K) -> Self {
        self.and(key, Mode::Read)
    }

    /// Writes `key` as well. A barrier stays a barrier.
    pub fn and_write(self, key: K) -> Self {
        self.and(key, Mode::Write)
    }

    /// The job belongs to `session` (a connection, say): it does not overtake earlier writes of that session.
    pub fn in_session(mut self, session: u64) -> Self {
        self.session = Some(session);
        self
    }

    /// The job is dropped if it has not started by `deadline`.
    pub fn until(mut self, deadline: Deadline) -> Self {
        self.deadline = deadline;
        self
    }

    fn and(mut self, key: K, mode: Mode) -> Self {
        self.kind = match self.kind {
            Kind::Snapshot => Kind::One(key, mode),
            Kind::One(first, of_first) if first == key => Kind::One(first, of_first.max(mode)),
            Kind::One(first, of_first) => Kind::Many(vec![(first, of_first), (key, mode)]),
            Kind::Many(mut keys) => {
                match keys.iter_mut().find(|(other, _)| *other == key) {
                    Some((_, of_key)) => *of_key = mode.max(*of_key),
                    None => keys.push((key, mode)),
                }
                Kind::Many(keys)
            }
            Kind::Barrier => Kind::Barrier,
        };
        self
    }

    /// The keys, each once. Empty for a snapshot and a barrier.
    pub(super) fn keys(&self) -> impl Iterator<Item = (&K, Mode)> {
        let (one, many) = match &self.kind {
            Kind::One(key, mode) => (Some((key, *mode)), &[][..]),
            Kind::Many(keys) => (None, &keys[..]),
            Kind::Snapshot | Kind::Barrier => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().map(|(key, mode)| (key, *mode)))
    }

    pub(super) fn is_snapshot(&self) -> bool {
        matches!(self.kind, Kind::Snapshot)
    }

    pub(super) fn is_barrier(&self) -> bool {
        matches!(self.kind, Kind::Barrier)
    }

    /// Whether it changes anything that a later job of its session must see.
    pub(super) fn writes(&self) -> bool {
        self.is_barrier() || self.keys().any(|(_, mode)| mode == Mode::Write)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_is_read_and_written_is_written_once() {
        let access = Access::read(1).and_write(2).and_write(1).and_read(2).and_read(3);
        let keys: Vec<_> = access.keys().collect();
        assert_eq!(keys, [(&1, Mode::Write), (&2, Mode::Write), (&3, Mode::Read)]);
        assert!(access.writes());
        assert!(!Access::read(1).and_read(2).writes());
    }
}
