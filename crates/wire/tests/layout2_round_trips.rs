//! Layout 2: whatever is encoded decodes to itself; whatever is random is decoded to what encodes to the same, or
//! refused.

use ginnel_wire::{
    Failure, Features, Frame, FrameKind, Head, Hello2, HelloAck2, MAX_FAILURE_LEN, MethodHash, MethodHashes,
    MethodList, Profiles, Reply, Status,
};
use proptest::prelude::*;

fn replies() -> impl Strategy<Value = Reply> {
    prop_oneof![Just(Reply::One), Just(Reply::None), Just(Reply::Stream)]
}

/// Bytes that are nearly a frame: an envelope with every field from a small set of values that mean something, and a
/// payload.
fn near_frames() -> impl Strategy<Value = Vec<u8>> {
    let small = || prop_oneof![0u16..16, any::<u16>()];
    (
        1u16..4,
        small(),
        small(),
        prop_oneof![Just(0u16), small()],
        0u32..4,
        0u64..3,
        prop::collection::vec(any::<u8>(), 0..48),
    )
        .prop_map(|(kind, flags, code, status, items, id, payload)| {
            let mut out = Vec::new();
            out.extend(0x4e49_5043_u32.to_ne_bytes());
            for half in [1, 32, kind, flags, code, status] {
                out.extend(half.to_ne_bytes());
            }
            out.extend((payload.len() as u32).to_ne_bytes());
            out.extend(items.to_ne_bytes());
            out.extend(id.to_ne_bytes());
            out.extend(payload);
            out
        })
}

