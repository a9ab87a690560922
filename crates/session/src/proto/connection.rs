//! One end of a session: handshake, messages in both directions, requests in flight, silences, and its end.
//!
//! ```text
//! client:  Proposing --HELLO_ACK--> Open ----------------conclude--> Concluding --hang-up, time--> ended
//! server:  Listening --HELLO--> Judging --accept--> Answering --sent--> Open
//!                                       `-refuse--> Refusing --sent--> ended
//! ```

use super::hello::{Greeting, Offer, Verdict, judge_ack, judge_hello};
use super::inbound::{Framing, Inbound, Received};
use super::outbox::{Body, Left, Outbox, Transmit};
use super::pool::Pool;
use super::timers::{Silence, Timers, Timing};
use super::window::Window;
use crate::config::Limits;
use crate::error::{ProtocolError, Refusal, SessionError};
use ginnel_base::Deadline;
use ginnel_wire::{ENVELOPE_LEN, Envelope, Hello, HelloAck, Kind, Packets, Status};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Which side of a session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends requests, receives responses.
    Client,
    /// Receives requests, sends responses.
    Server,
}

impl Role {
    fn sends(self) -> Kind {
        match self {
            Self::Client => Kind::Request,
            Self::Server => Kind::Response,
        }
    }

    fn receives(self) -> Kind {
        match self {
            Self::Client => Kind::Response,
            Self::Server => Kind::Request,
        }
    }
}

/// What has happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// This many bytes were put into [`Connection::space`]; more than fit, if the carrier cut a packet.
    Received(usize),
    /// The peer has hung up: nothing more will arrive. What has arrived is still told.
    HungUp,
    /// Time has passed, no more.
    Tick,
}

/// What has come of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Server: the client's first message is there. [`Connection::judge`] it, then [`Connection::accept`] or
    /// [`Connection::refuse`].
    Greeted,
    /// The session stands, as this says. At a server its acceptance is out.
    Established(HelloAck),
    /// A request at a server, a response to a request in flight at a client.
    Message(Received),
    /// After [`Connection::conclude`]: all is sent. Shut the sending half of the carrier down, and go on receiving.
    Flushed,
    /// Nothing more will be received. Told once, and last, but for [`Silence::Stalled`] after a hang-up; [`Connection::end`] repeats it. What was queued may still be sent.
    Ended(End),
}

/// Why nothing more will be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The peer has hung up.
    HungUp,
    /// The peer broke the protocol.
    Protocol(ProtocolError),
    /// Client: the server refused, or answered nonsense.
    Refused(Refusal),
    /// Server: the client was told that it is refused, and all of that is out.
    Dismissed,
    /// The peer kept silent for longer than [`Timing`] allows.
    Silent(Silence),
    /// [`Connection::conclude`] has waited long enough.
    Concluded,
}

impl End {
    /// The same as an error of a session. A refusal has an error of its own ([`crate::ConnectError::Refused`]).
    #[must_use]
    pub fn to_error(self) -> SessionError {
        match self {
            Self::Protocol(error) => SessionError::Protocol(error),
            Self::Silent(Silence::WithinMessage) => SessionError::Stalled,
            Self::Silent(_) => SessionError::TimedOut,
            Self::HungUp | Self::Refused(_) | Self::Dismissed | Self::Concluded => SessionError::Closed,
        }
    }
}

#[derive(Debug)]
enum Phase {
    Proposing { hello: Hello, answer: Greeting },
    Listening(Greeting),
    Judging(Greeting),
    Answering(HelloAck),
    Refusing,
    Open,
    Concluding { flushed: bool, until: Deadline },
}

/// What is told before any message.
#[derive(Debug)]
enum Notice {
    Greeted,
    Established(HelloAck),
}

/// Payload bytes that a client may have queued before further requests are refused.
const MAX_QUEUED: usize = 4 << 20;
/// What a concluding connection receives into: nobody reads it.
const DISCARD: usize = 4 << 10;

