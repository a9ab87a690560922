//! A run: the rows one after the other, each checked first, calibrated before and after, repeated.

use crate::apart::{self, Meeting};
use crate::clock::Clock;
use crate::error::BenchError;
use crate::group::{Group, Measured, SideProgram, parts};
use crate::mechanism::{Mechanisms, has_form};
use crate::model::{Counts, Repetition, Row, Summary};
use crate::page::SIDES;
use crate::payload;
use crate::place::Place;
use crate::plan::{Amount, Mode, Plan};
use crate::statistics::drifted;
use std::path::PathBuf;
use std::time::Duration;

/// Measures plans with the processes of one program.
#[derive(Debug)]
pub struct Suite {
    mechanisms: Mechanisms,
    pub(crate) program: SideProgram,
    repetitions: usize,
    run_dir: Option<PathBuf>,
    pub(crate) meeting: Option<Meeting>,
}

impl Suite {
    /// `program` plays the sides, and knows the same mechanisms.
    #[must_use]
    pub fn new(mechanisms: Mechanisms, program: SideProgram) -> Self {
        Self { mechanisms, program, repetitions: 3, run_dir: None, meeting: None }
    }

    /// How many repetitions a row has; 3 where nothing else is said.
    #[must_use]
    pub fn repetitions(mut self, repetitions: usize) -> Self {
        self.repetitions = repetitions.max(1);
        self
    }

    /// Where files and sockets have their names while they need them; the user's runtime directory where nothing else
    /// is said. It is made if it is missing, and must not be writable by everybody.
    #[must_use]
    pub fn run_dir(mut self, run_dir: impl Into<PathBuf>) -> Self {
        self.run_dir = Some(run_dir.into());
        self
    }

    /// Starts the clients only, and measures with a server that [serves](Suite::serve) there.
    #[must_use]
    pub fn meet(mut self, meeting: Meeting) -> Self {
        self.meeting = Some(meeting);
        self
    }

    /// The mechanisms that it can measure.
    #[must_use]
    pub fn mechanisms(&self) -> &Mechanisms {
        &self.mechanisms
    }

    /// Whether this can be measured: asked for everything before anything starts.
    ///
    /// # Errors
    /// [`BenchError::Unknown`], or [`BenchError::Refused`] with the limit that is in the way.
    pub fn check(&self, plan: &Plan) -> Result<(), BenchError> {
        self.check_at(self.meeting.as_ref(), plan)
    }

    /// The same for a server, which meets its clients where it listens.
    pub(crate) fn check_alone(&self, plan: &Plan) -> Result<(), BenchError> {
        self.check_at(None, plan)
    }

    fn check_at(&self, meeting: Option<&Meeting>, plan: &Plan) -> Result<(), BenchError> {
        let name = &plan.mechanism;
        let Some(mechanism) = self.mechanisms.find(name) else {
            let known = self.mechanisms.names().join(", ");
            return Err(BenchError::Unknown { name: name.clone(), known });
        };
        let (facts, least) = (mechanism.facts(), payload::header(plan));
        let flows = plan.flows();
        let total = match plan.amount {
            Amount::Count(count) => count.saturating_add(plan.warm_up),
            Amount::Duration(_) => plan.warm_up,
        };
        let why = if !has_form(plan.form) {
            Some("this program was built without feature `tokio`, which the async form needs".to_owned())
        } else if plan.size < least {
            Some(format!("a message of this mode has at least {least} bytes: its number, its checksum and its stamps"))
        } else if total >= u64::from(u32::MAX / 2) {
            Some(format!("at most {} messages can be numbered", u32::MAX / 2))
        } else if plan.amount == Amount::Count(0) || plan.amount == Amount::Duration(Duration::ZERO) {
            Some("nothing is to be measured".to_owned())
        } else if plan.mode == Mode::Paced && plan.interval.is_zero() {
            Some("a rate is needed".to_owned())
        } else if plan.pairs == 0 || 2 * plan.pairs > SIDES {
            Some(format!("between 1 and {} pairs can run at the same time", SIDES / 2))
        } else if flows && plan.depth == 0 {
            Some("at least one message must be in flight".to_owned())
        } else if let Some(most) = facts.max_depth.filter(|&most| flows && plan.depth > most) {
            Some(format!("at most {most} of its messages can be in flight"))
        } else if plan.buffer.is_some() && !facts.has_buffer {
            Some("it has no buffer in the kernel that could be set".to_owned())
        } else {
            unknown_cpu(plan)
                .or_else(|| meeting.and_then(|meeting| apart::refuses(meeting, plan, facts.local)))
                .or_else(|| mechanism.refuses(plan))
        };
        match why {
            None => Ok(()),
            Some(why) => Err(BenchError::Refused {
                mechanism: name.clone(),
                what: format!("{} {}, {} bytes", plan.form, plan.mode, plan.size),
                why,
            }),
        }
    }

