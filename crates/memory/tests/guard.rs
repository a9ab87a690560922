//! The SIGBUS guard: a file that is cut short costs its own segment and nothing else.
#![cfg(not(loom))]

mod common;

use common::{EXPECT, Place, alone, child, eventually, is_child, run, spec};
use ginnel_memory::identity::Identity;
use ginnel_memory::ring::{Consumer, Control, Fault, Geometry, Mode, Producer};
use ginnel_memory::{Access, Segment, Spec};
use std::os::unix::process::ExitStatusExt;
use std::sync::atomic::Ordering;

const WORDS: usize = (1 << 20) / 8;

fn cut(place: &Place, name: &str) {
    std::fs::File::options().write(true).open(place.path(name)).unwrap().set_len(0).unwrap();
}

#[test]
fn a_file_cut_short_while_it_is_read_costs_only_its_own_segment() {
    let place = Place::new();
    let make = |name| {
        let segment = Segment::file(&place.dir, name, &spec(1 << 20), 0o600, None).unwrap();
        (0..WORDS).for_each(|index| segment.data_mut().store(index, 7, Ordering::Relaxed));
        (Segment::open(&place.dir, name, Access::Read, &EXPECT).unwrap().data(), segment)
    };
    let ((cut_words, writer), (other_words, _other)) = (make("cut"), make("other"));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|reader| {
                let (cut_words, other_words) = (cut_words.clone(), other_words.clone());
                scope.spawn(move || {
                    let mut bytes = Vec::new();
                    while !cut_words.truncated() {
                        if reader == 0 {
                            (0..WORDS)
                                .for_each(|index| assert!([0, 7].contains(&cut_words.load(index, Ordering::Relaxed))));
                        } else {
                            cut_words.copy_to_vec(0, WORDS * 8, &mut bytes);
                            assert!(bytes.iter().all(|&byte| byte == 0 || byte == 7));
                        }
                        assert!((0..WORDS).step_by(512).all(|index| other_words.load(index, Ordering::Relaxed) == 7));
                    }
                })
            })
            .collect();
        cut(&place, "cut");
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    // The writer's own mapping is another one: it learns it when it next touches it.
    assert!(!writer.data().truncated());
    writer.data_mut().store(0, 1, Ordering::Relaxed);
    assert!(writer.data().truncated());
    assert!(!other_words.truncated() && (0..WORDS).all(|index| other_words.load(index, Ordering::Relaxed) == 7));
    let fresh = Segment::file(&place.dir, "fresh", &spec(4096), 0o600, None).unwrap();
    assert!(!fresh.data().truncated(), "a new segment begins whole");
}

#[test]
fn a_reader_of_a_ring_that_was_cut_short_is_told_so() {
    let place = Place::new();
    let geometry = Geometry::fixed(Mode::Lossy, 64, 1024, 2).unwrap();
    let ring = Spec { params: geometry.params(), ..spec(geometry.data_bytes()) };
    let writer = Segment::file(&place.dir, "ring", &ring, 0o600, None).unwrap();
    let control = Segment::memfd("control", &spec(Control::bytes(2)), false).unwrap();
    let control = Control::new(control.data_mut(), 2).unwrap();
    let mut producer = Producer::new(geometry, writer.into_words().unwrap().0, control.clone()).unwrap();
    let reader = Segment::open(&place.dir, "ring", Access::Read, &EXPECT).unwrap();
    let slot = control.claim(5, Identity::own()).unwrap();
    let mut consumer = Consumer::new(geometry, reader.header_words(), reader.data(), control, slot, 5).unwrap();
    producer.reserve(64).unwrap();
    producer.push(&[1; 64]);
    assert_eq!(consumer.peek(), Ok(Some(64)));
    cut(&place, "ring");
    assert_eq!(consumer.take(&mut [0; 64]), Err(Fault::Truncated), "the copy is of zeros");
    assert_eq!(consumer.peek(), Err(Fault::Truncated));
    producer.reserve(64).unwrap();
    producer.push(&[2; 64]);
    assert!(producer.truncated(), "and so is the writer");
}

