//! How long a peer may keep silent, by what it is silent about. The clock is the driver's.

use ginnel_base::Deadline;
use std::time::{Duration, Instant};

/// How long a peer may keep silent; `None` sets no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Timing {
    /// From the connection to the end of the handshake.
    pub handshake: Option<Duration>,
    /// In the middle of a message, until it is complete or 64 KiB more of it have arrived.
    pub within_message: Option<Duration>,
    /// While something waits to be sent and the peer takes nothing of it.
    pub stalled: Option<Duration>,
    /// Layout 2, client: after a call was cancelled or given up, until its final answer, which it gets in any case.
    pub unanswered: Option<Duration>,
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
    /// The final answer of a call that was cancelled or given up.
    Unanswered,
    /// Nothing at all has passed.
    Idle,
}

/// How much a message must gain before the time within it begins anew. So a peer that sends a byte now and then does
/// not hold its session for long, and a slow one with a large message is not cut off.
const STEP: usize = 64 << 10;

/// The time limit within one message.
#[derive(Debug)]
pub(crate) struct Pace {
    limit: Option<Duration>,
    due: Deadline,
    gained: usize,
}

impl Pace {
    pub(crate) fn new(limit: Option<Duration>) -> Self {
        Self { limit, due: Deadline::NEVER, gained: 0 }
    }

    /// When the message must have gained more, or be complete; never between messages.
    pub(crate) fn due(&self) -> Deadline {
        self.due
    }

    /// `len` more bytes have arrived, and now the peer is in the middle of a message.
    pub(crate) fn gained(&mut self, now: Instant, len: usize) {
        self.gained += len;
        if self.due == Deadline::NEVER || self.gained >= STEP {
            (self.due, self.gained) = (after(now, self.limit), 0);
        }
    }

    /// From now on it counts again.
    fn restart(&mut self, now: Instant) {
        if self.due != Deadline::NEVER {
            (self.due, self.gained) = (after(now, self.limit), 0);
        }
    }

    /// The peer is between messages.
    pub(crate) fn rest(&mut self) {
        (self.due, self.gained) = (Deadline::NEVER, 0);
    }
}

#[derive(Debug)]
pub(super) struct Timers {
    timing: Timing,
    handshake: Deadline,
    within_message: Pace,
    // When something arrived last.
    arrived: Instant,
    stalled: Deadline,
    idle: Deadline,
}

impl Timers {
    /// When a call that is given up now must have its answer.
    pub(super) fn answer_due(&self, now: Instant) -> Deadline {
        after(now, self.timing.unanswered)
    }

    pub(super) fn new(timing: Timing, now: Instant) -> Self {
        let handshake = after(now, timing.handshake);
        let never = Deadline::NEVER;
        let within_message = Pace::new(timing.within_message);
        Self { timing, handshake, within_message, arrived: now, stalled: never, idle: never }
    }

    /// The handshake is over.
    pub(super) fn open(&mut self, now: Instant) {
        self.handshake = Deadline::NEVER;
        self.idle = after(now, self.timing.idle);
    }

    /// `len` bytes have arrived, and now the peer is in the middle of a message or not.
    pub(super) fn received(&mut self, now: Instant, len: usize, within_message: bool) {
        self.arrived = now;
        if within_message {
            self.within_message.gained(now, len);
        } else {
            self.within_message.rest();
        }
        self.moved(now);
    }

    /// Behind a message that was taken a part of another has arrived.
    pub(super) fn left_over(&mut self) {
        if self.within_message.due() == Deadline::NEVER {
            self.within_message.gained(self.arrived, 0);
        }
    }

    /// The peer is read from again: what it has sent since then is not known yet.
    pub(super) fn reading_again(&mut self, now: Instant) {
        self.arrived = now;
        self.within_message.restart(now);
    }

    /// When the peer must have taken something of what waits.
    pub(super) fn stalled(&self) -> Deadline {
        self.stalled
    }

    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.stalled.passed_at(now)
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

    /// The next moment at which a silence is too long. `busy` connections are not idle, however quiet. Who is not
    /// `reading` cannot know how far the peer's message is.
    pub(super) fn next(&self, busy: bool, reading: bool) -> Deadline {
        let idle = if busy { Deadline::NEVER } else { self.idle };
        let within_message = if reading { self.within_message.due() } else { Deadline::NEVER };
        self.handshake.min(within_message).min(self.stalled).min(idle)
    }

    /// The silence that is too long at `now`.
    pub(super) fn expired(&self, now: Instant, busy: bool, reading: bool) -> Option<Silence> {
        if self.handshake.passed_at(now) {
            Some(Silence::Handshake)
        } else if reading && self.within_message.due().passed_at(now) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_do_not_move_the_deadline_and_a_step_or_the_end_of_the_message_does() {
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut pace = Pace::new(Some(Duration::from_secs(30)));
        assert_eq!(pace.due(), Deadline::NEVER);
        pace.gained(at(0), 32);
        pace.gained(at(9), 1);
        assert_eq!(pace.due(), Deadline::at(at(30)));
        pace.gained(at(20), STEP);
        assert_eq!(pace.due(), Deadline::at(at(50)));
        pace.rest();
        assert_eq!(pace.due(), Deadline::NEVER);
        pace.gained(at(100), 1);
        assert_eq!(pace.due(), Deadline::at(at(130)));
        for never in [None, Some(Duration::MAX)] {
            let mut pace = Pace::new(never);
            pace.gained(at(0), 1);
            assert_eq!(pace.due(), Deadline::NEVER);
        }
    }
}
