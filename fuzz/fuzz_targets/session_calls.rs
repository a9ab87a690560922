//! A connection of layout 2 over random frames, in both roles and framings: it tells what keeps to the rules, or ends.
#![no_main]

use ginnel_session::proto::{Body, Call, Connection, Event, Input, Offer2, Pool, Timing, Verdict2, judge_hello_2};
use ginnel_wire::{Features, FrameKind, Head, Hello2, Profiles, Reply, Status};
use libfuzzer_sys::fuzz_target;
use std::time::Instant;

const LIMIT: u32 = 512;
const WINDOW: u32 = 4;

fn open(server: bool, packets: bool, packet_size: u32, now: Instant, pool: &mut Pool) -> Connection {
    let hello = Hello2 {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: LIMIT,
        max_request_items: 4,
        max_response_payload: LIMIT,
        max_response_items: 4,
        auth_token: 0,
        packet_size,
        features: Features::ALL,
        required: Features::NONE,
        interface_id: 0,
        schema_hash: 0,
        request_window: WINDOW,
        stream_window: 2,
        request_ring: 0,
        response_ring: 0,
    };
    let offer = Offer2 {
        supported: Profiles::BASELINE,
        preferred: Profiles::NONE,
        max_request_payload: LIMIT,
        max_response_payload: LIMIT,
        max_response_items: 4,
        token: 0,
        packet_size,
        features: Features::ALL,
        interface_id: 0,
        schema_hash: 0,
        request_window: WINDOW,
        stream_window: 2,
        ring: 4096,
        min_ring: 4096,
        max_ring: 4096,
        session_id: 1,
        refuse: None,
    };
    let Verdict2::Accept(ack) = judge_hello_2(&hello.encode(), &offer) else { panic!("refused") };
    let mut connection = if server {
        Connection::server(packets, Timing::default(), now)
    } else {
        Connection::client_2(hello, 0, packets, Timing::default(), now)
    };
    let said = if server { hello.packet().to_vec() } else { ack.packet().to_vec() };
    feed(&mut connection, &said, packets, now, pool);
    if server {
        connection.accept_2(&ack, now);
    }
    flush(&mut connection, now, pool);
    while connection.poll_event(pool).is_some() {}
    assert!(connection.layout_2().is_some());
    connection
}

/// Gives it `bytes`: one packet, or a piece of a stream, as far as it takes them.
fn feed(connection: &mut Connection, mut bytes: &[u8], packets: bool, now: Instant, pool: &mut Pool) {
    while !bytes.is_empty() {
        let space = connection.space(0, pool);
        let put = bytes.len().min(space.len());
        if put == 0 {
            return;
        }
        space[..put].copy_from_slice(&bytes[..put]);
        connection.handle(now, Input::Received(if packets { bytes.len() } else { put }));
        if packets {
            return;
        }
        bytes = &bytes[put..];
    }
}

fn flush(connection: &mut Connection, now: Instant, pool: &mut Pool) {
    while let Some(transmit) = connection.poll_transmit(&[]) {
        let len = transmit.head.len() + transmit.body.len();
        connection.transmitted(now, len, pool);
    }
}

fuzz_target!(|input: (u8, Vec<(u8, u8, u8, Vec<u8>)>)| {
    let (choice, steps) = input;
    let (now, mut pool) = (Instant::now(), Pool::new(1 << 20));
    let (server, packets) = (choice & 1 == 0, choice & 2 == 0);
    let packet_size = 33 + u32::from(choice >> 2) * 8;
    let mut connection = open(server, packets, packet_size, now, &mut pool);
    for (what, id, more, bytes) in steps {
        let id = u64::from(id % 12);
        let call = |reply| Call { method: 1, reply, batch: None, timeout: None };
        let body = || Body::Owned(bytes.clone());
        // What this side does; all of it may be refused.
        match what >> 5 {
            0 => _ = connection.call(now, &call(Reply::One), body()),
            1 => _ = connection.call(now, &call(Reply::Stream), body()),
            2 => _ = (connection.cancel(now, id), connection.grant(now, id, more.into())),
            3 => _ = connection.respond(now, id, body()),
            4 => _ = connection.item(now, id, None, body()),
            5 => _ = connection.fail(now, id, Status::ABORTED, None),
            6 if more == 0 => _ = connection.go_away(now, None),
            _ => {}
        }
        if more & 1 == 0 {
            flush(&mut connection, now, &mut pool);
        }
        // What the other side says: a frame with a valid head, or bytes.
        let kind = match what & 15 {
            0 => FrameKind::Request(Reply::One),
            1 => FrameKind::Request(Reply::Stream),
            2 => FrameKind::Request(Reply::None),
            3 => FrameKind::Methods,
            4 => FrameKind::Cancel,
            5 => FrameKind::Credit,
            6 => FrameKind::GoAway,
            7 => FrameKind::Response,
            8 => FrameKind::Item,
            9 => FrameKind::End,
            10 => FrameKind::Error(Status(u16::from(more).max(1))),
            11 => FrameKind::MethodsAck,
            _ => {
                feed(&mut connection, &bytes, packets, now, &mut pool);
                continue;
            }
        };
        let items = if what & 16 == 0 { 1 } else { u32::from(more % 6) };
        let payload_len = bytes.len() as u32;
        let head = Head { kind, method: 1, batch: what & 16 != 0, items, id, payload_len };
        feed(&mut connection, &[&head.encode()[..], &bytes].concat(), packets, now, &mut pool);
        while let Some(event) = connection.poll_event(&mut pool) {
            match event {
                Event::Message(message) => {
                    assert!(message.payload().len() <= 16 << 10);
                    assert!(message.head().is_some());
                    pool.put(message.into_buffer());
                }
                Event::Ended(_) => return,
                _ => {}
            }
        }
        assert!(connection.in_flight() <= WINDOW as usize);
    }
});
