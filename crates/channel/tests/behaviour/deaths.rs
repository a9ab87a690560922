//! `kill -9` at random moments: the survivors are told or go on, and what is left can be cleaned away.

use crate::actor::{Actor, Dir, PATIENCE, argument, command, listen, number, soak, tell, until};
use crate::records::{Random, check, fill};
use ginnel_channel::{CloseCause, Mode, OnFull, Reader, RecvError, Spin, Writer, clean, list};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MAX: usize = 4000;
const NAME: &str = "doomed";
const VARIABLE: &str = "DOOMED_CHANNEL";
/// How soon a survivor must know.
const PROMPT: Duration = Duration::from_millis(100);

fn kills() -> u64 {
    if soak() { 200 } else { 15 }
}

fn mode_named(name: &str) -> Mode {
    match name {
        "lossless" => Mode::Lossless,
        "latest" => Mode::Latest,
        _ => Mode::Lossy,
    }
}

/// Role: publishes until it is killed, now at full speed, now with pauses in which readers fall asleep.
pub(crate) fn writer() {
    let mode = mode_named(&argument("mode"));
    let mut writer: Writer<[u8]> = match argument("dir").as_str() {
        "" => Writer::from_env(VARIABLE).expect("take over"),
        dir => {
            Writer::builder().run_dir(dir).mode(mode).max_record(MAX).capacity(64 << 10).create(NAME).expect("create")
        }
    };
    tell("ready");
    let (mut random, mut record) = (Random(number("seed")), Vec::new());
    for seq in 0.. {
        fill(seq, MAX, &mut record);
        writer.publish(&record).expect("publish");
        if random.below(100) == 0 {
            std::thread::sleep(Duration::from_micros(random.below(3000)));
        }
    }
}

/// Role: reads until it is killed, or stops reading after a while and holds a lossless writer up.
pub(crate) fn reader() {
    let mut reader: Reader<[u8]> = match argument("dir").as_str() {
        "" => Reader::from_env(VARIABLE).expect("take over"),
        dir => Reader::builder().run_dir(dir).open(NAME).expect("open"),
    };
    tell("joined");
    let mut scratch = Vec::new();
    for _ in 0..number("reads") {
        match reader.recv() {
            Ok(bytes) => drop(check(&bytes, MAX, &mut scratch)),
            Err(RecvError::Lagged { .. }) => {}
            Err(other) => panic!("{other}"),
        }
    }
    tell("stalled");
    listen();
}

/// How long the scheduler has kept a thread of this process waiting for a processor, so far (second field of its
/// `schedstat`).
fn kept_waiting(thread: &AtomicI32) -> Duration {
    let path = format!("/proc/self/task/{}/schedstat", thread.load(Ordering::Acquire));
    let stat = std::fs::read_to_string(path).unwrap_or_default();
    Duration::from_nanos(stat.split_ascii_whitespace().nth(1).and_then(|delay| delay.parse().ok()).unwrap_or(0))
}

fn introduce(thread: &AtomicI32) {
    thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Release);
}

/// How late this machine is at the moment: a thread that sleeps two milliseconds at a time, and the worst that it
/// overslept.
///
/// A survivor cannot act faster than the scheduler lets it: what that cost it, and this, is added to the bound. So on a
/// machine that is busy with other things the bound still holds for what the channel itself does.
struct Metronome<'a>(&'a AtomicU64);

impl Metronome<'_> {
    fn beat(&self, stop: &AtomicBool) {
        const BEAT: Duration = Duration::from_millis(2);
        while !stop.load(Ordering::Relaxed) {
            let before = Instant::now();
            std::thread::sleep(BEAT);
            self.0.fetch_max((before.elapsed() - BEAT).as_micros() as u64, Ordering::Relaxed);
        }
    }
}

fn assert_prompt(what: &str, took: Duration, worst: &AtomicU64, waited: Duration) {
    let late = Duration::from_micros(worst.load(Ordering::Relaxed));
    assert!(
        took <= PROMPT + late + waited,
        "{what} after {took:?}; {late:?} machine, {waited:?} of it without a processor"
    );
}

/// Reads until the writer is gone; says when it was told, and how long it had been kept waiting for a processor by
/// then.
fn survive(mut reader: Reader<[u8]>, lossless: bool, thread: &AtomicI32) -> (Instant, Duration) {
    introduce(thread);
    let (mut next, mut scratch) = (0, Vec::new());
    loop {
        match reader.recv_timeout(PATIENCE) {
            Ok(Some(bytes)) => {
                let seq = check(&bytes, MAX, &mut scratch);
                assert!(if lossless { seq == next } else { seq >= next }, "record {seq} instead of {next}");
                next = seq + 1;
            }
            Ok(None) => panic!("a reader was left waiting"),
            Err(RecvError::Lagged { skipped }) => {
                assert!(!lossless, "lost {skipped} records");
                next += skipped;
            }
            Err(RecvError::Closed { cause }) => {
                assert_eq!(cause, CloseCause::Died);
                return (Instant::now(), kept_waiting(thread));
            }
            Err(other) => panic!("{other}"),
        }
    }
}

