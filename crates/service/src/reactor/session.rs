//! One session of a reactor: moves bytes between its carrier and its connection, hands requests out and takes answers
//! in.
//!
//! Nothing here waits. What a session may do in a turn is bounded, so that a fast client does not keep the others
//! waiting.

use super::Turn;
use super::calls::{Calls, Pending};
use super::poll::Interest;
use crate::handler::Failure;
use crate::responder::{Answer, CallKey, SessionKey};
use ginnel_base::Deadline;
use ginnel_session::carrier::{Carrier, Source};
use ginnel_session::proto::{Body, Connection, End, Event, Input, Received, Transmit};
use ginnel_session::{Agreement, Parts, ProtocolError, SessionError};
use ginnel_wire::{Envelope, Status};
use std::time::{Duration, Instant};

/// How long a client gets to read the last word before the connection is closed under it.
const LAST_WORD: Duration = Duration::from_millis(200);
/// Messages that a session takes in one turn.
const FAIR_SHARE: usize = 64;
/// Receives of one turn, whatever they bring: the parts of large messages, and what a session that is over throws away.
const FAIR_RECEIVES: usize = 64;

/// What is to become of a session after it was driven.
#[derive(Debug)]
pub(super) enum Next {
    /// It waits for its carrier, for answers, or for the time.
    Wait,
    /// There is more to do at once, after the others.
    Again,
    /// It is over.
    Over(Reason),
}

/// Why a session is over.
#[derive(Debug)]
pub(super) enum Reason {
    /// The client left.
    Left,
    /// The server drains or stops.
    Stopped,
    /// A newcomer needed the place of this session, which was idle.
    MadeRoom,
    /// The client broke the protocol, kept silent for too long, or asked for what its session cannot carry.
    Dismissed(Option<End>),
    /// The carrier failed.
    Failed(#[allow(dead_code, reason = "told by the event")] SessionError),
}

/// An open session.
pub(super) struct Session {
    pub(super) key: SessionKey,
    connection: Connection,
    pub(super) carrier: Box<dyn Carrier>,
    pub(super) agreement: Agreement,
    calls: Calls,
    /// What the poll was told last; nothing of a carrier that is not waited for there.
    pub(super) interest: Option<Interest>,
    /// The entry in the reactor's timers.
    pub(super) timer: Option<Instant>,
    /// The carrier takes no more for now.
    blocked: bool,
    /// The last wake brought more than one message: then it is worth asking for another.
    prompt: bool,
    /// Nobody is at the other end any more: it ends with this turn.
    gone: bool,
    /// It is in the list of those that wait for room.
    pub(super) paused: bool,
    /// It is in the list of those that have more to do: never twice, or a flood would get a larger share each turn.
    pub(super) again: bool,
    /// No request is taken any more; the session ends with its last answer.
    closing: bool,
    /// The last answer is queued: the client broke its session.
    concluding: bool,
    /// The last time that a message came, for who has to make room.
    pub(super) active: Instant,
}

impl Session {
    pub(super) fn new(key: SessionKey, parts: Parts, window: usize, now: Instant) -> Self {
        let Parts { mut connection, carrier, agreement, .. } = parts;
        connection.set_window(window);
        Self {
            key,
            connection,
            carrier,
            agreement,
            // Peers of layout 1 may count on it.
            calls: Calls::new(true),
            interest: None,
            timer: None,
            blocked: false,
            prompt: true,
            gone: false,
            paused: false,
            again: false,
            closing: false,
            concluding: false,
            active: now,
        }
    }

    /// Whether it has nothing under way.
    pub(super) fn is_idle(&self) -> bool {
        self.connection.in_flight() == 0 && self.connection.queued() == 0
    }

    /// Calls whose handler has not answered.
    pub(super) fn open_calls(&self) -> usize {
        self.calls.open()
    }

    /// Whether it may be asked for requests, as far as it is concerned.
    pub(super) fn listens(&self) -> bool {
        !self.paused && !self.closing && self.connection.wants_input()
    }

