//! `ginnel demo`: the quick start. Two processes, two channels, real data, and proof that nothing was left behind.
//!
//! ```text
//! ginnel demo                                         ginnel demo-child
//!   reads /proc  -- one record per process -->          checks, adds up, measures the latency
//!   compares     <-- one report per sweep ---           says what it has seen
//!   squares      <-- one number per call ----           another one calls, and checks the answers
//! ```

use crate::interrupt::Interrupt;
use crate::outcome::{Failure, complain, conclude, say};
use crate::quantity;
use clap::Args;
use ginnel::channel::{Link, PublishError, RecvError};
use ginnel::process::{Child, Command, Stdio};
use ginnel_base::Deadline;
use std::collections::VecDeque;
use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

mod child;
mod footprint;
mod records;
mod service;
mod table;

pub(crate) use child::DemoChild;
use footprint::Footprint;
use records::{Latency, ParentLink, ProcessRecord, Report, Sums};
use service::Calls;
use table::Table;

/// Names the channels and the environment variables of the link.
const PREFIX: &str = "ginnel-demo";
/// How long the child may take for anything; it needs microseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the service is called at most.
const CALLS: Duration = Duration::from_secs(1);
/// How often a wait for the child looks for Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `ginnel demo`.
#[derive(Args)]
#[command(after_help = "\
Starts a second process and talks to it through an inherited pair of channels: this machine's process table, one record per
process, over and over; what the other process makes of it comes back. At the end: how many records, how fast, whether
any was lost, and whether anything was left behind. Then a third process calls this one, as a service.

Examples:
  ginnel demo
  ginnel demo --seconds 2 --json | jq .latency_ns.p99

Exit codes: 0 all records arrived intact and nothing was left behind (also when Ctrl-C ended it), 1 anything else,
2 the command line is wrong")]
pub(crate) struct Demo {
    /// How long to talk
    #[arg(long, value_name = "N", default_value = "5", value_parser = quantity::duration)]
    seconds: Duration,
    /// Print the summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// What the parent counted, and what the child said at its end.
#[derive(Clone, Copy)]
struct Outcome {
    sent: u64,
    sweeps: u64,
    reports: u64,
    wrong_reports: u64,
    processes: u64,
    elapsed: Duration,
    child: u32,
    /// Processes of its tree that even the shepherd could not end.
    survivors: u32,
    sums: Sums,
    latency: Latency,
}

impl Demo {
    pub(crate) fn run(self) -> ExitCode {
        conclude(self.show())
    }

