//! Both ends of a session whose memory the fuzzer shares: a real handshake, real carriers, and the driver's turn that
//! `Connection` documents.

use ginnel_session::carrier::{self, Carrier};
use ginnel_session::proto::{Connection, Event, Input, Offer2, Pool, Received, Timing, Verdict2, judge_hello_2};
use ginnel_session::ring::{Ring, RingOffer};
use ginnel_session::{ClientConfig, Connector, Endpoint, Limits, Listener, Parts, ServerConfig, SessionError, Wait};
use ginnel_wire::{Features, Hello2, Profiles};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

/// The largest payload of either direction.
pub const LIMIT: u32 = 2048;
/// Requests in flight, in layout 2.
pub const WINDOW: u32 = 4;
/// Bytes of either ring.
pub const RING: u32 = 4096;
/// The number of a session in rings.
pub const SESSION: u64 = 1;
/// A turn that does not end by then never would: nobody puts so much into so little memory between two looks.
const TURNS: usize = 10_000;

/// Where sessions in slots (layout 1) are made: a listener, and a thread that connects.
pub struct Place {
    listener: Listener,
    ask: SyncSender<()>,
    answers: Mutex<Receiver<Parts>>,
    dir: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let endpoint = Endpoint::seqpacket(dir.path(), "fuzz").unwrap();
        let profile = Profiles::SHM_HYBRID;
        let supported = Profiles::BASELINE | profile;
        let limits = Limits { max_payload: LIMIT, max_items: 8 };
        let server = ServerConfig {
            supported,
            preferred: profile,
            max_request_payload: LIMIT,
            max_response_payload: LIMIT,
            ..ServerConfig::default()
        };
        let client = ClientConfig {
            supported,
            preferred: profile,
            request: limits,
            response: limits,
            ..ClientConfig::default()
        };
        let listener = Listener::bind(&endpoint, server).unwrap();
        let (ask, asked) = sync_channel(1);
        let (answer, answers) = sync_channel(1);
        std::thread::spawn(move || {
            let connector = Connector::new(endpoint, client);
            while asked.recv().is_ok() {
                answer.send(connector.connect(&patience(), Timing::default()).unwrap()).unwrap();
            }
        });
        Self { listener, ask, answers: Mutex::new(answers), dir }
    }

    /// A session that stands: its client and its server, and its number.
    pub fn session(&self) -> ([End; 2], u64) {
        self.ask.send(()).unwrap();
        let mut incoming = self.listener.accept(&patience()).unwrap();
        while !incoming.try_receive_hello().unwrap() {
            std::thread::yield_now();
        }
        let server = incoming.into_parts(Timing::default(), Instant::now()).unwrap();
        let id = server.agreement.session_id;
        let client = self.answers.lock().unwrap().recv().unwrap();
        ([client, server].map(|parts| End::new(parts.connection, parts.carrier)), id)
    }

    /// The region of the session in slots with this number.
    pub fn region(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("fuzz-{id:016x}.ipcshm"))
    }
}

/// A session in rings (layout 2) that stands: its client and its server, and its memory once more.
pub fn in_rings() -> ([End; 2], OwnedFd) {
    let hello = Hello2 {
        supported: Profiles::BASELINE | Profiles::RING,
        preferred: Profiles::RING,
        max_request_payload: LIMIT,
        max_request_items: 8,
        max_response_payload: LIMIT,
        max_response_items: 8,
        auth_token: 0,
        packet_size: 4096,
        features: Features::ALL,
        required: Features::NONE,
        interface_id: 0,
        schema_hash: 0,
        request_window: WINDOW,
        stream_window: 2,
        request_ring: RING,
        response_ring: RING,
    };
    let offer = Offer2 {
        supported: hello.supported,
        preferred: Profiles::RING,
        max_request_payload: LIMIT,
        max_response_payload: LIMIT,
        max_response_items: 8,
        token: 0,
        packet_size: 4096,
        features: Features::ALL,
        interface_id: 0,
        schema_hash: 0,
        request_window: WINDOW,
        stream_window: 2,
        ring: RING,
        min_ring: RING,
        max_ring: RING,
        session_id: SESSION,
        refuse: None,
    };
    let Verdict2::Accept(ack) = judge_hello_2(&hello.encode(), &offer) else { panic!("refused") };
    assert_eq!(ack.selected, Profiles::RING);
    let offer = RingOffer::create(ack.request_ring, ack.response_ring, ack.session_id).unwrap();
    let fds = offer.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
    let memory = fds[0].try_clone().unwrap();
    let (near, far) = UnixDatagram::pair().unwrap();
    let server_ring = offer.accept(near.into());
    let client_ring = Ring::attach(far.into(), fds.into(), &ack, RING).unwrap();

    let now = Instant::now();
    let client = Connection::client_2(hello, RING, true, Timing::default(), now);
    let server = Connection::server(true, Timing::default(), now);
    let mut ends = [(client, client_ring), (server, server_ring)]
        .map(|(connection, ring)| End::new(connection, carrier::of_ring(ring)));
    let hear = |end: &mut End, packet: &[u8]| {
        end.connection.space(0, &mut end.pool)[..packet.len()].copy_from_slice(packet);
        end.connection.handle(now, Input::Received(packet.len()));
    };
    let said = |end: &mut End| {
        while let Some(transmit) = end.connection.poll_transmit(&[]) {
            let len = transmit.head.len() + transmit.body.len();
            end.connection.transmitted(now, len, &mut end.pool);
        }
        while end.connection.poll_event(&mut end.pool).is_some() {}
    };
    hear(&mut ends[1], &hello.packet());
    ends[1].connection.accept_2(&ack, now);
    said(&mut ends[1]);
    said(&mut ends[0]);
    hear(&mut ends[0], &ack.packet());
    said(&mut ends[0]);
    assert!(ends.iter().all(|end| end.connection.layout_2().is_some()));
    (ends, memory)
}

