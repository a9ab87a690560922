//! Layout 2, byte for byte: frozen vectors of every frame, and the exact refusal of every kind of malformed bytes. The
//! vectors are little-endian; the protocol is native-endian.
#![cfg(target_endian = "little")]

use ginnel_wire::{
    BatchBuilder, Envelope, Failure, Features, Frame, FrameKind, Head, Hello, Hello2, HelloAck, HelloAck2,
    HelloAck2Error, HelloError, MethodHash, MethodHashes, MethodList, Profiles, Reply, ServerFacts, Status, layout_of,
};

fn hello() -> Hello2 {
    Hello2 {
        supported: Profiles::BASELINE | Profiles::RING,
        preferred: Profiles::RING,
        max_request_payload: 1 << 20,
        max_request_items: 64,
        max_response_payload: 16 << 20,
        max_response_items: 128,
        auth_token: 0xDEAD_BEEF_CAFE_BABE,
        packet_size: 212_960,
        features: Features::ALL,
        required: Features::STREAMS,
        interface_id: 0x0123_4567_89AB_CDEF,
        schema_hash: 0x1122_3344_5566_7788,
        request_window: 64,
        stream_window: 16,
        request_ring: 65536,
        response_ring: 131_072,
    }
}

fn ack() -> HelloAck2 {
    HelloAck2 {
        supported: Profiles(0x13),
        intersection: Profiles(0x11),
        selected: Profiles::RING,
        max_request_payload: 1 << 20,
        max_request_items: 64,
        max_response_payload: 4 << 20,
        max_response_items: 128,
        packet_size: 16384,
        features: Features::ALL,
        session_id: 0x0102_0304_0506_0708,
        interface_id: 0x0123_4567_89AB_CDEF,
        schema_hash: 0x8877_6655_4433_2211,
        request_window: 32,
        stream_window: 16,
        request_ring: 65536,
        response_ring: 131_072,
        descriptors: 4,
    }
}

fn facts() -> ServerFacts {
    ServerFacts {
        supported: Profiles(0x13),
        max_request_payload: 65536,
        max_response_payload: 131_072,
        packet_size: 212_960,
        features: Features::ONE_WAY,
        interface_id: 7,
        schema_hash: 9,
    }
}

/// What each line of `frozen2.txt` must be, made by our encoder at the time of the test.
fn frozen_now(name: &str) -> Vec<u8> {
    let request = |reply, body: &[u8]| Head::request(300, 7, reply, body.len()).unwrap();
    let whole = |head: Head, timeout_ns, body| Frame::Request { head, timeout_ns, body }.encode();
    let unary = request(Reply::One, b"");
    let answer = |kind, body: &'static [u8]| Frame::Body { head: unary.answer(kind, body.len()).unwrap(), body };
    match name {
        "hello-packet" => hello().packet().to_vec(),
        "hello-ack-packet" => ack().packet().to_vec(),
        "hello-ack-packet-seqpacket" => {
            let ack = HelloAck2 {
                selected: Profiles::BASELINE,
                packet_size: 212_960,
                request_ring: 0,
                response_ring: 0,
                descriptors: 0,
                ..ack()
            };
            ack.packet().to_vec()
        }
        "rejection-unsupported" => HelloAck2::rejection(Status::UNSUPPORTED, &facts()).to_vec(),
        "rejection-limit-exceeded" => HelloAck2::rejection(Status::LIMIT_EXCEEDED, &facts()).to_vec(),
        "request" => whole(request(Reply::One, b"abc"), 1_500_000_000, b"abc"),
        "request-for-ever" => whole(request(Reply::One, b""), 0, b""),
        "request-one-way" => whole(request(Reply::None, b"abc"), 0, b"abc"),
        "request-stream" => whole(request(Reply::Stream, b"abc"), 1, b"abc"),
        "request-batch" => {
            let mut builder = BatchBuilder::new(2);
            builder.push(b"a").unwrap();
            builder.push(b"nine byte").unwrap();
            let body = builder.finish();
            whole(request(Reply::One, &body).with_batch(2), 1_000, &body)
        }
        "response" => answer(FrameKind::Response, b"xyz").encode(),
        "item" => answer(FrameKind::Item, b"xyz").encode(),
        "end" => Frame::End { head: unary.answer(FrameKind::End, 0).unwrap() }.encode(),
        "error-bare" => Frame::error(&unary, Status::CANCELLED, None),
        "error" => {
            let failure = Failure { code: 404, retryable: true, message: "no such kéy", details: &[1, 2, 3] };
            Frame::error(&unary, Status::APPLICATION, Some(&failure))
        }
        "methods-all" => Frame::Methods { id: 9, methods: MethodList::ALL }.encode(),
        "methods" => {
            let list = MethodList::encode(&[300, 1, 300]);
            Frame::Methods { id: 9, methods: MethodList::parse(&list, 2).unwrap() }.encode()
        }
        "methods-ack" => {
            let list = MethodHashes::encode(&[
                MethodHash { method: 300, reply: Reply::Stream, hash: 0x1111_2222_3333_4444 },
                MethodHash { method: 1, reply: Reply::One, hash: 5 },
                MethodHash { method: 2, reply: Reply::None, hash: 6 },
            ]);
            Frame::MethodsAck { id: 9, hashes: MethodHashes::parse(&list, 3).unwrap() }.encode()
        }
        "cancel" => Frame::Cancel { id: 7 }.encode(),
        "credit" => Frame::Credit { id: 7, items: 16 }.encode(),
        "goaway" => Frame::GoAway { last_id: 7, drain_ns: 5_000_000_000 }.encode(),
        "goaway-none" => Frame::GoAway { last_id: 0, drain_ns: 0 }.encode(),
        other => panic!("frozen2.txt names {other:?}, which this test cannot make"),
    }
}

