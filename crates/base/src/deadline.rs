//! The end of a wait.

#[cfg(target_os = "linux")]
use rustix::time::Timespec;
use std::time::{Duration, Instant};

/// The end of a wait: an instant, or never.
///
/// A duration that reaches beyond what the clock can count (such as [`Duration::MAX`]) means never. Nothing here
/// panics. Deadlines are ordered: an earlier one is less, and never is the greatest.
///
/// ```
/// use ginnel_base::Deadline;
/// use std::time::Duration;
///
/// assert!(Deadline::after(Duration::ZERO).passed());
/// assert_eq!(Deadline::after(Duration::MAX), Deadline::NEVER);
/// assert!(Deadline::after(Duration::from_secs(5)) < Deadline::NEVER);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Deadline(Option<Instant>);

impl Deadline {
    /// Never comes.
    pub const NEVER: Self = Self(None);

    /// Comes when `duration` has passed from now.
    #[must_use]
    pub fn after(duration: Duration) -> Self {
        Self::from(Instant::now(), duration)
    }

    /// Comes when `duration` has passed from `start`, for callers that hold a clock of their own.
    #[must_use]
    pub fn from(start: Instant, duration: Duration) -> Self {
        Self(start.checked_add(duration))
    }

    /// Comes at `instant`.
    #[must_use]
    pub const fn at(instant: Instant) -> Self {
        Self(Some(instant))
    }

    /// `Some(duration)` is [`after`](Self::after) it, `None` is [`NEVER`](Self::NEVER).
    #[must_use]
    pub fn after_some(duration: Option<Duration>) -> Self {
        duration.map_or(Self::NEVER, Self::after)
    }

    /// The instant, or `None` if it never comes.
    #[must_use]
    pub const fn instant(self) -> Option<Instant> {
        self.0
    }

    /// Whether it has come.
    #[must_use]
    pub fn passed(self) -> bool {
        self.0.is_some() && self.passed_at(Instant::now())
    }

    /// Whether it has come at `now`.
    #[must_use]
    pub fn passed_at(self, now: Instant) -> bool {
        self.0.is_some_and(|instant| now >= instant)
    }

    /// The time left, zero if it has come, `None` if it never comes.
    #[must_use]
    pub fn remaining(self) -> Option<Duration> {
        self.0.map(|instant| instant.saturating_duration_since(Instant::now()))
    }

    /// The time left at `now`, zero if it has come, `None` if it never comes.
    #[must_use]
    pub fn remaining_at(self, now: Instant) -> Option<Duration> {
        self.0.map(|instant| instant.saturating_duration_since(now))
    }

    /// The time left as a system call (`ppoll`, `futex`) takes it; `None` waits for ever. Rounded up to the next
    /// microsecond, so that the deadline has come when the call says so.
    #[must_use]
    #[cfg(target_os = "linux")]
    pub fn timespec(self) -> Option<Timespec> {
        self.remaining().map(|left| {
            let left = left.saturating_add(Duration::from_micros(1));
            Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: i64::from(left.subsec_nanos()),
            }
        })
    }
}

impl From<Instant> for Deadline {
    fn from(instant: Instant) -> Self {
        Self::at(instant)
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        match (self.0, other.0) {
            (Some(own), Some(other)) => own.cmp(&other),
            // `None` is the latest, while `Option` orders it first.
            (own, other) => own.is_none().cmp(&other.is_none()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_clock_cannot_count_is_never() {
        for long in [Duration::MAX, Duration::from_secs(u64::MAX), Duration::from_secs(i64::MAX as u64)] {
            let deadline = Deadline::after(long);
            assert_eq!(deadline, Deadline::NEVER);
            assert!(!deadline.passed());
            assert_eq!((deadline.remaining(), deadline.timespec().is_none()), (None, true));
        }
    }

    #[test]
    fn deadlines_are_ordered_and_never_is_last() {
        let now = Instant::now();
        let (soon, late) = (Deadline::at(now), Deadline::from(now, Duration::from_secs(1)));
        assert!(soon < late && late < Deadline::NEVER && soon < Deadline::NEVER);
        assert_eq!(Deadline::NEVER.cmp(&Deadline::NEVER), std::cmp::Ordering::Equal);
        assert_eq!(soon.min(Deadline::NEVER), soon);
        assert_eq!(late.max(Deadline::NEVER), Deadline::NEVER);
    }

    #[test]
    fn it_has_come_exactly_at_its_instant() {
        let now = Instant::now();
        let deadline = Deadline::from(now, Duration::from_nanos(10));
        assert!(!deadline.passed_at(now));
        assert_eq!(deadline.remaining_at(now), Some(Duration::from_nanos(10)));
        assert!(deadline.passed_at(now + Duration::from_nanos(10)));
        assert_eq!(deadline.remaining_at(now + Duration::from_secs(1)), Some(Duration::ZERO));
    }

    #[test]
    fn a_system_call_waits_at_least_until_it_has_come() {
        let left = Deadline::after(Duration::from_secs(3)).timespec().unwrap();
        assert!((2..=3).contains(&left.tv_sec), "{left:?}");
        assert_eq!(Deadline::after(Duration::ZERO).timespec().unwrap(), Timespec { tv_sec: 0, tv_nsec: 1000 });
    }
}
