//! The scheduler's decisions against a model that states the rules as they are documented, without lanes or indices.

use super::access::{Access, Kind, Mode};
use super::core::{Core, Ticket};
use ginnel_base::Deadline;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

type Key = u8;

#[derive(Debug, Clone)]
enum Step {
    Submit(Access<Key>, Option<u8>),
    /// The running (or waiting, or pending) job with this index modulo their number.
    Finish(usize),
    Cancel(usize),
    /// Lets this many units of time pass.
    Pass(u8),
}

#[derive(Default)]
struct Model {
    waiting: BTreeMap<Ticket, (Access<Key>, Option<Instant>)>,
    running: BTreeMap<Ticket, Access<Key>>,
    last: Ticket,
}

fn excludes(one: &Access<Key>, other: &Access<Key>, but_for: &BTreeSet<Key>) -> bool {
    if one.is_snapshot() || other.is_snapshot() {
        return false;
    }
    if one.is_barrier() || other.is_barrier() {
        return true;
    }
    one.keys().any(|(key, mode)| {
        let met =
            other.keys().any(|(of_other, other)| of_other == key && (mode == Mode::Write || other == Mode::Write));
        met && !but_for.contains(key)
    })
}

impl Model {
    fn may_start(&self, ticket: Ticket, access: &Access<Key>, ended: Option<&Access<Key>>) -> bool {
        let of_session = |other: &Access<Key>| access.session.is_some() && other.session == access.session;
        let waits = self.waiting.range(..ticket).map(|(_, (access, _))| access);
        let runs = self.running.iter().filter(|(other, _)| **other < ticket).map(|(_, access)| access);
        let own_write = waits.chain(runs).any(|other| of_session(other) && other.writes());
        if access.is_snapshot() {
            return !own_write;
        }
        let none = BTreeSet::new();
        if self.running.values().any(|other| excludes(access, other, &none)) {
            return false;
        }
        // What a write that has just ended lets a reader overtake: writes on the keys that it wrote and the reader
        // reads.
        let mut overtakes = BTreeSet::new();
        if let (Some(ended), false) = (ended, own_write) {
            let wrote: BTreeSet<Key> =
                ended.keys().filter(|(_, mode)| *mode == Mode::Write).map(|(key, _)| *key).collect();
            overtakes.extend(
                access.keys().filter(|(key, mode)| *mode == Mode::Read && wrote.contains(key)).map(|(key, _)| *key),
            );
        }
        !self
            .waiting
            .range(..ticket)
            .any(|(_, (other, _))| other.is_barrier() && !access.is_snapshot() || excludes(access, other, &overtakes))
    }

    fn start_due(&mut self, candidates: Vec<Ticket>, ended: Option<&Access<Key>>, started: &mut Vec<Ticket>) {
        for ticket in candidates {
            let Some((access, _)) = self.waiting.get(&ticket) else { continue };
            if self.may_start(ticket, access, ended) {
                let (access, _) = self.waiting.remove(&ticket).unwrap();
                self.running.insert(ticket, access);
                started.push(ticket);
            }
        }
    }

    fn left(&mut self, access: &Access<Key>, ended: bool, started: &mut Vec<Ticket>) {
        let reads = |of: &Access<Key>| {
            of.keys().any(|(key, mode)| mode == Mode::Read && access.keys().any(|(other, _)| other == key))
        };
        let ended = ended.then_some(access);
        let first = self.waiting.iter().filter(|(_, (of, _))| reads(of)).map(|(ticket, _)| *ticket).collect();
        self.start_due(first, ended, started);
        let others = self.waiting.keys().copied().collect();
        self.start_due(others, ended, started);
    }

    fn submit(&mut self, access: Access<Key>, expiry: Option<Instant>) -> Vec<Ticket> {
        self.last += 1;
        self.waiting.insert(self.last, (access, expiry));
        let mut started = Vec::new();
        self.start_due(vec![self.last], None, &mut started);
        started
    }

    fn finish(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let access = self.running.remove(&ticket).unwrap();
        let mut started = Vec::new();
        self.left(&access, true, &mut started);
        started
    }

    fn cancel(&mut self, ticket: Ticket) -> Vec<Ticket> {
        let (access, _) = self.waiting.remove(&ticket).unwrap();
        let mut started = Vec::new();
        self.left(&access, false, &mut started);
        started
    }
}

