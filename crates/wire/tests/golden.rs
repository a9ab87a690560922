//! The field's own encodings, and ours, byte for byte. The vectors are little-endian; the protocol is native-endian.
#![cfg(target_endian = "little")]

use ginnel_wire::{
    Batch, BatchBuilder, ChunkHeader, Envelope, Hello, HelloAck, Kind, Message, Packets, Profiles, Status,
};

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/golden/netipc-v1/{name}.bin", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn the_field_s_envelope_decodes_and_encodes_to_the_same_bytes() {
    let bytes = golden("header");
    let envelope = Envelope::decode(&bytes).unwrap();
    assert_eq!(envelope, Envelope::request(2, 0xDEAD_BEEF_CAFE_BABE, 12345).with_batch(42));
    assert_eq!(envelope.encode()[..], bytes);
}

#[test]
fn the_field_s_chunk_header_decodes_and_encodes_to_the_same_bytes() {
    let bytes = golden("chunk_header");
    let header = ChunkHeader::decode(&bytes).unwrap();
    let expected =
        ChunkHeader { message_id: 0x1234_5678_90AB_CDEF, total_len: 100_000, index: 3, count: 10, payload_len: 8192 };
    assert_eq!(header, expected);
    assert_eq!(header.encode()[..], bytes);
}

#[test]
fn the_field_s_hello_decodes_and_encodes_to_the_same_bytes() {
    let bytes = golden("hello");
    let hello = Hello::decode(&bytes).unwrap();
    let expected = Hello {
        supported: Profiles(5),
        preferred: Profiles(4),
        max_request_payload: 4096,
        max_request_items: 100,
        max_response_payload: 1_048_576,
        max_response_items: 1,
        auth_token: 0xAABB_CCDD_EEFF_0011,
        packet_size: 65536,
    };
    assert_eq!(hello, expected);
    assert_eq!(hello.encode()[..], bytes);
}

#[test]
fn the_field_s_hello_ack_decodes_and_encodes_to_the_same_bytes() {
    let bytes = golden("hello_ack");
    let ack = HelloAck::decode(&bytes).unwrap();
    let expected = HelloAck {
        supported: Profiles(7),
        intersection: Profiles(5),
        selected: Profiles(4),
        max_request_payload: 2048,
        max_request_items: 50,
        max_response_payload: 65536,
        max_response_items: 1,
        packet_size: 32768,
        session_id: 1,
    };
    assert_eq!(ack, expected);
    assert_eq!(ack.encode()[..], bytes);
}

#[test]
fn a_batch_of_one_item_of_281_bytes_takes_296() {
    let mut builder = BatchBuilder::new(1);
    builder.push(&[7; 281]).unwrap();
    let payload = builder.finish();
    assert_eq!(payload.len(), 296);
    assert_eq!(Batch::parse(&payload, 1).unwrap().get(0).unwrap(), [7; 281]);
}

/// What each line of `frozen.txt` must be, made by our encoder at the time of the test.
fn frozen_now(name: &str) -> Vec<u8> {
    let hello = Hello {
        supported: Profiles::BASELINE | Profiles::SHM_HYBRID,
        preferred: Profiles::SHM_HYBRID,
        max_request_payload: 1024,
        max_request_items: 1,
        max_response_payload: 65536,
        max_response_items: 1,
        auth_token: 0xDEAD_BEEF_CAFE_BABE,
        packet_size: 212_960,
    };
    let request = Envelope::request(1, 7, 8);
    match name {
        "request" => request.encode().to_vec(),
        "response" => Envelope::response_to(&request, Status::OK, 8).encode().to_vec(),
        "response-limit-exceeded" => Envelope::response_to(&request, Status::LIMIT_EXCEEDED, 0).encode().to_vec(),
        "batch-request" => Envelope::request(1, 8, 48).with_batch(2).encode().to_vec(),
        "hello-packet" => hello.packet().to_vec(),
        "hello-ack-packet" => {
            let ack = HelloAck {
                supported: Profiles(3),
                intersection: Profiles(3),
                selected: Profiles(2),
                max_request_payload: 1024,
                max_request_items: 1,
                max_response_payload: 65536,
                max_response_items: 1,
                packet_size: 212_960,
                session_id: 0x0102_0304_0506_0708,
            };
            ack.packet().to_vec()
        }
        "rejection-auth-failed" => HelloAck::rejection(Status::AUTH_FAILED).to_vec(),
        "rejection-incompatible" => HelloAck::rejection(Status::INCOMPATIBLE).to_vec(),
        "rejection-unsupported" => HelloAck::rejection(Status::UNSUPPORTED).to_vec(),
        "rejection-limit-exceeded" => HelloAck::rejection(Status::LIMIT_EXCEEDED).to_vec(),
        "rejection-internal-error" => HelloAck::rejection(Status::INTERNAL_ERROR).to_vec(),
        "batch-payload" => {
            let mut builder = BatchBuilder::new(3);
            for item in [&b"a"[..], b"", b"nine bytes"] {
                builder.push(item).unwrap();
            }
            builder.finish()
        }
        "chunked-message" => {
            let payload: Vec<u8> = (0..20).collect();
            Packets::new(&Envelope::request(3, 9, 20), 40)
                .unwrap()
                .flat_map(|packet| [&packet.header[..], &payload[packet.payload]].concat())
                .collect()
        }
        other => panic!("frozen.txt names {other:?}, which this test cannot make"),
    }
}

