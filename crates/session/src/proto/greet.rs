//! The handshake of a connection, in both layouts.

use super::admit::{Admit, Rules2};
use super::calls::Calls;
use super::connection::{Connection, Notice, Phase};
use super::event::{End, Role};
use super::hello::{Greeting, Offer, Verdict, judge_ack, judge_hello};
use super::hello2::{Answer2, BadAnswer, Offer2, Verdict2, judge_ack_2, judge_hello_2};
use super::inbound::{Framing, Inbound};
use super::outbox::{Body, Item};
use super::timers::Timing;
use crate::config::Limits;
use crate::error::Refusal;
use ginnel_wire::{
    ENVELOPE_LEN, Envelope, HELLO, Hello, Hello2, HelloAck, HelloAck2, Kind, LAYOUT_2, Packets, Profiles, ServerFacts,
    Status, layout_of,
};
use std::time::Instant;

/// What a client has said.
#[derive(Debug)]
pub(super) enum Proposal {
    One(Hello),
    Two { hello: Hello2, max_ring: u32 },
}

/// What a server has granted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Agreed {
    One(HelloAck),
    Two(HelloAck2),
}

impl Connection {
    /// The client's end: it proposes `hello`. `packets` says whether the carrier keeps packet boundaries.
    #[must_use]
    pub fn client(hello: Hello, packets: bool, timing: Timing, now: Instant) -> Self {
        Self::proposing(Proposal::One(hello), &hello.packet(), packets, timing, now)
    }

    /// The client's end in layout 2. Rings may have at most `max_ring` bytes each. A server of layout 1 ends it with
    /// [`End::FallBack`].
    #[must_use]
    pub fn client_2(hello: Hello2, max_ring: u32, packets: bool, timing: Timing, now: Instant) -> Self {
        Self::proposing(Proposal::Two { hello, max_ring }, &hello.packet(), packets, timing, now)
    }

    fn proposing(hello: Proposal, packet: &[u8], packets: bool, timing: Timing, now: Instant) -> Self {
        let answer = Greeting::new(packets);
        let mut connection = Self::new(Role::Client, Phase::Proposing { hello, answer }, packets, timing, now);
        connection.push_greeting(packet, false);
        connection
    }

    /// The server's end: it waits for a HELLO.
    #[must_use]
    pub fn server(packets: bool, timing: Timing, now: Instant) -> Self {
        Self::new(Role::Server, Phase::Listening(Greeting::new(packets)), packets, timing, now)
    }

    /// Server: the client's first message, once it is complete.
    #[must_use]
    pub fn greeting(&self) -> Option<&[u8]> {
        match &self.phase {
            Phase::Judging(greeting) => greeting.packet(),
            _ => None,
        }
    }

