//! `--report`: how the command ended, as JSON.

use crate::terminal::write_patiently;
use ginnel_process::{Cause, ExitReport, Guarantee, SpawnError};
use serde::Serialize;
use std::fs::File;
use std::io::{self, Seek};
use std::path::Path;

/// Where the report goes. It is opened before the command runs, so that a path that cannot be written costs no run, and
/// so that what stood there before is not taken for this run's.
pub(super) enum Destination {
    Nowhere,
    Stdout,
    File(File),
}

impl Destination {
    pub(super) fn open(path: Option<&Path>) -> io::Result<Destination> {
        match path {
            None => Ok(Destination::Nowhere),
            Some(path) if path.as_os_str() == "-" => Ok(Destination::Stdout),
            Some(path) => File::create(path).map(Destination::File),
        }
    }

    /// Writes it; the report of an earlier run that stands there is replaced. A pipe that nobody reads is waited for as
    /// long as
    /// `patient` says so.
    pub(super) fn write(&self, report: &impl Serialize, patient: impl Fn() -> bool) -> io::Result<()> {
        let mut text = serde_json::to_string(report)?;
        text.push('\n');
        match self {
            Destination::Nowhere => Ok(()),
            Destination::Stdout => write_patiently(rustix::stdio::stdout(), text.as_bytes(), patient),
            Destination::File(file) => {
                // A pipe or a device has no length.
                if file.metadata()?.is_file() {
                    file.set_len(0)?;
                    (&*file).rewind()?;
                }
                write_patiently(file, text.as_bytes(), patient)
            }
        }
    }
}

/// A command that did not start.
#[derive(Serialize)]
pub(super) struct NotStarted {
    cause: &'static str,
    error: String,
    stage: Option<String>,
    errno: Option<i32>,
    restarts: u32,
}

impl NotStarted {
    pub(super) fn new(error: &SpawnError, restarts: u32) -> NotStarted {
        let stage = error.stage().map(|stage| stage.to_string());
        NotStarted { cause: "not-started", error: error.to_string(), stage, errno: error.errno(), restarts }
    }
}

/// The report as JSON; times in seconds, memory in bytes.
#[derive(Serialize)]
pub(super) struct Report {
    cause: String,
    code: Option<i32>,
    signal: Option<String>,
    core_dumped: bool,
    duration: f64,
    user: f64,
    system: f64,
    peak_memory: u64,
    tree_peak_memory: Option<u64>,
    obeyed: u32,
    killed: u32,
    survivors: u32,
    oom_kills: u64,
    fork_refusals: u64,
    restarts: u32,
    guarantee: String,
    unavailable: Vec<String>,
    limits: Vec<String>,
}

impl Report {
    pub(super) fn new(report: &ExitReport, guarantee: &Guarantee, restarts: u32) -> Report {
        let (cause, core_dumped) = match report.cause {
            Cause::Exited(_) => ("exited".to_owned(), false),
            Cause::Signaled { core, .. } => ("signaled".to_owned(), core),
            Cause::Stopped => ("stopped".to_owned(), false),
            Cause::TimedOut => ("timeout".to_owned(), false),
            Cause::Limit(limit) => (format!("{limit}-limit"), false),
            Cause::ParentDeath => ("parent-death".to_owned(), false),
            Cause::ShepherdSignaled(_) => ("shepherd-signaled".to_owned(), false),
            other => (format!("{other:?}").to_lowercase(), false),
        };
        Report {
            cause,
            code: report.code(),
            signal: report.signal().map(|signal| signal.to_string()),
            core_dumped,
            duration: report.duration.as_secs_f64(),
            user: report.usage.user.as_secs_f64(),
            system: report.usage.system.as_secs_f64(),
            peak_memory: report.usage.peak_memory,
            tree_peak_memory: report.tree_peak_memory,
            obeyed: report.obeyed,
            killed: report.killed,
            survivors: report.survivors,
            oom_kills: report.oom_kills,
            fork_refusals: report.fork_refusals,
            restarts,
            guarantee: guarantee.protection.to_string(),
            unavailable: guarantee
                .unavailable
                .iter()
                .map(|(protection, reason)| format!("{protection}: {reason}"))
                .collect(),
            limits: guarantee.limits.iter().map(|(limit, enforcement)| format!("{limit}: {enforcement}")).collect(),
        }
    }
}
