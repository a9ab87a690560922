//! Both ends of a session in memory: the wires between them hold, cut, lose and delay, and the clock is a variable.

mod calls;
mod handshake;
mod memory;
mod messages;
mod schedules;
mod silence;
mod violations;

use super::*;
use crate::{ClientConfig, Limits, ServerConfig};
use ginnel_wire::{Envelope, Hello, HelloAck, Profiles, Status};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What travels in one direction.
pub(super) struct Wire {
    pub(super) packets: bool,
    queue: VecDeque<Vec<u8>>,
    /// How many more bytes (packets: packets) it takes before its reader has read.
    pub(super) room: usize,
    /// The most bytes that one receive finds on a stream.
    pub(super) piece: usize,
    pub(super) closed: bool,
}

impl Wire {
    pub(super) fn new(packets: bool) -> Self {
        Self { packets, queue: VecDeque::new(), room: usize::MAX, piece: usize::MAX, closed: false }
    }

    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.queue.push_back(bytes.to_vec());
    }

    /// All that is on the wire.
    pub(super) fn drain(&mut self) -> Vec<Vec<u8>> {
        self.queue.drain(..).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Option<usize> {
        if self.room == 0 {
            return None;
        }
        let mut bytes = [head, body].concat();
        if !self.packets {
            bytes.truncate(self.room);
        }
        let len = bytes.len();
        if self.room != usize::MAX {
            self.room -= if self.packets { 1 } else { len };
        }
        self.queue.push_back(bytes);
        Some(len)
    }

    fn try_recv(&mut self, space: &mut [u8]) -> Option<usize> {
        let mut bytes = self.queue.pop_front()?;
        let len = if self.packets { bytes.len() } else { bytes.len().min(space.len()).min(self.piece) };
        let copied = len.min(space.len());
        space[..copied].copy_from_slice(&bytes[..copied]);
        if len < bytes.len() {
            self.queue.push_front(bytes.split_off(len));
        }
        Some(len)
    }
}

pub(super) struct Side {
    pub(super) connection: Connection,
    pub(super) pool: Pool,
    pub(super) told: Vec<Event>,
}

