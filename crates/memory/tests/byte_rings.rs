//! The rings of a session: what one side writes the other reads, whatever the sizes, and whatever a hostile one writes.

use ginnel_memory::byte_ring::{
    ByteConsumer, ByteProducer, ByteRingError, LAYOUT, PairSizes, RING_KIND, RingPair, Shape, Side,
};
use ginnel_memory::{Access, Expect, Segment, SegmentError, Spec, WORD_PARAMS, WordsMut};
use rustix::fd::AsFd;
use rustix::fs::{MemfdFlags, SealFlags};
use std::sync::atomic::Ordering;

const INSTANCE: u64 = 77;

fn sizes() -> PairSizes {
    PairSizes::new(4096, 8192).unwrap()
}

struct Pair {
    client: (ByteProducer, ByteConsumer),
    server: (ByteProducer, ByteConsumer),
    /// Everything that either side can write: the header page, and both areas.
    words: (WordsMut, WordsMut),
}

fn pair() -> Pair {
    let server = RingPair::create(sizes(), INSTANCE).unwrap();
    let client = RingPair::inherit(server.fd().try_clone_to_owned().unwrap(), sizes(), INSTANCE).unwrap();
    let expect = Expect { kind: RING_KIND, layout: Some(LAYOUT), instance: Some(INSTANCE), owner: None };
    let fd = server.fd().try_clone_to_owned().unwrap();
    let raw = Segment::inherit("raw", fd, Access::ReadWrite, &expect).unwrap();
    Pair {
        client: client.split(Side::Client),
        server: server.split(Side::Server),
        words: (raw.header_mut(), raw.data_mut()),
    }
}

fn receive(consumer: &mut ByteConsumer) -> Option<Vec<u8>> {
    let record = consumer.peek().unwrap()?;
    let mut out = Vec::new();
    record.append_to(0, &mut out);
    record.release();
    Some(out)
}

fn bytes(seq: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seq.wrapping_mul(31) + at) as u8).collect()
}

#[test]
fn records_of_every_size_travel_both_ways_and_around_the_ring() {
    let mut pair = pair();
    for (producer, consumer) in [(&mut pair.client.0, &mut pair.server.1), (&mut pair.server.0, &mut pair.client.1)] {
        let most = producer.shape().max_record();
        for seq in 0..3 * most / 7 {
            let sent = bytes(seq, seq * 7 % (most + 1));
            let cut = sent.len() * (seq % 5) / 4;
            assert!(producer.push(&[&sent[..cut], &[], &sent[cut..]]).unwrap(), "an empty ring takes every record");
            assert_eq!(receive(consumer), Some(sent));
            assert_eq!(receive(consumer), None);
            let _ = consumer.flush();
        }
    }
}

#[test]
fn a_full_ring_takes_nothing_until_its_consumer_has_told_what_it_read() {
    let mut pair = pair();
    let (producer, consumer) = (&mut pair.client.0, &mut pair.server.1);
    let mut sent = 0;
    while producer.push(&[&bytes(sent, 100)]).unwrap() {
        sent += 1;
    }
    assert_eq!(sent, (4096 - 64) / 128);
    assert_eq!(receive(consumer), Some(bytes(0, 100)));
    assert!(!producer.push(&[&[1; 100]]).unwrap(), "not told yet");
    assert!(!consumer.flush(), "nobody waits");
    let _ = producer.arm();
    producer.disarm();
    assert!(producer.push(&[&bytes(sent, 100)]).unwrap());
    for seq in 1..=sent {
        assert_eq!(receive(consumer), Some(bytes(seq, 100)));
    }
    assert_eq!(receive(consumer), None);
}

#[test]
fn a_record_can_be_looked_at_in_parts_and_stays_until_it_is_released() {
    let mut pair = pair();
    let (producer, consumer) = (&mut pair.client.0, &mut pair.server.1);
    let sent = bytes(3, 1000);
    let mut grant = producer.reserve(1000).unwrap().unwrap();
    grant.append(&sent[..13]);
    drop(grant); // as if it had never been
    let mut grant = producer.reserve(1000).unwrap().unwrap();
    for part in sent.chunks(13) {
        grant.append(part);
    }
    assert_eq!(grant.remaining(), 0);
    grant.commit();
    for _ in 0..2 {
        let record = consumer.peek().unwrap().unwrap();
        assert_eq!((record.len(), record.is_empty()), (1000, false));
        let (mut head, mut rest) = ([0; 32], Vec::new());
        record.copy_out(0, &mut head);
        record.append_to(32, &mut rest);
        assert_eq!([&head[..], &rest].concat(), sent);
    }
    consumer.peek().unwrap().unwrap().release();
    assert!(consumer.peek().unwrap().is_none());
}

