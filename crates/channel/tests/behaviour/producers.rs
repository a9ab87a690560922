//! Many producers: merged, aggregated, sharded.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, number, tell, until};
use ginnel_channel::{
    Aggregator, CloseCause, MergedReader, Mode, OnFull, Reader, RecvError, Sharded, Spin, Writer, shard_name, shard_of,
};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Role: publishes `(id, 0)`, `(id, 1)` and so on, up to `count`, then waits to be told to end.
pub(crate) fn producer() {
    let id = number("id");
    let mut writer: Writer<[u64; 2]> = Writer::builder()
        .run_dir(argument("dir"))
        .mode(Mode::Lossless)
        .capacity(4096)
        .create(&format!("producer-{id}"))
        .expect("create");
    tell("created");
    assert!(writer.wait_for_readers(1, PATIENCE).expect("join"));
    for n in 0..number("count") {
        writer.publish(&[id, n]).expect("publish");
    }
    assert!(writer.drain(PATIENCE).expect("drain"));
    tell("drained");
    listen();
}

fn producers(dir: &Dir, counts: &[u64]) -> (Vec<Actor>, MergedReader<[u64; 2]>) {
    let mut merged = MergedReader::new().unwrap();
    let mut actors = Vec::new();
    for (id, count) in counts.iter().enumerate() {
        let (id, count) = (id.to_string(), count.to_string());
        let mut actor = Actor::start("producer", &[("dir", dir.text()), ("id", &id), ("count", &count)]);
        assert_eq!(actor.hear(), "created");
        let reader = Reader::builder().run_dir(dir.path()).open(&format!("producer-{id}")).unwrap();
        assert_eq!(merged.push(reader).unwrap().to_string(), id);
        actors.push(actor);
    }
    (actors, merged)
}

#[test]
fn merged_producers_all_arrive_each_in_order_and_the_end_comes_with_the_last() {
    let dir = Dir::new();
    let counts = [5000, 0, 1, 3000];
    let (mut actors, mut merged) = producers(&dir, &counts);
    let mut next = [0_u64; 4];
    while next != counts {
        let got = merged.recv_timeout(PATIENCE).expect("a record");
        let [id, n] = got.record.unwrap();
        assert_eq!((got.source as u64, next[got.source]), (id, n));
        next[got.source] += 1;
    }
    assert!(merged.recv_timeout(Duration::from_millis(5)).is_none());
    assert_eq!(merged.open_channels(), 4);
    // Two close, two are killed: either is the end of that channel only.
    for (id, mut actor) in actors.drain(..).enumerate() {
        assert_eq!(actor.hear(), "drained");
        let expected = if id % 2 == 0 {
            actor.say("end");
            CloseCause::Closed
        } else {
            actor.kill();
            CloseCause::Died
        };
        let end = merged.recv().unwrap();
        assert_eq!(end.source, id);
        assert!(matches!(end.record, Err(RecvError::Closed { cause }) if cause == expected), "{:?}", end.record);
        assert_eq!(merged.open_channels(), 3 - id);
    }
    assert!(merged.recv().is_none(), "no channel is open any more");
}

#[test]
fn a_busy_channel_does_not_starve_a_quiet_one() {
    let dir = Dir::new();
    let create = |name: &str| -> Writer<u64> { Writer::builder().run_dir(dir.path()).create(name).unwrap() };
    let (mut busy, mut quiet) = (create("busy"), create("quiet"));
    let mut merged: MergedReader<u64> = MergedReader::new().unwrap();
    for name in ["busy", "quiet"] {
        merged.push(Reader::builder().run_dir(dir.path()).open(name).unwrap()).unwrap();
    }
    for n in 0..1000 {
        busy.publish(&n).unwrap();
        busy.publish(&n).unwrap();
        quiet.publish(&n).unwrap();
        // However much the busy one has waiting, the quiet one's record is one of the next two.
        let sources = [merged.try_recv().unwrap().source, merged.try_recv().unwrap().source];
        assert!(sources.contains(&1), "{sources:?}");
    }
}

