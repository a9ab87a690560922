//! Random schedules: whatever the order in which bytes, time, hang-ups and answers come, each request gets exactly its
//! response, or the session says why not.

use super::*;
use crate::error::ProtocolError;
use std::collections::BTreeMap;

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// The full number of schedules, or a short one.
fn schedules() -> u64 {
    if std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1") { 100_000 } else { 600 }
}

fn payload_of(id: u64) -> Vec<u8> {
    pattern((id as usize * 37) % 1000, id as usize)
}

#[test]
fn every_request_gets_its_own_response_once_under_any_schedule() {
    for seed in 0..schedules() {
        let mut random = Random::new(seed);
        let framing = [Framing::Packets(100), Framing::Stream][random.below(2) as usize];
        let mut pair = Pair::open(framing);
        pair.client.connection.set_window(1 + random.below(20) as usize);
        pair.server.connection.set_window(1 + random.below(20) as usize);
        let (mut next, mut answered) = (1, 0);
        let mut taken: Vec<Received> = Vec::new();
        let total = 40;
        for step in 0.. {
            assert!(step < 100_000, "seed {seed}: no end");
            match random.below(8) {
                0 if next <= total && pair.client.connection.can_send() => {
                    let body = Body::Owned(payload_of(next));
                    pair.client.connection.send(pair.now, &Envelope::request(1, next, 0), body).unwrap();
                    next += 1;
                }
                1 => {
                    pair.up.room = random.below(500) as usize;
                    pair.client.write(pair.now, &mut pair.up);
                }
                2 => {
                    pair.down.room = random.below(500) as usize;
                    pair.server.write(pair.now, &mut pair.down);
                }
                3 => {
                    pair.up.piece = 1 + random.below(300) as usize;
                    pair.server.read_once(pair.now, &mut pair.up);
                }
                4 => {
                    pair.down.piece = 1 + random.below(300) as usize;
                    pair.client.read_once(pair.now, &mut pair.down);
                    if random.below(2) == 0 {
                        pair.client.connection.gather(&mut pair.client.pool);
                    }
                }
                5 if !taken.is_empty() => {
                    let request = taken.swap_remove(random.below(taken.len() as u64) as usize);
                    let envelope = Envelope::response_to(&request.envelope, Status::OK, 0);
                    let mut payload = request.payload().to_vec();
                    payload.reverse();
                    pair.server.connection.send(pair.now, &envelope, Body::Owned(payload)).unwrap();
                }
                6 => pair.pass(Duration::from_secs(random.below(1000))),
                _ => {
                    pair.client.take_events();
                    pair.server.take_events();
                    pair.client.connection.relax(&mut pair.client.pool);
                    pair.server.connection.relax(&mut pair.server.pool);
                }
            }
            while !pair.server.told.is_empty() {
                let request = pair.server.message();
                assert_eq!(request.payload(), payload_of(request.envelope.message_id), "seed {seed}");
                taken.push(request);
            }
            assert!(pair.server.connection.in_flight() <= pair.server.connection.window(), "seed {seed}");
            while !pair.client.told.is_empty() {
                let response = pair.client.message();
                let mut expected = payload_of(response.envelope.message_id);
                expected.reverse();
                assert_eq!(response.payload(), expected, "seed {seed}");
                answered += 1;
            }
            if answered == total {
                break;
            }
        }
        assert_eq!((pair.client.connection.in_flight(), pair.server.connection.in_flight()), (0, 0));
    }
}

#[test]
fn a_packet_that_is_lost_or_comes_twice_or_too_early_never_becomes_a_wrong_message() {
    let timing = Timing { within_message: Some(Duration::from_secs(1)), ..Timing::default() };
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    for seed in 0..schedules() {
        let mut random = Random::new(seed);
        let mut pair = Pair::open_with(Framing::Packets(100), timing);
        (1..=10).for_each(|id| pair.ask(id, &payload_of(id)));
        let mut packets = pair.up.drain();
        let at = random.below(packets.len() as u64) as usize;
        let lost = packets[at].clone();
        match random.below(3) {
            0 => {
                packets.remove(at);
            }
            1 => packets.insert(at, lost),
            _ => packets.swap(at, at.saturating_sub(1)),
        }
        packets.iter().for_each(|packet| pair.up.put(packet));
        pair.read_both();
        pair.pass(Duration::from_secs(1));
        let mut told = 0;
        for event in pair.server.told.drain(..) {
            match event {
                Event::Message(message) => {
                    assert_eq!(message.payload(), payload_of(message.envelope.message_id), "seed {seed}");
                    told += 1;
                }
                Event::Ended(End::Protocol(
                    ProtocolError::Chunk(_) | ProtocolError::Envelope(_) | ProtocolError::PacketTooLong { .. },
                )) => {
                    *ends.entry("named".to_owned()).or_default() += 1;
                }
                Event::Ended(End::Silent(Silence::WithinMessage)) => *ends.entry("silent".to_owned()).or_default() += 1,
                other => panic!("seed {seed}: {other:?}"),
            }
        }
        assert!(told <= 11, "seed {seed}");
    }
    assert!(ends.len() == 2, "both ways to find out: {ends:?}");
}

#[test]
fn a_hang_up_at_any_byte_tells_all_whole_messages_and_then_the_end() {
    for seed in 0..schedules() {
        let mut random = Random::new(seed);
        let framing = [Framing::Packets(100), Framing::Stream][random.below(2) as usize];
        let mut pair = Pair::open(framing);
        (1..=10).for_each(|id| pair.ask(id, &payload_of(id)));
        let packets = pair.up.drain();
        let (mut whole, mut sent) = (0, 0);
        if framing == Framing::Stream {
            let bytes = packets.concat();
            sent = random.below(bytes.len() as u64 + 1) as usize;
            pair.up.put(&bytes[..sent]);
            pair.up.piece = 1 + random.below(2000) as usize;
        } else {
            packets[..random.below(packets.len() as u64 + 1) as usize].iter().for_each(|packet| {
                sent += packet.len();
                pair.up.put(packet);
            });
        }
        let mut needed = 0;
        for id in 1..=10 {
            let len = payload_of(id).len();
            needed += 32 + len + if framing == Framing::Stream { 0 } else { 32 * (len.max(1).div_ceil(68) - 1) };
            whole += usize::from(needed <= sent);
        }
        pair.up.closed = true;
        pair.server.read(pair.now, &mut pair.up);
        assert_eq!(pair.server.told.len(), whole + 1, "seed {seed} {framing:?}");
        (1..=whole as u64).for_each(|id| assert_eq!(pair.server.message().payload(), payload_of(id)));
        assert_eq!(pair.server.end(), End::HungUp);
    }
}