#[test]
fn our_frozen_vectors_never_change_and_decode_to_what_they_were_made_of() {
    let mut seen = 0;
    for line in lines(include_str!("frozen2.txt")) {
        let (name, hex) = line.split_once(' ').unwrap();
        let bytes = from_hex(hex);
        assert_eq!(to_hex(&frozen_now(name)), hex, "{name}");
        let payload = &bytes[32..];
        match name {
            "hello-packet" => assert_eq!(Hello2::decode(payload), Ok(hello())),
            "hello-ack-packet" => assert_eq!(HelloAck2::decode(payload), Ok(ack())),
            "hello-ack-packet-seqpacket" => assert!(HelloAck2::decode(payload).is_ok()),
            name if name.starts_with("rejection") => assert_eq!(HelloAck2::decode_rejection(payload), Ok(facts())),
            _ => assert_eq!(Frame::decode_whole(&bytes).unwrap().encode(), bytes, "{name}"),
        }
        seen += 1;
    }
    assert_eq!(seen, 22);
}

#[test]
fn a_structured_error_says_what_it_was_made_of() {
    let bytes = frozen_now("error");
    let Frame::Error { head, status, failure: Some(failure) } = Frame::decode_whole(&bytes).unwrap() else { panic!() };
    assert_eq!((head.method, head.id, status), (300, 7, Status::APPLICATION));
    assert_eq!(failure, Failure { code: 404, retryable: true, message: "no such kéy", details: &[1, 2, 3] });
}

/// One line of `malformed2.txt` to the sentence its decoder answers.
fn refusal(decoder: &str, bytes: &[u8]) -> String {
    let refused: Option<String> = match decoder {
        "hello" => Hello2::decode(bytes).err().map(|error| error.to_string()),
        "hello-ack" => HelloAck2::decode(bytes).err().map(|error| error.to_string()),
        "rejection" => HelloAck2::decode_rejection(bytes).err().map(|error| error.to_string()),
        "frame" => Frame::decode_whole(bytes).err().map(|error| error.to_string()),
        "error" => Failure::decode(bytes).err().map(|error| error.to_string()),
        "methods-2" => MethodList::parse(bytes, 2).err().map(|error| error.to_string()),
        "hashes-2" => MethodHashes::parse(bytes, 2).err().map(|error| error.to_string()),
        other => panic!("malformed2.txt names decoder {other:?}"),
    };
    refused.unwrap_or_else(|| "accepted".to_owned())
}

#[test]
fn every_malformed_vector_gets_its_exact_error() {
    let mut seen = 0;
    for line in lines(include_str!("malformed2.txt")) {
        let mut parts = line.splitn(3, " | ");
        let (decoder, hex, expected) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(refusal(decoder, &from_hex(hex)), expected, "{line}");
        seen += 1;
    }
    assert!(seen >= 70, "the corpus shrank to {seen} vectors");
}

#[test]
fn a_layout_1_server_sees_a_layout_2_greeting_as_another_layout_and_the_client_sees_a_layout_1_refusal() {
    let packet = hello().packet();
    assert!(packet.len() <= 128, "the known servers read 128 bytes");
    assert_eq!(Hello::decode(&packet[32..]), Err(HelloError::Layout { found: 2 }));

    let refusal = HelloAck::rejection(Status::INCOMPATIBLE);
    assert_eq!(Envelope::decode(&refusal).unwrap().status, Status::INCOMPATIBLE);
    assert_eq!(HelloAck2::decode_rejection(&refusal[32..]), Err(HelloAck2Error::Layout { found: 1 }));
    assert_eq!((layout_of(&refusal[32..]), layout_of(&packet[32..]), layout_of(&[2])), (Some(1), Some(2), None));

    // A refusal of layout 2 says so: its client must not fall back.
    let refusal = HelloAck2::rejection(Status::INCOMPATIBLE, &facts());
    assert_eq!(layout_of(&refusal[32..]), Some(2));
}

