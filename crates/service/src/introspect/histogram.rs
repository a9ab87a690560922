//! How long things took, in buckets of fixed number and growing width.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets of a histogram.
pub(crate) const BUCKETS: usize = 128;
/// What falls below this many nanoseconds is in the first bucket: 2 to the power of it.
const FLOOR_BITS: u32 = 6;
/// Buckets of one octave: each is a quarter of its lower power of two wide.
const PARTS: usize = 4;

/// The bucket of a duration.
///
/// Bucket 0 holds everything below 80 ns; bucket `4 k + p` what begins at `2^(6 + k) (1 + p / 4)` ns and ends where the
/// next begins; bucket 127 everything from 240 s on.
fn bucket(nanos: u64) -> usize {
    let nanos = nanos.max(1 << FLOOR_BITS);
    let octave = nanos.ilog2();
    let part = (nanos >> (octave - 2)) as usize & (PARTS - 1);
    ((octave - FLOOR_BITS) as usize * PARTS + part).min(BUCKETS - 1)
}

/// Where a bucket begins, nanoseconds.
fn begin(bucket: usize) -> u64 {
    let octave = FLOOR_BITS + (bucket / PARTS) as u32;
    (1 << octave) + (bucket % PARTS) as u64 * (1 << (octave - 2))
}

/// Counts durations: one relaxed addition each.
#[derive(Debug)]
pub(crate) struct Histogram([AtomicU64; BUCKETS]);

impl Default for Histogram {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Histogram {
    #[inline]
    pub(crate) fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.0[bucket(nanos)].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn read(&self, into: &mut [u64; BUCKETS]) {
        for (to, from) in into.iter_mut().zip(&self.0) {
            *to = from.load(Ordering::Relaxed);
        }
    }
}

/// How long things took, as published: durations by buckets, each up to 25 % wide.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Latency([u64; BUCKETS]);

impl Latency {
    pub(crate) fn new(buckets: [u64; BUCKETS]) -> Self {
        Self(buckets)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        // Another process wrote them: they may be anything.
        self.0.iter().fold(0, |sum, &count| sum.saturating_add(count))
    }

    /// The duration that a share of `quantile` (0 to 1) is not longer than, read as the middle of its bucket: off by an
    /// eighth of itself at most. `None` if there is none at all.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        let rank = ((count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).clamp(1, count.max(1));
        let mut seen = 0_u64;
        let found = self.0.iter().position(|&here| {
            seen = seen.saturating_add(here);
            seen >= rank
        })?;
        Some(Duration::from_nanos(begin(found).midpoint(begin(found + 1))))
    }

    /// What was added since `before`. Buckets that have fewer now (another server took the name) count in full.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        if self.0.iter().zip(&before.0).any(|(now, then)| now < then) {
            return *self;
        }
        Self(std::array::from_fn(|at| self.0[at] - before.0[at]))
    }

    /// The buckets that are not empty: where each begins and ends, and how many are in it.
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, Duration, u64)> + '_ {
        let at = |bucket| Duration::from_nanos(if bucket == 0 { 0 } else { begin(bucket) });
        let all = self.0.iter().enumerate().filter(|(_, count)| **count > 0);
        all.map(move |(bucket, &count)| {
            let end = if bucket + 1 == BUCKETS { Duration::MAX } else { at(bucket + 1) };
            (at(bucket), end, count)
        })
    }
}

impl std::fmt::Debug for Latency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let p50 = self.quantile(0.5);
        f.debug_struct("Latency").field("count", &self.count()).field("p50", &p50).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_is_in_the_bucket_that_holds_it() {
        for nanos in (0..100_000).chain((17..64).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1])) {
            let found = bucket(nanos);
            assert!(found == 0 || begin(found) <= nanos, "{nanos} in {found}");
            assert!(found == BUCKETS - 1 || nanos < begin(found + 1), "{nanos} in {found}");
        }
        assert_eq!((begin(1), begin(4), begin(BUCKETS - 1)), (80, 128, 7 << 35));
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_are_off_by_an_eighth_at_most() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|micros| histogram.record(Duration::from_micros(micros)));
        let mut buckets = [0; BUCKETS];
        histogram.read(&mut buckets);
        let latency = Latency::new(buckets);
        for (quantile, micros) in [(0.5, 500.0), (0.9, 900.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = latency.quantile(quantile).unwrap().as_secs_f64() * 1e6;
            assert!((found / micros - 1.0).abs() <= 0.13, "{quantile}: {found}");
        }
        assert_eq!((latency.count(), latency.buckets().map(|(.., count)| count).sum::<u64>()), (1000, 1000));
        assert_eq!(latency.since(&latency).quantile(0.5), None);
        assert_eq!(latency.since(&latency).count(), 0);
    }

    #[test]
    fn buckets_that_somebody_made_up_are_no_overflow() {
        let latency = Latency::new([u64::MAX; BUCKETS]);
        assert_eq!(latency.count(), u64::MAX);
        assert!(latency.quantile(0.99).is_some() && latency.since(&Latency::new([1; BUCKETS])).count() > 0);
        assert_eq!(latency.buckets().count(), BUCKETS);
    }
}
