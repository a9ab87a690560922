//! One process, both ends: what a channel promises, without the help of other processes.

use ginnel_channel::{
    CloseCause, Codec, CreateError, DecodeError, EncodeError, Mode, OnFull, OpenError, Postcard, PublishError, Reader,
    RecvError, Start, Watch, Writer,
};
use std::path::PathBuf;
use std::time::Duration;

struct Dir {
    _temp: tempfile::TempDir,
    run: PathBuf,
}

fn dir() -> Dir {
    let temp = tempfile::tempdir().unwrap();
    Dir { run: temp.path().join("run"), _temp: temp }
}

fn writer(dir: &Dir, mode: Mode) -> Writer<u64> {
    Writer::builder().run_dir(&dir.run).mode(mode).create("numbers").unwrap()
}

fn reader(dir: &Dir) -> Reader<u64> {
    Reader::builder().run_dir(&dir.run).open("numbers").unwrap()
}

#[test]
fn records_arrive_in_order_and_then_the_channel_is_closed() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossy);
    let mut reader = reader(&dir);
    for n in 0..1000 {
        writer.publish(&n).unwrap();
    }
    for n in 0..1000 {
        assert_eq!(reader.recv().unwrap(), n);
    }
    assert_eq!(reader.try_recv().unwrap(), None);
    writer.publish(&7).unwrap();
    drop(writer);
    assert_eq!(reader.recv().unwrap(), 7);
    assert!(matches!(reader.recv(), Err(RecvError::Closed { cause: CloseCause::Closed })));
    assert_eq!(std::fs::read_dir(&dir.run).unwrap().count(), 0, "nothing is left in the runtime directory");
}

#[test]
fn a_reader_that_falls_behind_is_told_exactly_how_much_it_missed() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossy);
    let mut reader = reader(&dir);
    let sent = 1_000_000;
    for n in 0..sent {
        writer.publish(&n).unwrap();
    }
    drop(writer);
    let (mut received, mut missed, mut expected) = (0, 0, 0);
    loop {
        match reader.recv() {
            Ok(n) => {
                assert_eq!(n, expected);
                expected += 1;
                received += 1;
            }
            Err(RecvError::Lagged { skipped }) => {
                missed += skipped;
                expected += skipped;
            }
            Err(RecvError::Closed { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(received + missed, sent);
    assert!(received > 1000 && missed > 0, "{received} received");
}

#[test]
fn records_of_any_size_wrap_around_the_ring_intact() {
    let dir = dir();
    let mut writer: Writer<[u8]> =
        Writer::builder().run_dir(&dir.run).mode(Mode::Lossless).capacity(64 << 10).create("bytes").unwrap();
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(&dir.run).open("bytes").unwrap();
    let max = writer.max_record();
    let mut record = Vec::new();
    for n in 0..5000_usize {
        let len = (n * 7919) % (max + 1);
        let bytes: Vec<u8> = (0..len).map(|i| (i * 31 + n) as u8).collect();
        writer.publish(&bytes).unwrap();
        assert!(reader.try_recv_into(&mut record).unwrap());
        assert_eq!(record, bytes);
    }
    assert!(matches!(writer.publish(&vec![0; max + 1]), Err(PublishError::TooLarge { .. })));
}

#[test]
fn a_full_lossless_channel_refuses_waits_or_evicts() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossless);
    let mut slow = reader(&dir);
    let mut n = 0;
    let full = loop {
        match writer.try_publish(&n) {
            Ok(()) => n += 1,
            Err(full) => break full,
        }
    };
    assert!(matches!(full, PublishError::Full { backlog } if backlog > 0), "{full}");
    let late = writer.publish_timeout(&n, Duration::from_millis(20)).unwrap_err();
    assert!(matches!(late, PublishError::Timeout { .. }), "{late}");
    for expected in 0..n {
        assert_eq!(slow.recv().unwrap(), expected, "nothing was lost");
    }
    assert_eq!(slow.try_recv().unwrap(), None);
    writer.publish(&n).unwrap();
    assert_eq!(slow.recv().unwrap(), n);
}

#[test]
fn eviction_frees_the_writer_and_tells_the_reader() {
    let dir = dir();
    let mut writer: Writer<u64> = Writer::builder()
        .run_dir(&dir.run)
        .mode(Mode::Lossless)
        .on_full(OnFull::Evict(Duration::from_millis(10)))
        .create("numbers")
        .unwrap();
    let mut slow = reader(&dir);
    for n in 0..100_000 {
        writer.publish(&n).unwrap();
    }
    assert_eq!(writer.counters().evicted, 1);
    let Err(RecvError::Lagged { skipped }) = slow.recv() else { panic!("the reader was evicted") };
    assert_eq!(slow.recv().unwrap(), skipped, "it goes on behind what it missed");
}

#[test]
fn latest_skips_to_the_newest_value() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Latest);
    let mut reader = reader(&dir);
    assert_eq!(reader.try_recv().unwrap(), None);
    for n in 0..100 {
        writer.publish(&n).unwrap();
    }
    assert_eq!(reader.recv().unwrap(), 99);
    assert_eq!(reader.try_recv().unwrap(), None);
    writer.publish(&100).unwrap();
    assert_eq!(reader.recv().unwrap(), 100);
}