    /// Measures one row: as many repetitions as wanted whose calibrations agree. A failure is in the row.
    pub fn measure(&self, plan: &Plan) -> Row {
        let mut row = Row {
            mechanism: plan.mechanism.clone(),
            form: plan.form,
            mode: plan.mode,
            size: plan.size,
            pairs: plan.pairs,
            depth: plan.flows().then_some(plan.depth),
            rate: (plan.mode == Mode::Paced).then(|| 1.0 / plan.interval.as_secs_f64()),
            placement: crate::model::Placement::default(),
            repetitions: Vec::new(),
            drifted: 0,
            summary: None,
            failure: None,
            diagnosis: None,
        };
        if let Err(error) = self.check(plan).and_then(|()| self.repeat(plan, &mut row)) {
            row.failure = Some(error.to_string());
        }
        row.summary = Summary::of(plan, &row.repetitions);
        row
    }

    /// Measures an unstable row again by itself, when the machine has become quiet or `patience` is over. Both results
    /// stay side by side; a row that is stable, or that failed, is left as it is.
    pub fn diagnose(&self, plan: &Plan, row: &mut Row, patience: Duration) {
        if row.summary.as_ref().is_some_and(|summary| !summary.stable) {
            crate::machine::wait_for_quiet(patience);
            row.diagnosis = Some(Box::new(self.measure(plan)));
        }
    }

    fn repeat(&self, plan: &Plan, row: &mut Row) -> Result<(), BenchError> {
        let clock = Clock::detect();
        let mut last = None;
        while row.repetitions.len() < self.repetitions {
            let one = self.once(plan, clock, row)?;
            if !one.drifted {
                row.repetitions.push(one);
                continue;
            }
            row.drifted += 1;
            last = Some(one);
            if row.drifted > self.repetitions {
                break;
            }
        }
        if row.repetitions.is_empty() {
            row.repetitions.extend(last);
        }
        Ok(())
    }

    fn once(&self, plan: &Plan, clock: Clock, row: &mut Row) -> Result<Repetition, BenchError> {
        if self.meeting.is_some() {
            return self.once_apart(plan, clock, row);
        }
        let place = Place::make(self.run_dir.as_deref(), plan.pairs)?;
        let mut group = Group::start(&self.program, plan, parts(plan)?, clock, Some(place.path()))?;
        row.placement = group.placement(plan);
        let before = group.calibrate()?;
        let measured = group.measure()?;
        let after = group.calibrate()?;
        let buffer = group.buffer;
        group.finish()?;
        Ok(repetition(plan, clock, [before, after], &measured, buffer))
    }
}

fn unknown_cpu(plan: &Plan) -> Option<String> {
    let allowed = crate::machine::allowed_cpus("self");
    let missing = [plan.client_cpu, plan.server_cpu].into_iter().flatten().find(|cpu| !allowed.contains(cpu))?;
    Some(format!("CPU {missing} is not among those that this process may use ({allowed:?})"))
}

pub(crate) fn repetition(
    plan: &Plan,
    clock: Clock,
    calibration: [crate::model::Calibration; 2],
    measured: &Measured,
    buffer: Option<u64>,
) -> Repetition {
    let mut all = crate::drive::Findings::default();
    let (mut client, mut server) = (crate::model::Usage::default(), crate::model::Usage::default());
    client.system_calls = Some(0);
    server.system_calls = Some(0);
    for one in &measured.clients {
        all.merge(one);
        client.add(&one.usage);
    }
    for one in &measured.servers {
        let mut one = one.clone();
        if !plan.flows() {
            // What came back has been counted: here it is counted on its way there.
            one.counts = Counts { received: 0, ..one.counts };
        }
        all.merge(&one);
        server.add(&one.usage);
    }
    let window_ns = all.window.map_or(0, |(first, last)| clock.nanoseconds(first, last));
    Repetition {
        calibration,
        drifted: drifted(&calibration[0], &calibration[1]),
        round_trip: all.round_trip,
        one_way: all.one_way,
        corrected: all.corrected,
        counts: all.counts,
        window_ns,
        client,
        server,
        buffer,
    }
}
