//! One end of a session: handshake, messages in both directions, requests in flight, silences, and its end.
//!
//! ```text
//! client:  Proposing --HELLO_ACK--> Open ----------------conclude--> Concluding --hang-up, time--> ended
//! server:  Listening --HELLO--> Judging --accept--> Answering --sent--> Open
//!                                       `-refuse--> Refusing --sent--> ended
//! ```

use super::admit::Admit;
use super::calls::Calls;
use super::event::{End, Event, Input, Role};
use super::greet::{Agreed, Proposal};
use super::hello::Greeting;
use super::inbound::{Framing, Inbound, Received};
use super::outbox::{Body, Item, Left, Outbox, Transmit};
use super::pool::Pool;
use super::timers::{Silence, Timers, Timing};
use super::window::Window;
use crate::config::Limits;
use crate::error::{ProtocolError, SessionError};
use ginnel_base::Deadline;
use ginnel_wire::{Envelope, Packets, ServerFacts};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) enum Phase {
    Proposing { hello: Proposal, answer: Greeting },
    Listening(Greeting),
    Judging(Greeting),
    Answering(Agreed),
    Refusing,
    Open,
    Concluding { flushed: bool, until: Deadline },
}

/// What is told before any message.
#[derive(Debug)]
pub(super) enum Notice {
    Greeted,
    Established(Agreed),
}

/// Payload bytes that a client may have queued before further requests are refused.
pub(super) const MAX_QUEUED: usize = 4 << 20;
/// What a concluding connection receives into: nobody reads it.
const DISCARD: usize = 4 << 10;

/// One end of a session, without I/O and without a clock.
///
/// The driver's turn:
///
/// 1. write: while [`Connection::poll_transmit`] has something and the carrier takes it, say how much
///    ([`Connection::transmitted`]);
/// 2. take events until [`Connection::poll_event`] has none;
/// 3. read: while [`Connection::wants_input`], receive into [`Connection::space`], say how much
///    ([`Connection::handle`]), and go to 2;
/// 4. sleep until the carrier has or takes something, or until [`Connection::poll_timeout`]; then [`Input::Tick`], and
///    again.
///
/// It holds buffers only while something is in them; [`Connection::relax`] gives back the one that
/// [`Connection::space`] lent to a carrier that had nothing.
#[derive(Debug)]
pub struct Connection {
    pub(super) role: Role,
    pub(super) phase: Phase,
    // Whether the carrier keeps the boundaries of packets.
    pub(super) packets: bool,
    pub(super) outbound: Limits,
    pub(super) inbound: Inbound,
    pub(super) outbox: Outbox,
    pub(super) window: Window,
    pub(super) timers: Timers,
    // Responses that arrived while a send was blocked, in order of arrival. Bounded by the requests in flight.
    pub(super) early: VecDeque<Received>,
    pub(super) notice: Option<Notice>,
    pub(super) end: Option<End>,
    pub(super) told_end: bool,
    pub(super) hung_up: bool,
    // A message was cut off in the middle: whatever is sent after it would be taken for its rest.
    pub(super) broken: bool,
    // The driver does not receive for reasons of its own.
    held: bool,
    pub(super) framing: Framing,
    // Layout 2: what was granted, and the calls that are open.
    pub(super) calls: Option<Box<Calls>>,
    // Client: what a server that refused says of itself.
    pub(super) facts: Option<ServerFacts>,
}

impl Connection {
    pub(super) fn new(role: Role, phase: Phase, packets: bool, timing: Timing, now: Instant) -> Self {
        let nothing = Limits { max_payload: 0, max_items: 1 };
        Self {
            role,
            phase,
            packets,
            outbound: nothing,
            inbound: Inbound::new(Framing::Stream, Admit::One { limits: nothing, expected: role.receives() }),
            outbox: Outbox::default(),
            window: Window::new(role),
            timers: Timers::new(timing, now),
            early: VecDeque::new(),
            notice: None,
            end: None,
            told_end: false,
            hung_up: false,
            broken: false,
            held: false,
            framing: Framing::Stream,
            calls: None,
            facts: None,
        }
    }

