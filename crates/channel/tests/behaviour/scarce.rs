//! A reader with little memory: what it has no room for is an error, and it goes on when it has.

use crate::actor::{Actor, Dir, argument, tell};
use ginnel_channel::{Mode, OpenError, Reader, RecvError, Writer, inspect};
use rustix::process::{Resource, Rlimit};

const CAPACITY: usize = 128 << 20;
const RECORD: usize = 30 << 20;

/// So many bytes of address space more than are used now.
fn leave(bytes: u64) {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    let used = pages.split(' ').next().unwrap().parse::<u64>().unwrap() * rustix::param::page_size() as u64;
    let hard = rustix::process::getrlimit(Resource::As).maximum;
    rustix::process::setrlimit(Resource::As, Rlimit { current: Some(used + bytes), maximum: hard }).unwrap();
}

/// Takes what the allocator still has, in small pieces, and gives some of them back.
fn all_but_a_little() -> Vec<Vec<u8>> {
    const PIECE: usize = 512 << 10;
    let mut held = Vec::with_capacity(4096);
    let piece = || {
        let mut piece = Vec::new();
        piece.try_reserve_exact(PIECE).ok().map(|()| piece)
    };
    held.extend(std::iter::from_fn(piece).take(4096));
    held.truncate(held.len().saturating_sub(4));
    held
}

fn open() -> Result<Reader<[u8]>, OpenError> {
    Reader::builder().run_dir(argument("dir")).open("large")
}

/// Role: opens and receives with too little memory, then with enough.
pub(crate) fn reader() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = descriptors();
    leave(64 << 20);
    let error = open().expect_err("its memory cannot be mapped").to_string();
    assert!(error.contains("large") && error.contains("Cannot allocate memory"), "{error}");
    assert_eq!(descriptors(), before, "an opening that fails leaves nothing");

    leave(1 << 40);
    let mut reader = open().expect("open");
    leave(8 << 20);
    let held = all_but_a_little();
    for _ in 0..3 {
        let Err(RecvError::NoMemory { len: RECORD }) = reader.recv() else { panic!("a record beyond its memory") };
    }
    let mut record = vec![7; 10];
    let error = reader.recv_into(&mut record).expect_err("the same").to_string();
    assert!(error.contains(&RECORD.to_string()), "{error}");
    drop(held);
    leave(1 << 40);
    let record = reader.recv().expect("the same record, now that there is memory");
    assert!(record.len() == RECORD && record.iter().all(|&byte| byte == 3));
    assert_eq!(reader.recv().expect("the next one"), b"small");
    tell("done");
}

#[test]
fn a_record_without_memory_is_an_error_that_costs_no_record() {
    let dir = Dir::new();
    let builder =
        Writer::<[u8]>::builder().run_dir(dir.path()).mode(Mode::Lossless).capacity(CAPACITY).max_record(RECORD);
    let mut writer = builder.create("large").unwrap();
    writer.publish(&vec![3; RECORD]).unwrap();
    writer.publish(b"small").unwrap();
    let mut actor = Actor::start("scarce_memory", &[("dir", dir.text())]);
    assert_eq!(actor.hear(), "done");
    actor.finish();
    assert_eq!(
        inspect(Some(dir.path()), "large").unwrap().unwrap().readers.len(),
        0,
        "a reader that could not open has no slot"
    );
}