/// Touches a page behind the end of a file that is no segment.
fn fault_elsewhere() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(4096).unwrap();
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    // SAFETY: a fresh mapping, touched once below by a volatile read of mapped memory.
    let page = unsafe { mmap(std::ptr::null_mut(), 4096, ProtFlags::READ, MapFlags::SHARED, &file, 0) }.unwrap();
    file.set_len(0).unwrap();
    // SAFETY: the page is mapped; that it has no memory behind it is the point.
    let byte = unsafe { page.cast::<u8>().read_volatile() };
    panic!("read {byte} from nowhere");
}

fn set_handler(handler: libc::sighandler_t) {
    // SAFETY: installs a handler that only calls `_exit`, or SIG_IGN or SIG_DFL.
    unsafe { assert_ne!(libc::signal(libc::SIGBUS, handler), libc::SIG_ERR) };
}

extern "C" fn leave_with_42(_: libc::c_int) {
    // SAFETY: `_exit` may be called in a signal handler.
    unsafe { libc::_exit(42) }
}

/// Has the guard installed and a fault of its own survived.
fn survive_one_fault() {
    let place = Place::new();
    let segment = Segment::file(&place.dir, "cut", &spec(4096), 0o600, None).unwrap();
    cut(&place, "cut");
    assert_eq!(segment.data().load(0, Ordering::Relaxed), 0);
    assert!(segment.data().truncated());
}

#[test]
fn a_fault_elsewhere_goes_to_the_handler_that_was_there_before() {
    const NAME: &str = "a_fault_elsewhere_goes_to_the_handler_that_was_there_before";
    if is_child(NAME) {
        set_handler(leave_with_42 as extern "C" fn(libc::c_int) as libc::sighandler_t);
        survive_one_fault();
        return fault_elsewhere();
    }
    let (status, said) = run(child(NAME));
    assert_eq!(status.code(), Some(42), "{status}: {said}");
}

#[test]
fn a_fault_elsewhere_without_a_handler_ends_the_process_as_ever() {
    const NAME: &str = "a_fault_elsewhere_without_a_handler_ends_the_process_as_ever";
    if is_child(NAME) {
        rustix::process::setrlimit(
            rustix::process::Resource::Core,
            rustix::process::Rlimit { current: Some(0), maximum: Some(0) },
        )
        .unwrap();
        set_handler(libc::SIG_DFL);
        survive_one_fault();
        return fault_elsewhere();
    }
    let (status, said) = run(child(NAME));
    assert_eq!(status.signal(), Some(libc::SIGBUS), "{status}: {said}");
}

#[test]
fn a_sigbus_that_somebody_sent_means_what_it_meant_before() {
    alone("a_sigbus_that_somebody_sent_means_what_it_meant_before", || {
        set_handler(libc::SIG_IGN);
        survive_one_fault();
        let own = rustix::process::getpid();
        rustix::process::kill_process(own, rustix::process::Signal::BUS).unwrap();
        survive_one_fault(); // still guarded
    });
}

#[test]
fn guards_come_and_go_while_files_are_cut() {
    // Entries of the guard's table are reused by other threads while faults are looked up in it.
    let place = Place::new();
    let done = std::sync::atomic::AtomicBool::new(false);
    let rounds = if std::env::var_os("GINNEL_SOAK").is_some() { 20_000 } else { 500 };
    std::thread::scope(|scope| {
        for churn in 0..2 {
            let (place, done) = (&place, &done);
            scope.spawn(move || {
                let name = format!("churn-{churn}");
                while !done.load(Ordering::Relaxed) {
                    let segment = Segment::file(&place.dir, &name, &spec(4096 << (churn * 4)), 0o600, None).unwrap();
                    segment.data_mut().store(0, 9, Ordering::Relaxed);
                    assert_eq!(segment.data().load(0, Ordering::Relaxed), 9);
                    assert!(!segment.data().truncated(), "an innocent segment was hit");
                    place.dir.remove(&name).unwrap();
                }
            });
        }
        for _ in 0..rounds {
            let segment = Segment::file(&place.dir, "cut", &spec(8192), 0o600, None).unwrap();
            cut(&place, "cut");
            assert_eq!(segment.data().load(5, Ordering::Relaxed), 0);
            eventually("the mark of the cut", || segment.data().truncated());
            place.dir.remove("cut").unwrap();
        }
        done.store(true, Ordering::Relaxed);
    });
}