/// One end of a session, without I/O and without a clock.
///
/// The driver's turn:
///
/// 1. write: while [`Connection::poll_transmit`] has something and the carrier takes it, say how much
///    ([`Connection::transmitted`]);
/// 2. take events until [`Connection::poll_event`] has none;
/// 3. read: while [`Connection::wants_input`], receive into [`Connection::space`], say how much ([`Connection::handle`]), and go
///    to 2;
/// 4. sleep until the carrier has or takes something, or until [`Connection::poll_timeout`]; then [`Input::Tick`], and again.
///
/// It holds buffers only while something is in them; [`Connection::relax`] gives back the one that [`Connection::space`] lent to
/// a carrier that had nothing.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    phase: Phase,
    // Whether the carrier keeps the boundaries of packets.
    packets: bool,
    outbound: Limits,
    inbound: Inbound,
    outbox: Outbox,
    window: Window,
    timers: Timers,
    // Responses that arrived while a send was blocked, in order of arrival. Bounded by the requests in flight.
    early: VecDeque<Received>,
    notice: Option<Notice>,
    end: Option<End>,
    told_end: bool,
    hung_up: bool,
    // A message was cut off in the middle: whatever is sent after it would be taken for its rest.
    broken: bool,
    framing: Framing,
}

impl Connection {
    /// The client's end: it proposes `hello`. `packets` says whether the carrier keeps packet boundaries.
    #[must_use]
    pub fn client(hello: Hello, packets: bool, timing: Timing, now: Instant) -> Self {
        let answer = Greeting::new(packets);
        let mut connection = Self::new(Role::Client, Phase::Proposing { hello, answer }, packets, timing, now);
        connection.push_control(&hello.packet(), false);
        connection
    }

    /// The server's end: it waits for a HELLO.
    #[must_use]
    pub fn server(packets: bool, timing: Timing, now: Instant) -> Self {
        Self::new(Role::Server, Phase::Listening(Greeting::new(packets)), packets, timing, now)
    }

    fn new(role: Role, phase: Phase, packets: bool, timing: Timing, now: Instant) -> Self {
        let nothing = Limits { max_payload: 0, max_items: 1 };
        Self {
            role,
            phase,
            packets,
            outbound: nothing,
            inbound: Inbound::new(Framing::Stream, nothing, role.receives()),
            outbox: Outbox::default(),
            window: Window::new(role),
            timers: Timers::new(timing, now),
            early: VecDeque::new(),
            notice: None,
            end: None,
            told_end: false,
            hung_up: false,
            broken: false,
            framing: Framing::Stream,
        }
    }

    /// How long the peer may keep silent from `now` on. Without it, for ever.
    pub fn set_timing(&mut self, timing: Timing, now: Instant) {
        self.timers = Timers::new(timing, now);
        if matches!(self.phase, Phase::Open) {
            self.timers.open(now);
        }
    }

    // ---- the handshake ----

    /// Server: the client's first message, once it is complete.
    #[must_use]
    pub fn greeting(&self) -> Option<&[u8]> {
        match &self.phase {
            Phase::Judging(greeting) => greeting.packet(),
            _ => None,
        }
    }