impl Side {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection, pool: Pool::new(1 << 30), told: Vec::new() }
    }

    pub(super) fn write(&mut self, now: Instant, wire: &mut Wire) {
        while let Some(Transmit { head, body, .. }) = self.connection.poll_transmit(&[]) {
            let Some(len) = wire.try_send(head, body) else { return };
            self.connection.transmitted(now, len, &mut self.pool);
        }
    }

    /// One receive; false if there was nothing, or nothing was wanted.
    pub(super) fn read_once(&mut self, now: Instant, wire: &mut Wire) -> bool {
        if !self.connection.wants_input() {
            return false;
        }
        let due = wire.queue.front().map_or(0, Vec::len);
        let space = self.connection.space(due, &mut self.pool);
        match wire.try_recv(space) {
            Some(len) => self.connection.handle(now, Input::Received(len)),
            None if wire.closed => self.connection.handle(now, Input::HungUp),
            None => return false,
        }
        true
    }

    pub(super) fn take_events(&mut self) {
        while let Some(event) = self.connection.poll_event(&mut self.pool) {
            self.told.push(event);
        }
    }

    pub(super) fn read(&mut self, now: Instant, wire: &mut Wire) {
        self.take_events();
        while self.read_once(now, wire) {
            self.take_events();
        }
        self.take_events();
    }

    pub(super) fn message(&mut self) -> Received {
        match self.told.remove(0) {
            Event::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn end(&mut self) -> End {
        match self.told.remove(0) {
            Event::Ended(end) => {
                assert!(self.told.is_empty(), "the end is the last that is told: {:?}", self.told);
                end
            }
            other => panic!("{other:?}"),
        }
    }
}

pub(super) struct Pair {
    pub(super) client: Side,
    pub(super) server: Side,
    pub(super) up: Wire,
    pub(super) down: Wire,
    pub(super) now: Instant,
}

pub(super) const LIMIT: u32 = 1000;

pub(super) fn config() -> (ClientConfig, ServerConfig) {
    let limits = Limits { max_payload: LIMIT, max_items: 4 };
    let client = ClientConfig { request: limits, response: limits, token: 7, ..Default::default() };
    let server =
        ServerConfig { max_request_payload: LIMIT, max_response_payload: LIMIT, token: 7, ..Default::default() };
    (client, server)
}

impl Pair {
    /// Before the handshake; `packet` bytes fit a packet.
    pub(super) fn fresh(packets: bool, packet: u32, timing: Timing) -> Self {
        let now = Instant::now();
        let hello = propose(&config().0, packet);
        let client = Side::new(Connection::client(hello, packets, timing, now));
        let server = Side::new(Connection::server(packets, timing, now));
        Self { client, server, up: Wire::new(packets), down: Wire::new(packets), now }
    }

    /// After the handshake.
    pub(super) fn open_with(framing: Framing, timing: Timing) -> Self {
        let (packets, packet) = match framing {
            Framing::Packets(size) => (true, size),
            Framing::Slot(_) => (true, 4096),
            Framing::Stream => (false, 4096),
        };
        let mut pair = Self::fresh(packets, packet, timing);
        pair.greet(&Offer::new(&config().1, packet, 1));
        if let Framing::Slot(_) = framing {
            pair.client.connection.set_framing(framing);
            pair.server.connection.set_framing(framing);
        }
        pair
    }

    pub(super) fn open(framing: Framing) -> Self {
        Self::open_with(framing, Timing::default())
    }

    /// The handshake, which succeeds.
    pub(super) fn greet(&mut self, offer: &Offer) {
        self.client.write(self.now, &mut self.up);
        self.server.read(self.now, &mut self.up);
        assert!(matches!(self.server.told.remove(0), Event::Greeted));
        let Verdict::Accept(ack) = self.server.connection.judge(offer) else { panic!("refused") };
        self.server.connection.accept(&ack, self.now);
        self.server.write(self.now, &mut self.down);
        self.server.take_events();
        self.client.read(self.now, &mut self.down);
        for side in [&mut self.server, &mut self.client] {
            match side.told.remove(0) {
                Event::Established(established) => assert_eq!(established, ack),
                other => panic!("{other:?}"),
            }
        }
    }

    pub(super) fn ask(&mut self, id: u64, payload: &[u8]) {
        let body = Body::Owned(payload.to_vec());
        self.client.connection.send(self.now, &Envelope::request(1, id, 0), body).unwrap();
        self.client.write(self.now, &mut self.up);
    }

    pub(super) fn answer(&mut self, id: u64, payload: &[u8]) {
        let envelope = Envelope::response_to(&Envelope::request(1, id, 0), Status::OK, 0);
        self.server.connection.send(self.now, &envelope, Body::Owned(payload.to_vec())).unwrap();
        self.server.write(self.now, &mut self.down);
    }

    pub(super) fn read_both(&mut self) {
        self.server.read(self.now, &mut self.up);
        self.client.read(self.now, &mut self.down);
    }

    pub(super) fn pass(&mut self, time: Duration) {
        self.now += time;
        for side in [&mut self.client, &mut self.server] {
            side.connection.handle(self.now, Input::Tick);
            side.take_events();
        }
    }
}

pub(super) const FRAMINGS: [Framing; 4] =
    [Framing::Packets(128), Framing::Packets(4096), Framing::Stream, Framing::Slot(1088)];

/// A payload of which no byte is where another's should be.
pub(super) fn pattern(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ seed) as u8).collect()
}

/// The acceptance that goes with [`config`].
pub(super) fn ack() -> HelloAck {
    HelloAck {
        supported: Profiles::BASELINE,
        intersection: Profiles::BASELINE,
        selected: Profiles::BASELINE,
        max_request_payload: LIMIT,
        max_request_items: 4,
        max_response_payload: LIMIT,
        max_response_items: 4,
        packet_size: 4096,
        session_id: 1,
    }
}

pub(super) fn hello() -> Hello {
    propose(&config().0, 4096)
}