#[test]
fn old_payload_that_looks_like_a_record_is_never_one() {
    let mut pair = pair();
    let (producer, consumer) = (&mut pair.client.0, &mut pair.server.1);
    // Every word of every payload is the flag of an empty record at the place where it comes to lie, one lap later.
    let mut at = 0_u64;
    for seq in 0..2000_u64 {
        let len = (seq * 83 % 3000) as usize / 8 * 8;
        let forged: Vec<u8> = (0..len as u64 / 8)
            .map(|word| ((((at + 8 + word * 8 + 4096) / 64) as u32 | 1 << 31) as u64) << 32 | 8)
            .flat_map(u64::to_ne_bytes)
            .collect::<Vec<_>>();
        assert!(producer.push(&[&forged]).unwrap());
        assert_eq!(receive(consumer), Some(forged));
        assert_eq!(receive(consumer), None, "after record {seq}");
        let _ = consumer.flush();
        at += (8 + len as u64).next_multiple_of(64);
    }
}

#[test]
fn armed_sides_are_woken_once() {
    let mut pair = pair();
    let (producer, consumer) = (&mut pair.client.0, &mut pair.server.1);
    assert!(!producer.take_armed());
    let _ = consumer.arm();
    assert!(!consumer.ready());
    assert!(producer.push(&[b"x"]).unwrap());
    assert!(consumer.ready());
    assert!(producer.take_armed() && !producer.take_armed(), "one wake for one announcement");
    let _ = consumer.arm();
    consumer.disarm();
    assert!(!producer.take_armed());
    assert!(!consumer.closed());
    producer.close();
    assert!(consumer.closed());
    assert_eq!(receive(consumer), Some(b"x".to_vec()));

    let _ = producer.arm();
    assert!(consumer.flush() && !consumer.flush());
}

#[test]
fn a_lie_in_any_word_is_an_error_of_that_side() {
    // A flag with another tag, and one with an impossible length.
    for (flag, error) in [
        (1_u64, ByteRingError::Tag { position: 0, found: 0, expected: 1 << 31 }),
        (u64::MAX, ByteRingError::Tag { position: 0, found: u32::MAX, expected: 1 << 31 }),
        (1 << 63 | 4025, ByteRingError::Length { position: 0, len: 4025, limit: 4024 }),
        (1 << 63 | 0xffff_ffff, ByteRingError::Length { position: 0, len: u32::MAX, limit: 4024 }),
    ] {
        let mut pair = pair();
        pair.words.1.store(0, flag, Ordering::Relaxed);
        assert_eq!(pair.server.1.peek().unwrap_err(), error);
        assert!(pair.server.1.ready(), "an error is worth a look");
    }
    // The largest length that can be is read within bounds, whatever is there.
    let mut largest = pair();
    largest.words.1.store(0, 1 << 63 | 4024, Ordering::Relaxed);
    assert_eq!(receive(&mut largest.server.1).unwrap().len(), 4024);
    // A consumer that has read more than there was, and one that takes back what it said.
    let consumed = WORD_PARAMS + 32;
    let mut early = pair();
    while early.client.0.push(&[&[0; 100]]).unwrap() {}
    early.words.0.store(consumed, u64::MAX, Ordering::Relaxed);
    let high = 31 * 128;
    assert_eq!(early.client.0.push(&[&[0; 100]]), Err(ByteRingError::Consumed { found: u64::MAX, low: 0, high }));
    early.words.0.store(consumed, high, Ordering::Relaxed);
    assert_eq!(early.client.0.push(&[&[0; 4000]]), Ok(true));
    early.words.0.store(consumed, 0, Ordering::Relaxed);
    let error = early.client.0.push(&[&[0; 100]]).unwrap_err();
    assert_eq!(error, ByteRingError::Consumed { found: 0, low: high, high: high + 4032 });
}

