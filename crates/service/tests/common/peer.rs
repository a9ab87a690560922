//! A client of layout 2 that does what a test says, frame by frame.
#![allow(dead_code, unreachable_pub)]

use super::PATIENCE;
use ginnel_service::{Router, Server, ServerOptions};
use ginnel_session::carrier::{Carrier, Source};
use ginnel_session::proto::{Body, Call, Connection, End, Event, Input, Pool, Received, Timing};
use ginnel_session::{ClientConfig, ClientLayout2, Connector, Endpoint, Limits, Parts, SessionError, Wait};
use ginnel_wire::{Frame, FrameKind, Profiles, Reply, Status};
use rustix::event::{PollFd, PollFlags, poll};
use std::path::Path;
use std::time::{Duration, Instant};

/// How sessions of layout 2 travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Ring,
    RingOverStream,
    Seqpacket,
    Stream,
    Tcp,
}

pub const WAYS: [Way; 5] = [Way::Ring, Way::RingOverStream, Way::Seqpacket, Way::Stream, Way::Tcp];

impl Way {
    pub fn endpoint(self, dir: &Path) -> Endpoint {
        match self {
            Self::Ring | Self::Seqpacket => Endpoint::seqpacket(dir, "svc").unwrap(),
            Self::Stream | Self::RingOverStream => Endpoint::stream(dir, "svc").unwrap(),
            Self::Tcp => Endpoint::tcp(([127, 0, 0, 1], 0).into()).unwrap(),
        }
    }

    pub fn options(self) -> ServerOptions {
        let mut options = ServerOptions::default();
        options.session.token = 7;
        options.session.max_request_payload = 1 << 20;
        options.session.max_response_payload = 1 << 20;
        options
    }

    pub fn serve(self, dir: &Path, router: Router, change: impl FnOnce(&mut ServerOptions)) -> Server {
        let mut options = self.options();
        change(&mut options);
        Server::serve(&self.endpoint(dir), options, router).unwrap()
    }

    pub fn client(self) -> ClientConfig {
        let limits = Limits { max_payload: 1 << 20, max_items: 100 };
        let rings = matches!(self, Self::Ring | Self::RingOverStream);
        ClientConfig {
            supported: if rings { Profiles::BASELINE | Profiles::RING } else { Profiles::BASELINE },
            request: limits,
            response: limits,
            token: 7,
            layout_2: Some(ClientLayout2::default()),
            ..ClientConfig::default()
        }
    }

    pub fn connect(self, server: &Server) -> Peer {
        self.connect_with(server.endpoint(), |_| ())
    }

    pub fn connect_with(self, endpoint: &Endpoint, change: impl FnOnce(&mut ClientConfig)) -> Peer {
        let mut config = self.client();
        change(&mut config);
        let connector = Connector::new(endpoint.clone(), config);
        let Parts { connection, carrier, agreement, .. } =
            connector.connect(&Wait::at_most(PATIENCE), Timing::default()).unwrap();
        assert!(connection.layout_2().is_some(), "{self:?}");
        let rings = matches!(self, Self::Ring | Self::RingOverStream);
        assert_eq!(agreement.profile == Profiles::RING, rings, "{self:?}");
        Peer { connection, carrier, pool: Pool::new(1 << 20) }
    }
}

/// What a call was answered with.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    Response(Vec<u8>),
    Item(Vec<u8>),
    End,
    Error(Status),
}

/// One end of a session, and a thread that drives it when it asks.
pub struct Peer {
    pub connection: Connection,
    pub carrier: Box<dyn Carrier>,
    pool: Pool,
}

impl Peer {
    /// Sends a unary call that waits for ever; its id.
    pub fn ask(&mut self, method: u16, body: &[u8]) -> u64 {
        self.call(&Call { method, ..Call::default() }, body)
    }

    pub fn ask_within(&mut self, method: u16, body: &[u8], timeout: Duration) -> u64 {
        self.call(&Call { method, timeout: Some(timeout), ..Call::default() }, body)
    }

    pub fn stream(&mut self, method: u16, body: &[u8]) -> u64 {
        self.call(&Call { method, reply: Reply::Stream, ..Call::default() }, body)
    }

    pub fn tell(&mut self, method: u16, body: &[u8]) -> u64 {
        self.call(&Call { method, reply: Reply::None, ..Call::default() }, body)
    }

    pub fn call(&mut self, call: &Call, body: &[u8]) -> u64 {
        let id = self.connection.call(Instant::now(), call, Body::Owned(body.to_vec())).unwrap();
        self.flush();
        id
    }

