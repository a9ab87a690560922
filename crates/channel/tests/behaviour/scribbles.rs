//! Peers that write what they please: into the control segment as a hostile reader, into the data as a hostile writer.
//! The other side gets typed errors, keeps its head, and never waits beyond its deadline.

use crate::actor::{Dir, PATIENCE, soak};
use crate::records::{Random, check, fill};
use ginnel_channel::{Mode, OnFull, PublishError, Reader, RecvError, Spin, Writer, inspect, list};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const MODES: [Mode; 3] = [Mode::Lossy, Mode::Lossless, Mode::Latest];
const HEADER: u64 = ginnel_memory::HEADER_BYTES as u64;
const MAX: usize = 4000;

fn rounds() -> u64 {
    if soak() { 3000 } else { 40 }
}

/// A value that is likely to hurt: small, huge, near a power of two, or anything.
fn poison(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => 0,
        1 => u64::MAX,
        2 => random.below(64),
        3 => (1 << random.below(64)) - random.below(2),
        4 => (1_u64 << random.below(63)) + random.below(32),
        5 => random.below(1 << 20) & !15,
        6 => u64::MAX - random.below(64),
        _ => random.next(),
    }
}

fn suffixed(dir: &Dir, suffix: &str) -> std::fs::File {
    let name = dir.files().into_iter().find(|name| name.ends_with(suffix)).expect("the channel's file");
    std::fs::OpenOptions::new().read(true).write(true).open(dir.path().join(name)).expect("the owner may")
}

/// Writes a few words, mostly where the structure is.
fn scribble(file: &std::fs::File, from: u64, structure: u64, random: &mut Random) {
    let size = file.metadata().expect("a file").len();
    for _ in 0..=random.below(4) {
        let span = if random.below(3) > 0 { structure } else { size - from - 8 };
        let at = from + random.below(span / 8) * 8;
        file.write_all_at(&poison(random).to_ne_bytes(), at).expect("write");
    }
}

#[test]
fn a_writer_and_honest_readers_outlive_a_reader_that_scribbles_over_the_control_segment() {
    let mut random = Random(0xbad);
    for round in 0..rounds() {
        let mode = MODES[round as usize % 3];
        let dir = Dir::new();
        let mut writer: Writer<[u8]> = Writer::builder()
            .run_dir(dir.path())
            .mode(mode)
            .max_readers(4)
            .max_record(MAX)
            .capacity(64 << 10)
            .on_full(OnFull::Evict(Duration::from_millis(1)))
            .create("victim")
            .unwrap();
        let open = || Reader::<[u8]>::builder().run_dir(dir.path()).spin(Spin::new(0)).open("victim");
        let mut reader = open().ok();
        let control = suffixed(&dir, ".control");
        let stop = AtomicBool::new(false);
        let (stop, sent) = (&stop, &AtomicU64::new(0));
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut scratch = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let before = Instant::now();
                    let Some(honest) = &mut reader else {
                        reader = open().ok(); // refused while the words say that every place is taken
                        continue;
                    };
                    match honest.recv_timeout(Duration::from_millis(2)) {
                        // Whatever its place in the control segment says, what it reads is whole.
                        Ok(Some(bytes)) => assert!(check(&bytes, MAX, &mut scratch) <= sent.load(Ordering::Relaxed)),
                        Ok(None) | Err(RecvError::Lagged { .. }) => {}
                        // Its place was given to somebody else: a membership is in the hands of all who may join.
                        Err(RecvError::Closed { .. }) => reader = None,
                        Err(other) => panic!("{other}"),
                    }
                    assert!(before.elapsed() < PATIENCE, "beyond its deadline");
                }
            });
            let mut record = Vec::new();
            for _ in 0..60 {
                scribble(&control, HEADER, 128 + 4 * 128, &mut random);
                for _ in 0..20 {
                    fill(sent.load(Ordering::Relaxed), MAX, &mut record);
                    sent.fetch_add(1, Ordering::Relaxed);
                    writer.publish(&record).unwrap();
                }
                // Tools that look, and newcomers, meet the same words.
                list(Some(dir.path())).unwrap();
                let _ = writer.readers().unwrap();
                if random.below(10) == 0 {
                    drop(open());
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        drop(writer);
        assert_eq!(dir.files(), [""; 0]);
    }
}

#[test]
fn a_waiting_lossless_writer_keeps_its_deadline_whatever_the_cursors_say() {
    let mut random = Random(0xbed);
    for _ in 0..rounds() {
        let dir = Dir::new();
        let mut writer: Writer<u64> = Writer::builder()
            .run_dir(dir.path())
            .mode(Mode::Lossless)
            .capacity(4096)
            .spin(Spin::new(0))
            .create("victim")
            .unwrap();
        let _stuck: Reader<u64> = Reader::builder().run_dir(dir.path()).open("victim").unwrap();
        let control = suffixed(&dir, ".control");
        for n in 0..300 {
            match writer.publish_timeout(&n, Duration::from_micros(200)) {
                Ok(()) | Err(PublishError::Timeout { .. }) => {}
                Err(other) => panic!("{other}"),
            }
            if n > 100 && n % 20 == 0 {
                scribble(&control, HEADER, 128 + 128, &mut random);
            }
        }
    }
}

