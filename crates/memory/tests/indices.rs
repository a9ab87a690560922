//! Indices, lengths and offsets at the ends of what a number can hold: every public function that takes one either does
//! what it says inside its own memory or panics by its own check. Arithmetic that overflows is found out by its
//! message, because a build without overflow checks would wrap there and reach other memory.

#![cfg(not(loom))]

mod common;

use common::{Place, spec};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Consumer, Control, Geometry, Mode, Producer, Start};
use ginnel_memory::{ForeignFile, Segment, Spec, Words};
use proptest::prelude::*;
use std::mem::MaybeUninit;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;

const SLOTS: usize = 2;
const BYTES: usize = 4096;

/// Numbers around those at which sums and products overflow, and around the sizes that are used here.
fn ends() -> impl Strategy<Value = usize> {
    let near = |middle: usize| (0_usize..80).prop_map(move |off| middle.wrapping_sub(40).wrapping_add(off));
    prop_oneof![
        near(40),
        near(0),
        near(BYTES / 8),
        near(BYTES),
        near(1 << 60),
        near(1 << 61),
        near(1 << 63),
        near(usize::MAX - 40),
        near(usize::MAX / 16),
        any::<usize>(),
    ]
}

/// Runs `call`; its panic, if any, must be one of its own checks.
fn checked<T>(call: impl FnOnce() -> T) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(value) => Some(value),
        Err(panic) => {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| said.to_string())).unwrap_or_default();
            assert!(!said.contains("attempt to") && !said.contains("capacity overflow"), "unchecked: {said}");
            None
        }
    }
}

fn quiet() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    // Thousands of expected panics; what a failure says comes from proptest.
    ONCE.call_once(|| std::panic::set_hook(Box::new(|_| {})));
}

/// A vector of at most a page: memory is not what is tried here.
fn some(len: usize) -> Vec<u8> {
    vec![7; len.min(2 * BYTES)]
}

struct Ring {
    producer: Producer,
    consumer: Consumer,
    control: Control,
    geometry: Geometry,
    reading: (Words, Words),
}

fn ring(geometry: Geometry) -> Ring {
    let ring = Spec { params: geometry.params(), mirror: geometry.mirror(), ..spec(geometry.data_bytes()) };
    let place = Place::new();
    let made = Segment::file(&place.dir, "data", &ring, 0o600, None).unwrap();
    let control = Segment::memfd("control", &spec(Control::bytes(SLOTS)), false).unwrap();
    let control = Control::new(control.data_mut(), SLOTS).unwrap();
    let read = Segment::open(&place.dir, "data", ginnel_memory::Access::Read, &common::EXPECT).unwrap();
    let producer = Producer::new(geometry, made.into_words().unwrap().0, control.clone()).unwrap();
    let slot = control.claim(1, Identity::own()).unwrap();
    let reading = (read.header_words(), read.data());
    let consumer = Consumer::new(geometry, reading.0.clone(), reading.1.clone(), control.clone(), slot, 1).unwrap();
    Ring { producer, consumer, control, geometry, reading }
}

