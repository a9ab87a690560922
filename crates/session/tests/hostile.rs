//! Peers that lie, with bytes and in shared memory: each lie is named, and ends its own session only.

mod common;

use common::{Carrier, Raw, connect_to, patience};
use ginnel_session::{Endpoint, Listener, ProtocolError, Session, SessionError};
use ginnel_wire::{Envelope, Hello, HelloAck, Profiles, Status};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

const LIMIT: u32 = 1000;
const PACKET: u32 = 128;

fn hello(profiles: u32) -> Vec<u8> {
    let hello = Hello {
        supported: Profiles(profiles),
        preferred: Profiles::NONE,
        max_request_payload: LIMIT,
        max_request_items: 4,
        max_response_payload: LIMIT,
        max_response_items: 4,
        auth_token: 7,
        packet_size: PACKET,
    };
    hello.packet().to_vec()
}

/// A server of ours and a raw client that has shaken hands with it.
fn raw_client(dir: &Path, profiles: u32) -> (Listener, Session, Raw) {
    let endpoint = Endpoint::seqpacket(dir, "svc").unwrap();
    let listener = Listener::bind(&endpoint, Carrier::Shm.server(LIMIT)).unwrap();
    let raw = Raw::connect(endpoint.path().unwrap());
    raw.send(&hello(profiles));
    let session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
    assert_eq!(raw.recv().len(), 80);
    (listener, session, raw)
}

/// What a server says to these packets.
fn said_to(packets: &[Vec<u8>]) -> ProtocolError {
    let dir = tempfile::tempdir().unwrap();
    let (listener, mut session, raw) = raw_client(dir.path(), 1);
    // Another session of the same server, which must not notice.
    let (mut bystander, mut served) = connect_to(&listener, &Carrier::Seqpacket.client(LIMIT, 1));
    for packet in packets {
        raw.send(packet);
    }
    let said = match session.recv(&patience()).map(|message| message.envelope) {
        Err(SessionError::Protocol(error)) => error,
        other => panic!("{other:?}"),
    };
    bystander.send(&Envelope::request(1, 1, 0), b"fine", &patience()).unwrap();
    assert_eq!(served.recv(&patience()).unwrap().payload, b"fine");
    said
}

fn request(payload_len: u32) -> Envelope {
    Envelope::request(1, 7, payload_len)
}

fn message(envelope: &Envelope, payload: usize) -> Vec<u8> {
    [&envelope.encode()[..], &vec![1; payload]].concat()
}

/// The packets of a message.
fn chunked(envelope: &Envelope) -> Vec<Vec<u8>> {
    let payload = vec![1; envelope.payload_len as usize];
    ginnel_wire::Packets::new(envelope, PACKET)
        .unwrap()
        .map(|packet| [&packet.header[..], &payload[packet.payload]].concat())
        .collect()
}

