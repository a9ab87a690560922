//! Every wait ends at its deadline, at an abort and when the peer leaves: from connect to the last chunk.

mod common;

use common::{CARRIERS, Carrier, Raw, SOCKETS, connect_to, patience};
use ginnel_session::{Abort, ConnectError, Endpoint, HandshakeError, Listener, Session, SessionError, Wait};
use ginnel_wire::{Envelope, HelloAck, Profiles, Status};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_millis(30);

fn name(error: &SessionError) -> &'static str {
    match error {
        SessionError::TimedOut => "deadline",
        SessionError::Aborted => "abort",
        SessionError::Closed => "closed",
        other => panic!("{other}"),
    }
}

/// Runs `operation` against a deadline, against an abort that is raised before it and against one that is raised while it
/// waits. Each must end it, and not before its time.
fn ends_each_way(mut operation: impl FnMut(&Wait<'_>) -> SessionError) {
    let begin = Instant::now();
    assert_eq!(name(&operation(&Wait::at_most(SHORT))), "deadline");
    assert!(begin.elapsed() >= SHORT, "before its deadline");
    let abort = Abort::new().unwrap();
    abort.raise();
    assert_eq!(name(&operation(&patience().or_abort(&abort))), "abort");
    abort.clear();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(SHORT);
            abort.raise();
        });
        assert_eq!(name(&operation(&patience().or_abort(&abort))), "abort");
    });
}

#[test]
fn connecting_to_a_full_backlog() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Endpoint::seqpacket(dir.path(), "svc").unwrap();
    let listener = Raw::listen(endpoint.path().unwrap());
    rustix::net::listen(&listener.0, 0).unwrap();
    let _fills_it = Raw::connect(endpoint.path().unwrap());
    ends_each_way(|wait| match Session::connect(&endpoint, &Carrier::Seqpacket.client(64, 1), wait) {
        Err(ConnectError::Session(error)) => error,
        other => panic!("{other:?}"),
    });
}

#[test]
fn waiting_for_an_answer_to_hello() {
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        // It never accepts: the kernel takes the connection and the HELLO.
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(64)).unwrap();
        ends_each_way(|wait| match Session::connect(listener.endpoint(), &carrier.client(64, 1), wait) {
            Err(ConnectError::Session(error)) => error,
            other => panic!("{other:?}"),
        });
    }
}

#[test]
fn waiting_for_a_connection_and_for_its_hello() {
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(64)).unwrap();
        ends_each_way(|wait| listener.accept(wait).unwrap_err());
    }
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(dir.path());
    let listener = Listener::bind(&endpoint, Carrier::Seqpacket.server(64)).unwrap();
    ends_each_way(|wait| {
        let _silent = Raw::connect(endpoint.path().unwrap());
        match listener.accept(&patience()).unwrap().handshake(wait) {
            Err(HandshakeError::NoHello(error)) => error,
            other => panic!("{other:?}"),
        }
    });
}

#[test]
fn waiting_for_a_message_in_either_role_and_being_usable_afterwards() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, mut server) = carrier.pair(dir.path(), 64, 1);
        ends_each_way(|wait| client.recv(wait).unwrap_err());
        ends_each_way(|wait| server.recv(wait).unwrap_err());
        client.send(&Envelope::request(1, 5, 0), b"still", &patience()).unwrap();
        let request = server.recv(&patience()).unwrap().envelope;
        server.send(&Envelope::response_to(&request, Status::OK, 0), b"here", &patience()).unwrap();
        assert_eq!(client.recv(&patience()).unwrap().payload, b"here");
    }
}