#[test]
fn an_aggregator_copies_all_and_tells_of_inputs_that_died() {
    let dir = Dir::new();
    let counts = [2000, 3000, 10];
    let (mut actors, merged) = producers(&dir, &counts);
    let output: Writer<[u64; 2]> = Writer::builder().run_dir(dir.path()).mode(Mode::Lossless).create("output").unwrap();
    let mut reader: Reader<[u64; 2]> = Reader::builder().run_dir(dir.path()).open("output").unwrap();
    let aggregator = Aggregator::spawn(merged, output).unwrap();
    let mut next = [0_u64; 3];
    while next != counts {
        let [id, n] = reader.recv_timeout(PATIENCE).unwrap().expect("a record");
        assert_eq!(next[id as usize], n);
        next[id as usize] += 1;
    }
    for (id, mut actor) in actors.drain(..).enumerate() {
        assert_eq!(actor.hear(), "drained");
        if id == 1 {
            actor.kill();
        } else {
            actor.say("end");
            actor.finish();
        }
    }
    let done = aggregator.join().unwrap();
    assert_eq!((done.records, done.missed, done.undecodable, done.failed_inputs), (5010, 0, 0, 1));
    assert!(matches!(reader.recv(), Err(RecvError::Closed { cause: CloseCause::Closed })));
}

#[test]
fn an_aggregator_stops_while_it_sleeps_and_while_its_output_is_full() {
    for full in [false, true] {
        let dir = Dir::new();
        let mut input: Writer<u64> = Writer::builder().run_dir(dir.path()).create("input").unwrap();
        let mut merged: MergedReader<u64> = MergedReader::new().unwrap();
        merged.push(Reader::builder().run_dir(dir.path()).open("input").unwrap()).unwrap();
        let output: Writer<u64> = Writer::builder()
            .run_dir(dir.path())
            .mode(Mode::Lossless)
            .capacity(1024)
            .on_full(OnFull::Wait)
            .spin(Spin::new(0))
            .create("output")
            .unwrap();
        // Reads nothing, ever.
        let stuck: Reader<u64> = Reader::builder().run_dir(dir.path()).open("output").unwrap();
        let aggregator = Aggregator::spawn(merged, output).unwrap();
        if full {
            for n in 0..1000 {
                input.publish(&n).unwrap();
            }
            let lag = || ginnel_channel::inspect(Some(dir.path()), "output").unwrap().unwrap().position;
            until("the output is full", || lag() >= 1024);
        }
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let stopped = aggregator.stop();
                done.store(true, Ordering::Release);
                assert!(stopped.unwrap().records < 1000);
            });
            let deadline = std::time::Instant::now() + Duration::from_secs(10);
            while !done.load(Ordering::Acquire) && std::time::Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
            // Lets a thread that hangs end, so that the test fails instead of hanging with it.
            drop(stuck);
            assert!(done.load(Ordering::Acquire), "stop hangs, output full: {full}");
        });
        assert_eq!(input.readers().unwrap(), 0, "its input was given up");
    }
}

#[test]
fn shards_keep_the_order_of_every_key_and_share_the_work() {
    const SHARDS: usize = 4;
    let dir = Dir::new();
    let mut sharded: Sharded<[u64; 2]> =
        Sharded::create("work", SHARDS, || Writer::builder().run_dir(dir.path()).mode(Mode::Lossless)).unwrap();
    let readers: Vec<Reader<[u64; 2]>> = (0..SHARDS)
        .map(|shard| Reader::builder().run_dir(dir.path()).open(&shard_name("work", shard)).unwrap())
        .collect();
    std::thread::scope(|scope| {
        let consumers: Vec<_> = readers
            .into_iter()
            .enumerate()
            .map(|(shard, mut reader)| {
                scope.spawn(move || {
                    let mut next = [0_u64; 100];
                    let mut count = 0;
                    for record in reader.iter() {
                        let [key, n] = record.unwrap();
                        assert_eq!(shard_of(&key, SHARDS), shard);
                        assert_eq!(next[key as usize], n, "key {key}");
                        next[key as usize] += 1;
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        for n in 0..500 {
            for key in 0..100_u64 {
                sharded.publish(&key, &[key, n]).unwrap();
            }
        }
        drop(sharded);
        let counts: Vec<u64> = consumers.into_iter().map(|consumer| consumer.join().unwrap()).collect();
        assert_eq!(counts.iter().sum::<u64>(), 50_000);
        assert!(counts.iter().all(|&count| count > 5_000), "{counts:?}");
    });
    assert_eq!(dir.files(), [""; 0]);
}
