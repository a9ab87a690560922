//! One call, as a machine that both faces drive: the thread that blocks and the future ask it what is next. It knows
//! what to do when there is no connection, no room, no answer, and when the answer is none.

use super::core::{Core, NotSent};
use super::error::{CallError, Loss};
use super::options::CallOptions;
use super::response::Response;
use super::slots::{Ask, Key};
use crate::state::State;
use ginnel_base::Deadline;
use ginnel_base::lead::{Waiter, Wish};
use ginnel_wire::Status;
use std::time::{Duration, Instant};

/// Most attempts of one call that the server did not begin, and most because a response did not fit.
const MAX_RESENT: u32 = 8;
const MAX_OVERFLOWS: u32 = 8;
/// How long a call that has lost its connection looks for another.
const RECONNECT: Duration = Duration::from_secs(1);

/// What is next.
#[derive(Debug)]
pub(super) enum Next {
    /// It is over.
    Done(Result<Option<Response>, CallError>),
    /// It is under way, for callers that take the answers themselves.
    Open(Key),
    /// Connect, then ask again: nobody else does it.
    Connect,
    /// Wait until the wish is granted or this has come, then ask again.
    Wait(Deadline),
}

/// What it waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing yet.
    Start,
    /// A connection that takes calls.
    Arrival {
        paused: bool,
    },
    /// Room in the window.
    Room {
        serial: Option<u64>,
    },
    /// The answer.
    Open(Key),
    /// That all of a one-way request is out.
    Flush {
        serial: u64,
        mark: u64,
    },
    Over,
}

#[derive(Debug)]
pub(super) struct Op {
    ask: Ask,
    pub(super) deadline: Deadline,
    options: CallOptions,
    /// Fail where there is no room.
    pub(super) no_wait: bool,
    /// Stop when the call is open, and hand its slot over.
    pub(super) only_open: bool,
    place: Place,
    retried: bool,
    resent: u32,
    overflows: u32,
    /// When it was first asked what is next.
    begun: Option<Instant>,
    /// The connection of the last attempt, and the response limit at which it did not fit last.
    serial: u64,
    limit: u32,
    /// The connection was lost under the call: look for another until then.
    patience: Option<Deadline>,
}

impl Op {
    pub(super) fn new(ask: Ask, options: &CallOptions, timeout: Duration) -> Self {
        Self {
            ask,
            deadline: options.deadline.unwrap_or_else(|| Deadline::after(timeout)),
            options: *options,
            no_wait: false,
            only_open: false,
            place: Place::Start,
            retried: false,
            resent: 0,
            overflows: 0,
            begun: None,
            serial: 0,
            limit: 0,
            patience: None,
        }
    }

    /// What is next. After a wait, whether its wish was granted does not matter.
    pub(super) fn next(&mut self, core: &mut Core, body: &[u8]) -> Next {
        self.begun.get_or_insert(core.now);
        loop {
            let stays = match self.place {
                Place::Open(key) => self.collect(core, key),
                Place::Flush { .. } => self.flushed(core),
                Place::Over => Some(Next::Done(Err(CallError::Closed))),
                Place::Start | Place::Arrival { .. } | Place::Room { .. } => self.begin(core, body),
            };
            let Some(next) = stays else { continue };
            if let Next::Wait(_) = next
                && self.deadline.passed_at(core.now)
            {
                return self.expire(core);
            }
            let done = matches!(next, Next::Done(_));
            if done || matches!(next, Next::Open(_)) {
                self.count(core, &next);
                self.place = Place::Over;
            }
            return next;
        }
    }

    fn count(&self, core: &mut Core, next: &Next) {
        match next {
            _ if self.ask == Ask::Connection => return,
            Next::Done(Err(_)) => core.counters.errors += 1,
            _ => core.counters.calls += 1,
        }
        self.tell(core);
    }

    fn tell(&self, core: &mut Core) {
        let now = core.now;
        if let Some(telling) = &mut core.telling {
            telling.ended(self.begun.unwrap_or(now), now);
            telling.touch(now);
        }
    }

    fn expire(&mut self, core: &mut Core) -> Next {
        if let Place::Open(key) = self.place {
            core.abandon(key, false);
        }
        core.counters.errors += 1;
        self.tell(core);
        let never_connected = core.link.is_none() && !matches!(self.place, Place::Open(_));
        self.place = Place::Over;
        if never_connected && core.last_error.is_some() {
            return Next::Done(Err(not_ready(core)));
        }
        Next::Done(Err(CallError::TimedOut))
    }

    /// The caller does not want it any more.
    #[cfg(feature = "tokio")]
    pub(super) fn cancel(&mut self, core: &mut Core) {
        if let Place::Open(key) = std::mem::replace(&mut self.place, Place::Over) {
            core.abandon(key, true);
        }
    }

    fn begin(&mut self, core: &mut Core, body: &[u8]) -> Option<Next> {
        if let Some(blocked) = self.blocked(core) {
            return Some(blocked);
        }
        if self.ask == Ask::Connection {
            return Some(Next::Done(Ok(None)));
        }
        let timeout = self.deadline.remaining_at(core.now);
        match core.submit(self.ask, body, timeout) {
            Ok(sent) => {
                if let Some(telling) = &mut core.telling {
                    telling.sent(body.len());
                }
                self.place = match sent.key {
                    Some(key) if self.only_open => return Some(Next::Open(key)),
                    Some(key) => Place::Open(key),
                    None if sent.flushed => return Some(Next::Done(Ok(None))),
                    None => Place::Flush { serial: sent.serial, mark: sent.mark },
                };
                // Nothing can have come meanwhile.
                Some(Next::Wait(self.deadline))
            }
            Err(NotSent::Full { in_flight }) if self.no_wait => {
                Some(Next::Done(Err(CallError::WouldBlock { in_flight })))
            }
            Err(NotSent::Full { .. }) => {
                self.place = Place::Room { serial: core.serial() };
                Some(Next::Wait(self.deadline))
            }
            Err(NotSent::Gone) => None,
            Err(NotSent::Loss(loss)) => self.survive(core, loss),
        }
    }

