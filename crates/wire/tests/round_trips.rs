//! Whatever is encoded decodes to itself; whatever is random is decoded or refused, never a panic.

use ginnel_wire::{
    Assembler, Batch, BatchBuilder, ChunkError, ChunkHeader, Envelope, Hello, HelloAck, Kind, MIN_PACKET_SIZE, Packets,
    Profiles, Status,
};
use proptest::prelude::*;

prop_compose! {
    fn envelopes()(
        kind in prop_oneof![Just(Kind::Request), Just(Kind::Response), Just(Kind::Control)],
        batch: bool, code: u16, status: u16, payload_len: u32, item_count: u32, message_id: u64,
    ) -> Envelope {
        Envelope { kind, batch, code, status: Status(status), payload_len, item_count, message_id }
    }
}

/// A message cut into packets, as bytes.
fn cut(envelope: &Envelope, payload: &[u8], packet_size: u32) -> Vec<Vec<u8>> {
    Packets::new(envelope, packet_size)
        .unwrap()
        .map(|packet| [&packet.header[..], &payload[packet.payload]].concat())
        .collect()
}

fn assemble(packets: &[Vec<u8>], packet_size: u32) -> Result<Vec<u8>, ChunkError> {
    let envelope = Envelope::decode(&packets[0]).unwrap();
    let mut assembler = Assembler::new(&envelope, packets[0].len(), packet_size)?;
    let mut payload = packets[0][32..].to_vec();
    for packet in &packets[1..] {
        assert_eq!(assembler.next_packet_len(), packet.len());
        payload.extend_from_slice(assembler.accept(packet)?);
    }
    assert_eq!((assembler.missing(), assembler.next_packet_len()), (0, 0));
    Ok(payload)
}

proptest! {
    #[test]
    fn an_envelope_round_trips(envelope in envelopes()) {
        prop_assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
    }

    #[test]
    fn a_hello_round_trips(words: [u32; 7], auth_token: u64) {
        let [supported, preferred, max_request_payload, max_request_items, max_response_payload, max_response_items,
            packet_size] = words;
        let hello = Hello {
            supported: Profiles(supported), preferred: Profiles(preferred), max_request_payload, max_request_items,
            max_response_payload, max_response_items, auth_token, packet_size,
        };
        prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        prop_assert_eq!(&hello.packet()[32..], &hello.encode()[..]);
    }

    #[test]
    fn a_hello_ack_round_trips(words: [u32; 8], session_id: u64) {
        let [supported, intersection, selected, max_request_payload, max_request_items, max_response_payload,
            max_response_items, packet_size] = words;
        let ack = HelloAck {
            supported: Profiles(supported), intersection: Profiles(intersection), selected: Profiles(selected),
            max_request_payload, max_request_items, max_response_payload, max_response_items, packet_size, session_id,
        };
        prop_assert_eq!(HelloAck::decode(&ack.encode()), Ok(ack));
    }

    #[test]
    fn a_batch_round_trips_whatever_number_of_items_was_expected(
        items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40), expected in 0usize..60,
    ) {
        let mut builder = BatchBuilder::new(expected);
        for item in &items {
            builder.push(item).unwrap();
        }
        let announced = builder.payload_len();
        let payload = builder.finish();
        prop_assert_eq!(payload.len(), announced);
        prop_assert_eq!(payload.len() % 8, 0);
        let batch = Batch::parse(&payload, items.len() as u32).unwrap();
        prop_assert!(batch.iter().eq(items.iter().map(Vec::as_slice)));
    }

    #[test]
    fn a_batch_never_passes_its_limit(
        items in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40), limit in 0u32..600,
    ) {
        let mut builder = BatchBuilder::new(0).with_limit(limit);
        let taken = items.iter().filter(|item| builder.push(item).is_ok()).count();
        prop_assert_eq!(builder.len(), taken);
        let payload = builder.finish();
        prop_assert!(payload.len() as u32 <= limit || taken == 0);
        prop_assert_eq!(Batch::parse(&payload, taken as u32).unwrap().len(), taken);
    }

    #[test]
    fn a_message_cut_into_packets_comes_together_again(
        payload in prop::collection::vec(any::<u8>(), 0..2000), packet_size in MIN_PACKET_SIZE..300, message_id: u64,
    ) {
        let envelope = Envelope::request(1, message_id, payload.len() as u32);
        let packets = cut(&envelope, &payload, packet_size);
        prop_assert!(packets.iter().rev().skip(1).all(|packet| packet.len() == packet_size as usize), "only the last may be short");
        prop_assert_eq!(assemble(&packets, packet_size), Ok(payload));
    }

    #[test]
    fn packets_in_any_other_order_are_refused(
        payload in prop::collection::vec(any::<u8>(), 200..600), from in 1usize..6, to in 1usize..6,
    ) {
        prop_assume!(from != to);
        let mut packets = cut(&Envelope::request(1, 5, payload.len() as u32), &payload, 64);
        packets.swap(from, to);
        let refused = assemble_loose(&packets);
        prop_assert!(matches!(refused, Err(ChunkError::Index { .. })), "{:?}", refused);
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), items: u32) {
        let _ = Envelope::decode(&bytes);
        let _ = Hello::decode(&bytes);
        let _ = HelloAck::decode(&bytes);
        let _ = ChunkHeader::decode(&bytes);
        for count in [items, items % 20] {
            if let Ok(batch) = Batch::parse(&bytes, count) {
                prop_assert_eq!(batch.iter().count(), count as usize);
            }
        }
    }
}

