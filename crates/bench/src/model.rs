//! What a run found out, as it is written to JSON: a report of rows, a row of repetitions.
//!
//! ```text
//! Report  schema_version, environment, rows
//! Row     what was measured (mechanism, form, mode, size, placement, …), every repetition, or the failure
//! Repetition  calibrations around it, samples as full histograms, counts, the CPU time of each side
//! ```
//! Histograms stay full, so that rows of several files can be merged and any percentile asked for later.

use crate::histogram::Histogram;
use crate::plan::{Form, Mode};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// The version of the JSON that this library writes. Fields may be added within a version; nothing is renamed.
pub const SCHEMA_VERSION: u32 = 1;

/// Everything that a run found out.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// [`SCHEMA_VERSION`] of the writer.
    pub schema_version: u32,
    /// The machine, and how the run was started.
    pub environment: Environment,
    /// What was measured, in the order in which it was.
    pub rows: Vec<Row>,
}

impl Report {
    /// A report without rows.
    #[must_use]
    pub fn new(environment: Environment) -> Self {
        Self { schema_version: SCHEMA_VERSION, environment, rows: Vec::new() }
    }

    /// Reads a report.
    ///
    /// # Errors
    /// If the file cannot be read, is no report, or is one of a later version.
    pub fn read(path: &Path) -> io::Result<Self> {
        let report: Self = serde_json::from_slice(&std::fs::read(path)?)?;
        if report.schema_version > SCHEMA_VERSION {
            let version = report.schema_version;
            return Err(io::Error::other(format!(
                "{} is a report of version {version}, this program reads up to {SCHEMA_VERSION}",
                path.display()
            )));
        }
        Ok(report)
    }

    /// Writes it, whole or not at all: a reader never sees half a report.
    ///
    /// # Errors
    /// The system's refusal.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{:08x}", ginnel_base::random_u64() as u32));
        let new = path.with_file_name(name);
        let written = serde_json::to_vec_pretty(self)
            .map_err(io::Error::from)
            .and_then(|json| std::fs::write(&new, json))
            .and_then(|()| std::fs::rename(&new, path));
        if written.is_err() {
            let _ = std::fs::remove_file(&new); // it may not even have been made
        }
        written
    }
}

/// The machine, and how the run was started.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Environment {
    /// Model of the processor.
    pub cpu: String,
    /// CPUs that are online.
    pub cpus: usize,
    /// Whether the machine is virtual: its CPUs move under it.
    pub hypervisor: bool,
    /// Release of the kernel.
    pub kernel: String,
    /// What the kernel takes the time from.
    pub clock_source: String,
    /// The clock of the stamps: `tsc` or `monotonic`.
    pub clock: String,
    /// Frequency governor of the first CPU, if there is one.
    pub governor: Option<String>,
    /// CPUs that this process may run on.
    pub affinity: Vec<usize>,
    /// The command line.
    pub argv: Vec<String>,
    /// Version of this library.
    pub version: String,
    /// When the run began, seconds since 1970.
    pub started: u64,
    /// How busy the machine was in the moment before the run, in percent of all CPUs.
    pub busy_percent: f64,
}

/// One thing that was measured.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// Name of the mechanism.
    pub mechanism: String,
    /// Blocking or async.
    pub form: Form,
    /// What was done.
    pub mode: Mode,
    /// Bytes of a message.
    pub size: usize,
    /// Pairs of processes that did it at the same time; of a fan, its width.
    pub pairs: usize,
    /// Most messages in flight, where the mode has several.
    pub depth: Option<usize>,
    /// Messages a second that were intended, where the mode has a rate.
    pub rate: Option<f64>,
    /// Where the sides ran.
    pub placement: Placement,
    /// Every repetition whose calibrations agree, and if there was none, the last.
    pub repetitions: Vec<Repetition>,
    /// Repetitions that were thrown away because their calibrations disagree; as many as are wanted may be.
    pub drifted: usize,
    /// The statistics over the repetitions; `None` if it failed.
    pub summary: Option<Summary>,
    /// Why there is no number, or why fewer repetitions than asked for.
    pub failure: Option<String>,
    /// The result of measuring an unstable row again by itself, beside the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub diagnosis: Option<Box<Row>>,
}

/// Where the sides of a row ran, as the kernel said while they did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Placement {
    /// CPU of the client; `None` if it was not pinned.
    pub client: Option<usize>,
    /// CPU of the server; `None` if it was not pinned, or is another machine's.
    pub server: Option<usize>,
    /// How the two are related.
    pub relation: Relation,
}

