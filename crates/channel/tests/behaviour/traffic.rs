//! Records of random size in every mode, to one to four reader processes: none torn, none out of order, none
//! unaccounted for.

use crate::actor::{Actor, Dir, PATIENCE, argument, number, soak, tell};
use crate::records::{Fixed, Random, check, check_fixed, fill, fixed};
use ginnel_channel::{CloseCause, Mode, PublishError, Reader, RecvError, Writer};
use std::time::Duration;

const MAX: usize = 16_000;

fn records() -> u64 {
    if soak() { 2_000_000 } else { 15_000 }
}

/// What a reader saw.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    received: u64,
    skipped: u64,
    /// The number that the next record would have had.
    next: u64,
}

/// Role: reads until the end and tells what it saw.
pub(crate) fn reader() {
    let (dir, mode) = (argument("dir"), argument("mode"));
    let mut random = Random(number("seed"));
    let seen = if argument("kind") == "fixed" {
        let reader: Reader<Fixed> = Reader::builder().run_dir(dir).open("traffic").expect("open");
        tell("joined");
        follow(reader, &mode, &mut random, check_fixed)
    } else if argument("kind") == "runs" {
        let reader: Reader<Fixed> = Reader::builder().run_dir(dir).open("traffic").expect("open");
        tell("joined");
        follow_runs(reader, &mode, &mut random)
    } else if argument("kind") == "small runs" {
        let reader: Reader<u64> = Reader::builder().run_dir(dir).open("traffic").expect("open");
        tell("joined");
        follow_runs(reader, &mode, &mut random)
    } else {
        let reader: Reader<[u8]> = Reader::builder().run_dir(dir).open("traffic").expect("open");
        let mut scratch = Vec::new();
        tell("joined");
        follow(reader, &mode, &mut random, |bytes: &Vec<u8>| check(bytes, MAX, &mut scratch))
    };
    tell(format!("{} {} {}", seen.received, seen.skipped, seen.next));
}

