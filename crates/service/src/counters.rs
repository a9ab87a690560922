//! What a server counts. Each counter costs one relaxed addition; whoever shows them reads them when it likes.

use crate::introspect::{Figures, Histogram};
use ginnel_session::{Agreement, Endpoint};
use ginnel_wire::Profiles;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that costs one relaxed addition.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Of one that goes up and down.
    pub(crate) fn sub(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions: Counter,
    pub(crate) refused: Counter,
    pub(crate) silent: Counter,
    pub(crate) exhausted: Counter,
    pub(crate) made_room: Counter,
    pub(crate) requests: Counter,
    pub(crate) failures: Counter,
    /// Sessions that ended because their client did not take its responses.
    pub(crate) slow: Counter,
    /// Sessions that ended because their client broke the protocol or stopped in the middle of a message.
    pub(crate) dismissed: Counter,
    /// Bytes of requests and of responses, without their envelopes.
    pub(crate) bytes_in: Counter,
    pub(crate) bytes_out: Counter,
    /// Requests that have no answer yet.
    pub(crate) in_flight: Counter,
    /// How often a session was not read from because of the budget.
    pub(crate) pauses: Counter,
    /// Open sessions, by how their messages travel.
    pub(crate) carriers: Carriers,
    /// What handlers took.
    pub(crate) latency: Histogram,
}

/// Open sessions, by how their messages travel.
#[derive(Debug, Default)]
pub(crate) struct Carriers {
    pub(crate) seqpacket: Counter,
    pub(crate) stream: Counter,
    pub(crate) tcp: Counter,
    pub(crate) slots: Counter,
    pub(crate) ring: Counter,
}

impl Carriers {
    pub(crate) fn tell(&self, figures: &mut Figures) {
        figures.seqpacket = self.seqpacket.get();
        figures.stream = self.stream.get();
        figures.tcp = self.tcp.get();
        figures.slots = self.slots.get();
        figures.ring = self.ring.get();
    }

    /// Where a session of `endpoint` is counted.
    pub(crate) fn of(&self, endpoint: &Endpoint, agreement: &Agreement) -> &Counter {
        match agreement.profile {
            Profiles::SHM_HYBRID | Profiles::SHM_FUTEX => &self.slots,
            Profiles::RING => &self.ring,
            _ if endpoint.tcp_address().is_some() => &self.tcp,
            _ if endpoint.is_seqpacket() => &self.seqpacket,
            _ => &self.stream,
        }
    }
}
