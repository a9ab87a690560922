//! Models of memory that is borrowed and lent instead of copied.
//!
//! A borrow is a borrow to loom as well (see [`crate::lent`]): a word that the writer changes while a reader holds it,
//! or afterwards without having learned of its release, ends the model.

use super::*;
use crate::Trust;

/// Of models, which keep the promise or notice.
#[allow(unsafe_code)]
// SAFETY: the models' writers are those that the promise is made for.
const HONEST: Trust = unsafe { Trust::assume_honest_writer() };

/// Writes a record as a loan, in two steps where it has two words.
fn write_lent(producer: &mut Producer) {
    let (seq, geometry) = (producer.sequence(), *producer.geometry());
    let payload = if is_empty(&geometry, seq) { Vec::new() } else { whole(&geometry, seq) };
    let mut grant = producer.lend(payload.len()).unwrap();
    grant.bytes().copy_from_slice(&payload);
    grant.publish();
}

/// Borrows the next record and looks at it twice.
fn read_borrowed(consumer: &mut Consumer) -> Result<Option<u64>, Fault> {
    let Some(len) = consumer.peek()? else { return Ok(None) };
    let seq = consumer.sequence();
    let expected = if is_empty(consumer.geometry(), seq) { Vec::new() } else { whole(consumer.geometry(), seq) };
    let borrowed = consumer.borrow(HONEST, len);
    assert_eq!(borrowed.to_vec(), expected, "a torn or foreign record");
    thread::yield_now();
    assert_eq!(borrowed.to_vec(), expected, "it has changed in the reader's hands");
    drop(borrowed);
    consumer.release(len)?;
    Ok(Some(seq))
}

/// A full lossless ring, whose reader borrows while the writer waits for room and fills it, by `write`.
fn a_borrow_holds(ring: impl Fn() -> Ring + Send + Sync + 'static, full: usize, write: fn(&mut Producer)) {
    loom::model(move || {
        let ring = ring();
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        assert_eq!(producer.admit(0, 1), super::super::Admission::Admitted);
        for _ in 0..full {
            producer.reserve(producer.geometry().max_record).unwrap();
            write(&mut producer);
        }
        let (bell, ear) = bell();
        let reader = thread::spawn(move || {
            for seq in 0..2 {
                assert_eq!(read_borrowed(&mut consumer), Ok(Some(seq)));
                if consumer.flush() {
                    bell.send(()).unwrap();
                }
            }
            (consumer, bell)
        });
        for _ in 0..2 {
            while producer.reserve(producer.geometry().max_record).is_err() {
                let fence::Heavy::Done = producer.start_waiting() else { unreachable!() };
                if producer.reserve(producer.geometry().max_record).is_err() {
                    ear.recv().unwrap();
                }
                producer.stop_waiting();
            }
            write(&mut producer);
        }
        let (mut consumer, _bell) = reader.join().unwrap();
        for seq in 2..full as u64 + 2 {
            assert_eq!(read_borrowed(&mut consumer), Ok(Some(seq)));
        }
    });
}

#[test]
fn loom_a_borrowed_record_is_left_alone_until_it_is_released() {
    a_borrow_holds(|| Ring::fixed(Mode::Lossless, 1), 4, write);
}

#[test]
fn loom_a_borrowed_bare_record_is_left_alone_until_it_is_released() {
    a_borrow_holds(|| Ring::bare(Mode::Lossless), 4, write);
}

#[test]
fn loom_a_borrowed_record_is_left_alone_by_loans_of_any_size() {
    a_borrow_holds(|| Ring::variable(Mode::Lossless), 3, write_lent);
}

/// A reader that copies while records are filled in place: it gets whole ones, and counts the others.
fn a_loan_is_whole(ring: impl Fn() -> Ring + Send + Sync + 'static, before: usize, after: usize) {
    let lend = |producer: &mut Producer, records: usize| {
        for _ in 0..records {
            producer.reserve(producer.geometry().max_record).unwrap();
            write_lent(producer);
        }
    };
    every_record_is_received_or_counted_of(ring, before, after, lend);
}

#[test]
fn loom_a_loan_appears_whole_and_exactly_counted() {
    a_loan_is_whole(|| Ring::fixed(Mode::Lossy, 1), 4, 3);
}

#[test]
fn loom_a_bare_loan_appears_whole_and_exactly_counted() {
    a_loan_is_whole(|| Ring::bare(Mode::Lossy), 4, 2);
}

#[test]
fn loom_a_loan_of_any_size_appears_whole_and_exactly_counted() {
    a_loan_is_whole(|| Ring::variable(Mode::Lossy), 3, 3);
}

/// A reader that was evicted in the middle of a borrow is told so when it lets go, if anything was written over it.
/// The borrow itself breaks the promise, so here it is a copy, as the bytes are that a reader has made sense of.
#[test]
fn loom_the_release_of_what_was_overwritten_says_so() {
    loom::model(|| {
        let ring = Ring::fixed(Mode::Lossless, 1);
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        assert_eq!(producer.admit(0, 1), super::super::Admission::Admitted);
        fill(&mut producer, 4);
        let reader = thread::spawn(move || {
            let len = match consumer.peek() {
                Ok(len) => len.unwrap(),
                Err(Fault::Lagged { .. }) => return, // before it began
                Err(fault) => panic!("{fault:?}"),
            };
            let seen = consumer.bytes(len);
            match consumer.release(len) {
                Ok(()) => assert_eq!(seen, whole(consumer.geometry(), 0), "overwritten, and not a word of it"),
                Err(Fault::Lagged { .. } | Fault::Position { .. }) => {}
                Err(fault) => panic!("{fault:?}"),
            }
        });
        producer.evict(0, 1);
        fill(&mut producer, 2);
        reader.join().unwrap();
    });
}
