//! One measurement: the parent founds the mechanism, starts the children, calibrates, works, calibrates again.

use crate::Outcome;
use crate::drive::{Budget, Findings};
use crate::meet::{Handoff, Meeting, Plan};
use crate::page::{MAX_CHILDREN, Page, Phase, Report};
use crate::payload::Tally;
use crate::rows::{Kind, Mode};
use crate::sys::{TickLength, die_with_parent, pin, raise_priority, verify_pinned};
use hdrhistogram::Histogram;
use rustix::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use rustix::io::{FdFlags, fcntl_setfd};
use serde::Serialize;
use std::process::{Child, Command};
use std::time::Duration;

/// One look at the distance of the two cores.
#[derive(Clone, Copy, Serialize)]
pub struct Calibration {
    /// Cache-line round trip in nanoseconds, waiting with plain loads.
    pub line_ns: f64,
    /// The same, waiting with `pause` between loads.
    pub line_pause_ns: f64,
}

/// What is printed, as one line of JSON.
#[derive(Serialize)]
pub struct Measurement {
    pub row: String,
    pub contender: String,
    pub cores: [usize; 2],
    /// Before and after.
    pub calibration: [Calibration; 2],
    pub high_priority: bool,
    pub sent: u64,
    pub send_seconds: f64,
    /// One for every reader.
    pub readers: Vec<Reader>,
    /// What the parent received back.
    pub answers: Tally,
    /// Picoseconds and how often: of a round trip, half of one, a message, a publication, as the row says.
    pub histogram: Vec<(u64, u64)>,
    /// For round trips, the same of means over blocks: finer than the clock steps.
    pub blocks: Vec<(u64, u64)>,
}

#[derive(Serialize)]
pub struct Reader {
    pub tally: Tally,
    /// First to last arrival.
    pub seconds: f64,
}

/// What a side was told on its command line.
pub struct Assignment {
    pub plan: Plan,
    pub contender: String,
    pub cores: [usize; 2],
    pub budget: Duration,
    pub messages: u64,
}

/// Which side we are.
pub enum Side {
    Parent,
    Child { index: usize, page: OwnedFd, handoff: Handoff },
}

/// The work of the two sides of a row.
pub struct Work<P, C> {
    pub parent: fn(&Plan, &Page, &mut P, Budget) -> Outcome<Findings>,
    pub child: fn(&Plan, &Page, &mut C) -> Outcome<Report>,
}

/// Plays one side of a measurement over the mechanism `M`; the parent's result is printed.
pub fn play<M: Meeting>(
    assignment: &Assignment,
    side: Side,
    work: Work<M::Parent, M::Child>,
) -> Outcome<Option<Measurement>> {
    match side {
        Side::Parent => parent::<M>(assignment, work.parent).map(Some),
        Side::Child { index, page, handoff } => {
            child::<M>(assignment, index, &page, handoff, work.child)?;
            Ok(None)
        }
    }
}

fn parent<M: Meeting>(
    assignment: &Assignment,
    work: fn(&Plan, &Page, &mut M::Parent, Budget) -> Outcome<Findings>,
) -> Outcome<Measurement> {
    let plan = &assignment.plan;
    let [here, there] = assignment.cores;
    die_with_parent()?;
    let high_priority = raise_priority();
    pin(here)?;
    let tick = TickLength::measure();
    let (page_fd, page) = Page::create()?;
    let (founded, handoff) = M::found(plan)?;
    let mut children = Children::start(assignment, &page_fd, handoff)?;
    children.wait(&page, Phase::Joined)?;
    let mut end = M::connect(plan, founded)?;

    let before = calibrate(&page, &mut children, tick, Phase::Joined)?;
    let budget = Budget { ticks: tick.ticks_in(assignment.budget), messages: assignment.messages };
    page.parent_reached(Phase::Driving);
    children.wait(&page, Phase::Driving)?;
    crate::syscalls::mark(crate::syscalls::Mark::Begin);
    let findings = work(plan, &page, &mut end, budget)?;
    crate::syscalls::mark(crate::syscalls::Mark::End);
    verify_pinned(here)?;
    children.wait(&page, Phase::Reported)?;
    let after = calibrate(&page, &mut children, tick, Phase::Reported)?;
    page.parent_reached(Phase::Finished);
    let reports: Vec<Report> = (0..plan.row.children()).map(|index| page.read_report(index)).collect();
    children.finish()?;
    check(plan, &findings, &reports)?;

    let from_reader = matches!(plan.row.kind, Kind::Throughput | Kind::Open);
    let samples = if from_reader { &reports[0].samples } else { &findings.samples };
    let per_sample = findings.per_sample.max(1);
    let histogram = recorded(samples.iter().map(|&ticks| tick.picoseconds(ticks) / per_sample))?;
    let blocks = recorded(findings.blocks.iter().map(|&ticks| tick.picoseconds(ticks) / 1000 / per_sample))?;
    let seconds = |ticks| tick.picoseconds(ticks) as f64 / 1e12;
    Ok(Measurement {
        row: plan.row.id.clone(),
        contender: assignment.contender.clone(),
        cores: [here, if plan.row.same_core { here } else { there }],
        calibration: [before, after],
        high_priority,
        sent: findings.sent,
        send_seconds: seconds(findings.send_window),
        readers: reports.iter().map(|report| Reader { tally: report.tally, seconds: seconds(report.window) }).collect(),
        answers: findings.tally,
        histogram,
        blocks,
    })
}

