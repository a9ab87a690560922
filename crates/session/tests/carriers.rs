//! Messages of every size, in every number, over every carrier.

mod common;

use common::{CARRIERS, Carrier, SOCKETS, connect_to, patience, pattern};
use ginnel_session::{Listener, Session, SessionError};
use ginnel_wire::{Batch, BatchBuilder, Envelope, Status};

const MIB: usize = 1 << 20;

/// Answers every request with its own payload until the client leaves.
fn echo(mut session: Session) {
    loop {
        let (envelope, payload) = match session.recv(&patience()) {
            Ok(request) => (request.envelope, request.payload.to_vec()),
            Err(SessionError::Closed) => return,
            Err(error) => panic!("{error}"),
        };
        let mut response = Envelope::response_to(&envelope, Status::OK, 0);
        if envelope.batch {
            response = response.with_batch(envelope.item_count);
        }
        session.send(&response, &payload, &patience()).unwrap();
    }
}

#[test]
fn messages_from_one_byte_to_sixteen_mebibytes_arrive_whole_over_every_carrier() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = carrier.pair(dir.path(), 16 * MIB as u32, 1);
        let server = std::thread::spawn(move || echo(server));
        let packet = client.agreement().packet_size as usize;
        let around_a_packet = [packet - 33, packet - 32, packet - 31, 2 * (packet - 32), 2 * (packet - 32) + 1];
        for len in [0, 1, 7, 8, 1024, 65535, 65536, MIB + 1, 16 * MIB].into_iter().chain(around_a_packet) {
            let payload = pattern(len, len);
            client.send(&Envelope::request(1, len as u64, 0), &payload, &patience()).unwrap();
            let response = client.recv(&patience()).unwrap();
            assert_eq!((response.envelope.message_id, response.envelope.status), (len as u64, Status::OK));
            assert!(response.payload == payload, "{carrier:?}: {len} bytes came back changed");
        }
        drop(client);
        server.join().unwrap();
    }
}

#[test]
fn a_thousand_pipelined_requests_are_answered_in_reversed_order() {
    for carrier in SOCKETS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, mut server) = carrier.pair(dir.path(), 4096, 1);
        let server = std::thread::spawn(move || {
            let mut requests = Vec::new();
            for _ in 0..1000 {
                let request = server.recv(&patience()).unwrap();
                requests.push((request.envelope, request.payload.to_vec()));
            }
            for (envelope, payload) in requests.iter().rev() {
                server.send(&Envelope::response_to(envelope, Status::OK, 0), payload, &patience()).unwrap();
            }
        });
        for id in 0..1000 {
            client.send(&Envelope::request(1, id, 0), &pattern(1000, id as usize), &patience()).unwrap();
        }
        assert_eq!(client.in_flight(), 1000);
        for id in (0..1000).rev() {
            let response = client.recv(&patience()).unwrap();
            assert_eq!(response.envelope.message_id, id);
            assert_eq!(response.payload, pattern(1000, id as usize));
        }
        assert_eq!(client.in_flight(), 0);
        server.join().unwrap();
    }
}

#[test]
fn a_client_that_only_sends_until_both_sockets_are_full_does_not_deadlock() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = carrier.pair(dir.path(), 100_000, 1);
        let server = std::thread::spawn(move || echo(server));
        // 6 MB each way: no socket buffers that much.
        for id in 0..60 {
            client.send(&Envelope::request(1, id, 0), &pattern(100_000, id as usize), &patience()).unwrap();
        }
        for id in 0..60 {
            let response = client.recv(&patience()).unwrap();
            assert_eq!(response.envelope.message_id, id);
            assert!(response.payload == pattern(100_000, id as usize));
        }
        drop(client);
        server.join().unwrap();
    }
}

