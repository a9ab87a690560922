//! Chunks: random ones never bring an assembler out of step, cut ones always come together.
#![no_main]

use ginnel_wire::{Assembler, Envelope, MIN_PACKET_SIZE, Packets};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u16, u32, &[u8])| {
    let (packet_size, payload_len, data) = input;
    let packet_size = MIN_PACKET_SIZE + u32::from(packet_size % 512);

    // Lies: a message announced at random, continued by slices of random bytes.
    let envelope = Envelope::request(1, 7, payload_len);
    let first = 32 + (data.len() % 64);
    if let Ok(mut assembler) = Assembler::new(&envelope, first, packet_size) {
        let mut arrived = first as u64;
        for packet in data.chunks(packet_size as usize) {
            match assembler.accept(packet) {
                Ok(payload) => arrived += payload.len() as u64,
                Err(_) => break,
            }
        }
        assert_eq!(arrived + u64::from(assembler.missing()), envelope.total_len());
    }

    // The truth.
    let envelope = Envelope::request(1, 7, data.len() as u32);
    let packets: Vec<Vec<u8>> = Packets::new(&envelope, packet_size)
        .unwrap()
        .map(|packet| [&packet.header[..], &data[packet.payload]].concat())
        .collect();
    let mut assembler = Assembler::new(&envelope, packets[0].len(), packet_size).unwrap();
    let mut payload = packets[0][32..].to_vec();
    for packet in &packets[1..] {
        payload.extend_from_slice(assembler.accept(packet).unwrap());
    }
    assert_eq!((payload.as_slice(), assembler.missing()), (data, 0));
});
