//! Any bytes as a segment, in a file and in a sealed memfd: an error, or a segment that a reader can work on safely.
#![no_main]

use ginnel_fuzz::Choices;
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Consumer, Control, Geometry, Mode, Start};
use ginnel_memory::{Access, Expect, HEADER_BYTES, RunDir, Segment, Spec};
use libfuzzer_sys::fuzz_target;
use rustix::fs::{MemfdFlags, SealFlags};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

const EXPECT: Expect = Expect { kind: 1, layout: None, instance: None, owner: None };

struct Place {
    dir: RunDir,
    _temp: tempfile::TempDir,
    control: Segment,
}

fn place() -> &'static Place {
    static PLACE: OnceLock<Place> = OnceLock::new();
    PLACE.get_or_init(|| {
        let temp = tempfile::tempdir().unwrap();
        let dir = RunDir::at(&temp.path().join("run")).unwrap();
        let spec = Spec { kind: 2, layout: 0, instance: 1, params: [0; _], data: Control::bytes(1024), mirror: false };
        let control = Segment::memfd("fuzz-control", &spec, false).unwrap();
        Place { dir, _temp: temp, control }
    })
}

/// The fuzzer's bytes as a file: as they are, or as changes to a segment that is right.
fn contents(bytes: &[u8]) -> Vec<u8> {
    let mut choices = Choices::new(bytes);
    let shape = choices.byte();
    if shape < 16 {
        return choices.rest().to_vec();
    }
    let geometry = if shape & 1 == 0 {
        Geometry::fixed(Mode::Lossy, 100, 16, 4).unwrap()
    } else {
        Geometry::variable(Mode::Lossless, 1000, 0, 4).unwrap()
    };
    let mut words = vec![0_u64; (HEADER_BYTES + geometry.data_bytes().next_multiple_of(4096)) / 8];
    words[0] = u64::from_ne_bytes(*b"GINNEL\0\x01");
    words[1] = 1 | 1 << 32;
    words[3] = words.len() as u64 * 8;
    words[7] = u64::from(geometry.mirror());
    words[8..8 + 24].copy_from_slice(&geometry.params());
    while !choices.is_empty() {
        let index = choices.short();
        // Mostly the header and the first record; sometimes the length of the file.
        match index >> 14 {
            0 => {
                let index = usize::from(index) % 40;
                words[index] = choices.word(words[index]);
            }
            1 => words[64 + usize::from(index) % 17] = choices.word(0),
            2 => words[HEADER_BYTES / 8 + usize::from(index) % 64] = choices.word(1),
            _ => {
                let mut bytes: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
                bytes.resize(usize::from(choices.short()) << (index & 3), 0);
                return bytes;
            }
        }
    }
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fuzz_target!(|bytes: &[u8]| {
    let place = place();
    let contents = contents(bytes);
    std::fs::write(place.dir.path().join("any"), &contents).unwrap();
    for access in [Access::Read, Access::ReadWrite] {
        if let Ok(segment) = Segment::open(&place.dir, "any", access, &EXPECT) {
            work(place, &segment);
        }
    }
    let fd = rustix::fs::memfd_create("fuzz-any", MemfdFlags::ALLOW_SEALING).unwrap();
    rustix::io::write(&fd, &contents).unwrap();
    let unsealed: OwnedFd = fd.try_clone().unwrap();
    assert!(Segment::inherit("any", unsealed, Access::Read, &EXPECT).is_err(), "not sealed, so refused");
    rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK).unwrap();
    if let Ok(segment) = Segment::inherit("any", fd, Access::Read, &EXPECT) {
        work(place, &segment);
    }
});

fn work(place: &Place, segment: &Segment) {
    let header = segment.header();
    let Ok(geometry) = Geometry::from_params(&header.params, header.data) else { return };
    let control = Control::new(place.control.data_mut(), geometry.max_readers).expect("the most readers fit");
    let slot = control.claim(9, Identity::own()).expect("a free slot");
    let consumer = Consumer::new(geometry, segment.header_words(), segment.data(), control.clone(), slot, 9);
    let Some(mut consumer) = consumer else {
        return control.release(slot, 9);
    };
    let _ = consumer.join(Start::Latest, || Ok::<(), ()>(())).unwrap();
    let _ = consumer.join(Start::Oldest, || Ok::<(), ()>(())).unwrap();
    for _ in 0..8 {
        if let Ok(Some(len)) = consumer.peek() {
            assert!(len <= geometry.max_record);
            // A hostile header may allow records of terabytes; only then nothing is copied.
            if len < 1 << 20 {
                let _ = consumer.take(&mut vec![0; len]);
            }
        }
    }
}
