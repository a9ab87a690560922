//! What is measured. A row's label names it for good: floors and published tables refer to it.

use serde::Serialize;

#[derive(Clone, Serialize)]
pub(crate) struct Row {
    pub(crate) label: String,
    pub(crate) name: &'static str,
    /// Requests a second; 0 is as many as possible.
    pub(crate) rate: u32,
    /// Items a request.
    pub(crate) size: usize,
    /// Which keys a lookup asks for.
    pub(crate) mix: &'static str,
    pub(crate) shared_memory: bool,
    /// Both sides on one core: blocking cost, without the machine's cost of waking another CPU. Sides that spin, or
    /// that have so much in flight that neither sleeps, get two.
    pub(crate) same_core: bool,
}

/// Items of a batch and cgroups of a snapshot, as the field's own benchmarks have them.
const BATCH: usize = 1000;
const SNAPSHOT: usize = 16;

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    let mut add = |name: &'static str, mix: &'static str, size: usize, rates: &[u32]| {
        for rate in rates {
            let mut label = name.to_owned();
            if !mix.is_empty() {
                label = format!("{label}-{mix}-{size}");
            }
            if *rate > 0 {
                label = format!("{label}@{rate}");
            }
            let shared_memory = name.contains("shm");
            rows.push(Row {
                label,
                name,
                rate: *rate,
                size,
                mix,
                shared_memory,
                same_core: !shared_memory && name != "lookup",
            });
        }
    };
    add("uds-ping-pong", "", 1, &[0, 10_000]);
    add("shm-ping-pong", "", 1, &[0, 10_000]);
    add("uds-batch", "", BATCH, &[0, 1000]);
    add("shm-batch", "", BATCH, &[0, 1000]);
    add("uds-pipeline-d16", "", 1, &[0, 10_000]);
    add("uds-pipeline-batch-d16", "", BATCH, &[0, 1000]);
    add("snapshot-baseline", "", SNAPSHOT, &[0, 1000]);
    add("snapshot-shm", "", SNAPSHOT, &[0, 1000]);
    add("lookup", "", SNAPSHOT, &[0]);
    for name in ["cgroups-lookup", "apps-lookup"] {
        for mix in ["known", "unknown", "mixed"] {
            for size in [16, 256, 4096, 32_768] {
                add(name, mix, size, &[0]);
            }
        }
        add(name, "mixed", 256, &[1000]);
    }
    rows
}