fn patience() -> Wait<'static> {
    Wait::at_most(Duration::from_secs(10))
}

/// One end of a session, and the requests that it has to answer.
pub struct End {
    pub connection: Connection,
    pub carrier: Box<dyn Carrier>,
    pub owed: Vec<Received>,
    pool: Pool,
}

/// What a turn has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Goes,
    Over,
}

impl End {
    fn new(connection: Connection, carrier: Box<dyn Carrier>) -> Self {
        Self { connection, carrier, owed: Vec::new(), pool: Pool::new(1 << 20) }
    }

    /// Writes, takes events and reads, until there is nothing more to do.
    pub fn turn(&mut self) -> Turn {
        for _ in 0..TURNS {
            match self.step() {
                Ok(Some(true)) => {}
                Ok(Some(false)) => {
                    // What a sleeper does: announce it, look again, ask where to sleep.
                    let _ = (self.carrier.arm(), self.carrier.has_news(), self.carrier.nap_limit());
                    let _ = self.carrier.source();
                    return Turn::Goes;
                }
                Ok(None) | Err(_) => return Turn::Over,
            }
        }
        panic!("the turn does not end");
    }

    /// Whether something was done; `None` at the end.
    fn step(&mut self) -> Result<Option<bool>, SessionError> {
        let now = Instant::now();
        let mut done = false;
        while let Some(transmit) = self.connection.poll_transmit(&[]) {
            let Some(len) = self.carrier.try_send(transmit.head, transmit.body)? else { break };
            self.connection.transmitted(now, len, &mut self.pool);
            done = true;
        }
        while let Some(event) = self.connection.poll_event(&mut self.pool) {
            done = true;
            match event {
                Event::Message(message) => self.take(message),
                Event::Ended(_) => return Ok(None),
                _ => {}
            }
        }
        assert!(self.connection.in_flight() <= self.connection.window(), "more than the window allows");
        if self.connection.wants_input() {
            let due = self.carrier.due();
            match self.carrier.try_recv(self.connection.space(due, &mut self.pool)) {
                Ok(Some(len)) => {
                    self.connection.handle(now, Input::Received(len));
                    done = true;
                }
                Ok(None) => {}
                Err(SessionError::Closed) => {
                    self.connection.handle(now, Input::HungUp);
                    done = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Some(done))
    }

    fn take(&mut self, message: Received) {
        // An error of layout 2 carries its text beside the limit of what methods return.
        let most = if message.head().is_some() { LIMIT.max(16 << 10) } else { LIMIT };
        assert!(message.payload().len() <= most as usize, "a payload of {} bytes", message.payload().len());
        let head = message.head();
        let (said, items) = head
            .map_or((message.envelope.payload_len, message.envelope.item_count), |head| (head.payload_len, head.items));
        // A request of layout 2 says before its body when its client gives up.
        let prefix = if head.is_some() { 8 } else { 0 };
        assert!((0..=prefix).contains(&(said as usize - message.payload().len())), "{said} bytes were said");
        assert!(head.is_some() || items <= 8, "{items} items");
        if self.owed.len() < 64 {
            self.owed.push(message);
        } else {
            self.pool.put(message.into_buffer());
        }
    }
}
