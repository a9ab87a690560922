//! Readers that open a lossless channel, and leave it, while its writer publishes as fast as it can: nobody misses a
//! record, and nobody waits for ever.

use crate::actor::{Actor, Dir, PATIENCE, argument, listen, soak, tell};
use crate::records::{Random, check, fill};
use ginnel_channel::{CloseCause, Codec, Mode, OpenError, Plain, Reader, RecvError, Writer};
use std::time::{Duration, Instant};

const MAX: usize = 2000;
const READERS: usize = 3;
/// 4 KiB, of which a ring of default size holds 255.
type Large = [u64; 512];
type Small = [u64; 8];

fn rounds() -> usize {
    if soak() { 1000 } else { 20 }
}

/// A record that knows its number.
trait Numbered {
    fn number(owned: &<Plain as Codec<Self>>::Owned, scratch: &mut Vec<u8>) -> u64
    where
        Plain: Codec<Self>;
}

impl Numbered for Large {
    fn number(owned: &Self, _: &mut Vec<u8>) -> u64 {
        assert!(owned.iter().all(|word| *word == owned[0]), "a torn record");
        owned[0]
    }
}

impl Numbered for Small {
    fn number(owned: &Self, _: &mut Vec<u8>) -> u64 {
        assert!(owned.iter().all(|word| *word == owned[0]), "a torn record");
        owned[0]
    }
}

impl Numbered for [u8] {
    fn number(owned: &Vec<u8>, scratch: &mut Vec<u8>) -> u64 {
        check(owned, MAX, scratch)
    }
}

/// Role: for each line, a channel to write for a while and until the test says that it is enough.
pub(crate) fn writer() {
    loop {
        let line = listen();
        let (kind, name) = line.split_once(' ').expect("a kind and a name");
        match kind {
            "large" => write::<Large>(name, |writer, n| writer.publish(&[n; 512]).expect("publish")),
            "flicker" => flicker(name),
            "small" => write::<Small>(name, |writer, n| writer.publish(&[n; 8]).expect("publish")),
            _ => {
                let mut record = Vec::new();
                write::<[u8]>(name, move |writer, n| {
                    fill(n, MAX, &mut record);
                    writer.publish(&record).expect("publish");
                });
            }
        }
    }
}

fn write<T: ?Sized>(name: &str, mut publish: impl FnMut(&mut Writer<T>, u64))
where
    Plain: Codec<T>,
{
    let builder = Writer::<T>::builder().run_dir(argument("dir")).mode(Mode::Lossless);
    let mut writer = builder.create(name).expect("create");
    let (begun, enough) = (Instant::now(), std::thread::spawn(listen));
    for n in 0.. {
        publish(&mut writer, n);
        if n % 64 == 0 && enough.is_finished() && begun.elapsed() > Duration::from_millis(100) {
            break;
        }
    }
    drop(writer);
    tell("closed");
}

/// One writer after the other, each for a moment. The last one stays until the test says so.
fn flicker(name: &str) {
    let create =
        || Writer::<u64>::builder().run_dir(argument("dir")).mode(Mode::Lossless).create(name).expect("create");
    for _ in 0..200 + 2 * rounds() {
        drop(create());
    }
    let last = create();
    tell("the last one");
    listen();
    drop(last);
    tell("closed");
}

/// Opens `name` again and again, and waits for it each time, until the test says that it is enough.
fn open_often(name: &str) -> Result<(), String> {
    let enough = std::thread::spawn(listen);
    while !enough.is_finished() {
        let opened = Reader::<u64>::builder().run_dir(argument("dir")).wait(PATIENCE).open(name);
        opened.map_err(|error| format!("open: {error}"))?;
    }
    Ok(())
}

/// Role: for each line, a channel to read to the end, at one go or by coming and going.
pub(crate) fn reader() {
    loop {
        let line = listen();
        let (kind, name) = line.split_once(' ').expect("a kind and a name");
        let outcome = match kind {
            "flicker" => open_often(name),
            "large" => read::<Large>(name, u64::MAX, false),
            "small" => read::<Small>(name, 2000, true),
            _ => read::<[u8]>(name, 2000, true),
        };
        tell(outcome.err().unwrap_or_else(|| "complete".to_owned()));
    }
}

/// Opens the channel, reads up to `most` records, and perhaps opens it again, until its writer has closed it.
fn read<T: ?Sized + Numbered>(name: &str, most: u64, again: bool) -> Result<(), String>
where
    Plain: Codec<T>,
{
    let (mut random, mut scratch) = (Random(u64::from(std::process::id())), Vec::new());
    let mut wait = PATIENCE;
    loop {
        let mut reader = match Reader::<T>::builder().run_dir(argument("dir")).wait(wait).open(name) {
            Ok(reader) => reader,
            Err(OpenError::Absent { .. } | OpenError::Dead { .. }) if wait.is_zero() => return Ok(()),
            Err(other) => return Err(format!("open: {other}")),
        };
        if !wait.is_zero() {
            tell("opened");
        }
        wait = Duration::ZERO; // the next time it may have ended
        let mut next = reader.sequence();
        for received in 0..random.below(most) {
            match reader.recv_timeout(PATIENCE / 2) {
                Ok(Some(record)) => {
                    let number = T::number(&record, &mut scratch);
                    if number != next {
                        return Err(format!("record {number} instead of {next}"));
                    }
                    next += 1;
                }
                Ok(None) => return Err(format!("record {next} did not come")),
                Err(RecvError::Closed { cause: CloseCause::Closed }) => return Ok(()),
                Err(other) => return Err(format!("after {received} records: {other}")),
            }
        }
        if !again {
            return Err("it never ends".to_owned());
        }
    }
}

fn run(kinds: &[&str]) {
    let dir = Dir::new();
    let mut writer = Actor::start("crowd_writer", &[("dir", dir.text())]);
    let mut readers: Vec<Actor> = (0..READERS).map(|_| Actor::start("crowd_reader", &[("dir", dir.text())])).collect();
    for round in 0..rounds() {
        let line = format!("{} round{round}", kinds[round % kinds.len()]);
        readers.iter_mut().for_each(|reader| reader.say(&line));
        writer.say(&line);
        // Those that come and go could end the round before the slowest has opened at all.
        for reader in &mut readers {
            assert_eq!(reader.hear(), "opened", "{line}");
        }
        writer.say("enough");
        for reader in &mut readers {
            assert_eq!(reader.hear(), "complete", "{line}");
        }
        assert_eq!(writer.hear(), "closed");
        assert_eq!(dir.files(), [""; 0], "nothing is left");
    }
}

#[test]
fn readers_that_open_a_lossless_channel_at_full_speed_miss_nothing() {
    run(&["large"]);
}

#[test]
fn a_lossless_writer_goes_on_while_readers_come_and_go_all_the_time() {
    run(&["small", "bytes"]);
}

#[test]
fn a_reader_that_waits_for_a_channel_takes_no_writer_that_just_closes_for_an_end_of_its_wait() {
    let dir = Dir::new();
    let mut writer = Actor::start("crowd_writer", &[("dir", dir.text())]);
    let mut reader = Actor::start("crowd_reader", &[("dir", dir.text())]);
    reader.say("flicker on");
    writer.say("flicker on");
    assert_eq!(writer.hear(), "the last one");
    reader.say("enough");
    assert_eq!(reader.hear(), "complete");
    writer.say("enough");
    assert_eq!(writer.hear(), "closed");
}
