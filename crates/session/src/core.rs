//! One session as a state machine: which messages may leave, which have arrived, which requests are in flight. It owns
//! no socket and no clock; blocking and async drivers and the fuzzers feed the same one.

use crate::config::Limits;
use crate::error::{ProtocolError, SessionError};
use crate::inbound::{Framing, Inbound};
use ginnel_wire::{Envelope, HelloAck, Kind, Message, Packet, Packets};
use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};

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

/// Hashes message ids. What is in the set was chosen by this side, so nobody can make it collide; a peer only looks up.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        // The golden ratio spreads counting ids over the high bits, which pick the bucket's tag, and the low ones alike.
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    }
}

/// The state of one session after its handshake.
#[derive(Debug)]
pub struct Core {
    role: Role,
    framing: Framing,
    outbound: Limits,
    inbound: Inbound,
    in_flight: HashSet<u64, BuildHasherDefault<IdHasher>>,
    // The id of the ready message was checked; a stream can have several ready, one after the other.
    checked: bool,
}

impl Core {
    /// The state of a session that was agreed as `ack` says.
    #[must_use]
    pub fn new(role: Role, framing: Framing, ack: &HelloAck) -> Self {
        let requests = Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items };
        let responses = Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items };
        let (outbound, inbound) = match role {
            Role::Client => (requests, responses),
            Role::Server => (responses, requests),
        };
        Self {
            role,
            framing,
            outbound,
            inbound: Inbound::new(framing, inbound, role.receives()),
            in_flight: HashSet::default(),
            checked: false,
        }
    }

    /// Requests without a response so far. Always 0 for a server.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Begins a message with a payload of `len` bytes, whatever `envelope.payload_len` says.
    ///
    /// # Errors
    /// What makes it unfit for this session; nothing has changed then.
    pub fn begin_send(&mut self, envelope: &Envelope, len: usize) -> Result<Transmit, SessionError> {
        if envelope.kind != self.role.sends() {
            return Err(SessionError::WrongKind { kind: envelope.kind });
        }
        let limit = self.outbound.max_payload;
        let Ok(payload_len) = u32::try_from(len) else { return Err(SessionError::PayloadTooLarge { len, limit }) };
        if !self.outbound.allows_payload(len as u64) {
            return Err(SessionError::PayloadTooLarge { len, limit });
        }
        if !self.outbound.allows_items(envelope.item_count) {
            let (items, limit) = (envelope.item_count, self.outbound.max_items);
            return Err(SessionError::TooManyItems { items, limit });
        }
        let envelope = Envelope { payload_len, ..*envelope };
        let packet_size = match self.framing {
            Framing::Packets(size) => size,
            Framing::Stream | Framing::Slot(_) => u32::MAX,
        };
        let Some(packets) = Packets::new(&envelope, packet_size) else {
            return Err(SessionError::PayloadTooLarge { len, limit });
        };
        if self.role == Role::Client && !self.in_flight.insert(envelope.message_id) {
            return Err(SessionError::DuplicateId { id: envelope.message_id });
        }
        Ok(Transmit::new(envelope.message_id, packets))
    }

    /// Takes a message back of which nothing was sent.
    pub fn cancel_send(&mut self, transmit: &Transmit) {
        if self.role == Role::Client {
            self.in_flight.remove(&transmit.message_id);
        }
    }

    /// Where the carrier puts received bytes; empty only while a message is ready.
    pub fn space(&mut self) -> &mut [u8] {
        self.inbound.space()
    }

    /// `len` bytes were put into [`Core::space`]; more than fit, if the carrier cut a packet.
    ///
    /// # Errors
    /// What the peer did wrong. The session is over then.
    pub fn received(&mut self, len: usize) -> Result<(), ProtocolError> {
        self.inbound.received(len)?;
        self.check_id()
    }

    /// Whether a message is complete.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.inbound.is_ready()
    }

    /// The complete message, if there is one.
    #[must_use]
    pub fn message(&self) -> Option<Message<'_>> {
        self.inbound.message()
    }

    /// Drops the complete message, to make room for the next.
    ///
    /// # Errors
    /// What is wrong with the next one, if its bytes are there already. The session is over then.
    pub fn consume(&mut self) -> Result<(), ProtocolError> {
        self.checked = false;
        self.inbound.consume()?;
        self.check_id()
    }

    fn check_id(&mut self) -> Result<(), ProtocolError> {
        if self.role == Role::Server || self.checked {
            return Ok(());
        }
        if let Some(message) = self.inbound.message() {
            let id = message.envelope.message_id;
            if !self.in_flight.remove(&id) {
                return Err(ProtocolError::UnknownId { id });
            }
            self.checked = true;
        }
        Ok(())
    }
}

/// A message on its way out: what to write next, and how far it got.
#[derive(Debug)]
pub struct Transmit {
    message_id: u64,
    packets: Packets,
    current: Option<Packet>,
    written: usize,
    started: bool,
}

impl Transmit {
    fn new(message_id: u64, mut packets: Packets) -> Self {
        let current = packets.next();
        Self { message_id, packets, current, written: 0, started: false }
    }

    /// What is left of the current packet, of the message whose payload is `payload`; `None` when all is written.
    #[must_use]
    pub fn next<'a>(&'a self, payload: &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
        let packet = self.current.as_ref()?;
        let body = &payload[packet.payload.clone()];
        Some(match self.written.checked_sub(packet.header.len()) {
            None => (&packet.header[self.written..], body),
            Some(of_body) => (&[], &body[of_body..]),
        })
    }

    /// `len` bytes of [`Transmit::next`] were written.
    pub fn advance(&mut self, len: usize) {
        let Some(packet) = &self.current else { return };
        self.started |= len > 0;
        self.written += len;
        if self.written >= packet.header.len() + packet.payload.len() {
            self.written = 0;
            self.current = self.packets.next();
        }
    }

    /// Whether the peer has seen a part of the message.
    #[must_use]
    pub fn started(&self) -> bool {
        self.started
    }
}
