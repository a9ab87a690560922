//! The bytes of a ring, frozen: a program that was built yesterday reads what is written today. A change here is a new
//! layout, and needs a new number for it.
#![cfg(not(loom))]

mod common;

use common::{EXPECT, Place, spec};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Control, Geometry, Mode, Producer};
use ginnel_memory::{Access, HEADER_BYTES, Segment, Spec};

/// Where the words of a kind begin in the header.
const WORDS: usize = 512;

/// The words of `file` that are not 0 from `from` on: byte offset behind it, value.
fn words(place: &Place, file: &str, from: usize, to: usize) -> Vec<(usize, u64)> {
    let bytes = std::fs::read(place.path(file)).unwrap();
    let words =
        bytes[from..to.min(bytes.len())].chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap()));
    words.enumerate().filter(|(_, word)| *word != 0).map(|(at, word)| (at * 8, word)).collect()
}

/// A ring with `records`, closed: its parameters, header words and data.
type Frozen = (Vec<u64>, Vec<(usize, u64)>, Vec<(usize, u64)>);

fn frozen(geometry: Geometry, records: &[&[u8]]) -> Frozen {
    let place = Place::new();
    let ring = Spec { params: geometry.params(), mirror: geometry.mirror(), ..spec(geometry.data_bytes()) };
    Segment::file(&place.dir, "data", &ring, 0o600, None).unwrap();
    let control = Segment::file(&place.dir, "control", &spec(Control::bytes(2)), 0o600, None).unwrap();
    let data = Segment::open(&place.dir, "data", Access::ReadWrite, &EXPECT).unwrap();
    let control = Control::new(control.data_mut(), 2).unwrap();
    let mut producer = Producer::new(geometry, data.into_words().unwrap().0, control).unwrap();
    for record in records {
        producer.reserve(record.len()).unwrap();
        producer.push(record);
    }
    producer.close();
    let params = geometry.params()[..6].to_vec();
    (params, words(&place, "data", WORDS, HEADER_BYTES), words(&place, "data", HEADER_BYTES, usize::MAX))
}

fn word(bytes: &[u8; 8]) -> u64 {
    u64::from_ne_bytes(*bytes)
}

#[test]
fn a_ring_of_varying_records() {
    let long = [7; 256];
    let geometry = Geometry::variable(Mode::Lossless, 1024, 65536, 2).unwrap();
    let (params, header, data) = frozen(geometry, &[b"abcdefgh", b"", &long]);
    assert_eq!(params, [1, u64::MAX, 65536, 1024, 2, 1]);
    // Mark and claim, closed, last.
    assert_eq!(header, [(8, 65536), (16, 65536), (24, 1), (128, 48)]);
    // The flag of the long one is at 48, and its payload begins on the next line.
    let mut expected = vec![(0, 1), (8, 8), (16, word(b"abcdefgh")), (32, 2), (48, 3), (56, 256)];
    expected.extend((0..32).map(|at| (64 + at * 8, word(&[7; 8]))));
    assert_eq!(data, expected);
}

#[test]
fn a_ring_of_fixed_records_with_flags() {
    let geometry = Geometry::fixed(Mode::Latest, 8, 4, 2).unwrap();
    let (params, header, data) = frozen(geometry, &[b"abcdefgh", b"ijklmnop"]);
    assert_eq!(params, [2, 8, 64, 8, 2, 1]);
    // Mark and claim, closed, last.
    assert_eq!(header, [(8, 64), (16, 64), (24, 1), (128, 16)]);
    assert_eq!(data, [(0, 1), (8, word(b"abcdefgh")), (16, 2), (24, word(b"ijklmnop"))]);
}

#[test]
fn a_ring_of_bare_records() {
    let geometry = Geometry::fixed(Mode::Lossy, 64, 4, 2).unwrap();
    let (params, header, data) = frozen(geometry, &[&[1; 64], &[2; 64]]);
    assert_eq!(params, [0, 64, 256, 64, 2, 1]);
    // Mark and claim, closed, last.
    assert_eq!(header, [(8, 256), (16, 256), (24, 1), (128, 64)]);
    let expected: Vec<_> = (0..16).map(|at| (at * 8, word(&[if at < 8 { 1 } else { 2 }; 8]))).collect();
    assert_eq!(data, expected);
}

#[test]
fn the_place_of_a_reader() {
    let place = Place::new();
    let control = Segment::file(&place.dir, "control", &spec(Control::bytes(2)), 0o600, None).unwrap();
    let control = Control::new(control.data_mut(), 2).unwrap();
    let identity = Identity::own();
    assert_eq!(control.claim(0x1234, identity), Some(0));
    control.raise(3);
    control.welcome(0, 0x1234);
    let words = words(&place, "control", HEADER_BYTES, usize::MAX);
    let known: Vec<_> = words.into_iter().filter(|(at, _)| *at != 128 + 7 * 8).collect();
    let pid = u64::from(std::process::id());
    assert_eq!(
        known,
        [(0, 3), (128, 0x1234), (128 + 4 * 8, pid), (128 + 5 * 8, identity.start), (128 + 8 * 8, 0x1234)]
    );
}
