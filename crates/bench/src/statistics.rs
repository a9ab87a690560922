//! From repetitions to one row: merged histograms, the median of the stable core, its spread.

use crate::histogram::Histogram;
use crate::model::{Calibration, Counts, Latency, Repetition, Summary};
use crate::plan::{Mode, Plan};

/// Medians of a stable row lie within this share of each other.
pub const STABLE: f64 = 0.10;

/// Calibrations of one repetition may differ by this factor.
const AGREE: f64 = 1.25;

/// Whether the machine has changed between two looks.
pub(crate) fn drifted(before: &Calibration, after: &Calibration) -> bool {
    let apart = |one: f64, other: f64| one.max(other) > one.min(other) * AGREE;
    match (before.line_ns, after.line_ns) {
        (Some(one), Some(other)) => apart(one, other),
        // Where no cache line travels, memory's own speed tells.
        _ => apart(before.memcpy_gb_s, after.memcpy_gb_s),
    }
}

impl Summary {
    /// `None` if no repetition has a sample.
    #[must_use]
    pub fn of(plan: &Plan, repetitions: &[Repetition]) -> Option<Self> {
        let latency = match plan.mode {
            Mode::Throughput => Latency::Queueing,
            Mode::Paced => Latency::Corrected,
            _ => Latency::RoundTrip,
        };
        let pick = |one: &'_ Repetition| -> Histogram {
            match latency {
                Latency::Queueing => one.one_way.clone(),
                Latency::Corrected => one.corrected.clone(),
                Latency::RoundTrip => one.round_trip.clone(),
            }
        };
        let mut all = Histogram::default();
        let mut counts = Counts::default();
        let (mut medians, mut rates, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        for one in repetitions {
            let histogram = pick(one);
            if histogram.is_empty() {
                continue;
            }
            all.merge(&histogram);
            counts.add(&one.counts);
            medians.push(histogram.quantile(0.5) as f64);
            if one.window_ns > 0 {
                rates.push(one.counts.received.saturating_sub(1) as f64 * 1e9 / one.window_ns as f64);
            }
            lines.extend(one.calibration.iter().filter_map(|calibration| calibration.line_ns));
        }
        if all.is_empty() {
            return None;
        }
        let core = stable_core(&medians);
        let spread_ns = (core[0], core[core.len() - 1]);
        Some(Self {
            latency,
            samples: all.len(),
            p50_ns: median(core),
            spread_ns,
            stable: spread_ns.1 <= spread_ns.0 * (1.0 + STABLE),
            p99_ns: all.quantile(0.99) as f64,
            p999_ns: all.quantile(0.999) as f64,
            min_ns: all.min() as f64,
            mean_ns: all.mean(),
            max_ns: all.max() as f64,
            stddev_ns: all.stddev(),
            messages_per_second: if rates.is_empty() { 0.0 } else { median(rates) },
            line_ns: (!lines.is_empty()).then(|| lines.iter().sum::<f64>() / lines.len() as f64),
            counts,
        })
    }
}

/// The two thirds (rounded up) of the values that lie closest together, in rising order.
fn stable_core(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let len = (2 * sorted.len()).div_ceil(3).max(1);
    let width = |window: &&[f64]| window[window.len() - 1] - window[0];
    let core = sorted.windows(len).min_by(|one, other| width(one).total_cmp(&width(other)));
    core.map(<[f64]>::to_vec).unwrap_or_default()
}

/// The middle one, or of two middle ones the mean; NaN of none.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => values[len / 2],
        len => f64::midpoint(values[len / 2 - 1], values[len / 2]),
    }
}
