//! Ring sessions between two processes: whatever the sizes, asleep and awake, and when one of them dies or lies.

use ginnel_memory::Spin;
use ginnel_session::ring::{self, Ring, RingError, RingOffer};
use ginnel_session::{ProtocolError, SessionError, Wait};
use ginnel_wire::{Assembler, ENVELOPE_LEN, Envelope, HelloAck2, Packets, Profiles};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(30);
const PART: &str = "GINNEL_TEST_RING_PART";
const RING: u32 = 4096;
const PACKET: u32 = RING / 4;

fn wait() -> Wait<'static> {
    Wait::at_most(PATIENCE)
}

fn ack(session_id: u64) -> HelloAck2 {
    HelloAck2 {
        selected: Profiles::RING,
        packet_size: PACKET,
        session_id,
        request_window: 1,
        request_ring: RING,
        response_ring: 2 * RING,
        descriptors: 4,
        ..HelloAck2::default()
    }
}

fn sockets() -> (OwnedFd, OwnedFd) {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap()
}

fn serve(socket: OwnedFd, session_id: u64) -> Ring {
    let ack = ack(session_id);
    let offer = RingOffer::create(ack.request_ring, ack.response_ring, session_id).unwrap();
    assert_eq!(ring::send(&socket, &ack.packet(), &offer.descriptors()).unwrap(), Some(128));
    offer.accept(socket)
}

fn greet(socket: OwnedFd) -> Ring {
    let mut packet = [0; 256];
    let deadline = std::time::Instant::now() + PATIENCE;
    let (len, fds) = loop {
        if let Some(received) = ring::recv(&socket, &mut packet).unwrap() {
            break received;
        }
        assert!(std::time::Instant::now() < deadline, "no answer");
        std::thread::yield_now();
    };
    let ack = HelloAck2::decode(&packet[ENVELOPE_LEN..len]).unwrap();
    Ring::attach(socket, fds, &ack, 1 << 20).unwrap()
}

fn receive(ring: &mut Ring, spin: &mut Spin, space: &mut [u8]) -> Result<usize, SessionError> {
    loop {
        if let Some(len) = ring.try_recv(space)? {
            return Ok(len);
        }
        ring.wait(spin, &wait())?;
    }
}

fn send(ring: &mut Ring, spin: &mut Spin, head: &[u8], body: &[u8]) -> Result<(), SessionError> {
    while ring.try_send(head, body)?.is_none() {
        ring.wait(spin, &wait())?;
    }
    Ok(())
}

/// A part of a test that runs in a process of its own; killed if the test ends before it.
struct Part(Child);

impl Part {
    fn start(part: &str, socket: OwnedFd) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "the_other_process", "--nocapture"]).env(PART, part);
        Self(command.stdin(Stdio::from(socket)).stdout(Stdio::null()).spawn().unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
    }

    fn succeeds(mut self) {
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test by itself: what the other process of a test does.
#[test]
fn the_other_process() {
    let Ok(part) = std::env::var(PART) else { return };
    let socket = rustix::stdio::stdin().try_clone_to_owned().unwrap();
    let mut client = greet(socket);
    let mut spin = if part.ends_with("asleep") { Spin::new(0) } else { Spin::default() };
    let mut space = [0; PACKET as usize];
    match part.as_str() {
        "echo asleep" | "echo awake" => loop {
            match receive(&mut client, &mut spin, &mut space) {
                Ok(len) => send(&mut client, &mut spin, &space[..len], &[]).unwrap(),
                Err(SessionError::Closed) => break,
                Err(error) => panic!("{error}"),
            }
        },
        // Says that it is there, and never reads.
        "deaf" => {
            send(&mut client, &mut spin, b"here", b"").unwrap();
            std::thread::sleep(PATIENCE);
        }
        "last words" => {
            for seq in 0..20_u8 {
                send(&mut client, &mut spin, &[seq; 100], &[]).unwrap();
            }
            // As a crash would: nothing is dropped.
            std::process::abort();
        }
        other => panic!("{other}"),
    }
}

fn bytes(seq: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seq.wrapping_mul(31) + at) as u8).collect()
}

