//! Bytes to messages. The driver asks where to put bytes, puts them there and says how many; a message comes out when
//! it is complete. One buffer, no copy between carrier and message.
//!
//! Memory follows what has really arrived, never what a peer announces: a buffer at most doubles at a time.

use crate::config::Limits;
use crate::error::ProtocolError;
use ginnel_wire::{Assembler, Batch, ENVELOPE_LEN, Envelope, Kind, Message};

/// How a carrier delimits messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Packets with boundaries; a message that exceeds one goes in chunks. The number is the agreed packet size.
    Packets(u32),
    /// A stream of bytes: each envelope says where its message ends. No chunks.
    Stream,
    /// A shared-memory slot: one whole message at a time, whose length the slot tells. The number is the longest to take.
    Slot(u32),
}

/// A stream is read in steps of at least this many bytes, so that many small messages cost one system call.
const READ_AHEAD: usize = 64 << 10;
const CHUNK_HEADER: usize = 32;

#[derive(Debug)]
pub(crate) struct Inbound {
    framing: Framing,
    limits: Limits,
    expected: Kind,
    buffer: Vec<u8>,
    // Stream: the bytes `start..end` have arrived and are not consumed. Others: `start` is 0, `end` the bytes of the
    // message so far.
    start: usize,
    end: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between messages, or inside the envelope of one (streams only).
    Idle,
    /// The envelope is there, payload is missing (streams).
    Partial(Envelope),
    /// Packet 0 is there, chunks are missing. `saved` is the tail of the payload so far: the next packet is received
    /// right over it, so that its payload lands in place, and the tail is put back afterwards.
    Chunks { envelope: Envelope, assembler: Assembler, saved: [u8; CHUNK_HEADER] },
    /// The message is complete and not consumed.
    Ready(Envelope),
}

impl Inbound {
    pub(crate) fn new(framing: Framing, limits: Limits, expected: Kind) -> Self {
        Self { framing, limits, expected, buffer: Vec::new(), start: 0, end: 0, state: State::Idle }
    }