fn assemble_loose(packets: &[Vec<u8>]) -> Result<(), ChunkError> {
    let envelope = Envelope::decode(&packets[0]).unwrap();
    let mut assembler = Assembler::new(&envelope, packets[0].len(), 64)?;
    packets[1..].iter().try_for_each(|packet| assembler.accept(packet).map(|_| ()))
}

/// A chunked message of 3 packets whose second packet is changed by `lie`.
fn lied(lie: impl FnOnce(&mut Vec<u8>)) -> ChunkError {
    let payload = [9; 80];
    let mut packets = cut(&Envelope::request(1, 5, 80), &payload, 64);
    assert_eq!(packets.len(), 3);
    lie(&mut packets[1]);
    assemble_loose(&packets).unwrap_err()
}

fn set<const N: usize>(at: usize, value: [u8; N]) -> impl FnOnce(&mut Vec<u8>) {
    move |packet| packet[at..at + N].copy_from_slice(&value)
}

#[test]
fn each_lie_of_a_chunk_is_named() {
    assert_eq!(lied(|packet| packet.truncate(31)), ChunkError::Truncated { len: 31 });
    assert_eq!(lied(set(0, 1u32.to_ne_bytes())), ChunkError::Magic { found: 1 });
    assert_eq!(lied(set(4, 2u16.to_ne_bytes())), ChunkError::Version { found: 2 });
    assert_eq!(lied(set(6, 1u16.to_ne_bytes())), ChunkError::Flags { found: 1 });
    assert_eq!(lied(set(8, 6u64.to_ne_bytes())), ChunkError::MessageId { found: 6, expected: 5 });
    assert_eq!(lied(set(16, 113u32.to_ne_bytes())), ChunkError::TotalLen { found: 113, expected: 112 });
    assert_eq!(lied(set(20, 2u32.to_ne_bytes())), ChunkError::Index { found: 2, expected: 1 });
    assert_eq!(lied(set(24, 4u32.to_ne_bytes())), ChunkError::Count { found: 4, expected: 3 });
    assert_eq!(lied(set(28, 31u32.to_ne_bytes())), ChunkError::PayloadLen { found: 31, actual: 32 });
    assert_eq!(lied(|packet| packet.push(0)), ChunkError::PayloadLen { found: 32, actual: 33 });
    let shorter = |packet: &mut Vec<u8>| {
        packet.truncate(63);
        packet[28] = 31;
    };
    assert_eq!(lied(shorter), ChunkError::Size { index: 1, found: 31, expected: 32 });
    let longer = |packet: &mut Vec<u8>| {
        packet.push(0);
        packet[28] = 33;
    };
    assert_eq!(lied(longer), ChunkError::Size { index: 1, found: 33, expected: 32 });
    let empty = |packet: &mut Vec<u8>| {
        packet.truncate(32);
        packet[28] = 0;
    };
    assert_eq!(lied(empty), ChunkError::PayloadLen { found: 0, actual: 0 });
}

#[test]
fn a_chunk_after_the_last_is_refused() {
    let packets = cut(&Envelope::request(1, 5, 40), &[9; 40], 64);
    let mut assembler = Assembler::new(&Envelope::decode(&packets[0]).unwrap(), 64, 64).unwrap();
    assembler.accept(&packets[1]).unwrap();
    let mut extra = packets[1].clone();
    extra[20] = 2;
    assert_eq!(assembler.accept(&extra), Err(ChunkError::Size { index: 2, found: 8, expected: 0 }));
}

#[test]
fn a_first_packet_longer_than_its_message_is_refused() {
    let envelope = Envelope::request(1, 5, 8);
    assert_eq!(Assembler::new(&envelope, 41, 64).unwrap_err(), ChunkError::TrailingBytes { len: 41, total: 40 });
    let endless = Envelope { payload_len: u32::MAX, ..envelope };
    let total = u64::from(u32::MAX) + 32;
    assert_eq!(Assembler::new(&endless, 64, 64).unwrap_err(), ChunkError::TooLong { total });
    assert!(Packets::new(&endless, 64).is_none());
    assert!(Packets::new(&envelope, MIN_PACKET_SIZE - 1).is_none());
}

#[test]
fn profiles_choose_the_highest_bit() {
    assert_eq!(Profiles(0x07).highest(), Profiles::SHM_FUTEX);
    assert_eq!(Profiles(0).highest(), Profiles::NONE);
    assert_eq!(Profiles(0x8000_0001).highest(), Profiles(0x8000_0000));
    assert!(Profiles(4).is_single() && !Profiles(6).is_single() && !Profiles(0).is_single());
}