    /// Server: the client's proposal in layout 1, once it has arrived and can be read.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        Hello::decode(self.greeting()?.get(ENVELOPE_LEN..)?).ok()
    }

    /// Server: the client's proposal in layout 2, once it has arrived and can be read.
    #[must_use]
    pub fn hello_2(&self) -> Option<Hello2> {
        Hello2::decode(self.payload_2()?).ok()
    }

    /// Server: the payload of a HELLO that says it has layout 2.
    fn payload_2(&self) -> Option<&[u8]> {
        let packet = self.greeting()?;
        let envelope = Envelope::decode(packet).ok()?;
        let payload = &packet[ENVELOPE_LEN..];
        let is_hello = (envelope.kind, envelope.code) == (Kind::Control, HELLO);
        (is_hello && layout_of(payload) == Some(LAYOUT_2)).then_some(payload)
    }

    /// Server: what `offer` makes of the client's first message, in layout 1.
    #[must_use]
    pub fn judge(&self, offer: &Offer) -> Verdict {
        judge_hello(self.greeting().unwrap_or_default(), offer)
    }

    /// Server: what `offer` makes of the client's first message if that has layout 2; else `None`.
    #[must_use]
    pub fn judge_2(&self, offer: &Offer2) -> Option<Verdict2> {
        Some(judge_hello_2(self.payload_2()?, offer))
    }

    /// Server: answers with `ack`. Messages travel over the same carrier, unless [`Connection::set_framing`] follows.
    pub fn accept(&mut self, ack: &HelloAck, now: Instant) {
        if matches!(self.phase, Phase::Judging(_)) {
            self.phase = Phase::Answering(Agreed::One(*ack));
            self.agree(ack);
            self.push_greeting(&ack.packet(), true);
            self.timers.sent(now, true);
        }
    }

    /// Server: answers a HELLO of layout 2 with `ack`. Where that selects RING, frames travel in its packets.
    pub fn accept_2(&mut self, ack: &HelloAck2, now: Instant) {
        if matches!(self.phase, Phase::Judging(_)) {
            self.phase = Phase::Answering(Agreed::Two(*ack));
            self.agree_2(ack);
            self.push_greeting(&ack.packet(), true);
            self.timers.sent(now, true);
        }
    }

    /// Server: answers with a status, which is not OK; the connection ends when it is out.
    pub fn refuse(&mut self, status: Status, now: Instant) {
        self.refuse_with(&HelloAck::rejection(status), now);
    }

    /// Server: answers a HELLO of layout 2 with a status, which is not OK, and says what it is.
    pub fn refuse_2(&mut self, status: Status, facts: &ServerFacts, now: Instant) {
        self.refuse_with(&HelloAck2::rejection(status, facts), now);
    }

    fn refuse_with(&mut self, packet: &[u8], now: Instant) {
        if matches!(self.phase, Phase::Judging(_)) {
            self.phase = Phase::Refusing;
            self.push_greeting(packet, false);
            self.timers.sent(now, true);
        }
    }

    fn push_greeting(&mut self, packet: &[u8], acceptance: bool) {
        // Ours: it has an envelope, and every packet size holds it.
        let Ok(envelope) = Envelope::decode(packet) else { return };
        let Some(packets) = Packets::new(&envelope, u32::MAX) else { return };
        let body = Body::Owned(packet[ENVELOPE_LEN..].to_vec());
        self.outbox.push(Item { acceptance, ..Item::plain(0, packets, body) });
    }

    fn agree(&mut self, ack: &HelloAck) {
        let requests = Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items };
        let responses = Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items };
        let (outbound, inbound) = self.directions(requests, responses);
        self.framing = if self.packets { Framing::Packets(ack.packet_size) } else { Framing::Stream };
        self.outbound = outbound;
        self.inbound = Inbound::new(self.framing, Admit::One { limits: inbound, expected: self.role.receives() });
    }

    fn agree_2(&mut self, ack: &HelloAck2) {
        let requests = Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items };
        let responses = Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items };
        let (outbound, limits) = self.directions(requests, responses);
        let packets = self.packets || ack.selected == Profiles::RING;
        self.framing = if packets { Framing::Packets(ack.packet_size) } else { Framing::Stream };
        self.outbound = outbound;
        let rules = Rules2 { role: self.role, limits, features: ack.features };
        self.inbound = Inbound::new(self.framing, Admit::Two(rules));
        self.calls = Some(Box::new(Calls::new(ack)));
    }

    /// What this side sends, and what it receives.
    fn directions(&self, requests: Limits, responses: Limits) -> (Limits, Limits) {
        match self.role {
            Role::Client => (requests, responses),
            Role::Server => (responses, requests),
        }
    }

    pub(super) fn open(&mut self, agreed: Agreed, now: Instant) {
        self.phase = Phase::Open;
        self.notice = Some(Notice::Established(agreed));
        self.timers.open(now);
    }

    /// The client has received the whole answer.
    pub(super) fn answered(&mut self, now: Instant) {
        let Phase::Proposing { hello, answer } = &self.phase else { return };
        let Some(packet) = answer.packet() else { return };
        match hello {
            Proposal::One(hello) => match judge_ack(packet, hello) {
                Ok(ack) => {
                    self.agree(&ack);
                    self.open(Agreed::One(ack), now);
                }
                Err(refusal) => self.end = Some(End::Refused(refusal)),
            },
            Proposal::Two { hello, max_ring } => match judge_ack_2(packet, hello, *max_ring) {
                Answer2::Accepted(ack) => {
                    self.agree_2(&ack);
                    self.open(Agreed::Two(ack), now);
                }
                Answer2::FallBack => self.end = Some(End::FallBack),
                Answer2::Refused(refusal, facts) => {
                    self.facts = Some(facts);
                    self.end = Some(End::Refused(refusal));
                }
                Answer2::Bad(bad) => {
                    self.end = Some(End::Refused(match bad {
                        BadAnswer::Refusal(refusal) => refusal,
                        BadAnswer::Ack(error) => Refusal::Ack2(error),
                        BadAnswer::Granted { field, found } => Refusal::Granted { field, found },
                    }));
                }
            },
        }
    }

    /// Whether a client has proposed layout 2 and got no answer at all.
    pub(super) fn is_unheard_2(&self) -> bool {
        matches!(&self.phase, Phase::Proposing { hello: Proposal::Two { .. }, answer } if answer.is_empty())
    }

    /// Client: what a server of layout 2 that refused says of itself.
    #[must_use]
    pub fn server_facts(&self) -> Option<ServerFacts> {
        self.facts
    }

    /// What layout 2 has granted; `None` in a session of layout 1, and before it stands.
    #[must_use]
    pub fn layout_2(&self) -> Option<&HelloAck2> {
        self.calls.as_ref().map(|calls| calls.granted())
    }
}