#[test]
fn every_field_of_a_greeting_stands_where_the_matrix_says() {
    let base = hello().encode();
    let differs = |other: Hello2| -> Vec<usize> {
        let other = other.encode();
        (0..96).filter(|&at| base[at] != other[at]).collect()
    };
    let flip = |value: u32| value ^ u32::MAX;
    let cases = [
        (4, 4, Hello2 { supported: Profiles(flip(0x11)), ..hello() }),
        (8, 4, Hello2 { preferred: Profiles(flip(0x10)), ..hello() }),
        (12, 4, Hello2 { max_request_payload: flip(1 << 20), ..hello() }),
        (16, 4, Hello2 { max_request_items: flip(64), ..hello() }),
        (20, 4, Hello2 { max_response_payload: flip(16 << 20), ..hello() }),
        (24, 4, Hello2 { max_response_items: flip(128), ..hello() }),
        (32, 8, Hello2 { auth_token: !hello().auth_token, ..hello() }),
        (40, 4, Hello2 { packet_size: flip(212_960), ..hello() }),
        (44, 4, Hello2 { features: Features(flip(7)), ..hello() }),
        (48, 8, Hello2 { interface_id: !hello().interface_id, ..hello() }),
        (56, 8, Hello2 { schema_hash: !hello().schema_hash, ..hello() }),
        (64, 4, Hello2 { required: Features(flip(2)), ..hello() }),
        (68, 4, Hello2 { request_window: flip(64), ..hello() }),
        (72, 4, Hello2 { stream_window: flip(16), ..hello() }),
        (76, 4, Hello2 { request_ring: flip(65536), ..hello() }),
        (80, 4, Hello2 { response_ring: flip(131_072), ..hello() }),
    ];
    for (at, len, other) in cases {
        assert_eq!(differs(other), (at..at + len).collect::<Vec<_>>(), "the field at {at}");
    }
}

#[test]
fn every_field_of_an_answer_stands_where_the_matrix_says() {
    let base = ack().encode();
    let differs = |other: HelloAck2| -> Vec<usize> {
        let other = other.encode();
        (0..96).filter(|&at| base[at] != other[at]).collect()
    };
    let flip = |value: u32| value ^ u32::MAX;
    let cases = [
        (4, 4, HelloAck2 { supported: Profiles(flip(0x13)), ..ack() }),
        (8, 4, HelloAck2 { intersection: Profiles(flip(0x11)), ..ack() }),
        (12, 4, HelloAck2 { selected: Profiles(flip(0x10)), ..ack() }),
        (16, 4, HelloAck2 { max_request_payload: flip(1 << 20), ..ack() }),
        (20, 4, HelloAck2 { max_request_items: flip(64), ..ack() }),
        (24, 4, HelloAck2 { max_response_payload: flip(4 << 20), ..ack() }),
        (28, 4, HelloAck2 { max_response_items: flip(128), ..ack() }),
        (32, 4, HelloAck2 { packet_size: flip(16384), ..ack() }),
        (36, 4, HelloAck2 { features: Features(flip(7)), ..ack() }),
        (40, 8, HelloAck2 { session_id: !ack().session_id, ..ack() }),
        (48, 8, HelloAck2 { interface_id: !ack().interface_id, ..ack() }),
        (56, 8, HelloAck2 { schema_hash: !ack().schema_hash, ..ack() }),
        (68, 4, HelloAck2 { request_window: flip(32), ..ack() }),
        (72, 4, HelloAck2 { stream_window: flip(16), ..ack() }),
        (76, 4, HelloAck2 { request_ring: flip(65536), ..ack() }),
        (80, 4, HelloAck2 { response_ring: flip(131_072), ..ack() }),
        (84, 4, HelloAck2 { descriptors: flip(4), ..ack() }),
    ];
    for (at, len, other) in cases {
        assert_eq!(differs(other), (at..at + len).collect::<Vec<_>>(), "the field at {at}");
    }
}

#[test]
fn what_a_receiver_ignores_is_ignored() {
    // Bytes behind a greeting, and feature bits that nobody knows yet.
    let mut bytes = Hello2 { features: Features(u32::MAX), ..hello() }.encode().to_vec();
    bytes.extend_from_slice(&[1; 40]);
    assert_eq!(Hello2::decode(&bytes).unwrap().features, Features(u32::MAX));
    let mut bytes = ack().encode().to_vec();
    bytes.push(1);
    assert_eq!(HelloAck2::decode(&bytes), Ok(ack()));
    // A status that nobody knows yet is an error of its call.
    let head = Head::request(1, 2, Reply::One, 0).unwrap();
    let bytes = Frame::error(&head, Status(999), None);
    assert!(matches!(Frame::decode_whole(&bytes), Ok(Frame::Error { status: Status(999), failure: None, .. })));
}

fn lines(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
