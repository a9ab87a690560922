//! What the sides do: ask and answer, flow and acknowledge. Written once for all mechanisms and both forms.

use crate::clock::Clock;
use crate::histogram::Histogram;
use crate::mechanism::Transport;
use crate::model::{Counts, Usage};
use crate::pace::Pacer;
use crate::page::Page;
use crate::payload::{self, ACK, Arrival, END, Frame, Tracker};
use crate::plan::{Amount, Plan};
use crate::sys;
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::atomic::Ordering;

/// What the work of a side needs.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    pub(crate) plan: Plan,
    pub(crate) clock: Clock,
    pub(crate) page: Page,
    /// Number of this side on the page.
    pub(crate) side: usize,
    /// Whether every message of a flow is acknowledged by one of its own.
    pub(crate) acknowledge_each: bool,
}

/// What a side found out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Findings {
    pub(crate) round_trip: Histogram,
    pub(crate) one_way: Histogram,
    pub(crate) corrected: Histogram,
    pub(crate) counts: Counts,
    /// Stamps of the first and the last arrival that was measured.
    pub(crate) window: Option<(u64, u64)>,
    pub(crate) usage: Usage,
}

impl Findings {
    /// The findings of both, done at the same time by one process.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.round_trip.merge(&other.round_trip);
        self.one_way.merge(&other.one_way);
        self.corrected.merge(&other.corrected);
        self.counts.add(&other.counts);
        self.window = match (self.window, other.window) {
            (Some(own), Some(other)) => Some((own.0.min(other.0), own.1.max(other.1))),
            (own, other) => own.or(other),
        };
    }
}

impl Run {
    /// Number of the first message that is measured.
    fn first(&self) -> u32 {
        let canary = u64::from(!self.plan.include_first);
        u32::try_from(self.plan.warm_up + canary).unwrap_or(END / 2)
    }

    /// When to stop, asked before message `sequence`, the measurement having begun at stamp `begin`.
    fn limit(&self, begin: u64) -> Limit {
        match self.plan.amount {
            Amount::Count(count) => {
                Limit { count: self.first().saturating_add(count.min(u64::from(END)) as u32), stamp: u64::MAX }
            }
            Amount::Duration(time) => Limit { count: END, stamp: begin.saturating_add(self.clock.ticks(time)) },
        }
    }

    #[inline(always)]
    fn progress(&self, messages: u64) {
        // Only a sign of life: it orders nothing.
        self.page.progress(self.side).store(messages, Ordering::Relaxed);
    }

    /// Sides of one measurement that share a CPU must not spin for each other.
    fn shares_cpu(&self) -> bool {
        self.plan.client_cpu.is_none() || self.plan.client_cpu == self.plan.server_cpu
    }
}

struct Limit {
    count: u32,
    stamp: u64,
}

/// Counts what this process uses between construction and [`used`](Meter::used).
struct Meter(Usage);

impl Meter {
    fn start() -> Self {
        Self(sys::usage())
    }

    fn used(&self) -> Usage {
        let now = sys::usage();
        Usage {
            user_ns: now.user_ns.saturating_sub(self.0.user_ns),
            system_ns: now.system_ns.saturating_sub(self.0.system_ns),
            voluntary_switches: now.voluntary_switches.saturating_sub(self.0.voluntary_switches),
            involuntary_switches: now.involuntary_switches.saturating_sub(self.0.involuntary_switches),
            system_calls: None,
        }
    }
}

/// Receives into `message`, which has `size` bytes afterwards, whatever came.
#[inline(always)]
async fn receive<T: Transport>(end: &mut T, message: &mut Vec<u8>, size: usize) -> io::Result<usize> {
    let len = end.recv(message).await?;
    if message.len() != size {
        message.resize(size, 0);
    }
    Ok(len)
}

/// Widens the window of arrivals to this stamp.
#[inline(always)]
fn widen(window: &mut Option<(u64, u64)>, stamp: u64) {
    match window {
        Some(window) => window.1 = stamp,
        None => *window = Some((stamp, stamp)),
    }
}