#[test]
fn a_first_packet_that_lies_is_named() {
    let text = |packet: Vec<u8>| said_to(&[packet]).to_string();
    assert_eq!(text(vec![1; 31]), "envelope is truncated: 31 of 32 bytes");
    assert_eq!(text(vec![0; 32]), "envelope magic is 0x00000000, not 0x4e495043");
    let response = Envelope::response_to(&request(0), Status::OK, 0);
    assert_eq!(text(message(&response, 0)), "a message of kind Response where Request is due");
    assert_eq!(text(hello(1)), "a message of kind Control where Request is due");
    assert_eq!(text(message(&request(10), 11)), "packet has 43 bytes, its envelope says 42");
    assert_eq!(
        text(message(&request(LIMIT + 1), 8)),
        "message 7 announces 1001 payload bytes, the session's limit is 1000"
    );
    assert_eq!(
        text(message(&request(u32::MAX), 8)).split_once(" payload").unwrap().0,
        "message 7 announces 4294967295"
    );
    assert_eq!(text(message(&request(8).with_batch(5), 8)), "message 7 announces 5 items, the session's limit is 4");
    // All of a message in one packet, although packets of 128 bytes were agreed.
    assert_eq!(text(message(&request(200), 200)), "a packet of 232 bytes where at most 128 are due");
    // More than one of our buffers holds, cut by the kernel.
    assert_eq!(text(message(&request(900), 5000)), "packet has 5032 bytes, its envelope says 932");
    let mut lies = message(&request(24).with_batch(2), 24);
    lies[32..48].copy_from_slice(&[0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(text(lies), "batch item 1 takes bytes 8+1 of 8");
}

#[test]
fn a_chunk_that_lies_is_named_by_a_server() {
    name_lying_chunks(&request(250), &message(&request(8), 8), said_to);
}

#[test]
fn a_chunk_that_lies_is_named_by_a_client() {
    let response = |len| Envelope::response_to(&request(0), Status::OK, len);
    name_lying_chunks(&response(250), &message(&response(8), 8), said_by_client);
}

/// What a client says that has asked, and gets these packets.
fn said_by_client(packets: &[Vec<u8>]) -> ProtocolError {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, raw) = RawServer::listen(dir.path()).connect();
    client.send(&request(0), b"", &patience()).unwrap();
    packets.iter().for_each(|packet| raw.send(packet));
    match client.recv(&patience()).map(|message| message.envelope) {
        Err(SessionError::Protocol(error)) => error,
        other => panic!("{other:?}"),
    }
}

/// `envelope` is of a message of 250 bytes; `other` is one that needs no chunks.
fn name_lying_chunks(envelope: &Envelope, other: &[u8], said_to: impl Fn(&[Vec<u8>]) -> ProtocolError) {
    let lied = |at: usize, value: u32| {
        let mut packets = chunked(envelope);
        assert_eq!(packets.len(), 3);
        packets[1][at..at + 4].copy_from_slice(&value.to_ne_bytes());
        said_to(&packets).to_string()
    };
    assert_eq!(lied(0, 5), "chunk magic is 0x00000005, not 0x4e43484b");
    assert_eq!(lied(4, 2), "chunk version is 2, not 1");
    assert_eq!(lied(4, 1 | 1 << 16), "chunk flags are 0x1, not 0");
    assert_eq!(lied(8, 8), "chunk belongs to message 8, not 7");
    assert_eq!(lied(16, 283), "chunk says the message has 283 bytes, its envelope says 282");
    assert_eq!(lied(20, 2), "chunk index is 2, not 1");
    assert_eq!(lied(24, 4), "chunk count is 4, not 3");
    assert_eq!(lied(28, 95), "chunk says it carries 95 bytes, its packet carries 96");

    let mut packets = chunked(envelope);
    packets[1].push(1);
    assert_eq!(said_to(&packets), ProtocolError::PacketTooLong { len: 129, limit: 128 });
    let mut packets = chunked(envelope);
    packets[2].push(1);
    assert_eq!(said_to(&packets), ProtocolError::PacketTooLong { len: 91, limit: 90 });
    let mut packets = chunked(envelope);
    packets[1].truncate(20);
    assert_eq!(said_to(&packets).to_string(), "chunk header is truncated: 20 of 32 bytes");
    // Another message where a chunk is due.
    let interleaved = [chunked(envelope)[0].clone(), other.to_vec()];
    assert_eq!(said_to(&interleaved).to_string(), "chunk magic is 0x4e495043, not 0x4e43484b");
}

#[test]
fn a_stream_of_nonsense_ends_its_session_and_half_a_message_waits() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::stream(dir.path(), "svc").unwrap();
    let listener = Listener::bind(&endpoint, Carrier::Stream.server(LIMIT)).unwrap();
    let connect = |bytes: &[u8]| {
        let mut raw = std::os::unix::net::UnixStream::connect(endpoint.path().unwrap()).unwrap();
        // Byte by byte: a HELLO may come in any pieces, with requests right behind it.
        for byte in [&hello(1)[..], bytes].concat() {
            raw.write_all(&[byte]).unwrap();
        }
        let session = listener.accept(&patience()).unwrap().handshake(&patience()).unwrap();
        (raw, session)
    };
    let (_raw, mut session) = connect(&[7; 40]);
    let said = session.recv(&patience()).map(|_| ()).unwrap_err();
    assert!(matches!(said, SessionError::Protocol(ProtocolError::Envelope(_))), "{said:?}");

    let (raw, mut session) = connect(&message(&request(10), 4));
    drop(raw);
    assert!(matches!(session.recv(&patience()), Err(SessionError::Closed)), "half a message is none");

    // Two and a half messages: the second is wrong, and the first is good all the same.
    let two = [message(&request(3), 3), message(&request(LIMIT + 1), 3)].concat();
    let (_raw, mut session) = connect(&two);
    assert_eq!(session.recv(&patience()).unwrap().payload, [1; 3]);
    let said = session.recv(&patience()).map(|_| ()).unwrap_err();
    assert!(matches!(said, SessionError::Protocol(ProtocolError::PayloadTooLarge { limit: LIMIT, .. })), "{said:?}");
}

