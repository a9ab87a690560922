//! What a server has only so much of: descriptors, places, patience. Nobody hangs for the lack of it.

mod common;

use common::{CARRIERS, CODE, Carrier, Process, await_state, echo, eventually, play, ready};
use ginnel_service::{BaselineClient, CallError, ClientOptions, Server, ServerOptions, State};
use ginnel_session::{ConnectError, Refusal, Session, SessionError, Wait};
use std::time::Duration;

#[test]
fn child() {
    play();
}

#[test]
fn a_server_without_descriptors_refuses_and_goes_on_when_it_has_some_again() {
    for carrier in [Carrier::Seqpacket, Carrier::Stream, Carrier::Shm] {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Process::start("server", carrier, dir.path(), 0, &[("GINNEL_TEST_FILES", "64".to_owned())]);
        server.line("port");
        let endpoint = carrier.endpoint(dir.path(), 0);
        let config = carrier.client().session;
        let mut sessions = Vec::new();
        let mut refused = 0;
        for _ in 0..100 {
            // Far below the time that the wait allows, or it would be a hang.
            match Session::connect(&endpoint, &config, &Wait::at_most(common::PATIENCE)) {
                Ok(session) => sessions.push(session),
                Err(ConnectError::Refused(Refusal::Unavailable { .. }))
                | Err(ConnectError::Session(SessionError::Closed)) => refused += 1,
                Err(other) => panic!("{carrier:?}: {other:?}"),
            }
        }
        assert!(sessions.len() >= 5 && refused > 0, "{carrier:?}: {} begin, {refused} are refused", sessions.len());
        drop(sessions);
        let mut client = BaselineClient::new(&endpoint, carrier.client()).unwrap();
        await_state(&mut client, State::Ready);
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        server.end();
    }
}

#[test]
fn the_idlest_session_makes_room_for_a_newcomer_and_its_client_does_not_notice() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let mut options = carrier.server();
        (options.max_sessions, options.idle_timeout) = (2, Duration::ZERO);
        let server = Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, echo).unwrap();
        let mut clients = [0, 1].map(|_| ready(server.endpoint(), carrier.client()));
        for client in &mut clients {
            client.call(CODE, b"x").unwrap();
            // Its session waits for the next request before the other's does.
            common::let_pass(Duration::from_millis(100));
        }
        let mut newcomer = ready(server.endpoint(), carrier.client());
        assert_eq!(newcomer.call(CODE, b"new").unwrap(), b"new");
        assert_eq!((server.counters().made_room, server.counters().active), (1, 2), "{carrier:?}");
        // The second was used after the first: it stayed.
        assert_eq!(clients[1].call(CODE, b"x").unwrap(), b"x");
        assert_eq!(clients[1].counters().reconnects, 0);
        assert_eq!(clients[0].call(CODE, b"x").unwrap(), b"x");
        assert_eq!(clients[0].counters().reconnects, 1);
        drop((clients, newcomer));
        server.stop();
    }
}

#[test]
fn a_session_that_is_in_use_makes_no_room() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = Carrier::Seqpacket.server();
    (options.max_sessions, options.idle_timeout) = (1, Duration::ZERO);
    let server = Server::start(&Carrier::Seqpacket.endpoint(dir.path(), 0), options, CODE, echo).unwrap();
    let mut busy = ready(server.endpoint(), Carrier::Seqpacket.client());
    let abort = busy.abort_handle();
    std::thread::scope(|scope| {
        scope.spawn(move || busy.call(CODE, b"!hang").map(drop));
        eventually("the handler has it", || server.counters().requests == 1);
        let mut newcomer = BaselineClient::new(server.endpoint(), Carrier::Seqpacket.client()).unwrap();
        assert_eq!(newcomer.refresh(), State::Disconnected);
        // Counted after the client was told.
        eventually("it was refused", || server.counters().refused == 1);
        assert_eq!(server.counters().made_room, 0);
        abort.raise();
    });
}