#[test]
fn batches_of_one_two_a_thousand_and_sixty_five_thousand_items_pass() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = carrier.pair(dir.path(), 4 * MIB as u32, 65536);
        let server = std::thread::spawn(move || echo(server));
        for items in [1, 2, 1000, 65536_u32] {
            let mut builder = BatchBuilder::new(items as usize);
            for item in 0..u64::from(items) {
                builder.push(&item.to_ne_bytes()).unwrap();
            }
            let payload = builder.finish();
            let envelope = Envelope::request(1, items.into(), 0).with_batch(items);
            client.send(&envelope, &payload, &patience()).unwrap();
            let response = client.recv(&patience()).unwrap();
            assert_eq!((response.envelope.batch, response.envelope.item_count), (true, items));
            let batch = Batch::parse(response.payload, items).unwrap();
            assert!(batch.iter().eq((0..u64::from(items)).map(u64::to_ne_bytes).collect::<Vec<_>>().iter()));
        }
        let refused = client.send(&Envelope::request(1, 9, 0).with_batch(65537), &[], &patience());
        assert!(matches!(refused, Err(SessionError::TooManyItems { items: 65537, limit: 65536 })), "{refused:?}");
        drop(client);
        server.join().unwrap();
    }
}

#[test]
fn fifty_clients_talk_at_once() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let listener = Listener::bind(&carrier.endpoint(dir.path()), carrier.server(4096)).unwrap();
        std::thread::scope(|scope| {
            for client in 0..50_usize {
                let (mut session, server) = connect_to(&listener, &carrier.client(4096, 1));
                scope.spawn(move || echo(server));
                scope.spawn(move || {
                    for id in 0..20 {
                        let payload = pattern(1 + client * 80, id);
                        session.send(&Envelope::request(1, id as u64, 0), &payload, &patience()).unwrap();
                        assert_eq!(session.recv(&patience()).unwrap().payload, payload);
                    }
                });
            }
        });
    }
}

#[test]
fn a_message_over_the_limit_is_refused_before_a_byte_is_sent() {
    for carrier in CARRIERS {
        let dir = tempfile::tempdir().unwrap();
        let (mut client, server) = carrier.pair(dir.path(), 1000, 1);
        let server = std::thread::spawn(move || echo(server));
        let refused = client.send(&Envelope::request(1, 1, 0), &[0; 1001], &patience());
        assert!(matches!(refused, Err(SessionError::PayloadTooLarge { len: 1001, limit: 1000 })), "{refused:?}");
        // The session goes on, and the id is free.
        client.send(&Envelope::request(1, 1, 0), &[0; 1000], &patience()).unwrap();
        let refused = client.send(&Envelope::request(1, 1, 0), &[0; 10], &patience());
        assert!(matches!(refused, Err(SessionError::DuplicateId { id: 1 })), "{refused:?}");
        assert_eq!(client.recv(&patience()).unwrap().payload.len(), 1000);
        drop(client);
        server.join().unwrap();
    }
}

#[test]
fn the_largest_packet_that_is_proposed_is_one_that_the_kernel_takes() {
    let dir = tempfile::tempdir().unwrap();
    let (mut client, mut server) = Carrier::Seqpacket.pair(dir.path(), MIB as u32, 1);
    let packet = client.agreement().packet_size;
    let buffer = rustix::net::sockopt::socket_send_buffer_size(&client).unwrap();
    assert_eq!(packet as usize, buffer - 32);
    // One packet, filled to the last byte.
    client.send(&Envelope::request(1, 1, 0), &vec![1; packet as usize - 32], &patience()).unwrap();
    assert_eq!(server.recv(&patience()).unwrap().payload.len(), packet as usize - 32);
}

#[test]
fn an_explicit_packet_size_is_bounded_by_what_the_kernel_takes() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Carrier::Seqpacket.server(8 << 20);
    server.packet_size = Some(64 << 20);
    let listener = Listener::bind(&Carrier::Seqpacket.endpoint(dir.path()), server).unwrap();
    let mut config = Carrier::Seqpacket.client(8 << 20, 1);
    config.packet_size = Some(64 << 20);
    let (mut client, server) = connect_to(&listener, &config);
    std::thread::scope(|scope| {
        scope.spawn(|| echo(server));
        let payload = common::pattern(4 << 20, 1);
        client.send(&Envelope::request(1, 1, 0), &payload, &patience()).unwrap();
        assert!(client.recv(&patience()).unwrap().payload == payload);
        drop(client);
    });
}
