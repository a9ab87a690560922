//! One endpoint, one server in a process of its own, and clients of both layouts at the same time.

#[path = "common/mod.rs"]
mod common;
#[path = "common/peer.rs"]
mod peer;

use common::{CODE, Carrier, PATIENCE, Process, ready, size};
use ginnel_service::Router;
use ginnel_session::Endpoint;
use ginnel_session::proto::{Body, Call, End};
use ginnel_wire::{Envelope, Hello, HelloAck, Kind, Profiles, Status};
use peer::{Told, Way};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::time::Instant;

#[test]
fn child() {
    common::play();
}

/// A peer of layout 1 whose bytes are written here.
fn scripted(endpoint: &Endpoint, rounds: usize) {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
    rustix::net::sockopt::set_socket_timeout(&socket, rustix::net::sockopt::Timeout::Recv, Some(PATIENCE)).unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(endpoint.path().unwrap()).unwrap()).unwrap();
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
    let send = |bytes: &[u8]| assert_eq!(rustix::net::send(&socket, bytes, SendFlags::NOSIGNAL).unwrap(), bytes.len());
    let receive = || {
        let mut packet = vec![0; 4096];
        let (_, len) = rustix::net::recv(&socket, &mut packet[..], RecvFlags::empty()).unwrap();
        packet.truncate(len);
        packet
    };
    send(&hello.packet());
    let answer = receive();
    assert_eq!(Envelope::decode(&answer).unwrap().status, Status::OK);
    assert_eq!(HelloAck::decode(&answer[32..]).unwrap().selected, Profiles::BASELINE);
    for round in 0..rounds {
        // Layout 1 lets a client use an id again.
        let id = round as u64 % 3;
        let body = round.to_ne_bytes();
        let request = Envelope { payload_len: 8, ..Envelope::request(CODE, id, 0) };
        send(&[&request.encode()[..], &body].concat());
        let answer = receive();
        let envelope = Envelope::decode(&answer).unwrap();
        assert_eq!((envelope.kind, envelope.code, envelope.message_id), (Kind::Response, CODE, id));
        assert_eq!((envelope.status, &answer[32..]), (Status::OK, &body[..]));
    }
    // What layout 1 is told of a failure.
    for (body, status) in [(&b"!fail"[..], Status::INTERNAL_ERROR), (b"!panic", Status::INTERNAL_ERROR)] {
        let request = Envelope { payload_len: body.len() as u32, ..Envelope::request(CODE, 1, 0) };
        send(&[&request.encode()[..], body].concat());
        assert_eq!(Envelope::decode(&receive()).unwrap().status, status);
    }
    let request = Envelope::request(CODE + 1, 1, 0);
    send(&request.encode());
    assert_eq!(Envelope::decode(&receive()).unwrap().status, Status::UNSUPPORTED);
}

#[test]
fn clients_of_layout_1_are_served_beside_rings_by_another_process_and_all_see_it_die() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Process::start("router", Carrier::Shm, dir.path(), 0, &[]);
    server.line("serving");
    let endpoint = Way::Ring.endpoint(dir.path());
    let rounds = size(200, 20_000);
    std::thread::scope(|scope| {
        for way in [Way::Ring, Way::Ring, Way::Seqpacket] {
            let endpoint = &endpoint;
            scope.spawn(move || {
                let mut peer = way.connect_with(endpoint, |_| ());
                for round in 0..rounds {
                    // Several at a time, in whatever order they come.
                    let mut ids: Vec<u64> = (0..4).map(|_| peer.ask(CODE, &round.to_ne_bytes())).collect();
                    while !ids.is_empty() {
                        let (id, told) = peer.told();
                        assert_eq!(told, Told::Response(round.to_ne_bytes().to_vec()));
                        ids.retain(|other| *other != id);
                    }
                }
            });
        }
        scope.spawn(|| scripted(&endpoint, rounds));
        for carrier in [Carrier::Shm, Carrier::Seqpacket] {
            let endpoint = &endpoint;
            scope.spawn(move || {
                let mut client = ready(endpoint, carrier.client());
                for round in 0..rounds {
                    assert_eq!(client.call(CODE, &round.to_ne_bytes()).unwrap(), round.to_ne_bytes());
                }
            });
        }
    });
    // Calls are open in every one of them when it dies.
    let mut peers = [Way::Ring, Way::Seqpacket].map(|way| way.connect_with(&endpoint, |_| ()));
    for peer in &mut peers {
        peer.ask(CODE, b"!hang");
    }
    server.kill();
    for peer in &mut peers {
        assert_eq!(peer.ended(), End::HungUp);
    }
}

#[test]
fn a_server_that_dies_is_noticed_by_rings_that_send_and_by_those_that_wait() {
    for _ in 0..size(3, 100) {
        let dir = tempfile::tempdir().unwrap();
        let mut server = Process::start("router", Carrier::Seqpacket, dir.path(), 0, &[]);
        server.line("serving");
        let endpoint = Way::Ring.endpoint(dir.path());
        let (mut sends, mut waits) =
            (Way::Ring.connect_with(&endpoint, |_| ()), Way::Ring.connect_with(&endpoint, |_| ()));
        let sender = std::thread::spawn(move || {
            loop {
                let call = Call { method: CODE, ..Call::default() };
                if sends.connection.can_send() {
                    sends.connection.call(Instant::now(), &call, Body::Owned(vec![1; 1000])).unwrap();
                    sends.flush();
                }
                if let Some(ginnel_session::proto::Event::Ended(end)) = sends.try_event() {
                    return end;
                }
                if !sends.connection.can_send() && sends.carrier.arm() {
                    std::thread::yield_now();
                }
            }
        });
        server.kill();
        assert_eq!(waits.ended(), End::HungUp);
        assert_eq!(sender.join().unwrap(), End::HungUp);
    }
}

#[test]
fn a_server_of_many_methods_is_asked_for_each_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut router = Router::new(ginnel_service::Interface::named("many"));
    for id in 0..2000 {
        let answer = id.to_string();
        let handler =
            move |_: &ginnel_service::Request<'_>, response: &mut Vec<u8>| -> Result<(), ginnel_service::Failure> {
                response.extend_from_slice(answer.as_bytes());
                Ok(())
            };
        router = router.handler(id, "one of many", handler);
    }
    let server = Way::Ring.serve(dir.path(), router, |_| ());
    let mut peer = Way::Ring.connect(&server);
    for method in [0, 7, 1999] {
        let id = peer.ask(method, b"");
        peer.expect(id, Told::Response(method.to_string().into_bytes()));
    }
    // More than one answer can tell; a part of them can be asked for.
    let id = peer.connection.ask_methods(Instant::now(), &[]).unwrap();
    peer.flush();
    peer.expect(id, Told::Error(Status::LIMIT_EXCEEDED));
    peer.connection.ask_methods(Instant::now(), &[5, 3000]).unwrap();
    peer.flush();
    assert_eq!(peer.message().head().unwrap().items, 1);
}
