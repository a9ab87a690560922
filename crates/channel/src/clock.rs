//! Deadlines, and a clock that is cheap enough to look at on every empty poll.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::{Duration, Instant};

/// Milliseconds of the coarse monotonic clock: a few nanoseconds to read, a few milliseconds of resolution.
#[inline]
pub(crate) fn coarse_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// The end of a wait that begins now; `None` where it is too far away for the clock to tell.
pub(crate) fn after(limit: Duration) -> Option<Instant> {
    Instant::now().checked_add(limit)
}

/// What is left until `deadline` as a system call wants it; `None` waits for ever.
pub(crate) fn remaining(deadline: Option<Instant>, cap: Option<Duration>) -> Option<Timespec> {
    let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
    let left = match (left, cap) {
        (Some(left), Some(cap)) => Some(left.min(cap)),
        (left, cap) => left.or(cap),
    }?;
    Some(Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) })
}

/// Whether `deadline` has come.
pub(crate) fn passed(deadline: Option<Instant>) -> bool {
    deadline.is_some_and(|deadline| Instant::now() >= deadline)
}
