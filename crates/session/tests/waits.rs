//! Every wait ends at its deadline, at an abort and when the peer leaves: from connect to the last chunk.

mod common;

use common::{CARRIERS, Carrier, Raw, SOCKETS, asleep_in, connect_to, eventually, patience, this_thread, until_asleep};
use ginnel_session::proto::Role;
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

/// Runs `operation` against a deadline, against an abort that is raised before it and against one that is raised while
/// it waits. Each must end it, and not before its time.
fn ends_each_way(mut operation: impl FnMut(&Wait<'_>) -> SessionError) {
    let begin = Instant::now();
    assert_eq!(name(&operation(&Wait::at_most(SHORT))), "deadline");
    assert!(begin.elapsed() >= SHORT, "before its deadline");
    let abort = Abort::new().unwrap();
    abort.raise();
    assert_eq!(name(&operation(&patience().or_abort(&abort))), "abort");
    abort.clear();
    let waiting = this_thread();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            until_asleep(waiting);
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

/// A session over `carrier` whose other end answers it: the side in `role` first.
fn pair_of(carrier: Carrier, role: Role) -> (tempfile::TempDir, Session, Session) {
    let dir = tempfile::tempdir().unwrap();
    let (client, server) = carrier.pair(dir.path(), 64, 1);
    let (own, other) = if role == Role::Client { (client, server) } else { (server, client) };
    (dir, own, other)
}

/// Lets the other end say something once `waiter` sleeps, which ends its wait; the system call in which it slept.
fn slept_in(waiter: &mut Session, other: &mut Session, wait: &Wait<'_>, say: &Envelope) -> i64 {
    let thread = this_thread();
    std::thread::scope(|scope| {
        let other = scope.spawn(move || {
            let call = until_asleep(thread);
            other.send(say, b"awake", &patience()).unwrap();
            call
        });
        assert_eq!(waiter.recv(wait).unwrap().payload, b"awake");
        other.join().unwrap()
    })
}

#[test]
fn a_wait_that_the_socket_can_end_costs_no_system_call_of_its_own() {
    let (own, foreign) = (Abort::new().unwrap(), Abort::new().unwrap());
    for carrier in SOCKETS {
        let (_dir, mut server, mut client) = pair_of(carrier, Role::Server);
        server.end_with(&own);
        client.end_with(&own);
        let waits = [
            (Wait::forever(), libc::SYS_recvfrom),
            (patience(), libc::SYS_recvfrom),
            (patience().or_abort(&own), libc::SYS_recvfrom),
            (Wait::forever().or_abort(&own), libc::SYS_recvfrom),
            // The socket knows nothing of this one.
            (patience().or_abort(&foreign), libc::SYS_ppoll),
        ];
        for (id, (wait, expected)) in (1..).zip(&waits) {
            let request = Envelope::request(1, id, 0);
            assert_eq!(slept_in(&mut server, &mut client, wait, &request), *expected, "{carrier:?} {wait:?}");
            let response = Envelope::response_to(&request, Status::OK, 0);
            assert_eq!(slept_in(&mut client, &mut server, wait, &response), *expected, "{carrier:?} {wait:?}");
        }
    }
}

#[test]
fn a_deadline_holds_where_the_socket_sleeps_and_the_session_goes_on() {
    const LONG: Duration = Duration::from_millis(300);
    for carrier in SOCKETS {
        for role in [Role::Client, Role::Server] {
            let (_dir, mut own, other) = pair_of(carrier, role);
            let begin = Instant::now();
            assert_eq!(name(&own.recv(&Wait::at_most(LONG)).unwrap_err()), "deadline");
            assert!(begin.elapsed() >= LONG, "before its deadline");
            // The timeout of the socket outlives the wait that set it, and must not cut a longer one short.
            let waiting = this_thread();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    eventually("it sleeps in the socket again", || asleep_in(waiting) == Some(libc::SYS_recvfrom));
                    drop(other);
                });
                assert_eq!(name(&own.recv(&Wait::forever()).unwrap_err()), "closed", "{carrier:?} {role:?}");
            });
        }
    }
}

#[test]
fn an_abort_that_may_end_the_session_ends_it_and_a_server_still_has_the_last_word() {
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        let abort = Abort::new().unwrap();
        let (mut client, mut server) = carrier.pair(dir.path(), 64, 1);
        server.end_with(&abort);
        client.send(&Envelope::request(1, 1, 0), b"x", &patience()).unwrap();
        let request = server.recv(&patience()).unwrap().envelope;
        let waiting = this_thread();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(until_asleep(waiting), libc::SYS_recvfrom);
                abort.raise();
            });
            assert_eq!(name(&server.recv(&patience().or_abort(&abort)).unwrap_err()), "abort", "{carrier:?}");
        });
        server.send(&Envelope::response_to(&request, Status::OK, 0), b"last", &patience()).unwrap();
        assert_eq!(client.recv(&patience()).unwrap().payload, b"last");
        drop((client, server));

        // Raised already: the client is hung up on before it has said anything, and for good.
        let (mut client, mut server) = carrier.pair(dir.path(), 64, 1);
        client.end_with(&abort);
        assert_eq!(name(&client.recv(&patience().or_abort(&abort)).unwrap_err()), "abort", "{carrier:?}");
        assert_eq!(name(&server.recv(&patience()).unwrap_err()), "closed", "{carrier:?}");
        abort.clear();
        assert_eq!(name(&client.recv(&patience().or_abort(&abort)).unwrap_err()), "closed", "{carrier:?}");
        assert!(client.is_hung_up());

        // A session that is gone is no longer the abort's business.
        drop((client, server));
        abort.raise();
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
        let sending = this_thread();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                until_asleep(sending);
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
            let (tell, told) = std::sync::mpsc::channel();
            let sleepers: Vec<_> = pairs
                .iter_mut()
                .map(|(client, _)| {
                    let (tell, abort) = (tell.clone(), &abort);
                    scope.spawn(move || {
                        tell.send(this_thread()).unwrap();
                        client.recv(&patience().or_abort(abort)).map(|_| ()).unwrap_err()
                    })
                })
                .collect();
            for thread in told.iter().take(sleepers.len()) {
                assert_eq!(until_asleep(thread), common::two_words());
            }
            abort.raise();
            for sleeper in sleepers {
                assert_eq!(name(&sleeper.join().unwrap()), "abort");
            }
        });
        abort.clear();
    }
}