    pub fn cancel(&mut self, id: u64) {
        assert!(self.connection.cancel(Instant::now(), id));
        self.flush();
    }

    pub fn grant(&mut self, id: u64, items: u32) {
        assert!(self.connection.grant(Instant::now(), id, items));
        self.flush();
    }

    /// Writes what is queued.
    pub fn flush(&mut self) {
        let begin = Instant::now();
        while let Some(transmit) = self.connection.poll_transmit(&[]) {
            match self.carrier.try_send(transmit.head, transmit.body) {
                Ok(Some(len)) => self.connection.transmitted(Instant::now(), len, &mut self.pool),
                Ok(None) => self.rest(),
                // What comes of it is told by the receiving half.
                Err(_) => return,
            }
            assert!(begin.elapsed() < PATIENCE, "the server takes nothing");
        }
    }

    /// Writes what the carrier takes now; whether it took anything.
    pub fn flush_some(&mut self) -> bool {
        let mut took = false;
        while let Some(transmit) = self.connection.poll_transmit(&[])
            && let Some(len) = self.carrier.try_send(transmit.head, transmit.body).unwrap()
        {
            self.connection.transmitted(Instant::now(), len, &mut self.pool);
            took = true;
        }
        took
    }

    /// Writes about so many bytes of what is queued, or a packet of it.
    pub fn send_part(&mut self, bytes: usize) {
        let transmit = self.connection.poll_transmit(&[]).unwrap();
        let cut = match self.carrier.source() {
            Source::Socket { packets: false, .. } => bytes.min(transmit.body.len()),
            _ => transmit.body.len(),
        };
        let sent = self.carrier.try_send(transmit.head, &transmit.body[..cut]).unwrap().expect("there is room");
        self.connection.transmitted(Instant::now(), sent, &mut self.pool);
    }

    /// The next event, if there is one now.
    pub fn try_event(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.connection.poll_event(&mut self.pool) {
                return Some(event);
            }
            let due = self.carrier.due();
            let space = self.connection.space(due, &mut self.pool);
            if space.is_empty() {
                return None;
            }
            match self.carrier.try_recv(space) {
                Ok(Some(len)) => self.connection.handle(Instant::now(), Input::Received(len)),
                Ok(None) => return None,
                Err(SessionError::Closed) => self.connection.handle(Instant::now(), Input::HungUp),
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub fn event(&mut self) -> Event {
        let begin = Instant::now();
        loop {
            if let Some(event) = self.try_event() {
                return event;
            }
            assert!(begin.elapsed() < PATIENCE, "nothing comes");
            if self.carrier.arm() {
                self.rest();
            }
        }
    }

    /// Waits for the carrier.
    fn rest(&mut self) {
        let timeout = Some(rustix::time::Timespec { tv_sec: 0, tv_nsec: 5_000_000 });
        let out = if self.connection.poll_transmit(&[]).is_some() { PollFlags::OUT } else { PollFlags::empty() };
        match self.carrier.source() {
            Source::Socket { fd, .. } => _ = poll(&mut [PollFd::new(&fd, PollFlags::IN | out)], timeout.as_ref()),
            Source::Ring { bell, socket } => {
                let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
                let _ = poll(&mut fds, timeout.as_ref());
            }
            Source::Doorbell(_) => unreachable!("layout 2 has no slots"),
        }
    }

    pub fn message(&mut self) -> Received {
        match self.event() {
            Event::Message(message) => message,
            other => panic!("{other:?}"),
        }
    }

    /// The next answer: of which call, and what.
    pub fn told(&mut self) -> (u64, Told) {
        let message = self.message();
        let head = *message.head().unwrap();
        let payload = message.payload().to_vec();
        let told = match head.kind {
            FrameKind::Response => Told::Response(payload),
            FrameKind::Item => Told::Item(payload),
            FrameKind::End => Told::End,
            FrameKind::Error(status) => {
                assert!(matches!(Frame::decode(&head, &payload), Ok(Frame::Error { .. })));
                Told::Error(status)
            }
            other => panic!("{other:?}"),
        };
        (head.id, told)
    }

    /// Asserts that the next answer is this.
    pub fn expect(&mut self, id: u64, told: Told) {
        assert_eq!(self.told(), (id, told));
    }

    /// Waits for the end of the session, whatever comes before.
    pub fn ended(&mut self) -> End {
        loop {
            if let Event::Ended(end) = self.event() {
                return end;
            }
        }
    }
}
