//! Samples, counted by value: mergeable, and any percentile can be asked for.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Samples in nanoseconds with three significant digits, an HDR histogram. As JSON it is a list of `[value, count]`.
///
/// ```
/// use ginnel_bench::Histogram;
///
/// let mut one = Histogram::default();
/// one.record(100);
/// let mut both: Histogram = serde_json::from_str("[[300, 2]]")?;
/// both.merge(&one);
/// assert_eq!((both.len(), both.min(), both.quantile(0.5)), (3, 100, 300));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Default for Histogram {
    fn default() -> Self {
        Self(hdrhistogram::Histogram::new(3).expect("three digits are a valid precision"))
    }
}

impl Histogram {
    /// An empty one that holds samples up to a minute without growing, so that recording touches no allocator.
    #[must_use]
    pub fn with_room() -> Self {
        let minute = 60_000_000_000;
        let mut histogram =
            hdrhistogram::Histogram::new_with_max(minute, 3).expect("the bounds and three digits are valid");
        histogram.auto(true);
        Self(histogram)
    }

    /// Counts a sample.
    #[inline]
    pub fn record(&mut self, nanoseconds: u64) {
        // It resizes, so it takes any value.
        let _ = self.0.record(nanoseconds);
    }

    /// Adds the samples of another.
    pub fn merge(&mut self, other: &Self) {
        // It resizes, so it takes any value.
        let _ = self.0.add(&other.0);
    }

    /// Number of samples.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value below which the share `quantile` (0 to 1) of the samples lies, in nanoseconds.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        self.0.lowest_equivalent(self.0.value_at_quantile(quantile))
    }

    /// The least sample; 0 if there is none.
    #[must_use]
    pub fn min(&self) -> u64 {
        if self.is_empty() { 0 } else { self.0.lowest_equivalent(self.0.min()) }
    }

    /// The greatest sample, to three digits; 0 if there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.0.lowest_equivalent(self.0.max())
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        self.0.mean()
    }

    /// Standard deviation.
    #[must_use]
    pub fn stddev(&self) -> f64 {
        self.0.stdev()
    }

    /// Every value that was seen, and how often, in rising order: what a cumulative curve is drawn from.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.0.iter_recorded().map(|step| (self.0.lowest_equivalent(step.value_iterated_to()), step.count_at_value()))
    }
}

impl Serialize for Histogram {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.counts())
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut histogram = Self::default();
        for (value, count) in Vec::<(u64, u64)>::deserialize(deserializer)? {
            histogram.0.record_n(value, count).map_err(serde::de::Error::custom)?;
        }
        Ok(histogram)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_json_is_read_back_and_merges_exactly() {
        let mut all = Histogram::with_room();
        let mut parts = Histogram::default();
        for value in (0..100u64).map(|n| n * n * n * 737) {
            all.record(value);
            let mut one = Histogram::default();
            one.record(value);
            let json = serde_json::to_string(&one).unwrap();
            parts.merge(&serde_json::from_str(&json).unwrap());
        }
        assert_eq!(parts.len(), 100);
        assert!(all.counts().eq(parts.counts()));
        let again: Histogram = serde_json::from_str(&serde_json::to_string(&all).unwrap()).unwrap();
        assert!(again.counts().eq(all.counts()));
        for quantile in [0.0, 0.5, 0.99, 0.999, 1.0] {
            assert_eq!(again.quantile(quantile), all.quantile(quantile));
        }
    }
}