fn kill_writers(mode: &str, inherited: bool) {
    let mut random = Random(mode.len() as u64);
    for round in 0..kills() {
        let dir = Dir::new();
        let seed = round.to_string();
        let place = if inherited { "" } else { dir.text() };
        // The command lives on, as a parent's often does, and with it a copy of the child's end.
        let mut command = command("doomed_writer", &[("dir", place), ("mode", mode), ("seed", &seed)]);
        let spins = [Spin::new(0), Spin::forever(), Spin::default()];
        let mut readers: Vec<Reader<[u8]>> = Vec::new();
        if inherited {
            let spin = spins[round as usize % spins.len()].clone();
            let reader = Reader::builder().mode(mode_named(mode)).max_record(MAX).capacity(64 << 10).spin(spin);
            readers.push(reader.export_writer(&mut command, VARIABLE).expect("export"));
        }
        let mut actor = Actor::spawn(&mut command);
        if !inherited {
            for spin in spins {
                readers.push(Reader::builder().run_dir(dir.path()).spin(spin).wait(PATIENCE).open(NAME).expect("open"));
            }
        }
        assert_eq!(actor.hear(), "ready");
        // A reader that came late begins where it can: only the inherited one has certainly seen the beginning.
        let lossless = mode == "lossless" && inherited;
        let (stop, worst) = (AtomicBool::new(false), AtomicU64::new(0));
        let threads: [AtomicI32; 3] = Default::default();
        std::thread::scope(|scope| {
            scope.spawn(|| Metronome(&worst).beat(&stop));
            let survivors: Vec<_> = readers
                .drain(..)
                .zip(&threads)
                .map(|(reader, thread)| scope.spawn(move || survive(reader, lossless, thread)))
                .collect();
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            let waited: Vec<Duration> = threads.iter().map(kept_waiting).collect();
            let dead = actor.kill();
            for (survivor, before) in survivors.into_iter().zip(waited) {
                let told = survivor.join();
                stop.store(true, Ordering::Relaxed);
                let (told, waited) = told.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                let took = told.saturating_duration_since(dead);
                assert_prompt("a reader was told", took, &worst, waited.saturating_sub(before));
            }
        });
        if !inherited {
            assert!(list(Some(dir.path())).expect("list").iter().all(|channel| channel.alive == Some(false)));
            assert_eq!(clean(Some(dir.path())).expect("clean").channels, [NAME]);
            assert_eq!(dir.files(), [""; 0], "nothing is left");
        }
        drop(command);
    }
}

#[test]
fn readers_of_a_killed_lossy_writer_are_told() {
    kill_writers("lossy", false);
}

#[test]
fn readers_of_a_killed_lossless_writer_are_told() {
    kill_writers("lossless", false);
}

#[test]
fn readers_of_a_killed_writer_of_a_state_are_told() {
    kill_writers("latest", false);
}

#[test]
fn the_parent_of_a_killed_lossy_writer_is_told_although_its_command_lives() {
    kill_writers("lossy", true);
}

#[test]
fn the_parent_of_a_killed_lossless_writer_is_told_although_its_command_lives() {
    kill_writers("lossless", true);
}

/// Kills readers of `writer`, which somebody publishes to all the time, while another reader survives.
fn kill_readers(mode: &str, spin: Spin) {
    let dir = Dir::new();
    let lossless = mode == "lossless";
    let builder =
        Writer::<[u8]>::builder().run_dir(dir.path()).mode(mode_named(mode)).max_record(MAX).capacity(64 << 10);
    // Two places: a dead reader's place that were not freed would be missed at once.
    let mut writer = builder.max_readers(2).spin(spin).on_full(OnFull::Wait).create(NAME).expect("create");
    let survivor: Reader<[u8]> = Reader::builder().run_dir(dir.path()).open(NAME).expect("open");
    let mut random = Random(mode.len() as u64);
    let (stop, worst, sent) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let thread = AtomicI32::new(0);
    let (stop, sent, thread) = (&stop, &sent, &thread);
    std::thread::scope(|scope| {
        // Whatever fails below, the threads end.
        let stopper = Stopper(stop);
        let survivor = scope.spawn(move || {
            let (mut survivor, mut received, mut skipped, mut scratch) = (survivor, 0, 0, Vec::new());
            loop {
                match survivor.recv_timeout(PATIENCE) {
                    Ok(Some(bytes)) => {
                        assert_eq!(check(&bytes, MAX, &mut scratch), received + skipped);
                        received += 1;
                    }
                    Ok(None) => panic!("the surviving reader was left waiting"),
                    Err(RecvError::Lagged { skipped: more }) => skipped += more,
                    Err(RecvError::Closed { cause: CloseCause::Closed }) => return (received, skipped),
                    Err(other) => panic!("{other}"),
                }
            }
        });
        let publisher = scope.spawn(move || {
            introduce(thread);
            let mut record = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                fill(sent.load(Ordering::Relaxed), MAX, &mut record);
                writer.publish_timeout(&record, PATIENCE).expect("publish");
                sent.fetch_add(1, Ordering::Relaxed);
            }
            until("the dead reader is forgotten", || writer.readers().expect("reap") == 1);
            writer.counters()
        });
        let metronome_stop = AtomicBool::new(false);
        std::thread::scope(|inner| {
            inner.spawn(|| Metronome(&worst).beat(&metronome_stop));
            let _metronome = Stopper(&metronome_stop);
            for round in 0..kills() {
                let stalls = round % 2 == 0;
                let reads = if stalls { random.below(500).to_string() } else { u64::MAX.to_string() };
                let mut actor = Actor::start("doomed_reader", &[("dir", dir.text()), ("reads", &reads)]);
                assert_eq!(actor.hear(), "joined");
                if stalls {
                    assert_eq!(actor.hear(), "stalled");
                }
                std::thread::sleep(Duration::from_micros(random.below(20_000)));
                worst.store(0, Ordering::Relaxed);
                let waited = kept_waiting(thread);
                let dead = actor.kill();
                let before = sent.load(Ordering::Relaxed);
                until("the writer goes on", || sent.load(Ordering::Relaxed) > before);
                let took = dead.elapsed();
                assert_prompt("the writer went on", took, &worst, kept_waiting(thread).saturating_sub(waited));
            }
        });
        drop(stopper);
        let counters = publisher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let (received, skipped) = survivor.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        assert_eq!(received + skipped, counters.records);
        assert!(skipped == 0 || !lossless, "a lossless reader missed {skipped}");
        // Some come and go while the writer does not look.
        assert!((2..=kills() + 1).contains(&counters.joined), "{} joined", counters.joined);
        assert!(counters.waits > 0 || !lossless, "the stalled readers never held the writer up");
    });
    assert_eq!(dir.files(), [""; 0], "nothing is left");
}

