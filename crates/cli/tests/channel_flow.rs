//! `ginnel channel pub` and `sub`: what goes in comes out.

mod common;

use common::{House, Running, eventually, line};
use ginnel::channel::{CloseCause, Reader, RecvError};
use rustix::process::Signal;
use std::fs::File;
use std::io::{BufWriter, Read, Write};
use std::path::Path;
use std::process::Stdio;

/// 32 MiB, or the full 1 GiB in a soak run.
fn file_size() -> usize {
    if std::env::var_os("GINNEL_SOAK").is_some_and(|value| value == "1") { 1 << 30 } else { 32 << 20 }
}

/// Text as it comes: short lines, empty lines, some lines of megabytes, and no newline at the end.
fn write_text(path: &Path, size: usize) {
    let mut out = BufWriter::new(File::create(path).unwrap());
    let (mut written, mut n, mut text) = (0, 0_u64, Vec::new());
    while written < size {
        n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let len = match n >> 48 {
            0..8 => 3 << 20,
            8..6000 => 0,
            other => other as usize % 200,
        };
        text.clear();
        text.extend((0..len).map(|at| b' ' + ((n >> (at % 32)) % 90) as u8));
        text.push(b'\n');
        out.write_all(&text).unwrap();
        written += text.len();
    }
    out.write_all(b"the end, without a newline").unwrap();
    out.into_inner().unwrap();
}

#[track_caller]
fn assert_identical(one: &Path, other: &Path) {
    let (mut one, mut other) = (File::open(one).unwrap(), File::open(other).unwrap());
    assert_eq!(one.metadata().unwrap().len(), other.metadata().unwrap().len());
    let (mut first, mut second) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let read = one.read(&mut first).unwrap();
        if read == 0 {
            return;
        }
        other.read_exact(&mut second[..read]).unwrap();
        assert!(first[..read] == second[..read], "the files differ");
    }
}

fn move_a_file(publish: &[&str], writer_first: bool, make: impl Fn(&Path)) {
    let house = House::new();
    let (from, to) = (house.temp.path().join("from"), house.temp.path().join("to"));
    make(&from);
    let publish = [&["channel", "pub", "file", "--mode", "lossless"], publish].concat();
    let framed: &[&str] = if publish.contains(&"--framed") { &["--framed"] } else { &[] };
    let subscribe = [&["channel", "sub", "file"], framed].concat();
    let start_writer = || {
        let command = &mut house.command(&publish);
        common::Running(command.stdin(File::open(&from).unwrap()).spawn().unwrap())
    };
    let start_reader = || {
        let command = &mut house.command(&subscribe);
        common::Running(command.stdout(File::create(&to).unwrap()).spawn().unwrap())
    };
    let (writer, reader) = if writer_first {
        let writer = start_writer();
        eventually("the writer waits", || house.files().contains(&"file.channel".to_owned()));
        (writer, start_reader())
    } else {
        let reader = start_reader();
        (start_writer(), reader)
    };
    for ended in [writer.end(), reader.end()] {
        assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    }
    assert_identical(&from, &to);
    assert_eq!(house.files(), [""; 0], "nothing is left in the runtime directory");
}

#[test]
fn a_file_arrives_identical_when_the_writer_is_first() {
    move_a_file(&[], true, |path| write_text(path, file_size()));
}

#[test]
fn a_file_arrives_identical_when_the_reader_is_first() {
    move_a_file(&["--capacity", "256K"], false, |path| write_text(path, file_size()));
}

#[test]
fn an_empty_file_is_a_channel_without_records() {
    move_a_file(&[], true, |path| drop(File::create(path).unwrap()));
}

#[test]
fn framed_records_hold_any_bytes_and_may_be_empty() {
    move_a_file(&["--framed", "--max-record", "100K"], false, |path| {
        let mut out = BufWriter::new(File::create(path).unwrap());
        for n in 0..2_000_u32 {
            let record: Vec<u8> = (0..n * 7919 % (100 << 10)).map(|at| (at ^ n) as u8).collect();
            out.write_all(&(record.len() as u32).to_le_bytes()).unwrap();
            out.write_all(&record).unwrap();
        }
    });
}

#[test]
fn a_frame_that_is_too_long_or_cut_off_is_named() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "frames", "--framed", "--max-record", "8"]);
    writer.feed([3, 0, 0, 0, b'a', b'b', b'c', 9, 0, 0, 0]);
    let ended = writer.end();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.complaint(), "record 2 claims 9 bytes, more than the limit of 8: raise --max-record");

    let mut writer = house.start(&["channel", "pub", "frames", "--framed"]);
    writer.feed([3, 0, 0, 0, b'a']);
    let ended = writer.end();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.complaint(), "the input ends inside a record, 5 bytes after record 0");
    assert_eq!(house.files(), [""; 0]);
}