    /// How long the peer may keep silent from `now` on. Without it, for ever.
    pub fn set_timing(&mut self, timing: Timing, now: Instant) {
        self.timers = Timers::new(timing, now);
        if matches!(self.phase, Phase::Open) {
            self.timers.open(now);
        }
    }

    // ---- in ----

    /// Messages travel over another carrier than the handshake did. To be said before the first of them: by a client
    /// when it has attached what was agreed on, by a server with its acceptance.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        self.inbound.set_framing(framing);
    }

    /// Whether to receive now. Not while messages wait to be taken, nor (at a server) while its window is full: then
    /// the peer's bytes stay where they are.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        if self.end.is_some() || self.hung_up {
            return false;
        }
        match self.phase {
            Phase::Proposing { .. } | Phase::Listening(_) | Phase::Concluding { .. } => true,
            Phase::Judging(_) | Phase::Answering(_) | Phase::Refusing => false,
            Phase::Open => self.inbound.has_space() && self.may_take(),
        }
    }

    /// Where the next bytes go. A packet longer than this is a violation, so carriers must tell its real length. `due`
    /// is the length of the message that the carrier has, if it can tell before it hands it out; else 0. Empty unless
    /// [`Connection::wants_input`], and where there is no memory for it: then the session has ended.
    pub fn space(&mut self, due: usize, pool: &mut Pool) -> &mut [u8] {
        if !self.wants_input() {
            return &mut [];
        }
        match &mut self.phase {
            Phase::Proposing { answer: greeting, .. } | Phase::Listening(greeting) => greeting.space(),
            Phase::Concluding { .. } => self.inbound.scratch(DISCARD, pool),
            _ => self.inbound.space(due, pool).unwrap_or_else(|bytes| {
                self.end = Some(End::NoMemory { bytes });
                &mut []
            }),
        }
    }

    /// Something has happened.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Received(len) => self.received(now, len),
            Input::HungUp => self.hung_up = true,
            Input::Tick => self.tick(now),
        }
    }

    fn received(&mut self, now: Instant, len: usize) {
        match &mut self.phase {
            Phase::Proposing { answer, .. } => {
                answer.received(len);
                self.answered(now);
            }
            Phase::Listening(greeting) => {
                greeting.received(len);
                if greeting.packet().is_some() {
                    let greeting = std::mem::replace(greeting, Greeting::new(self.packets));
                    self.phase = Phase::Judging(greeting);
                    self.notice = Some(Notice::Greeted);
                }
            }
            Phase::Open if self.end.is_none() => {
                if let Err(error) = self.inbound.received(len, now) {
                    self.end = Some(End::Protocol(error));
                }
                self.timers.received(now, len, self.inbound.is_mid_message());
            }
            _ => {}
        }
    }

    fn tick(&mut self, now: Instant) {
        if self.end == Some(End::HungUp) && self.timers.is_stalled(now) {
            // It closed its half and takes nothing of what is left for it. Told although an end was told.
            (self.end, self.told_end) = (Some(End::Silent(Silence::Stalled)), false);
        }
        if self.end.is_some() {
            return;
        }
        if let Phase::Concluding { until, .. } = &self.phase {
            if until.passed_at(now) {
                self.end = Some(End::Concluded);
            }
        } else if let Some(silence) = self.timers.expired(now, self.is_busy(), self.is_reading()) {
            self.end = Some(End::Silent(silence));
        } else if self.calls.as_ref().is_some_and(|calls| calls.answer_due().passed_at(now)) {
            self.end = Some(End::Silent(Silence::Unanswered));
        }
    }

    /// The latest moment at which to say [`Input::Tick`].
    #[must_use]
    pub fn poll_timeout(&self) -> Deadline {
        match &self.phase {
            _ if self.end == Some(End::HungUp) => self.timers.stalled(),
            _ if self.end.is_some() => Deadline::NEVER,
            Phase::Concluding { until, .. } => *until,
            _ => {
                let due = self.calls.as_ref().map_or(Deadline::NEVER, |calls| calls.answer_due());
                self.timers.next(self.is_busy(), self.is_reading()).min(due)
            }
        }
    }

    /// The driver will not receive for a while, whatever [`Connection::wants_input`] says. The time within a message
    /// does not pass meanwhile, because the peer may have sent the rest.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// The driver receives again.
    pub fn resume(&mut self, now: Instant) {
        if std::mem::take(&mut self.held) {
            self.timers.reading_again(now);
        }
    }

    /// Whether the peer's silence is its own.
    fn is_reading(&self) -> bool {
        !self.held && self.wants_input()
    }

    fn is_busy(&self) -> bool {
        self.unanswered_calls() > 0 || !self.outbox.is_empty()
    }

    // ---- out ----

    /// Queues one message; `envelope.payload_len` is set to the payload's.
    ///
    /// A lent message that is still queued (its driver gave up) is taken back first: see [`Connection::take_back`].
    ///
    /// # Errors
    /// What makes it unfit for this session, or [`SessionError::Full`] if a client has too much on its way already;
    /// nothing has changed then. [`SessionError::Broken`] after a message that was cut off.
    pub fn send(&mut self, now: Instant, envelope: &Envelope, body: Body) -> Result<(), SessionError> {
        self.take_back();
        match self.phase {
            Phase::Open => {}
            Phase::Concluding { .. } => return Err(SessionError::Closed),
            _ => return Err(SessionError::NotEstablished),
        }
        if self.broken {
            return Err(SessionError::Broken);
        }
        if self.calls.is_some() {
            return self.send_2(now, envelope, body);
        }
        let packets = self.admit(envelope, body.len())?;
        if self.role == Role::Client {
            if self.window.contains(envelope.message_id) {
                return Err(SessionError::DuplicateId { id: envelope.message_id });
            }
            if !self.can_send() {
                return Err(SessionError::Full { in_flight: self.window.len(), queued: self.outbox.bytes() });
            }
            self.window.enter(envelope.message_id);
        }
        self.enqueue(now, Item::plain(envelope.message_id, packets, body));
        Ok(())
    }

    pub(super) fn enqueue(&mut self, now: Instant, item: Item) {
        let first = self.outbox.is_empty();
        self.outbox.push(item);
        if first {
            self.timers.sent(now, true);
        }
    }

    /// Whether the message is fit for this session, and its packets.
    fn admit(&self, envelope: &Envelope, len: usize) -> Result<Packets, SessionError> {
        if envelope.kind != self.role.sends() {
            return Err(SessionError::WrongKind { kind: envelope.kind });
        }
        let payload_len = self.check_limits(len, envelope.item_count)?;
        self.cut(&Envelope { payload_len, ..*envelope })
    }

    /// Whether a body of `len` bytes and so many items may be sent; its length.
    pub(super) fn check_limits(&self, len: usize, items: u32) -> Result<u32, SessionError> {
        let limit = self.outbound.max_payload;
        let too_large = SessionError::PayloadTooLarge { len, limit };
        let Ok(payload_len) = u32::try_from(len) else { return Err(too_large) };
        if !self.outbound.allows_payload(len as u64) {
            return Err(too_large);
        }
        if !self.outbound.allows_items(items) {
            return Err(SessionError::TooManyItems { items, limit: self.outbound.max_items });
        }
        Ok(payload_len)
    }

    /// The packets of a message.
    pub(super) fn cut(&self, envelope: &Envelope) -> Result<Packets, SessionError> {
        let packet_size = match self.framing {
            Framing::Packets(size) => size,
            Framing::Stream | Framing::Slot(_) => u32::MAX,
        };
        let (len, limit) = (envelope.payload_len as usize, self.outbound.max_payload);
        Packets::new(envelope, packet_size).ok_or(SessionError::PayloadTooLarge { len, limit })
    }

    /// Whether a request would be queued now: the window has room, and not too much waits to be written.
    #[must_use]
    pub fn can_send(&self) -> bool {
        let room = self.calls.as_ref().map_or_else(|| self.window.has_room(), |calls| calls.has_room());
        room && self.outbox.bytes() < MAX_QUEUED
    }

    /// What to write next, if anything. `lent` is the payload of the message that is queued as [`Body::Lent`], if one
    /// is.
    #[must_use]
    pub fn poll_transmit<'a>(&'a self, lent: &'a [u8]) -> Option<Transmit<'a>> {
        self.outbox.transmit(lent)
    }

    /// What to write next, as far as it may go out in one attempt: packets of several messages, the one of
    /// [`Connection::poll_transmit`] first. For each of them that the carrier took, and for the part of the last one,
    /// say [`Connection::transmitted`].
    pub fn poll_transmits<'a>(&'a self, lent: &'a [u8]) -> impl Iterator<Item = Transmit<'a>> {
        self.outbox.transmits(lent)
    }

    /// The carrier took `len` bytes of [`Connection::poll_transmit`].
    pub fn transmitted(&mut self, now: Instant, len: usize, pool: &mut Pool) {
        if let Some(left) = self.outbox.transmitted(len, pool) {
            let full = !self.may_take();
            self.left(left);
            if full && self.may_take() {
                self.timers.reading_again(now);
            }
        }
        self.timers.sent(now, !self.outbox.is_empty());
        if !self.outbox.is_empty() {
            return;
        }
        match self.phase {
            Phase::Answering(agreed) => self.open(agreed, now),
            Phase::Refusing => self.end = Some(End::Dismissed),
            _ => {}
        }
    }

    fn left(&mut self, left: Left) {
        if self.role == Role::Server && matches!(self.phase, Phase::Open) {
            // Only now: a client that does not read fills its own window, and nothing else.
            match &mut self.calls {
                Some(calls) if left.answers => calls.answer_left(left.id),
                Some(_) => {}
                None => _ = self.window.leave(left.id),
            }
        }
    }

    /// Takes back the message whose payload is lent, if one is queued: its driver gives up. If the peer has seen a part
    /// of it, the session is [`SessionError::Broken`] from now on. In layout 2 its call is over then, whatever it was.
    pub fn take_back(&mut self) {
        let Some(left) = self.outbox.take_back_lent() else { return };
        if left.started {
            self.broken = true;
        } else if let Some(calls) = &mut self.calls {
            calls.withdraw(left.id, self.role, left.answers);
        } else if self.role == Role::Client {
            self.window.leave(left.id);
        }
    }

    // ---- what comes of it ----

    /// What has come of all that, one after the other.
    pub fn poll_event(&mut self, pool: &mut Pool) -> Option<Event> {
        if let Some(notice) = self.notice.take() {
            return Some(match notice {
                Notice::Greeted => Event::Greeted,
                Notice::Established(Agreed::One(ack)) => Event::Established(ack),
                Notice::Established(Agreed::Two(ack)) => Event::Established2(ack),
            });
        }
        if let Phase::Concluding { flushed, .. } = &mut self.phase {
            if !*flushed && self.outbox.is_empty() {
                *flushed = true;
                return Some(Event::Flushed);
            }
        } else if self.calls.is_some() {
            if let Some(event) = self.next_event_2(pool) {
                return Some(event);
            }
        } else if let Some(message) = self.next_message(pool) {
            return Some(Event::Message(message));
        }
        if self.end.is_none() && self.hung_up && self.inbound.has_space() {
            self.end = Some(if self.is_unheard_2() { End::FallBack } else { End::HungUp });
        }
        match self.end {
            Some(end) if !std::mem::replace(&mut self.told_end, true) => {
                self.inbound.clear(pool);
                Some(Event::Ended(end))
            }
            _ => None,
        }
    }

    fn next_message(&mut self, pool: &mut Pool) -> Option<Received> {
        if let Some(early) = self.early.pop_front() {
            return Some(early);
        }
        if self.end.is_some() || !matches!(self.phase, Phase::Open) || !self.may_take() {
            return None;
        }
        match self.inbound.next(pool) {
            Ok(message) => {
                if message.is_none() && self.inbound.is_mid_message() {
                    // What came behind a whole message is the beginning of another.
                    self.timers.left_over();
                }
                let message = message?;
                let id = message.envelope.message_id;
                if self.role == Role::Server {
                    self.window.enter(id);
                } else if !self.window.leave(id) {
                    self.end = Some(End::Protocol(ProtocolError::UnknownId { id }));
                    pool.put(message.into_buffer());
                    return None;
                }
                Some(message)
            }
            Err(error) => {
                self.end = Some(End::Protocol(error));
                None
            }
        }
    }

    fn may_take(&self) -> bool {
        // In layout 2 the window is agreed on, and what a client says of its open calls must get through.
        self.role == Role::Client || self.calls.is_some() || self.window.has_room()
    }

    /// Client: puts responses that are complete aside, so that more can be received while a send is blocked: two full
    /// carriers must not block each other. [`Connection::poll_event`] tells them later.
    pub fn gather(&mut self, pool: &mut Pool) {
        debug_assert_eq!(self.role, Role::Client, "a server's window is there to leave requests where they are");
        debug_assert!(self.calls.is_none(), "drivers of layout 2 receive while they send");
        let mut gathered = std::mem::take(&mut self.early);
        while let Some(message) = self.next_message(pool) {
            gathered.push_back(message);
        }
        self.early = gathered;
    }

    /// Ends the session so that the peer still reads what is queued: nothing more is told of what arrives,
    /// [`Event::Flushed`] comes when all is out, and [`End::HungUp`] or, after `patience`, [`End::Concluded`] is the
    /// end. A close with unread bytes would reset the connection, which some peers see before the last message.
    pub fn conclude(&mut self, now: Instant, patience: Duration, pool: &mut Pool) {
        self.take_back();
        self.phase = Phase::Concluding { flushed: false, until: Deadline::from(now, patience) };
        (self.end, self.told_end) = (None, false);
        self.early.clear();
        self.inbound.clear(pool);
    }

    // ---- state ----

    /// Which side this is.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Requests without a response. At a client: not told yet; at a server: taken, and their response not yet written.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.unanswered_calls() + self.early.len()
    }

    fn unanswered_calls(&self) -> usize {
        self.calls.as_ref().map_or(self.window.len(), |calls| calls.len())
    }

    /// Client: whether the server owes an answer. Then responses should be received also while a send is blocked.
    #[must_use]
    pub fn expects_responses(&self) -> bool {
        self.role == Role::Client && self.unanswered_calls() > 0
    }

    /// How many requests may be in flight: a client's [`Connection::send`] refuses more, a server takes no more.
    /// Without a limit unless it is set; at least 1. In layout 2 the handshake decides, and this does nothing.
    pub fn set_window(&mut self, requests: usize) {
        self.window.set_limit(requests);
    }

    /// See [`Connection::set_window`].
    #[must_use]
    pub fn window(&self) -> usize {
        self.calls.as_ref().map_or(self.window.limit(), |calls| calls.limit())
    }

    /// Whether a part of a message has arrived, and a part has not.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.inbound.is_mid_message()
    }

    /// Messages that are queued and not written.
    #[must_use]
    pub fn queued_messages(&self) -> usize {
        self.outbox.len()
    }

    /// Payload bytes that are queued and not written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.outbox.bytes()
    }

    /// Whether the peer has hung up, be it that what has arrived is not all taken.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        self.hung_up
    }

    /// Why nothing more will be received, if that is so.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Gives memory back that an idle connection need not hold. For drivers of many: when the carrier has nothing.
    pub fn relax(&mut self, pool: &mut Pool) {
        self.inbound.relax(pool);
        self.outbox.relax();
        self.window.relax();
        if let Some(calls) = &mut self.calls {
            calls.relax();
        }
        if self.early.is_empty() && self.early.capacity() > 0 {
            self.early = VecDeque::new();
        }
    }
}
