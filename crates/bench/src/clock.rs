//! The clock of the stamps. All sides of a measurement use the same one, so that stamps of different processes compare.

use crate::sys::time_stamp_counter;
use serde::{Deserialize, Serialize};
use std::time::{Duration, Instant};

/// What a stamp counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(crate) enum Clock {
    /// Ticks of the time stamp counter, of so many nanoseconds. Only where the kernel itself takes the time from it,
    /// because the kernel has then checked that it runs evenly and alike on all CPUs.
    Tsc {
        /// Nanoseconds of a tick.
        tick_ns: f64,
    },
    /// Nanoseconds of the monotonic clock.
    Monotonic,
}

impl Clock {
    /// The best clock of this machine. Spins for 20 ms where it must measure the length of a tick.
    pub(crate) fn detect() -> Self {
        let source = crate::machine::clock_source();
        match (source.as_str(), time_stamp_counter()) {
            ("tsc", Some(_)) => Self::Tsc { tick_ns: tick_ns() },
            _ => Self::Monotonic,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tsc { .. } => "tsc",
            Self::Monotonic => "monotonic",
        }
    }

    /// The stamp of this moment.
    #[inline(always)]
    pub(crate) fn now(self) -> u64 {
        match self {
            Self::Tsc { .. } => time_stamp_counter().unwrap_or_default(),
            Self::Monotonic => monotonic(),
        }
    }

    /// Nanoseconds from one stamp to a later one; 0 if it is none.
    #[inline(always)]
    pub(crate) fn nanoseconds(self, from: u64, to: u64) -> u64 {
        let ticks = to.saturating_sub(from);
        match self {
            Self::Tsc { tick_ns } => (ticks as f64 * tick_ns).round() as u64,
            Self::Monotonic => ticks,
        }
    }

    /// How many ticks `time` takes.
    pub(crate) fn ticks(self, time: Duration) -> u64 {
        let ns = time.as_nanos() as f64;
        match self {
            Self::Tsc { tick_ns } => (ns / tick_ns) as u64,
            Self::Monotonic => ns as u64,
        }
    }

    /// What reading it costs, in nanoseconds.
    pub(crate) fn cost(self) -> f64 {
        const READS: u32 = 2000;
        let begin = Instant::now();
        for _ in 0..READS {
            std::hint::black_box(self.now());
        }
        begin.elapsed().as_nanos() as f64 / f64::from(READS)
    }
}

#[inline(always)]
fn monotonic() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

fn tick_ns() -> f64 {
    let stamp = || time_stamp_counter().unwrap_or_default();
    let (begin, first) = (Instant::now(), stamp());
    while begin.elapsed() < Duration::from_millis(20) {
        std::hint::spin_loop();
    }
    let (elapsed, last) = (begin.elapsed(), stamp());
    elapsed.as_nanos() as f64 / last.wrapping_sub(first).max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_agree_on_how_long_a_pause_was() {
        for clock in [Clock::detect(), Clock::Monotonic] {
            let (begin, first) = (Instant::now(), clock.now());
            std::thread::sleep(Duration::from_millis(20));
            let (last, elapsed) = (clock.now(), begin.elapsed());
            let measured = Duration::from_nanos(clock.nanoseconds(first, last));
            assert!(
                measured >= Duration::from_millis(19) && measured <= elapsed + Duration::from_millis(1),
                "{clock:?}"
            );
            let there = clock.ticks(Duration::from_millis(3));
            assert!(clock.nanoseconds(0, there).abs_diff(3_000_000) < 100);
        }
    }
}
