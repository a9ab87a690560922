//! Verdicts on random greetings, in both roles: an accepted one never grants more than was offered.
#![no_main]

use ginnel_session::proto::{
    Answer2, Offer, Offer2, Verdict, Verdict2, judge_ack, judge_ack_2, judge_hello, judge_hello_2, propose,
};
use ginnel_session::{ClientConfig, ServerConfig};
use ginnel_wire::{Features, Hello2, Profiles};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let config = ServerConfig { supported: ginnel_wire::Profiles(7), ..ServerConfig::default() };
    let offer = Offer::new(&config, 4096, 9);
    if let Verdict::Accept(ack) = judge_hello(data, &offer) {
        assert!(ack.selected.is_single() && offer.supported.contains(ack.selected));
        assert!(ack.max_request_payload <= offer.max_request_payload);
        assert!(ack.packet_size > 32 && ack.packet_size <= offer.packet_size);
    }
    let hello = propose(&ClientConfig::default(), 4096);
    if let Ok(ack) = judge_ack(data, &hello) {
        assert!(ack.selected.is_single() && hello.supported.contains(ack.selected));
        assert!(ack.packet_size > 32 && ack.packet_size <= hello.packet_size);
    }
    layout_2(data);
});

/// What a server grants, the client that proposed it takes.
fn layout_2(data: &[u8]) {
    let offer = Offer2 {
        supported: Profiles::BASELINE | Profiles::RING,
        preferred: Profiles::RING,
        max_request_payload: u32::MAX,
        max_response_payload: 1 << 20,
        max_response_items: 64,
        token: 0,
        packet_size: 212_960,
        features: Features::ALL,
        interface_id: 0,
        schema_hash: 1,
        request_window: 64,
        stream_window: 16,
        ring: 65536,
        min_ring: 4096,
        max_ring: 1 << 20,
        session_id: 1,
        refuse: None,
    };
    if let (Verdict2::Accept(ack), Ok(hello)) = (judge_hello_2(data, &offer), Hello2::decode(data)) {
        assert_eq!(judge_ack_2(&ack.packet(), &hello, 1 << 20), Answer2::Accepted(ack));
    }
    // As a client that proposes what the first half says, and is answered by the second.
    if let Ok(hello) = Hello2::decode(data)
        && let Answer2::Accepted(ack) = judge_ack_2(&data[96..], &hello, 1 << 20)
    {
        assert!(ack.request_ring <= 1 << 20 && ack.packet_size <= hello.packet_size);
    }
}