#[test]
fn a_hello_whose_halves_come_before_and_during_the_call_is_one_hello() {
    use std::io::Write;
    let dir = tempfile::tempdir().unwrap();
    for carrier in [Carrier::Stream, Carrier::Tcp] {
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(LIMIT)).unwrap();
        let mut raw: Box<dyn Write> = match carrier {
            Carrier::Tcp => Box::new(std::net::TcpStream::connect(listener.endpoint().tcp_address().unwrap()).unwrap()),
            _ => Box::new(std::os::unix::net::UnixStream::connect(listener.endpoint().path().unwrap()).unwrap()),
        };
        let hello = hello(1);
        raw.write_all(&hello[..40]).unwrap();
        let mut incoming = listener.accept(&patience()).unwrap();
        // Over TCP the bytes may be a moment late; then the first look finds none, and the call reads all of them.
        assert!(!incoming.try_receive_hello().unwrap());
        std::thread::scope(|scope| {
            let (tell, hear) = std::sync::mpsc::channel();
            let handshake = scope.spawn(move || {
                tell.send(common::this_thread()).unwrap();
                incoming.handshake(&patience())
            });
            common::until_asleep(hear.recv().unwrap());
            raw.write_all(&hello[40..]).unwrap();
            handshake.join().unwrap().unwrap();
        });
    }
}

/// A raw server that shakes hands as it should.
struct RawServer {
    endpoint: Endpoint,
    listening: Raw,
}

impl RawServer {
    fn listen(dir: &Path) -> Self {
        let endpoint = Endpoint::seqpacket(dir, "svc").unwrap();
        let listening = Raw::listen(endpoint.path().unwrap());
        Self { endpoint, listening }
    }

    fn connect(&self) -> (Session, Raw) {
        let ack = HelloAck {
            supported: Profiles(1),
            intersection: Profiles(1),
            selected: Profiles(1),
            max_request_payload: LIMIT,
            max_request_items: 1,
            max_response_payload: LIMIT,
            max_response_items: 1,
            packet_size: PACKET,
            session_id: 1,
        };
        std::thread::scope(|scope| {
            let raw = scope.spawn(|| {
                let raw = self.listening.accept();
                raw.recv();
                raw.send(&ack.packet());
                raw
            });
            let client = Session::connect(&self.endpoint, &Carrier::Seqpacket.client(LIMIT, 1), &patience()).unwrap();
            (client, raw.join().unwrap())
        })
    }
}

#[test]
fn responses_that_nobody_asked_for_or_that_come_twice_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = RawServer::listen(dir.path());
    let connect = || server.connect();
    let answer = |id: u64| message(&Envelope::response_to(&Envelope::request(1, id, 0), Status::OK, 0), 0);
    let unknown = |client: &mut Session| match client.recv(&patience()).map(|_| ()) {
        Err(SessionError::Protocol(ProtocolError::UnknownId { id })) => id,
        other => panic!("{other:?}"),
    };
    let (mut client, raw) = connect();
    raw.send(&answer(5));
    assert_eq!(unknown(&mut client), 5);

    let (mut client, raw) = connect();
    client.send(&Envelope::request(1, 5, 0), b"x", &patience()).unwrap();
    raw.send(&answer(5));
    raw.send(&answer(5));
    assert_eq!(client.recv(&patience()).unwrap().envelope.message_id, 5);
    assert_eq!(unknown(&mut client), 5);

    let (mut client, raw) = connect();
    raw.send(&message(&Envelope::request(1, 5, 0), 0));
    let said = client.recv(&patience()).map(|_| ()).unwrap_err();
    assert!(matches!(said, SessionError::Protocol(ProtocolError::Kind { .. })), "{said:?}");
}

fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64
}

#[test]
fn announcing_much_and_sending_little_costs_the_server_little() {
    for carrier in [Carrier::Seqpacket, Carrier::Stream] {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(256 << 20)).unwrap();
        let mut greedy: Vec<_> = (0..20).map(|_| connect_to(&listener, &carrier.client(256 << 20, 1))).collect();
        let before = resident_bytes();
        for (client, server) in &mut greedy {
            // The first packet of 256 MiB, and then nothing.
            let first = message(&request(256 << 20), 4096);
            rustix::net::send(&*client, &first, rustix::net::SendFlags::empty()).unwrap();
            let said = server.recv(&ginnel_session::Wait::at_most(std::time::Duration::from_millis(1)));
            // On seqpacket a first packet that is not full is allowed; its chunks are waited for.
            assert!(matches!(said, Err(SessionError::TimedOut)), "{said:?}");
        }
        let grown = resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "{carrier:?}: {} MiB for 20 promises", grown >> 20);
    }
}

