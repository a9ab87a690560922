//! Borrows and loans of one mapping that both sides use, as two programs never do: so ThreadSanitizer, which knows
//! memory by its address, sees a writer that touches what a reader holds. `cargo xtask sanitize` runs it.

use super::*;
use crate::identity::Identity;
use crate::segment::WriterPlace;
use crate::words::WriterWords;
use crate::{PARAMS, Segment, Spec, Trust};

/// Of a writer that is this test's own, and keeps the protocol or fails it.
#[allow(unsafe_code)]
// SAFETY: the ring is lossless, its one reader is never evicted, and nobody else has its memory.
const HONEST: Trust = unsafe { Trust::assume_honest_writer() };

const RECORDS: u64 = 1_000;

fn segment(data: usize, mirror: bool) -> Segment {
    Segment::memfd("borrows", &Spec { kind: 1, layout: 1, instance: 1, params: [0; PARAMS], data, mirror }, false)
        .unwrap()
}

/// A length and content that follow from the number.
fn payload(geometry: &Geometry, seq: u64) -> Vec<u8> {
    let len = geometry.fixed.unwrap_or((seq.wrapping_mul(0x9e37_79b9) >> 7) as usize % (geometry.max_record + 1));
    (0..len).map(|at| (seq.wrapping_mul(31) + at as u64) as u8).collect()
}

fn every_borrow_is_left_alone(geometry: Geometry) {
    let data = segment(geometry.data_bytes(), geometry.mirror());
    let control = segment(Control::bytes(1), false);
    let control = Control::new(control.data_mut(), 1).unwrap();
    let (head, words) = (data.header_words(), data.data());
    let words_of_writer = WriterWords::new(data.header_mut(), data.data_mut(), WriterPlace::of(&data));
    let mut producer = Producer::new(geometry, words_of_writer, control.clone()).unwrap();
    let slot = control.claim(1, Identity::own()).unwrap();
    let mut consumer = Consumer::new(geometry, head, words, control, slot, 1).unwrap();
    assert_eq!(producer.admit(slot, 1), Admission::Admitted);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut seq = 0;
            while seq < RECORDS {
                let Some(len) = consumer.peek().unwrap() else {
                    std::thread::yield_now();
                    continue;
                };
                let expected = payload(&geometry, seq);
                let borrowed = consumer.borrow(HONEST, len);
                assert_eq!(borrowed, expected);
                std::thread::yield_now();
                assert_eq!(borrowed, expected, "it has changed in the reader's hands");
                consumer.release(len).unwrap();
                consumer.flush();
                seq += 1;
            }
        });
        for seq in 0..RECORDS {
            let bytes = payload(&geometry, seq);
            while producer.reserve(bytes.len()).is_err() {
                std::thread::yield_now();
            }
            if seq % 2 == 0 {
                producer.push(&bytes);
            } else {
                let mut grant = producer.lend(bytes.len()).unwrap();
                grant.copy_from_slice(&bytes);
                assert_eq!(*grant, bytes[..]);
                grant.publish();
            }
        }
    });
}

#[test]
fn nobody_writes_a_record_of_any_size_that_a_reader_has_borrowed() {
    every_borrow_is_left_alone(Geometry::variable(Mode::Lossless, 300, 8 << 10, 1).unwrap());
}

#[test]
fn nobody_writes_a_record_that_a_reader_has_borrowed() {
    every_borrow_is_left_alone(Geometry::fixed(Mode::Lossless, 56, 16, 1).unwrap());
}

#[test]
fn nobody_writes_a_bare_record_that_a_reader_has_borrowed() {
    let geometry = Geometry::fixed(Mode::Lossless, 512, 16, 1).unwrap();
    assert!(geometry.bare());
    every_borrow_is_left_alone(geometry);
}
