//! The writer works while readers change every word that they can write, between its steps and during them. The writer
//! must not panic, hang or be stopped for ever, and an honest reader gets every record intact, or an exact count of
//! what it missed.
#![no_main]

use ginnel_fuzz::{Choices, beside_a_mad_writer, reopen};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Blocked, Consumer, Control, Fault, Geometry, Mode, Producer};
use ginnel_memory::{Access, Segment, Spec};
use libfuzzer_sys::fuzz_target;
use std::sync::atomic::Ordering;

const SLOTS: usize = 4;
/// How often a joining reader may stop a writer that takes its attention each time.
const MOST_JOINS: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let shape = choices.byte();
    let mode = if shape & 1 == 0 { Mode::Lossy } else { Mode::Lossless };
    let geometry = if shape & 2 == 0 {
        Geometry::fixed(mode, usize::from(shape >> 3 & 7) * 11, 8, SLOTS).unwrap()
    } else {
        Geometry::variable(mode, 1 << (shape >> 3), 0, SLOTS)
            .unwrap_or_else(|_| Geometry::variable(mode, 4096, 0, SLOTS).unwrap())
    };
    let spec = Spec {
        kind: 1,
        layout: 0,
        instance: 1,
        params: geometry.params(),
        data: geometry.data_bytes(),
        mirror: geometry.mirror(),
    };
    let ring = Segment::memfd("fuzz-ring", &spec, true).unwrap();
    let readers = Spec { data: Control::bytes(SLOTS), mirror: false, ..spec };
    let mad = Segment::memfd("fuzz-mad", &readers, false).unwrap();
    let own = Segment::memfd("fuzz-own", &readers, false).unwrap();
    let control = Control::new(mad.data_mut(), SLOTS).unwrap();
    let reading = reopen(&ring, Access::Read);
    let mut producer = Producer::new(geometry, ring.into_words().unwrap().0, control.clone()).unwrap();
    // The honest reader keeps its cursor where nobody else writes; the writer does not wait for it.
    let private = Control::new(own.data_mut(), SLOTS).unwrap();
    let slot = private.claim(1, Identity::own()).unwrap();
    let honest = Consumer::new(geometry, reading.header_words(), reading.data(), private, slot, 1).unwrap();
    let mut honest = Honest { consumer: honest, received: 0, skipped: 0, buffer: Vec::new() };
    let writable = [mad.data_mut()];

    let mut steps = 0;
    while !choices.is_empty() && steps < 64 {
        steps += 1;
        match choices.byte() % 6 {
            0 => {
                let index = usize::from(choices.byte()) % writable[0].len();
                writable[0].store(index, choices.word(producer.position()), Ordering::Relaxed);
            }
            1 => {
                if let Some(slot) = control.claim(choices.word(1).max(1), Identity::own()) {
                    let token = writable[0].load(16 + 16 * slot, Ordering::Relaxed);
                    let _ = producer.admit(slot, token);
                }
            }
            2 if choices.byte() < 16 => {
                let seed = choices.word(0);
                beside_a_mad_writer(&writable, seed, || {
                    (0..100).for_each(|n| write(&mut producer, &mut Choices::new(&[n, n / 3])))
                });
            }
            3 => honest.read(),
            _ => write(&mut producer, &mut choices),
        }
    }
    producer.close();
    honest.read();
    assert!(honest.consumer.closed());
    assert_eq!(honest.received + honest.skipped, producer.sequence(), "a record is neither received nor counted");
});

