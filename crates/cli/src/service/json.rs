//! Endpoints as JSON.

use super::row::{Row, side};
use ginnel_service::introspect::Listed;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// A JSON number. What does not fit is as large as it can be: a record may say anything.
fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// An endpoint, without rates.
pub(super) fn endpoint(listed: &Listed) -> Value {
    let owner = json!({ "pid": listed.owner.pid, "start": listed.owner.start });
    let told = match &listed.told {
        Ok(told) => told,
        Err(error) => {
            let error = error.to_string();
            return json!({ "name": listed.name, "process": owner, "alive": listed.alive, "error": error });
        }
    };
    let figures = &told.figures;
    let quantile = |quantile| told.latency.quantile(quantile).map(nanos);
    let buckets: Vec<Value> = told
        .latency
        .buckets()
        .map(|(from, to, count)| json!({ "from_ns": nanos(from), "to_ns": nanos(to), "count": count }))
        .collect();
    let began = told.began.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    json!({
        "name": listed.name,
        "side": side(told.side),
        "service": told.service,
        "endpoint": told.endpoint,
        "process": owner,
        "alive": listed.alive,
        "draining": told.draining,
        "began_ns": nanos(began),
        "published_ns": nanos(told.published),
        "sessions": {
            "begun": figures.sessions,
            "active": figures.active,
            "seqpacket": figures.seqpacket,
            "stream": figures.stream,
            "tcp": figures.tcp,
            "shm": figures.slots,
            "ring": figures.ring,
            "refused": figures.refused,
            "silent": figures.silent,
            "exhausted": figures.exhausted,
            "made_room": figures.made_room,
            "slow": figures.slow,
            "dismissed": figures.dismissed,
            "paused": figures.paused,
            "pauses": figures.pauses,
        },
        "requests": figures.requests,
        "failures": figures.failures,
        "retries": figures.retries,
        "in_flight": figures.in_flight,
        "window": figures.window,
        "in_bytes": figures.bytes_in,
        "out_bytes": figures.bytes_out,
        "held_bytes": figures.held,
        "budget_bytes": figures.budget,
        "queued": figures.queued,
        "latency": {
            "count": told.latency.count(),
            "p50_ns": quantile(0.5),
            "p90_ns": quantile(0.9),
            "p99_ns": quantile(0.99),
            "max_ns": quantile(1.0),
            "buckets": buckets,
        },
    })
}

/// The same, with what it did in the last second.
pub(super) fn with_rate(listed: &Listed, row: &Row) -> Value {
    let mut shown = endpoint(listed);
    shown["rate"] = json!({
        "requests": row.rate.requests,
        "failures": row.rate.failures,
        "in_bytes": row.rate.bytes_in,
        "out_bytes": row.rate.bytes_out,
    });
    shown
}