/// Checks what must hold whatever the rules of order are: nobody runs beside a job that excludes it.
fn check_exclusion(model: &Model) {
    let running: Vec<_> = model.running.values().collect();
    for (index, one) in running.iter().enumerate() {
        for other in &running[index + 1..] {
            assert!(!excludes(one, other, &BTreeSet::new()), "{one:?} runs beside {other:?}");
        }
    }
}

fn replay(steps: Vec<Step>) {
    let begin = Instant::now();
    let mut now = begin;
    let mut core: Core<Key, ()> = Core::new();
    let mut model = Model::default();
    let sorted = |mut tickets: Vec<Ticket>| {
        tickets.sort_unstable();
        tickets
    };
    for step in steps {
        let mut start = Vec::new();
        let expected = match step {
            Step::Submit(access, lifetime) => {
                let expiry = lifetime.map(|units| now + Duration::from_millis(u64::from(units)));
                let access = access.until(expiry.map_or(Deadline::NEVER, Deadline::at));
                core.submit(access.clone(), (), &mut start);
                model.submit(access, expiry)
            }
            Step::Finish(index) => {
                if model.running.is_empty() {
                    continue;
                }
                let ticket = *model.running.keys().nth(index % model.running.len()).unwrap();
                core.finish(ticket, &mut start);
                model.finish(ticket)
            }
            Step::Cancel(index) => {
                if model.waiting.is_empty() {
                    continue;
                }
                let ticket = *model.waiting.keys().nth(index % model.waiting.len()).unwrap();
                assert!(core.cancel(ticket, &mut start).is_some());
                model.cancel(ticket)
            }
            Step::Pass(units) => {
                now += Duration::from_millis(u64::from(units));
                let mut expected = Vec::new();
                let of_model = |model: &Model| {
                    let due = |(ticket, (_, expiry)): (&Ticket, &(Access<Key>, Option<Instant>))| {
                        expiry.filter(|at| *at <= now).map(|at| (at, *ticket))
                    };
                    model.waiting.iter().filter_map(due).min()
                };
                while let Some((_, ticket)) = of_model(&model) {
                    expected.extend(model.cancel(ticket));
                    assert!(core.expire(now, &mut start).is_some());
                }
                assert!(core.expire(now, &mut start).is_none());
                expected
            }
        };
        assert_eq!(sorted(start.into_iter().map(|(ticket, ())| ticket).collect()), sorted(expected));
        check_exclusion(&model);
        assert_eq!((core.waiting(), core.running()), (model.waiting.len(), model.running.len()));
    }
    // Nobody starves: when no more come and those that run end, every one has its turn.
    while let Some(ticket) = model.running.keys().next().copied() {
        let mut start = Vec::new();
        core.finish(ticket, &mut start);
        assert_eq!(sorted(start.into_iter().map(|(ticket, ())| ticket).collect()), sorted(model.finish(ticket)));
        check_exclusion(&model);
    }
    assert_eq!((core.waiting(), core.running(), model.waiting.len()), (0, 0, 0), "a job was never started");
    assert_eq!(core.lanes(), 0, "a lane outlives its jobs");
    assert_eq!(core.next_expiry(), None);
}

fn access() -> impl Strategy<Value = Access<Key>> {
    let key = 0..4u8;
    let mode = prop_oneof![3 => Just(Mode::Read), 2 => Just(Mode::Write)];
    let keys = prop::collection::btree_map(key, mode, 1..4).prop_map(|keys| {
        let mut keys: Vec<(Key, Mode)> = keys.into_iter().collect();
        if keys.len() == 1 {
            let (key, mode) = keys.remove(0);
            return Kind::One(key, mode);
        }
        Kind::Many(keys)
    });
    let kind = prop_oneof![1 => Just(Kind::Snapshot), 12 => keys, 1 => Just(Kind::Barrier)];
    let session = prop::option::weighted(0.4, 0..3u64);
    (kind, session).prop_map(|(kind, session)| Access { kind, session, deadline: Deadline::NEVER })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (access(), prop::option::weighted(0.2, 0..20u8)).prop_map(|(access, lifetime)| Step::Submit(access, lifetime)),
        8 => any::<usize>().prop_map(Step::Finish),
        2 => any::<usize>().prop_map(Step::Cancel),
        2 => (0..8u8).prop_map(Step::Pass),
    ]
}

/// Schedules to try: 2,000, or 100,000 in the soak.
fn schedules() -> u32 {
    if std::env::var_os("GINNEL_SOAK").is_some() { 100_000 } else { 2_000 }
}

#[test]
fn the_scheduler_equals_its_sequential_model() {
    let config = ProptestConfig { cases: schedules(), failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(step(), 1..80))| replay(steps));
}