/// Refuses a run in which a message was lost that must not be, came twice, or was not what was sent.
fn check(plan: &Plan, findings: &Findings, reports: &[Report]) -> Outcome<()> {
    let streams = matches!(plan.row.kind, Kind::Throughput);
    let answered = matches!(plan.row.kind, Kind::RoundTrip | Kind::Loan);
    let answers = answered.then_some(&findings.tally);
    for tally in reports.iter().map(|report| &report.tally).chain(answers) {
        let lost = tally.skipped > 0 && plan.row.mode == Mode::Lossless;
        let missing = (streams || answered) && tally.received + tally.skipped != findings.sent;
        if tally.doubled > 0 || tally.corrupt > 0 || lost || missing {
            return Err(format!("not every message arrived as it was sent: {} sent, {tally:?}", findings.sent).into());
        }
    }
    Ok(())
}

/// Values rounded to three digits, and how often each was seen.
fn recorded(picoseconds: impl Iterator<Item = u64>) -> Outcome<Vec<(u64, u64)>> {
    let mut histogram = Histogram::<u64>::new(3)?;
    for value in picoseconds {
        histogram.record(value)?;
    }
    Ok(histogram.iter_recorded().map(|bucket| (bucket.value_iterated_to(), bucket.count_at_value())).collect())
}

/// Runs the ping-pong with the first child, which waits at `phase`.
fn calibrate(page: &Page, children: &mut Children, tick: TickLength, phase: Phase) -> Outcome<Calibration> {
    children.wait(page, phase)?;
    page.parent_reached(if phase == Phase::Joined { Phase::Calibrating } else { Phase::Recalibrating });
    children.wait_one(page, 0, if phase == Phase::Joined { Phase::Calibrating } else { Phase::Recalibrating })?;
    let nanoseconds = |ticks| tick.picoseconds(ticks) as f64 / 1000.0;
    let line_ns = nanoseconds(page.ping(false));
    let line_pause_ns = nanoseconds(page.ping(true));
    Ok(Calibration { line_ns, line_pause_ns })
}

fn child<M: Meeting>(
    assignment: &Assignment,
    index: usize,
    page: &OwnedFd,
    handoff: Handoff,
    work: fn(&Plan, &Page, &mut M::Child) -> Outcome<Report>,
) -> Outcome<()> {
    let plan = &assignment.plan;
    let [here, there] = assignment.cores;
    let core = if plan.row.same_core { here } else { there };
    die_with_parent()?;
    pin(there)?;
    let page = Page::open(page)?;
    let mut end = M::join(plan, handoff, index)?;
    page.child_reached(index, Phase::Joined);
    if index == 0 {
        page.wait_for_parent(Phase::Calibrating)?;
        page.child_reached(0, Phase::Calibrating);
        page.pong(false);
        page.pong(true);
    }
    page.wait_for_parent(Phase::Driving)?;
    pin(core)?;
    page.child_reached(index, Phase::Driving);
    crate::syscalls::mark(crate::syscalls::Mark::Begin);
    let report = work(plan, &page, &mut end)?;
    crate::syscalls::mark(crate::syscalls::Mark::End);
    verify_pinned(core)?;
    pin(there)?;
    page.report(index, &report);
    page.child_reached(index, Phase::Reported);
    if index == 0 {
        page.wait_for_parent(Phase::Recalibrating)?;
        page.child_reached(0, Phase::Recalibrating);
        page.pong(false);
        page.pong(true);
    }
    page.wait_for_parent(Phase::Finished)
}

/// The child processes; whatever happens, none of them is left behind.
struct Children(Vec<Child>);

impl Children {
    fn start(assignment: &Assignment, page: &OwnedFd, handoff: Handoff) -> Outcome<Self> {
        let count = assignment.plan.row.children();
        if count > MAX_CHILDREN {
            return Err(format!("{count} readers are more than the {MAX_CHILDREN} this harness has room for").into());
        }
        let mut children = Self(Vec::new());
        for fd in handoff.fds.iter().chain([page]) {
            fcntl_setfd(fd, FdFlags::empty())?;
        }
        for index in 0..count {
            let mut command = Command::new(std::env::current_exe()?);
            command.arg("join").arg(&assignment.plan.row.id).arg(&assignment.contender);
            command.arg(format!("--cores={},{}", assignment.cores[0], assignment.cores[1]));
            command.arg("--name").arg(&assignment.plan.name);
            command.arg("--directory").arg(&assignment.plan.directory);
            command.arg(format!("--index={index}")).arg(format!("--page={}", page.as_raw_fd()));
            command.args(handoff.fds.iter().map(|fd| format!("--fd={}", fd.as_raw_fd())));
            command.args(handoff.names.iter().map(|name| format!("--inherit-name={name}")));
            children.0.push(command.spawn()?);
        }
        // The parent's copies close here: a pipe whose other side dies must say so.
        drop(handoff);
        fcntl_setfd(page, FdFlags::CLOEXEC)?;
        Ok(children)
    }

    fn wait(&mut self, page: &Page, phase: Phase) -> Outcome<()> {
        (0..self.0.len()).try_for_each(|index| self.wait_one(page, index, phase))
    }

    fn wait_one(&mut self, page: &Page, index: usize, phase: Phase) -> Outcome<()> {
        let child = &mut self.0[index];
        page.wait_for_child(index, phase, || match child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(format!("reader {index} ended early ({status})").into()),
        })
    }

    fn finish(mut self) -> Outcome<()> {
        for mut child in self.0.drain(..) {
            let status = child.wait()?;
            if !status.success() {
                return Err(format!("a reader failed at its end ({status})").into());
            }
        }
        Ok(())
    }
}

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Already gone is as good: the wait below tells.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Takes descriptors over that the parent left open for us.
pub fn inherit(fds: &[RawFd]) -> Vec<OwnedFd> {
    // SAFETY: the numbers come from our own parent, which kept these descriptors open across exec for this one taker.
    fds.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect()
}
