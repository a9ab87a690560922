//! Models of the ring: loom runs the real producer, consumer and control code through every interleaving (of up to
//! three preemptions) and every value that a relaxed load may return.
//!
//! `cargo xtask test` runs them. Each can fail; what makes it fail was tried by breaking the code:
//!
//! | model | fails if |
//! |---|---|
//! | `no_wake_is_lost*` | `fence::light` or `fence::heavy` is empty; arming is a plain store |
//! | `no_wake_is_lost_by_*` | `set_fenced` or `arm` lacks its fence, or the look behind a fence; `fenced` is not released |
//! | `a_*lossy_reader_*` | `finish` does not look at the mark, or without its fence; the release fence behind the mark is missing; the mark moves with the record instead of before it; `resync` counts one too many; the flag is not released |
//! | `an_old_payload_*` | the place of the next flag is not cleared |
//! | `a_writer_*` | `start_waiting` or `flush` lacks its fence |
//! | `a_join_*` | `join` or `claim` lacks its fence, or does not look; an announced claim is withdrawn; one passes before `welcomed` |
//! | `a_batch_*` | the first record's flag is stored when the record is sealed, or is not released |
//! | `a_close_*` | the mark of the end is not released |
//! | `a_borrowed_*` | the writer goes one record further than the cursor allows |
//! | `a_*loan_*` | as `a_*lossy_reader_*` |
//! | `the_release_*` | `finish` does not look at the mark, or without its fence |
//! | `a_latest_value_*` | `finish` does not look at the mark; the flag is not released |
//!
//! Loom does not delay loads past stores, and takes a fence behind a store for a part of it. So that the cursor is
//! *released* after the copy or the borrow is not proved here.

mod loans;

use super::control::{ATTENTION_ARMED, ATTENTION_JOINED, Control};
use super::layout::{Geometry, Mode};
use super::{Blocked, Consumer, Fault, Producer, Start};
use crate::fence;
use crate::identity::Identity;
use crate::words::{Words, WordsMut, WriterWords};
use loom::sync::mpsc::{Receiver, Sender, channel};
use loom::sync::{Arc, Mutex};
use loom::thread;

const HEAD_WORDS: usize = super::layout::LAST + 1;
/// Nobody of this system: the models' readers are threads.
const NOBODY: Identity = Identity { pid: 0, start: 0 };

/// The memory of one ring.
struct Ring {
    geometry: Geometry,
    head: WordsMut,
    data: WordsMut,
    control: Control,
}

impl Ring {
    fn new(geometry: Geometry) -> Self {
        let control = Words::model(Control::bytes(geometry.max_readers) / 8);
        Self {
            geometry,
            head: Words::model(HEAD_WORDS),
            data: Words::model_data(geometry.data_bytes() / 8, geometry.mirror()),
            control: Control::new(control, geometry.max_readers).unwrap(),
        }
    }

    /// Four slots of sixteen bytes.
    fn fixed(mode: Mode, readers: usize) -> Self {
        Self::new(Geometry::fixed(mode, 16, 4, readers).unwrap())
    }

    /// Four slots of thirty-two bytes without flags.
    fn bare(mode: Mode) -> Self {
        let ring = Self::new(Geometry::fixed(mode, 32, 4, 1).unwrap());
        assert!(ring.geometry.bare());
        ring
    }

    /// Room for four records of sixteen bytes, less a flag.
    fn variable(mode: Mode) -> Self {
        Self::new(Geometry::variable(mode, 16, 0, 1).unwrap())
    }

    fn producer(&self) -> Producer {
        let words = WriterWords::model(self.head.clone(), self.data.clone());
        Producer::new(self.geometry, words, self.control.clone()).unwrap()
    }

    fn consumer(&self, token: u64) -> Consumer {
        let slot = self.control.claim(token, NOBODY).unwrap();
        let (head, data): (Words, Words) = ((*self.head).clone(), (*self.data).clone());
        Consumer::new(self.geometry, head, data, self.control.clone(), slot, token).unwrap()
    }
}

/// Every payload consists of this twice, so that a torn one shows. In a variable ring, where every other record is
/// empty, the record that comes to lie where this one's payload was has just this in its flag: an old payload that
/// means to deceive.
fn half(seq: u64) -> u64 {
    seq + 7
}

fn is_empty(geometry: &Geometry, seq: u64) -> bool {
    geometry.fixed.is_none() && seq % 2 == 1
}