fn geometries() -> impl Strategy<Value = Geometry> {
    let mode = prop_oneof![Just(Mode::Lossy), Just(Mode::Lossless), Just(Mode::Latest)];
    (mode, prop_oneof![Just(None), Just(Some(8)), Just(Some(64)), Just(Some(300))]).prop_map(
        |(mode, fixed)| match fixed {
            Some(len) => Geometry::fixed(mode, len, 8, SLOTS).unwrap(),
            None => Geometry::variable(mode, 1000, 0, SLOTS).unwrap(),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn words_of_a_segment(index in ends(), len in ends()) {
        quiet();
        let segment = Segment::memfd("words", &spec(BYTES), false).unwrap();
        let words = segment.data_mut();
        let inside = index < BYTES / 8;
        prop_assert_eq!(checked(|| words.load(index, Ordering::Relaxed)).is_some(), inside);
        prop_assert_eq!(checked(|| words.store(index, 1, Ordering::Relaxed)).is_some(), inside);
        prop_assert_eq!(checked(|| words.swap(index, 1, Ordering::Relaxed)).is_some(), inside);
        prop_assert_eq!(checked(|| words.fetch_or(index, 1, Ordering::Relaxed)).is_some(), inside);
        prop_assert_eq!(checked(|| words.replace(index, 1, 2)).is_some(), inside);
        let mut bytes = some(len);
        let fits = index <= BYTES / 8 && bytes.len().div_ceil(8) <= BYTES / 8 - index;
        prop_assert_eq!(checked(|| words.copy_in(index, &bytes)).is_some(), fits);
        let mut space = vec![MaybeUninit::new(0_u8); bytes.len()];
        prop_assert_eq!(checked(|| words.copy_out(index, &mut space)).is_some(), fits);
        let fits = index <= BYTES / 8 && len.div_ceil(8) <= BYTES / 8 - index;
        prop_assert_eq!(checked(|| words.copy_to_vec(index, len, &mut bytes)).is_some(), fits);
        // SAFETY: the segment is this test's own, and nobody writes it meanwhile.
        let trust = unsafe { ginnel_memory::Trust::assume_honest_writer() };
        prop_assert_eq!(checked(|| words.borrow(trust, index, len).len()), fits.then_some(len));
    }

    #[test]
    fn a_file_of_somebody_elses_layout(at in ends(), len in ends()) {
        quiet();
        let (place, total, narrow) = (Place::new(), BYTES - 4, 16..64);
        let file = ForeignFile::create(&place.dir, "file", total, narrow.clone()).unwrap();
        let word = |width: usize| at.is_multiple_of(width) && at.checked_add(width).is_some_and(|end| end <= total);
        let wide = word(8) && !narrow.contains(&at);
        prop_assert_eq!(checked(|| file.load_u64(at, Ordering::Relaxed)).is_some(), wide);
        prop_assert_eq!(checked(|| file.add_u64(at, 1, Ordering::Relaxed)).is_some(), wide);
        let short = word(4) && narrow.contains(&at);
        prop_assert_eq!(checked(|| file.load_u32(at, Ordering::Relaxed)).is_some(), short);
        prop_assert_eq!(checked(|| file.store_u32(at, 1, Ordering::Relaxed)).is_some(), short);
        prop_assert_eq!(checked(|| file.add_u32(at, 1, Ordering::Relaxed)).is_some(), short);
        prop_assert_eq!(checked(|| file.futex_wake(at, 1)).is_some(), short);
        prop_assert_eq!(checked(|| file.futex_wait(at, u32::MAX, None)).is_some(), short);
        let mut bytes = some(len);
        let outside = !at.is_multiple_of(8) || at.checked_add(bytes.len()).is_none_or(|end| end > total);
        let copied = [checked(|| file.copy_in(at, &bytes)).is_some(), checked(|| file.copy_out(at, &mut bytes)).is_some()];
        prop_assert!(!outside || copied == [false; 2], "{} bytes at {at}", bytes.len());
        prop_assert!(outside || at + bytes.len() > total - 4 || copied == [true; 2], "{} bytes at {at}", bytes.len());
        if let Some(Ok(file)) = checked(|| ForeignFile::create(&place.dir, "other", len.min(1 << 16), at..at.saturating_add(8))) {
            prop_assert!(file.len() <= 1 << 16);
        }
    }

    #[test]
    fn slots_of_a_control_area(slot in ends(), token in any::<u64>()) {
        quiet();
        prop_assert!(Control::bytes(slot) >= slot.min(usize::MAX / 8), "never less than asked for");
        let segment = Segment::memfd("control", &spec(BYTES), false).unwrap();
        let most = (BYTES / 8 - 16) / 16;
        prop_assert_eq!(Control::new(segment.data_mut(), slot).is_some(), slot <= most);
        let control = Control::new(segment.data_mut(), SLOTS).unwrap();
        let before: Vec<u64> = (16 + 16 * SLOTS..BYTES / 8).map(|at| segment.data().load(at, Ordering::Relaxed)).collect();
        prop_assert_eq!(checked(|| control.sign(slot, Identity::own())).is_some(), slot < SLOTS);
        prop_assert_eq!(checked(|| control.disarm(slot)).is_some(), slot < SLOTS);
        prop_assert_eq!(checked(|| control.holds(slot, token)), Some(false));
        prop_assert_eq!(checked(|| control.take_armed(slot)), Some(false));
        prop_assert!(checked(|| control.release(slot, token)).is_some());
        let behind: Vec<u64> = (16 + 16 * SLOTS..BYTES / 8).map(|at| segment.data().load(at, Ordering::Relaxed)).collect();
        prop_assert_eq!(before, behind, "no slot but the two was touched");
    }

    #[test]
    fn shapes_of_a_ring(len in ends(), records in ends(), readers in ends()) {
        quiet();
        for mode in [Mode::Lossy, Mode::Lossless, Mode::Latest] {
            checked(|| drop(Geometry::fixed(mode, len, records, readers))).unwrap();
            checked(|| drop(Geometry::variable(mode, len, records, readers))).unwrap();
            let mut params = Geometry::fixed(mode, 64, 8, 1).unwrap().params();
            for index in 0..6 {
                let good = std::mem::replace(&mut params[index], len as u64);
                checked(|| drop(Geometry::from_params(&params, records))).unwrap();
                params[index] = good;
            }
        }
    }

    #[test]
    fn what_a_ring_writes_and_lends(geometry in geometries(), len in ends(), slot in ends()) {
        quiet();
        let Ring { mut producer, .. } = ring(geometry);
        let allowed = geometry.fixed.map_or(len <= geometry.max_record, |fixed| fixed == len);
        prop_assert_eq!(checked(|| producer.reserve(len)).is_some(), allowed);
        prop_assert_eq!(checked(|| producer.lend(len).map(|grant| grant.len())), Some(allowed.then_some(len)));
        let payload = some(len);
        prop_assert_eq!(checked(|| producer.push(&payload)).is_some(), allowed);
        prop_assert!(checked(|| producer.reserve_many(len)).is_some() || geometry.fixed.is_none());
        let pushed = checked(|| producer.push_many(&payload, slot));
        prop_assert!(pushed.is_none() || payload.len() == slot.wrapping_mul(geometry.max_record));
        prop_assert!(checked(|| producer.admit(slot, 1)).is_some());
        prop_assert!(checked(|| producer.dismiss(slot, 1)).is_some());
        prop_assert!(checked(|| producer.evict(slot, 1)).is_some());
        prop_assert_eq!(checked(|| producer.place(slot, 1, Start::Oldest).is_ok()), Some(slot < SLOTS));
    }

    #[test]
    fn what_a_ring_reads(geometry in geometries(), len in ends(), most in ends()) {
        quiet();
        let Ring { mut producer, mut consumer, control, reading, geometry } = ring(geometry);
        let real = geometry.fixed.unwrap_or(500);
        for _ in 0..4 {
            producer.reserve(real).unwrap();
            producer.push(&some(real));
        }
        consumer.peek().unwrap();
        let allowed = geometry.fixed.map_or(len <= geometry.max_record, |fixed| fixed == len);
        prop_assert_eq!(checked(|| Consumer::new(geometry, reading.0, reading.1, control, most, 0).is_some()), Some(most < SLOTS));
        // SAFETY: the ring is this test's own, and nothing is written any more.
        let trust = unsafe { ginnel_memory::Trust::assume_honest_writer() };
        prop_assert_eq!(checked(|| consumer.borrow(trust, len).len()), allowed.then_some(len));
        let mut bytes = some(len);
        prop_assert!(checked(|| consumer.take_many(&mut bytes, most)).is_none_or(|_| most <= bytes.len()));
        prop_assert_eq!(checked(|| consumer.take_vec(len, &mut bytes)).is_some(), allowed);
        prop_assert_eq!(checked(|| consumer.release(len)).is_some(), allowed);
        let mut bytes = some(len);
        prop_assert_eq!(checked(|| consumer.take(&mut bytes)).is_some(), allowed);
    }
}

/// Lent memory ends where what was reserved ends: beyond it lies, by the mirror, what readers have not read yet.
#[test]
fn nothing_is_lent_or_written_without_room() {
    quiet();
    for geometry in [
        Geometry::variable(Mode::Lossless, 1000, 0, SLOTS).unwrap(),
        Geometry::fixed(Mode::Lossless, 64, 8, SLOTS).unwrap(),
    ] {
        let Ring { mut producer, consumer, .. } = ring(geometry);
        let (slot, token) = consumer.membership();
        assert_eq!(producer.admit(slot, token), ginnel_memory::ring::Admission::Admitted);
        let len = geometry.max_record;
        while producer.reserve(len).is_ok() {
            producer.lend(len).unwrap().publish();
        }
        assert!(producer.lend(len).is_none(), "the reader has not read");
        assert!(checked(|| producer.push(&vec![1; len])).is_none());
        assert!(checked(|| producer.push_many(&vec![1; len], 1)).is_none());
    }
}