fn follow<T: ?Sized>(
    mut reader: Reader<T>,
    mode: &str,
    random: &mut Random,
    mut check: impl FnMut(&<ginnel_channel::Plain as ginnel_channel::Codec<T>>::Owned) -> u64,
) -> Seen
where
    ginnel_channel::Plain: ginnel_channel::Codec<T>,
{
    let mut seen = Seen::default();
    loop {
        match reader.recv() {
            Ok(record) => {
                let seq = check(&record);
                if mode == "latest" {
                    assert!(seq >= seen.next, "record {seq} after {}", seen.next);
                } else {
                    assert_eq!(seq, seen.next, "out of order");
                }
                seen.received += 1;
                seen.next = seq + 1;
                // Now and then a reader is busy with something else, so that lossy ones fall behind and lossless ones
                // block.
                if random.below(2000) == 0 {
                    std::thread::sleep(Duration::from_micros(random.below(2000)));
                }
            }
            Err(RecvError::Lagged { skipped }) => {
                assert_eq!(mode, "lossy", "only a lossy channel loses records");
                assert!(skipped > 0, "an empty lag");
                seen.skipped += skipped;
                seen.next += skipped;
            }
            Err(RecvError::Closed { cause: CloseCause::Closed }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(reader.counters().received, seen.received);
    seen
}

/// A record of which slices are published and runs received.
trait Item: zerocopy::FromBytes + zerocopy::IntoBytes + zerocopy::Immutable + Copy {
    fn make(seq: u64) -> Self;
    fn check(&self) -> u64;
}

/// Without a flag of its own.
impl Item for Fixed {
    fn make(seq: u64) -> Self {
        fixed(seq)
    }

    fn check(&self) -> u64 {
        check_fixed(self)
    }
}

/// Beside its flag, several to a cache line.
impl Item for u64 {
    fn make(seq: u64) -> Self {
        seq
    }

    fn check(&self) -> u64 {
        *self
    }
}

/// Like `follow`, but takes runs of records, in each of the ways that there are.
fn follow_runs<T: Item>(mut reader: Reader<T>, mode: &str, random: &mut Random) -> Seen {
    let mut seen = Seen::default();
    let mut room: Vec<T> = std::iter::repeat_with(T::new_zeroed).take(100).collect();
    loop {
        let room = &mut room[..1 + random.below(100) as usize];
        let outcome = match random.below(4) {
            0 => reader.recv_many(room),
            1 => reader.try_recv_many(room),
            2 => reader.recv_many_timeout(room, Duration::from_micros(random.below(200))),
            _ => reader.recv().map(|record| {
                room[0] = record;
                1
            }),
        };
        match outcome {
            Ok(got) => {
                for record in &room[..got] {
                    let seq = record.check();
                    assert!(seq == seen.next || mode == "latest" && seq > seen.next, "{seq} after {}", seen.next);
                    seen.next = seq + 1;
                }
                seen.received += got as u64;
                if random.below(200) == 0 {
                    std::thread::sleep(Duration::from_micros(random.below(2000)));
                }
            }
            Err(RecvError::Lagged { skipped }) => {
                assert_eq!(mode, "lossy", "only a lossy channel loses records");
                assert!(skipped > 0, "an empty lag");
                seen.skipped += skipped;
                seen.next += skipped;
            }
            Err(RecvError::Closed { cause: CloseCause::Closed }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(reader.counters().received, seen.received);
    seen
}

/// Publishes every record once, as slices of random length, in each of the ways that there are; now and then alone or
/// in a batch.
fn publish_slices<T: Item>(writer: &mut Writer<T>) {
    let mut random = Random(11);
    let mut seq = 0;
    while seq < records() {
        let end = records().min(seq + 1 + random.below(300));
        let slice: Vec<T> = (seq..end).map(T::make).collect();
        seq += match random.below(5) {
            0 => match writer.try_publish_all(&slice) {
                Ok(done) => done as u64,
                Err(PublishError::Full { .. }) => 0,
                Err(other) => panic!("{other}"),
            },
            1 => match writer.publish_all_timeout(&slice, Duration::from_micros(random.below(100))) {
                Ok(done) => done as u64,
                Err(PublishError::Timeout { .. }) => 0,
                Err(other) => panic!("{other}"),
            },
            2 => {
                writer.publish(&slice[0]).expect("publish");
                1
            }
            3 => {
                let mut batch = writer.batch();
                slice.iter().for_each(|record| batch.push(record).expect("push"));
                batch.publish().expect("publish");
                slice.len() as u64
            }
            _ => {
                writer.publish_all(&slice).expect("publish");
                slice.len() as u64
            }
        };
        assert_eq!(writer.counters().records, seq, "what was published is what was said");
    }
}

fn run(kind: &str, mode: Mode) {
    let name = match mode {
        Mode::Lossless => "lossless",
        Mode::Latest => "latest",
        _ => "lossy",
    };
    for readers in 1..=4 {
        let dir = Dir::new();
        let spawn = |seed: u64| {
            let seed = seed.to_string();
            let arguments = [("dir", dir.text()), ("mode", name), ("kind", kind), ("seed", &seed)];
            let mut actor = Actor::start("traffic_reader", &arguments);
            assert_eq!(actor.hear(), "joined");
            actor
        };
        let actors: Vec<Actor>;
        if kind == "fixed" {
            let mut writer: Writer<Fixed> =
                Writer::builder().run_dir(dir.path()).mode(mode).create("traffic").expect("create");
            actors = (0..readers).map(spawn).collect();
            assert!(writer.wait_for_readers(actors.len(), PATIENCE).expect("join"));
            for seq in 0..records() {
                writer.publish(&fixed(seq)).expect("publish");
            }
        } else if kind == "runs" {
            let builder = Writer::builder().run_dir(dir.path()).mode(mode).capacity(64 << 10);
            let mut writer: Writer<Fixed> = builder.create("traffic").expect("create");
            actors = (0..readers).map(spawn).collect();
            assert!(writer.wait_for_readers(actors.len(), PATIENCE).expect("join"));
            publish_slices(&mut writer);
        } else if kind == "small runs" {
            let builder = Writer::builder().run_dir(dir.path()).mode(mode).capacity(16 << 10);
            let mut writer: Writer<u64> = builder.create("traffic").expect("create");
            actors = (0..readers).map(spawn).collect();
            assert!(writer.wait_for_readers(actors.len(), PATIENCE).expect("join"));
            publish_slices(&mut writer);
        } else {
            let builder = Writer::<[u8]>::builder().run_dir(dir.path()).mode(mode).max_record(MAX);
            let mut writer = builder.create("traffic").expect("create");
            actors = (0..readers).map(spawn).collect();
            assert!(writer.wait_for_readers(actors.len(), PATIENCE).expect("join"));
            let (mut record, mut random) = (Vec::new(), Random(7));
            let mut seq = 0;
            while seq < records() {
                // Loans, batches and single records in turn.
                match random.below(4) {
                    0 => {
                        fill(seq, MAX, &mut record);
                        let mut loan = writer.loan(record.len()).expect("loan");
                        loan.copy_from_slice(&record);
                        loan.publish().expect("publish");
                        seq += 1;
                    }
                    1 => {
                        let mut batch = writer.batch();
                        for _ in 0..random.below(50).min(records() - seq) {
                            fill(seq, MAX, &mut record);
                            batch.push(&record).expect("push");
                            seq += 1;
                        }
                        batch.publish().expect("publish");
                    }
                    _ => {
                        fill(seq, MAX, &mut record);
                        writer.publish(&record).expect("publish");
                        seq += 1;
                    }
                }
            }
        }
        for mut actor in actors {
            let told = actor.hear();
            let numbers: Vec<u64> = told.split(' ').map(|word| word.parse().expect("a number")).collect();
            let [received, skipped, next] = numbers[..] else { panic!("{told:?}") };
            assert_eq!(next, records(), "the last record arrives in every mode");
            match mode {
                Mode::Lossless => assert_eq!((received, skipped), (records(), 0)),
                Mode::Latest => assert!((1..=records()).contains(&received)),
                _ => assert_eq!(received + skipped, records(), "received + skipped = sent"),
            }
            actor.finish();
        }
        assert_eq!(dir.files(), [""; 0], "nothing is left");
    }
}

#[test]
fn lossless_records_of_random_size_all_arrive_intact_and_in_order() {
    run("bytes", Mode::Lossless);
}

#[test]
fn lossless_fixed_records_all_arrive_intact_and_in_order() {
    run("fixed", Mode::Lossless);
}

#[test]
fn lossy_records_of_random_size_are_received_or_counted_as_skipped() {
    run("bytes", Mode::Lossy);
}

#[test]
fn lossy_fixed_records_are_received_or_counted_as_skipped() {
    run("fixed", Mode::Lossy);
}

#[test]
fn latest_values_of_random_size_are_whole_and_never_go_back() {
    run("bytes", Mode::Latest);
}

#[test]
fn latest_fixed_values_are_whole_and_never_go_back() {
    run("fixed", Mode::Latest);
}

#[test]
fn lossless_slices_all_arrive_intact_and_in_order() {
    run("runs", Mode::Lossless);
    run("small runs", Mode::Lossless);
}

#[test]
fn lossy_slices_are_received_or_counted_as_skipped() {
    run("runs", Mode::Lossy);
    run("small runs", Mode::Lossy);
}

#[test]
fn latest_values_of_slices_are_whole_and_never_go_back() {
    run("runs", Mode::Latest);
    run("small runs", Mode::Latest);
}
