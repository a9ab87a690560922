//! A server that an event loop of the program's own drives; and what event loops are known to get wrong with wakes.

#[path = "common/mod.rs"]
mod common;
#[path = "common/peer.rs"]
mod peer;

use common::{PATIENCE, size};
use ginnel_service::{
    Deadline, Driven, Execution, Failure, Interface, OwnedRequest, Request, Responder, Router, Server,
};
use ginnel_wire::{Envelope, Hello, Profiles};
use peer::{Told, WAYS, Way};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const ECHO: u16 = 1;
const HOLD: u16 = 2;
const AWAY: u16 = 3;

fn echo(request: &Request<'_>, response: &mut Vec<u8>) -> Result<(), Failure> {
    response.extend_from_slice(request.payload);
    Ok(())
}

fn driven(way: Way, dir: &tempfile::TempDir) -> (Driven, Receiver<(OwnedRequest, Responder)>) {
    let (hold, held) = channel();
    let router = Router::new(Interface::named("driven"))
        .handler(ECHO, "echo", echo)
        .execution(ECHO, Execution::Inline)
        .responder(HOLD, "hold", move |request, responder| hold.send((request, responder)).unwrap())
        .execution(HOLD, Execution::Inline)
        .handler(AWAY, "away", echo)
        .execution(AWAY, Execution::Executor);
    let mut options = way.options();
    options.session.supported = Profiles::BASELINE | Profiles::RING;
    (Server::driven(&way.endpoint(dir.path()), options, router).unwrap(), held)
}

/// Whether the descriptor tells of something within that time.
fn readable(server: &Driven, within: Duration) -> bool {
    let timeout = Deadline::after(within).min(server.due()).timespec();
    poll(&mut [PollFd::new(server, PollFlags::IN)], timeout.as_ref()).unwrap() > 0
}

fn turn(server: &mut Driven) {
    server.turn(Deadline::after(Duration::ZERO));
}

/// The program's loop, until `over`.
fn run(server: &mut Driven, over: &AtomicBool) {
    while !over.load(Ordering::Relaxed) {
        readable(server, Duration::from_millis(100));
        turn(server);
    }
}

/// Turns until nothing is left to be done, and says how often.
fn settle(server: &mut Driven) -> usize {
    let mut turns = 0;
    while readable(server, Duration::ZERO) {
        turn(server);
        turns += 1;
        assert!(turns < 1000, "it spins");
    }
    turns
}

#[test]
fn a_loop_of_the_programs_own_serves_every_carrier_and_misses_no_wake() {
    for way in WAYS {
        let dir = tempfile::tempdir().unwrap();
        let (mut server, held) = driven(way, &dir);
        let (endpoint, over) = (server.endpoint().clone(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // A lost wake would hang until the client's patience is over: no timeout helps.
                    let timeout = server.due().min(Deadline::after(PATIENCE)).timespec();
                    poll(&mut [PollFd::new(&server, PollFlags::IN)], timeout.as_ref()).unwrap();
                    turn(&mut server);
                }
            });
            let mut peer = way.connect_with(&endpoint, |_| ());
            for round in 0..size(200, 20_000) {
                let body = round.to_ne_bytes();
                let held_id = peer.ask(HOLD, &body);
                let (request, responder) = held.recv_timeout(PATIENCE).unwrap();
                for method in [ECHO, AWAY] {
                    let id = peer.ask(method, &body);
                    peer.expect(id, Told::Response(body.to_vec()));
                }
                drop(request);
                responder.respond(body.to_vec());
                peer.expect(held_id, Told::Response(body.to_vec()));
            }
            over.store(true, Ordering::Relaxed);
            peer.ask(ECHO, b"");
        });
    }
}

#[test]
fn a_driven_server_drains_within_turns() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, held) = driven(Way::Ring, &dir);
    let endpoint = server.endpoint().clone();
    let client = std::thread::spawn(move || {
        let mut peer = Way::Ring.connect_with(&endpoint, |_| ());
        let id = peer.ask(HOLD, b"");
        assert!(matches!(peer.event(), ginnel_session::proto::Event::GoAway { .. }));
        peer.expect(id, Told::Response(b"last".to_vec()));
        peer.ended();
    });
    let (_, responder) = loop {
        readable(&server, PATIENCE);
        turn(&mut server);
        if let Ok(call) = held.try_recv() {
            break call;
        }
    };
    server.drain(PATIENCE);
    settle(&mut server);
    assert!(!server.is_over(), "a call is open");
    responder.respond(b"last".to_vec());
    let over = Deadline::after(PATIENCE);
    while !server.is_over() && !over.passed() {
        readable(&server, PATIENCE);
        turn(&mut server);
    }
    client.join().unwrap();
    assert!(server.is_over() && !server.endpoint().path().unwrap().exists());
}

