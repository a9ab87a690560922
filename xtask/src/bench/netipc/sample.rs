//! What the measuring program says about one repetition, and what several say together.

use serde::Deserialize;

/// One row of the benchmark, as the measuring program lists it.
#[derive(Clone, Deserialize)]
pub(crate) struct Row {
    pub(crate) label: String,
    /// Whether both sides share one core: blocking costs are judged so, spinning ones on two.
    pub(crate) same_core: bool,
}

impl Row {
    /// The cache is looked up in one process; all else makes system calls.
    pub(crate) fn is_io(&self) -> bool {
        self.label != "lookup"
    }
}

/// One repetition.
#[derive(Deserialize)]
pub(crate) struct Sample {
    pub(crate) requests: u64,
    pub(crate) items: u64,
    pub(crate) seconds: f64,
    pub(crate) p50_ns: f64,
    pub(crate) p95_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) client_cpu_seconds: f64,
    pub(crate) server_cpu_seconds: f64,
    /// Cache-line round trip between the cores, before and after.
    pub(crate) line_ns: [f64; 2],
}

impl Sample {
    pub(crate) fn calibration_ratio(&self) -> f64 {
        let [before, after] = self.line_ns;
        before.max(after) / before.min(after).max(1.0)
    }
}

/// The stable core of a row's repetitions.
pub(crate) struct Summary {
    pub(crate) repetitions: usize,
    pub(crate) items_per_second: f64,
    pub(crate) requests_per_second: f64,
    pub(crate) spread_percent: f64,
    pub(crate) p50_ns: f64,
    pub(crate) p95_ns: f64,
    pub(crate) p99_ns: f64,
    pub(crate) client_cpu_ns: f64,
    pub(crate) server_cpu_ns: f64,
    pub(crate) line_ns: f64,
}

impl Summary {
    /// The core leaves out a fifth of the repetitions at each end, at least one: what else the machine did.
    pub(crate) fn of(samples: &[Sample]) -> Self {
        let mut ordered: Vec<&Sample> = samples.iter().collect();
        ordered.sort_by(|one, other| items_rate(one).total_cmp(&items_rate(other)));
        let cut = (ordered.len() / 5).max(1).min((ordered.len() - 1) / 2);
        let core = &ordered[cut..ordered.len() - cut];
        let rate = median(core, items_rate);
        let rates = || core.iter().map(|sample| items_rate(sample));
        let (slowest, fastest) = (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max));
        let per_request =
            |seconds: fn(&Sample) -> f64| median(core, |sample| seconds(sample) * 1e9 / sample.requests.max(1) as f64);
        Self {
            repetitions: samples.len(),
            items_per_second: rate,
            requests_per_second: median(core, |sample| sample.requests as f64 / sample.seconds),
            spread_percent: 100.0 * (fastest - slowest) / rate,
            p50_ns: median(core, |sample| sample.p50_ns),
            p95_ns: median(core, |sample| sample.p95_ns),
            p99_ns: median(core, |sample| sample.p99_ns),
            client_cpu_ns: per_request(|sample| sample.client_cpu_seconds),
            server_cpu_ns: per_request(|sample| sample.server_cpu_seconds),
            line_ns: median(core, |sample| sample.line_ns.iter().sum::<f64>() / 2.0),
        }
    }

    /// Which of the machine's two faces was measured.
    pub(crate) fn distance(&self) -> &'static str {
        if self.line_ns < 220.0 { "near" } else { "far" }
    }
}

fn items_rate(sample: &Sample) -> f64 {
    sample.items as f64 / sample.seconds
}

fn median(core: &[&Sample], value: impl Fn(&Sample) -> f64) -> f64 {
    ginnel_bench::median(core.iter().map(|sample| value(sample)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(items: u64) -> Sample {
        Sample {
            requests: items,
            items,
            seconds: 1.0,
            p50_ns: 1.0,
            p95_ns: 1.0,
            p99_ns: 1.0,
            client_cpu_seconds: 0.5,
            server_cpu_seconds: 0.25,
            line_ns: [100.0, 120.0],
        }
    }

    #[test]
    fn outliers_at_both_ends_do_not_count() {
        let summary = Summary::of(&[10, 100, 104, 96, 900].map(sample));
        assert_eq!(summary.items_per_second, 100.0);
        assert_eq!(summary.spread_percent, 8.0);
        assert_eq!(summary.client_cpu_ns, 5e6);
    }

    #[test]
    fn a_row_that_moves_inside_its_core_shows_it() {
        assert!(Summary::of(&[100, 100, 150, 60, 100].map(sample)).spread_percent < 1.0);
        assert!(Summary::of(&[100, 140, 150, 60, 60].map(sample)).spread_percent > 50.0);
    }
}