/// A raw client in shared memory: it may write whatever it likes into the region.
struct Scribbler {
    raw: Raw,
    region: std::fs::File,
    path: PathBuf,
}

fn scribbler(dir: &Path) -> (Listener, Session, Scribbler) {
    let (listener, session, raw) = raw_client(dir, 3);
    let path = dir.join("svc-0000000000000001.ipcshm");
    let region = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    (listener, session, Scribbler { raw, region, path })
}

impl Scribbler {
    fn put<const N: usize>(&self, at: u64, value: [u8; N]) {
        self.region.write_all_at(&value, at).unwrap();
    }

    /// Publishes a request of the length that it says.
    fn publish(&self, bytes: &[u8], len: u32, seq: u64) {
        self.region.write_all_at(bytes, 64).unwrap();
        self.put(48, len.to_ne_bytes());
        self.put(32, seq.to_ne_bytes());
    }
}

fn said_of_memory(scribble: impl FnOnce(&Scribbler)) -> ProtocolError {
    let dir = tempfile::tempdir().unwrap();
    let (listener, mut session, scribbler) = scribbler(dir.path());
    let (mut bystander, mut served) = connect_to(&listener, &Carrier::Shm.client(LIMIT, 1));
    scribble(&scribbler);
    let said = match session.recv(&patience()).map(|message| message.envelope) {
        Err(SessionError::Protocol(error)) => error,
        other => panic!("{other:?}"),
    };
    bystander.send(&Envelope::request(1, 1, 0), b"fine", &patience()).unwrap();
    assert_eq!(served.recv(&patience()).unwrap().payload, b"fine");
    drop(session);
    assert!(!scribbler.path.exists());
    said
}

#[test]
fn a_slot_that_lies_about_its_length_is_named() {
    // 1000 bytes and an envelope, rounded up to 64.
    let capacity = 1088;
    let good = message(&request(8), 8);
    for len in [0, capacity + 1, u32::MAX] {
        assert_eq!(said_of_memory(|s| s.publish(&good, len, 1)), ProtocolError::SlotLength { len, capacity });
    }
    assert_eq!(said_of_memory(|s| s.publish(&good, 31, 1)).to_string(), "envelope is truncated: 31 of 32 bytes");
    assert_eq!(
        said_of_memory(|s| s.publish(&[0; 40], 40, 1)).to_string(),
        "envelope magic is 0x00000000, not 0x4e495043"
    );
    // Within the slot, but above the negotiated limit.
    let large = message(&request(LIMIT + 1), LIMIT as usize + 1);
    let said = said_of_memory(|s| s.publish(&large, large.len() as u32, 1));
    assert!(matches!(said, ProtocolError::PayloadTooLarge { limit: LIMIT, .. }), "{said:?}");
    let items = message(&request(8).with_batch(5), 8);
    assert!(matches!(said_of_memory(|s| s.publish(&items, 40, 1)), ProtocolError::TooManyItems { limit: 4, .. }));
    let directory = message(&request(16).with_batch(2), 16);
    assert!(matches!(said_of_memory(|s| s.publish(&directory, 48, 1)), ProtocolError::Batch(_)));
}

#[test]
fn the_length_of_the_slot_counts_and_not_that_of_the_envelope() {
    let dir = tempfile::tempdir().unwrap();
    let (_listener, mut session, scribbler) = scribbler(dir.path());
    scribbler.publish(&message(&request(999_999), 8), 40, 1);
    let request = session.recv(&patience()).unwrap();
    assert_eq!((request.payload.len(), request.envelope.payload_len), (8, 8));
}

#[test]
fn a_region_whose_header_is_scribbled_over_works_on() {
    let dir = tempfile::tempdir().unwrap();
    let (_listener, mut session, scribbler) = scribbler(dir.path());
    // Magic, offsets, capacities: everything that was agreed. Private copies count.
    scribbler.put(0, [0xff; 32]);
    scribbler.publish(&message(&request(8), 8), 40, 1);
    assert_eq!(session.recv(&patience()).unwrap().payload, [1; 8]);
    let answer = Envelope::response_to(&request(0), Status::OK, 0);
    session.send(&answer, &[2; 100], &patience()).unwrap();
    let mut response = [0; 132];
    scribbler.region.read_exact_at(&mut response, 64 + 1088).unwrap();
    assert_eq!(response[32..], [2; 100]);
}

