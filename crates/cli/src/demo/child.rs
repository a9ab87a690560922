//! The other process of the demo: receives, checks, measures, answers.

use super::records::{ChildLink, Latency, Report, Sums};
use super::{PREFIX, service};
use crate::outcome::{Failure, conclude};
use clap::Args;
use ginnel::channel::{CloseCause, Link, RecvError};
use hdrhistogram::Histogram;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Arguments of the hidden command `ginnel demo-child`. Without any, the environment says it all.
#[derive(Args)]
pub(crate) struct DemoChild {
    /// Call the service in this directory
    #[arg(long, requires = "millis")]
    call: Option<PathBuf>,
    /// For so long
    #[arg(long)]
    millis: Option<u64>,
}

impl DemoChild {
    pub(crate) fn run(self) -> ExitCode {
        conclude(match (self.call, self.millis) {
            (Some(dir), Some(millis)) => service::call(&dir, Duration::from_millis(millis)),
            _ => attend(),
        })
    }
}

/// Answers until the parent closes its channel, or dies.
fn attend() -> Result<ExitCode, Failure> {
    let mut link: ChildLink = Link::from_env(PREFIX)?;
    // One nanosecond to a minute, three digits.
    let mut latencies = Histogram::<u64>::new_with_bounds(1, 60_000_000_000, 3)?;
    let (mut sums, mut sweeps) = (Sums::default(), 0);
    loop {
        let record = match link.incoming.recv() {
            Ok(record) => record,
            Err(RecvError::Closed { cause: CloseCause::Closed }) => break,
            // Nobody is left to talk to.
            Err(RecvError::Closed { .. }) => return Ok(ExitCode::FAILURE),
            Err(error) => return Err(error.into()),
        };
        latencies.saturating_record(record.age_ns().max(1));
        if !record.is_intact() {
            sums.corrupt += 1;
            continue;
        }
        sums.add(&record);
        if record.is_end_of_sweep() {
            link.outgoing.publish(&Report::Sweep { number: sweeps, sums })?;
            sweeps += 1;
        }
    }
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|quantile| latencies.value_at_quantile(quantile));
    let latency = Latency { p50, p99, p999, max: latencies.max() };
    link.outgoing.publish(&Report::End { sums, latency })?;
    Ok(ExitCode::SUCCESS)
}