    /// What to be told of the carrier's descriptor.
    pub(super) fn wants(&self, paused: bool) -> Interest {
        Interest { read: self.connection.wants_input() && !paused && !self.closing, write: self.blocked }
    }

    pub(super) fn timeout(&self) -> Deadline {
        self.connection.poll_timeout()
    }

    /// The other end is gone altogether. What it sent before may still be taken, in the turn that follows; its answers
    /// have nobody to go to.
    pub(super) fn gone(&mut self) {
        self.gone = true;
    }

    /// Whether the call has no answer yet.
    pub(super) fn is_open(&mut self, number: u64) -> bool {
        self.calls.get(number).is_some()
    }

    pub(super) fn cancel_calls(&self) {
        for (_, call) in self.calls.pending() {
            call.context.cancel();
        }
    }

    /// No further request is taken.
    pub(super) fn close_when_idle(&mut self) {
        self.closing = true;
    }

    /// Does what can be done now. `readable`: an attempt to receive is worth making.
    pub(super) fn drive(&mut self, turn: &mut Turn<'_>, readable: bool) -> Next {
        let mut may_receive = readable;
        let (mut received, mut receives) = (0, 0);
        loop {
            if let Err(error) = self.flush(turn) {
                return self.failed(error);
            }
            while received < FAIR_SHARE
                && let Some(event) = self.connection.poll_event(turn.pool)
            {
                match event {
                    Event::Message(message) => {
                        received += 1;
                        self.active = turn.now;
                        if let Some(next) = self.request(turn, message) {
                            return next;
                        }
                        if let Err(error) = self.flush(turn) {
                            return self.failed(error);
                        }
                    }
                    Event::Flushed => {
                        // Nothing more is said; the client reads the rest and hangs up.
                        let _ = rustix::net::shutdown(self.carrier.socket(), rustix::net::Shutdown::Write);
                    }
                    Event::Ended(end) => match self.ended(turn, end) {
                        Some(next) => return next,
                        None => break,
                    },
                    _ => {}
                }
            }
            if self.closing && !self.concluding && self.is_idle() {
                return Next::Over(Reason::Stopped);
            }
            // What was received is taken first, because nothing tells of it again.
            if received >= FAIR_SHARE {
                return Next::Again;
            }
            if !may_receive || turn.paused() || self.closing || !self.connection.wants_input() {
                break;
            }
            if receives >= FAIR_RECEIVES {
                return Next::Again;
            }
            receives += 1;
            match self.receive(turn) {
                Ok(true) => {
                    may_receive = self.prompt || received > 1 || !turn.alone || self.connection.is_mid_message()
                }
                Ok(false) => break,
                Err(SessionError::Closed) => {
                    self.connection.handle(turn.now, Input::HungUp);
                    may_receive = false;
                    // In shared memory nobody can read on after a hang-up. A socket's client may have closed its half
                    // only.
                    self.gone |= matches!(self.carrier.source(), Source::Doorbell(_));
                }
                Err(error) => return self.failed(error),
            }
        }
        self.prompt = received > 1;
        if !may_receive || received == 0 {
            self.connection.relax(turn.pool);
            self.calls.relax();
        }
        if self.gone { Next::Over(Reason::Left) } else { Next::Wait }
    }

    fn failed(&mut self, error: SessionError) -> Next {
        self.cancel_calls();
        Next::Over(match error {
            SessionError::Closed => Reason::Left,
            error => Reason::Failed(error),
        })
    }

    /// Writes what is queued, as far as the carrier takes it.
    fn flush(&mut self, turn: &mut Turn<'_>) -> Result<(), SessionError> {
        self.blocked = false;
        while let Some(Transmit { head, body, .. }) = self.connection.poll_transmit(&[]) {
            match self.carrier.try_send(head, body)? {
                Some(len) => self.connection.transmitted(turn.now, len, turn.pool),
                None => {
                    self.blocked = true;
                    break;
                }
            }
        }
        Ok(())
    }