fn write(producer: &mut Producer) {
    let seq = producer.sequence();
    let whole = whole(producer.geometry(), seq);
    producer.push(if is_empty(producer.geometry(), seq) { &[] } else { &whole });
}

fn whole(geometry: &Geometry, seq: u64) -> Vec<u8> {
    half(seq).to_ne_bytes().repeat(geometry.max_record / 8)
}

/// Writes `records` records as one slice.
fn write_many(producer: &mut Producer, records: usize) {
    let mut done = 0;
    while done < records {
        let room = producer.reserve_many(records - done).unwrap();
        let first = producer.sequence();
        let payloads: Vec<u8> = (first..first + room as u64).flat_map(|seq| whole(producer.geometry(), seq)).collect();
        producer.push_many(&payloads, room);
        done += room;
    }
}

/// How many records a run of at most `most` brought, `None` if there is none; checks that each is whole.
fn read_many(consumer: &mut Consumer, most: usize) -> Result<Option<u64>, Fault> {
    if consumer.peek()?.is_none() {
        return Ok(None);
    }
    let (first, len) = (consumer.sequence(), consumer.geometry().max_record);
    let mut bytes = vec![0; most * len];
    let got = consumer.take_many(&mut bytes, most)?;
    for (seq, record) in (first..first + got as u64).zip(bytes.chunks(len)) {
        assert_eq!(record, whole(consumer.geometry(), seq), "a torn or foreign record");
    }
    assert_eq!(consumer.sequence(), first + got as u64);
    Ok(Some(got as u64))
}

fn fill(producer: &mut Producer, records: usize) {
    for _ in 0..records {
        producer.reserve(producer.geometry().max_record).unwrap();
        write(producer);
    }
}

/// The number of the next record, `None` if there is none; checks that it is whole.
fn read(consumer: &mut Consumer) -> Result<Option<u64>, Fault> {
    let Some(len) = consumer.peek()? else { return Ok(None) };
    let mut bytes = vec![0; len];
    consumer.take(&mut bytes)?;
    let seq = consumer.sequence() - 1;
    if is_empty(consumer.geometry(), seq) {
        assert_eq!(len, 0, "a wrong length");
    } else {
        assert_eq!(bytes, whole(consumer.geometry(), seq), "a torn or foreign record");
    }
    Ok(Some(seq))
}

/// What an eventfd is to the real thing: a wake that comes first is not lost.
fn bell() -> (Sender<()>, Receiver<()>) {
    channel()
}

fn wake(producer: &mut Producer, bells: &[Sender<()>]) {
    if producer.wanted() && producer.control().take_attention() & ATTENTION_ARMED != 0 {
        for (slot, bell) in bells.iter().enumerate() {
            if producer.control().take_armed(slot) {
                bell.send(()).unwrap();
            }
        }
    }
}

/// Waits as a reader does: arm, fence, look again, sleep.
fn await_record(consumer: &Consumer, bell: &Receiver<()>) {
    while !consumer.ready() {
        let fence::Heavy::Done = consumer.arm() else { unreachable!() };
        if !consumer.ready() {
            bell.recv().unwrap();
        }
        consumer.disarm();
    }
}

fn no_wake_is_lost(readers: usize, records: u64) {
    loom::model(move || {
        let ring = Ring::fixed(Mode::Lossy, readers);
        let mut producer = ring.producer();
        let (bells, ears): (Vec<_>, Vec<_>) = (0..readers).map(|_| bell()).unzip();
        let sleepers: Vec<_> = ears
            .into_iter()
            .enumerate()
            .map(|(index, bell)| {
                let mut consumer = ring.consumer(index as u64 + 1);
                thread::spawn(move || {
                    for seq in 0..records {
                        await_record(&consumer, &bell);
                        assert_eq!(read(&mut consumer), Ok(Some(seq)));
                    }
                })
            })
            .collect();
        for _ in 0..records {
            fill(&mut producer, 1);
            wake(&mut producer, &bells);
        }
        for sleeper in sleepers {
            sleeper.join().unwrap();
        }
    });
}

#[test]
fn loom_no_wake_is_lost() {
    no_wake_is_lost(1, 3);
}

#[test]
fn loom_no_wake_is_lost_with_two_readers() {
    no_wake_is_lost(2, 2);
}