fn echoes(part: &str, spin: &mut Spin) {
    let (socket, theirs) = sockets();
    let child = Part::start(part, theirs);
    let mut server = serve(socket, 7);
    let mut space = [0; PACKET as usize];
    for seq in 0..3_000 {
        // Up to three on their way, of sizes that make them run around the ring.
        let sent: Vec<_> =
            (0..=seq % 3).map(|n| bytes(seq + n, (seq * 37 + n * 401) % (PACKET as usize + 1))).collect();
        for packet in &sent {
            let cut = packet.len() / 3;
            send(&mut server, spin, &packet[..cut], &packet[cut..]).unwrap();
        }
        for packet in &sent {
            let len = receive(&mut server, spin, &mut space).unwrap();
            assert_eq!(&space[..len], packet);
        }
    }
    drop(server);
    child.succeeds();
}

#[test]
fn packets_come_back_from_a_process_that_sleeps_between_them() {
    echoes("echo asleep", &mut Spin::new(0));
}

#[test]
fn packets_come_back_from_a_process_that_spins() {
    echoes("echo awake", &mut Spin::default());
}

#[test]
fn a_message_larger_than_the_ring_travels_in_chunks() {
    let (socket, theirs) = sockets();
    let child = Part::start("echo asleep", theirs);
    let (mut server, mut spin) = (serve(socket, 8), Spin::new(0));
    let payload = bytes(5, 1 << 20);
    let envelope = Envelope::request(1, 9, payload.len() as u32);
    let mut packets = Packets::new(&envelope, PACKET).unwrap().peekable();
    let mut space = vec![0; PACKET as usize];
    let (mut assembler, mut back): (Option<Assembler>, Vec<u8>) = (None, Vec::new());
    while back.len() < payload.len() {
        // Sends as long as there is room, and takes what has come back.
        if let Some(packet) = packets.peek()
            && server.try_send(&packet.header, &payload[packet.payload.clone()]).unwrap().is_some()
        {
            packets.next();
            continue;
        }
        match server.try_recv(&mut space).unwrap() {
            Some(len) => match &mut assembler {
                None => {
                    assert_eq!(Envelope::decode(&space[..len]).unwrap(), envelope);
                    assembler = Some(Assembler::new(&envelope, len, PACKET).unwrap());
                    back.extend_from_slice(&space[ENVELOPE_LEN..len]);
                }
                Some(assembler) => back.extend_from_slice(assembler.accept(&space[..len]).unwrap()),
            },
            None => server.wait(&mut spin, &wait()).unwrap(),
        }
    }
    assert!(back == payload, "the message came back changed");
    drop(server);
    child.succeeds();
}

#[test]
fn a_peer_that_is_killed_is_noticed_by_a_sleeper_a_spinner_and_a_sender_without_room() {
    for mut spin in [Spin::new(0), Spin::forever()] {
        for full in [false, true] {
            let (socket, theirs) = sockets();
            let mut child = Part::start("deaf", theirs);
            let mut server = serve(socket, 9);
            let mut space = [0; PACKET as usize];
            assert_eq!(receive(&mut server, &mut spin, &mut space).unwrap(), 4);
            while full && server.try_send(&[1; 1000], &[]).unwrap().is_some() {}
            // Most likely asleep by then; noticed in either case.
            let killer = std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(20));
                child.kill();
                child
            });
            let outcome = if full {
                send(&mut server, &mut spin, &[1; 1000], &[])
            } else {
                receive(&mut server, &mut spin, &mut space).map(|_| ())
            };
            assert!(matches!(outcome, Err(SessionError::Closed)), "full {full}: {outcome:?}");
            drop(killer.join().unwrap());
        }
    }
}

#[test]
fn what_a_process_sent_before_it_crashed_is_received() {
    let (socket, theirs) = sockets();
    let mut child = Part::start("last words", theirs);
    let mut server = serve(socket, 10);
    assert!(!child.0.wait().unwrap().success());
    let (mut spin, mut space) = (Spin::new(0), [0; PACKET as usize]);
    for seq in 0..20_u8 {
        let len = receive(&mut server, &mut spin, &mut space).unwrap();
        assert_eq!(space[..len], [seq; 100]);
    }
    assert!(matches!(receive(&mut server, &mut spin, &mut space), Err(SessionError::Closed)));
    assert!(matches!(server.try_send(b"x", b""), Err(SessionError::Closed)));
}

