//! A session's state machine over random bytes, in every framing and both roles: it delivers messages within the limits or
//! ends, and asks for no more memory than has arrived.
#![no_main]

use ginnel_session::proto::{Core, Framing, Role};
use ginnel_wire::{Envelope, HelloAck, Kind, Profiles, Status};
use libfuzzer_sys::fuzz_target;

const LIMIT: u32 = 4096;

fuzz_target!(|input: (u8, &[u8], &[u8])| {
    let (choice, steps, mut data) = input;
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let framing = match choice >> 1 & 3 {
        0 => Framing::Stream,
        1 => Framing::Slot(LIMIT + 64),
        _ => Framing::Packets(33 + u32::from(choice >> 3) * 8),
    };
    let ack = HelloAck {
        supported: Profiles(1),
        intersection: Profiles(1),
        selected: Profiles(1),
        max_request_payload: LIMIT,
        max_request_items: 8,
        max_response_payload: LIMIT,
        max_response_items: 8,
        packet_size: 100,
        session_id: 1,
    };
    let mut core = Core::new(role, framing, &ack);
    for id in 0..4 {
        let _ = core.begin_send(&Envelope::request(1, id, 0), 0);
    }
    for step in steps {
        let space = core.space();
        let len = (usize::from(*step & 0x3f) * 3 + 1).min(data.len());
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
        if told == 0 || core.received(told).is_err() {
            return;
        }
        while let Some(message) = core.message() {
            assert!(message.payload.len() <= LIMIT as usize);
            assert_eq!(message.payload.len(), message.envelope.payload_len as usize);
            assert!(message.envelope.item_count <= 8);
            if core.consume().is_err() {
                return;
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
