//! A session's state machine over random bytes, in every framing and both roles: it delivers messages within the limits
//! or ends, and asks for no more memory than has arrived.
#![no_main]

use ginnel_session::proto::{Body, Connection, Event, Framing, Input, Offer, Pool, Role, Timing, Verdict, propose};
use ginnel_session::{ClientConfig, Limits, ServerConfig};
use ginnel_wire::{Envelope, HelloAck, Kind, Status};
use libfuzzer_sys::fuzz_target;
use std::time::Instant;

const LIMIT: u32 = 4096;

/// A session that stands, and the memory for its messages.
fn open(role: Role, framing: Framing, now: Instant) -> (Connection, Pool) {
    let limits = Limits { max_payload: LIMIT, max_items: 8 };
    let packet = if let Framing::Packets(size) = framing { size } else { 4096 };
    let packets = framing != Framing::Stream;
    let hello = propose(&ClientConfig { request: limits, response: limits, ..Default::default() }, packet);
    let server = ServerConfig { max_request_payload: LIMIT, max_response_payload: LIMIT, ..Default::default() };
    let mut pool = Pool::new(1 << 20);
    let say = |connection: &mut Connection, pool: &mut Pool, packet: &[u8]| {
        let mut said = packet;
        while !said.is_empty() {
            let space = connection.space(0, pool);
            let len = said.len().min(space.len());
            space[..len].copy_from_slice(&said[..len]);
            connection.handle(now, Input::Received(len));
            said = &said[len..];
        }
    };
    let ack = |hello: &ginnel_wire::Hello| -> HelloAck {
        match ginnel_session::proto::judge_hello(&hello.packet(), &Offer::new(&server, packet, 1)) {
            Verdict::Accept(ack) => ack,
            other => panic!("{other:?}"),
        }
    };
    let mut connection = match role {
        Role::Client => Connection::client(hello, packets, Timing::default(), now),
        Role::Server => Connection::server(packets, Timing::default(), now),
    };
    match role {
        Role::Client => say(&mut connection, &mut pool, &ack(&hello).packet()),
        Role::Server => {
            say(&mut connection, &mut pool, &hello.packet());
            connection.accept(&ack(&hello), now);
        }
    }
    while let Some(transmit) = connection.poll_transmit(&[]) {
        let len = transmit.head.len() + transmit.body.len();
        connection.transmitted(now, len, &mut pool);
    }
    connection.set_framing(framing);
    (connection, pool)
}

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (choice, steps, mut data) = input;
    let now = Instant::now();
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let framing = match choice >> 1 & 3 {
        0 => Framing::Stream,
        1 => Framing::Slot(LIMIT + 64),
        _ => Framing::Packets(33 + u32::from(choice >> 3) * 8),
    };
    let (mut connection, mut pool) = open(role, framing, now);
    while connection.poll_event(&mut pool).is_some() {}
    for id in 0..4 {
        let _ = connection.send(now, &Envelope::request(1, id, 0), Body::Owned(Vec::new()));
    }
    for step in steps {
        let len = (usize::from(*step & 0x3f) * 3 + 1).min(data.len());
        let space = connection.space(len, &mut pool);
        let put = len.min(space.len());
        space[..put].copy_from_slice(&data[..put]);
        // With the constants in place now and then, so that what lies behind their check is reached.
        if put >= 32 && step & 0xc0 != 0 {
            let envelope = Envelope { kind: role_receives(role), ..envelope_like(&data[16..]) };
            match step >> 6 {
                1 => space[..32].copy_from_slice(&Envelope { payload_len: put as u32 - 32, ..envelope }.encode()),
                2 => space[..32].copy_from_slice(&envelope.encode()),
                _ => space[..8].copy_from_slice(&[0x4b, 0x48, 0x43, 0x4e, 1, 0, 0, 0]),
            }
        }
        // A slot or a stream never delivers more than there is room for; a packet may have been longer.
        let told = if matches!(framing, Framing::Packets(_)) { len } else { put };
        data = &data[len..];
        if told == 0 {
            return;
        }
        connection.handle(now, Input::Received(told));
        while let Some(event) = connection.poll_event(&mut pool) {
            match event {
                Event::Message(message) => {
                    assert!(message.payload().len() <= LIMIT as usize);
                    assert_eq!(message.payload().len(), message.envelope.payload_len as usize);
                    assert!(message.envelope.item_count <= 8);
                    pool.put(message.into_buffer());
                }
                Event::Ended(_) => return,
                other => panic!("{other:?}"),
            }
        }
    }
});

fn role_receives(role: Role) -> Kind {
    if role == Role::Server { Kind::Request } else { Kind::Response }
}

/// An envelope with plausible fields.
fn envelope_like(bytes: &[u8]) -> Envelope {
    let at = |at: usize| bytes.get(at).copied().unwrap_or(0);
    Envelope {
        kind: Kind::Request,
        batch: at(0) & 1 != 0,
        code: 1,
        status: Status(u16::from(at(1))),
        payload_len: u32::from(u16::from_ne_bytes([at(2), at(3)])) % (LIMIT + 2),
        item_count: u32::from(at(4)) % 10,
        message_id: u64::from(at(5)) % 5,
    }
}
