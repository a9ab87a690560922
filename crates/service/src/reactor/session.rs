//! One session of a reactor: moves bytes between its carrier and its connection, hands requests out and takes answers
//! in.
//!
//! Nothing here waits. What a session may do in a turn is bounded, so that a fast client does not keep the others
//! waiting.

use super::Turn;
use super::calls::Calls;
use super::poll::Interest;
use crate::failure::Failure;
use crate::responder::{Answer, SessionKey};
use crate::server::{Order, Place, ServerOptions};
use crate::sink::Flows;
use ginnel_base::Deadline;
use ginnel_session::carrier::{Carrier, Source};
use ginnel_session::proto::{Body, Connection, End, Event, Input, Transmit};
use ginnel_session::{Agreement, Parts, ProtocolError, SessionError};
use ginnel_wire::{Envelope, Reply, Status};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a client gets to read the last word before the connection is closed under it.
const LAST_WORD: Duration = Duration::from_millis(200);
/// Messages that a session takes in one turn.
const FAIR_SHARE: usize = 64;
/// Answers that leave together at most.
const TOGETHER: usize = 16;
/// One wake in so many asks for a second message, where the last wake brought one.
const PROBE: u8 = 16;
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
    pub(super) connection: Connection,
    pub(super) carrier: Box<dyn Carrier>,
    pub(super) agreement: Agreement,
    pub(super) calls: Calls,
    /// Its session has layout 2.
    pub(super) layout_2: bool,
    ring: bool,
    /// When it was driven last, while the reactor looks at its rings.
    pub(super) hot: Option<Instant>,
    /// The streams that it answers with; none before the first.
    pub(super) flows: Option<Arc<Flows>>,
    /// Responders that have not answered, be it that their calls are over, and those of them that are on the executor.
    pub(super) out: usize,
    pub(super) executing: usize,
    /// What the poll was told last; nothing of a carrier that is not waited for there.
    pub(super) interest: Option<Interest>,
    /// The entry in the reactor's timers.
    pub(super) timer: Option<Instant>,
    /// The carrier takes no more for now.
    blocked: bool,
    /// The last wake brought more than one message: then it is worth asking for another, and answers may leave
    /// together.
    prompt: bool,
    /// Wakes so far: now and then it is asked for another message anyway.
    wakes: u8,
    /// A queued answer should not wait for others.
    pub(super) hurry: bool,
    /// Nobody is at the other end any more: it ends with this turn.
    gone: bool,
    /// It is in the list of those that wait for room.
    paused: bool,
    /// It is in the list of those that have more to do: never twice, or a flood would get a larger share each turn.
    pub(super) again: bool,
    /// No request is taken any more; the session ends with its last answer.
    closing: bool,
    /// The last answer is queued: the client broke its session.
    pub(super) concluding: bool,
    /// The last time that a message came, for who has to make room.
    pub(super) active: Instant,
    /// Given back last, when its files are closed.
    _place: Place,
}