#[test]
fn a_memory_that_is_not_what_was_agreed_is_refused() {
    let made = || RingPair::create(sizes(), INSTANCE).unwrap();
    let fd = || made().fd().try_clone_to_owned().unwrap();
    let field = |result: Result<RingPair, SegmentError>| match result.unwrap_err() {
        SegmentError::Mismatch { field, .. } => field,
        other => panic!("{other}"),
    };
    assert_eq!(field(RingPair::inherit(fd(), sizes(), 78)), "instance");
    assert_eq!(field(RingPair::inherit(fd(), PairSizes::new(8192, 8192).unwrap(), INSTANCE)), "request ring");
    assert_eq!(field(RingPair::inherit(fd(), PairSizes::new(4096, 4096).unwrap(), INSTANCE)), "response ring");
    // A segment of another sort, with the right kind and layout.
    let spec = Spec { kind: RING_KIND, layout: LAYOUT, instance: INSTANCE, params: [0; 24], data: 12288, mirror: true };
    let other = Segment::memfd("other", &spec, false).unwrap();
    assert_eq!(field(RingPair::inherit(other.fd().try_clone_to_owned().unwrap(), sizes(), INSTANCE)), "request ring");
    // Areas that are not all of the data, or no pages.
    for params in [[4096, 4096], [0, 12288], [12288, 0], [4097, 8191], [u64::MAX, 12289]] {
        let made = made();
        let (words, fd) = (raw_header(&made), made.fd().try_clone_to_owned().unwrap());
        words.store(8, params[0], Ordering::Relaxed);
        words.store(9, params[1], Ordering::Relaxed);
        assert_eq!(field(RingPair::inherit(fd, sizes(), INSTANCE)), "size of both areas", "{params:?}");
    }
    // No memfd, no seals.
    let plain = rustix::fs::memfd_create("plain", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::fs::ftruncate(&plain, 16384).unwrap();
    assert!(matches!(RingPair::inherit(plain, sizes(), INSTANCE), Err(SegmentError::Unsealed { .. })));
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    assert!(matches!(RingPair::inherit(pipe, sizes(), INSTANCE), Err(SegmentError::Unsealed { .. })));
}

fn raw_header(made: &RingPair) -> WordsMut {
    let expect = Expect { kind: RING_KIND, layout: None, instance: None, owner: None };
    let fd = made.fd().try_clone_to_owned().unwrap();
    Segment::inherit("raw", fd, Access::ReadWrite, &expect).unwrap().header_mut()
}

#[test]
fn the_memory_is_sealed_and_its_descriptor_goes_with_the_pair() {
    let made = RingPair::create(sizes(), INSTANCE).unwrap();
    let seals = rustix::fs::fcntl_get_seals(made.fd().as_fd()).unwrap();
    assert!(seals.contains(SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL), "{seals:?}");
    let kept = made.fd().try_clone_to_owned().unwrap();
    let (mut producer, consumer) = made.split(Side::Server);
    drop(consumer);
    assert!(producer.push(&[b"the memory outlives its pair"]).unwrap());
    let client = RingPair::inherit(kept, sizes(), INSTANCE).unwrap();
    let (_, mut consumer) = client.split(Side::Client);
    assert_eq!(receive(&mut consumer), Some(b"the memory outlives its pair".to_vec()));
}

#[test]
fn only_sizes_that_can_be_mapped_twice_are_sizes() {
    for bad in [0, 1, 2048, 4095, 4097, 12288, 1 << 31] {
        assert_eq!(PairSizes::new(bad, 4096), None, "{bad}");
        assert_eq!(PairSizes::new(4096, bad), None, "{bad}");
    }
    assert_eq!(Shape::new(4096).unwrap().max_record(), 4096 - 72);
}

#[test]
fn two_threads_exchange_what_they_sent_however_large() {
    let mut pair = pair();
    let rounds = if cfg!(debug_assertions) { 20_000 } else { 200_000 };
    let size = |seq: usize| if seq.is_multiple_of(17) { seq % 3900 } else { seq % 90 };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (producer, consumer) = &mut pair.server;
            for seq in 0..rounds {
                let found = loop {
                    if let Some(found) = receive(consumer) {
                        break found;
                    }
                    let _ = consumer.flush();
                    std::thread::yield_now();
                };
                while !producer.push(&[&found]).unwrap() {
                    std::thread::yield_now();
                }
                assert_eq!(found, bytes(seq, size(seq)));
            }
        });
        let (producer, consumer) = &mut pair.client;
        let (mut sent, mut got) = (0, 0);
        while got < rounds {
            while sent < rounds && sent - got < 20 && producer.push(&[&bytes(sent, size(sent))]).unwrap() {
                sent += 1;
            }
            match receive(consumer) {
                Some(found) => {
                    assert_eq!(found, bytes(got, size(got)));
                    got += 1;
                    if consumer.should_flush() {
                        let _ = consumer.flush();
                    }
                }
                None => {
                    let _ = consumer.flush();
                    std::thread::yield_now();
                }
            }
        }
    });
}