#[test]
fn sending_to_a_peer_that_takes_nothing() {
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        // Each message is larger than what any socket buffers, so that it is cut off in the middle.
        let (mut client, server) = carrier.pair(dir.path(), 64 << 20, 1);
        let payload = vec![1; 64 << 20];
        let begin = Instant::now();
        let cut = client.send(&Envelope::request(1, 1, 0), &payload, &Wait::at_most(SHORT)).unwrap_err();
        assert_eq!(name(&cut), "deadline");
        assert!(begin.elapsed() >= SHORT);
        let after = client.send(&Envelope::request(1, 2, 0), b"x", &patience());
        assert!(matches!(after, Err(SessionError::Broken)), "{after:?}");
        drop(server);

        let (mut client, _server) = carrier.pair(dir.path(), 64 << 20, 1);
        let abort = Abort::new().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(SHORT);
                abort.raise();
            });
            let wait = patience().or_abort(&abort);
            let cut = client.send(&Envelope::request(1, 1, 0), &payload, &wait).unwrap_err();
            assert_eq!(name(&cut), "abort");
        });
    }
}

#[test]
fn sending_in_shared_memory_while_the_last_request_is_not_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, mut server) = Carrier::Shm.pair(dir.path(), 64, 1);
    client.send(&Envelope::request(1, 1, 0), b"first", &patience()).unwrap();
    ends_each_way(|wait| client.send(&Envelope::request(1, 2, 0), b"second", wait).unwrap_err());
    // Nothing of it was sent, so nothing is broken and its id is free.
    let request = server.recv(&patience()).unwrap().envelope;
    server.send(&Envelope::response_to(&request, Status::OK, 0), b"one", &patience()).unwrap();
    let twice = server.send(&Envelope::response_to(&request, Status::OK, 0), b"one", &patience());
    assert!(matches!(twice, Err(SessionError::NothingToAnswer)), "{twice:?}");
    client.send(&Envelope::request(1, 2, 0), b"second", &patience()).unwrap();
    assert_eq!(client.recv(&patience()).unwrap().payload, b"one");
    assert_eq!(server.recv(&patience()).unwrap().payload, b"second");
}

/// An answer to HELLO for raw servers: limits of 1 MiB, packets of 64 bytes.
pub fn small_packets() -> Vec<u8> {
    let ack = HelloAck {
        supported: Profiles::BASELINE,
        intersection: Profiles::BASELINE,
        selected: Profiles::BASELINE,
        max_request_payload: 1 << 20,
        max_request_items: 1,
        max_response_payload: 1 << 20,
        max_response_items: 1,
        packet_size: 64,
        session_id: 1,
    };
    ack.packet().to_vec()
}

#[test]
fn waiting_for_the_last_chunk_keeps_what_has_arrived() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(dir.path());
    let listener = Raw::listen(endpoint.path().unwrap());
    let (mut client, raw) = std::thread::scope(|scope| {
        let raw = scope.spawn(|| {
            let raw = listener.accept();
            raw.recv();
            raw.send(&small_packets());
            raw
        });
        let client = Session::connect(&endpoint, &Carrier::Seqpacket.client(1 << 20, 1), &patience()).unwrap();
        (client, raw.join().unwrap())
    });
    client.send(&Envelope::request(1, 9, 0), b"x", &patience()).unwrap();
    assert_eq!(raw.recv().len(), 33);
    // A response of 70 bytes goes as 32 + 32, then twice a chunk header with 32 and 6.
    let payload: Vec<u8> = (0..70).collect();
    let response = Envelope { payload_len: 70, ..Envelope::response_to(&Envelope::request(1, 9, 0), Status::OK, 0) };
    let packets: Vec<Vec<u8>> = ginnel_wire::Packets::new(&response, 64)
        .unwrap()
        .map(|packet| [&packet.header[..], &payload[packet.payload]].concat())
        .collect();
    assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 38]);
    raw.send(&packets[0]);
    ends_each_way(|wait| client.recv(wait).unwrap_err());
    raw.send(&packets[1]);
    ends_each_way(|wait| client.recv(wait).unwrap_err());
    raw.send(&packets[2]);
    assert_eq!(client.recv(&patience()).unwrap().payload, payload);
}

