//! What is dropped is gone: descriptors, mappings, files.

use crate::actor::{Actor, Dir, PATIENCE, argument, namespaced, soak, tell, until};
use crate::sys;
use ginnel_channel::{Mode, OpenError, Reader, Writer};
use ginnel_memory::RunDir;
use std::path::Path;

fn count(path: &str) -> usize {
    std::fs::read_dir(path).expect("list").count()
}

/// Role: makes ten thousand channels of every kind, and counts what is left. A process of its own, so that nothing else
/// counts.
pub(crate) fn hoarder() {
    let dir = argument("dir");
    let dir = Path::new(&dir);
    let channels = argument("channels").parse::<usize>().expect("a number");
    let maps =
        || std::fs::read_to_string("/proc/self/maps").expect("maps").lines().filter(|line| line.contains("/")).count();
    let once = |n: usize| {
        let builder = Writer::<[u8]>::builder().capacity(64 << 10);
        let builder = builder.mode([Mode::Lossy, Mode::Lossless, Mode::Latest][n % 3]);
        if n.is_multiple_of(4) {
            let mut writer = builder.anonymous().expect("create");
            let mut command = std::process::Command::new("true");
            if n.is_multiple_of(8) {
                writer.export(&mut command, "NUMBERS").expect("export");
                drop(Reader::<u64>::builder().export_writer(&mut command, "BACK").expect("export"));
            }
            writer.publish(b"into the void").expect("publish");
        } else {
            let mut writer = builder.run_dir(dir).create(&format!("channel-{n}")).expect("create");
            let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir).open(&format!("channel-{n}")).expect("open");
            writer.publish(b"something").expect("publish");
            assert_eq!(reader.recv().expect("receive"), b"something");
            if n.is_multiple_of(2) {
                drop(writer);
            } else {
                drop(reader);
            }
        }
    };
    (0..16).for_each(once);
    let before = (count("/proc/self/fd"), maps(), 0);
    (0..channels).for_each(once);
    assert_eq!((count("/proc/self/fd"), maps(), count(dir.to_str().expect("a path of ours"))), before);
}

#[test]
fn ten_thousand_channels_leave_no_descriptor_no_mapping_and_no_file() {
    let dir = Dir::new();
    let channels = if soak() { "10000" } else { "500" };
    Actor::start("hoarder", &[("dir", dir.text()), ("channels", channels)]).finish();
    assert_eq!(dir.files(), [""; 0]);
}

/// Role: creates a large channel again and again, until it is killed.
pub(crate) fn dies_while_creating() {
    let dir = argument("dir");
    tell("begun");
    loop {
        drop(Writer::<[u8]>::builder().run_dir(&dir).capacity(64 << 20).create("large").expect("create"));
    }
}

fn making(dir: &Dir) -> usize {
    dir.files().iter().filter(|file| file.ends_with(".making")).count()
}

#[test]
fn what_a_writer_killed_while_creating_leaves_is_seen_and_gone_with_the_next_creation_of_any_name() {
    let dir = Dir::new();
    let mut living: Writer<u64> = Writer::builder().run_dir(dir.text()).create("living").unwrap();
    for round in 0..2 {
        let mut actor = Actor::start("dies_while_creating", &[("dir", dir.text())]);
        assert_eq!(actor.hear(), "begun");
        // Stopped first, so that what is seen is what it dies with.
        until("it is creating", || {
            actor.stop();
            let seen = making(&dir) == 1;
            if !seen {
                actor.resume();
            }
            seen
        });
        actor.kill();
        assert_eq!(ginnel_channel::half_made(Some(dir.path())).unwrap(), 1);
        if round == 0 {
            drop(Writer::<u64>::builder().run_dir(dir.text()).create("other").unwrap());
        } else {
            assert!(!ginnel_channel::clean(Some(dir.path())).unwrap().strays.is_empty());
        }
        assert_eq!(ginnel_channel::half_made(Some(dir.path())).unwrap(), 0);
        ginnel_channel::clean(Some(dir.path())).unwrap(); // the name's lock
        assert_eq!(dir.files().len(), 4, "those of the living: {:?}", dir.files());
    }
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.text()).open("living").unwrap();
    living.publish(&3).unwrap();
    assert_eq!(reader.recv().unwrap(), 3);
}

#[test]
fn copies_and_links_of_a_living_channel_cost_it_nothing() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.text()).create("real").unwrap();
    let file = |name: &str| dir.path().join(name);
    let spread = || {
        std::fs::copy(file("real.channel"), file("copy.channel")).unwrap();
        std::fs::hard_link(file("real.channel"), file("link.channel")).unwrap();
    };
    for round in 0..3 {
        spread();
        match round {
            0 => {
                let cleaned = ginnel_channel::clean(Some(dir.path())).unwrap();
                assert_eq!((cleaned.channels, cleaned.strays), (vec!["copy".to_owned(), "link".to_owned()], vec![]));
            }
            _ => {
                for name in ["copy", "link"] {
                    drop(Writer::<u64>::builder().run_dir(dir.text()).create(name).unwrap());
                }
            }
        }
        let mut reader: Reader<u64> = Reader::builder().run_dir(dir.text()).open("real").unwrap();
        writer.publish(&round).unwrap();
        let received: Vec<u64> = (0..=round).map(|_| reader.recv().unwrap()).collect();
        assert_eq!(received, (0..=round).collect::<Vec<_>>());
    }
    drop(writer);
    assert_eq!(dir.files(), [""; 0]);
}

