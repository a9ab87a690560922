//! How long to measure, when to send, and what was seen.

use hdrhistogram::Histogram;
use serde_json::json;
use std::time::{Duration, Instant};

/// The end of a measurement: a time, or a number of requests (under a tracer, time means nothing).
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) millis: u64,
    pub(crate) requests: u64,
}

/// Tells when to send the next request and keeps what came of it.
pub(crate) struct Pace {
    started: Instant,
    end: Option<Instant>,
    left: u64,
    /// Nanoseconds between two requests; 0 is as fast as possible.
    interval: u64,
    sent: u64,
    requests: u64,
    items: u64,
    last: Instant,
    latencies: Histogram<u64>,
}

impl Pace {
    pub(crate) fn new(span: Span, rate: u32) -> Self {
        let started = Instant::now();
        let latencies =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).unwrap_or_else(|error| panic!("bounds: {error}"));
        Self {
            started,
            end: (span.requests == 0).then(|| started + Duration::from_millis(span.millis)),
            left: if span.requests == 0 { u64::MAX } else { span.requests },
            interval: 1_000_000_000u64.checked_div(u64::from(rate)).unwrap_or(0),
            sent: 0,
            requests: 0,
            items: 0,
            last: started,
            latencies,
        }
    }

    /// Waits until the next request is due; the instant from which its latency counts, or `None` when it is over. At a
    /// fixed rate that is when it should have been sent: a slow answer delays the next request, and the delay counts.
    pub(crate) fn next(&mut self) -> Option<Instant> {
        if self.left == 0 || self.end.is_some_and(|end| self.last >= end) {
            return None;
        }
        self.left -= 1;
        self.sent += 1;
        if self.interval == 0 {
            return Some(self.last);
        }
        let due = self.started + Duration::from_nanos(self.interval * self.sent);
        // Sleeping ends late by the timer's slack; the rest is spun, or the pace would be the timer's.
        if let Some(pause) = due.checked_duration_since(Instant::now() + Duration::from_micros(80)) {
            std::thread::sleep(pause);
        }
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        Some(due)
    }

    /// Whether another request is due already, for those who may have several in flight.
    pub(crate) fn is_due(&self) -> bool {
        self.interval == 0 || Instant::now() >= self.started + Duration::from_nanos(self.interval * (self.sent + 1))
    }

    pub(crate) fn done(&mut self, since: Instant, items: u64) {
        self.last = Instant::now();
        self.requests += 1;
        self.items += items;
        self.latencies.saturating_record((self.last - since).as_nanos() as u64);
    }

    /// Many operations that are too short to be timed one by one.
    pub(crate) fn done_many(&mut self, since: Instant, count: u64) {
        self.last = Instant::now();
        self.requests += count;
        self.items += count;
        let each = (self.last - since).as_nanos() as u64 / count.max(1);
        self.latencies.saturating_record_n(each.max(1), count);
    }

    pub(crate) fn report(&self, client_cpu: f64, server_cpu: f64, line: [f64; 2]) -> serde_json::Value {
        let quantile = |q| self.latencies.value_at_quantile(q) as f64;
        json!({
            "requests": self.requests, "items": self.items, "seconds": (self.last - self.started).as_secs_f64(),
            "p50_ns": quantile(0.5), "p95_ns": quantile(0.95), "p99_ns": quantile(0.99),
            "client_cpu_seconds": client_cpu, "server_cpu_seconds": server_cpu, "line_ns": line,
        })
    }
}
