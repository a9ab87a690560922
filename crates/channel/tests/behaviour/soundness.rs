//! Corners in which a channel once failed, or easily could.

use crate::actor::{Dir, PATIENCE};
use crate::sys;
use ginnel_channel::{CreateError, Mode, OnFull, Reader, RecvError, Watch, Writer, inspect};
use std::os::fd::AsFd;
use std::time::Duration;

#[test]
fn an_evicted_reader_goes_on_without_harming_the_readers_after_it() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder()
        .run_dir(dir.path())
        .mode(Mode::Lossless)
        .capacity(64 * 32)
        .on_full(OnFull::Evict(Duration::from_millis(5)))
        .create("numbers")
        .unwrap();
    let open = || Reader::<u64>::builder().run_dir(dir.path()).open("numbers").unwrap();
    let mut evicted = open();
    for n in 0..1000 {
        writer.publish(&n).unwrap();
    }
    assert_eq!(writer.counters().evicted, 1);
    let mut other = open();
    let mut expected = 0;
    while let Some(n) = other.try_recv().unwrap() {
        expected = n;
    }
    assert_eq!(expected, 999);
    let mut lags = 0;
    for n in 1000..10_000 {
        writer.publish(&n).unwrap();
        // The other one lags behind on purpose, as far as it may.
        if n % 32 == 0 {
            while expected + 3 < n {
                expected += 1;
                assert_eq!(other.recv().unwrap(), expected, "a reader in good standing loses nothing");
            }
        }
        // The evicted one reads as it likes, sleeps a little, moves its cursor.
        match evicted.recv_timeout(Duration::ZERO) {
            Err(RecvError::Lagged { .. }) => lags += 1,
            other => drop(other.unwrap()),
        }
    }
    assert!(lags > 0, "the evicted reader was told");
    assert_eq!((writer.counters().evicted, writer.readers().unwrap()), (1, 1));
}

#[test]
fn readers_come_and_go_while_the_writer_is_idle() {
    let dir = Dir::new();
    let mut writer: Writer<u64> =
        Writer::builder().run_dir(dir.path()).mode(Mode::Latest).max_readers(4).create("state").unwrap();
    writer.publish(&7).unwrap();
    for _ in 0..500 {
        let mut reader: Reader<u64> = Reader::builder().run_dir(dir.path()).open("state").unwrap();
        assert_eq!(reader.recv().unwrap(), 7);
    }
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.path()).open("state").unwrap();
    assert_eq!(reader.recv().unwrap(), 7);
    writer.publish(&8).unwrap();
    assert_eq!(reader.recv().unwrap(), 8);
    assert_eq!(writer.readers().unwrap(), 1);
}

#[test]
fn readers_that_leave_all_at_once_make_way_for_as_many_new_ones() {
    const CROWD: usize = 100;
    let dir = Dir::new();
    let mut writer: Writer<u64> =
        Writer::builder().run_dir(dir.path()).mode(Mode::Lossless).max_readers(CROWD).create("numbers").unwrap();
    let crowd = || -> Vec<Reader<u64>> {
        (0..CROWD).map(|_| Reader::builder().run_dir(dir.path()).open("numbers").unwrap()).collect()
    };
    let first = crowd();
    assert_eq!(writer.readers().unwrap(), CROWD);
    drop(first);
    // The writer has not looked since: as far as it knows, every place is taken.
    let mut second = crowd();
    writer.publish(&1).unwrap();
    for reader in &mut second {
        assert_eq!(reader.recv_timeout(PATIENCE).unwrap(), Some(1));
    }
    assert_eq!(writer.readers().unwrap(), CROWD);
}

