//! How many system calls a publication costs, counted by a tracer.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, tell, until};
use crate::sys::{self, mark};
use ginnel_channel::{Reader, Spin, Start, Writer, inspect};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const NAME: &str = "counted";
const CROWD: usize = 64;
const ROUNDS: usize = 20;
/// The sections that the writer marks.
const ABSENT: u64 = 1;
const SPINNING: u64 = 2;
const ATTACHED: u64 = 3;
const PARKED: u64 = 4;
const LOANED: u64 = 5;
const CROWDED: u64 = 6;

fn asleep(dir: &Path) -> usize {
    let channel = inspect(Some(dir), NAME).expect("inspect").expect("it exists");
    channel.readers.iter().filter(|reader| reader.asleep).count()
}

/// Role: publishes between marks, under a tracer.
pub(crate) fn writer() {
    let dir = argument("dir");
    let dir = Path::new(&dir);
    let mut writer: Writer<[u8]> = Writer::builder().run_dir(dir).max_readers(CROWD + 2).create(NAME).expect("create");
    let publish = |writer: &mut Writer<[u8]>, section: u64| {
        mark(section);
        for n in 0..1000_u64 {
            writer.publish(&n.to_le_bytes()).expect("publish");
        }
        mark(0);
    };
    tell("created");
    listen();
    publish(&mut writer, ABSENT);
    for section in [SPINNING, ATTACHED] {
        tell("next");
        let expected = listen().parse().expect("a number");
        assert!(writer.wait_for_readers(expected, PATIENCE).expect("join"));
        publish(&mut writer, section);
        mark(LOANED);
        writer.loan(100).expect("loan").publish().expect("publish");
        let mut batch = writer.batch();
        batch.push(&[1]).expect("push");
        batch.push(&[2]).expect("push");
        batch.publish().expect("publish");
        mark(0);
    }
    tell("next");
    until("the last ones are gone", || writer.readers().expect("reap") == 0);
    tell("gone");
    listen();
    assert!(writer.wait_for_readers(1, PATIENCE).expect("join"));
    for _ in 0..ROUNDS {
        until("the reader sleeps", || asleep(dir) == 1);
        mark(PARKED);
        writer.publish(b"wake up").expect("publish");
        mark(0);
    }
    tell("next");
    listen();
    assert!(writer.wait_for_readers(CROWD, PATIENCE).expect("join"));
    for round in 0..ROUNDS {
        until("all sleep", || asleep(dir) == CROWD);
        // The first one starts the thread that wakes them.
        mark(if round == 0 { 0 } else { CROWDED });
        writer.publish(b"wake up").expect("publish");
        mark(0);
    }
    tell("done");
    mark(sys::LAST_MARK);
    drop(writer);
}

#[test]
fn a_publication_is_one_system_call_for_a_parked_reader_and_none_for_all_others() {
    if !ginnel_testing::is_native("ptrace") {
        return;
    }
    let dir = Dir::new();
    let mut actor = Actor::start("counted_writer", &[("dir", dir.text())]);
    assert_eq!(actor.hear(), "created");
    let open = |spin: Spin| -> Reader<[u8]> {
        Reader::builder().run_dir(dir.path()).start(Start::Latest).spin(spin).open(NAME).expect("open")
    };
    let done = AtomicBool::new(false);
    let sections = std::thread::scope(|scope| {
        let thread = sys::busiest_thread(actor.pid());
        let (begun, traced) = std::sync::mpsc::channel();
        let tracer = scope.spawn(move || sys::trace(thread, || begun.send(()).expect("the test waits")));
        traced.recv_timeout(PATIENCE).expect("the tracer begins");
        actor.say("go");
        assert_eq!(actor.hear(), "next");
        {
            let mut spinning = open(Spin::forever());
            let done = &done;
            let spinner = scope.spawn(move || {
                let mut received = 0;
                while !done.load(Ordering::Relaxed) {
                    received += u64::from(spinning.recv_timeout(std::time::Duration::from_millis(1)).is_ok());
                }
                received
            });
            actor.say("1");
            assert_eq!(actor.hear(), "next");
            let crowd: Vec<_> = (0..CROWD).map(|_| open(Spin::default())).collect();
            actor.say(&(CROWD + 1).to_string());
            assert_eq!(actor.hear(), "next");
            drop(crowd);
            done.store(true, Ordering::Relaxed);
            assert!(spinner.join().expect("the spinning reader") > 0);
        }
        assert_eq!(actor.hear(), "gone");
        let mut parked = open(Spin::new(0));
        let sleeper = scope.spawn(move || {
            let mut received = 0;
            while parked.recv().is_ok_and(|record| record == b"wake up") {
                received += 1;
            }
            received
        });
        actor.say("go");
        assert_eq!(actor.hear(), "next");
        let crowd: Vec<_> = (1..CROWD)
            .map(|_| {
                let mut reader = open(Spin::new(0));
                scope.spawn(move || std::iter::from_fn(|| reader.recv().ok()).count())
            })
            .collect();
        actor.say("go");
        assert_eq!(actor.hear(), "done");
        let sections = tracer.join().expect("the tracer");
        actor.finish();
        assert_eq!(sleeper.join().expect("the parked reader"), 2 * ROUNDS);
        for sleeper in crowd {
            assert_eq!(sleeper.join().expect("a reader of the crowd"), ROUNDS, "each is woken each time");
        }
        sections
    });
    let calls = |section: u64| sections.iter().filter(move |each| each.0 == section).map(|each| each.1.as_slice());
    for silent in [ABSENT, SPINNING, ATTACHED, LOANED] {
        assert!(calls(silent).count() > 0);
        for calls in calls(silent) {
            assert_eq!(calls, [0; 0], "in section {silent}");
        }
    }
    assert_eq!(calls(PARKED).count(), ROUNDS);
    for calls in calls(PARKED) {
        assert_eq!(calls, [libc::SYS_sendto], "a wake-up is one message");
    }
    assert_eq!(calls(CROWDED).count(), ROUNDS - 1);
    for calls in calls(CROWDED) {
        // Whether the thread is there to be asked, and the wake-up of that thread, unless it is at work already. Those
        // that it has not come to yet still seem to sleep: a publication meanwhile finds that nobody has asked for
        // anything since.
        assert!([libc::SYS_getpid, libc::SYS_futex].starts_with(calls), "a crowd: {calls:?}");
    }
}