struct Stopper<'a>(&'a AtomicBool);

impl Drop for Stopper<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_sleeping_lossless_writer_goes_on_when_the_reader_it_waits_for_is_killed() {
    kill_readers("lossless", Spin::new(0));
}

#[test]
fn a_spinning_lossless_writer_goes_on_when_the_reader_it_waits_for_is_killed() {
    kill_readers("lossless", Spin::forever());
}

#[test]
fn a_lossy_writer_does_not_notice_that_its_readers_are_killed() {
    kill_readers("lossy", Spin::default());
}

#[test]
fn a_lossless_writer_goes_on_when_the_child_it_exported_to_is_killed_although_its_command_lives() {
    let mut random = Random(1);
    for round in 0..kills() {
        let mut writer: Writer<[u8]> =
            Writer::builder().mode(Mode::Lossless).max_record(MAX).capacity(64 << 10).anonymous().expect("create");
        let reads = if round % 2 == 0 { random.below(300).to_string() } else { u64::MAX.to_string() };
        let mut command = command("doomed_reader", &[("dir", ""), ("reads", &reads)]);
        writer.export(&mut command, VARIABLE).expect("export");
        let mut actor = Actor::spawn(&mut command);
        assert_eq!(actor.hear(), "joined");
        let (stop, worst, sent) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
        let thread = AtomicI32::new(0);
        std::thread::scope(|scope| {
            let _stopper = Stopper(&stop);
            scope.spawn(|| Metronome(&worst).beat(&stop));
            scope.spawn(|| {
                introduce(&thread);
                let mut record = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    fill(sent.load(Ordering::Relaxed), MAX, &mut record);
                    writer.publish_timeout(&record, PATIENCE).expect("publish");
                    sent.fetch_add(1, Ordering::Relaxed);
                }
            });
            std::thread::sleep(Duration::from_micros(random.below(20_000)));
            let waited = kept_waiting(&thread);
            let dead = actor.kill();
            let before = sent.load(Ordering::Relaxed);
            until("the writer goes on", || sent.load(Ordering::Relaxed) > before);
            let took = dead.elapsed();
            assert_prompt("the writer went on", took, &worst, kept_waiting(&thread).saturating_sub(waited));
            until("nobody holds it up", || sent.load(Ordering::Relaxed) > before + 1000);
        });
        assert_eq!(writer.readers().expect("reap"), 0);
        drop(command);
    }
}

#[test]
fn a_writer_killed_while_it_creates_its_channel_leaves_nothing_that_cannot_be_cleaned() {
    let mut random = Random(3);
    for round in 0..kills() {
        let dir = Dir::new();
        std::fs::create_dir(dir.path()).expect("the runtime directory");
        let seed = round.to_string();
        let mut actor = Actor::start("doomed_writer", &[("dir", dir.text()), ("mode", "lossy"), ("seed", &seed)]);
        // The moment that matters begins with its first file.
        until("the child begins", || !dir.files().is_empty());
        std::thread::sleep(Duration::from_micros(random.below(300)));
        actor.kill();
        assert!(list(Some(dir.path())).expect("list").iter().all(|channel| channel.alive == Some(false)));
        clean(Some(dir.path())).expect("clean");
        assert_eq!(dir.files(), [""; 0], "nothing is left");
    }
}