#[test]
fn a_late_reader_begins_at_the_oldest_or_behind_the_newest() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossy);
    for n in 0..10 {
        writer.publish(&n).unwrap();
    }
    assert_eq!(reader(&dir).recv().unwrap(), 0);
    let mut late: Reader<u64> = Reader::builder().run_dir(&dir.run).start(Start::Latest).open("numbers").unwrap();
    assert_eq!(late.try_recv().unwrap(), None);
    writer.publish(&10).unwrap();
    assert_eq!(late.recv().unwrap(), 10);
}

#[test]
fn a_batch_becomes_visible_as_one() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossy);
    let mut reader = reader(&dir);
    let mut batch = writer.batch();
    for n in 0..64 {
        batch.push(&n).unwrap();
        assert_eq!(reader.try_recv().unwrap(), None);
    }
    batch.publish().unwrap();
    for n in 0..64 {
        assert_eq!(reader.try_recv().unwrap(), Some(n));
    }
}

#[test]
fn a_loan_is_filled_in_place() {
    let mut writer: Writer<[u8]> = Writer::builder().anonymous().unwrap();
    let mut loan = writer.loan(5).unwrap();
    loan.copy_from_slice(b"hello");
    assert_eq!(&*loan, b"hello");
    drop(loan);
    assert_eq!(writer.counters().records, 0, "a dropped loan publishes nothing");
    writer.loan(5).unwrap().publish().unwrap();
    assert_eq!(writer.counters().records, 1);
}

#[test]
fn serde_types_travel_as_postcard() {
    let dir = dir();
    let mut writer: Writer<(String, Vec<u32>), Postcard> = Writer::builder().run_dir(&dir.run).create("typed").unwrap();
    let mut reader: Reader<(String, Vec<u32>), Postcard> = Reader::builder().run_dir(&dir.run).open("typed").unwrap();
    let record = ("name".to_owned(), vec![1, 2, 3]);
    writer.publish(&record).unwrap();
    assert_eq!(reader.recv().unwrap(), record);
}

/// Temperatures as text, as a program that uses channels might have it.
enum Celsius {}

impl Codec<f64> for Celsius {
    type Owned = f64;
    const KIND: &'static str = "celsius";