#[test]
fn half_a_request_holds_its_place_no_longer_than_the_message_timeout() {
    for carrier in [Carrier::Seqpacket, Carrier::Stream, Carrier::Tcp] {
        let dir = tempfile::tempdir().unwrap();
        let mut options = carrier.server();
        options.session.message_timeout = Duration::from_millis(50);
        options.session.packet_size = Some(64);
        let server = Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, echo).unwrap();
        let mut session =
            Session::connect(server.endpoint(), &carrier.client().session, &Wait::at_most(common::PATIENCE)).unwrap();
        eventually("a session", || server.counters().active == 1);
        // The first packet of a request of 500 bytes, past the session that would send the others, too.
        let envelope = ginnel_wire::Envelope { payload_len: 500, ..ginnel_wire::Envelope::request(CODE, 1, 0) };
        let first = [&envelope.encode()[..], &[1; 32]].concat();
        rustix::net::send(&session, &first, rustix::net::SendFlags::NOSIGNAL).unwrap();
        eventually("its place is free", || server.counters().active == 0);
        let said = session.recv(&Wait::at_most(common::PATIENCE)).map(drop);
        assert!(matches!(said, Err(SessionError::Closed)), "{carrier:?}: {said:?}");
        // Between requests a session may wait as long as it likes.
        let mut idle = ready(server.endpoint(), carrier.client());
        idle.call(CODE, b"x").unwrap();
        common::let_pass(Duration::from_millis(150));
        idle.call(CODE, b"x").unwrap();
        assert_eq!(idle.counters().reconnects, 0);
    }
}

#[test]
fn the_longest_duration_is_never_in_every_option() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let mut options = carrier.server();
        options.session.handshake_timeout = Duration::MAX;
        options.session.message_timeout = Duration::MAX;
        options.send_timeout = Duration::MAX;
        options.idle_timeout = Duration::MAX;
        options.max_sessions = 1;
        let server = Server::start(&carrier.endpoint(dir.path(), 0), options, CODE, echo).unwrap();
        // One that says nothing, so that the thread that accepts has a deadline to wait for.
        let silent = (carrier == Carrier::Tcp)
            .then(|| std::net::TcpStream::connect(server.endpoint().tcp_address().unwrap()).unwrap());
        let mut options = carrier.client();
        (options.call_timeout, options.connect_timeout) = (Duration::MAX, Duration::MAX);
        let mut client = ready(server.endpoint(), options);
        assert_eq!(client.call(CODE, b"x").unwrap(), b"x");
        let mut newcomer = BaselineClient::new(server.endpoint(), carrier.client()).unwrap();
        assert_eq!(newcomer.refresh(), State::Disconnected, "full, and nobody ever makes room");
        assert!(server.is_accepting());
        drop((client, silent));
        assert_eq!(server.drain(Duration::MAX).cut_off, 0);
    }
}

#[test]
fn a_client_of_layout_2_is_counted_and_kept_out_as_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let endpoint = Carrier::Seqpacket.endpoint(dir.path(), 0);
    let options = ServerOptions { max_sessions: 1, idle_timeout: common::PATIENCE, ..ServerOptions::default() };
    let mute = |_: &ginnel_service::Request<'_>, _: &mut Vec<u8>| Ok(());
    let server = Server::start(&endpoint, options, CODE, mute).unwrap();
    let first = ginnel_service::Client::new(&endpoint, ClientOptions::default()).unwrap();
    // Larger than what a server begins with: proposed, learned and granted at once.
    assert_eq!(&*first.call(CODE, &[3; 50_000]).unwrap(), b"");
    assert!(first.layout_2().is_some());
    let counters = server.counters();
    assert_eq!((counters.sessions, counters.active, counters.refused), (1, 1, 0));
    let second = ginnel_service::Client::new(&endpoint, ClientOptions::default()).unwrap();
    let refused = second.call(CODE, b"x").unwrap_err();
    assert!(matches!(refused, CallError::NotReady { .. }), "{refused}");
    let counters = server.counters();
    assert_eq!((counters.sessions, counters.active), (1, 1));
    assert!(counters.refused > 0);
    server.stop();
}