proptest! {
    #[test]
    fn a_hello_round_trips(words: [u32; 9], longs: [u64; 3], required: u32, window in 1u32.., rings in (12u32..31, 12u32..31)) {
        let [supported, preferred, max_request_payload, max_request_items, max_response_payload, max_response_items,
            packet_size, features, stream_window] = words;
        let [auth_token, interface_id, schema_hash] = longs;
        let hello = Hello2 {
            supported: Profiles(supported), preferred: Profiles(preferred), max_request_payload, max_request_items,
            max_response_payload, max_response_items, auth_token, packet_size, features: Features(features),
            required: Features(required & features), interface_id, schema_hash, request_window: window, stream_window,
            request_ring: 1 << rings.0, response_ring: 1 << rings.1,
        };
        prop_assert_eq!(Hello2::decode(&hello.encode()), Ok(hello));
        prop_assert_eq!(&hello.packet()[32..], &hello.encode()[..]);
    }

    #[test]
    fn an_answer_round_trips(words: [u32; 8], longs: [u64; 3], window in 1u32.., profile in 0u32..32, rings in (12u32..31, 12u32..31)) {
        let [supported, intersection, max_request_payload, max_request_items, max_response_payload, max_response_items,
            packet_size, features] = words;
        let [session_id, interface_id, schema_hash] = longs;
        let selected = Profiles(1 << profile);
        let ring = |bits: u32| if selected == Profiles::RING { 1 << bits } else { 0 };
        let ack = HelloAck2 {
            supported: Profiles(supported), intersection: Profiles(intersection), selected, max_request_payload,
            max_request_items, max_response_payload, max_response_items, packet_size, features: Features(features),
            session_id, interface_id, schema_hash, request_window: window, stream_window: window / 2,
            request_ring: ring(rings.0), response_ring: ring(rings.1),
            descriptors: if selected == Profiles::RING { 4 } else { 0 },
        };
        prop_assert_eq!(HelloAck2::decode(&ack.encode()), Ok(ack));
        prop_assert_eq!(&ack.packet()[32..], &ack.encode()[..]);
    }

    #[test]
    fn a_call_round_trips(
        method: u16, id in 1u64.., timeout_ns: u64, reply in replies(), batch in 0u32..4,
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut head = Head::request(method, id, reply, body.len()).unwrap();
        if batch > 0 && reply != Reply::Stream {
            head = head.with_batch(batch);
        }
        let frame = Frame::Request { head, timeout_ns, body: &body };
        let bytes = frame.encode();
        prop_assert_eq!(Frame::decode_whole(&bytes), Ok(frame));
        prop_assert_eq!(&bytes[..40], &head.encode_request(timeout_ns)[..]);
        prop_assert_eq!(head.body_len() as usize, body.len());
    }

    #[test]
    fn an_answer_to_a_call_round_trips(
        method: u16, id in 1u64.., item: bool, batch in 0u32..4, body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let request = Head::request(method, id, Reply::One, 0).unwrap();
        let kind = if item { FrameKind::Item } else { FrameKind::Response };
        let mut head = request.answer(kind, body.len()).unwrap();
        if batch > 0 {
            head = head.with_batch(batch);
        }
        let frame = Frame::Body { head, body: &body };
        let bytes = frame.encode();
        prop_assert_eq!(Frame::decode_whole(&bytes), Ok(frame));
        let end = Frame::End { head: request.answer(FrameKind::End, 0).unwrap() };
        let bytes = end.encode();
        prop_assert_eq!(Frame::decode_whole(&bytes), Ok(end));
    }

    #[test]
    fn an_error_round_trips_and_never_exceeds_its_limit(
        code: u32, retryable: bool, message in ".{0,3000}", details in prop::collection::vec(any::<u8>(), 0..5000),
    ) {
        let failure = Failure { code, retryable, message: &message, details: &details };
        let bytes = failure.encode();
        prop_assert!(bytes.len() <= MAX_FAILURE_LEN);
        let back = Failure::decode(&bytes).unwrap();
        prop_assert_eq!((back.code, back.retryable), (code, retryable));
        prop_assert!(message.starts_with(back.message) && (back.message == message || back.message.len() > MAX_FAILURE_LEN - 24));
        let fits = 16 + back.message.len().next_multiple_of(8) + details.len() <= MAX_FAILURE_LEN;
        prop_assert_eq!(back.details, if fits { &details[..] } else { &[] });
        let head = Head::request(1, 2, Reply::One, 0).unwrap();
        let frame = Frame::error(&head, Status::APPLICATION, Some(&failure));
        let Ok(Frame::Error { failure: Some(inside), .. }) = Frame::decode_whole(&frame) else { panic!() };
        prop_assert_eq!(inside, back);
    }

    #[test]
    fn methods_round_trip_in_whatever_order_they_were_told(
        asked in prop::collection::vec(any::<u16>(), 0..30),
        told in prop::collection::vec((any::<u16>(), replies(), any::<u64>()), 0..30),
    ) {
        let list = MethodList::encode(&asked);
        let parsed = MethodList::parse(&list, (list.len() / 4) as u32).unwrap();
        let mut sorted = asked;
        sorted.sort_unstable();
        sorted.dedup();
        prop_assert!(parsed.iter().eq(sorted.iter().copied()));
        prop_assert_eq!((parsed.len(), parsed.is_empty()), (sorted.len(), sorted.is_empty()));

        let told: Vec<_> = told.into_iter().map(|(method, reply, hash)| MethodHash { method, reply, hash }).collect();
        let list = MethodHashes::encode(&told);
        let parsed = MethodHashes::parse(&list, (list.len() / 16) as u32).unwrap();
        for entry in &told {
            prop_assert_eq!(parsed.get(entry.method), told.iter().find(|first| first.method == entry.method).copied());
        }
        for absent in (0..=u16::MAX).step_by(997).filter(|method| told.iter().all(|entry| entry.method != *method)) {
            prop_assert_eq!(parsed.get(absent), None);
        }
    }

    #[test]
    fn what_is_nearly_a_frame_is_refused_or_is_one(bytes in near_frames()) {
        if let Ok(frame) = Frame::decode_whole(&bytes) {
            prop_assert_eq!(frame.encode(), bytes);
        }
    }
}

#[test]
fn a_body_that_no_message_holds_makes_no_head() {
    assert_eq!(Head::request(1, 1, Reply::One, u32::MAX as usize - 39), None);
    assert!(Head::request(1, 1, Reply::One, u32::MAX as usize - 40).is_some());
    assert_eq!(Head::request(1, 1, Reply::One, usize::MAX), None);
    let request = Head::request(1, 1, Reply::One, 0).unwrap();
    assert!(request.answer(FrameKind::Response, u32::MAX as usize - 32).is_some());
    assert_eq!(request.answer(FrameKind::Response, u32::MAX as usize - 31), None);
}

#[test]
fn a_head_that_was_put_together_by_hand_cannot_make_a_decoder_read_past_its_payload() {
    let head = Head { kind: FrameKind::Request(Reply::One), method: 1, batch: false, items: 1, id: 1, payload_len: 3 };
    assert_eq!(head.body_len(), 0);
    assert!(Frame::decode(&head, b"abc").is_err());
}