    fn receive(&mut self, turn: &mut Turn<'_>) -> Result<bool, SessionError> {
        let due = self.carrier.due();
        let space = self.connection.space(due, turn.pool);
        let received = self.carrier.try_recv(space)?;
        if let Some(len) = received {
            self.connection.handle(turn.now, Input::Received(len));
        }
        Ok(received.is_some())
    }

    /// Nothing more will be received. What is under way may still be answered.
    fn ended(&mut self, turn: &mut Turn<'_>, end: End) -> Option<Next> {
        match end {
            End::HungUp => {
                self.closing = true;
                // A client that has only closed its half reads on. One that is gone altogether is told by the poll.
                self.is_idle().then_some(Next::Over(Reason::Left))
            }
            End::Protocol(
                ProtocolError::PayloadTooLarge { envelope, .. } | ProtocolError::TooManyItems { envelope, .. },
            ) => {
                self.cancel_calls();
                self.last_word(turn, &Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0));
                None
            }
            end => {
                self.cancel_calls();
                Some(Next::Over(if end == End::Concluded {
                    Reason::Dismissed(None)
                } else {
                    Reason::Dismissed(Some(end))
                }))
            }
        }
    }

    /// Sends a status after which the session ends.
    fn last_word(&mut self, turn: &mut Turn<'_>, status: &Envelope) {
        self.concluding = true;
        // A peer that asks beyond its limits gets this word if there is room, and is closed either way.
        let _ = self.connection.send(turn.now, status, Body::Owned(Vec::new()));
        self.connection.conclude(turn.now, LAST_WORD, turn.pool);
    }

    /// A request has come.
    fn request(&mut self, turn: &mut Turn<'_>, message: Received) -> Option<Next> {
        turn.shared.counters.requests.add(1);
        let envelope = message.envelope;
        let context = turn.context(self.agreement);
        // A request that is no batch is one item, and no batch is what 0 allows.
        if envelope.item_count > turn.shared.options.max_batch_items.max(u32::from(!envelope.batch)) {
            turn.shared.counters.failures.add(1);
            self.last_word(turn, &Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0));
            return None;
        }
        let number = self.calls.enter(Pending { envelope, context: context.clone() });
        let call = CallKey { session: self.key, number };
        if let Some(answer) = turn.dispatch(call, message, context.clone(), &self.agreement) {
            self.answer(turn, number, answer);
            *turn.spare = Some(context);
        }
        None
    }

    /// A call is answered; whatever may leave now is queued. The caller drives the session afterwards.
    pub(super) fn answer(&mut self, turn: &mut Turn<'_>, number: u64, answer: Answer) {
        self.calls.answer(number, answer);
        while let Some((request, answer)) = self.calls.next(number) {
            self.queue(turn, &request, answer);
            if self.concluding {
                return;
            }
        }
    }

    fn queue(&mut self, turn: &mut Turn<'_>, request: &Envelope, answer: Answer) {
        if self.concluding {
            return;
        }
        let limit = self.agreement.response.max_payload as usize;
        let failure = match answer {
            Answer::Payload(payload) if payload.len() <= limit => {
                let response = Envelope::response_to(request, Status::OK, 0);
                let batch = request.batch && request.item_count >= 1;
                let response = if batch { response.with_batch(request.item_count) } else { response };
                match self.connection.send(turn.now, &response, Body::Owned(payload)) {
                    Ok(()) => return,
                    // The session ended meanwhile.
                    Err(SessionError::Closed | SessionError::Broken | SessionError::NotEstablished) => return,
                    Err(error) => {
                        tracing::warn!(session = self.agreement.session_id, %error, "a response cannot be sent");
                        Failure::Internal
                    }
                }
            }
            Answer::Payload(payload) => Failure::Overflow { needed: payload.len() },
            Answer::Failed(failure) => failure,
        };
        turn.shared.failed(&failure);
        let status = Envelope::response_to(request, failure.status(), 0);
        if failure.ends_session() {
            self.cancel_calls();
            self.last_word(turn, &status);
        } else {
            let _ = self.connection.send(turn.now, &status, Body::Owned(Vec::new()));
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.connection.handle(now, Input::Tick);
    }
}
