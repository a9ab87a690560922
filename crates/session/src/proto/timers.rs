//! How long a peer may keep silent, by what it is silent about. The clock is the driver's.

use ginnel_base::Deadline;
use std::time::{Duration, Instant};

/// How long a peer may keep silent; `None` sets no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Timing {
    /// From the connection to the end of the handshake.
    pub handshake: Option<Duration>,
    /// In the middle of a message, between two of its parts.
    pub within_message: Option<Duration>,
    /// While something waits to be sent and the peer takes nothing of it.
    pub stalled: Option<Duration>,
    /// Between messages, while none is asked for and none is being sent.
    pub idle: Option<Duration>,
}

/// What a peer was silent about for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Silence {
    /// Its part of the handshake.
    Handshake,
    /// The rest of a message.
    WithinMessage,
    /// It took nothing of what is to be sent.
    Stalled,
    /// Nothing at all has passed.
    Idle,
}

#[derive(Debug)]
pub(super) struct Timers {
    timing: Timing,
    handshake: Deadline,
    within_message: Deadline,
    stalled: Deadline,
    idle: Deadline,
}

impl Timers {
    pub(super) fn new(timing: Timing, now: Instant) -> Self {
        let handshake = after(now, timing.handshake);
        let never = Deadline::NEVER;
        Self { timing, handshake, within_message: never, stalled: never, idle: never }
    }

    /// The handshake is over.
    pub(super) fn open(&mut self, now: Instant) {
        self.handshake = Deadline::NEVER;
        self.idle = after(now, self.timing.idle);
    }

    /// Bytes have arrived, and now the peer is in the middle of a message or not.
    pub(super) fn received(&mut self, now: Instant, within_message: bool) {
        self.within_message = if within_message { after(now, self.timing.within_message) } else { Deadline::NEVER };
        self.moved(now);
    }

    /// Bytes were taken, or the first were queued, and now more wait or none.
    pub(super) fn sent(&mut self, now: Instant, waiting: bool) {
        self.stalled = if waiting { after(now, self.timing.stalled) } else { Deadline::NEVER };
        self.moved(now);
    }

    /// Something has passed: whoever asks or answers is not idle.
    fn moved(&mut self, now: Instant) {
        if self.handshake == Deadline::NEVER {
            self.idle = after(now, self.timing.idle);
        }
    }

    /// The next moment at which a silence is too long. `busy` connections are not idle, however quiet.
    pub(super) fn next(&self, busy: bool) -> Deadline {
        let idle = if busy { Deadline::NEVER } else { self.idle };
        self.handshake.min(self.within_message).min(self.stalled).min(idle)
    }

    /// The silence that is too long at `now`.
    pub(super) fn expired(&self, now: Instant, busy: bool) -> Option<Silence> {
        if self.handshake.passed_at(now) {
            Some(Silence::Handshake)
        } else if self.within_message.passed_at(now) {
            Some(Silence::WithinMessage)
        } else if self.stalled.passed_at(now) {
            Some(Silence::Stalled)
        } else if !busy && self.idle.passed_at(now) {
            Some(Silence::Idle)
        } else {
            None
        }
    }
}

fn after(now: Instant, limit: Option<Duration>) -> Deadline {
    limit.map_or(Deadline::NEVER, |limit| Deadline::from(now, limit))
}
