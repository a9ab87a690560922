//! Bytes to messages. The driver asks where to put bytes, puts them there and says how many; a message comes out when
//! it is complete, as a buffer of its own, so that it may outlive what follows it and move to another thread.
//!
//! A message that fills a good part of the buffer in which it arrived leaves with that buffer. A small one is copied
//! into a small buffer: what a request in flight holds is in proportion to what was sent.
//!
//! Memory follows what has really arrived, never what a peer announces: a buffer at most doubles at a time, unless the
//! pool has a larger one lying about.

use super::admit::{Admit, Admitted};
use super::pool::Pool;
use crate::error::ProtocolError;
use ginnel_base::Deadline;
use ginnel_wire::{Assembler, Batch, ENVELOPE_LEN, Envelope, Head, Message};
use std::ops::Range;
use std::time::{Duration, Instant};

/// How a carrier delimits messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Packets with boundaries; a message that exceeds one goes in chunks. The number is the agreed packet size.
    Packets(u32),
    /// A stream of bytes: each envelope says where its message ends. No chunks.
    Stream,
    /// A shared-memory slot: one whole message at a time, whose length the slot tells. The number is the longest to
    /// take.
    Slot(u32),
}

/// A stream is read in steps of at least this many bytes, so that many small messages cost one system call.
const READ_AHEAD: usize = 64 << 10;
const CHUNK_HEADER: usize = 32;
/// A message from this size on leaves with the buffer in which it arrived, if it fills at least an eighth of it.
const LARGE: usize = 16 << 10;
/// A buffer that is not worth a copy, however little of it a message fills.
const SMALL_BUFFER: usize = 1 << 10;

/// A message that has arrived, in memory of its own.
#[derive(Debug)]
pub struct Received {
    /// Its envelope; `payload_len` is the length of [`Received::payload`].
    pub envelope: Envelope,
    head: Option<Head>,
    deadline: Deadline,
    bytes: Vec<u8>,
    payload: Range<usize>,
}

impl Received {
    /// What it is in layout 2; `None` in layout 1.
    #[must_use]
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// When the client of a request gives up, by this side's clock; never in layout 1, and where it waits for ever.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// Its payload; of a request of layout 2, its body. The peer cannot change it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }

    /// The same, with the envelope.
    #[must_use]
    pub fn message(&self) -> Message<'_> {
        Message { envelope: self.envelope, payload: self.payload() }
    }

    /// Bytes of memory that it holds: what to count against a budget.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }

    /// Its memory, for [`Pool::put`] when it has been read.
    #[must_use]
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}

#[derive(Debug)]
pub(super) struct Inbound {
    framing: Framing,
    admit: Admit,
    // What was said about the message that arrives, or is complete.
    begun: Admitted,
    // When its beginning arrived, or what it arrived with.
    now: Option<Instant>,
    begun_at: Option<Instant>,
    // Length of the space that was handed out last.
    lent: usize,
    // Empty while nothing arrives.
    buffer: Vec<u8>,
    // Stream: the bytes `start..end` have arrived and are not consumed. Others: `start` is 0, `end` the bytes of the
    // message so far.
    start: usize,
    end: usize,
    // What follows a message that was taken has not been looked at yet (streams).
    unread: bool,
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
    /// The message is complete and not taken.
    Ready(Envelope),
}

impl Inbound {
    pub(super) fn new(framing: Framing, admit: Admit) -> Self {
        Self {
            framing,
            admit,
            begun: Admitted { head: None, prefix: 0 },
            now: None,
            begun_at: None,
            lent: 0,
            buffer: Vec::new(),
            start: 0,
            end: 0,
            unread: false,
            state: State::Idle,
        }
    }

    pub(super) fn set_framing(&mut self, framing: Framing) {
        self.framing = framing;
    }

    /// Whether a part of a message has arrived, and a part has not.
    pub(super) fn is_mid_message(&self) -> bool {
        match self.state {
            State::Idle => self.start < self.end,
            State::Partial(_) | State::Chunks { .. } => true,
            State::Ready(_) => false,
        }
    }

    /// Whether more bytes can be taken: [`Inbound::next`] has said that no message is complete.
    pub(super) fn has_space(&self) -> bool {
        !self.unread && !matches!(self.state, State::Ready(_))
    }

