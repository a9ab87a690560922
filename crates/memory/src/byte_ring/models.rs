//! Models of the byte ring: loom runs the real cursors through every interleaving (of up to three preemptions) and
//! every value that a relaxed load may return.
//!
//! Each can fail; what makes it fail was tried by breaking the code:
//!
//! | model | fails if |
//! |---|---|
//! | `every_record_*` | the flag is not released, or not acquired; `refresh` does not wait for the consumer |
//! | `an_old_payload_*` | `publish` does not clear the next flag's place |
//! | `no_wake_*` | `fence::light` or `fence::heavy` is empty; `take_armed` takes without a swap |
//! | `no_room_*` | the fence of `flush` or of `arm` is missing |
//! | `a_close_*` | the mark of the end is not released, or not acquired |
//!
//! Loom does not delay loads past stores, so that `consumed` is released after the copy is not proved here.

use super::layout::{BLOCK_WORDS, tag};
use super::{ByteConsumer, ByteProducer, Shape};
use crate::fence::Heavy;
use crate::words::Words;
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::thread;

/// A ring of four lines.
fn ring() -> (ByteProducer, ByteConsumer) {
    let shape = Shape::new(256).unwrap();
    let block = Words::model(BLOCK_WORDS);
    let data = Words::model_data(shape.bytes() / 8, true);
    let producer = ByteProducer::new(shape, block.clone(), data.clone()).unwrap();
    (producer, ByteConsumer::new(shape, block, data).unwrap())
}

/// What record `seq` holds: twice the same, so that a torn one shows.
fn content(seq: u64) -> Vec<u8> {
    (seq + 7).to_ne_bytes().repeat(2)
}

fn read(consumer: &mut ByteConsumer) -> Option<Vec<u8>> {
    let record = consumer.peek().unwrap()?;
    let mut out = vec![0; record.len()];
    record.copy_out(0, &mut out);
    record.release();
    Some(out)
}

fn push(producer: &mut ByteProducer, bytes: &[u8]) {
    while !producer.push(&[bytes]).unwrap() {
        thread::yield_now();
    }
}

/// What a bell is to the real thing: a ring that comes first is not lost.
fn bell() -> (Sender<()>, Receiver<()>) {
    channel()
}

fn sleep_for_record(consumer: &mut ByteConsumer, bell: &Receiver<()>) {
    while !consumer.ready() && !consumer.closed() {
        let Heavy::Done = consumer.arm() else { unreachable!() };
        if !consumer.ready() && !consumer.closed() {
            bell.recv().unwrap();
        }
        consumer.disarm();
    }
}

#[test]
fn every_record_arrives_whole_and_in_order_in_a_ring_that_is_too_small_for_all() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring();
        let sender = thread::spawn(move || (0..5).for_each(|seq| push(&mut producer, &content(seq))));
        for seq in 0..5 {
            let found = loop {
                if let Some(found) = read(&mut consumer) {
                    break found;
                }
                let _ = consumer.flush();
                thread::yield_now();
            };
            assert_eq!(found, content(seq));
            if consumer.should_flush() {
                let _ = consumer.flush();
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn an_old_payload_that_looks_like_a_record_is_never_one() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring();
        // Two lines, the second of which begins with the flag that the record at 320, one lap later, will have.
        let forged = u64::from(tag(320)) << 32 | 16;
        let mut deceiver = vec![0; 56];
        deceiver.extend_from_slice(&forged.to_ne_bytes());
        push(&mut producer, &deceiver);
        assert_eq!(read(&mut consumer), Some(deceiver));
        push(&mut producer, &content(1));
        assert_eq!(read(&mut consumer), Some(content(1)));
        let _ = consumer.flush();
        let sender = thread::spawn(move || (2..4).for_each(|seq| push(&mut producer, &content(seq))));
        let mut next = 2;
        while next < 4 {
            match read(&mut consumer) {
                Some(found) => {
                    assert_eq!(found, content(next));
                    next += 1;
                }
                None => thread::yield_now(),
            }
        }
        assert_eq!(consumer.at(), 320);
        assert_eq!(read(&mut consumer), None, "the old payload passed for a record");
        sender.join().unwrap();
    });
}

#[test]
fn no_wake_is_lost_between_arming_and_publishing() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring();
        let (ring_it, hear_it) = bell();
        let sender = thread::spawn(move || {
            for seq in 0..2 {
                push(&mut producer, &content(seq));
                if producer.take_armed() {
                    ring_it.send(()).unwrap();
                }
            }
        });
        for seq in 0..2 {
            let found = loop {
                sleep_for_record(&mut consumer, &hear_it);
                if let Some(found) = read(&mut consumer) {
                    break found;
                }
            };
            assert_eq!(found, content(seq));
        }
        sender.join().unwrap();
    });
}

#[test]
fn no_room_is_missed_between_arming_and_releasing() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring();
        (0..3).for_each(|seq| push(&mut producer, &content(seq)));
        assert!(!producer.has_room(8).unwrap());
        let (ring_it, hear_it) = bell();
        let receiver = thread::spawn(move || {
            for seq in 0..3 {
                assert_eq!(read(&mut consumer), Some(content(seq)));
                if consumer.flush() {
                    ring_it.send(()).unwrap();
                }
            }
        });
        for _ in 0..2 {
            while !producer.has_room(8).unwrap() {
                let Heavy::Done = producer.arm() else { unreachable!() };
                if !producer.has_room(8).unwrap() {
                    hear_it.recv().unwrap();
                }
                producer.disarm();
            }
            assert!(producer.push(&[&[1; 8]]).unwrap());
        }
        receiver.join().unwrap();
    });
}

#[test]
fn a_close_is_seen_after_every_record_and_by_a_sleeper() {
    loom::model(|| {
        let (mut producer, mut consumer) = ring();
        let (ring_it, hear_it) = bell();
        let sender = thread::spawn(move || {
            push(&mut producer, &content(0));
            producer.close();
            if producer.take_armed() {
                ring_it.send(()).unwrap();
            }
        });
        let mut seen = 0;
        loop {
            sleep_for_record(&mut consumer, &hear_it);
            // The order that every driver has to keep: first the mark, then the last look.
            let closed = consumer.closed();
            match read(&mut consumer) {
                Some(found) => {
                    assert_eq!(found, content(seen));
                    seen += 1;
                }
                None if closed => break,
                None => {}
            }
        }
        assert_eq!(seen, 1, "a record that was sent before the end is lost");
        sender.join().unwrap();
    });
}