    fn show(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        // The library's watch over commands is made with the first one and stays: it is no leftover of this one.
        Command::new(std::env::current_exe()?).arg("--version").run()?;
        let before = Footprint::now(std::process::id())?;
        let outcome = Conversation::start()?.hold(self.seconds, &interrupt)?;
        let mut left_behind = Footprint::now(outcome.child)?.since(&before);
        if outcome.survivors > 0 {
            left_behind.push(format!("{} processes of the other's tree", outcome.survivors));
        }

        // Afterwards, so that what was left behind is the channels' alone.
        let calls = if interrupt.came() { None } else { Some(service::serve(self.seconds.min(CALLS))?) };

        let arrived = outcome.sums.records + outcome.sums.corrupt;
        let lost = outcome.sent.saturating_sub(arrived);
        let damaged = outcome.sums.corrupt + outcome.wrong_reports;
        say(if self.json {
            outcome.json(lost, damaged, &left_behind, calls.as_ref())
        } else {
            outcome.text(lost, damaged, &left_behind, calls.as_ref())
        })?;
        if let Some(wrong) = calls.map(|calls| calls.wrong).filter(|wrong| *wrong > 0) {
            return Err(Failure::new(format!("{wrong} answers of the service were wrong")));
        }
        if lost > 0 || damaged > 0 {
            return Err(Failure::new(format!("{lost} records were lost and {damaged} damaged")));
        }
        if !left_behind.is_empty() {
            return Err(Failure::new(format!("left behind: {}", left_behind.join(", "))));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The child and the link to it. Ends the child when it is dropped early.
struct Conversation {
    link: Option<ParentLink>,
    child: Child,
    outcome: Outcome,
    /// Our own sums after each sweep that no report has come about yet.
    expected: VecDeque<Sums>,
}

impl Conversation {
    fn start() -> Result<Self, Failure> {
        let (link, child) = spawn()?;
        let outcome = Outcome {
            sent: 0,
            sweeps: 0,
            reports: 0,
            wrong_reports: 0,
            processes: 0,
            elapsed: Duration::ZERO,
            child: child.id(),
            survivors: 0,
            sums: Sums::default(),
            latency: Latency::default(),
        };
        Ok(Self { link: Some(link), child, outcome, expected: VecDeque::new() })
    }

    fn hold(mut self, limit: Duration, interrupt: &Interrupt) -> Result<Outcome, Failure> {
        let started = Instant::now();
        let mut table = Table::default();
        let mut live = Live::new();
        let mut sums = Sums::default();
        while started.elapsed() < limit && !interrupt.came() {
            let before = sums.records;
            table.sweep(|process| self.send(ProcessRecord::of(process), &mut sums))?;
            self.outcome.processes = sums.records - before;
            self.outcome.sweeps += 1;
            self.send(ProcessRecord::end_of_sweep(), &mut sums)?;
            self.expected.push_back(sums);
            self.hear()?;
            live.show(&self.outcome, started.elapsed());
        }
        self.outcome.elapsed = started.elapsed();
        self.conclude()
    }

    fn send(&mut self, mut record: ProcessRecord, sums: &mut Sums) -> Result<(), Failure> {
        let Some(link) = &mut self.link else { return Ok(()) };
        record.number(self.outcome.sent);
        sums.add(&record);
        let deadline = Deadline::after(PATIENCE);
        loop {
            record.stamp();
            match link.outgoing.publish_timeout(&record, LOOK_EVERY) {
                Ok(()) => break,
                Err(PublishError::Timeout { .. }) if !deadline.passed() => {}
                Err(PublishError::Timeout { .. }) => {
                    return Err(Failure::new(format!("the other process has read nothing for {PATIENCE:?}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.outcome.sent += 1;
        Ok(())
    }

    /// Takes the reports that have come.
    fn hear(&mut self) -> Result<(), Failure> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let received = loop {
            match link.incoming.try_recv() {
                Ok(Some(Report::Sweep { number, sums })) => self.outcome.check(number, sums, self.expected.pop_front()),
                Ok(Some(Report::End { .. }) | None) => return Ok(()),
                Err(error) => break error,
            }
        };
        Err(self.explain(received))
    }

    /// Closes the channel to the child and waits for its last words and its end.
    fn conclude(mut self) -> Result<Outcome, Failure> {
        let Some(Link { outgoing, mut incoming, .. }) = self.link.take() else { unreachable!("a talk ends once") };
        drop(outgoing);
        let deadline = Deadline::after(PATIENCE);
        loop {
            match incoming.recv_timeout(deadline.remaining().unwrap_or(PATIENCE)) {
                Ok(Some(Report::Sweep { number, sums })) => self.outcome.check(number, sums, self.expected.pop_front()),
                Ok(Some(Report::End { sums, latency })) => {
                    (self.outcome.sums, self.outcome.latency) = (sums, latency);
                    break;
                }
                Ok(None) => return Err(Failure::new(format!("the other process gave no summary within {PATIENCE:?}"))),
                Err(error) => return Err(self.explain(error)),
            }
        }
        let left = deadline.remaining().unwrap_or(PATIENCE);
        let Some(report) = self.child.wait_timeout(left)? else {
            return Err(Failure::new(format!("the other process did not end within {PATIENCE:?}")));
        };
        self.outcome.survivors = report.survivors;
        Ok(self.outcome)
    }

    fn explain(&mut self, error: RecvError) -> Failure {
        let pid = self.child.id();
        let sent = self.outcome.sent;
        // Its channel hung up, so it is ending: its shepherd will say how.
        if matches!(error, RecvError::Closed { .. })
            && let Ok(Some(report)) = self.child.wait_timeout(PATIENCE)
        {
            let cause = report.cause;
            return Failure::new(format!("the other process ({pid}) ended after {sent} records were sent: {cause}"));
        }
        Failure::new(format!("the other process ({pid}) cannot be heard: {error}"))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        // After an orderly end both do nothing.
        let _ = self.child.kill();
    }
}

/// Starts the child with its ends of a new link.
fn spawn() -> Result<(ParentLink, Child), Failure> {
    // Its shepherd has a session of its own: Ctrl-C is for the parent, who then ends the conversation.
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("demo-child").stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let link = Link::export(PREFIX, "1", &mut command)?;
    let child = command.spawn().map_err(|error| Failure::new(format!("cannot start the other process: {error}")))?;
    Ok((link, child))
}

impl Outcome {
    /// Compares what the child made of a sweep with what was sent.
    fn check(&mut self, number: u64, sums: Sums, expected: Option<Sums>) {
        if number != self.reports || expected != Some(sums) {
            self.wrong_reports += 1;
        }
        self.reports += 1;
    }

    fn json(&self, lost: u64, damaged: u64, left_behind: &[String], calls: Option<&Calls>) -> String {
        let Latency { p50, p99, p999, max } = self.latency;
        serde_json::json!({
            "messages": self.sums.records,
            "bytes": self.bytes(),
            "lost": lost,
            "damaged": damaged,
            "seconds": self.elapsed.as_secs_f64(),
            "processes": self.processes,
            "sweeps": self.sweeps,
            "reports": self.reports,
            "latency_ns": { "p50": p50, "p99": p99, "p999": p999, "max": max },
            "left_behind": left_behind,
            "service": calls,
        })
        .to_string()
    }

    fn text(&self, lost: u64, damaged: u64, left_behind: &[String], calls: Option<&Calls>) -> String {
        let Latency { p50, p99, p999, max } = self.latency;
        let seconds = self.elapsed.as_secs_f64();
        let micros = |ns: u64| format!("{:.1} µs", ns as f64 / 1000.0);
        let mut text = format!(
            "records   {} to process {}, {:.0} a second, {} bytes; lost {lost}, damaged {damaged}\n\
             results   {} from it, each equal to our own sums over {} processes\n\
             latency   one way: p50 {}, p99 {}, p99.9 {}, max {}\n\
             left      {}",
            self.sums.records,
            self.child,
            self.sums.records as f64 / seconds,
            self.bytes(),
            self.reports - self.wrong_reports,
            self.processes,
            micros(p50),
            micros(p99),
            micros(p999),
            micros(max),
            if left_behind.is_empty() {
                "nothing: the whole process tree is gone, no file, no descriptor, no mapping".to_owned()
            } else {
                left_behind.join(", ")
            },
        );
        if let Some(calls) = calls {
            text += &format!(
                "\nservice   {} calls from a third process over {}, {:.0} a second, {} wrong answers; round trip p50 {}, \
                 p99 {}",
                calls.calls,
                calls.carrier,
                calls.calls as f64 / calls.seconds,
                calls.wrong,
                micros(calls.p50_ns),
                micros(calls.p99_ns),
            );
        }
        text
    }

    fn bytes(&self) -> u64 {
        self.sums.records * size_of::<ProcessRecord>() as u64
    }
}

/// The line that shows what is going on, for people only.
struct Live {
    shown: Option<Instant>,
    terminal: bool,
}

impl Live {
    fn new() -> Self {
        Self { shown: None, terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, outcome: &Outcome, elapsed: Duration) {
        if !self.terminal || self.shown.is_some_and(|at| at.elapsed() < LOOK_EVERY) {
            return;
        }
        self.shown = Some(Instant::now());
        let rate = outcome.sent as f64 / elapsed.as_secs_f64();
        let line = format!(
            "{} processes, {} records sent, {rate:.0}/s, {} results back",
            outcome.processes, outcome.sent, outcome.reports
        );
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if self.shown.is_some() && write!(std::io::stderr(), "\r\x1b[K").is_err() {
            complain("standard error went away");
        }
    }
}
