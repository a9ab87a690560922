//! One endpoint as it is shown, and what it did between two looks.

use ginnel_service::introspect::{Figures, Introspection, Latency, Listed, Side};
use std::time::{Duration, Instant};

/// All endpoints at one moment.
pub(crate) struct Sample {
    at: Instant,
    pub(crate) listed: Vec<Listed>,
}

/// What an endpoint does in a second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Rate {
    pub(crate) requests: f64,
    pub(crate) failures: f64,
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

/// An endpoint as it is shown.
#[derive(Debug, Clone, Default)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) service: String,
    pub(crate) endpoint: String,
    pub(crate) side: &'static str,
    pub(crate) pid: u32,
    pub(crate) state: &'static str,
    /// Why it cannot be shown.
    pub(crate) trouble: Option<String>,
    pub(crate) figures: Figures,
    pub(crate) rate: Rate,
    /// Of what came between the looks; of all, where there was one look.
    pub(crate) p50: Option<Duration>,
    pub(crate) p99: Option<Duration>,
}

impl Sample {
    pub(crate) fn new(listed: Vec<Listed>) -> Self {
        Self { at: Instant::now(), listed }
    }

    /// The rows of this look, with what came since the one before.
    pub(crate) fn rows(&self, before: &Self) -> Vec<Row> {
        self.listed.iter().map(|listed| Row::new(listed, Some((before, self)))).collect()
    }

    /// The same endpoint at this moment: a name may have gone to another process.
    fn find(&self, other: &Listed) -> Option<&Introspection> {
        let mut same = self.listed.iter().filter(|listed| (&listed.name, listed.owner) == (&other.name, other.owner));
        same.next()?.told.as_ref().ok()
    }
}

impl Row {
    pub(crate) fn new(listed: &Listed, between: Option<(&Sample, &Sample)>) -> Self {
        let mut row =
            Self { name: listed.name.clone(), pid: listed.owner.pid, state: state(listed), ..Self::default() };
        let told = match &listed.told {
            Ok(told) => told,
            Err(error) => {
                row.service = listed.name.clone();
                row.trouble = Some(error.to_string());
                return row;
            }
        };
        (row.service, row.endpoint) = (told.service.clone(), told.endpoint.clone());
        (row.side, row.figures) = (side(told.side), told.figures);
        let mut latency = told.latency;
        if let Some((before, now)) = between {
            let seconds = now.at.duration_since(before.at).as_secs_f64();
            let then = before.find(listed);
            let (figures, handled) = then.map_or((told.figures, told.latency), |then| (then.figures, then.latency));
            row.rate = Rate::between(&figures, &told.figures, seconds);
            latency = told.latency.since(&handled);
        }
        (row.p50, row.p99) = quantiles(&latency);
        row
    }
}

fn quantiles(latency: &Latency) -> (Option<Duration>, Option<Duration>) {
    (latency.quantile(0.5), latency.quantile(0.99))
}

impl Rate {
    fn between(before: &Figures, after: &Figures, seconds: f64) -> Self {
        let per_second = |before: u64, after: u64| {
            if seconds > 0.0 { after.saturating_sub(before) as f64 / seconds } else { 0.0 }
        };
        Self {
            requests: per_second(before.requests, after.requests),
            failures: per_second(before.failures, after.failures),
            bytes_in: per_second(before.bytes_in, after.bytes_in),
            bytes_out: per_second(before.bytes_out, after.bytes_out),
        }
    }
}

pub(super) fn side(side: Side) -> &'static str {
    match side {
        Side::Server => "server",
        Side::Client => "client",
        _ => "?",
    }
}

pub(super) fn state(listed: &Listed) -> &'static str {
    match (listed.alive, &listed.told) {
        (Some(false), _) => "dead",
        (None, _) => "?",
        (Some(true), Ok(told)) if told.draining => "drain",
        (Some(true), _) => "alive",
    }
}