#[test]
fn limits_and_sizes_beyond_all_measure_are_no_limits_or_errors() {
    let dir = Dir::new();
    let builder = || Writer::<[u8]>::builder().run_dir(dir.path());
    for refused in [
        builder().capacity(usize::MAX).create("huge").unwrap_err(),
        builder().max_record(usize::MAX).create("huge").unwrap_err(),
        builder().max_record(usize::MAX / 2).create("huge").unwrap_err(),
        builder().max_readers(0).create("huge").unwrap_err(),
        builder().max_readers(usize::MAX).create("huge").unwrap_err(),
        Writer::<u64>::builder().run_dir(dir.path()).capacity(usize::MAX).create("huge").unwrap_err(),
    ] {
        assert!(matches!(refused, CreateError::Geometry(_)), "{refused}");
    }
    let mut writer = builder().mode(Mode::Lossless).create("bytes").unwrap();
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir.path()).wait(Duration::MAX).open("bytes").unwrap();
    assert!(writer.wait_for_readers(1, Duration::MAX).unwrap());
    writer.publish_timeout(b"x", Duration::MAX).unwrap();
    assert_eq!(reader.recv_timeout(Duration::MAX).unwrap().as_deref(), Some(b"x".as_slice()));
    assert_eq!(reader.try_recv().unwrap(), None);
    assert!(writer.drain(Duration::MAX).unwrap());
}

#[test]
fn a_leaked_batch_costs_nothing_but_its_timing() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.path()).create("numbers").unwrap();
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.path()).open("numbers").unwrap();
    let mut leaked = writer.batch();
    leaked.push(&0).unwrap();
    leaked.push(&1).unwrap();
    std::mem::forget(leaked);
    let mut batch = writer.batch();
    batch.push(&2).unwrap();
    batch.publish().unwrap();
    for n in 0..3 {
        assert_eq!(reader.try_recv().unwrap(), Some(n));
    }
}

#[test]
fn records_of_no_bytes_are_records() {
    let dir = Dir::new();
    let mut writer: Writer<[u8]> = Writer::builder().run_dir(dir.path()).mode(Mode::Lossless).create("bytes").unwrap();
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir.path()).open("bytes").unwrap();
    let mut units: Writer<()> = Writer::builder().run_dir(dir.path()).mode(Mode::Lossless).create("units").unwrap();
    let mut ticks: Reader<()> = Reader::builder().run_dir(dir.path()).open("units").unwrap();
    for _ in 0..100_000 {
        writer.publish(b"").unwrap();
        assert_eq!(reader.recv().unwrap(), b"");
        units.publish(&()).unwrap();
        ticks.recv().unwrap();
    }
    assert_eq!((reader.try_recv().unwrap(), ticks.try_recv().unwrap()), (None, None));
}

#[test]
fn a_path_is_no_name_wherever_a_name_is_asked_for() {
    let dir = Dir::new();
    let _writer: Writer<u64> = Writer::builder().run_dir(dir.path()).create("x").unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    for name in ["../x", "sub/../x", "/x", "", ".", "..", "x\0", &"x".repeat(300)] {
        let created = Writer::<u64>::builder().run_dir(dir.path()).create(name).unwrap_err().to_string();
        let opened = Reader::<u64>::builder().run_dir(dir.path()).open(name).unwrap_err().to_string();
        assert_eq!(created, opened);
        assert!(created.contains("use"), "says what to do: {created}");
        let shown = if name.is_empty() { "empty".to_owned() } else { format!("{name:?}") };
        assert!(created.contains(&shown) || created.contains("300"), "says what was wrong: {created}");
        assert!(inspect(Some(dir.path()), name).unwrap().is_none());
        assert!(inspect(Some(&dir.path().join("sub")), name).unwrap().is_none());
    }
    std::fs::remove_dir(dir.path().join("sub")).unwrap();
}

#[test]
fn a_reader_that_tampers_with_its_wake_up_cannot_block_the_writer() {
    let dir = Dir::new();
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir.path()).create("numbers").unwrap();
    let mut reader: Reader<u64> = Reader::builder().run_dir(dir.path()).open("numbers").unwrap();
    assert_eq!(writer.readers().unwrap(), 1);
    assert_eq!(reader.try_recv().unwrap(), None);
    while reader.watch().unwrap() != Watch::Armed {}
    // What the reader holds is all that a hostile one has: it fills what wakes it, and makes its side of it block.
    sys::clog(reader.as_fd());
    let (told, done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for n in 0..3 {
            writer.publish(&n).unwrap();
        }
        told.send(writer.readers().unwrap()).unwrap();
    });
    assert_eq!(done.recv_timeout(Duration::from_secs(10)), Ok(1), "the writer hangs");
}
