//! Clients that lie to a real server: each loses its session, and who else is served does not notice.

mod common;

use common::{CARRIERS, CODE, Carrier, PATIENCE, echo, eventually, ready};
use ginnel_service::{BaselineClient, BaselineError, Failure, Request, Server, ServerOptions};
use ginnel_session::{Session, SessionError, Wait};
use ginnel_wire::{Envelope, Hello, Packets, Profiles, Status};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const PACKET: u32 = 128;

fn hello() -> [u8; 76] {
    let hello = Hello {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: 1024,
        max_request_items: 4,
        max_response_payload: 1024,
        max_response_items: 4,
        auth_token: 7,
        packet_size: PACKET,
    };
    hello.packet()
}

fn message(envelope: &Envelope, payload: usize) -> Vec<u8> {
    [&envelope.encode()[..], &vec![1; payload]].concat()
}

/// A request of 250 bytes, the second packet of which is not what it should be.
fn lying_chunks(at: usize, value: u32) -> Vec<Vec<u8>> {
    let payload = [1; 250];
    let packets = Packets::new(&Envelope::request(CODE, 1, 250), PACKET).unwrap();
    let mut packets: Vec<_> = packets.map(|packet| [&packet.header[..], &payload[packet.payload]].concat()).collect();
    packets[1][at..at + 4].copy_from_slice(&value.to_ne_bytes());
    packets
}

/// A client of its own beside the liar.
struct Bystander<'a> {
    server: &'a Server,
    client: BaselineClient,
}

impl Bystander<'_> {
    fn is_served(&mut self) {
        assert_eq!(self.client.call(CODE, b"fine").unwrap(), b"fine");
    }

    /// The liar's session is over, and this one is not.
    fn is_alone(&mut self, lie: &str) {
        eventually(lie, || self.server.counters().active == 1);
        self.is_served();
        assert_eq!(self.client.counters().retries, 0, "{lie}");
    }
}

fn bystander(server: &Server, carrier: Carrier) -> Bystander<'_> {
    Bystander { server, client: ready(server.endpoint(), carrier.client()) }
}

#[test]
fn a_packet_that_lies_ends_its_session_only() {
    use rustix::io::Errno;
    use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
    let dir = tempfile::tempdir().unwrap();
    let server =
        Server::start(&Carrier::Seqpacket.endpoint(dir.path(), 0), Carrier::Seqpacket.server(), CODE, echo).unwrap();
    let mut bystander = bystander(&server, Carrier::Seqpacket);
    let lies = [
        ("half a header", vec![vec![1; 31]]),
        ("no envelope", vec![vec![0; 40]]),
        ("a response", vec![message(&Envelope::response_to(&Envelope::request(CODE, 1, 0), Status::OK, 0), 0)]),
        ("a second HELLO", vec![hello().to_vec()]),
        ("more than it says", vec![message(&Envelope::request(CODE, 1, 10), 11)]),
        ("more than the limit", vec![message(&Envelope::request(CODE, 1, u32::MAX), 8)]),
        ("a batch without its directory", vec![message(&Envelope::request(CODE, 1, 8).with_batch(2), 8)]),
        ("a chunk of another message", lying_chunks(8, 2)),
        ("a chunk out of order", lying_chunks(20, 2)),
        ("a chunk of another length", lying_chunks(28, 95)),
    ];
    for (lie, packets) in lies {
        let socket: OwnedFd =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let address = SocketAddrUnix::new(server.endpoint().path().unwrap()).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        rustix::net::send(&socket, &hello(), SendFlags::NOSIGNAL).unwrap();
        eventually("two are served", || server.counters().active == 2);
        for packet in packets {
            // The session may be over before the last one is sent.
            match rustix::net::send(&socket, &packet, SendFlags::NOSIGNAL) {
                Ok(_) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => break,
                Err(errno) => panic!("{lie}: {errno}"),
            }
        }
        bystander.is_alone(lie);
    }
    server.stop();
}

#[test]
fn half_a_message_holds_up_its_own_session_only() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(&Carrier::Stream.endpoint(dir.path(), 0), Carrier::Stream.server(), CODE, echo).unwrap();
    let mut bystander = bystander(&server, Carrier::Stream);
    for part in [1, 31, 32, 100] {
        let mut raw = UnixStream::connect(server.endpoint().path().unwrap()).unwrap();
        raw.write_all(&hello()).unwrap();
        eventually("two are served", || server.counters().active == 2);
        raw.write_all(&message(&Envelope::request(CODE, 1, 200), 200)[..part]).unwrap();
        // It may take as long as it likes: it costs its own session.
        for _ in 0..100 {
            bystander.is_served();
        }
        assert_eq!(server.counters().active, 2, "{part} bytes");
        drop(raw);
        bystander.is_alone("half a message");
    }
    server.stop();
}