    /// `None`: there is a connection that takes calls.
    fn blocked(&mut self, core: &mut Core) -> Option<Next> {
        self.place = Place::Arrival { paused: false };
        if core.link.is_some() {
            return None;
        }
        if core.connecting {
            return Some(Next::Wait(self.deadline));
        }
        if self.deadline.passed_at(core.now) {
            return Some(Next::Wait(self.deadline));
        }
        if core.cadence.is_due(core.now) {
            core.connecting = true;
            core.cadence.connecting();
            return Some(Next::Connect);
        }
        let absent = matches!(core.state(), State::NotFound | State::Disconnected);
        let patient = self.patience.is_some_and(|until| absent && !until.passed_at(core.now));
        if patient || self.options.wait_for_server {
            self.place = Place::Arrival { paused: true };
            let due = core.cadence.due().map_or(self.deadline, Deadline::at);
            return Some(Next::Wait(due.min(self.deadline)));
        }
        Some(Next::Done(Err(not_ready(core))))
    }

    fn collect(&mut self, core: &mut Core, key: Key) -> Option<Next> {
        let Some(slot) = core.slots.get(key) else { return Some(Next::Done(Err(CallError::Closed))) };
        let Some(end) = slot.end.take() else { return Some(Next::Wait(self.deadline)) };
        let answer = slot.answers.pop_front();
        self.serial = slot.serial;
        core.slots.close(key);
        self.place = Place::Start;
        match end {
            Ok(()) => Some(Next::Done(answer.map(|answer| Some(Response(answer))).ok_or(CallError::Mismatch))),
            Err(loss) => self.survive(core, loss),
        }
    }

    fn flushed(&mut self, core: &mut Core) -> Option<Next> {
        let Place::Flush { serial, mark } = self.place else { return None };
        match core.is_flushed(serial, mark) {
            Some(true) => Some(Next::Done(Ok(None))),
            Some(false) => Some(Next::Wait(self.deadline)),
            None => {
                let source = std::sync::Arc::new(ginnel_session::SessionError::Closed);
                Some(Next::Done(Err(CallError::Lost { source })))
            }
        }
    }

    /// `None`: it goes on.
    fn survive(&mut self, core: &mut Core, loss: Loss) -> Option<Next> {
        self.place = Place::Start;
        let error = match loss {
            Loss::Final(error) if self.options.idempotent && is_too_large(&error) => {
                return self.overflow(core, *error);
            }
            Loss::Final(error) => *error,
            Loss::NotBegun if self.resent < MAX_RESENT => {
                self.resent += 1;
                return self.again(core);
            }
            Loss::NotBegun => CallError::Lost { source: std::sync::Arc::new(ginnel_session::SessionError::Leaving) },
            Loss::Lost(_) if self.options.idempotent && !self.retried => {
                self.retried = true;
                core.counters.retries += 1;
                return self.again(core);
            }
            Loss::Lost(source) => CallError::Lost { source },
            Loss::Overflow => {
                let limit = core.link.as_ref().map_or(0, |link| link.agreement.response.max_payload);
                return self.overflow(core, CallError::ResponseTooLarge { limit });
            }
        };
        Some(Next::Done(Err(error)))
    }

    /// The answer does not fit the connection: another may have larger limits, because a server may learn from that. In
    /// layout 2 the request was executed, so only those ask again that may be executed twice.
    fn overflow(&mut self, core: &mut Core, error: CallError) -> Option<Next> {
        self.overflows += 1;
        core.counters.overflows += 1;
        let mut grown = true;
        // Else another call has asked for a larger one already.
        if core.serial() == Some(self.serial) {
            let limit = core.link.as_ref().map_or(0, |link| link.agreement.response.max_payload);
            grown = limit > std::mem::replace(&mut self.limit, limit);
            if grown {
                core.response.double();
                core.retire();
            }
        }
        if grown && self.overflows < MAX_OVERFLOWS { self.again(core) } else { Some(Next::Done(Err(error))) }
    }

    fn again(&mut self, core: &Core) -> Option<Next> {
        self.patience.get_or_insert(Deadline::from(core.now, RECONNECT));
        None
    }
}

fn is_too_large(error: &CallError) -> bool {
    matches!(error, CallError::Status { status: Status::LIMIT_EXCEEDED, .. })
}

fn not_ready(core: &Core) -> CallError {
    CallError::NotReady { state: core.state(), source: core.last_error.clone() }
}

impl Wish<Core> for Op {
    fn granted(&mut self, core: &mut Core) -> bool {
        match self.place {
            Place::Start | Place::Over => true,
            Place::Arrival { paused } => core.link.is_some() || !paused && !core.connecting,
            Place::Room { serial } => core.serial() != serial || core.has_room(),
            Place::Open(key) => core.slots.get(key).is_none_or(|slot| slot.end.is_some()),
            Place::Flush { serial, mark } => core.is_flushed(serial, mark).unwrap_or(true),
        }
    }

    fn enlist(&mut self, core: &mut Core, waiter: Waiter) {
        match self.place {
            Place::Start | Place::Over => {}
            Place::Arrival { .. } => core.wait_for_arrival(waiter),
            Place::Room { .. } => core.wait_for_room(waiter),
            Place::Open(key) => {
                if let Some(slot) = core.slots.get(key) {
                    slot.waiter = Some(waiter);
                }
            }
            Place::Flush { .. } => core.wait_for_flush(waiter),
        }
    }
}
