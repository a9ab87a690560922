//! Many readers that sleep at once, in other processes: a publication has all of them woken, and costs no more than
//! to wake the thread that does it.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, tell, until};
use crate::sys::{self, mark};
use ginnel_channel::{CloseCause, Reader, RecvError, Spin, Writer, inspect};
use std::path::Path;
use std::sync::mpsc;

const NAME: &str = "dormitory";
const PROCESSES: usize = 8;
const READERS_EACH: usize = 8;
const READERS: usize = PROCESSES * READERS_EACH;
/// Rounds before the count begins: the thread is started.
const FIRST: u64 = 3;
const ROUNDS: u64 = 20;
const COUNTED: u64 = 1;

/// Role: reads with several threads, each of which sleeps between two records; tells how each of them ended.
pub(crate) fn readers() {
    let ends: Vec<String> = std::thread::scope(|scope| {
        let open = || Reader::<u64>::builder().run_dir(argument("dir")).spin(Spin::new(0)).open(NAME).expect("open");
        let threads: Vec<_> = (0..READERS_EACH).map(|_| open()).map(|reader| scope.spawn(|| read(reader))).collect();
        tell("joined");
        threads.into_iter().map(|thread| thread.join().expect("a reader")).collect()
    });
    for end in ends {
        tell(end);
    }
}

fn read(mut reader: Reader<u64>) -> String {
    let mut next = 0;
    loop {
        match reader.recv() {
            Ok(record) if record == next => next += 1,
            Ok(record) => return format!("{record} instead of {next}"),
            Err(RecvError::Closed { cause }) => return format!("{next} {cause:?}"),
            Err(other) => return other.to_string(),
        }
    }
}

/// Role: publishes each record when all readers sleep, and ends right after the last one.
pub(crate) fn writer() {
    let dir = argument("dir");
    let mut writer: Writer<u64> = Writer::builder().run_dir(&dir).max_readers(READERS).create(NAME).expect("create");
    tell("created");
    listen();
    assert!(writer.wait_for_readers(READERS, PATIENCE).expect("join"));
    for n in 0..FIRST + ROUNDS {
        until("all readers sleep", || {
            let channel = inspect(Some(Path::new(&dir)), NAME).expect("inspect").expect("it exists");
            channel.readers.iter().filter(|reader| reader.asleep).count() == READERS
        });
        let counted = n >= FIRST;
        mark(if counted { COUNTED } else { 0 });
        writer.publish(&n).expect("publish");
        mark(0);
    }
    mark(sys::LAST_MARK);
    match argument("end").as_str() {
        "close" => drop(writer),
        _ => {
            let own = rustix::process::getpid();
            rustix::process::kill_process(own, rustix::process::Signal::KILL).expect("kill this process");
        }
    }
    tell("closed");
    listen();
}

/// Runs a writer and its sleeping readers to the writer's `end`; returns the system calls of each publication that was
/// counted.
fn run(end: &str, cause: CloseCause) -> Vec<Vec<i64>> {
    let dir = Dir::new();
    let mut writer = Actor::start("dormitory_writer", &[("dir", dir.text()), ("end", end)]);
    assert_eq!(writer.hear(), "created");
    let mut readers: Vec<_> =
        (0..PROCESSES).map(|_| Actor::start("dormitory_readers", &[("dir", dir.text())])).collect();
    readers.iter_mut().for_each(|reader| assert_eq!(reader.hear(), "joined"));
    let sections = std::thread::scope(|scope| {
        let thread = sys::busiest_thread(writer.pid());
        let (begun, traced) = mpsc::channel();
        let tracer = scope.spawn(move || sys::trace(thread, || begun.send(()).expect("the test waits")));
        traced.recv_timeout(PATIENCE).expect("the tracer begins");
        writer.say("go");
        tracer.join().expect("the tracer")
    });
    // The writer's process still lives where it has closed: nobody is woken by its end.
    if end == "close" {
        assert_eq!(writer.hear(), "closed");
    }
    for mut reader in readers {
        for _ in 0..READERS_EACH {
            assert_eq!(reader.hear(), format!("{} {cause:?}", FIRST + ROUNDS));
        }
        reader.finish();
    }
    sections.into_iter().filter(|(section, _)| *section == COUNTED).map(|(_, calls)| calls).collect()
}

fn one_wake_up_each(publications: &[Vec<i64>]) {
    assert_eq!(publications.len() as u64, ROUNDS);
    assert!(publications.iter().any(|calls| !calls.is_empty()), "a crowd was asleep");
    for calls in publications {
        // A prefix: the thread may be at work already. Until it has come to them, those that it was called for still
        // seem to sleep, and a publication meanwhile finds that nobody has asked for anything since.
        let known = [libc::SYS_getpid, libc::SYS_futex].starts_with(calls);
        assert!(known, "the thread is asked for and woken, nobody else: {calls:?}");
    }
}

#[test]
fn each_of_many_sleepers_gets_every_record_for_one_wake_up_and_then_the_end() {
    if !ginnel_testing::is_native("ptrace") {
        return;
    }
    one_wake_up_each(&run("close", CloseCause::Closed));
}

#[test]
fn many_sleepers_get_the_record_that_a_writer_published_right_before_it_was_killed() {
    if !ginnel_testing::is_native("ptrace") {
        return;
    }
    one_wake_up_each(&run("kill", CloseCause::Died));
}
