//! Sessions taken apart, between two processes, in both layouts and on every carrier: echoes of every size, many in
//! flight, sudden death, hostile bytes, and servers that know layout 1 only.

mod common;

use common::{Carrier as Kind, PATIENCE, Raw, patience};
use ginnel_session::carrier::Source;
use ginnel_session::proto::{Body, Call, End, Event, Input, Pool, Timing};
use ginnel_session::{
    ClientLayout2, Connector, Endpoint, HandshakeError, Listener, Parts, ServerLayout2, SessionError,
};
use ginnel_wire::{Features, FrameKind, Head, Profiles, Reply, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

const PART: &str = "GINNEL_TEST_PARTS_PART";
const LIMIT: u32 = 1 << 20;
const RING: u32 = 4096;
const WINDOW: u32 = 16;
const KINDS: [(&str, Kind, bool); 4] = [
    ("seqpacket", Kind::Seqpacket, false),
    ("stream", Kind::Stream, false),
    ("tcp", Kind::Tcp, false),
    ("ring", Kind::Seqpacket, true),
];

fn profiles(ring: bool) -> Profiles {
    if ring { Profiles::BASELINE | Profiles::RING } else { Profiles::BASELINE }
}

fn listen(kind: Kind, dir: &std::path::Path, layout_2: bool) -> Listener {
    let mut config = kind.server(LIMIT);
    config.supported = profiles(true);
    let own = ServerLayout2 { request_window: WINDOW, stream_window: 4, ring: RING, ..Default::default() };
    config.layout_2 = layout_2.then_some(own);
    Listener::bind(&kind.endpoint(dir), config).unwrap()
}

fn connector(kind: Kind, ring: bool, endpoint: &Endpoint) -> Connector {
    let mut config = kind.client(LIMIT, 1);
    config.supported = profiles(ring);
    config.layout_2 = Some(ClientLayout2::default());
    Connector::new(endpoint.clone(), config)
}

fn accept(listener: &Listener) -> Result<Parts, HandshakeError> {
    let mut incoming = listener.accept(&patience()).unwrap();
    while !incoming.try_receive_hello()? {
        std::thread::yield_now();
    }
    incoming.into_parts(Timing::default(), Instant::now())
}

/// The smallest driver there can be: one session, `poll`.
struct Driver {
    parts: Parts,
    pool: Pool,
}

impl Driver {
    fn new(parts: Parts) -> Self {
        Self { parts, pool: Pool::new(8 << 20) }
    }

    /// Writes as far as the carrier takes it; whether all is out.
    fn write(&mut self) -> Result<bool, SessionError> {
        let Parts { connection, carrier, .. } = &mut self.parts;
        while let Some(transmit) = connection.poll_transmit(&[]) {
            match carrier.try_send(transmit.head, transmit.body)? {
                Some(len) => connection.transmitted(Instant::now(), len, &mut self.pool),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The next event; waits for it.
    fn event(&mut self) -> Result<Event, SessionError> {
        let begin = Instant::now();
        loop {
            let out = self.write()?;
            if let Some(event) = self.parts.connection.poll_event(&mut self.pool) {
                return Ok(event);
            }
            let Parts { connection, carrier, .. } = &mut self.parts;
            if connection.wants_input() {
                let due = carrier.due();
                match carrier.try_recv(connection.space(due, &mut self.pool)) {
                    Ok(Some(len)) => {
                        connection.handle(Instant::now(), Input::Received(len));
                        continue;
                    }
                    Ok(None) => {}
                    Err(SessionError::Closed) => {
                        connection.handle(Instant::now(), Input::HungUp);
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !carrier.arm() {
                continue;
            }
            assert!(begin.elapsed() < PATIENCE, "nothing happens");
            let mut fds = match carrier.source() {
                Source::Socket { fd, .. } => {
                    let write = if out { PollFlags::empty() } else { PollFlags::OUT };
                    vec![PollFd::from_borrowed_fd(fd, PollFlags::IN | write)]
                }
                Source::Ring { bell, socket } => {
                    [bell, socket].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).into()
                }
                other => panic!("{other:?}"),
            };
            let nap = carrier.nap_limit().unwrap_or(PATIENCE);
            let nap = Timespec { tv_sec: nap.as_secs() as i64, tv_nsec: nap.subsec_nanos().into() };
            let _ = poll(&mut fds, Some(&nap));
        }
    }

    fn call(&mut self, reply: Reply, body: &[u8]) -> u64 {
        let call = Call { method: 1, reply, timeout: Some(PATIENCE), ..Call::default() };
        self.parts.connection.call(Instant::now(), &call, Body::Owned(body.to_vec())).unwrap()
    }
}

/// Answers every request with its body, a stream with as many items as the first byte says, until the client hangs up.
fn serve(mut driver: Driver) -> End {
    let mut streams: HashMap<u64, u8> = HashMap::new();
    loop {
        match driver.event() {
            Ok(Event::Message(message)) => {
                let (head, now) = (*message.head().unwrap(), Instant::now());
                assert!(message.deadline().instant().is_some());
                match head.kind {
                    FrameKind::Request(Reply::One) => {
                        let body = message.payload().to_vec();
                        driver.parts.connection.respond(now, head.id, Body::Owned(body)).unwrap();
                    }
                    FrameKind::Request(Reply::Stream) => _ = streams.insert(head.id, message.payload()[0]),
                    _ => {}
                }
                driver.pool.put(message.into_buffer());
            }
            Ok(Event::Established2(_) | Event::Credit { .. } | Event::Cancelled { .. } | Event::GoAway { .. }) => {}
            Ok(Event::Ended(end)) => return end,
            Ok(other) => panic!("{other:?}"),
            Err(SessionError::Closed) => return End::HungUp,
            Err(SessionError::Protocol(error)) => return End::Protocol(error),
            Err(error) => panic!("{error}"),
        }
        streams.retain(|&id, left| {
            let (connection, now) = (&mut driver.parts.connection, Instant::now());
            while *left > 0 && connection.credit(id) > 0 {
                connection.item(now, id, None, Body::Owned(vec![*left])).unwrap();
                *left -= 1;
            }
            *left > 0 || connection.end_stream(now, id).is_err()
        });
    }
}

struct Part(Child);

impl Part {
    fn start(part: &str, kind: &str, endpoint: &Endpoint) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let at = endpoint
            .path()
            .map_or_else(|| endpoint.tcp_address().unwrap().to_string(), |path| path.display().to_string());
        command.args(["--exact", "the_other_process", "--nocapture"]).env(PART, format!("{part} {kind} {at}"));
        Self(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: the client of one.
#[test]
fn the_other_process() {
    let Ok(part) = std::env::var(PART) else { return };
    let mut words = part.split(' ');
    let [part, name, at] = [(); 3].map(|()| words.next().unwrap());
    let (_, kind, ring) = KINDS.into_iter().find(|(known, ..)| *known == name).unwrap();
    let endpoint = if kind == Kind::Tcp {
        Endpoint::tcp(at.parse().unwrap()).unwrap()
    } else {
        kind.endpoint(std::path::Path::new(at).parent().unwrap())
    };
    let parts = connector(kind, ring, &endpoint).connect(&patience(), Timing::default()).unwrap();
    let granted = *parts.connection.layout_2().unwrap();
    assert_eq!(granted.selected == Profiles::RING, ring);
    let mut driver = Driver::new(parts);
    match part {
        "echo" => echo(&mut driver, granted.request_window as usize),
        "die" => {
            driver.call(Reply::One, b"last");
            while !driver.write().unwrap() {}
            std::process::abort();
        }
        "wait" => {
            let end = loop {
                match driver.event() {
                    Ok(Event::Ended(end)) => break end,
                    Ok(_) => {}
                    Err(SessionError::Closed) => break End::HungUp,
                    Err(error) => panic!("{error}"),
                }
            };
            assert_eq!(end, End::HungUp);
        }
        other => panic!("{other}"),
    }
}

fn echo(driver: &mut Driver, window: usize) {
    let mut sizes = (0..200).chain((200..9000).step_by(37)).chain([65_536, 200_000, LIMIT as usize]).peekable();
    let mut open: HashMap<u64, Vec<u8>> = HashMap::new();
    while sizes.peek().is_some() || !open.is_empty() {
        while open.len() < window && driver.parts.connection.queued() < 1 << 20 && sizes.peek().is_some() {
            let len = sizes.next().unwrap();
            let body = common::pattern(len, len);
            open.insert(driver.call(Reply::One, &body), body);
        }
        match driver.event().unwrap() {
            Event::Message(message) => {
                let sent = open.remove(&message.head().unwrap().id).unwrap();
                assert!(message.payload() == sent, "{} bytes came back changed", sent.len());
                driver.pool.put(message.into_buffer());
            }
            other => panic!("{other:?}"),
        }
    }
    let id = driver.call(Reply::Stream, &[100]);
    for left in (1..=100).rev() {
        let Event::Message(message) = driver.event().unwrap() else { panic!() };
        assert_eq!((message.payload(), message.head().unwrap().kind), (&[left][..], FrameKind::Item));
        driver.parts.connection.grant(Instant::now(), id, 1);
    }
    let Event::Message(end) = driver.event().unwrap() else { panic!() };
    assert_eq!(end.head().unwrap().kind, FrameKind::End);
}

#[test]
fn echoes_of_every_size_and_streams_with_many_in_flight_on_every_carrier() {
    for (name, kind, _) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(kind, dir.path(), true);
        let mut part = Part::start("echo", name, listener.endpoint());
        let end = serve(Driver::new(accept(&listener).unwrap()));
        assert!(part.0.wait().unwrap().success(), "{name}");
        assert_eq!(end, End::HungUp, "{name}");
    }
}

#[test]
fn a_client_that_dies_is_noticed_and_so_is_a_server() {
    for (name, kind, _) in KINDS {
        let dir = tempfile::tempdir().unwrap();
        let listener = listen(kind, dir.path(), true);
        let part = Part::start("die", name, listener.endpoint());
        assert_eq!(serve(Driver::new(accept(&listener).unwrap())), End::HungUp, "{name}: a crash");
        drop(part);
        let mut part = Part::start("wait", name, listener.endpoint());
        let driver = Driver::new(accept(&listener).unwrap());
        part.0.kill().unwrap();
        assert_eq!(serve(driver), End::HungUp, "{name}: killed");
        let mut part = Part::start("wait", name, listener.endpoint());
        drop(accept(&listener).unwrap());
        assert!(part.0.wait().unwrap().success(), "{name}: the server's end");
    }
}

#[test]
fn a_server_of_layout_1_is_met_by_a_fresh_connection_and_remembered_until_it_is_another() {
    for kind in [Kind::Seqpacket, Kind::Stream, Kind::Tcp] {
        let dir = tempfile::tempdir().unwrap();
        let mut listener = listen(kind, dir.path(), false);
        let connector = connector(kind, true, listener.endpoint());
        for attempt in 0..2 {
            std::thread::scope(|scope| {
                let server = scope.spawn(|| {
                    if attempt == 0 {
                        let refused = accept(&listener).unwrap_err();
                        assert!(matches!(refused, HandshakeError::Refused { status: Status::INCOMPATIBLE, .. }));
                    }
                    accept(&listener).unwrap()
                });
                let parts = connector.connect(&patience(), Timing::default()).unwrap();
                let server = server.join().unwrap();
                assert!(parts.connection.layout_2().is_none() && server.connection.layout_2().is_none());
                assert!(connector.is_plain());
            });
        }
        if kind == Kind::Tcp {
            continue;
        }
        // An inode that is held is not given to the next one.
        let held = dir.path().join("held");
        std::fs::rename(listener.endpoint().path().unwrap(), &held).unwrap();
        drop(listener);
        listener = listen(kind, dir.path(), true);
        std::thread::scope(|scope| {
            let server = scope.spawn(|| accept(&listener).unwrap());
            let parts = connector.connect(&patience(), Timing::default()).unwrap();
            assert!(parts.connection.layout_2().is_some() && server.join().unwrap().connection.layout_2().is_some());
        });
    }
}

#[test]
fn a_server_of_layout_2_that_refuses_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let listener = listen(Kind::Seqpacket, dir.path(), true);
    let mut connector = connector(Kind::Seqpacket, false, listener.endpoint());
    connector.config_mut().request.max_payload = LIMIT + 1;
    std::thread::scope(|scope| {
        let server = scope.spawn(|| accept(&listener).unwrap_err());
        let refused = connector.connect(&patience(), Timing::default()).unwrap_err();
        assert_eq!(refused.refusal(), Some(ginnel_session::Refusal::LimitExceeded { proposed: LIMIT + 1 }));
        match refused {
            ginnel_session::ConnectError::Refused2 { server, .. } => {
                assert_eq!((server.max_request_payload, server.features), (LIMIT, Features::ALL));
            }
            other => panic!("{other}"),
        }
        assert!(matches!(server.join().unwrap(), HandshakeError::Refused { status: Status::LIMIT_EXCEEDED, .. }));
    });
    assert!(!connector.is_plain());
}

#[test]
fn a_layout_1_peer_is_served_by_the_same_listener_and_hostile_frames_end_their_session_only() {
    let dir = tempfile::tempdir().unwrap();
    let listener = listen(Kind::Seqpacket, dir.path(), true);
    let connector = connector(Kind::Seqpacket, true, listener.endpoint());
    let (good, server) = std::thread::scope(|scope| {
        let server = scope.spawn(|| accept(&listener).unwrap());
        (connector.connect(&patience(), Timing::default()).unwrap(), server.join().unwrap())
    });
    let serving = std::thread::spawn(move || serve(Driver::new(server)));
    let hello = ginnel_session::proto::propose(&Kind::Seqpacket.client(64, 1), 4096);
    let plain = Raw::connect(listener.endpoint().path().unwrap());
    plain.send(&hello.packet());
    assert!(accept(&listener).unwrap().connection.layout_2().is_none());
    let hello = ginnel_wire::Hello2 {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: 64,
        max_request_items: 1,
        max_response_payload: 64,
        max_response_items: 1,
        auth_token: 7,
        packet_size: 4096,
        features: Features::ALL,
        required: Features::NONE,
        interface_id: 0,
        schema_hash: 0,
        request_window: 1,
        stream_window: 1,
        request_ring: 0,
        response_ring: 0,
    };
    let request = |id, len: u32| Head { payload_len: 8 + len, ..Head::request(1, id, Reply::One, 0).unwrap() };
    let frames = [
        vec![0; 64],
        request(0, 0).encode_request(1).to_vec(),
        request(1, 65).encode_request(1).to_vec(),
        [&request(1, 0).encode_request(1)[..], b"more"].concat(),
        Head { kind: FrameKind::Response, payload_len: 0, ..request(1, 0) }.encode().to_vec(),
    ];
    for frame in frames {
        let raw = Raw::connect(listener.endpoint().path().unwrap());
        raw.send(&hello.packet());
        let server = accept(&listener).unwrap();
        assert_eq!(raw.recv().len(), 128);
        raw.send(&frame);
        assert!(matches!(serve(Driver::new(server)), End::Protocol(_)), "{frame:?}");
    }
    let mut good = Driver::new(good);
    good.call(Reply::One, b"still here");
    assert!(matches!(good.event().unwrap(), Event::Message(message) if message.payload() == b"still here"));
    drop(good);
    assert_eq!(serving.join().unwrap(), End::HungUp);
}
