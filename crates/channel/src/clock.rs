//! Timeouts for system calls, and a clock that is cheap enough to look at on every empty poll.

use ginnel_base::Deadline;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Milliseconds of the coarse monotonic clock: a few nanoseconds to read, a few milliseconds of resolution.
#[inline]
pub(crate) fn coarse_ms() -> u64 {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// What is left until `deadline`, or until `cap` has passed, as a system call wants it; `None` waits for ever.
pub(crate) fn remaining(deadline: Deadline, cap: Option<Duration>) -> Option<Timespec> {
    deadline.min(Deadline::after_some(cap)).timespec()
}