#[test]
fn a_reader_outlives_a_writer_that_scribbles_over_the_data() {
    let mut random = Random(0xdad);
    let (mut refused, mut corrupt, mut read) = (0, 0, 0);
    for round in 0..rounds() {
        let mode = MODES[round as usize % 3];
        let dir = Dir::new();
        // This writer is hostile from now on: it publishes nothing honest any more.
        let mut writer: Writer<[u8]> =
            Writer::builder().run_dir(dir.path()).mode(mode).capacity(64 << 10).create("bait").unwrap();
        let mut fixed: Writer<[u64; 4]> =
            Writer::builder().run_dir(dir.path()).mode(mode).capacity(8 << 10).create("fixed").unwrap();
        let mut readers: Vec<Reader<[u8]>> = Vec::new();
        let open = |spin: Spin| Reader::<[u8]>::builder().run_dir(dir.path()).spin(spin).open("bait");
        readers.push(open(Spin::new(0)).unwrap());
        readers.push(open(Spin::new(100)).unwrap());
        let mut other: Reader<[u64; 4]> = Reader::builder().run_dir(dir.path()).open("fixed").unwrap();
        for n in 0..random.below(200) {
            writer.publish(&vec![n as u8; random.below(500) as usize]).unwrap();
            fixed.publish(&[n; 4]).unwrap();
        }
        let files: Vec<std::fs::File> = ["bait", "fixed"]
            .map(|name| {
                let path = dir.path().join(format!("{name}.channel"));
                std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap()
            })
            .into();
        let mut ended = [false; 3];
        for _ in 0..50 {
            for file in &files {
                // The ring's words begin behind the parameters, the first records behind the header.
                scribble(file, [0, 256, HEADER][random.below(3) as usize], 256, &mut random);
            }
            let limit = Duration::from_micros(50);
            for (index, ended) in ended.iter_mut().enumerate() {
                for _ in 0..20 {
                    if *ended {
                        break;
                    }
                    let before = Instant::now();
                    let outcome = match index {
                        2 => other.recv_timeout(limit).map(|record| record.map(drop)),
                        _ => readers[index].recv_timeout(limit).map(|record| record.map(drop)),
                    };
                    assert!(before.elapsed() < PATIENCE, "beyond its deadline");
                    match outcome {
                        Ok(Some(())) => read += 1,
                        Ok(None) => break,
                        Err(RecvError::Lagged { .. }) => {}
                        Err(RecvError::Corrupt(_) | RecvError::Closed { .. }) => {
                            corrupt += 1;
                            *ended = true;
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
            }
            // Newcomers and tools meet it as well.
            if random.below(10) == 0 {
                match open(Spin::new(0)) {
                    Err(_) => refused += 1,
                    Ok(mut late) => drop(late.recv_timeout(Duration::ZERO)),
                }
                inspect(Some(dir.path()), "bait").unwrap();
                inspect(Some(dir.path()), "fixed").unwrap();
            }
        }
        // The writer's own words are gone; it ends as a killed one does.
        writer.abandon();
        fixed.abandon();
        let before = Instant::now();
        for reader in &mut readers {
            // It may read what looks like records, but its writer is dead: there is an end to it.
            while !matches!(reader.recv(), Err(RecvError::Corrupt(_) | RecvError::Closed { .. })) {
                assert!(before.elapsed() < PATIENCE, "a dead writer's ring never ends");
            }
        }
        while !matches!(other.recv(), Err(RecvError::Corrupt(_) | RecvError::Closed { .. })) {
            assert!(before.elapsed() < PATIENCE, "a dead writer's ring never ends");
        }
        ginnel_channel::clean(Some(dir.path())).unwrap();
    }
    assert!(refused > 0 && corrupt > 0 && read > 0, "{refused} refused, {corrupt} corrupt, {read} read");
}

#[test]
fn a_scribbled_length_or_flag_is_an_error_and_never_a_wait_for_ever() {
    // Records of 100 bytes take 128 with their header: a flag, a length, the payload.
    const RECORD: u64 = 128;
    for mode in [Mode::Lossless, Mode::Lossy] {
        for (word, value) in [(8, 50), (8, 200), (8, 0), (8, 16_000), (8, u64::MAX), (8, 1 << 40), (0, 0), (0, 77)] {
            let dir = Dir::new();
            let builder = Writer::<[u8]>::builder().run_dir(dir.path()).mode(mode).capacity(64 << 10);
            let mut writer = builder.create("bait").unwrap();
            let mut reader: Reader<[u8]> =
                Reader::builder().run_dir(dir.path()).spin(Spin::new(0)).open("bait").unwrap();
            for _ in 0..3 {
                writer.publish(&[7; 100]).unwrap();
            }
            assert_eq!(reader.recv().unwrap(), [7; 100]);
            let file = suffixed(&dir, ".channel");
            file.write_all_at(&u64::to_ne_bytes(value), HEADER + RECORD + word).unwrap();
            // Kept, so that the writer must not wait for it either.
            let told = std::thread::spawn(move || {
                loop {
                    match reader.recv_timeout(PATIENCE) {
                        Ok(Some(_)) | Err(RecvError::Lagged { .. }) => {}
                        Ok(None) => panic!("a record that is there was waited for ({mode:?}, {word}, {value})"),
                        Err(error) => return (error, reader),
                    }
                }
            });
            let written = loop {
                match writer.publish_timeout(&[7; 100], PATIENCE) {
                    Ok(()) if writer.counters().bytes > 1 << 20 => break Ok(()),
                    Ok(()) => {}
                    other => break other,
                }
            };
            // It meets the record again when it comes round.
            assert!(matches!(written, Err(PublishError::Corrupt(_))), "{mode:?}, {word}, {value}: {written:?}");
            drop(writer);
            let (error, _reader) = told.join().unwrap();
            // A lossy one may have been overtaken before it came to that record.
            let overtaken = mode == Mode::Lossy && matches!(error, RecvError::Closed { .. });
            assert!(matches!(error, RecvError::Corrupt(_)) || overtaken, "{mode:?}, {word}, {value}: {error}");
        }
    }
}