    /// Where the next bytes go. A packet longer than this is a violation, so carriers must tell its real length. `due`
    /// is the length of what the carrier has, if it can tell, or 0. Empty unless [`Inbound::has_space`], and for a slot that
    /// has none. The error says for how many bytes the system has no memory.
    pub(super) fn space(&mut self, due: usize, pool: &mut Pool) -> Result<&mut [u8], usize> {
        if !self.has_space() {
            return Ok(&mut []);
        }
        match (&mut self.state, self.framing) {
            (State::Chunks { assembler, saved, .. }, _) => {
                let at = self.end - CHUNK_HEADER;
                let len = assembler.next_packet_len();
                let useful = self.end + assembler.missing() as usize;
                grow(&mut self.buffer, 0..self.end, at + len, useful, pool)?;
                saved.copy_from_slice(&self.buffer[at..self.end]);
                Ok(&mut self.buffer[at..at + len])
            }
            (_, Framing::Packets(_)) => {
                let longest = self.first_space();
                // A carrier that knows what it has gets as much: the message then leaves with its buffer.
                let len = if due == 0 { longest } else { longest.min(due) };
                self.lent = len;
                self.first_buffer(len, pool)
            }
            (_, Framing::Slot(longest)) => self.first_buffer(due.min(longest as usize), pool),
            (state, Framing::Stream) => {
                let needed = match state {
                    State::Partial(envelope) => ENVELOPE_LEN + envelope.payload_len as usize,
                    _ => ENVELOPE_LEN,
                };
                self.stream_space(needed, due, pool)
            }
        }
    }

    /// Room for `len` bytes that nobody will read.
    pub(super) fn scratch(&mut self, len: usize, pool: &mut Pool) -> &mut [u8] {
        self.first_buffer(len, pool).unwrap_or_default()
    }

    fn first_buffer(&mut self, len: usize, pool: &mut Pool) -> Result<&mut [u8], usize> {
        if self.buffer.len() < len {
            let larger = pool.try_take(len).ok_or(len)?;
            pool.put(std::mem::replace(&mut self.buffer, larger));
        }
        Ok(&mut self.buffer[..len])
    }

