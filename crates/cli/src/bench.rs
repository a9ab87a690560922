//! `ginnel bench`: parse, check everything, measure row by row, print.

use crate::interrupt::Interrupt;
use crate::outcome::{Failure, complain, conclude, say};
use crate::quantity;
use clap::{Args, ValueEnum};
use ginnel_bench::{Amount, Environment, Form, Mechanisms, Meeting, Mode, Plan, Report, Row, SideProgram, Suite};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

mod progress;
mod table;

use progress::Progress;

/// The command line is wrong.
const USAGE: u8 = 2;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Arguments of `ginnel bench`.
#[derive(Args)]
#[command(after_help = "\
Without options: every mechanism, blocking, 64 bytes, ping-pong and throughput, on two CPUs; done within two minutes.

Modes are never mixed. ping-pong: one message there and back at a time. paced: messages at a fixed rate; latency counts
from the moment at which each was to be sent, so nothing is hidden by a sender that is held up. throughput: as much as
goes through; its latency is time in the queue. fan-out, fan-in: one process with --concurrency others.

Every message is numbered and checksummed. A side that stops answering is an error within --timeout. The machine is
calibrated before and after each repetition; one that drifted is thrown away and repeated.

Examples:
  ginnel bench
  ginnel bench -m ginnel-ring,uds-seqpacket -s 64,4K --mode ping-pong,throughput -o new.json
  ginnel bench -m tcp --rate 10000 -d 5s --percentiles 50,99,99.99
  ginnel bench --server &  ginnel bench --client -m uds-stream      in two containers that share GINNEL_RUN_DIR
  ginnel bench --server --host 10.0.0.7 --port 7000                 and there: --client --host 10.0.0.7 --port 7000 -m tcp
  ginnel bench --list

Exit codes: 0 every row has its number, 1 a row failed, a message was lost, or --strict, 2 the command line is wrong")]
pub(crate) struct Bench {
    /// What to measure: names of --list, or all
    #[arg(short, long, value_delimiter = ',', default_value = "all", value_name = "NAME,…")]
    mechanisms: Vec<String>,
    /// Show every mechanism, and end
    #[arg(long)]
    list: bool,
    /// What to do
    #[arg(long, value_delimiter = ',', value_enum, value_name = "MODE,…")]
    mode: Vec<ModeName>,
    /// Bytes of a message, header included
    #[arg(short = 's', long, value_delimiter = ',', default_value = "64", value_parser = quantity::size, value_name = "SIZE,…")]
    message_size: Vec<u64>,
    /// Messages of each pair
    #[arg(short = 'i', long, value_name = "N", conflicts_with = "duration")]
    msg_count: Option<u64>,
    /// How long each repetition takes [default: 150ms]
    #[arg(short, long, value_parser = quantity::duration, value_name = "TIME")]
    duration: Option<Duration>,
    /// Pairs of processes at the same time; of a fan, its width
    #[arg(short, long, default_value = "1", value_name = "N")]
    concurrency: usize,
    /// Messages before, on the same connection, that are not measured
    #[arg(short, long, default_value = "200", value_name = "N")]
    warmup_iterations: u64,
    /// Repetitions of each row
    #[arg(long, default_value = "3", value_name = "N")]
    repetitions: usize,
    /// Mode paced: messages a second
    #[arg(long, value_name = "N", conflicts_with = "send_delay")]
    rate: Option<f64>,
    /// Mode paced: time between two messages
    #[arg(long, value_parser = quantity::duration, value_name = "TIME")]
    send_delay: Option<Duration>,
    /// Most messages in flight, in modes with several [default: 64, or the mechanism's own limit]
    #[arg(long, value_name = "N")]
    depth: Option<usize>,
    /// Measure the blocking form (the default)
    #[arg(long)]
    blocking: bool,
    /// Measure the async form; with --blocking, both
    #[arg(long)]
    r#async: bool,
    /// Ping-pong: measure the time of one way, too
    #[arg(long)]
    one_way: bool,
    /// Paced: each message is answered, and the round trip is measured
    #[arg(long)]
    round_trip: bool,
    /// CPU of the servers [default: the second one that this process may use]
    #[arg(long, value_name = "CPU")]
    server_affinity: Option<usize>,
    /// CPU of the clients [default: the first one that this process may use]
    #[arg(long, value_name = "CPU")]
    client_affinity: Option<usize>,
    /// Percentiles to show
    #[arg(long, value_delimiter = ',', default_value = "50,99,99.9", value_name = "P,…")]
    percentiles: Vec<f64>,
    /// The kernel's buffer, where a mechanism has one; what it really is, is reported
    #[arg(long, value_parser = quantity::size, value_name = "SIZE")]
    buffer_size: Option<u64>,
    /// Address of TCP; with --server or --client, where the two meet
    #[arg(long, value_name = "ADDRESS")]
    host: Option<IpAddr>,
    /// Port of TCP [default: any that is free]; with --server or --client, where the two meet
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Play the servers only, for clients that are started elsewhere, until a signal ends it
    #[arg(long, conflicts_with_all = ["client", "output", "list"])]
    server: bool,
    /// Play the clients only, with a --server that was started elsewhere
    #[arg(long)]
    client: bool,
    /// Priority of messages in a POSIX queue
    #[arg(long, default_value = "0", value_name = "N")]
    pmq_priority: u32,
    /// Measure the first message, too, which otherwise absorbs the cold start
    #[arg(long)]
    include_first_message: bool,
    /// How long nothing may move before a row is given up
    #[arg(long, default_value = "5s", value_parser = quantity::duration, value_name = "TIME")]
    timeout: Duration,
    /// Write everything measured here, as JSON
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Go on when a row fails; the exit code is that of a failure all the same
    #[arg(long)]
    continue_on_error: bool,
    /// Measure unstable rows again by themselves, and show both results
    #[arg(long)]
    diagnose: bool,
    /// Fail if a row is unstable, or drifted: what is published is neither
    #[arg(long)]
    strict: bool,
    /// No progress and no table
    #[arg(short, long)]
    quiet: bool,
    /// Show every repetition, with its calibrations
    #[arg(short, long)]
    verbose: bool,
}