impl Session {
    pub(super) fn new(key: SessionKey, parts: Parts, place: Place, options: &ServerOptions, now: Instant) -> Self {
        let Parts { mut connection, carrier, agreement, .. } = parts;
        connection.set_window(options.window);
        let layout_2 = connection.layout_2().is_some();
        let ring = matches!(carrier.source(), Source::Ring { .. });
        Self {
            key,
            connection,
            carrier,
            agreement,
            // Peers of layout 1 may count on it.
            calls: Calls::new(!layout_2 || options.order == Order::Fifo),
            layout_2,
            ring,
            hot: None,
            flows: None,
            out: 0,
            executing: 0,
            interest: None,
            timer: None,
            blocked: false,
            prompt: true,
            wakes: 0,
            hurry: false,
            gone: false,
            paused: false,
            again: false,
            closing: false,
            concluding: false,
            active: now,
            _place: place,
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

    /// Whether its carrier is a pair of rings.
    pub(super) fn is_ring(&self) -> bool {
        self.ring
    }

    /// Whether it has something to send that had no room.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Whether the poll says nothing of what arrives: it is not asked to, or does not know. Where shared
    /// memory tells, a look costs no system call.
    pub(super) fn is_untold(&self) -> bool {
        self.ring || self.interest.is_none_or(|interest| !interest.read)
    }

    /// What to be told of the carrier's descriptors. Of rings the bell tells of room as well.
    pub(super) fn wants(&self, paused: bool) -> Interest {
        let read = self.connection.wants_input() && !paused && !self.is_deaf();
        Interest { read, write: self.blocked && !self.ring }
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
        self.wakes = self.wakes.wrapping_add(u8::from(readable));
        let curious = self.prompt || self.wakes.is_multiple_of(PROBE);
        // Answers wait for those of the requests that are there already, so that they leave by one system call.
        let mut hold = false;
        loop {
            if (!hold || self.is_to_flush())
                && let Err(error) = self.flush(turn)
            {
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
                        if self.is_to_flush()
                            && let Err(error) = self.flush(turn)
                        {
                            return self.failed(error);
                        }
                    }
                    Event::Cancelled { id } => {
                        if let Some((number, call)) = self.calls.find(id) {
                            call.context.cancel();
                            self.answer(turn, number, Answer::Failed(Failure::Cancelled));
                            if let Err(error) = self.flush(turn) {
                                return self.failed(error);
                            }
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
            let paused = turn.paused() && !self.must_listen();
            let over = !may_receive || paused || self.is_deaf() || !self.connection.wants_input();
            let enough = received >= FAIR_SHARE || receives >= FAIR_RECEIVES;
            if (over || enough) && self.connection.queued_messages() > 0 && !self.blocked {
                // What leaves makes room for a request that is there, and nothing tells of that again.
                (hold, may_receive) = (false, may_receive && !over);
                continue;
            }
            // What was received is taken first, because nothing tells of it again.
            if received >= FAIR_SHARE {
                return Next::Again;
            }
            if over {
                break;
            }
            if receives >= FAIR_RECEIVES {
                return Next::Again;
            }
            receives += 1;
            match self.receive(turn) {
                Ok(true) => {
                    may_receive = curious || received > 1 || self.connection.is_mid_message();
                    hold = may_receive;
                }
                Ok(false) => may_receive = false,
                Err(SessionError::Closed) => {
                    self.connection.handle(turn.now, Input::HungUp);
                    may_receive = false;
                    // In shared memory nobody can read on after a hang-up. A socket's client may have closed its half
                    // only.
                    self.gone |= !matches!(self.carrier.source(), Source::Socket { .. });
                }
                Err(error) => return self.failed(error),
            }
        }
        if readable {
            self.prompt = received > 1;
        }
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

    /// Whether what is queued should wait for nothing.
    fn is_to_flush(&self) -> bool {
        self.hurry || self.connection.queued_messages() >= TOGETHER
    }

    /// Writes what is queued, as far as the carrier takes it.
    fn flush(&mut self, turn: &mut Turn<'_>) -> Result<(), SessionError> {
        self.blocked = false;
        self.hurry = false;
        while let Some(Transmit { head, body, .. }) = self.connection.poll_transmit(&[]) {
            let sent = match self.connection.queued_messages() {
                1 => self.carrier.try_send(head, body)?,
                _ => {
                    let (mut packets, mut count) = ([(&[][..], &[][..]); TOGETHER], 0);
                    for (packet, next) in packets.iter_mut().zip(self.connection.poll_transmits(&[])) {
                        *packet = (next.head, next.body);
                        count += 1;
                    }
                    self.carrier.try_send_many(&packets[..count])?
                }
            };
            let Some(mut sent) = sent else {
                self.blocked = true;
                break;
            };
            // Packet by packet: the outbox knows where each of them ends.
            while let Some(Transmit { head, body, .. }) = self.connection.poll_transmit(&[]) {
                let len = sent.min(head.len() + body.len());
                self.connection.transmitted(turn.now, len, turn.pool);
                sent -= len;
                if sent == 0 {
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
                if self.layout_2 {
                    // It can say nothing of its calls any more: over TCP nothing else tells that it is gone.
                    return Some(Next::Over(Reason::Left));
                }
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
    pub(super) fn last_word(&mut self, turn: &mut Turn<'_>, status: &Envelope) {
        self.concluding = true;
        // A peer that asks beyond its limits gets this word if there is room, and is closed either way.
        let _ = self.connection.send(turn.now, status, Body::Owned(Vec::new()));
        self.connection.conclude(turn.now, LAST_WORD, turn.pool);
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
