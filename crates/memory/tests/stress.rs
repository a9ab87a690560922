//! One ring, mapped twice in one process: threads stand for processes, so that ThreadSanitizer and AddressSanitizer see
//! both sides. `cargo xtask sanitize` runs them; `GINNEL_SOAK=1` makes them long.
#![cfg(not(loom))]

mod common;

use common::{EXPECT, Place, spec};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{
    ATTENTION_JOINED, Admission, Blocked, Consumer, Control, Fault, Geometry, Mode, Producer, Start,
};
use ginnel_memory::{Access, Segment, Spec, fence};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const READERS: usize = 2;

fn records() -> u64 {
    if std::env::var_os("GINNEL_SOAK").is_some() { 2_000_000 } else { 20_000 }
}

/// A length and content that follow from the number, so that any mix of two records shows.
fn payload(geometry: &Geometry, seq: u64, out: &mut Vec<u8>) {
    let len = geometry.fixed.unwrap_or((seq.wrapping_mul(0x9e37_79b9) >> 7) as usize % (geometry.max_record + 1));
    out.clear();
    out.extend((0..len).map(|at| (seq.wrapping_mul(31) + at as u64) as u8));
}

struct Ring {
    place: Place,
    geometry: Geometry,
    control: Segment,
    /// Stands for the listening socket: readers that have announced themselves, and those that have left.
    joined: Mutex<Vec<(usize, u64)>>,
    left: Mutex<Vec<(usize, u64)>>,
}

impl Ring {
    fn new(geometry: Geometry) -> Self {
        let place = Place::new();
        let ring = Spec { params: geometry.params(), mirror: geometry.mirror(), ..spec(geometry.data_bytes()) };
        Segment::file(&place.dir, "data", &ring, 0o600, None).unwrap();
        let control = Segment::file(&place.dir, "control", &spec(Control::bytes(READERS)), 0o600, None).unwrap();
        Self { place, geometry, control, joined: Mutex::default(), left: Mutex::default() }
    }

    fn producer(&self) -> Producer {
        let control = Control::new(self.control.data_mut(), READERS).unwrap();
        let data = Segment::open(&self.place.dir, "data", Access::ReadWrite, &EXPECT).unwrap();
        Producer::new(self.geometry, data.into_words().unwrap().0, control).unwrap()
    }

    /// A reader with mappings of its own.
    fn consumer(&self, token: u64) -> Consumer {
        let data = Segment::open(&self.place.dir, "data", Access::Read, &EXPECT).unwrap();
        let control = Segment::open(&self.place.dir, "control", Access::ReadWrite, &EXPECT).unwrap();
        let geometry = Geometry::from_params(&data.header().params, data.header().data).unwrap();
        let control = Control::new(control.data_mut(), geometry.max_readers).unwrap();
        let slot = control.claim(token, Identity::own()).unwrap();
        let mut consumer = Consumer::new(geometry, data.header_words(), data.data(), control, slot, token).unwrap();
        let connect = || {
            self.joined.lock().unwrap().push((slot, token));
            Ok::<(), ()>(())
        };
        consumer.join(Start::Oldest, connect).unwrap().unwrap();
        consumer
    }

    fn attend(&self, producer: &mut Producer) {
        if producer.control().take_attention() & ATTENTION_JOINED != 0 {
            for (slot, token) in self.joined.lock().unwrap().drain(..) {
                assert_eq!(producer.admit(slot, token), Admission::Admitted);
            }
            producer.welcomed();
        }
    }

    fn write(&self, mut producer: Producer, count: u64) {
        let mut bytes = Vec::new();
        fence::prepare();
        if self.geometry.mode == Mode::Lossless {
            while self.joined.lock().unwrap().len() < READERS {
                std::thread::yield_now();
            }
            self.attend(&mut producer);
        }
        for seq in 0..count {
            payload(&self.geometry, seq, &mut bytes);
            while let Err(blocked) = producer.reserve(bytes.len()) {
                match blocked {
                    Blocked::Joining => self.attend(&mut producer),
                    Blocked::Reader { .. } => {
                        for (slot, token) in self.left.lock().unwrap().drain(..) {
                            producer.dismiss(slot, token);
                        }
                        std::thread::yield_now();
                    }
                    Blocked::Mad { .. } | Blocked::Scribbled { .. } => panic!("everybody is honest"),
                }
            }
            match seq % 64 {
                40 => producer.open_batch(),
                44 => producer.publish_batch(),
                _ => {}
            }
            producer.push(&bytes);
            if producer.wanted() {
                self.attend(&mut producer);
            }
        }
        producer.close();
    }

    /// Reads to the end; gives how many records came and how many were missed.
    fn read(&self, mut consumer: Consumer) -> (u64, u64) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        let (mut received, mut skipped) = (0, 0);
        loop {
            let closed = consumer.closed();
            match consumer.peek().and_then(|len| len.map(|len| consumer.take_vec(len, &mut bytes)).transpose()) {
                Ok(Some(())) => {
                    payload(&self.geometry, consumer.sequence() - 1, &mut expected);
                    assert_eq!(bytes, expected, "record {} is not what was written", consumer.sequence() - 1);
                    received += 1;
                    if consumer.should_flush() {
                        consumer.flush();
                    }
                }
                Ok(None) if closed => break,
                Ok(None) => {
                    consumer.flush();
                    let _ = consumer.arm();
                    std::thread::yield_now();
                    consumer.disarm();
                }
                Err(Fault::Lagged { skipped: more }) => skipped += more,
                Err(fault) => panic!("{fault:?}"),
            }
        }
        self.left.lock().unwrap().push(consumer.membership());
        (received, skipped)
    }
}

