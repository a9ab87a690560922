//! Every fixed-size decoder: whatever it accepts encodes to bytes that decode to the same.
#![no_main]

use ginnel_wire::{ChunkHeader, Envelope, Hello, HelloAck};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(envelope) = Envelope::decode(data) {
        assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
    }
    if let Ok(hello) = Hello::decode(data) {
        assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
    }
    if let Ok(ack) = HelloAck::decode(data) {
        assert_eq!(HelloAck::decode(&ack.encode()), Ok(ack));
    }
    if let Ok(header) = ChunkHeader::decode(data) {
        assert_eq!(header.encode()[..], data[..32]);
    }
});
