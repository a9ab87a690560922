use super::*;
use crate::SessionError;
use crate::error::ProtocolError;
use ginnel_wire::{ChunkError, Packets};

/// What a server says to these packets, or bytes.
fn said(framing: Framing, packets: &[Vec<u8>]) -> ProtocolError {
    let mut pair = Pair::open(framing);
    packets.iter().for_each(|packet| pair.up.put(packet));
    pair.read_both();
    match pair.server.end() {
        End::Protocol(error) => error,
        other => panic!("{other:?}"),
    }
}

fn message(envelope: &Envelope, payload: usize) -> Vec<u8> {
    [&envelope.encode()[..], &vec![1; payload]].concat()
}

const FRAMES: [Framing; 3] = [Framing::Packets(128), Framing::Stream, Framing::Slot(1088)];

#[test]
fn what_an_envelope_alone_tells_is_named_in_every_framing() {
    let request = Envelope::request(1, 7, 8);
    for framing in FRAMES {
        let one = |bytes: Vec<u8>| said(framing, &[bytes]);
        assert!(matches!(one(vec![0; 40]), ProtocolError::Envelope(_)));
        let response = Envelope::response_to(&request, Status::OK, 0);
        assert!(matches!(one(message(&response, 0)), ProtocolError::Kind { .. }), "{framing:?}");
        assert!(matches!(one(hello().packet().to_vec()), ProtocolError::Kind { .. }));
        let items = one(message(&request.with_batch(5), 8));
        assert!(matches!(items, ProtocolError::TooManyItems { limit: 4, .. }));
        let mut lies = message(&Envelope::request(1, 7, 24).with_batch(2), 24);
        lies[32..48].copy_from_slice(&[0, 0, 0, 0, 8, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0]);
        assert!(matches!(one(lies), ProtocolError::Batch(_)));
        let large = message(&Envelope::request(1, 7, LIMIT + 1), LIMIT as usize + 1);
        let large = if framing == Framing::Packets(128) { large[..128].to_vec() } else { large };
        assert!(matches!(one(large), ProtocolError::PayloadTooLarge { limit: LIMIT, .. }), "{framing:?}");
    }
    assert!(matches!(said(Framing::Packets(128), &[vec![1; 31]]), ProtocolError::Envelope(_)));
    // In a slot the slot's length counts, and no other.
    let mut pair = Pair::open(Framing::Slot(1088));
    pair.up.put(&message(&Envelope::request(1, 7, 999_999), 8));
    pair.read_both();
    let request = pair.server.message();
    assert_eq!((request.payload(), request.envelope.payload_len), (&[1; 8][..], 8));
}

#[test]
fn packets_that_are_too_long_or_do_not_continue_their_message_are_named() {
    let packets = Framing::Packets(128);
    let request = |len| Envelope::request(1, 7, len);
    let trailing = said(packets, &[message(&request(10), 11)]);
    assert_eq!(trailing, ProtocolError::Chunk(ChunkError::TrailingBytes { len: 43, total: 42 }));
    let long = said(packets, &[message(&request(200), 200)]);
    assert_eq!(long, ProtocolError::PacketTooLong { len: 232, limit: 128 });
    let whole: Vec<Vec<u8>> = Packets::new(&request(250), 128)
        .unwrap()
        .map(|packet| [&packet.header[..], &vec![1; packet.payload.len()]].concat())
        .collect();
    let with = |at: usize, value: u32| {
        let mut packets = whole.clone();
        packets[1][at..at + 4].copy_from_slice(&value.to_ne_bytes());
        said(Framing::Packets(128), &packets)
    };
    assert!(matches!(with(0, 1), ProtocolError::Chunk(ChunkError::Magic { found: 1 })));
    assert!(matches!(with(8, 8), ProtocolError::Chunk(ChunkError::MessageId { .. })));
    assert!(matches!(with(16, 8), ProtocolError::Chunk(ChunkError::TotalLen { .. })));
    assert!(matches!(with(20, 2), ProtocolError::Chunk(ChunkError::Index { .. })));
    assert!(matches!(with(24, 9), ProtocolError::Chunk(ChunkError::Count { .. })));
    assert!(matches!(with(28, 9), ProtocolError::Chunk(ChunkError::PayloadLen { .. })));
    let mut too_long = whole.clone();
    too_long[1].push(1);
    assert_eq!(said(packets, &too_long), ProtocolError::PacketTooLong { len: 129, limit: 128 });
    // A packet that was lost on the way, and one that comes before its turn.
    assert!(matches!(said(packets, &[whole[0].clone(), whole[2].clone()]), ProtocolError::Chunk(_)));
    assert!(matches!(said(packets, &whole[1..]), ProtocolError::Envelope(_)));
    let other = message(&request(8), 8);
    assert!(matches!(said(packets, &[whole[0].clone(), other]), ProtocolError::Chunk(ChunkError::Magic { .. })));
}

#[test]
fn a_response_that_nobody_asked_for_or_that_comes_twice_ends_the_session() {
    for framing in FRAMES {
        let answer = |id| message(&Envelope::response_to(&Envelope::request(1, id, 0), Status::OK, 2), 2);
        let mut pair = Pair::open(framing);
        pair.down.put(&answer(5));
        pair.read_both();
        assert_eq!(pair.client.end(), End::Protocol(ProtocolError::UnknownId { id: 5 }));

        let mut pair = Pair::open(framing);
        pair.ask(5, b"x");
        pair.down.put(&answer(5));
        pair.down.put(&answer(5));
        pair.read_both();
        assert_eq!(pair.client.message().envelope.message_id, 5);
        assert_eq!(pair.client.end(), End::Protocol(ProtocolError::UnknownId { id: 5 }));
    }
}

#[test]
fn what_came_before_a_violation_is_told_and_what_comes_after_is_not() {
    let request = Envelope::request(1, 7, 8);
    let bytes = [message(&request, 8), vec![0; 32], message(&request, 8)];
    for framing in [Framing::Packets(128), Framing::Stream] {
        let mut pair = Pair::open(framing);
        if framing == Framing::Stream {
            pair.up.put(&bytes.concat());
        } else {
            bytes.iter().for_each(|packet| pair.up.put(packet));
        }
        pair.read_both();
        assert_eq!(pair.server.message().payload(), [1; 8]);
        assert!(matches!(pair.server.end(), End::Protocol(ProtocolError::Envelope(_))));
        assert!(!pair.server.connection.wants_input());
        pair.server.connection.handle(pair.now, Input::Received(32));
        pair.pass(Duration::from_secs(1 << 40));
        assert!(pair.server.told.is_empty());
    }
}

#[test]
fn a_server_can_still_answer_a_request_that_is_too_large() {
    let mut pair = Pair::open(Framing::Packets(128));
    pair.client.connection.set_window(10);
    pair.ask(7, b"");
    pair.up.drain();
    pair.up.put(&message(&Envelope::request(1, 7, LIMIT + 1), 96));
    pair.read_both();
    let End::Protocol(ProtocolError::PayloadTooLarge { envelope, .. }) = pair.server.end() else { panic!() };
    let answer = Envelope::response_to(&envelope, Status::LIMIT_EXCEEDED, 0);
    pair.server.connection.send(pair.now, &answer, Body::Owned(vec![])).unwrap();
    pair.server.write(pair.now, &mut pair.down);
    pair.read_both();
    assert_eq!(pair.client.message().envelope.status, Status::LIMIT_EXCEEDED);
    assert!(matches!(End::HungUp.to_error(), SessionError::Closed));
}
