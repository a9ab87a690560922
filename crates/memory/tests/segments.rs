//! What may become of a segment's file: sealed memfds, named files, and everything that is not a segment.
#![cfg(not(loom))]

mod common;

use common::{EXPECT, INSTANCE, KIND, LAYOUT, Place, spec};
use ginnel_memory::{Access, Expect, HEADER_BYTES, Segment, SegmentError};
use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags};
use rustix::io::Errno;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::Ordering;

fn reopen(segment: &Segment, flags: OFlags) -> OwnedFd {
    let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
    rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

#[test]
fn a_memfd_for_readers_can_neither_be_resized_nor_mapped_writable_nor_unsealed() {
    let segment = Segment::memfd("sealed", &spec(8192), true).unwrap();
    for size in [0, 4096, 1 << 20] {
        assert_eq!(rustix::fs::ftruncate(segment.fd(), size), Err(Errno::PERM), "to {size}");
    }
    assert_eq!(rustix::fs::fcntl_add_seals(segment.fd(), SealFlags::WRITE), Err(Errno::PERM));
    let writable = reopen(&segment, OFlags::RDWR);
    assert_eq!(rustix::io::pwrite(&writable, &[1], 0), Err(Errno::PERM), "not by write(2) either");
    let refused = Segment::inherit("sealed", writable, Access::ReadWrite, &EXPECT).unwrap_err();
    assert!(matches!(refused, SegmentError::System { what: "map", source: Errno::PERM, .. }), "{refused:?}");

    // Its maker goes on writing, and readers see it.
    segment.data_mut().store(3, 77, Ordering::Release);
    let reader = Segment::inherit("sealed", reopen(&segment, OFlags::RDONLY), Access::Read, &EXPECT).unwrap();
    assert_eq!(reader.data().load(3, Ordering::Acquire), 77);
    assert_eq!(reader.header().params, [5; _]);
}

#[test]
fn a_memfd_that_peers_write_cannot_be_sealed_against_the_next_one() {
    let segment = Segment::memfd("control", &spec(4096), false).unwrap();
    segment.seal_as_it_is().unwrap();
    let seal = rustix::fs::fcntl_add_seals(reopen(&segment, OFlags::RDWR), SealFlags::FUTURE_WRITE);
    assert_eq!(seal, Err(Errno::PERM), "not by a peer");
    let next = Segment::inherit("control", reopen(&segment, OFlags::RDWR), Access::ReadWrite, &EXPECT).unwrap();
    next.data_mut().store(1, 4, Ordering::Release);
    assert_eq!(segment.data().load(1, Ordering::Acquire), 4);
}

#[test]
fn the_writers_words_are_taken_once() {
    let place = Place::new();
    let taken = |result: Result<_, SegmentError>| match result {
        Err(SegmentError::Taken { why, .. }) => why,
        other => panic!("{other:?}"),
    };
    let open = |access| Segment::open(&place.dir, "one", access, &EXPECT).unwrap();
    let made = Segment::file(&place.dir, "one", &spec(4096), 0o600, None).unwrap();
    assert_eq!(taken(open(Access::Read).into_words()), "it was opened for reading");
    let looking = made.data();
    assert_eq!(taken(made.into_words()), "words of it are in use", "a look at what is lent would be a second access");
    drop(looking);
    let (words, file) = open(Access::ReadWrite).into_words().unwrap();
    assert_eq!(taken(open(Access::ReadWrite).into_words()), "its writer is here already", "by another mapping");
    let inherited = Segment::memfd("two", &spec(4096), false).unwrap();
    let again = Segment::inherit("two", reopen(&inherited, OFlags::RDWR), Access::ReadWrite, &EXPECT).unwrap();
    let other = inherited.into_words().unwrap();
    assert_eq!(taken(again.into_words()), "its writer is here already");
    drop((words, file, other));
    assert!(open(Access::ReadWrite).into_words().is_ok(), "taken over from a writer that is gone");
}

#[test]
fn a_segment_with_holes_is_refused_before_anything_is_allocated() {
    const HUGE: u64 = 4 << 30;
    let place = Place::new();
    let honest = Segment::file(&place.dir, "honest", &spec(8192), 0o600, None).unwrap();
    let header = std::fs::read(place.path("honest")).unwrap()[..HEADER_BYTES].to_vec();
    drop(honest);
    let file = std::fs::File::create_new(place.path("sparse")).unwrap();
    file.write_all_at(&header, 0).unwrap();
    file.write_all_at(&HUGE.to_ne_bytes(), 24).unwrap(); // the recorded size
    file.set_len(HUGE).unwrap();
    let refused = Segment::open(&place.dir, "sparse", Access::Read, &EXPECT).unwrap_err();
    assert!(matches!(&refused, SegmentError::Sparse { size: HUGE, backed, .. } if *backed < 1 << 20), "{refused:?}");
    assert!(file.metadata().unwrap().blocks() * 512 < 1 << 20, "opening allocated it");
}

#[test]
fn a_memfd_that_could_still_shrink_is_refused() {
    let fd = rustix::fs::memfd_create("open", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&fd, 8192).unwrap();
    rustix::fs::fcntl_add_seals(&fd, SealFlags::GROW).unwrap();
    let refused = Segment::inherit("open", fd, Access::Read, &EXPECT).unwrap_err();
    assert!(matches!(&refused, SegmentError::Unsealed { name } if name == "open"), "{refused:?}");
    let pipe = rustix::pipe::pipe().unwrap().0;
    assert!(matches!(Segment::inherit("pipe", pipe, Access::Read, &EXPECT), Err(SegmentError::Unsealed { .. })));
}

#[test]
fn a_named_segment_is_private_backed_in_full_and_made_once() {
    let place = Place::new();
    let made = Segment::file(&place.dir, "one", &spec(1 << 20), 0o600, None).unwrap();
    let stat = std::fs::metadata(place.path("one")).unwrap();
    assert_eq!(stat.mode() & 0o7777, 0o600);
    assert_eq!(stat.len(), (HEADER_BYTES + (1 << 20)) as u64);
    assert!(stat.blocks() * 512 >= stat.len(), "backed: {} blocks for {} bytes", stat.blocks(), stat.len());
    let again = Segment::file(&place.dir, "one", &spec(1 << 20), 0o600, None).unwrap_err();
    assert!(matches!(&again, SegmentError::Exists { name } if name == "one"), "{again:?}");
    made.data_mut().store(0, 5, Ordering::Release);
    assert_eq!(Segment::open(&place.dir, "one", Access::Read, &EXPECT).unwrap().data().load(0, Ordering::Acquire), 5);
    let group = rustix::process::getegid().as_raw();
    Segment::file(&place.dir, "shared", &spec(1), 0o640, Some(group)).unwrap();
    assert_eq!(std::fs::metadata(place.path("shared")).unwrap().mode() & 0o7777, 0o640);
}

#[test]
fn a_symbolic_link_is_neither_opened_nor_written_through() {
    let place = Place::new();
    Segment::file(&place.dir, "real", &spec(1), 0o600, None).unwrap();
    std::os::unix::fs::symlink(place.path("real"), place.path("link")).unwrap();
    let opened = Segment::open(&place.dir, "link", Access::Read, &EXPECT).unwrap_err();
    assert!(matches!(opened, SegmentError::System { what: "open", source: Errno::LOOP, .. }), "{opened:?}");
    std::os::unix::fs::symlink(place.path("absent"), place.path("dangling")).unwrap();
    let made = Segment::file(&place.dir, "dangling", &spec(1), 0o600, None).unwrap_err();
    assert!(matches!(made, SegmentError::Exists { .. }), "{made:?}");
    assert!(!place.path("absent").exists(), "nothing was made behind the link");
}

type Spoil = Box<dyn FnOnce(&std::fs::File)>;

/// A segment, changed by `spoil`, and the error of opening it.
fn spoiled(spoil: impl FnOnce(&std::fs::File)) -> SegmentError {
    let place = Place::new();
    Segment::file(&place.dir, "x", &spec(8192), 0o600, None).unwrap();
    spoil(&std::fs::File::options().read(true).write(true).open(place.path("x")).unwrap());
    let read = Segment::open(&place.dir, "x", Access::Read, &EXPECT).unwrap_err();
    let write = Segment::open(&place.dir, "x", Access::ReadWrite, &EXPECT).unwrap_err();
    assert_eq!(read.to_string(), write.to_string());
    read
}

#[test]
fn each_wrong_field_of_a_header_is_named_with_what_it_holds_and_what_it_should() {
    let word = |index: u64, value: u64| {
        move |file: &std::fs::File| file.write_all_at(&value.to_ne_bytes(), index * 8).unwrap()
    };
    let size = (HEADER_BYTES + 8192) as u64;
    let good = u64::from_ne_bytes(*b"GINNEL\0\x01");
    let cases: [(&str, u64, u64, Spoil); 11] = [
        ("magic", 0x1234, good, Box::new(word(0, 0x1234))),
        ("version", 2, 1, Box::new(word(1, 2 | u64::from(KIND) << 32))),
        ("kind", 9, u64::from(KIND), Box::new(word(1, 1 | 9 << 32))),
        ("layout hash", LAYOUT + 1, LAYOUT, Box::new(word(2, LAYOUT + 1))),
        ("recorded size", size + 4096, size, Box::new(word(3, size + 4096))),
        ("recorded size", u64::MAX, size, Box::new(word(3, u64::MAX))),
        ("instance", 1, INSTANCE, Box::new(word(6, 1))),
        ("header length", 100, 512, Box::new(|file| file.set_len(100).unwrap())),
        ("recorded size", size, 4096, Box::new(|file| file.set_len(4096).unwrap())),
        ("recorded size", size, size - 1, Box::new(move |file| file.set_len(size - 1).unwrap())),
        ("recorded size", size, size + 4096, Box::new(move |file| file.set_len(size + 4096).unwrap())),
    ];
    for (field, found, expected, spoil) in cases {
        let error = spoiled(spoil);
        let SegmentError::Mismatch { field: named, found: held, expected: wanted, .. } = &error else {
            panic!("{field}: {error:?}")
        };
        assert_eq!((*named, *held, *wanted), (field, found, expected), "{error}");
    }
}

#[test]
fn a_file_without_data_or_with_half_a_page_of_it_is_no_segment() {
    for size in [HEADER_BYTES as u64, HEADER_BYTES as u64 + 100] {
        let error = spoiled(|file| {
            file.set_len(size).unwrap();
            file.write_all_at(&size.to_ne_bytes(), 24).unwrap();
        });
        assert!(
            matches!(error, SegmentError::Mismatch { field: "data size", found, .. } if found == size),
            "{error:?}"
        );
    }
}

#[test]
fn a_file_that_is_still_being_made_is_absent() {
    assert!(matches!(spoiled(|file| file.set_len(0).unwrap()), SegmentError::Absent { .. }));
    assert!(matches!(spoiled(|file| file.write_all_at(&[0; 8], 0).unwrap()), SegmentError::Absent { .. }));
    let place = Place::new();
    let error = Segment::open(&place.dir, "nothing", Access::Read, &EXPECT).unwrap_err();
    assert!(matches!(&error, SegmentError::Absent { name } if name == "nothing"), "{error:?}");
}

#[test]
fn a_replaced_file_is_another_instance() {
    let place = Place::new();
    let first = Segment::file(&place.dir, "x", &spec(1), 0o600, None).unwrap();
    first.data_mut().store(0, 1, Ordering::Release);
    place.dir.remove("x").unwrap();
    let other = ginnel_memory::Spec { instance: INSTANCE + 1, ..spec(1) };
    Segment::file(&place.dir, "x", &other, 0o600, None).unwrap();
    let error = Segment::open(&place.dir, "x", Access::Read, &EXPECT).unwrap_err();
    assert!(matches!(error, SegmentError::Mismatch { field: "instance", .. }), "{error:?}");
    assert_eq!(first.data().load(0, Ordering::Acquire), 1, "who has the first one keeps it");
}

#[test]
fn a_directory_or_a_fifo_in_its_place_is_refused_at_once() {
    let place = Place::new();
    std::fs::create_dir(place.path("dir")).unwrap();
    rustix::fs::mkfifoat(&place.dir, "fifo", Mode::RUSR | Mode::WUSR).unwrap();
    for (name, access) in
        [("dir", Access::Read), ("dir", Access::ReadWrite), ("fifo", Access::Read), ("fifo", Access::ReadWrite)]
    {
        let error = Segment::open(&place.dir, name, access, &EXPECT).unwrap_err();
        assert!(matches!(error, SegmentError::System { source: Errno::INVAL | Errno::ISDIR, .. }), "{name}: {error:?}");
    }
}

#[test]
fn a_foreign_owner_is_named() {
    let place = Place::new();
    Segment::file(&place.dir, "x", &spec(1), 0o600, None).unwrap();
    let own = rustix::process::geteuid().as_raw();
    let expect = Expect { owner: Some(own + 1), ..EXPECT };
    let error = Segment::open(&place.dir, "x", Access::Read, &expect).unwrap_err();
    let SegmentError::Owner { found, expected, .. } = error else { panic!("{error:?}") };
    assert_eq!((found, expected), (own, own + 1));
}

/// The number of a file that is gone is given to the next one at once.
#[test]
fn a_writer_that_goes_in_one_thread_is_not_taken_for_the_new_one_of_another() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..500 {
                    let place = Place::new();
                    let segment = Segment::file(&place.dir, "data", &spec(4096), 0o600, None).unwrap();
                    let (words, file) = segment.into_words().unwrap();
                    // From now on only the mapping keeps the file's number.
                    drop((place, file));
                    drop(words);
                }
            });
        }
    });
}