/// A handler that counts how often it runs.
fn counting() -> (Arc<AtomicU32>, impl ginnel_service::Handler) {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&calls);
    let handler = move |request: &Request<'_>, response: &mut Vec<u8>| {
        counted.fetch_add(1, Ordering::Relaxed);
        echo(request, response)
    };
    (calls, handler)
}

#[test]
fn a_batch_whose_items_share_bytes_reaches_no_handler() {
    // Entries of offset and length, over 16 bytes.
    let shared: [&[[u32; 2]]; 4] =
        [&[[0, 16]; 2], &[[0, 9], [8, 8]], &[[8, 8], [0, 16]], &[[8, 4], [0, 4], [0, 1], [0, 0]]];
    let own: [&[[u32; 2]]; 2] = [&[[8, 8], [0, 8]], &[[0, 16], [8, 0], [0, 0]]];
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (calls, handler) = counting();
        let server = Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, handler).unwrap();
        let wait = Wait::at_most(PATIENCE);
        let send = |items: &[[u32; 2]]| {
            let mut session = Session::connect(server.endpoint(), &carrier.client().session, &wait).unwrap();
            let mut payload: Vec<u8> = items.iter().flatten().flat_map(|word| word.to_ne_bytes()).collect();
            payload.extend([7; 16]);
            let envelope = Envelope::request(CODE, 1, 0).with_batch(items.len() as u32);
            session.send(&envelope, &payload, &wait).unwrap();
            session.recv(&wait).map(|response| response.envelope.status)
        };
        for items in shared {
            assert!(matches!(send(items), Err(SessionError::Closed)), "{carrier:?} {items:?}");
        }
        assert_eq!(calls.load(Ordering::Relaxed), 0, "{carrier:?}");
        for items in own {
            assert_eq!(send(items).unwrap(), Status::OK, "{carrier:?} {items:?}");
        }
        server.stop();
    }
}

#[test]
fn a_batch_of_more_items_than_the_server_takes_is_refused_whatever_was_agreed() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (calls, handler) = counting();
        let options = ServerOptions { max_batch_items: 4, ..carrier.server() };
        let server = Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, handler).unwrap();
        let mut client = ready(server.endpoint(), carrier.client());
        let refused = client.call_batch(CODE, [&b"x"[..]; 5], common::soon());
        assert!(matches!(refused, Err(BaselineError::ResponseTooLarge { .. })), "{carrier:?} {refused:?}");
        assert_eq!(calls.load(Ordering::Relaxed), 0, "{carrier:?}");
        client.refresh();
        assert_eq!(client.call_batch(CODE, [&b"x"[..]; 4], common::soon()).unwrap().len(), 4, "{carrier:?}");
        server.stop();
    }
}

#[test]
fn a_stop_ends_a_batch_between_two_items() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let (open, gate) = std::sync::mpsc::channel::<()>();
        let gate = std::sync::Mutex::new(gate);
        let handler = move |_: &Request<'_>, _: &mut Vec<u8>| -> Result<(), Failure> {
            counted.fetch_add(1, Ordering::Relaxed);
            // Open once its sender is dropped.
            let _ = gate.lock().unwrap().recv();
            Ok(())
        };
        let server = Server::start(&carrier.endpoint(dir.path(), 0), carrier.server(), CODE, handler).unwrap();
        let mut client = ready(server.endpoint(), carrier.client());
        std::thread::scope(|scope| {
            let call = scope.spawn(|| client.call_batch(CODE, [&b"x"[..]; 64], common::soon()).map(|_| ()));
            eventually("the first item is answered", || calls.load(Ordering::Relaxed) == 1);
            server.stop();
            drop(open);
            // The handler goes with the last thread that could call it.
            eventually("the session ends", || Arc::strong_count(&calls) == 1);
            assert_eq!(calls.load(Ordering::Relaxed), 1, "{carrier:?}");
            assert!(matches!(call.join().unwrap(), Err(BaselineError::Connect(_))), "{carrier:?}");
        });
    }
}
