//! Samples of several repetitions, merged as full histograms.

use ginnel_bench::{Histogram, median};
use serde::{Deserialize, Serialize};

/// What the reader of a stream, or the sender of round trips, counted.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    pub(crate) skipped: u64,
    pub(crate) doubled: u64,
    pub(crate) corrupt: u64,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Reader {
    pub(crate) tally: Tally,
    pub(crate) seconds: f64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Calibration {
    pub(crate) line_ns: f64,
    pub(crate) line_pause_ns: f64,
}

/// One repetition, as the measuring program printed it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) calibration: [Calibration; 2],
    pub(crate) high_priority: bool,
    pub(crate) sent: u64,
    pub(crate) send_seconds: f64,
    pub(crate) readers: Vec<Reader>,
    pub(crate) answers: Tally,
    /// Picoseconds, not nanoseconds: some rows take less than one.
    pub(crate) histogram: Histogram,
    pub(crate) blocks: Histogram,
}

/// Several repetitions of one contender at one distance of the cores.
#[derive(Serialize, Clone)]
pub(crate) struct Summary {
    pub(crate) repetitions: usize,
    pub(crate) samples: u64,
    /// Median in nanoseconds: of means over blocks where there are such, as the clock steps coarsely.
    pub(crate) p50_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) p999_ns: f64,
    /// The lowest and the highest median of a single repetition.
    pub(crate) spread_ns: (f64, f64),
    /// Mean cache-line round trip around these repetitions.
    pub(crate) line_ns: f64,
    pub(crate) line_pause_ns: f64,
    /// Messages a second from first to last arrival at the first reader; median over the repetitions.
    pub(crate) sustained: Option<f64>,
    pub(crate) sent: u64,
    /// Of all readers.
    pub(crate) tally: Tally,
}

impl Summary {
    /// `None` if no repetition has a sample.
    pub(crate) fn of(measurements: &[&Measurement]) -> Option<Self> {
        let mut all = Histogram::default();
        measurements.iter().for_each(|one| all.merge(&one.histogram));
        if all.is_empty() {
            return None;
        }
        let fine = measurements.iter().map(|one| if one.blocks.is_empty() { &one.histogram } else { &one.blocks });
        let medians: Vec<f64> = fine.filter(|one| !one.is_empty()).map(|one| nanoseconds(one, 0.5)).collect();
        let lines = |pick: fn(&Calibration) -> f64| {
            mean(measurements.iter().flat_map(|one| &one.calibration).map(pick).collect())
        };
        let mut rates: Vec<f64> = measurements
            .iter()
            .filter_map(|one| one.readers.first())
            .filter(|reader| reader.seconds > 0.0)
            .map(|reader| reader.tally.received as f64 / reader.seconds)
            .collect();
        rates.sort_by(f64::total_cmp);
        let mut tally = Tally::default();
        for one in
            measurements.iter().flat_map(|one| one.readers.iter().map(|reader| reader.tally).chain([one.answers]))
        {
            tally.received += one.received;
            tally.skipped += one.skipped;
            tally.doubled += one.doubled;
            tally.corrupt += one.corrupt;
        }
        Some(Self {
            repetitions: measurements.len(),
            samples: all.len(),
            p50_ns: median(medians.clone()),
            p99_ns: nanoseconds(&all, 0.99),
            p999_ns: nanoseconds(&all, 0.999),
            spread_ns: (medians.iter().copied().fold(f64::MAX, f64::min), medians.iter().copied().fold(0.0, f64::max)),
            line_ns: lines(|one| one.line_ns),
            line_pause_ns: lines(|one| one.line_pause_ns),
            sustained: rates.get(rates.len() / 2).copied(),
            sent: measurements.iter().map(|one| one.sent).sum(),
            tally,
        })
    }

    /// Messages a second, by the median block.
    pub(crate) fn rate(&self) -> f64 {
        1e9 / self.p50_ns
    }
}

fn nanoseconds(histogram: &Histogram, quantile: f64) -> f64 {
    histogram.quantile(quantile) as f64 / 1000.0
}

fn mean(values: Vec<f64>) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measurement(values: &[(u64, u64)], line_ns: f64) -> Measurement {
        let calibration = Calibration { line_ns, line_pause_ns: line_ns };
        Measurement {
            calibration: [calibration; 2],
            high_priority: true,
            sent: 10,
            send_seconds: 1.0,
            readers: vec![Reader { tally: Tally { received: 10, ..Tally::default() }, seconds: 2.0 }],
            answers: Tally::default(),
            histogram: serde_json::from_value(serde_json::json!(values)).unwrap(),
            blocks: Histogram::default(),
        }
    }

    #[test]
    fn the_tail_of_one_repetition_shows_in_the_merged_percentiles_but_not_in_the_median() {
        let calm = measurement(&[(100_000, 1000)], 100.0);
        let rough = measurement(&[(100_000, 900), (5_000_000, 100)], 100.0);
        let summary = Summary::of(&[&calm, &calm, &rough]).unwrap();
        assert!((summary.p50_ns - 100.0).abs() < 0.2, "{}", summary.p50_ns);
        assert!((summary.p99_ns - 5000.0).abs() < 5.0, "{}", summary.p99_ns);
        assert_eq!(summary.samples, 3000);
    }

    #[test]
    fn the_median_is_that_of_the_repetitions_and_the_spread_their_extremes() {
        let runs = [100_000, 300_000, 110_000].map(|value| measurement(&[(value, 10)], 100.0));
        let summary = Summary::of(&runs.iter().collect::<Vec<_>>()).unwrap();
        assert!((summary.p50_ns - 110.0).abs() < 0.2);
        assert!((summary.spread_ns.0 - 100.0).abs() < 0.2 && (summary.spread_ns.1 - 300.0).abs() < 0.5);
        assert_eq!(summary.sustained, Some(5.0));
    }

    #[test]
    fn a_run_without_samples_is_no_number() {
        assert!(Summary::of(&[&measurement(&[], 100.0)]).is_none());
    }
}
