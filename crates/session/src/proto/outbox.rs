//! Messages on their way out: cut into packets, written as far as the carrier takes them, in the order in which they were
//! queued. A message is never interleaved with another: the field's receivers allow no more.

use super::pool::Pool;
use ginnel_wire::{Packet, Packets};
use std::collections::VecDeque;

/// The payload of a message to send.
#[derive(Debug)]
pub enum Body {
    /// Moved into the connection; it goes to the pool when it is sent.
    Owned(Vec<u8>),
    /// This many bytes that stay with the caller, who lends them to every [`Connection::poll_transmit`] until the message is
    /// out. Of these a connection holds one at a time, and nothing can be queued behind it.
    ///
    /// [`Connection::poll_transmit`]: super::Connection::poll_transmit
    Lent(usize),
}

impl Body {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Owned(bytes) => bytes.len(),
            Self::Lent(len) => *len,
        }
    }
}

/// What to write next: one packet, or what is left of one that a stream took in part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// First these bytes,
    pub head: &'a [u8],
    /// then these, in the same packet.
    pub body: &'a [u8],
    /// The beginning of the acceptance: file descriptors that go with it travel with these bytes.
    pub with_descriptors: bool,
}

#[derive(Debug)]
struct Outgoing {
    id: u64,
    packets: Packets,
    // Always there: a message is gone with its last packet.
    current: Packet,
    written: usize,
    started: bool,
    acceptance: bool,
    body: Body,
}

/// A message that has left the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) id: u64,
    /// The peer has seen a part of it, or all.
    pub(super) started: bool,
}

#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Outgoing>,
    // Payload bytes of the queue.
    bytes: usize,
}

/// More places than this are given back when the queue is empty.
const SMALL_QUEUE: usize = 8;

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Payload bytes that wait, those of a message that is half out included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the last message is lent, so that nothing can follow it.
    pub(super) fn has_lent(&self) -> bool {
        self.queue.back().is_some_and(|last| matches!(last.body, Body::Lent(_)))
    }

    pub(super) fn push(&mut self, id: u64, mut packets: Packets, body: Body, acceptance: bool) {
        // A message has at least one packet.
        let Some(current) = packets.next() else { return };
        self.bytes += body.len();
        self.queue.push_back(Outgoing { id, packets, current, written: 0, started: false, acceptance, body });
    }

    pub(super) fn transmit<'a>(&'a self, lent: &'a [u8]) -> Option<Transmit<'a>> {
        let first = self.queue.front()?;
        let payload = match &first.body {
            Body::Owned(bytes) => bytes.as_slice(),
            Body::Lent(_) => lent,
        };
        let packet = &first.current;
        let body = &payload[packet.payload.clone()];
        let (head, body) = match first.written.checked_sub(packet.header.len()) {
            None => (&packet.header[first.written..], body),
            Some(of_body) => (&[][..], &body[of_body..]),
        };
        Some(Transmit { head, body, with_descriptors: first.acceptance && !first.started })
    }

    /// `len` bytes of [`Outbox::transmit`] were taken; the message, if that was all of it.
    pub(super) fn transmitted(&mut self, len: usize, pool: &mut Pool) -> Option<Left> {
        let first = self.queue.front_mut()?;
        first.started |= len > 0;
        first.written += len;
        if first.written < first.current.header.len() + first.current.payload.len() {
            return None;
        }
        first.written = 0;
        if let Some(next) = first.packets.next() {
            first.current = next;
            return None;
        }
        let sent = self.queue.pop_front()?;
        self.bytes -= sent.body.len();
        if let Body::Owned(bytes) = sent.body {
            pool.put(bytes);
        }
        Some(Left { id: sent.id, started: true })
    }

    /// Takes the lent message back, if there is one.
    pub(super) fn take_back_lent(&mut self) -> Option<Left> {
        if !self.has_lent() {
            return None;
        }
        let lent = self.queue.pop_back()?;
        self.bytes -= lent.body.len();
        Some(Left { id: lent.id, started: lent.started })
    }

    pub(super) fn relax(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > SMALL_QUEUE {
            self.queue = VecDeque::new();
        }
    }
}