/// The writer begins and ends to pay for its fence. Its looks outside of that have none here, as if no sleeper's
/// barrier had ever reached it: so whoever goes to sleep in this model has relied on `fenced`.
/// It ends after each of the three steps, because every later look would find whom an earlier one has missed.
fn no_wake_is_lost_by_a_sleeper_that_leaves_the_fence_to_the_writer(steps: u64) {
    loom::model(move || {
        let ring = Ring::fixed(Mode::Lossy, 1);
        let (mut producer, mut consumer) = (ring.producer(), ring.consumer(1));
        let (bell, ear) = bell();
        let control = ring.control.clone();
        let reader = thread::spawn(move || {
            for seq in 0..steps {
                while !consumer.ready() {
                    control.arm(0);
                    if !consumer.writer_fences() {
                        return ear; // it would ask for the barrier that is proved elsewhere
                    }
                    if !consumer.ready() {
                        ear.recv().unwrap();
                    }
                    consumer.disarm();
                }
                assert_eq!(read(&mut consumer), Ok(Some(seq)));
            }
            ear
        });
        let wake = |producer: &Producer, wanted: bool| {
            if wanted && producer.control().take_attention() != 0 && producer.control().take_armed(0) {
                bell.send(()).unwrap();
            }
        };
        fill(&mut producer, 1);
        wake(&producer, producer.control().attention() != 0);
        producer.set_fenced(true);
        if steps > 1 {
            fill(&mut producer, 1);
            let wanted = producer.wanted();
            wake(&producer, wanted);
        }
        if steps > 2 {
            producer.set_fenced(false);
            fill(&mut producer, 1);
            wake(&producer, producer.control().attention() != 0);
        }
        let ear = reader.join().unwrap();
        while ear.try_recv().is_ok() {} // wakes that came too late to be needed
    });
}

#[test]
fn loom_no_wake_is_lost_by_a_sleeper_that_leaves_the_fence_to_the_writer() {
    for steps in 1..=3 {
        no_wake_is_lost_by_a_sleeper_that_leaves_the_fence_to_the_writer(steps);
    }
}

/// A reader that is overtaken while it reads; afterwards the rest is read and everything is accounted for.
fn every_record_is_received_or_counted(ring: impl Fn() -> Ring + Sync + Send + 'static, before: usize, after: usize) {
    every_record_is_received_or_counted_of(ring, before, after, fill);
}