#[test]
fn our_own_frozen_vectors_never_change() {
    let mut seen = 0;
    for line in include_str!("frozen.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, hex) = line.split_once(' ').unwrap();
        assert_eq!(to_hex(&frozen_now(name)), hex, "{name}");
        seen += 1;
    }
    assert_eq!(seen, 13);
}

/// One line of `malformed.txt` to the sentence its decoder answers.
fn refusal(decoder: &str, bytes: &[u8]) -> String {
    let refused: Option<String> = match decoder {
        "envelope" => Envelope::decode(bytes).err().map(|error| error.to_string()),
        "hello" => Hello::decode(bytes).err().map(|error| error.to_string()),
        "hello-ack" => HelloAck::decode(bytes).err().map(|error| error.to_string()),
        "chunk" => ChunkHeader::decode(bytes).err().map(|error| error.to_string()),
        "batch-1" => Batch::parse(bytes, 1).err().map(|error| error.to_string()),
        "batch-2" => Batch::parse(bytes, 2).err().map(|error| error.to_string()),
        "batch-max" => Batch::parse(bytes, u32::MAX).err().map(|error| error.to_string()),
        other => panic!("malformed.txt names decoder {other:?}"),
    };
    refused.unwrap_or_else(|| "accepted".to_owned())
}

#[test]
fn every_malformed_vector_gets_its_exact_error() {
    let mut seen = 0;
    for line in include_str!("malformed.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let mut parts = line.splitn(3, " | ");
        let (decoder, hex, expected) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
        assert_eq!(refusal(decoder, &from_hex(hex)), expected, "{line}");
        seen += 1;
    }
    assert!(seen >= 25, "the corpus shrank to {seen} vectors");
}

#[test]
fn what_the_contract_tells_receivers_to_ignore_is_ignored() {
    let mut bytes = Envelope::request(1, 2, 3).encode();
    bytes[10..12].copy_from_slice(&0xfffe_u16.to_ne_bytes()); // unknown flags
    bytes[14..16].copy_from_slice(&77u16.to_ne_bytes()); // status of a request
    let envelope = Envelope::decode(&bytes).unwrap();
    assert_eq!((envelope.kind, envelope.batch, envelope.status), (Kind::Request, false, Status(77)));

    let mut hello = golden("hello");
    hello[2] = 0xff; // flags: no known server checks them
    hello.extend_from_slice(&[1; 40]); // trailing bytes
    assert_eq!(Hello::decode(&hello), Hello::decode(&golden("hello")));

    let mut ack = golden("hello_ack");
    ack[36] = 0xff; // reserved
    ack.push(1);
    assert_eq!(HelloAck::decode(&ack), HelloAck::decode(&golden("hello_ack")));

    assert_eq!(Message::decode(&bytes).unwrap().payload, b"");
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(hex: &str) -> Vec<u8> {
    let hex = hex.replace(' ', "");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}