#[test]
fn a_writer_leaves_at_once_and_completely_while_somebody_holds_the_directory() {
    let dir = Dir::new();
    let writer: Writer<u64> = Writer::builder().run_dir(dir.text()).create("leaving").unwrap();
    let run = RunDir::at(dir.path()).unwrap();
    let lock = run.lock().unwrap();
    drop(writer);
    assert_eq!(dir.files(), [RunDir::LOCK_FILE], "it did not wait for us");
    drop(lock);
    // One whose name was taken from under it leaves the new one alone.
    let first: Writer<u64> = Writer::builder().run_dir(dir.text()).create("name").unwrap();
    std::fs::remove_file(dir.path().join("name.lock")).unwrap();
    let _second: Writer<u64> = Writer::builder().run_dir(dir.text()).create("name").unwrap();
    drop(first);
    Reader::<u64>::builder().run_dir(dir.text()).open("name").unwrap();
}

#[test]
fn the_place_of_a_reader_that_died_in_another_pid_namespace_is_free_although_the_writer_is_idle() {
    if !ginnel_testing::has_namespaces("-pfm") {
        return;
    }
    let dir = Dir::new();
    let _idle: Writer<u64> = Writer::builder().run_dir(dir.text()).max_readers(1).create("narrow").unwrap();
    let open = || Reader::<u64>::builder().run_dir(dir.text()).open("narrow");
    let alive = || ginnel_channel::inspect(Some(dir.path()), "narrow").unwrap().unwrap().readers[0].alive;
    let mut inside = Actor::spawn(&mut namespaced("namespaced_reader", &[("dir", dir.text())]));
    assert_eq!(inside.hear(), "1");
    assert_eq!(alive(), Some(true), "seen from another namespace");
    assert!(matches!(open(), Err(OpenError::Full { max: 1, .. })));
    inside.kill();
    until("the kernel has given its lock back", || alive() == Some(false));
    let reader = open().unwrap();
    assert!(matches!(open(), Err(OpenError::Full { max: 1, .. })));
    drop(reader);
    open().unwrap();
}

#[test]
fn a_slot_that_was_claimed_and_never_signed_is_taken_over() {
    use std::os::unix::fs::FileExt;
    let dir = Dir::new();
    let _idle: Writer<u64> = Writer::builder().run_dir(dir.text()).max_readers(1).create("narrow").unwrap();
    let control = dir.files().into_iter().find(|file| file.ends_with(".control")).unwrap();
    let control = std::fs::File::options().write(true).open(dir.path().join(control)).unwrap();
    // The token of slot 0; whoever wrote it was killed before it said who it was.
    control.write_all_at(&77_u64.to_ne_bytes(), ginnel_memory::HEADER_BYTES as u64 + 16 * 8).unwrap();
    let _reader: Reader<u64> = Reader::builder().run_dir(dir.text()).open("narrow").unwrap();
}

#[test]
fn a_writer_does_not_make_the_directory_that_an_exporter_named() {
    let dir = Dir::new();
    let absent = dir.path().join("absent");
    let variable = "GINNEL_TEST_ABSENT_DIRECTORY";
    assert!(sys::set_env(variable, &format!("{}/name", absent.display())));
    let error = Writer::<u64>::from_env(variable).map(drop).unwrap_err();
    assert!(error.to_string().contains("absent"), "{error}");
    assert!(!absent.exists());
}

#[test]
fn what_a_reader_of_the_latest_value_missed_and_received_is_everything() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.text()).mode(Mode::Latest).create("state").unwrap();
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.text()).open("state").unwrap();
    for published in [1, 3, 5000, 1] {
        (0..published).for_each(|n| writer.publish(&n).unwrap());
        assert_eq!(reader.recv_timeout(PATIENCE).unwrap(), Some(published - 1));
        let counters = reader.counters();
        assert_eq!(counters.received + counters.missed, writer.counters().records, "{counters:?}");
    }
}

#[test]
fn a_channel_for_nobody_is_refused_in_words() {
    let error = Writer::<u64>::builder().max_readers(0).anonymous().map(drop).unwrap_err().to_string();
    assert_eq!(error, "a channel for 0 readers cannot be made: ask for 1 to 1024");
}

#[test]
fn readers_that_come_and_go_are_not_counted_as_evicted() {
    let dir = Dir::new();
    let builder = Writer::<u64>::builder().run_dir(dir.text()).mode(Mode::Lossless).capacity(4096).max_readers(2);
    let mut writer = builder.create("busy").unwrap();
    std::thread::scope(|scope| {
        let readers = scope.spawn(|| {
            for round in 0..300 {
                let mut reader: Reader<u64> = Reader::builder().run_dir(dir.text()).open("busy").unwrap();
                for _ in 0..round % 200 {
                    reader.recv_timeout(PATIENCE).unwrap().unwrap();
                }
            }
        });
        let mut n = 0;
        while !readers.is_finished() {
            n += 1;
            writer.publish_timeout(&n, PATIENCE).unwrap();
        }
    });
    assert_eq!(writer.counters().evicted, 0, "{:?}", writer.counters());
}
