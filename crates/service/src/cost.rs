//! Where a handler runs, and what is known of its methods for that: what they cost, and how long their answers are.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// Where a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Execution {
    /// On the reactor's thread while its measured cost is small: less than a hand-over costs, or within
    /// [`ServerOptions::inline_budget`](crate::ServerOptions::inline_budget) while nothing else is to be done. Else on
    /// the executor.
    #[default]
    Auto,
    /// Always on the reactor's thread. It must not block: everybody waits for it.
    Inline,
    /// Always on the executor.
    Executor,
}

/// No call has been measured.
const UNKNOWN: u64 = u64::MAX;

/// What one item of a method has cost lately, in nanoseconds. A call that took longer counts at once, a shorter one by
/// an eighth.
///
/// A single call that took much longer, after many that did not, is forgotten within a few calls: most likely its thread
/// was put aside by the system, which says nothing of the method. One that comes back soon is not forgiven so easily.
#[derive(Debug)]
pub(crate) struct Cost {
    nanos: AtomicU64,
    /// Calls since the last one that took much longer than those before it, up to [`Cost::CALM`].
    calm: AtomicU32,
    /// By which part a shorter call counts.
    part: AtomicU32,
}

impl Cost {
    /// So many calls without a much longer one make the next such a chance.
    const CALM: u32 = 256;
    /// What is much longer.
    const MUCH: u64 = 8;

    pub(crate) const fn new() -> Self {
        Self { nanos: AtomicU64::new(UNKNOWN), calm: AtomicU32::new(0), part: AtomicU32::new(8) }
    }

    pub(crate) fn of(&self, items: u32) -> Option<Duration> {
        match self.nanos.load(Ordering::Relaxed) {
            UNKNOWN => None,
            cost => Some(Duration::from_nanos(cost.saturating_mul(u64::from(items.max(1))))),
        }
    }

    pub(crate) fn measured(&self, took: Duration, items: u32) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(UNKNOWN - 1) / u64::from(items.max(1));
        // Lost updates of other threads do not matter: it is an estimate.
        let (before, calm) = (self.nanos.load(Ordering::Relaxed), self.calm.load(Ordering::Relaxed));
        let after = if before == UNKNOWN || took >= before {
            took
        } else {
            before - (before - took).div_ceil(u64::from(self.part.load(Ordering::Relaxed)))
        };
        if before != UNKNOWN && took > before.saturating_mul(Self::MUCH) {
            self.part.store(if calm < Self::CALM { 8 } else { 2 }, Ordering::Relaxed);
            self.calm.store(0, Ordering::Relaxed);
        } else if calm < Self::CALM {
            self.calm.store(calm + 1, Ordering::Relaxed);
        }
        if after != before {
            self.nanos.store(after.min(UNKNOWN - 1), Ordering::Relaxed);
        }
    }
}

/// How long the answers of a method have been lately, in bytes. A longer one counts at once, a shorter one by an eighth.
#[derive(Debug)]
pub(crate) struct Room(AtomicUsize);

impl Room {
    /// What a buffer for an answer is given at most before there is anything in it.
    const MOST: usize = 1 << 20;

    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn used(&self, len: usize) {
        // Lost updates of other threads do not matter: it is an estimate.
        let before = self.get();
        let after = if len >= before { len.min(Self::MOST) } else { before - (before - len).div_ceil(8) };
        if after != before {
            self.0.store(after, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_as_large_as_the_answers_of_late_within_a_bound() {
        let room = Room::new();
        room.used(100);
        room.used(16_000);
        assert_eq!(room.get(), 16_000);
        for _ in 0..200 {
            room.used(100);
        }
        assert_eq!(room.get(), 100);
        room.used(usize::MAX);
        assert_eq!(room.get(), Room::MOST);
    }

    #[test]
    fn one_call_among_many_that_was_put_aside_is_forgotten_soon_and_the_second_is_not() {
        let cost = Cost::new();
        let calls = |count: u32| (0..count).for_each(|_| cost.measured(Duration::from_micros(20), 1));
        let is_cheap = || cost.of(1).unwrap() <= Duration::from_micros(50);
        calls(1000);
        cost.measured(Duration::from_millis(4), 1);
        assert!(!is_cheap(), "it counts at once");
        calls(10);
        assert!(is_cheap());
        cost.measured(Duration::from_millis(4), 1);
        calls(10);
        assert!(!is_cheap(), "that is how this method is");
        calls(1000);
        assert!(is_cheap());
    }

    #[test]
    fn one_slow_call_counts_at_once_and_is_forgotten_slowly() {
        let cost = Cost::new();
        assert_eq!(cost.of(1), None);
        cost.measured(Duration::from_nanos(800), 1);
        cost.measured(Duration::from_millis(100), 1);
        assert_eq!(cost.of(1), Some(Duration::from_millis(100)));
        for _ in 0..200 {
            cost.measured(Duration::from_nanos(800), 1);
        }
        assert_eq!(cost.of(10), Some(Duration::from_nanos(8_000)), "per item");
    }
}