/// A mode on the command line.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    PingPong,
    Paced,
    Throughput,
    FanOut,
    FanIn,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::PingPong => Self::PingPong,
            ModeName::Paced => Self::Paced,
            ModeName::Throughput => Self::Throughput,
            ModeName::FanOut => Self::FanOut,
            ModeName::FanIn => Self::FanIn,
        }
    }
}

/// A process of `bench`.
pub(crate) fn side() -> ExitCode {
    ginnel_bench::run_side(&Mechanisms::all())
}

impl Bench {
    pub(crate) fn run(self) -> ExitCode {
        conclude(self.measure())
    }

    fn measure(&self) -> Result<ExitCode, Failure> {
        let suite = Suite::new(Mechanisms::all(), SideProgram::this(["bench-side"])?).repetitions(self.repetitions);
        if self.list {
            for facts in suite.mechanisms().facts() {
                say(format_args!("{:<18} {}", facts.name, facts.about))?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        if self.server {
            return self.serve(&suite);
        }
        let suite = if self.client { suite.meet(self.meeting()?) } else { suite };
        if let Some(percentile) = self.percentiles.iter().find(|percentile| !(0.0..=100.0).contains(*percentile)) {
            return Err(usage(format!("{percentile} is no percentile: they go from 0 to 100")));
        }
        let plans = self.plans(&suite)?;
        for plan in &plans {
            suite.check(plan).map_err(|refused| usage(refused.to_string()))?;
        }
        let interrupt = Interrupt::watch()?;
        let mut report = Report::new(Environment::read());
        let mut progress = Progress::new(plans.len(), self.quiet);
        for plan in &plans {
            progress.begins(plan);
            let row = suite.measure(plan);
            let failed = row.failure.is_some();
            report.rows.push(row);
            if interrupt.came() || (failed && !self.continue_on_error) {
                break;
            }
        }
        for (plan, row) in plans.iter().zip(&mut report.rows).filter(|_| self.diagnose && !interrupt.came()) {
            suite.diagnose(plan, row, Duration::from_secs(5));
        }
        drop(progress);
        if let Some(path) = &self.output {
            let written = report.write(path);
            written.map_err(|error| Failure::new(format!("cannot write {}: {error}", path.display())))?;
        }
        if !self.quiet {
            say(table::render(&report, &self.percentiles, self.verbose))?;
        }
        if interrupt.came() {
            return Ok(interrupt.code());
        }
        let failed =
            report.rows.iter().filter_map(|row| why_failed(row, self.strict)).inspect(|why| complain(why)).count();
        Ok(if failed > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn serve(&self, suite: &Suite) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        let (_, server) = self.cpus();
        suite.serve(
            &self.meeting()?,
            server,
            || interrupt.came(),
            |line| {
                if !self.quiet {
                    let _ = say(line); // nobody may be there to read it
                }
            },
        )?;
        Ok(ExitCode::SUCCESS)
    }

    /// Where --server and --client meet: at an address if one is given, else in the run directory.
    fn meeting(&self) -> Result<Meeting, Failure> {
        match (self.host, self.port) {
            (None, None) => Ok(Meeting::here()),
            (_, None) => Err(usage("an address needs a --port, too".to_owned())),
            (host, Some(port)) => Ok(Meeting::Address(SocketAddr::new(host.unwrap_or(LOOPBACK), port))),
        }
    }

    /// Everything that is to be measured, in order.
    fn plans(&self, suite: &Suite) -> Result<Vec<Plan>, Failure> {
        let all = suite.mechanisms().names();
        let every = self.mechanisms.iter().any(|name| name == "all");
        let names: Vec<&str> = if every { all } else { self.mechanisms.iter().map(String::as_str).collect() };
        let forms = match (self.blocking, self.r#async) {
            (_, false) => vec![Form::Blocking],
            (false, true) => vec![Form::Async],
            (true, true) => vec![Form::Blocking, Form::Async],
        };
        let modes = self.modes()?;
        let (client, server) = self.cpus();
        let mut plans = Vec::new();
        for &mode in &modes {
            for &size in &self.message_size {
                for name in &names {
                    for &form in &forms {
                        let mut plan = Plan::new(*name, mode);
                        self.fill(&mut plan);
                        plan.form = form;
                        plan.size = usize::try_from(size).unwrap_or(usize::MAX);
                        (plan.client_cpu, plan.server_cpu) = (client, server);
                        let limit = suite.mechanisms().facts().iter().find(|facts| facts.name == *name).copied();
                        let most = limit.and_then(|facts| facts.max_depth).unwrap_or(usize::MAX);
                        plan.depth = self.depth.unwrap_or(plan.depth.min(most));
                        // Of all mechanisms, those are measured that can be; one that is named must be able to.
                        if !every || suite.check(&plan).is_ok() {
                            plans.push(plan);
                        } else if let Err(why) = suite.check(&plan) {
                            complain(format_args!("left out: {why}"));
                        }
                    }
                }
            }
        }
        if plans.is_empty() {
            return Err(usage("nothing of this can be measured".to_owned()));
        }
        Ok(plans)
    }

    fn modes(&self) -> Result<Vec<Mode>, Failure> {
        let paced = self.rate.is_some() || self.send_delay.is_some();
        let modes: Vec<Mode> = match (self.mode.is_empty(), paced) {
            (true, true) => vec![Mode::Paced],
            (true, false) if self.concurrency == 1 => vec![Mode::PingPong, Mode::Throughput],
            (true, false) => vec![Mode::PingPong],
            (false, _) => self.mode.iter().copied().map(Mode::from).collect(),
        };
        if paced && modes.iter().any(|mode| *mode != Mode::Paced) {
            return Err(usage("--rate and --send-delay are for mode paced only".to_owned()));
        }
        if !paced && modes.contains(&Mode::Paced) {
            return Err(usage("mode paced needs --rate or --send-delay".to_owned()));
        }
        if self.round_trip && modes.contains(&Mode::Throughput) {
            return Err(usage("mode throughput has no round trip: its messages go one way".to_owned()));
        }
        if self.one_way && self.round_trip && modes.contains(&Mode::Paced) {
            return Err(usage("a paced row is either --one-way or --round-trip".to_owned()));
        }
        if self.rate.is_some_and(|rate| !(rate > 0.0 && rate <= 1e9)) {
            return Err(usage("--rate is a number of messages a second, above 0 and at most 1000000000".to_owned()));
        }
        Ok(modes)
    }

    fn cpus(&self) -> (Option<usize>, Option<usize>) {
        let allowed = Environment::read().affinity;
        let client = self.client_affinity.or(allowed.iter().copied().find(|cpu| Some(*cpu) != self.server_affinity));
        let client = client.or(self.server_affinity);
        let server = self.server_affinity.or(allowed.iter().copied().find(|cpu| Some(*cpu) != client)).or(client);
        (client, server)
    }

    fn fill(&self, plan: &mut Plan) {
        plan.amount = match (self.msg_count, self.duration) {
            (Some(count), _) => Amount::Count(count),
            (None, time) => Amount::Duration(time.unwrap_or(Duration::from_millis(150))),
        };
        plan.warm_up = self.warmup_iterations;
        plan.include_first = self.include_first_message;
        if let Some(delay) = self.send_delay.or(self.rate.map(|rate| Duration::from_secs_f64(1.0 / rate))) {
            plan.interval = delay;
        }
        plan.round_trip = self.round_trip;
        plan.one_way = self.one_way && plan.mode != Mode::Throughput;
        plan.pairs = self.concurrency;
        plan.buffer = self.buffer_size.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX));
        plan.priority = self.pmq_priority;
        plan.host = SocketAddr::new(self.host.unwrap_or(LOOPBACK), self.port.unwrap_or(0));
        plan.patience = self.timeout;
    }
}

fn usage(message: String) -> Failure {
    Failure::with_code(USAGE, message)
}

/// Why a row is no success, if it is none.
fn why_failed(row: &Row, strict: bool) -> Option<String> {
    let what = format!("{}, {} {}, {} bytes", row.mechanism, row.form, row.mode, row.size);
    if let Some(failure) = &row.failure {
        return Some(format!("{what}: {failure}"));
    }
    let summary = row.summary.as_ref()?;
    if strict && (!summary.stable || row.repetitions.iter().any(|one| one.drifted)) {
        return Some(format!("{what}: not stable enough to be published"));
    }
    let counts = summary.counts;
    (!counts.is_clean()).then(|| {
        let (lost, doubled, late, corrupt) = (counts.lost, counts.duplicated, counts.reordered, counts.corrupt);
        format!("{what}: {lost} messages lost, {doubled} duplicated, {late} reordered, {corrupt} corrupt")
    })
}