#[test]
fn one_of_many_sources_that_tells_once_does_not_keep_the_loop_awake() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, _held) = driven(Way::Ring, &dir);
    let (endpoint, over) = (server.endpoint().clone(), AtomicBool::new(false));
    let mut peers = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let ways = [Way::Ring, Way::Seqpacket, Way::Ring, Way::Seqpacket];
            let peers = ways.map(|way| way.connect_with(&endpoint, |_| ()));
            over.store(true, Ordering::Relaxed);
            peers
        });
        run(&mut server, &over);
        client.join().unwrap()
    });
    settle(&mut server);
    for at in [0, 1, 2, 3, 0] {
        let id = peers[at].ask(ECHO, b"once");
        assert!(readable(&server, PATIENCE), "it is not told");
        let turns = settle(&mut server);
        assert!(turns < 10, "{turns} turns for one message");
        peers[at].expect(id, Told::Response(b"once".to_vec()));
        settle(&mut server);
        assert!(!readable(&server, Duration::from_millis(20)), "something is told that nobody did");
    }
    // One that leaves is told once, too.
    let [gone, ..] = peers;
    drop(gone);
    assert!(readable(&server, PATIENCE));
    assert!(settle(&mut server) < 10);
    assert_eq!(server.counters().active, 3);
}

#[test]
fn what_came_before_it_was_waited_for_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, _held) = driven(Way::Stream, &dir);
    settle(&mut server);
    // Connection, greeting and request are there before the server looks at any of them.
    let mut raw = UnixStream::connect(server.endpoint().path().unwrap()).unwrap();
    let hello = Hello {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: 1024,
        max_request_items: 1,
        max_response_payload: 1024,
        max_response_items: 1,
        auth_token: 7,
        packet_size: 4096,
    };
    let request = Envelope { payload_len: 5, ..Envelope::request(ECHO, 1, 0) };
    raw.write_all(&[&hello.packet()[..], &request.encode(), b"early"].concat()).unwrap();
    assert!(readable(&server, PATIENCE));
    settle(&mut server);
    let mut answers = vec![0; 80 + 32 + 5];
    raw.set_read_timeout(Some(PATIENCE)).unwrap();
    raw.read_exact(&mut answers).unwrap();
    assert_eq!(&answers[80 + 32..], b"early");
}

#[test]
fn a_wake_is_not_used_up_by_looking_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, held) = driven(Way::Seqpacket, &dir);
    let (endpoint, over) = (server.endpoint().clone(), AtomicBool::new(false));
    let (mut peer, id) = std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut peer = Way::Seqpacket.connect_with(&endpoint, |_| ());
            let id = peer.ask(HOLD, b"");
            over.store(true, Ordering::Relaxed);
            (peer, id)
        });
        run(&mut server, &over);
        client.join().unwrap()
    });
    settle(&mut server);
    let (_, responder) = held.recv_timeout(PATIENCE).unwrap();
    settle(&mut server);
    responder.respond(b"here".to_vec());
    for _ in 0..3 {
        assert!(readable(&server, PATIENCE), "a look took it away");
    }
    settle(&mut server);
    peer.expect(id, Told::Response(b"here".to_vec()));
}

#[test]
fn a_session_that_waits_for_room_goes_on_when_a_request_is_dropped_long_before_its_answer() {
    let dir = tempfile::tempdir().unwrap();
    let (hold, held) = channel::<(OwnedRequest, Responder)>();
    let router = Router::new(Interface::named("room"))
        .responder(HOLD, "hold", move |request, responder| hold.send((request, responder)).unwrap())
        .handler(ECHO, "echo", echo);
    let server = Way::Seqpacket.serve(dir.path(), router, |options| options.request_budget = 1000);
    let (mut holder, mut other) = (Way::Seqpacket.connect(&server), Way::Seqpacket.connect(&server));
    holder.ask(HOLD, &[0; 2000]);
    let (request, _kept) = held.recv_timeout(PATIENCE).unwrap();
    let id = other.ask(ECHO, b"waits");
    common::let_pass(Duration::from_millis(20));
    assert!(other.try_event().is_none(), "beyond the budget");
    drop(request);
    other.expect(id, Told::Response(b"waits".to_vec()));
}