    fn encode(value: &f64, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if value.is_nan() {
            return Err(EncodeError::new::<f64>("it is no temperature"));
        }
        out.extend_from_slice(format!("{value} C").as_bytes());
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<f64, DecodeError> {
        let number = std::str::from_utf8(bytes).ok().and_then(|text| text.strip_suffix(" C")?.parse().ok());
        number.ok_or_else(|| DecodeError::malformed::<f64>(bytes.len(), "no number before the unit"))
    }
}

#[test]
fn a_codec_of_ones_own_carries_records_and_says_what_it_refuses() {
    let dir = dir();
    let mut writer: Writer<f64, Celsius> = Writer::builder().run_dir(&dir.run).create("heat").unwrap();
    let mut reader: Reader<f64, Celsius> = Reader::builder().run_dir(&dir.run).open("heat").unwrap();
    writer.publish(&21.5).unwrap();
    assert_eq!(reader.recv().unwrap(), 21.5);
    let refused = writer.publish(&f64::NAN).unwrap_err().to_string();
    assert_eq!(refused, "a value of type f64 cannot be encoded: it is no temperature");
    assert_eq!(reader.try_recv().unwrap(), None, "nothing of it was published");
    let other = Reader::<f64>::builder().run_dir(&dir.run).open("heat").unwrap_err();
    assert!(matches!(other, OpenError::WrongType { .. }), "another encoding of the same type: {other}");
}

#[test]
fn a_wrong_type_and_a_missing_channel_are_named() {
    let dir = dir();
    let _writer = writer(&dir, Mode::Lossy);
    let wrong = Reader::<i64>::builder().run_dir(&dir.run).open("numbers").unwrap_err();
    assert!(matches!(&wrong, OpenError::WrongType { type_name, .. } if type_name == "i64"), "{wrong}");
    let absent = Reader::<u64>::builder().run_dir(&dir.run).open("other").unwrap_err();
    assert!(matches!(absent, OpenError::Absent { .. }), "{absent}");
}

#[test]
fn a_second_writer_is_refused_until_the_first_is_dead() {
    let dir = dir();
    let first = writer(&dir, Mode::Lossy);
    let mut orphan = reader(&dir);
    let refused = Writer::<u64>::builder().run_dir(&dir.run).create("numbers").unwrap_err();
    assert!(matches!(&refused, CreateError::InUse { owner, .. } if owner.pid == std::process::id()), "{refused}");
    first.abandon();
    let mut second = writer(&dir, Mode::Lossy);
    second.publish(&1).unwrap();
    assert!(matches!(orphan.recv(), Err(RecvError::Closed { cause: CloseCause::Died })));
    assert_eq!(reader(&dir).recv().unwrap(), 1);
}

#[test]
fn a_sleeping_reader_is_woken_by_a_record_and_by_the_end() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossy);
    let dir = &dir;
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(move || {
            let mut reader: Reader<u64> =
                Reader::builder().run_dir(&dir.run).spin(ginnel_channel::Spin::new(0)).open("numbers").unwrap();
            let mut sum = 0;
            for record in reader.iter() {
                sum += record.unwrap();
            }
            (sum, reader.counters().sleeps)
        });
        assert!(writer.wait_for_readers(1, Duration::from_secs(10)).unwrap());
        for n in 1..=100 {
            writer.publish(&n).unwrap();
            while ginnel_channel::inspect(Some(&dir.run), "numbers").unwrap().unwrap().readers[0].lag > 0 {
                std::thread::yield_now();
            }
        }
        drop(writer);
        let (sum, sleeps) = sleeper.join().unwrap();
        assert_eq!(sum, 5050);
        assert!(sleeps >= 50, "{sleeps}");
    });
}

#[test]
fn a_watched_reader_tells_by_its_descriptor() {
    let dir = dir();
    let mut writer = writer(&dir, Mode::Lossy);
    let mut reader = reader(&dir);
    let readable = |reader: &Reader<u64>, ms: i64| {
        let mut fds = [rustix::event::PollFd::new(reader, rustix::event::PollFlags::IN)];
        let timeout = rustix::event::Timespec { tv_sec: ms / 1000, tv_nsec: ms % 1000 * 1_000_000 };
        rustix::event::poll(&mut fds, Some(&timeout)).unwrap() == 1
    };
    for n in 0..10 {
        assert_eq!(reader.try_recv().unwrap(), None);
        while reader.watch().unwrap() != Watch::Armed {}
        writer.publish(&n).unwrap();
        assert!(readable(&reader, 10_000));
        assert_eq!(reader.try_recv().unwrap(), Some(n));
    }
    while reader.watch().unwrap() != Watch::Armed {}
    assert!(!readable(&reader, 0), "silent without news");
}