/// How the CPUs of two sides are related.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Relation {
    /// One CPU for both.
    SameCpu,
    /// Two threads of one core.
    SmtSiblings,
    /// Two cores.
    TwoCores,
    /// At least one side was not pinned.
    #[default]
    Unpinned,
}

/// One look at what the machine's own operations cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Calibration {
    /// Reading the clock, in nanoseconds.
    pub clock_ns: f64,
    /// Cache-line round trip between the two sides in nanoseconds; `None` if they share a CPU or no memory.
    pub line_ns: Option<f64>,
    /// The same, waiting with `pause` between loads.
    pub line_pause_ns: Option<f64>,
    /// Copying 64 KiB within the cache, in bytes per nanosecond (GB/s).
    pub memcpy_gb_s: f64,
}

/// One measurement.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Repetition {
    /// Before and after.
    pub calibration: [Calibration; 2],
    /// The two differ by more than they may.
    pub drifted: bool,
    /// Round trips, in nanoseconds. Empty where the mode has none.
    pub round_trip: Histogram,
    /// One way, from the moment of the send. In mode `throughput` this is time in the queue.
    pub one_way: Histogram,
    /// From the intended moment of the send (mode `paced`): what a sender that is held up would hide is in it.
    pub corrected: Histogram,
    /// What came, and what did not.
    pub counts: Counts,
    /// From first to last arrival, in nanoseconds; the longest of all pairs.
    pub window_ns: u64,
    /// What the client used while it measured; of several, the sum.
    pub client: Usage,
    /// What the server used while it measured; of several, the sum.
    pub server: Usage,
    /// The kernel's buffer in bytes as it was read back, where one was asked for.
    pub buffer: Option<u64>,
}

/// What became of the messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counts {
    /// Messages that were sent to be measured.
    pub sent: u64,
    /// Of these, the ones that arrived.
    pub received: u64,
    /// That never came.
    pub lost: u64,
    /// That came again.
    pub duplicated: u64,
    /// That came after a later one.
    pub reordered: u64,
    /// Whose bytes were not what was sent.
    pub corrupt: u64,
}

impl Counts {
    /// Whether every message arrived once, in order, as it was sent.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.lost + self.duplicated + self.reordered + self.corrupt == 0
    }

    /// The sums of both.
    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.received += other.received;
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.corrupt += other.corrupt;
    }
}

/// What a side used, from its first measured message to its last.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// CPU time in user mode, nanoseconds.
    pub user_ns: u64,
    /// CPU time in the kernel, nanoseconds.
    pub system_ns: u64,
    /// Times it gave the CPU up.
    pub voluntary_switches: u64,
    /// Times the CPU was taken from it.
    pub involuntary_switches: u64,
    /// System calls, where the kernel lets us count them.
    pub system_calls: Option<u64>,
}

impl Usage {
    pub(crate) fn add(&mut self, other: &Self) {
        self.user_ns += other.user_ns;
        self.system_ns += other.system_ns;
        self.voluntary_switches += other.voluntary_switches;
        self.involuntary_switches += other.involuntary_switches;
        self.system_calls = match (self.system_calls, other.system_calls) {
            (Some(own), Some(other)) => Some(own + other),
            _ => None,
        };
    }
}

/// The statistics of a row. Its percentiles come from the merged histograms of all repetitions.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Summary {
    /// What the latency figures are.
    pub latency: Latency,
    /// Samples in them.
    pub samples: u64,
    /// The median of the medians of the stable core: the two thirds of the repetitions that lie closest together.
    pub p50_ns: f64,
    /// Lowest and highest median within the stable core.
    pub spread_ns: (f64, f64),
    /// Whether the stable core's medians lie within [`STABLE`](crate::STABLE) of each other.
    pub stable: bool,
    /// 99th percentile of all samples.
    pub p99_ns: f64,
    /// 99.9th percentile of all samples.
    pub p999_ns: f64,
    /// The least.
    pub min_ns: f64,
    /// The mean.
    pub mean_ns: f64,
    /// The greatest.
    pub max_ns: f64,
    /// Standard deviation.
    pub stddev_ns: f64,
    /// Messages a second from first to last arrival, all pairs together; median of the repetitions.
    pub messages_per_second: f64,
    /// Mean cache-line round trip around the repetitions.
    pub line_ns: Option<f64>,
    /// The sums over the repetitions.
    pub counts: Counts,
}

/// What a latency figure is. They are never mixed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Latency {
    /// There and back.
    RoundTrip,
    /// There, from the intended moment of the send.
    Corrected,
    /// Time in the queue of a saturated mechanism.
    Queueing,
}