    /// Server: the client's proposal, once it has arrived and can be read.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        Hello::decode(self.greeting()?.get(ENVELOPE_LEN..)?).ok()
    }

    /// Server: what `offer` makes of the client's first message.
    #[must_use]
    pub fn judge(&self, offer: &Offer) -> Verdict {
        judge_hello(self.greeting().unwrap_or_default(), offer)
    }

    /// Server: answers with `ack`. Messages travel over the same carrier, unless [`Connection::set_framing`] follows.
    pub fn accept(&mut self, ack: &HelloAck, now: Instant) {
        if matches!(self.phase, Phase::Judging(_)) {
            self.phase = Phase::Answering(*ack);
            self.agree(ack);
            self.push_control(&ack.packet(), true);
            self.timers.sent(now, true);
        }
    }

    /// Server: answers with a status, which is not OK; the connection ends when it is out.
    pub fn refuse(&mut self, status: Status, now: Instant) {
        if matches!(self.phase, Phase::Judging(_)) {
            self.phase = Phase::Refusing;
            self.push_control(&HelloAck::rejection(status), false);
            self.timers.sent(now, true);
        }
    }

    fn push_control(&mut self, packet: &[u8], acceptance: bool) {
        // Ours: it has an envelope, and every packet size holds it.
        let Ok(envelope) = Envelope::decode(packet) else { return };
        let Some(packets) = Packets::new(&envelope, u32::MAX) else { return };
        self.outbox.push(0, packets, Body::Owned(packet[ENVELOPE_LEN..].to_vec()), acceptance);
    }

    fn agree(&mut self, ack: &HelloAck) {
        let requests = Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items };
        let responses = Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items };
        let (outbound, inbound) = match self.role {
            Role::Client => (requests, responses),
            Role::Server => (responses, requests),
        };
        self.framing = if self.packets { Framing::Packets(ack.packet_size) } else { Framing::Stream };
        self.outbound = outbound;
        self.inbound = Inbound::new(self.framing, inbound, self.role.receives());
    }

    fn open(&mut self, ack: HelloAck, now: Instant) {
        self.phase = Phase::Open;
        self.notice = Some(Notice::Established(ack));
        self.timers.open(now);
    }

    /// Messages travel over another carrier than the handshake did. To be said before the first of them: by a client when it
    /// has attached what was agreed on, by a server with its acceptance.
    pub fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
        self.inbound.set_framing(framing);
    }

    // ---- in ----

    /// Whether to receive now. Not while messages wait to be taken, nor (at a server) while its window is full: then the
    /// peer's bytes stay where they are.
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

    /// Where the next bytes go. A packet longer than this is a violation, so carriers must tell its real length. `due` is the
    /// length of the message that the carrier has, if it can tell before it hands it out; else 0. Empty unless
    /// [`Connection::wants_input`].
    pub fn space(&mut self, due: usize, pool: &mut Pool) -> &mut [u8] {
        if !self.wants_input() {
            return &mut [];
        }
        match &mut self.phase {
            Phase::Proposing { answer: greeting, .. } | Phase::Listening(greeting) => greeting.space(),
            Phase::Concluding { .. } => self.inbound.scratch(DISCARD, pool),
            _ => self.inbound.space(due, pool),
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
            Phase::Proposing { hello, answer } => {
                answer.received(len);
                let Some(packet) = answer.packet() else { return };
                match judge_ack(packet, hello) {
                    Ok(ack) => {
                        self.agree(&ack);
                        self.open(ack, now);
                    }
                    Err(refusal) => self.end = Some(End::Refused(refusal)),
                }
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
                if let Err(error) = self.inbound.received(len) {
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
        } else if let Some(silence) = self.timers.expired(now, self.is_busy()) {
            self.end = Some(End::Silent(silence));
        }
    }

    /// The latest moment at which to say [`Input::Tick`].
    #[must_use]
    pub fn poll_timeout(&self) -> Deadline {
        match &self.phase {
            _ if self.end == Some(End::HungUp) => self.timers.stalled(),
            _ if self.end.is_some() => Deadline::NEVER,
            Phase::Concluding { until, .. } => *until,
            _ => self.timers.next(self.is_busy()),
        }
    }

    fn is_busy(&self) -> bool {
        self.window.len() > 0 || !self.outbox.is_empty()
    }

    // ---- out ----

    /// Queues one message; `envelope.payload_len` is set to the payload's.
    ///
    /// A lent message that is still queued (its driver gave up) is taken back first: see [`Connection::take_back`].
    ///
    /// # Errors
    /// What makes it unfit for this session, or [`SessionError::Full`] if a client has too much on its way already; nothing
    /// has changed then. [`SessionError::Broken`] after a message that was cut off.
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
        let first = self.outbox.is_empty();
        self.outbox.push(envelope.message_id, packets, body, false);
        if first {
            self.timers.sent(now, true);
        }
        Ok(())
    }

    /// Whether the message is fit for this session, and its packets.
    fn admit(&self, envelope: &Envelope, len: usize) -> Result<Packets, SessionError> {
        if envelope.kind != self.role.sends() {
            return Err(SessionError::WrongKind { kind: envelope.kind });
        }
        let limit = self.outbound.max_payload;
        let too_large = SessionError::PayloadTooLarge { len, limit };
        let Ok(payload_len) = u32::try_from(len) else { return Err(too_large) };
        if !self.outbound.allows_payload(len as u64) {
            return Err(too_large);
        }
        if !self.outbound.allows_items(envelope.item_count) {
            let (items, limit) = (envelope.item_count, self.outbound.max_items);
            return Err(SessionError::TooManyItems { items, limit });
        }
        let packet_size = match self.framing {
            Framing::Packets(size) => size,
            Framing::Stream | Framing::Slot(_) => u32::MAX,
        };
        Packets::new(&Envelope { payload_len, ..*envelope }, packet_size).ok_or(too_large)
    }

    /// Whether a request would be queued now: the window has room, and not too much waits to be written.
    #[must_use]
    pub fn can_send(&self) -> bool {
        self.window.has_room() && self.outbox.bytes() < MAX_QUEUED
    }

    /// What to write next, if anything. `lent` is the payload of the message that is queued as [`Body::Lent`], if one is.
    #[must_use]
    pub fn poll_transmit<'a>(&'a self, lent: &'a [u8]) -> Option<Transmit<'a>> {
        self.outbox.transmit(lent)
    }

    /// The carrier took `len` bytes of [`Connection::poll_transmit`].
    pub fn transmitted(&mut self, now: Instant, len: usize, pool: &mut Pool) {
        if let Some(left) = self.outbox.transmitted(len, pool) {
            self.left(left);
        }
        self.timers.sent(now, !self.outbox.is_empty());
        if !self.outbox.is_empty() {
            return;
        }
        match self.phase {
            Phase::Answering(ack) => self.open(ack, now),
            Phase::Refusing => self.end = Some(End::Dismissed),
            _ => {}
        }
    }

    fn left(&mut self, left: Left) {
        if self.role == Role::Server && matches!(self.phase, Phase::Open) {
            // Only now: a client that does not read fills its own window, and nothing else.
            self.window.leave(left.id);
        }
    }

    /// Takes back the message whose payload is lent, if one is queued: its driver gives up. If the peer has seen a part of
    /// it, the session is [`SessionError::Broken`] from now on.
    pub fn take_back(&mut self) {
        let Some(left) = self.outbox.take_back_lent() else { return };
        if left.started {
            self.broken = true;
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
                Notice::Established(ack) => Event::Established(ack),
            });
        }
        if let Phase::Concluding { flushed, .. } = &mut self.phase {
            if !*flushed && self.outbox.is_empty() {
                *flushed = true;
                return Some(Event::Flushed);
            }
        } else if let Some(message) = self.next_message(pool) {
            return Some(Event::Message(message));
        }
        if self.end.is_none() && self.hung_up && self.inbound.has_space() {
            self.end = Some(End::HungUp);
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
        self.role == Role::Client || self.window.has_room()
    }

    /// Client: puts responses that are complete aside, so that more can be received while a send is blocked: two full
    /// carriers must not block each other. [`Connection::poll_event`] tells them later.
    pub fn gather(&mut self, pool: &mut Pool) {
        debug_assert_eq!(self.role, Role::Client, "a server's window is there to leave requests where they are");
        let mut gathered = std::mem::take(&mut self.early);
        while let Some(message) = self.next_message(pool) {
            gathered.push_back(message);
        }
        self.early = gathered;
    }

    /// Ends the session so that the peer still reads what is queued: nothing more is told of what arrives, [`Event::Flushed`]
    /// comes when all is out, and [`End::HungUp`] or, after `patience`, [`End::Concluded`] is the end. A close with unread
    /// bytes would reset the connection, which some peers see before the last message.
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
        self.window.len() + self.early.len()
    }

    /// Client: whether the server owes an answer. Then responses should be received also while a send is blocked.
    #[must_use]
    pub fn expects_responses(&self) -> bool {
        self.role == Role::Client && self.window.len() > 0
    }

    /// How many requests may be in flight: a client's [`Connection::send`] refuses more, a server takes no more. Without a
    /// limit unless it is set; at least 1.
    pub fn set_window(&mut self, requests: usize) {
        self.window.set_limit(requests);
    }

    /// See [`Connection::set_window`].
    #[must_use]
    pub fn window(&self) -> usize {
        self.window.limit()
    }

    /// Whether a part of a message has arrived, and a part has not.
    #[must_use]
    pub fn is_mid_message(&self) -> bool {
        self.inbound.is_mid_message()
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
        if self.early.is_empty() && self.early.capacity() > 0 {
            self.early = VecDeque::new();
        }
    }
}
