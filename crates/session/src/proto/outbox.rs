//! Messages on their way out: cut into packets, written as far as the carrier takes them, in the order in which they
//! were queued. A message is never interleaved with another: the field's receivers allow no more.

use super::pool::Pool;
use ginnel_wire::{ENVELOPE_LEN, Packets, REQUEST_PREFIX_LEN};
use std::collections::VecDeque;
use std::ops::Range;

/// The payload of a message to send.
#[derive(Debug)]
pub enum Body {
    /// Moved into the connection; it goes to the pool when it is sent.
    Owned(Vec<u8>),
    /// This many bytes that stay with the caller, who lends them to every [`Connection::poll_transmit`] until the
    /// message is out. Of these a connection holds one at a time, and nothing can be queued behind it.
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

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: u64,
    /// Of the whole payload: prefix and body.
    pub(super) packets: Packets,
    pub(super) body: Body,
    /// File descriptors may go with it.
    pub(super) acceptance: bool,
    /// The envelope of layout 2, whose flags say more than the packets' own.
    pub(super) head: Option<[u8; ENVELOPE_LEN]>,
    /// What stands in front of the body.
    pub(super) prefix: Option<[u8; PREFIX]>,
    /// Layout 2: the final answer of its call.
    pub(super) answers: bool,
}

const PREFIX: usize = REQUEST_PREFIX_LEN;

impl Item {
    /// A message of layout 1.
    pub(super) fn plain(id: u64, packets: Packets, body: Body) -> Self {
        Self { id, packets, body, acceptance: false, head: None, prefix: None, answers: false }
    }
}

#[derive(Debug)]
struct Outgoing {
    item: Item,
    // The packet at hand, always there: a message is gone with its last packet. Its header, with what of the prefix is
    // in it, and the range of the body.
    header: [u8; ENVELOPE_LEN + PREFIX],
    header_len: usize,
    part: Range<usize>,
    written: usize,
    started: bool,
}

impl Outgoing {
    /// Goes to the next packet; false if there is none.
    fn step(&mut self, first: bool) -> bool {
        let Some(packet) = self.item.packets.next() else { return false };
        let header = self.item.head.filter(|_| first).unwrap_or(packet.header);
        self.header[..ENVELOPE_LEN].copy_from_slice(&header);
        (self.header_len, self.part, self.written) = (ENVELOPE_LEN, packet.payload, 0);
        if let Some(prefix) = self.item.prefix {
            // The smallest packets have less room than the prefix needs.
            let (from, to) = (self.part.start.min(PREFIX), self.part.end.min(PREFIX));
            let len = to - from;
            self.header[ENVELOPE_LEN..ENVELOPE_LEN + len].copy_from_slice(&prefix[from..to]);
            self.header_len += len;
            self.part = self.part.start.max(PREFIX) - PREFIX..self.part.end.max(PREFIX) - PREFIX;
        }
        true
    }

    /// What is left of the packet at hand.
    fn transmit<'a>(&'a self, lent: &'a [u8]) -> Transmit<'a> {
        let payload = match &self.item.body {
            Body::Owned(bytes) => bytes.as_slice(),
            Body::Lent(_) => lent,
        };
        let body = &payload[self.part.clone()];
        let (head, body) = match self.written.checked_sub(self.header_len) {
            None => (&self.header[self.written..self.header_len], body),
            Some(of_body) => (&[][..], &body[of_body..]),
        };
        Transmit { head, body, with_descriptors: self.item.acceptance && !self.started }
    }
}

/// A message that has left the outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    pub(super) id: u64,
    /// The peer has seen a part of it, or all.
    pub(super) started: bool,
    /// It was the final answer of its call.
    pub(super) answers: bool,
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
        self.queue.back().is_some_and(|last| matches!(last.item.body, Body::Lent(_)))
    }

    pub(super) fn push(&mut self, item: Item) {
        let len = item.body.len();
        let header = [0; ENVELOPE_LEN + PREFIX];
        let mut outgoing = Outgoing { item, header, header_len: 0, part: 0..0, written: 0, started: false };
        // A message has at least one packet.
        if outgoing.step(true) {
            self.bytes += len;
            self.queue.push_back(outgoing);
        }
    }

    pub(super) fn transmit<'a>(&'a self, lent: &'a [u8]) -> Option<Transmit<'a>> {
        Some(self.queue.front()?.transmit(lent))
    }

    /// What can be written at one time: the packet at hand of each message, up to the first one that has more of them.
    pub(super) fn transmits<'a>(&'a self, lent: &'a [u8]) -> impl Iterator<Item = Transmit<'a>> {
        let mut whole = true;
        self.queue.iter().map_while(move |outgoing| {
            let follows = std::mem::replace(&mut whole, outgoing.item.packets.is_over());
            follows.then(|| outgoing.transmit(lent))
        })
    }

    /// Messages that wait, one that is half out included.
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    /// `len` bytes of [`Outbox::transmit`] were taken; the message, if that was all of it.
    pub(super) fn transmitted(&mut self, len: usize, pool: &mut Pool) -> Option<Left> {
        let first = self.queue.front_mut()?;
        first.started |= len > 0;
        first.written += len;
        if first.written < first.header_len + first.part.len() || first.step(false) {
            return None;
        }
        let sent = self.queue.pop_front()?.item;
        self.bytes -= sent.body.len();
        if let Body::Owned(bytes) = sent.body {
            pool.put(bytes);
        }
        Some(Left { id: sent.id, started: true, answers: sent.answers })
    }

    /// Takes the lent message back, if there is one.
    pub(super) fn take_back_lent(&mut self) -> Option<Left> {
        if !self.has_lent() {
            return None;
        }
        let lent = self.queue.pop_back()?;
        self.bytes -= lent.item.body.len();
        Some(Left { id: lent.item.id, started: lent.started, answers: lent.item.answers })
    }

    pub(super) fn relax(&mut self) {
        if self.queue.is_empty() && self.queue.capacity() > SMALL_QUEUE {
            self.queue = VecDeque::new();
        }
    }
}