#[test]
fn a_line_is_published_as_soon_as_it_is_complete() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "talk"]);
    let mut reader = house.start(&["channel", "sub", "talk"]);
    let mut heard = reader.take_stdout();
    writer.feed("one\ntw");
    assert_eq!(line(&mut heard), "one");
    writer.feed("o\n");
    assert_eq!(line(&mut heard), "two");
    assert_eq!(writer.end().code(), Some(0));
    assert_eq!(reader.end().code(), Some(0));
}

#[test]
fn a_record_is_a_line_with_its_newline_for_every_reader() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "lines", "--mode", "lossless"]);
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(&house.run).wait(common::LIMIT).open("lines").unwrap();
    writer.feed("one\n\nthree");
    writer.close_stdin();
    assert_eq!(reader.recv().unwrap(), b"one\n");
    assert_eq!(reader.recv().unwrap(), b"\n");
    assert_eq!(reader.recv().unwrap(), b"three");
    assert!(matches!(reader.recv(), Err(RecvError::Closed { cause: CloseCause::Closed })));
}

#[test]
fn count_takes_so_many_records_and_from_latest_none_of_the_past() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "numbers"]);
    writer.feed("1\n2\n3\n4\n");
    eventually("they are published", || house.stat("numbers").is_some_and(|stat| stat["published"] == 4));
    let some = house.run(&["channel", "sub", "numbers", "--count", "3"]);
    assert_eq!((some.code(), some.stdout.as_str()), (Some(0), "1\n2\n3\n"));

    let late = house.start(&["channel", "sub", "numbers", "--from", "latest", "--count", "1"]);
    eventually("it joined", || house.stat("numbers").is_some_and(|stat| stat["readers"][0]["asleep"] == true));
    writer.feed("5\n6\n");
    let late = late.end();
    assert_eq!((late.code(), late.stdout.as_str()), (Some(0), "5\n"));
}

#[test]
fn a_reader_that_is_too_slow_reports_exactly_what_it_missed() {
    let house = House::new();
    let total = 1_000_000;
    let mut writer = house.start(&["channel", "pub", "flood", "--capacity", "64K", "--readers", "1"]);
    // Nobody reads its output for now, so it falls behind.
    let mut reader = house.start(&["channel", "sub", "flood"]);
    for n in 0..total {
        writer.feed(format!("{n}\n"));
    }
    assert_eq!(writer.end().code(), Some(0), "a lossy writer does not wait");
    let mut seen = String::new();
    reader.take_stdout().read_to_string(&mut seen).unwrap();
    let ended = reader.end();
    assert_eq!(ended.code(), Some(3), "{}", ended.stderr);
    let received = seen.lines().count();
    let verdict = ended.stderr.lines().last().unwrap();
    let missed = total - received;
    assert!(missed > 0);
    assert_eq!(
        verdict,
        format!(
            "ginnel: {missed} records of \"flood\" were overwritten before they were read, {received} were received"
        )
    );
    let numbers: Vec<u32> = seen.lines().map(|line| line.parse().unwrap()).collect();
    assert!(numbers.is_sorted_by(|one, other| one < other), "in order, none twice, none torn");
}

#[test]
fn a_latest_channel_shows_the_newest_line_to_whoever_comes() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "state", "--mode", "latest", "--keep"]);
    writer.feed("old\nolder\nnew\n");
    writer.close_stdin();
    eventually("all are published", || house.stat("state").is_some_and(|stat| stat["published"] == 3));
    for _ in 0..2 {
        let seen = house.run(&["channel", "sub", "state", "--count", "1"]);
        assert_eq!((seen.code(), seen.stdout.as_str()), (Some(0), "new\n"));
    }
    writer.signal(Signal::INT);
    assert_eq!(writer.end().code(), Some(130));
    assert_eq!(house.files(), [""; 0]);
}

#[test]
fn a_value_must_be_whole_so_a_long_line_of_a_latest_channel_is_refused() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "state", "--mode", "latest", "--max-record", "16"]);
    writer.feed("short\n0123456789abcdefg\n");
    let ended = writer.end();
    assert_eq!(ended.code(), Some(1));
    assert_eq!(ended.complaint(), "line 2 is longer than the limit of 16 bytes for a value: raise --max-record");
}

