//! When the reactor tells other processes about its server, and what. See [`crate::introspect`].

use super::{Reactor, Whom};
use crate::introspect::{BUCKETS, Figures};
use crate::server::Shared;
use std::time::Instant;

impl Reactor {
    /// Called at the end of each turn. `happened`: the turn did something.
    #[inline]
    pub(super) fn introspect(&mut self, happened: bool) {
        let Some(publisher) = &mut self.publisher else { return };
        if happened {
            publisher.touch();
        }
        // A timer at most ten times a second, and none once nothing happens any more.
        if !self.publishes
            && let Some(at) = publisher.due()
        {
            self.publishes = true;
            self.timers.insert((at, Whom::Introspection));
        }
    }

    pub(super) fn publish(&mut self, now: Instant) {
        self.publishes = false;
        let Some(mut publisher) = self.publisher.take() else { return };
        publisher.publish(now, self.draining, |figures, latency| self.fill(figures, latency));
        self.publisher = Some(publisher);
    }

    fn fill(&self, figures: &mut Figures, latency: &mut [u64; BUCKETS]) {
        let Shared { counters, options, .. } = &*self.shared;
        figures.sessions = counters.sessions.get();
        figures.active = self.shared.sessions() as u64;
        counters.carriers.tell(figures);
        figures.refused = counters.refused.get();
        figures.silent = counters.silent.get();
        figures.exhausted = counters.exhausted.get();
        figures.made_room = counters.made_room.get();
        figures.slow = counters.slow.get();
        figures.dismissed = counters.dismissed.get();
        figures.window = options.window as u64;
        figures.in_flight = counters.in_flight.get();
        figures.requests = counters.requests.get();
        figures.failures = counters.failures.get();
        figures.bytes_in = counters.bytes_in.get();
        figures.bytes_out = counters.bytes_out.get();
        figures.paused = self.paused.len() as u64;
        figures.pauses = counters.pauses.get();
        let (held, budget) = self.budget.figures();
        (figures.held, figures.budget) = (held as u64, budget as u64);
        figures.queued = self.shared.executor().queued().unwrap_or(0) as u64;
        counters.latency.read(latency);
    }
}
