//! `ginnel netipc ping`: how fast a service answers, as its clients see it.

use super::ask::{Question, Service};
use super::connection::{Connection, profile_name, raise_on_signal};
use super::trouble::Trouble;
use super::{End, print};
use crate::quantity;
use clap::Args;
use ginnel_session::{Abort, SessionError, Wait};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel netipc ping cgroups-lookup --token-from-env
  ginnel netipc ping cgroups-snapshot --count 10000 --interval 0 --json
  ginnel netipc ping increment --run-dir /tmp/services --profile baseline

Lookups are asked for no keys, the test services for something short: what is measured is the way, not the work.
Exits with 1 if any request had no answer, with 130 (143) if Ctrl-C (SIGTERM) came before there was a session; later it ends the
measurement, which is reported. With --json an error is one object on standard error.")]
pub(crate) struct Ping {
    /// Which service.
    #[arg(value_enum)]
    service: Service,
    #[command(flatten)]
    connection: Connection,
    /// How many requests.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    count: u32,
    /// Milliseconds between two requests; 0 is as fast as it goes.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    interval: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// How long connecting and each answer may take: 500ms, 5s, 1m; a bare number is seconds.
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = quantity::duration)]
    timeout: Duration,
}

impl Ping {
    pub(super) fn json(&self) -> bool {
        self.json
    }

    pub(super) fn run(self) -> Result<ExitCode, End> {
        let keys = match self.service {
            Service::Increment => vec![OsString::from("41")],
            Service::StringReverse => vec![OsString::from("ping")],
            _ => Vec::new(),
        };
        let mut question = Question::new(self.service, keys, &self.connection, self.timeout)?;
        let abort = question.base().abort_handle();
        let ended = raise_on_signal(&abort)?;
        let started = Instant::now();
        let state = question.refresh();
        let connect = started.elapsed();
        if !state.is_ready() {
            let trouble = Trouble::not_ready(&question, self.service, &self.connection);
            return Err(ended
                .code()
                .map_or_else(|| trouble.into(), |code| End { trouble: Trouble::interrupted(), code }));
        }
        let profile = question.base().agreement().map_or_else(String::new, |agreement| profile_name(agreement.profile));
        if !self.json {
            print(&format!("{} over {profile}, connected in {}\n", self.service.name(), micros(connect)))?;
        }
        let (times, lost) = self.measure(&mut question, &abort)?;
        self.report(times, lost, &profile, connect)?;
        Ok(ExitCode::SUCCESS)
    }

    fn measure(&self, question: &mut Question, abort: &Abort) -> Result<(Vec<Duration>, u32), String> {
        let (mut times, mut lost) = (Vec::new(), 0);
        for number in 1..=self.count {
            if number > 1 && self.interval > 0 {
                match Wait::forever().or_abort(abort).pause(Duration::from_millis(self.interval)) {
                    Err(SessionError::Aborted) => break,
                    paused => paused.map_err(|error| error.to_string())?,
                }
            }
            question.refresh();
            let started = Instant::now();
            let outcome = question.ask();
            let elapsed = started.elapsed();
            let line = match outcome {
                Ok(()) => {
                    times.push(elapsed);
                    format!("{number}: {}\n", micros(elapsed))
                }
                Err(_) if abort.is_raised() => break,
                Err(error) => {
                    lost += 1;
                    format!("{number}: {error}\n")
                }
            };
            // A flood prints its summary only.
            if !self.json && self.interval > 0 && !print(&line)? {
                break;
            }
        }
        Ok((times, lost))
    }

    fn report(&self, mut times: Vec<Duration>, lost: u32, profile: &str, connect: Duration) -> Result<(), String> {
        times.sort_unstable();
        let quantile = |q: f64| {
            let rank = (q * times.len() as f64).ceil() as usize;
            times.get(rank.saturating_sub(1)).copied()
        };
        let shown = [("min", 0.0), ("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)];
        if self.json {
            let mut summary = json!({
                "service": self.service.name(), "profile": profile, "connect_us": rounded(connect),
                "answered": times.len(), "lost": lost,
            });
            for (name, q) in shown {
                summary[format!("{name}_us")] = quantile(q).map_or(Value::Null, |time| json!(rounded(time)));
            }
            print(&format!("{summary}\n"))?;
        } else {
            let cells = shown.iter().filter_map(|(name, q)| Some(format!("{name} {}", micros(quantile(*q)?))));
            let cells = cells.collect::<Vec<_>>().join("  ");
            print(&format!("{} answered, {lost} lost  {cells}\n", times.len()))?;
        }
        if lost > 0 { Err(format!("{lost} of {} requests had no answer", lost as usize + times.len())) } else { Ok(()) }
    }
}

/// Microseconds to a nanosecond: what the clock can tell.
fn rounded(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

fn micros(time: Duration) -> String {
    format!("{:.1} µs", time.as_secs_f64() * 1e6)
}