/// Writes a few records as the layers above do, whatever the readers say.
fn write(producer: &mut Producer, choices: &mut Choices) {
    let records = 1 + choices.byte() % 8;
    let batch = choices.byte() & 1 == 1;
    if batch {
        producer.open_batch();
    }
    if producer.geometry().fixed.is_some() && choices.byte() & 1 == 1 {
        write_slice(producer, usize::from(records));
    }
    for _ in 0..records {
        let most = producer.geometry().max_record;
        let len = producer.geometry().fixed.unwrap_or((producer.sequence() as usize * 7919) % (most + 1));
        let mut joins = 0;
        loop {
            match producer.reserve(len) {
                Ok(()) => break,
                Err(Blocked::Joining) => {
                    joins += 1;
                    assert!(joins <= MOST_JOINS, "a reader that joins for ever stops the writer");
                    let _ = producer.control().take_attention();
                    producer.welcomed();
                }
                Err(Blocked::Reader { slot, token }) => producer.evict(slot, token),
                Err(Blocked::Mad { slot, token }) => producer.dismiss(slot, token),
            Err(Blocked::Scribbled { .. }) => panic!("readers cannot write here"),
            }
        }
        let payload = payload(producer.sequence(), len);
        producer.push(&payload);
    }
    if batch {
        producer.publish_batch();
    }
    if producer.wanted() {
        let _ = producer.control().take_attention();
        for slot in 0..SLOTS + 1 {
            let _ = producer.control().take_armed(slot);
        }
    }
    let _ = (producer.backlog(), producer.control().readers().count());
}

/// Writes `records` records as the layers above write a slice.
fn write_slice(producer: &mut Producer, records: usize) {
    let (mut done, mut joins, len) = (0, 0, producer.geometry().max_record);
    while done < records {
        match producer.reserve_many(records - done) {
            Ok(room) => {
                assert!(room > 0 && room <= records - done, "room for none or too many");
                let first = producer.sequence();
                let payloads: Vec<u8> = (first..first + room as u64).flat_map(|seq| payload(seq, len)).collect();
                producer.push_many(&payloads, room);
                done += room;
                joins = 0;
            }
            Err(Blocked::Joining) => {
                joins += 1;
                assert!(joins <= MOST_JOINS, "a reader that joins for ever stops the writer");
                let _ = producer.control().take_attention();
                producer.welcomed();
            }
            Err(Blocked::Reader { slot, token }) => producer.evict(slot, token),
            Err(Blocked::Mad { slot, token }) => producer.dismiss(slot, token),
            Err(Blocked::Scribbled { .. }) => panic!("readers cannot write here"),
        }
    }
}

fn payload(seq: u64, len: usize) -> Vec<u8> {
    (0..len).map(|at| (seq as usize * 31 + at) as u8).collect()
}

struct Honest {
    consumer: Consumer,
    received: u64,
    skipped: u64,
    buffer: Vec<u8>,
}

impl Honest {
    fn read_run(&mut self, len: usize) -> Result<(), Fault> {
        let first = self.consumer.sequence();
        let mut run = vec![0; 5 * len];
        let got = self.consumer.take_many(&mut run, 5)?;
        assert!(got > 0, "what was announced is not there");
        for index in 0..got {
            let seq = first + index as u64;
            assert!(run[index * len..(index + 1) * len] == payload(seq, len), "record {seq} is not what was written");
        }
        self.received += got as u64;
        Ok(())
    }

    fn read(&mut self) {
        loop {
            if self.consumer.geometry().fixed.is_some() && self.received % 3 == 0 {
                match self.consumer.peek().and_then(|len| len.map(|len| self.read_run(len)).transpose()) {
                    Ok(Some(())) => continue,
                    Ok(None) => return,
                    Err(Fault::Lagged { skipped }) => {
                        self.skipped += skipped;
                        continue;
                    }
                    Err(fault) => panic!("{fault:?}"),
                }
            }
            match self
                .consumer
                .peek()
                .and_then(|len| len.map(|len| self.consumer.take_vec(len, &mut self.buffer)).transpose())
            {
                Ok(Some(())) => {
                    let seq = self.consumer.sequence() - 1;
                    assert_eq!(self.buffer, payload(seq, self.buffer.len()), "record {seq} is not what was written");
                    self.received += 1;
                }
                Ok(None) => return,
                Err(Fault::Lagged { skipped }) => self.skipped += skipped,
                Err(fault) => panic!("{fault:?}"),
            }
        }
    }
}
