//! A reader works while its writer changes every word that it can write, between the reader's steps and during them.
//! The reader may see any record and any fault; it must not panic, hang, read out of bounds or go backwards.
#![no_main]

use ginnel_fuzz::{Choices, beside_a_mad_writer, reopen};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Consumer, Control, Fault, Geometry, Mode, Producer, Start};
use ginnel_memory::{Access, Segment, Spec};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::Ordering;

const TOKEN: u64 = 7;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let shape = choices.byte();
    let mode = [Mode::Lossy, Mode::Lossless, Mode::Latest][usize::from(shape % 3)];
    let geometry = if shape & 0x40 == 0 {
        Geometry::fixed(mode, usize::from(shape >> 3 & 7) * 11, 8, 4).unwrap()
    } else {
        Geometry::variable(mode, 1 << (shape >> 3 & 7), 0, 4).unwrap()
    };
    let spec = Spec {
        kind: 1,
        layout: 0,
        instance: 1,
        params: geometry.params(),
        data: geometry.data_bytes(),
        mirror: geometry.mirror(),
    };
    let ring = Segment::memfd("fuzz-ring", &spec, false).unwrap();
    let readers = Spec { data: Control::bytes(4), mirror: false, ..spec };
    let readers = Segment::memfd("fuzz-readers", &readers, false).unwrap();
    let control = Control::new(readers.data_mut(), 4).unwrap();
    // What spoils the ring is another mapping, as of another process that may write it.
    let spoiled = reopen(&ring, Access::ReadWrite);
    let mut producer = Producer::new(geometry, ring.into_words().unwrap().0, control.clone()).unwrap();
    let slot = control.claim(TOKEN, Identity::own()).unwrap();
    let mut consumer = Consumer::new(geometry, spoiled.header_words(), spoiled.data(), control, slot, TOKEN).unwrap();
    let writable = [spoiled.header_mut(), spoiled.data_mut()];

    let mut steps = 0;
    while !choices.is_empty() && steps < 64 {
        steps += 1;
        match choices.byte() % 8 {
            // The writer does what it should, so that there is something to spoil.
            0 if geometry.fixed.is_some() && choices.byte() & 1 == 0 => {
                if let Ok(room) = producer.reserve_many(usize::from(choices.byte() % 9)) {
                    producer.push_many(&vec![choices.byte(); room * geometry.max_record], room);
                }
            }
            0 | 1 => {
                let len = geometry.fixed.unwrap_or(usize::from(choices.byte()) % (geometry.max_record + 1));
                if producer.reserve(len).is_ok() {
                    producer.push(&vec![choices.byte(); len]);
                }
            }
            2 => {
                // A word of the ring's own header words, or of its first records.
                let area = &writable[usize::from(choices.byte() & 1)];
                let index = usize::from(choices.short()) % area.len().min(512);
                let now = area.load(index, Ordering::Relaxed);
                area.store(index, choices.word(now), Ordering::Relaxed);
            }
            3 => {
                // The words that mean most: tail, mark, claim, closed, waiting, last.
                let index = [64, 65, 66, 67, 68, 80][usize::from(choices.byte()) % 6];
                let now = writable[0].load(index, Ordering::Relaxed);
                writable[0].store(index, choices.word(now), Ordering::Relaxed);
            }
            4 if choices.byte() < 16 => {
                let seed = choices.word(0);
                beside_a_mad_writer(&writable, seed, || {
                    (0..200).for_each(|_| step(&mut consumer, &mut Choices::new(&seed.to_le_bytes())))
                });
            }
            _ => step(&mut consumer, &mut choices),
        }
    }
});

fn step(consumer: &mut Consumer, choices: &mut Choices) {
    let (before, missed) = (consumer.sequence(), consumer.missed());
    let most = consumer.geometry().max_record;
    let outcome = match choices.byte() % 8 {
        0 => {
            let start = if choices.byte() & 1 == 0 { Start::Oldest } else { Start::Latest };
            let _ = consumer.join(start, || Ok::<(), ()>(())).unwrap();
            return; // joining chooses a place of its own
        }
        1 => {
            let _ = consumer.arm();
            let _ = (consumer.ready(), consumer.closed(), consumer.lag_bytes(), consumer.writer_waits());
            consumer.disarm();
            let _ = (consumer.should_flush(), consumer.flush());
            Ok(())
        }
        4 if consumer.geometry().fixed.is_some() => consumer.peek().and_then(|len| {
            let Some(len) = len else { return Ok(()) };
            let many = 1 + usize::from(choices.byte() % 9);
            let got = consumer.take_many(&mut vec![0; many * len], many)?;
            assert!(got <= many && consumer.sequence() >= got as u64, "more than was asked for");
            Ok(())
        }),
        2 | 3 => consumer.peek().and_then(|len| {
            let Some(len) = len else { return Ok(()) };
            assert!(len <= most, "a length beyond the limit");
            let mut out = Vec::new();
            consumer.take_vec(len, &mut out).map(|()| assert_eq!(out.len(), len))
        }),
        _ => consumer.peek().and_then(|len| {
            let Some(len) = len else { return Ok(()) };
            assert!(len <= most, "a length beyond the limit");
            consumer.take(&mut vec![0; len])
        }),
    };
    match outcome {
        Ok(()) => assert!(consumer.sequence() >= before, "went backwards"),
        Err(Fault::Lagged { skipped }) => {
            assert_eq!(consumer.missed(), missed + skipped);
            assert!(consumer.sequence() >= before, "went backwards");
        }
        Err(Fault::Length { len }) => assert!(len > most as u64),
        Err(Fault::Position { .. }) => {}
        Err(Fault::NoMemory { len }) => panic!("no memory for {len} bytes"),
        Err(Fault::Truncated) => panic!("nothing was truncated"),
    }
}