#[test]
fn a_peer_that_leaves_ends_a_wait_in_either_role() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (client, mut server) = carrier.pair(dir.path(), 64, 1);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| server.recv(&patience()).map(|_| ()).unwrap_err());
            drop(client);
            assert_eq!(name(&waiting.join().unwrap()), "closed", "{carrier:?}");
        });
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = carrier.pair(dir.path(), 64, 1);
        client.send(&Envelope::request(1, 1, 0), b"x", &patience()).unwrap();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| client.recv(&patience()).map(|_| ()).unwrap_err());
            drop(server);
            assert_eq!(name(&waiting.join().unwrap()), "closed", "{carrier:?}");
        });
        assert!(client.is_hung_up());
    }
}

#[test]
fn the_last_word_of_a_peer_that_closes_with_unread_requests_is_still_read() {
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, mut server) = carrier.pair(dir.path(), 4096, 1);
        for id in 0..10 {
            client.send(&Envelope::request(1, id, 0), &[1; 4096], &patience()).unwrap();
        }
        let request = server.recv(&patience()).unwrap().envelope;
        server.send(&Envelope::response_to(&request, Status::LIMIT_EXCEEDED, 0), b"", &patience()).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| server.close_gently(&patience()));
            assert_eq!(client.recv(&patience()).unwrap().envelope.status, Status::LIMIT_EXCEEDED, "{carrier:?}");
            assert_eq!(name(&client.recv(&patience()).unwrap_err()), "closed");
            drop(client);
        });
    }
    // Even if it closes rudely: the kernel reports the reset first.
    let dir = tempfile::tempdir().unwrap();
    let (mut client, mut server) = Carrier::Seqpacket.pair(dir.path(), 4096, 1);
    client.send(&Envelope::request(1, 1, 0), b"x", &patience()).unwrap();
    client.send(&Envelope::request(1, 2, 0), b"unread", &patience()).unwrap();
    let request = server.recv(&patience()).unwrap().envelope;
    server.send(&Envelope::response_to(&request, Status::OK, 0), b"last", &patience()).unwrap();
    drop(server);
    assert_eq!(client.recv(&patience()).unwrap().payload, b"last");
}

#[test]
fn the_socket_of_a_session_tells_readiness() {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let readable = |session: &Session, patience: i64| {
        let mut fds = [PollFd::new(session, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: patience, tv_nsec: 0 })).unwrap() == 1
    };
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = carrier.pair(dir.path(), 64, 1);
        assert!(!readable(&server, 0));
        client.send(&Envelope::request(1, 1, 0), b"x", &patience()).unwrap();
        assert!(readable(&server, 30), "{carrier:?}");
    }
    let dir = tempfile::tempdir().unwrap();
    let (client, server) = Carrier::Shm.pair(dir.path(), 64, 1);
    assert!(!readable(&server, 0));
    drop(client);
    assert!(readable(&server, 30), "in shared memory it tells the hang-up");
    let _ = server.as_fd();
}

#[test]
fn one_abort_ends_many_sleepers_and_clearing_it_lets_them_sleep_again() {
    let dir = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&Carrier::Shm.endpoint(dir.path()), Carrier::Shm.server(64)).unwrap();
    let mut pairs: Vec<_> = (0..8).map(|_| connect_to(&listener, &Carrier::Shm.client(64, 1))).collect();
    let abort = Abort::new().unwrap();
    for _ in 0..3 {
        std::thread::scope(|scope| {
            let sleepers: Vec<_> = pairs
                .iter_mut()
                .map(|(client, _)| scope.spawn(|| client.recv(&patience().or_abort(&abort)).map(|_| ()).unwrap_err()))
                .collect();
            std::thread::sleep(Duration::from_millis(10));
            abort.raise();
            for sleeper in sleepers {
                assert_eq!(name(&sleeper.join().unwrap()), "abort");
            }
        });
        abort.clear();
    }
}
