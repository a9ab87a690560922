//! Layout 2: every decoder refuses, or accepts what encodes to the same bytes.
#![no_main]

use ginnel_wire::{Failure, Frame, Hello2, HelloAck2, MethodHashes, MethodList};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(frame) = Frame::decode_whole(data) {
        assert_eq!(frame.encode(), data);
    }
    if let Ok(hello) = Hello2::decode(data) {
        assert_eq!(hello.encode()[..], data[..96]);
    }
    if let Ok(ack) = HelloAck2::decode(data) {
        assert_eq!(ack.encode()[..], data[..96]);
    }
    let _ = HelloAck2::decode_rejection(data);
    if let Ok(failure) = Failure::decode(data) {
        assert_eq!(failure.encode(), data);
    }
    if let Ok(list) = MethodList::parse(data, (data.len() / 4) as u32) {
        assert_eq!(MethodList::encode(&list.iter().collect::<Vec<_>>()), data);
    }
    if let Ok(hashes) = MethodHashes::parse(data, (data.len() / 16) as u32) {
        let all: Vec<_> = hashes.iter().collect();
        assert_eq!(MethodHashes::encode(&all), data);
        assert!(all.iter().all(|entry| hashes.get(entry.method) == Some(*entry)));
    }
});