    fn stream_space(&mut self, needed: usize, due: usize, pool: &mut Pool) -> Result<&mut [u8], usize> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        let between = self.end == 0;
        if self.start > 0 && self.start + needed > self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        if between && due > 0 {
            // As much as one message: it then leaves with its buffer.
            return self.first_buffer(due, pool);
        }
        // A buffer that holds all of it is worth moving to as soon as it costs nothing.
        let full = self.end == self.buffer.len();
        if full || self.start + needed > self.buffer.len() && self.start == 0 && pool.has(needed) {
            let at_least = (self.end + 1).max(READ_AHEAD);
            grow(&mut self.buffer, 0..self.end, at_least, needed, pool)?;
        }
        Ok(&mut self.buffer[self.end..])
    }

    /// `len` bytes were put into [`Inbound::space`], or a packet of `len` bytes that did not fit.
    pub(super) fn received(&mut self, len: usize, now: Instant) -> Result<(), ProtocolError> {
        self.now = Some(now);
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

    /// The next complete message, if there is one.
    pub(super) fn next(&mut self, pool: &mut Pool) -> Result<Option<Received>, ProtocolError> {
        if std::mem::take(&mut self.unread) {
            self.parse_stream()?;
        }
        let State::Ready(envelope) = self.state else { return Ok(None) };
        self.state = State::Idle;
        Ok(Some(self.take(envelope, pool)))
    }

    fn take(&mut self, envelope: Envelope, pool: &mut Pool) -> Received {
        let total = ENVELOPE_LEN + envelope.payload_len as usize;
        let payload = self.start + ENVELOPE_LEN + self.begun.prefix..self.start + total;
        let (head, deadline) = (self.begun.head, self.deadline());
        let envelope = Envelope { payload_len: payload.len() as u32, ..envelope };
        let rest = self.start + total..self.end.max(self.start + total);
        let room = self.buffer.len();
        let fills = room <= SMALL_BUFFER || if total < LARGE { room / 4 <= total } else { room / 8 <= total };
        if fills && rest.len() <= total {
            let bytes = std::mem::take(&mut self.buffer);
            (self.start, self.end, self.unread) = (0, rest.len(), !rest.is_empty());
            if !rest.is_empty() {
                self.buffer = pool.take(rest.len().max(READ_AHEAD));
                self.buffer[..rest.len()].copy_from_slice(&bytes[rest]);
            }
            return Received { envelope, head, deadline, bytes, payload };
        }
        let len = payload.len();
        let bytes = if len == 0 {
            Vec::new()
        } else {
            let mut bytes = pool.take(len);
            bytes[..len].copy_from_slice(&self.buffer[payload]);
            bytes
        };
        (self.start, self.unread) = (rest.start, !rest.is_empty());
        if rest.is_empty() {
            self.give_back(pool);
        }
        Received { envelope, head, deadline, bytes, payload: 0..len }
    }

    /// When the client of the complete request gives up. It is relative on the wire, and counts from the request's
    /// beginning.
    fn deadline(&self) -> Deadline {
        let at = self.start + ENVELOPE_LEN;
        let Some(timeout) = self.buffer.get(at..at + self.begun.prefix).and_then(|bytes| bytes.try_into().ok()) else {
            return Deadline::NEVER;
        };
        match (u64::from_ne_bytes(timeout), self.begun_at) {
            (0, _) | (_, None) => Deadline::NEVER,
            (nanos, Some(begun)) => Deadline::from(begun, Duration::from_nanos(nanos)),
        }
    }

    /// Gives the buffer back if there is nothing in it: it was lent to a carrier that had nothing.
    pub(super) fn relax(&mut self, pool: &mut Pool) {
        if self.has_space() && !self.is_mid_message() {
            self.give_back(pool);
        }
    }

    fn give_back(&mut self, pool: &mut Pool) {
        (self.start, self.end) = (0, 0);
        pool.put(std::mem::take(&mut self.buffer));
    }

    /// Drops what has arrived: nothing more will be made of it.
    pub(super) fn clear(&mut self, pool: &mut Pool) {
        (self.state, self.unread) = (State::Idle, false);
        self.give_back(pool);
    }

    /// Room for the first packet of a message: packets are negotiated large, messages may be small.
    fn first_space(&self) -> usize {
        let message = self.admit.longest();
        match self.framing {
            Framing::Packets(packet_size) => message.min(packet_size as usize),
            Framing::Slot(_) | Framing::Stream => message,
        }
    }

    fn parse_stream(&mut self) -> Result<(), ProtocolError> {
        let arrived = self.end - self.start;
        if let State::Idle = self.state {
            if arrived < ENVELOPE_LEN {
                return Ok(());
            }
            let envelope = Envelope::decode(&self.buffer[self.start..self.end])?;
            self.begin(&envelope)?;
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
        self.begin(&envelope)?;
        self.end = len;
        self.complete(envelope)
    }

    fn take_first(&mut self, len: usize, packet_size: u32) -> Result<(), ProtocolError> {
        let limit = self.lent;
        let envelope = Envelope::decode(&self.buffer[..len.min(limit)])?;
        self.begin(&envelope)?;
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

    /// The beginning of a message is there.
    fn begin(&mut self, envelope: &Envelope) -> Result<(), ProtocolError> {
        self.begun = self.admit.check(envelope, &self.buffer[self.start..])?;
        self.begun_at = self.now;
        Ok(())
    }

    fn complete(&mut self, envelope: Envelope) -> Result<(), ProtocolError> {
        self.state = State::Ready(envelope);
        // Layout 1 does not look into a batch of one item.
        if envelope.batch && (envelope.item_count > 1 || self.begun.head.is_some()) {
            let payload = self.start + ENVELOPE_LEN;
            let (from, to) = (payload + self.begun.prefix, payload + envelope.payload_len as usize);
            Batch::parse(&self.buffer[from..to], envelope.item_count)?;
        }
        Ok(())
    }
}

/// Makes room for `needed` bytes, with some reserve but not beyond `useful`, or for all that is useful if that costs
/// nothing. The bytes of `kept` stay where they are. The error says for how many bytes the system has
/// no memory; nothing has changed then.
fn grow(buffer: &mut Vec<u8>, kept: Range<usize>, needed: usize, useful: usize, pool: &mut Pool) -> Result<(), usize> {
    if buffer.len() >= needed {
        return Ok(());
    }
    let useful = useful.max(needed);
    let len = if pool.has(useful) { useful } else { needed.max((buffer.len() * 2).min(useful)) };
    // With less of a reserve it may do.
    let mut larger = pool.try_take(len).or_else(|| pool.try_take(needed)).ok_or(needed)?;
    larger[kept.clone()].copy_from_slice(&buffer[kept]);
    pool.put(std::mem::replace(buffer, larger));
    Ok(())
}
