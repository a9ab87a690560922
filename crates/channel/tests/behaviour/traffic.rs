//! Records of random size in every mode, to one to four reader processes: none torn, none out of order, none unaccounted for.

use crate::actor::{Actor, Dir, PATIENCE, argument, number, soak, tell};
use crate::records::{Fixed, Random, check, check_fixed, fill, fixed};
use ginnel_channel::{CloseCause, Mode, Reader, RecvError, Writer};
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
                // Now and then a reader is busy with something else, so that lossy ones fall behind and lossless ones block.
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