#[test]
fn a_region_cut_short_in_use_is_an_error_for_whoever_uses_it() {
    for len in [0, 64] {
        let said = said_of_memory(|s| {
            s.publish(&message(&request(1000), 1000), 1032, 1);
            s.region.set_len(len).unwrap();
        });
        // Within a page the kernel leaves zeros, which are no message; beyond it there is nothing, which is said.
        assert!(matches!(said, ProtocolError::RegionTruncated | ProtocolError::Envelope(_)), "{len}: {said:?}");
    }
    // A server that cuts it short under its client.
    let dir = tempfile::tempdir().unwrap();
    let (mut client, mut server) = Carrier::Shm.pair(dir.path(), 64 << 10, 1);
    let region = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|extension| extension == "ipcshm"))
        .unwrap();
    client.send(&Envelope::request(1, 1, 0), &[1; 60_000], &patience()).unwrap();
    std::fs::OpenOptions::new().write(true).open(&region).unwrap().set_len(0).unwrap();
    let server_said = server.recv(&patience()).map(|_| ()).unwrap_err();
    assert!(matches!(server_said, SessionError::Protocol(ProtocolError::RegionTruncated)), "{server_said:?}");
    drop(server);
    let client_said = client.recv(&patience()).map(|_| ()).unwrap_err();
    assert!(
        matches!(client_said, SessionError::Protocol(ProtocolError::RegionTruncated) | SessionError::Closed),
        "{client_said:?}"
    );
    let send_said = client.send(&Envelope::request(1, 2, 0), &[1; 60_000], &patience());
    assert!(send_said.is_err(), "the session is over");
}

#[test]
fn a_region_scribbled_over_and_cut_short_while_it_is_read_ends_its_session_and_no_more() {
    let short = ginnel_session::Wait::at_most(std::time::Duration::from_millis(1));
    for round in 0..common::size(30, 1000) as u64 {
        let dir = tempfile::tempdir().unwrap();
        let (listener, mut session, scribbler) = scribbler(dir.path());
        let (mut bystander, mut bystanders) = connect_to(&listener, &Carrier::Shm.client(LIMIT, 1));
        // One whole request first: whether another one is read whole is a matter of luck.
        scribbler.publish(&message(&request(900), 900), 932, 1);
        let whole = session.recv(&patience()).unwrap().envelope;
        session.send(&Envelope::response_to(&whole, Status::OK, 0), &[2; 100], &patience()).unwrap();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut random = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
                for seq in 2..200 {
                    scribbler.publish(&message(&request(900), 900), 932, seq);
                    for _ in 0..seq % 7 {
                        random ^= random << 13;
                        random ^= random >> 7;
                        random ^= random << 17;
                        // Anywhere but in the counter, which would end it all too soon.
                        let at = [random % 24, 48 + random % 12, 64 + random % 1000][(random >> 40) as usize % 3];
                        scribbler.put(at, (random as u32).to_ne_bytes());
                    }
                }
                scribbler.region.set_len(random % 2 * 64).unwrap();
                over.store(true, Ordering::Release);
            });
            loop {
                let ended = over.load(Ordering::Acquire);
                match session.recv(&short).map(|request| (request.envelope, request.payload.len())) {
                    Ok((envelope, len)) => {
                        assert!(len <= LIMIT as usize);
                        let answer = Envelope::response_to(&envelope, Status::OK, 0);
                        if session.send(&answer, &[2; 100], &short).is_err() {
                            break;
                        }
                    }
                    Err(SessionError::Protocol(_)) => break,
                    Err(SessionError::TimedOut) if !ended => {}
                    Err(SessionError::TimedOut) => break,
                    Err(other) => panic!("{other:?}"),
                }
            }
        });
        bystander.send(&Envelope::request(1, 1, 0), b"fine", &patience()).unwrap();
        assert_eq!(bystanders.recv(&patience()).unwrap().payload, b"fine");
    }
}

#[test]
fn requests_on_the_socket_of_a_shared_memory_session_are_never_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (_listener, mut session, scribbler) = scribbler(dir.path());
    for _ in 0..3 {
        scribbler.raw.send(&message(&request(8), 8));
    }
    scribbler.publish(&message(&Envelope::request(1, 99, 8), 8), 40, 1);
    assert_eq!(session.recv(&patience()).unwrap().envelope.message_id, 99);
    let short = ginnel_session::Wait::at_most(std::time::Duration::from_millis(20));
    assert!(matches!(session.recv(&short), Err(SessionError::TimedOut)));
    drop(scribbler);
    assert!(matches!(session.recv(&patience()), Err(SessionError::Closed)), "its hang-up is noticed all the same");
}
