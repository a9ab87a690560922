//! One side of a measurement, as a process of its own. Spawned and stand-alone sides run the same code.
//!
//! ```text
//! parent                           side
//! Assignment, page  ------------>
//!                   <------------  Done::Ready       where the kernel says that it is
//!                   <------------  Done::Connected   the ends have each other
//! Order::Calibrate  ------------>
//!                   <------------  Done::Calibrated
//! Order::Go         ------------>
//!                   <------------  Done::Measured
//! Order::Calibrate, Order::Finish
//! ```
//! A side that cannot go on says `Done::Failed`. A side whose parent has gone ends.

use crate::clock::Clock;
use crate::control::Control;
use crate::drive::{self, Findings, Run};
use crate::machine;
use crate::mechanism::{Link, Mechanism, Mechanisms, Role, Transport};
use crate::model::Calibration;
use crate::names::Names;
use crate::page::Page;
use crate::plan::{Form, Mode, Plan};
use crate::port;
use crate::sys;
use ginnel_base::Deadline;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// The variable that makes a process a side: the number of the descriptor to its parent.
pub(crate) const SIDE: &str = "GINNEL_BENCH_SIDE";

/// What a side returns, or why it gave up.
pub(crate) type Outcome<T> = io::Result<T>;

/// What a side is told first. With it come the page and one control connection for each peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Assignment {
    pub(crate) plan: Plan,
    pub(crate) role: Role,
    /// Number of this side on the page.
    pub(crate) side: usize,
    /// Numbers of its pairs, one a control connection.
    pub(crate) pairs: Vec<usize>,
    pub(crate) clock: Clock,
    pub(crate) directory: Option<PathBuf>,
    /// Whether it is the one of its role that calibrates, and the peer shares the page.
    pub(crate) calibrates_line: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum Order {
    Calibrate,
    Go,
    Finish,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Done {
    Ready { cpus: Vec<usize> },
    Connected { buffer: Option<u64> },
    Calibrated(Calibration),
    Measured(Box<Findings>),
    Failed { message: String },
}

/// Everything a side has before its ends are open.
#[derive(Debug)]
pub(crate) struct SideRun {
    assignment: Assignment,
    boss: Control,
    peers: Vec<Control>,
    page: Page,
}

/// Whether this process was started as a side of a measurement: then its `main` calls [`run_side`] and nothing else.
#[must_use]
pub fn is_side() -> bool {
    std::env::var_os(SIDE).is_some()
}

/// The whole life of a process that was started as a side of a measurement.
#[must_use]
pub fn run_side(mechanisms: &Mechanisms) -> ExitCode {
    match SideRun::take(mechanisms) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

impl SideRun {
    fn take(mechanisms: &Mechanisms) -> Outcome<()> {
        let number = std::env::var(SIDE).ok().and_then(|number| number.parse().ok());
        let number: i32 = number.ok_or_else(|| io::Error::other("this process is no side of a measurement"))?;
        let boss = Control::new(sys::inherited(number)?)?;
        let (assignment, mut fds): (Assignment, _) = boss.hear_with()?;
        if fds.len() != 1 {
            return Err(io::Error::other("no page came"));
        }
        let page = Page::open(fds.remove(0))?;
        let mut peers = Vec::new();
        for _ in &assignment.pairs {
            let ((), mut fds): ((), _) = boss.hear_with()?;
            let control = Control::new(fds.pop().ok_or_else(|| io::Error::other("no connection came"))?)?;
            control.set_patience(assignment.plan.patience)?;
            peers.push(control);
        }
        let reply = boss.try_clone()?;
        let mechanism = mechanisms
            .find(&assignment.plan.mechanism)
            .ok_or_else(|| io::Error::other(format!("this side knows no `{}`", assignment.plan.mechanism)));
        let played = mechanism.and_then(|mechanism| mechanism.play(Self { assignment, boss, peers, page }));
        if let Err(error) = &played {
            let _ = reply.tell(&Done::Failed { message: error.to_string() }); // a parent that has gone knows it
        }
        played
    }

    /// Opens the ends, and works until the parent has had enough.
    pub(crate) fn play<M: Mechanism>(self, mechanism: &M) -> Outcome<()> {
        let form = self.assignment.plan.form;
        port::run(form, self.obey(mechanism))
    }

    async fn obey<M: Mechanism>(mut self, mechanism: &M) -> Outcome<()> {
        self.boss.tell(&Done::Ready { cpus: machine::allowed_cpus("self") })?;
        let mut ends = self.open(mechanism).await?;
        self.boss.tell(&Done::Connected { buffer: ends.first().and_then(Transport::buffer) })?;
        loop {
            match self.boss.hear()? {
                Order::Calibrate => self.boss.tell(&Done::Calibrated(self.calibrate()))?,
                Order::Go => {
                    let findings;
                    (ends, findings) = self.work(ends, mechanism.facts().answers_each).await?;
                    self.boss.tell(&Done::Measured(Box::new(findings)))?;
                }
                Order::Finish => return Ok(()),
            }
        }
    }

    async fn open<M: Mechanism>(&mut self, mechanism: &M) -> Outcome<Vec<M::End>> {
        let Assignment { plan, role, directory, pairs, .. } = &self.assignment;
        let mut ends = Vec::new();
        for (control, pair) in self.peers.iter().zip(pairs) {
            let names = directory.clone().map(|directory| Names { directory, pair: *pair });
            let mut link = Link { plan, control, names, pair: *pair };
            ends.push(mechanism.open(*role, &mut link).await?);
        }
        Ok(ends)
    }

    fn calibrate(&self) -> Calibration {
        let Assignment { clock, role, calibrates_line, plan, .. } = &self.assignment;
        let patience = plan.patience.min(Duration::from_secs(2));
        let mut calibration =
            Calibration { clock_ns: clock.cost(), memcpy_gb_s: memcpy_gb_s(), ..Calibration::default() };
        if *calibrates_line {
            match role {
                Role::Client => {
                    calibration.line_ns = self.page.ping(*clock, false, patience);
                    calibration.line_pause_ns = self.page.ping(*clock, true, patience);
                }
                Role::Server => {
                    let _ = self.page.pong(false, patience).and_then(|()| self.page.pong(true, patience));
                }
            }
        }
        calibration
    }

    async fn work<T: Transport + 'static>(
        &self,
        mut ends: Vec<T>,
        acknowledge_each: bool,
    ) -> Outcome<(Vec<T>, Findings)> {
        let Assignment { plan, role, clock, side, .. } = &self.assignment;
        let run = Run { plan: plan.clone(), clock: *clock, page: self.page.clone(), side: *side, acknowledge_each };
        let flows = plan.flows();
        let findings = match role {
            Role::Client if !flows => drive::ask(&mut ends, &run).await?,
            Role::Server if plan.mode == Mode::FanIn => return answer_all(ends, run).await,
            _ => {
                let Some(end) = ends.first_mut() else { return Err(io::Error::other("no pair")) };
                match (role, flows) {
                    (Role::Client, _) => drive::flow(end, &run).await?,
                    (Role::Server, true) => drive::drain(end, &run).await?,
                    (Role::Server, false) => drive::answer(end, &run).await?,
                }
            }
        };
        Ok((ends, findings))
    }
}

/// Answers on all ends at once: a thread for each in the blocking form, a task for each in the async one.
async fn answer_all<T: Transport + 'static>(ends: Vec<T>, run: Run) -> Outcome<(Vec<T>, Findings)> {
    let mut all = Findings::default();
    let mut back = Vec::new();
    let mut take = |(end, findings): (T, Findings)| {
        all.merge(&findings);
        all.usage = findings.usage; // each looked at the whole process: the last one has seen most
        back.push(end);
    };
    match run.plan.form {
        Form::Blocking => {
            let mut threads = Vec::new();
            for mut end in ends {
                let run = run.clone();
                threads.push(ginnel_base::thread::spawn("ginnel-bench-end", move || {
                    let findings = port::run(Form::Blocking, drive::answer(&mut end, &run));
                    findings.map(|findings| (end, findings))
                })?);
            }
            for thread in threads {
                take(thread.join().map_err(|_| io::Error::other("a thread panicked"))??);
            }
        }
        #[cfg(feature = "tokio")]
        Form::Async => {
            let mut tasks = Vec::new();
            for mut end in ends {
                let run = run.clone();
                tasks.push(tokio::task::spawn_local(async move {
                    drive::answer(&mut end, &run).await.map(|findings| (end, findings))
                }));
            }
            for task in tasks {
                take(task.await.map_err(io::Error::other)??);
            }
        }
        #[cfg(not(feature = "tokio"))]
        Form::Async => return Err(io::ErrorKind::Unsupported.into()),
    }
    Ok((back, all))
}

/// Copies 64 KiB within the cache for about 2 ms; bytes a nanosecond.
fn memcpy_gb_s() -> f64 {
    let from = vec![1u8; 64 << 10];
    let mut to = vec![0u8; 64 << 10];
    let begin = std::time::Instant::now();
    let over = Deadline::from(begin, Duration::from_millis(2));
    let mut bytes = 0;
    while !over.passed() {
        for _ in 0..8 {
            to.copy_from_slice(std::hint::black_box(&from));
            std::hint::black_box(&to);
            bytes += from.len();
        }
    }
    bytes as f64 / begin.elapsed().as_nanos() as f64
}