/// Sends each message to every end and waits for all answers, one message at a time; at a rate, if the plan has one.
pub(crate) async fn ask<T: Transport>(ends: &mut [T], run: &Run) -> io::Result<Findings> {
    let plan = &run.plan;
    let header = payload::header(plan);
    let mut frame = Frame::new(plan.size, header);
    let mut answer = vec![0; plan.size];
    let mut trackers: Vec<Tracker> = ends.iter().map(|_| Tracker::new(run.first())).collect();
    let mut findings = Findings { round_trip: Histogram::with_room(), ..Findings::default() };
    let mut meter = Meter::start();
    let mut begin = run.clock.now();
    let mut limit = run.limit(begin);
    let mut pacer = Pacer::new(run.clock, plan, run.shares_cpu());
    let mut sequence = 0;
    loop {
        if sequence == run.first() {
            meter = Meter::start();
            begin = run.clock.now();
            limit = run.limit(begin);
            pacer.start();
        }
        let measured = sequence >= run.first();
        let intended = if measured { pacer.next() } else { 0 };
        let sent = run.clock.now();
        if measured && (sequence >= limit.count || sent >= limit.stamp) {
            break;
        }
        for end in &mut *ends {
            end.send(frame.message(sequence, sent, intended)).await?;
        }
        let mut whole = true;
        let mut arrived = sent;
        for (end, tracker) in ends.iter_mut().zip(&mut trackers) {
            loop {
                let len = receive(end, &mut answer, plan.size).await?;
                arrived = run.clock.now();
                let got = payload::read(&answer, header);
                if len != plan.size || !payload::is_whole(&answer, header) {
                    // It is the answer all the same: nothing else is in flight.
                    tracker.damaged();
                    whole = false;
                    break;
                }
                if tracker.arrived(got.sequence) == Arrival::New {
                    break;
                }
            }
        }
        if measured && whole {
            let round_trip = run.clock.nanoseconds(sent, arrived);
            findings.round_trip.record(round_trip);
            if pacer.is_on() {
                findings.corrected.record(run.clock.nanoseconds(intended, arrived));
            }
        }
        if measured {
            widen(&mut findings.window, arrived);
        }
        sequence += 1;
        run.progress(u64::from(sequence));
    }
    findings.usage = meter.used();
    for (end, tracker) in ends.iter_mut().zip(&trackers) {
        end.send(frame.message(END, sequence.into(), 0)).await?;
        findings.counts.add(&tracker.counts);
    }
    // One count for the question, however many are asked.
    findings.counts.sent += u64::from(sequence - run.first()) * ends.len() as u64;
    Ok(findings)
}

/// Answers every message of one end until the last.
pub(crate) async fn answer<T: Transport>(end: &mut T, run: &Run) -> io::Result<Findings> {
    let plan = &run.plan;
    let header = payload::header(plan);
    let mut frame = Frame::new(plan.size, header);
    let mut question = vec![0; plan.size];
    let mut tracker = Tracker::new(run.first());
    let mut findings = Findings { one_way: Histogram::with_room(), ..Findings::default() };
    let mut meter = None;
    loop {
        let len = receive(end, &mut question, plan.size).await?;
        let arrived = if plan.one_way { run.clock.now() } else { 0 };
        let mut got = payload::read(&question, header);
        // The answer goes first, and what came is checked while it travels. Only what is strange is checked before.
        let strange = got.sequence != tracker.expected() || len != plan.size;
        let mut whole = true;
        if strange {
            whole = len == plan.size && payload::is_whole(&question, header);
            if whole && got.sequence == END {
                break;
            }
            if whole && got.sequence < tracker.expected() {
                tracker.arrived(got.sequence);
                continue;
            }
            if !whole {
                got.sequence = tracker.expected();
            }
        }
        if meter.is_none() && tracker.is_measured(got.sequence) {
            meter = Some(Meter::start());
        }
        end.send(frame.message(got.sequence, 0, 0)).await?;
        if !whole || !(strange || payload::is_whole(&question, header)) {
            tracker.damaged();
        } else {
            tracker.arrived(got.sequence);
            if plan.one_way && tracker.is_measured(got.sequence) {
                findings.one_way.record(run.clock.nanoseconds(got.sent, arrived));
            }
        }
        run.progress(u64::from(tracker.expected()));
    }
    findings.usage = meter.map(|meter| meter.used()).unwrap_or_default();
    findings.counts = tracker.counts;
    Ok(findings)
}