#[test]
fn a_closed_standard_output_ends_sub_quietly() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "endless"]);
    writer.feed("first\n");
    // One notices when it writes ...
    let mut writing = house.start(&["channel", "sub", "endless"]);
    drop(writing.take_stdout());
    let ended = writing.end();
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    // ... another while it waits for a record that never comes.
    let mut waiting = house.start(&["channel", "sub", "endless"]);
    let mut heard = waiting.take_stdout();
    assert_eq!(line(&mut heard), "first");
    drop(heard);
    let ended = waiting.end();
    assert_eq!((ended.code(), ended.stderr.as_str()), (Some(0), ""));
    assert!(writer.is_running());
}

#[test]
fn sub_gives_up_when_nothing_comes_in_time() {
    let house = House::new();
    let absent = house.run(&["channel", "sub", "nobody", "--timeout", "0.05"]);
    assert_eq!(absent.code(), Some(4));
    assert!(absent.complaint().starts_with("there is no channel \"nobody\""), "{}", absent.stderr);
    let mut writer = house.start(&["channel", "pub", "silent", "--readers", "1"]);
    writer.feed("only\n");
    let silent = house.run(&["channel", "sub", "silent", "--timeout", "0.2"]);
    assert_eq!((silent.code(), silent.stdout.as_str()), (Some(4), "only\n"));
    assert_eq!(silent.complaint(), "no record came within 0.2 seconds");
}

#[test]
fn a_second_writer_is_refused_and_told_who_is_first() {
    let house = House::new();
    let first = house.start(&["channel", "pub", "taken"]);
    eventually("the first is there", || house.stat("taken").is_some());
    let second = house.run(&["channel", "pub", "taken"]);
    assert_eq!(second.code(), Some(1));
    let pid = first.pid();
    assert_eq!(
        second.complaint(),
        format!("channel \"taken\" already has a writer (process {pid}): choose another name, or end that process")
    );
}

#[test]
fn names_with_path_tricks_are_refused() {
    let house = House::new();
    let long = "x".repeat(300);
    for name in ["../x", "/etc/passwd", "", "a/b", ".hidden", "with space", &long] {
        for command in ["pub", "sub"] {
            let ended = house.run(&["channel", command, name]);
            assert_eq!(ended.code(), Some(1), "{command} {name:?}");
            assert!(ended.complaint().contains("name"), "{}", ended.stderr);
        }
        assert_eq!(house.run(&["channel", "stat", name]).code(), Some(1));
    }
    assert_eq!(house.files(), [""; 0]);
}

#[test]
fn a_wrong_command_line_is_told_apart_from_failed_work() {
    let house = House::new();
    for args in [
        &["channel", "pub"] as &[&str],
        &["channel", "pub", "x", "--capacity", "4X"],
        &["channel", "sub", "x", "--from", "now"],
    ] {
        assert_eq!(house.run(args).code(), Some(2), "{args:?}");
    }
}

#[test]
fn a_lossless_writer_without_readers_says_so_instead_of_losing_records() {
    let house = House::new();
    // Without --keep that is the end, with the documented code, although there is more input.
    let mut writer = house.start(&["channel", "pub", "lonely", "--mode", "lossless"]);
    writer.feed("one\n");
    assert_eq!(house.run(&["channel", "sub", "lonely", "--count", "1"]).stdout, "one\n");
    writer.feed("two\n");
    let mut said = std::io::BufReader::new(writer.take_stderr());
    let left = "ginnel: the last reader of \"lonely\" left before the end: it may not have read all of the 1 records";
    assert_eq!(line(&mut said), left);
    assert_eq!(writer.end().code(), Some(1));

    let mut writer = house.start(&["channel", "pub", "lonely", "--mode", "lossless", "--keep"]);
    writer.feed("one\ntwo\n");
    let some = house.run(&["channel", "sub", "lonely", "--count", "1"]);
    assert_eq!(some.stdout, "one\n");
    // Its reader has left: what comes now waits for the next one.
    writer.feed("three\n");
    let mut said = std::io::BufReader::new(writer.take_stderr());
    assert_eq!(line(&mut said), "ginnel: the last reader left: waiting for another");
    let mut rest = house.start(&["channel", "sub", "lonely"]);
    let mut heard = rest.take_stdout();
    assert_eq!(line(&mut heard), "one", "a new reader begins at the oldest record that is still there");
    assert_eq!(line(&mut heard), "two");
    assert_eq!(line(&mut heard), "three");
    drop(heard);
    rest.signal(Signal::KILL);
    drop(rest);
    writer.signal(Signal::INT);
    assert_eq!(writer.end().code(), Some(130), "it kept the channel until it was told otherwise");
}

