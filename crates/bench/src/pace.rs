//! The intended moments of an open loop.

use crate::clock::Clock;
use crate::plan::{Mode, Plan};
use std::time::Duration;

/// A sleep may end this much late; the rest of a wait is spun where nobody else needs the CPU.
const LATE: Duration = Duration::from_micros(150);

/// Waits for the intended moment of each message. It never waits for a message that is late, and never forgets one.
#[derive(Debug)]
pub(crate) struct Pacer {
    clock: Clock,
    /// Ticks between two messages; `None` if there is no rate.
    interval: Option<u64>,
    spins: bool,
    next: u64,
}

impl Pacer {
    /// `shares_cpu`: the other side needs this CPU, so it is left while there is nothing to send.
    pub(crate) fn new(clock: Clock, plan: &Plan, shares_cpu: bool) -> Self {
        let interval = (plan.mode == Mode::Paced).then(|| clock.ticks(plan.interval).max(1));
        Self { clock, interval, spins: !shares_cpu, next: 0 }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.interval.is_some()
    }

    /// The first message is due now.
    pub(crate) fn start(&mut self) {
        self.next = self.clock.now();
    }

    /// Waits until the next message is due; returns the moment at which it was to be sent. Without a rate it is now.
    #[inline]
    pub(crate) fn next(&mut self) -> u64 {
        let Some(interval) = self.interval else { return 0 };
        let due = self.next;
        self.next = due + interval;
        loop {
            let now = self.clock.now();
            if now >= due {
                return due;
            }
            let left = Duration::from_nanos(self.clock.nanoseconds(now, due));
            match left.checked_sub(LATE) {
                _ if !self.spins => std::thread::sleep(left),
                Some(early) if !early.is_zero() => std::thread::sleep(early),
                _ => std::hint::spin_loop(),
            }
        }
    }
}
