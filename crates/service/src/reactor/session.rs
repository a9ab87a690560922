//! One session of a reactor: moves bytes between its carrier and its connection, hands requests out and takes answers
//! in.
//!
//! Nothing here waits. What a session may do in a turn is bounded, so that a fast client does not keep the others
//! waiting.

use super::Turn;
use super::calls::{Asked, Calls, Pending};
use super::poll::Interest;
use crate::dispatch::{self, Ran};
use crate::failure::Failure;
use crate::responder::{Answer, CallKey, SessionKey};
use crate::sink::Flows;
use ginnel_base::Deadline;
use ginnel_session::carrier::{Carrier, Source};
use ginnel_session::proto::{Body, Connection, End, Event, Input, Received, Transmit};
use ginnel_session::{Agreement, Parts, ProtocolError, SessionError};
use ginnel_wire::{Envelope, FrameKind, MethodList, Reply, Status};
use std::sync::Arc;
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
    /// Its session has layout 2.
    layout_2: bool,
    /// The streams that it answers with; none before the first.
    flows: Option<Arc<Flows>>,
    /// Responders that have not answered, be it that their calls are over, and those of them that are on the executor.
    out: usize,
    pub(super) executing: usize,
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
    paused: bool,
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
        let layout_2 = connection.layout_2().is_some();
        Self {
            key,
            connection,
            carrier,
            agreement,
            // Peers of layout 1 may count on it.
            calls: Calls::new(!layout_2),
            layout_2,
            flows: None,
            out: 0,
            executing: 0,
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
        self.connection.in_flight() == 0 && self.calls.open() == 0 && self.connection.poll_transmit(&[]).is_none()
    }

    /// Calls that have no answer.
    pub(super) fn open_calls(&self) -> usize {
        self.calls.open()
    }

    /// Whether nothing more is read: a client of layout 1 is not asked for requests once its session closes. In layout
    /// 2 it was told, and goes on to say what concerns its open calls.
    fn is_deaf(&self) -> bool {
        self.closing && !self.layout_2
    }

    /// Whether it may be asked for requests, as far as it is concerned.
    pub(super) fn listens(&self) -> bool {
        !self.paused && !self.is_deaf() && self.connection.wants_input()
    }

    /// Whether something has come, where shared memory tells.
    pub(super) fn has_news(&mut self) -> bool {
        self.listens() && self.carrier.has_news() == Some(true)
    }

    /// What to be told of the carrier's descriptor.
    pub(super) fn wants(&self, paused: bool) -> Interest {
        Interest { read: self.connection.wants_input() && !paused && !self.is_deaf(), write: self.blocked }
    }

    /// Whether it waits for room.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// It is not read from until there is room: how long its client takes for a message does not count meanwhile.
    pub(super) fn pause(&mut self) {
        self.paused = true;
        self.connection.hold();
    }

    /// It is read from again.
    pub(super) fn resume(&mut self, now: Instant) {
        self.paused = false;
        if !self.is_deaf() {
            self.connection.resume(now);
        }
    }

    /// Whether it is read from whatever the budget is: streams that hold requests go on only when their client's credit
    /// is heard.
    pub(super) fn must_listen(&self) -> bool {
        self.flows.as_ref().is_some_and(|flows| flows.any())
    }

    pub(super) fn timeout(&self) -> Deadline {
        self.connection.poll_timeout().min(self.calls.due())
    }

    /// The other end is gone altogether. What it sent before may still be taken, in the turn that follows; its answers
    /// have nobody to go to.
    pub(super) fn gone(&mut self) {
        self.gone = true;
    }

    /// Nobody wants the answers any more. One-way calls go on, unless the server stops: nobody wanted theirs before.
    pub(super) fn cancel_calls(&self, stop: bool) {
        for (_, call) in self.calls.pending() {
            if stop || call.asked.reply != Reply::None {
                call.context.cancel();
            }
        }
        if let Some(flows) = &self.flows {
            flows.close_all();
        }
    }

    /// No further request is taken. A client of layout 2 is told, and that the session ends `within` that time.
    pub(super) fn close_when_idle(&mut self, now: Instant, within: Duration) {
        self.closing = true;
        if self.layout_2 {
            // Nobody to tell if it fails.
            let _ = self.connection.go_away(now, (!within.is_zero()).then_some(within));
        } else {
            self.connection.hold();
        }
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
                        self.request(turn, message);
                        if let Err(error) = self.flush(turn) {
                            return self.failed(error);
                        }
                    }
                    Event::Cancelled { id } => {
                        if let Some((number, call)) = self.calls.find(id) {
                            call.context.cancel();
                            self.answer(turn, number, Answer::Failed(Failure::Cancelled));
                        }
                    }
                    Event::Credit { id, items } => {
                        if let Some((number, _)) = self.calls.find(id)
                            && let Some(flows) = &self.flows
                        {
                            flows.add_credit(number, items);
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
            let paused = turn.paused() && !self.must_listen();
            if !may_receive || paused || self.is_deaf() || !self.connection.wants_input() {
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
        self.cancel_calls(false);
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
        if let Some(flows) = &self.flows {
            flows.set_queued(self.connection.queued());
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
            ) if !self.layout_2 => {
                self.cancel_calls(false);
                self.last_word(turn, &Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0));
                None
            }
            end => {
                self.cancel_calls(false);
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

    /// A request, or a question about the methods, has come.
    fn request(&mut self, turn: &mut Turn<'_>, message: Received) {
        if message.head().is_some_and(|head| head.kind == FrameKind::Methods) {
            return self.tell_methods(turn, message);
        }
        turn.shared.counters.requests.add(1);
        let (envelope, reply) = (message.envelope, dispatch::reply(&message));
        let context = turn.context(self.agreement, message.deadline());
        turn.shared.counters.bytes_in.add(u64::from(envelope.payload_len));
        // A request that is no batch is one item, and no batch is what 0 allows.
        let too_many = envelope.item_count > turn.shared.options.max_batch_items.max(u32::from(!envelope.batch));
        if too_many && !self.layout_2 {
            turn.shared.counters.failures.add(1);
            return self.last_word(turn, &Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0));
        }
        let asked = Asked { envelope, reply };
        let number = self.calls.enter(Pending { asked, context: context.clone() });
        turn.shared.counters.in_flight.add(1);
        if self.layout_2
            && let Some(refused) = self.refuse(turn, &message, too_many)
        {
            turn.pool.put(message.into_buffer());
            return self.answer(turn, number, refused);
        }
        let flows = (reply == Reply::Stream).then(|| {
            let credit = self.connection.credit(envelope.message_id);
            let flows = self.flows.get_or_insert_default();
            flows.open(number, credit);
            Arc::clone(flows)
        });
        let call = CallKey { session: self.key, number };
        match turn.dispatch(call, message, context.clone(), flows) {
            Ran::Answered(answer) => {
                self.answer(turn, number, answer);
                *turn.spare = Some(context);
            }
            Ran::Later { executed } => {
                self.out += 1;
                self.executing += usize::from(executed);
            }
        }
    }

    /// Layout 2: why a request is not begun, if it is not.
    fn refuse(&self, turn: &Turn<'_>, message: &Received, too_many: bool) -> Option<Answer> {
        if too_many {
            return Some(Answer::TooMany);
        }
        if message.deadline().passed_at(turn.now) {
            return Some(Answer::Failed(Failure::DeadlineExceeded));
        }
        // Calls that were cancelled have left the window, and their handlers may run on: not without end.
        let overrun = self.out >= 2 * self.connection.window();
        (overrun || turn.paused() && self.must_listen()).then_some(Answer::Failed(Failure::Unavailable))
    }

    fn tell_methods(&mut self, turn: &mut Turn<'_>, message: Received) {
        let id = message.envelope.message_id;
        let asked = MethodList::parse(message.payload(), message.envelope.item_count);
        let asked: Vec<u16> = asked.iter().flat_map(MethodList::iter).collect();
        let methods = turn.shared.router.hashes(&asked);
        turn.pool.put(message.into_buffer());
        // More methods than one answer can tell.
        if let Err(SessionError::PayloadTooLarge { .. }) = self.connection.tell_methods(turn.now, id, &methods) {
            let _ = self.connection.fail(turn.now, id, Status::LIMIT_EXCEEDED, None);
        }
    }

    /// A responder has answered, or was dropped; its call may be over.
    pub(super) fn returned(&mut self, turn: &mut Turn<'_>, executed: bool) {
        self.out -= 1;
        self.executing -= usize::from(executed);
        *turn.executing -= usize::from(executed);
    }

    /// An item of a stream. Nothing happens if that is over.
    pub(super) fn item(&mut self, turn: &mut Turn<'_>, number: u64, item: Vec<u8>) {
        if let Some(flows) = &self.flows {
            flows.arrived(item.len());
        }
        let Some(call) = self.calls.get(number) else { return };
        let id = call.asked.envelope.message_id;
        turn.shared.counters.bytes_out.add(item.len() as u64);
        if let Err(error) = self.connection.item(turn.now, id, None, Body::Owned(item)) {
            tracing::warn!(session = self.agreement.session_id, %error, "an item cannot be sent");
            self.answer(turn, number, Answer::Failed(Failure::Internal));
        }
    }

    /// A call is answered; whatever may leave now is queued. The caller drives the session afterwards.
    pub(super) fn answer(&mut self, turn: &mut Turn<'_>, number: u64, answer: Answer) {
        if let Some(asked) = self.calls.answer(number, answer) {
            turn.shared.counters.in_flight.sub(1);
            if asked.reply == Reply::Stream
                && let Some(flows) = &self.flows
            {
                flows.close(number);
            }
        }
        while let Some((asked, answer)) = self.calls.next(number) {
            if self.layout_2 {
                self.queue_2(turn, &asked, answer);
            } else {
                self.queue(turn, &asked.envelope, answer);
            }
            if self.concluding {
                return;
            }
        }
    }

    /// Queues an answer of layout 2.
    fn queue_2(&mut self, turn: &mut Turn<'_>, asked: &Asked, answer: Answer) {
        let (id, now) = (asked.envelope.message_id, turn.now);
        let sent = match (asked.reply, answer) {
            (Reply::None, Answer::Failed(failure)) => return turn.shared.failed(&failure),
            (Reply::None, Answer::TooMany) => return turn.shared.counters.failures.add(1),
            (Reply::None, _) => return,
            (_, Answer::Payload(payload)) => {
                let needed = payload.len();
                turn.shared.counters.bytes_out.add(needed as u64);
                match self.connection.respond(now, id, Body::Owned(payload)) {
                    Err(SessionError::PayloadTooLarge { .. }) => self.fail(turn, id, &Failure::Overflow { needed }),
                    Err(SessionError::TooManyItems { .. }) => self.fail(turn, id, &Failure::Overflow { needed: 0 }),
                    sent => sent,
                }
            }
            (_, Answer::End) => self.connection.end_stream(now, id),
            (_, Answer::Failed(failure)) => self.fail(turn, id, &failure),
            (_, Answer::TooMany) => {
                turn.shared.counters.failures.add(1);
                self.connection.fail(now, id, Status::LIMIT_EXCEEDED, None)
            }
        };
        match sent {
            // The session has ended meanwhile.
            Ok(()) | Err(SessionError::Closed | SessionError::Broken | SessionError::NotEstablished) => {}
            Err(error) => {
                tracing::warn!(session = self.agreement.session_id, %error, "an answer cannot be sent");
                let _ = self.fail(turn, id, &Failure::Internal);
            }
        }
    }

    fn fail(&mut self, turn: &mut Turn<'_>, id: u64, failure: &Failure) -> Result<(), SessionError> {
        turn.shared.failed(failure);
        self.connection.fail(turn.now, id, failure.status(), failure.structured().as_ref())
    }

    /// Queues an answer of layout 1.
    fn queue(&mut self, turn: &mut Turn<'_>, request: &Envelope, answer: Answer) {
        if self.concluding {
            return;
        }
        let limit = self.agreement.response.max_payload as usize;
        let failure = match answer {
            Answer::Payload(payload) if payload.len() <= limit => {
                turn.shared.counters.bytes_out.add(payload.len() as u64);
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
            // Layout 1 has no streams, and refuses too many items before they are a call.
            Answer::End | Answer::TooMany => Failure::Unsupported,
        };
        turn.shared.failed(&failure);
        let status = Envelope::response_to(request, failure.status_in_layout_1(), 0);
        if failure.ends_session() {
            self.cancel_calls(false);
            self.last_word(turn, &status);
        } else {
            let _ = self.connection.send(turn.now, &status, Body::Owned(Vec::new()));
        }
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, turn: &mut Turn<'_>) {
        self.connection.handle(turn.now, Input::Tick);
        for number in self.calls.expired(turn.now) {
            if let Some(call) = self.calls.get(number) {
                call.context.expire();
            }
            self.answer(turn, number, Answer::Failed(Failure::DeadlineExceeded));
        }
    }
}
