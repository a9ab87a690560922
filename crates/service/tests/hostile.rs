//! Clients that lie to a real server: each loses its session, and who else is served does not notice.

mod common;

use common::{CODE, Carrier, echo, eventually, ready};
use ginnel_service::{Client, Server};
use ginnel_wire::{Envelope, Hello, Packets, Profiles, Status};
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

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
    client: Client,
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