    /// The complete message, if there is one.
    pub(crate) fn message(&self) -> Option<Message<'_>> {
        let State::Ready(envelope) = self.state else { return None };
        let payload = self.start + ENVELOPE_LEN;
        Some(Message { envelope, payload: &self.buffer[payload..payload + envelope.payload_len as usize] })
    }

    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, State::Ready(_))
    }

    /// Drops the complete message; the next one may be ready at once.
    pub(crate) fn consume(&mut self) -> Result<(), ProtocolError> {
        let State::Ready(envelope) = self.state else { return Ok(()) };
        self.state = State::Idle;
        if self.framing == Framing::Stream {
            self.start += ENVELOPE_LEN + envelope.payload_len as usize;
            return self.parse_stream();
        }
        self.end = 0;
        Ok(())
    }

    /// Where the next bytes go. A packet longer than this is a violation, so carriers must tell its real length.
    /// Empty only while a message is ready.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        match (&mut self.state, self.framing) {
            (State::Ready(_), _) => &mut [],
            (State::Chunks { assembler, saved, .. }, _) => {
                let at = self.end - CHUNK_HEADER;
                let len = assembler.next_packet_len();
                grow(&mut self.buffer, at + len, self.end + assembler.missing() as usize);
                saved.copy_from_slice(&self.buffer[at..self.end]);
                &mut self.buffer[at..at + len]
            }
            (_, Framing::Packets(_) | Framing::Slot(_)) => {
                let len = self.first_space();
                if self.buffer.len() < len {
                    // Fresh zeroed memory, not grown: pages that no message touches are never backed.
                    self.buffer = vec![0; len];
                }
                &mut self.buffer[..len]
            }
            (state, Framing::Stream) => {
                let needed = match state {
                    State::Partial(envelope) => ENVELOPE_LEN + envelope.payload_len as usize,
                    _ => ENVELOPE_LEN,
                };
                if self.start == self.end {
                    (self.start, self.end) = (0, 0);
                }
                if self.start > 0 && self.start + needed > self.buffer.len() {
                    self.buffer.copy_within(self.start..self.end, 0);
                    (self.start, self.end) = (0, self.end - self.start);
                }
                if self.end == self.buffer.len() {
                    grow(&mut self.buffer, (self.end + 1).max(READ_AHEAD), needed);
                }
                &mut self.buffer[self.end..]
            }
        }
    }

    /// `len` bytes were put into [`Inbound::space`], or a packet of `len` bytes that did not fit.
    pub(crate) fn received(&mut self, len: usize) -> Result<(), ProtocolError> {
        match self.framing {
            Framing::Stream => {
                self.end += len;
                self.parse_stream()
            }
            Framing::Slot(_) => self.take_slot(len),
            Framing::Packets(packet_size) => {
                if matches!(self.state, State::Chunks { .. }) {
                    self.take_chunk(len)
                } else {
                    self.take_first(len, packet_size)
                }
            }
        }
    }

    /// Room for the first packet of a message: packets are negotiated large, messages may be small.
    fn first_space(&self) -> usize {
        let message = self.limits.max_payload as usize + ENVELOPE_LEN;
        match self.framing {
            Framing::Packets(packet_size) => message.min(packet_size as usize),
            Framing::Slot(capacity) => capacity as usize,
            Framing::Stream => message,
        }
    }

    fn parse_stream(&mut self) -> Result<(), ProtocolError> {
        let arrived = self.end - self.start;
        if let State::Idle = self.state {
            if arrived < ENVELOPE_LEN {
                return Ok(());
            }
            let envelope = Envelope::decode(&self.buffer[self.start..self.end])?;
            self.admit(&envelope)?;
            self.state = State::Partial(envelope);
        }
        if let State::Partial(envelope) = self.state
            && arrived >= ENVELOPE_LEN + envelope.payload_len as usize
        {
            return self.complete(envelope);
        }
        Ok(())
    }

    fn take_slot(&mut self, len: usize) -> Result<(), ProtocolError> {
        let mut envelope = Envelope::decode(&self.buffer[..len])?;
        // The slot's length counts; the known peers ignore the envelope's.
        envelope.payload_len = (len - ENVELOPE_LEN) as u32;
        self.admit(&envelope)?;
        self.end = len;
        self.complete(envelope)
    }

    fn take_first(&mut self, len: usize, packet_size: u32) -> Result<(), ProtocolError> {
        let limit = self.first_space();
        let envelope = Envelope::decode(&self.buffer[..len.min(limit)])?;
        self.admit(&envelope)?;
        let assembler = Assembler::new(&envelope, len, packet_size)?;
        if len > limit {
            return Err(ProtocolError::PacketTooLong { len, limit });
        }
        self.end = len;
        if assembler.missing() == 0 {
            return self.complete(envelope);
        }
        self.state = State::Chunks { envelope, assembler, saved: [0; CHUNK_HEADER] };
        Ok(())
    }

    fn take_chunk(&mut self, len: usize) -> Result<(), ProtocolError> {
        let State::Chunks { envelope, assembler, saved } = &mut self.state else { return Ok(()) };
        let limit = assembler.next_packet_len();
        if len > limit {
            return Err(ProtocolError::PacketTooLong { len, limit });
        }
        let at = self.end - CHUNK_HEADER;
        assembler.accept(&self.buffer[at..at + len])?;
        self.buffer[at..self.end].copy_from_slice(saved);
        self.end = at + len;
        if assembler.missing() == 0 {
            let envelope = *envelope;
            return self.complete(envelope);
        }
        Ok(())
    }

    /// What can be said about a message by its envelope alone.
    fn admit(&self, envelope: &Envelope) -> Result<(), ProtocolError> {
        if !self.limits.allows_payload(envelope.payload_len.into()) {
            return Err(ProtocolError::PayloadTooLarge { envelope: *envelope, limit: self.limits.max_payload });
        }
        if !self.limits.allows_items(envelope.item_count) {
            return Err(ProtocolError::TooManyItems { envelope: *envelope, limit: self.limits.max_items });
        }
        if envelope.kind != self.expected {
            return Err(ProtocolError::Kind { found: envelope.kind, expected: self.expected });
        }
        Ok(())
    }

    fn complete(&mut self, envelope: Envelope) -> Result<(), ProtocolError> {
        self.state = State::Ready(envelope);
        if envelope.batch
            && envelope.item_count > 1
            && let Some(message) = self.message()
        {
            Batch::parse(message.payload, envelope.item_count)?;
        }
        Ok(())
    }
}

/// Makes room for `needed` bytes, with some reserve, but not beyond `useful`.
fn grow(buffer: &mut Vec<u8>, needed: usize, useful: usize) {
    if buffer.is_empty() {
        *buffer = vec![0; needed];
    } else if buffer.len() < needed {
        buffer.resize(needed.max((buffer.len() * 2).min(useful)), 0);
    }
}
