//! Verdicts on random greetings, in both roles: an accepted one never grants more than was offered.
#![no_main]

use ginnel_session::proto::{Offer, Verdict, judge_ack, judge_hello, propose};
use ginnel_session::{ClientConfig, ServerConfig};
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
});