#[test]
fn a_deadline_ends_a_wait_and_the_session_goes_on() {
    let (ours, theirs) = sockets();
    let (mut server, mut client) = (serve(ours, 11), greet(theirs));
    let mut spin = Spin::new(0);
    let over = server.wait(&mut spin, &Wait::at_most(Duration::from_millis(5)));
    assert!(matches!(over, Err(SessionError::TimedOut)), "{over:?}");
    assert_eq!(client.try_send(b"late", b"").unwrap(), Some(4));
    server.wait(&mut spin, &wait()).unwrap();
    assert_eq!(server.due(), 4);
    assert_eq!(server.try_recv(&mut [0; 3]).unwrap(), None, "into less it hands nothing out");
    assert_eq!(server.try_recv(&mut [0; 4]).unwrap(), Some(4));
    assert!(matches!(client.try_send(&[0; 4096], &[]), Err(SessionError::Io { .. })), "larger than a record can be");
}

#[test]
fn data_on_the_socket_is_an_error() {
    let (ours, theirs) = sockets();
    let copy = theirs.try_clone().unwrap();
    let (mut server, _client) = (serve(ours, 12), greet(theirs));
    assert_eq!(ring::send(&copy, b"x", &[]).unwrap(), Some(1));
    assert!(matches!(server.arm(), Err(SessionError::Protocol(ProtocolError::SocketData))));
}

#[test]
fn descriptors_that_are_not_what_was_agreed_are_refused() {
    let attach = |fds: Vec<OwnedFd>, ack: &HelloAck2, limit| Ring::attach(sockets().0, fds, ack, limit).unwrap_err();
    let copies = |fds: &[BorrowedFd<'_>]| fds.iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect::<Vec<_>>();
    let ack = ack(13);
    let offer = RingOffer::create(ack.request_ring, ack.response_ring, 13).unwrap();
    let good = offer.descriptors();
    let file = std::fs::File::open("/dev/null").unwrap();

    for count in 0..4 {
        let error = attach(copies(&good[..count]), &ack, 1 << 20);
        assert!(matches!(error, RingError::Descriptors { found, expected: 4 } if found == count), "{error}");
    }
    for index in 1..4 {
        let mut bad = good;
        bad[index] = file.as_fd();
        assert!(matches!(attach(copies(&bad), &ack, 1 << 20), RingError::Bell { index: found } if found == index));
    }
    let swapped = [good[0], good[2], good[1], good[3]];
    assert!(matches!(attach(copies(&swapped), &ack, 1 << 20), RingError::Bell { index: 1 }));
    let mut no_memory = good;
    no_memory[0] = file.as_fd();
    assert!(matches!(attach(copies(&no_memory), &ack, 1 << 20), RingError::Segment(_)));
    assert!(matches!(attach(copies(&good), &HelloAck2 { session_id: 14, ..ack }, 1 << 20), RingError::Segment(_)));
    assert!(matches!(attach(copies(&good), &ack, RING), RingError::Sizes { limit: RING, .. }));
    for bytes in [0, 2048, 4097, u32::MAX] {
        let error = attach(copies(&good), &HelloAck2 { request_ring: bytes, ..ack }, u32::MAX);
        assert!(matches!(error, RingError::Sizes { .. }), "{error}");
        assert!(matches!(RingOffer::create(bytes, RING, 1).unwrap_err(), RingError::Sizes { .. }));
    }
}

#[test]
fn more_descriptors_or_bytes_than_the_handshake_has_are_an_error_and_closed() {
    let (ours, theirs) = sockets();
    let file = std::fs::File::open("/dev/null").unwrap();
    let many = vec![file.as_fd(); 40];
    let mut room = vec![std::mem::MaybeUninit::uninit(); 512];
    let mut control = rustix::net::SendAncillaryBuffer::new(&mut room);
    assert!(control.push(rustix::net::SendAncillaryMessage::ScmRights(&many)));
    let packet = [std::io::IoSlice::new(b"x")];
    rustix::net::sendmsg(&theirs, &packet, &mut control, rustix::net::SendFlags::empty()).unwrap();
    assert!(matches!(ring::recv(&ours, &mut [0; 8]), Err(RingError::Cut)));
    ring::send(&theirs, &[0; 9], &[]).unwrap();
    assert!(matches!(ring::recv(&ours, &mut [0; 8]), Err(RingError::Cut)));
    assert!(matches!(ring::recv(&ours, &mut [0; 8]), Ok(None)));
    drop(theirs);
    assert!(matches!(ring::recv(&ours, &mut [0; 8]), Ok(Some((0, _)))));
}