fn everything_arrives_or_is_counted(geometry: Geometry) {
    let ring = Ring::new(geometry);
    let count = records();
    let producer = ring.producer();
    let ready = AtomicU64::new(0);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let ring = &ring;
        let ready = &ready;
        let writer = scope.spawn(move || {
            while ready.load(Ordering::Acquire) < READERS as u64 {
                std::thread::yield_now();
            }
            ring.write(producer, count);
        });
        let readers: Vec<_> = (1..=READERS as u64)
            .map(|token| {
                scope.spawn(move || {
                    let consumer = ring.consumer(token);
                    ready.fetch_add(1, Ordering::Release);
                    ring.read(consumer)
                })
            })
            .collect();
        writer.join().unwrap();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    for (received, skipped) in outcomes {
        assert_eq!(received + skipped, count, "received {received}, skipped {skipped}");
        assert!(geometry.mode == Mode::Lossy || skipped == 0, "lossless, but {skipped} were lost");
    }
}

#[test]
fn a_lossy_ring_of_fixed_records_loses_nothing_uncounted() {
    everything_arrives_or_is_counted(Geometry::fixed(Mode::Lossy, 120, 64, READERS).unwrap());
}

#[test]
fn a_lossy_ring_of_variable_records_loses_nothing_uncounted() {
    everything_arrives_or_is_counted(Geometry::variable(Mode::Lossy, 3000, 64 << 10, READERS).unwrap());
}

#[test]
fn a_lossless_ring_of_fixed_records_loses_nothing() {
    everything_arrives_or_is_counted(Geometry::fixed(Mode::Lossless, 120, 64, READERS).unwrap());
}

#[test]
fn a_lossless_ring_of_variable_records_loses_nothing() {
    everything_arrives_or_is_counted(Geometry::variable(Mode::Lossless, 3000, 64 << 10, READERS).unwrap());
}

#[test]
fn a_latest_value_is_whole_and_never_older_than_the_one_before() {
    let ring = Ring::new(Geometry::variable(Mode::Latest, 3000, 64 << 10, READERS).unwrap());
    let (count, done) = (records(), AtomicBool::new(false));
    // The ring is made by its writer: readers join one that is in use.
    let mut producer = ring.producer();
    let mut bytes = Vec::new();
    std::thread::scope(|scope| {
        let (ring, done) = (&ring, &done);
        let readers: Vec<_> = (1..=READERS as u64)
            .map(|token| {
                let mut consumer = ring.consumer(token);
                scope.spawn(move || {
                    let (mut bytes, mut expected, mut newest) = (Vec::new(), Vec::new(), None);
                    loop {
                        let last = done.load(Ordering::Acquire);
                        match consumer
                            .peek()
                            .and_then(|len| len.map(|len| consumer.take_vec(len, &mut bytes)).transpose())
                        {
                            Ok(Some(())) => {
                                let seq = consumer.sequence() - 1;
                                payload(&ring.geometry, seq, &mut expected);
                                assert_eq!(bytes, expected, "value {seq} is not what was written");
                                assert!(newest < Some(seq), "{seq} after {newest:?}");
                                newest = Some(seq);
                            }
                            Ok(None) if last => break newest,
                            Ok(None) | Err(Fault::Lagged { .. }) => {}
                            Err(fault) => panic!("{fault:?}"),
                        }
                    }
                })
            })
            .collect();
        for seq in 0..count {
            payload(&ring.geometry, seq, &mut bytes);
            producer.reserve(bytes.len()).unwrap();
            producer.push(&bytes);
        }
        done.store(true, Ordering::Release);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Some(count - 1), "the newest value arrives");
        }
    });
}

#[test]
fn a_batch_longer_than_the_ring_arrives_whole() {
    let geometry = Geometry::fixed(Mode::Lossless, 8, 4, READERS).unwrap();
    let ring = Ring::new(geometry);
    let mut producer = ring.producer();
    let mut consumer = ring.consumer(1);
    ring.attend(&mut producer);
    producer.open_batch();
    let mut next = 0_u64;
    for seq in 0..100_u64 {
        while producer.reserve(8).is_err() {
            // What blocks it has been published, else nobody could make room.
            let mut out = [0; 8];
            while consumer.peek().unwrap().is_some() {
                consumer.take(&mut out).unwrap();
                assert_eq!(u64::from_ne_bytes(out), next);
                next += 1;
            }
            assert_eq!(next, seq, "everything before is there");
            consumer.flush();
        }
        producer.push(&seq.to_ne_bytes());
    }
    producer.publish_batch();

    let lossy = Ring::new(Geometry::variable(Mode::Lossy, 100, 64 << 10, READERS).unwrap());
    let (mut producer, mut late) = (lossy.producer(), lossy.consumer(1));
    producer.open_batch();
    for _ in 0..10_000 {
        producer.reserve(100).unwrap();
        producer.push(&[3; 100]);
    }
    producer.publish_batch();
    let (mut received, mut skipped) = (0, 0);
    loop {
        match late.peek() {
            Ok(Some(len)) => {
                let mut out = vec![0; len];
                late.take(&mut out).unwrap();
                assert_eq!(out, [3; 100]);
                received += 1;
            }
            Ok(None) => break,
            Err(Fault::Lagged { skipped: more }) => skipped += more,
            Err(fault) => panic!("{fault:?}"),
        }
    }
    assert_eq!(received + skipped, 10_000);
}