fn every_record_is_received_or_counted_of(
    ring: impl Fn() -> Ring + Sync + Send + 'static,
    before: usize,
    after: usize,
    fill: fn(&mut Producer, usize),
) {
    loom::model(move || {
        let ring = ring();
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        fill(&mut producer, before);
        let reader = thread::spawn(move || {
            let (mut received, mut skipped) = (0, 0);
            for _ in 0..2 {
                match read(&mut consumer) {
                    Ok(Some(_)) => received += 1,
                    Ok(None) => {}
                    Err(Fault::Lagged { skipped: more }) => skipped += more,
                    Err(Fault::Position { .. }) => {} // overtaken in each of the model's few tries
                    Err(other) => panic!("{other:?}"),
                }
            }
            (consumer, received, skipped)
        });
        fill(&mut producer, after);
        let (mut consumer, mut received, mut skipped) = reader.join().unwrap();
        loop {
            match read(&mut consumer) {
                Ok(Some(_)) => received += 1,
                Ok(None) => break,
                Err(Fault::Lagged { skipped: more }) => skipped += more,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(received + skipped, producer.sequence(), "received {received}, skipped {skipped}");
        assert_eq!(consumer.missed(), skipped);
    });
}

#[test]
fn loom_a_lossy_reader_gets_whole_records_and_an_exact_count() {
    every_record_is_received_or_counted(|| Ring::fixed(Mode::Lossy, 1), 4, 3);
}

#[test]
fn loom_a_bare_lossy_reader_gets_whole_records_and_an_exact_count() {
    every_record_is_received_or_counted(|| Ring::bare(Mode::Lossy), 4, 2);
}

/// The same for slices on both sides: in rings of thirty-two slots, so that a run is two records.
fn every_record_of_a_run_is_received_or_counted(len: usize) {
    loom::model(move || {
        let ring = Ring::new(Geometry::fixed(Mode::Lossy, len, 32, 1).unwrap());
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        write_many(&mut producer, 32);
        let reader = thread::spawn(move || {
            let (mut received, mut skipped) = (0, 0);
            match read_many(&mut consumer, 3) {
                Ok(got) => received += got.unwrap_or(0),
                Err(Fault::Lagged { skipped: more }) => skipped += more,
                Err(Fault::Position { .. }) => {} // overtaken in each of the model's few tries
                Err(other) => panic!("{other:?}"),
            }
            (consumer, received, skipped)
        });
        write_many(&mut producer, 2);
        let (mut consumer, mut received, mut skipped) = reader.join().unwrap();
        loop {
            match read_many(&mut consumer, 3) {
                Ok(Some(got)) => received += got,
                Ok(None) => break,
                Err(Fault::Lagged { skipped: more }) => skipped += more,
                Err(other) => panic!("{other:?}"),
            }
        }
        assert_eq!(received + skipped, producer.sequence(), "received {received}, skipped {skipped}");
        assert_eq!(consumer.missed(), skipped);
    });
}

#[test]
fn loom_a_run_of_records_is_whole_and_exactly_counted() {
    every_record_of_a_run_is_received_or_counted(8);
}

#[test]
fn loom_a_run_of_bare_records_is_whole_and_exactly_counted() {
    every_record_of_a_run_is_received_or_counted(32);
}

#[test]
fn loom_a_variable_lossy_reader_gets_whole_records_and_an_exact_count() {
    every_record_is_received_or_counted(|| Ring::variable(Mode::Lossy), 3, 3);
}

#[test]
fn loom_an_old_payload_never_passes_for_a_record() {
    loom::model(|| {
        let ring = Ring::variable(Mode::Lossy);
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        for seq in 0..5 {
            fill(&mut producer, 1);
            assert_eq!(read(&mut consumer), Ok(Some(seq)));
        }
        let reader = thread::spawn(move || {
            for _ in 0..3 {
                match read(&mut consumer) {
                    Ok(_) | Err(Fault::Lagged { .. }) => {}
                    Err(fault) => panic!("{fault:?}"),
                }
            }
        });
        fill(&mut producer, 2);
        reader.join().unwrap();
    });
}

/// The writer waits for the space that an admitted reader releases, and for nothing once the reader has left.
fn a_writer_waits(leave: bool) {
    loom::model(move || {
        let ring = Ring::fixed(Mode::Lossless, 1);
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        assert_eq!(producer.admit(0, 1), super::Admission::Admitted);
        fill(&mut producer, 4);
        let (bell, ear) = bell();
        let gone = Arc::new(Mutex::new(false));
        let reader = thread::spawn({
            let gone = gone.clone();
            move || {
                for seq in 0..3 {
                    assert_eq!(read(&mut consumer), Ok(Some(seq)));
                    if seq > 0 && consumer.flush() {
                        bell.send(()).unwrap();
                    }
                }
                if leave {
                    drop(consumer);
                    *gone.lock().unwrap() = true; // what the end of its socket is to the real writer
                    bell.send(()).unwrap();
                    return None;
                }
                Some((consumer, bell))
            }
        });
        for _ in 0..if leave { 4 } else { 3 } {
            while let Err(blocked) = producer.reserve(16) {
                assert_eq!(blocked, Blocked::Reader { slot: 0, token: 1 });
                let fence::Heavy::Done = producer.start_waiting() else { unreachable!() };
                if producer.reserve(16).is_err() {
                    ear.recv().unwrap();
                    if *gone.lock().unwrap() {
                        producer.dismiss(0, 1);
                    }
                }
                producer.stop_waiting();
            }
            write(&mut producer);
        }
        drop(reader.join().unwrap());
    });
}

#[test]
fn loom_a_writer_that_waits_for_space_is_told_and_overwrites_nothing_unread() {
    a_writer_waits(false);
}

#[test]
fn loom_a_writer_waits_for_nobody_who_has_left() {
    a_writer_waits(true);
}

/// A reader joins while the writer moves its mark. Whatever it then reads must still be there, without a gap.
///
/// The writer asks for room up to `looks` times before it attends to whoever has joined, as one does that spins.
fn a_join_is_honoured(mad: bool, looks: u32) {
    loom::model(move || {
        let ring = Ring::fixed(Mode::Lossless, 1);
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        fill(&mut producer, 4);
        // What a listening socket is to the real thing.
        let queue = Arc::new(Mutex::new(Vec::new()));
        let reader = thread::spawn({
            let queue = queue.clone();
            move || {
                let connect = || {
                    queue.lock().unwrap().push((0, 1));
                    Ok::<(), ()>(())
                };
                if consumer.join(Start::Oldest, connect).unwrap().is_ok() {
                    let first = consumer.sequence();
                    for seq in first..first + 2 {
                        match read(&mut consumer) {
                            Ok(found) => assert!(found.is_none() || found == Some(seq)),
                            Err(fault) => panic!("an admitted reader lost records: {fault:?}"),
                        }
                    }
                }
            }
        });
        let mut wanted = 3;
        for _ in 0..6 {
            if mad {
                producer.control().raise(ATTENTION_JOINED); // as a reader might that only means to annoy
            }
            let mut outcome = producer.reserve(16);
            for _ in 1..looks {
                if outcome.is_err() {
                    outcome = producer.reserve(16);
                }
            }
            match outcome {
                Ok(()) => {
                    write(&mut producer);
                    wanted -= 1;
                }
                Err(Blocked::Joining) => {
                    producer.control().take_attention();
                    for (slot, token) in queue.lock().unwrap().drain(..) {
                        let _ = producer.admit(slot, token); // refused if it has left again
                    }
                    producer.welcomed();
                }
                Err(Blocked::Reader { .. }) => break,
                Err(Blocked::Mad { .. } | Blocked::Scribbled { .. }) => panic!("both are honest"),
            }
            if wanted == 0 {
                break;
            }
        }
        reader.join().unwrap();
    });
}

#[test]
fn loom_a_join_is_honoured_or_begins_further_on() {
    a_join_is_honoured(false, 1);
}

#[test]
fn loom_a_join_is_honoured_by_a_writer_that_looks_for_room_before_it_attends() {
    a_join_is_honoured(false, 3);
}

#[test]
fn loom_a_join_is_honoured_beside_a_mad_reader_that_stops_nobody() {
    a_join_is_honoured(true, 1);
}

#[test]
fn loom_a_batch_appears_at_once() {
    loom::model(|| {
        let ring = Ring::fixed(Mode::Lossy, 1);
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        let reader = thread::spawn(move || {
            if consumer.ready() {
                for seq in 0..3 {
                    assert_eq!(read(&mut consumer), Ok(Some(seq)), "published together");
                }
            }
        });
        producer.open_batch();
        fill(&mut producer, 3);
        producer.publish_batch();
        reader.join().unwrap();
    });
}

#[test]
fn loom_a_close_comes_after_every_record() {
    loom::model(|| {
        let ring = Ring::variable(Mode::Lossy);
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        let reader = thread::spawn(move || {
            let mut next = 0;
            for _ in 0..4 {
                let closed = consumer.closed();
                match read(&mut consumer) {
                    Ok(Some(seq)) => {
                        assert_eq!(seq, next);
                        next += 1;
                    }
                    Ok(None) if closed => {
                        assert_eq!(next, 2, "closed before everything was read");
                        return;
                    }
                    Ok(None) => thread::yield_now(),
                    Err(fault) => panic!("{fault:?}"),
                }
            }
        });
        fill(&mut producer, 2);
        producer.close();
        reader.join().unwrap();
    });
}

fn a_latest_value_is_whole_and_new(ring: impl Fn() -> Ring + Sync + Send + 'static, before: usize, after: usize) {
    loom::model(move || {
        let ring = ring();
        let mut producer = ring.producer();
        let mut consumer = ring.consumer(1);
        fill(&mut producer, before);
        let reader = thread::spawn(move || {
            let mut newest = None;
            for _ in 0..2 {
                match read(&mut consumer) {
                    Ok(Some(seq)) => {
                        assert!(newest < Some(seq), "older than the one before");
                        newest = Some(seq);
                    }
                    Ok(None) | Err(Fault::Lagged { .. }) => {}
                    Err(Fault::Position { .. }) => return (None, newest), // overtaken in each of the model's few tries
                    Err(other) => panic!("{other:?}"),
                }
            }
            (Some(consumer), newest)
        });
        fill(&mut producer, after);
        if let (Some(mut consumer), newest) = reader.join().unwrap() {
            let last = producer.sequence() - 1;
            if newest != Some(last) {
                assert!(consumer.ready());
                assert_eq!(read(&mut consumer), Ok(Some(last)), "the newest value is always to be had");
            }
        }
    });
}

#[test]
fn loom_a_latest_value_is_whole_and_never_older() {
    a_latest_value_is_whole_and_new(|| Ring::fixed(Mode::Latest, 1), 4, 3);
}

#[test]
fn loom_a_latest_value_of_any_size_is_whole_and_never_older() {
    a_latest_value_is_whole_and_new(|| Ring::variable(Mode::Latest), 3, 3);
}
