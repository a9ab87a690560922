//! How a tree is ended.

use crate::frame::{STEPS, Step};
use crate::signal::Signal;
use std::time::Duration;

/// Signals to the whole tree, each with the time it has to be empty; then everything left is killed.
///
/// The grace is measured until the *tree* is empty, not until the leader has gone. The default is TERM and two seconds.
///
/// ```
/// use ginnel_process::{KillLadder, Signal};
/// use std::time::Duration;
///
/// let patient = KillLadder::at_once().then(Signal::INT, Duration::from_secs(1)).then(Signal::TERM, Duration::from_secs(5));
/// assert_eq!(patient.steps().len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KillLadder {
    steps: Vec<(Signal, Duration)>,
}

impl Default for KillLadder {
    fn default() -> Self {
        KillLadder::grace(Duration::from_secs(2))
    }
}

impl KillLadder {
    /// The most steps before the kill.
    pub const MAX_STEPS: usize = STEPS;

    /// No question asked: kill.
    #[must_use]
    pub fn at_once() -> Self {
        KillLadder { steps: Vec::new() }
    }

    /// TERM, then this long, then kill.
    #[must_use]
    pub fn grace(grace: Duration) -> Self {
        KillLadder::at_once().then(Signal::TERM, grace)
    }

    /// Adds a step. More than [`MAX_STEPS`](Self::MAX_STEPS) are refused by `spawn`.
    #[must_use]
    pub fn then(mut self, signal: Signal, grace: Duration) -> Self {
        self.steps.push((signal, grace));
        self
    }

    /// The steps before the kill.
    #[must_use]
    pub fn steps(&self) -> &[(Signal, Duration)] {
        &self.steps
    }

    /// The longest it can take until the kill.
    #[must_use]
    pub fn total(&self) -> Duration {
        self.steps.iter().fold(Duration::ZERO, |sum, (_, grace)| sum.saturating_add(*grace))
    }

    pub(crate) fn encode(&self) -> Option<([Step; STEPS], u8)> {
        let mut steps = [Step::default(); STEPS];
        for (index, (signal, grace)) in self.steps.iter().enumerate() {
            *steps.get_mut(index)? = Step { signal: signal.number() as u32, grace_ns: nanoseconds(*grace) };
        }
        Some((steps, self.steps.len() as u8))
    }
}

/// In the frame's u64; five centuries are enough.
pub(crate) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 2).min(u64::MAX / 2)
}