/// Sends as fast as the depth allows, or at a rate.
pub(crate) async fn flow<T: Transport>(end: &mut T, run: &Run) -> io::Result<Findings> {
    let plan = &run.plan;
    let header = payload::header(plan);
    let mut frame = Frame::new(plan.size, header);
    let mut acknowledgement = vec![0; ACK];
    let depth = u32::try_from(plan.depth).unwrap_or(END).max(1);
    let mut meter = Meter::start();
    let mut limit = run.limit(run.clock.now());
    let mut pacer = Pacer::new(run.clock, plan, run.shares_cpu());
    let (mut sequence, mut acknowledged) = (0u32, 0u32);
    loop {
        // The warm-up is drained before the measurement, so that none of it is in the queue.
        let room = if sequence == run.first() { 1 } else { depth };
        while sequence - acknowledged >= room {
            receive(end, &mut acknowledgement, ACK).await?;
            acknowledged = acknowledgement_of(&acknowledgement)?.clamp(acknowledged, sequence);
        }
        if sequence == run.first() {
            meter = Meter::start();
            limit = run.limit(run.clock.now());
            pacer.start();
        }
        let measured = sequence >= run.first();
        let intended = if measured { pacer.next() } else { 0 };
        let sent = run.clock.now();
        if measured && (sequence >= limit.count || sent >= limit.stamp) {
            break;
        }
        end.send(frame.message(sequence, sent, intended)).await?;
        sequence += 1;
        run.progress(u64::from(sequence));
    }
    let usage = meter.used();
    end.send(frame.message(END, sequence.into(), 0)).await?;
    // Everything has been read when the last message is acknowledged.
    while acknowledged != END {
        receive(end, &mut acknowledgement, ACK).await?;
        acknowledged = acknowledgement_of(&acknowledgement)?;
    }
    let counts = Counts { sent: u64::from(sequence - run.first()), ..Counts::default() };
    Ok(Findings { counts, usage, ..Findings::default() })
}

fn acknowledgement_of(bytes: &[u8]) -> io::Result<u32> {
    if !payload::is_whole(bytes, ACK) {
        return Err(io::Error::other("an acknowledgement came back damaged"));
    }
    Ok(payload::read(bytes, ACK).sequence)
}

/// Takes what flows, and acknowledges.
pub(crate) async fn drain<T: Transport>(end: &mut T, run: &Run) -> io::Result<Findings> {
    let plan = &run.plan;
    let header = payload::header(plan);
    let paced = header >= 24;
    let mut message = vec![0; plan.size];
    let mut frame = Frame::new(ACK, ACK);
    let mut tracker = Tracker::new(run.first());
    let mut findings = Findings { one_way: Histogram::with_room(), ..Findings::default() };
    // Two of these fit the depth, so a mechanism with room for one acknowledgement never blocks both sides.
    let step = if run.acknowledge_each { 1 } else { u32::try_from(plan.depth / 2).unwrap_or(END).max(1) };
    let mut meter = None;
    let mut acknowledged = 0;
    loop {
        let len = receive(end, &mut message, plan.size).await?;
        let arrived = run.clock.now();
        let got = payload::read(&message, header);
        if len != plan.size || !payload::is_whole(&message, header) {
            tracker.damaged();
        } else {
            if got.sequence == END {
                tracker.ended(u32::try_from(got.sent).unwrap_or(END));
                break;
            }
            let fresh = tracker.arrived(got.sequence) != Arrival::Again;
            if fresh && tracker.is_measured(got.sequence) {
                meter.get_or_insert_with(Meter::start);
                findings.one_way.record(run.clock.nanoseconds(got.sent, arrived));
                if paced {
                    findings.corrected.record(run.clock.nanoseconds(got.intended, arrived));
                }
                widen(&mut findings.window, arrived);
            }
        }
        let expected = tracker.expected();
        // The warm-up's end is acknowledged at once, because the sender waits for it.
        if run.acknowledge_each
            || expected - acknowledged >= step
            || (expected == run.first() && expected > acknowledged)
        {
            acknowledged = expected;
            end.send(frame.message(expected, 0, 0)).await?;
        }
        run.progress(u64::from(expected));
    }
    findings.usage = meter.map(|meter| meter.used()).unwrap_or_default();
    findings.counts = tracker.counts;
    end.send(frame.message(END, 0, 0)).await?;
    Ok(findings)
}