#[test]
fn a_lossless_writer_with_a_small_ring_waits_for_its_next_reader_before_the_ring_comes_round() {
    let house = House::new();
    // All of it is in the pipe at once, and many times the ring.
    let text: String = (0..100_000).map(|n| format!("{n}\n")).collect();
    let file = house.temp.path().join("numbers");
    std::fs::write(&file, &text).unwrap();
    let mut command = house.command(&["channel", "pub", "small", "--mode", "lossless", "--capacity", "64K", "--keep"]);
    let mut writer = Running(command.stdin(File::open(&file).unwrap()).spawn().unwrap());
    let some = house.run(&["channel", "sub", "small", "--count", "1000"]);
    assert!(some.stdout.ends_with("\n999\n"));
    let mut said = std::io::BufReader::new(writer.take_stderr());
    assert_eq!(line(&mut said), "ginnel: the last reader left: waiting for another");
    let mut rest = house.start(&["channel", "sub", "small"]);
    let mut heard = std::io::BufReader::new(rest.take_stdout());
    let numbers = std::iter::from_fn(|| Some(line(&mut heard).parse::<usize>().unwrap()));
    let mut numbers = numbers.take_while(|&number| number != 99_999);
    let first = numbers.next().unwrap();
    // What the ring held when its reader left may be gone; what was not published yet is not.
    assert!(first < 1000 + (64 << 10) / 16, "{first} is the first that the next reader saw");
    assert_eq!(numbers.count(), 99_999 - first - 1, "each of them up to the last");
    writer.signal(Signal::INT);
    assert_eq!(writer.end().code(), Some(130));
    assert_eq!(rest.end().code(), Some(0));
}

#[test]
fn several_readers_of_a_lossless_channel_all_get_everything() {
    let house = House::new();
    let text: String = (0..50_000).map(|n| format!("{n}\n")).collect();
    let from = house.temp.path().join("from");
    std::fs::write(&from, &text).unwrap();
    let readers: Vec<_> = (0..3)
        .map(|reader| {
            let to = house.temp.path().join(format!("to{reader}"));
            let mut command = house.command(&["channel", "sub", "all"]);
            (common::Running(command.stdout(File::create(&to).unwrap()).spawn().unwrap()), to)
        })
        .collect();
    let mut command =
        house.command(&["channel", "pub", "all", "--mode", "lossless", "--readers", "3", "--capacity", "64K"]);
    let writer = common::Running(command.stdin(File::open(&from).unwrap()).spawn().unwrap());
    assert_eq!(writer.end().code(), Some(0));
    for (reader, to) in readers {
        assert_eq!(reader.end().code(), Some(0));
        assert!(std::fs::read_to_string(to).unwrap() == text);
    }
}

#[test]
fn ctrl_c_ends_a_writer_that_a_stopped_reader_holds_up() {
    let house = House::new();
    let mut writer = house.start(&["channel", "pub", "stuck", "--mode", "lossless", "--capacity", "64K"]);
    let mut writer_input = writer.0.stdin.take().unwrap();
    let reader = house.start(&["channel", "sub", "stuck"]);
    eventually("it joined", || house.stat("stuck").is_some_and(|stat| stat["readers"][0]["asleep"] == true));
    reader.signal(Signal::STOP);
    let feeding = std::thread::spawn(move || {
        // Fails when the writer ends: its pipe breaks.
        while writer_input.write_all(b"more and more\n").is_ok() {}
    });
    eventually("the ring is full", || {
        house.stat("stuck").is_some_and(|stat| stat["readers"][0]["lag"].as_u64() > Some(50_000))
    });
    writer.signal(Signal::INT);
    assert_eq!(writer.end().code(), Some(130));
    feeding.join().unwrap();
    assert_eq!(house.files(), [""; 0]);
    reader.signal(Signal::CONT);
    assert_eq!(reader.end().code(), Some(0), "the channel was closed properly");
}

#[test]
fn every_command_explains_its_exit_codes() {
    let house = House::new();
    for command in ["pub", "sub", "ls", "stat", "clean"] {
        let help = house.command(&["channel", command, "--help"]).stdin(Stdio::null()).output().unwrap();
        let text = String::from_utf8(help.stdout).unwrap();
        assert!(text.contains("Exit codes:"), "{command}: {text}");
    }
}
