//! Both sides of a session's rings work while a mad peer changes every word that there is, between their steps and
//! during them. They may see any record and any error; they must not panic, hang, or reach beyond a record's limit.
#![no_main]

use ginnel_fuzz::{Choices, beside_a_mad_writer};
use ginnel_memory::byte_ring::{ByteConsumer, ByteProducer, ByteRingError, LAYOUT, PairSizes, RING_KIND, RingPair, Side};
use ginnel_memory::{Access, Expect, Segment, WORD_PARAMS};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::Ordering;

/// The words of a ring's block that mean something: closed, waiting, armed, consumed.
const MEANINGFUL: [usize; 4] = [0, 1, 16, 32];

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let sizes = PairSizes::new(4096 << (choices.byte() % 2), 4096).unwrap();
    let pair = RingPair::create(sizes, 1).unwrap();
    let copy = || pair.fd().try_clone_to_owned().unwrap();
    let expect = Expect { kind: RING_KIND, layout: Some(LAYOUT), instance: Some(1), owner: None };
    let mad = Segment::inherit("mad", copy(), Access::ReadWrite, &expect).unwrap();
    let writable = [mad.header_mut(), mad.data_mut()];
    let client = RingPair::inherit(copy(), sizes, 1).unwrap().split(Side::Client);
    let mut sides = [client, pair.split(Side::Server)];
    let mut at = 0_u64;

    let mut steps = 0;
    while !choices.is_empty() && steps < 128 {
        steps += 1;
        let side = usize::from(choices.byte() & 1);
        match choices.byte() % 8 {
            0 => {
                let index = WORD_PARAMS + 64 * side + MEANINGFUL[usize::from(choices.byte()) % MEANINGFUL.len()];
                let now = writable[0].load(index, Ordering::Relaxed);
                writable[0].store(index, choices.word(now), Ordering::Relaxed);
            }
            1 => {
                // A flag, most likely a good one with another length, at a line's beginning.
                let line = usize::from(choices.byte()) * 8 % writable[1].len();
                let tag = (at / 64) as u32 | 1 << 31;
                let flag = u64::from(tag) << 32 | choices.word(4024) & 0xffff_ffff;
                writable[1].store(line, flag, Ordering::Relaxed);
                at += 64;
            }
            2 => {
                let index = usize::from(choices.short()) % writable[1].len();
                writable[1].store(index, choices.word(0), Ordering::Relaxed);
            }
            3 if choices.byte() < 16 => {
                let seed = choices.word(0);
                beside_a_mad_writer(&writable, seed, || {
                    let (producer, consumer) = &mut sides[side];
                    for round in 0..200_u64 {
                        let _ = send(producer, (seed.wrapping_mul(round + 1) % 4025) as usize);
                        let _ = receive(consumer);
                    }
                });
            }
            4 | 5 => {
                let _ = send(&mut sides[side].0, usize::from(choices.short()) % 4025);
            }
            _ => {
                let _ = receive(&mut sides[side].1);
            }
        }
    }
});

fn send(producer: &mut ByteProducer, len: usize) -> Result<(), ByteRingError> {
    let _ = (producer.arm(), producer.has_room(len)?);
    producer.disarm();
    producer.push(&[&vec![7; len / 2], &vec![8; len - len / 2]])?;
    let _ = producer.take_armed();
    Ok(())
}

fn receive(consumer: &mut ByteConsumer) -> Result<(), ByteRingError> {
    let _ = (consumer.arm(), consumer.ready(), consumer.closed(), consumer.should_flush());
    consumer.disarm();
    let most = consumer.shape().max_record();
    if let Some(record) = consumer.peek()? {
        assert!(record.len() <= most, "a length beyond the limit");
        let mut out = vec![0; record.len()];
        record.copy_out(0, &mut out);
        let at = record.len() / 16 * 8;
        record.append_to(at, &mut out);
        assert_eq!(out.len(), 2 * record.len() - at);
        record.release();
    }
    let _ = consumer.flush();
    Ok(())
}
