//! When a command is started again, and after which pause.

use crate::report::{Cause, ExitReport};
use std::time::Duration;

/// Whether a command that has ended is started again. One that was stopped on purpose never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// When it did not end with code 0.
    OnFailure,
    /// Whatever the end was.
    Always,
}

impl Restart {
    /// Whether this end asks for another start.
    #[must_use]
    pub fn wanted(self, report: &ExitReport) -> bool {
        let on_purpose = matches!(report.cause, Cause::Stopped | Cause::ParentDeath | Cause::ShepherdSignaled(_));
        match self {
            _ if on_purpose => false,
            Restart::Never => false,
            Restart::OnFailure => !report.success(),
            Restart::Always => true,
        }
    }
}

/// The pause before a start: doubled with each failure in a row, forgotten after a run that was long enough.
///
/// ```
/// use ginnel_process::Backoff;
/// use std::time::Duration;
///
/// let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
/// let short = Duration::from_millis(1);
/// assert_eq!([(); 4].map(|()| backoff.after(short).as_millis()), [100, 200, 300, 300]);
/// // A run of ten times the longest pause counts as a recovery.
/// assert_eq!(backoff.after(Duration::from_secs(3)).as_millis(), 100);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff::new(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Backoff {
    /// The first pause, and the longest.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Backoff {
        Backoff { first, longest, next: first }
    }

    /// The pause after a run that took this long.
    pub fn after(&mut self, run: Duration) -> Duration {
        if run >= self.longest.saturating_mul(10) {
            self.next = self.first;
        }
        let pause = self.next.min(self.longest);
        self.next = pause.saturating_mul(2);
        pause
    }
}
