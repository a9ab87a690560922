//! What the software itself costs, in one process on one core: no cache line travels, nobody waits.
//!
//! `cargo bench -p ginnel-channel` prints the fastest and the median of many blocks. What two processes reach, beside
//! their rivals, is measured by `cargo xtask bench channel`.

use ginnel_channel::{Mode, Postcard, Reader, Spin, Start, Writer, inspect};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::hint::black_box;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Blocks of one measurement; the median of so many is steady.
const BLOCKS: usize = 201;
/// Records of a block: fewer than any ring here holds, so that nobody is ever waited for or overtaken.
const RECORDS: u32 = 256;

type Outcome = Result<(), Box<dyn Error>>;

/// Runs only what the command line asks for, and prints it.
struct Bench {
    filter: Option<String>,
}

impl Bench {
    /// The filter is the first argument that is not one of cargo's own flags.
    fn from_arguments() -> Self {
        Self { filter: std::env::args().skip(1).find(|argument| !argument.starts_with('-')) }
    }

    /// `block` does `count` of something and says how long that took, set-up not included.
    fn run(&self, name: &str, count: u32, mut block: impl FnMut() -> Result<Duration, Box<dyn Error>>) -> Outcome {
        if self.filter.as_ref().is_some_and(|filter| !name.contains(filter.as_str())) {
            return Ok(());
        }
        let mut times = Vec::with_capacity(BLOCKS);
        for _ in 0..BLOCKS {
            times.push(block()?.as_nanos() as f64 / f64::from(count));
        }
        times.sort_by(f64::total_cmp);
        println!("{name:36} median {:9.1} ns   fastest {:9.1} ns", times[BLOCKS / 2], times[0]);
        Ok(())
    }
}

/// Publishing and receiving records of a plain type, each apart.
fn plain<const N: usize>(bench: &Bench, dir: &Path) -> Outcome {
    let size = size_of::<[u64; N]>();
    let name = format!("plain{size}");
    let mut writer: Writer<[u64; N]> =
        Writer::builder().run_dir(dir).capacity((4 * 256 * (size + 16)).max(1 << 18)).create(&name)?;
    let mut reader: Reader<[u64; N]> = Reader::builder().run_dir(dir).open(&name)?;
    let mut record = Box::new([1; N]);
    bench.run(&format!("publish, {size} B"), RECORDS, || {
        let start = Instant::now();
        for _ in 0..RECORDS {
            writer.publish(black_box(&record))?;
        }
        let time = start.elapsed();
        drain(&mut reader)?;
        Ok(time)
    })?;
    bench.run(&format!("publish in batches of 64, {size} B"), RECORDS, || {
        let start = Instant::now();
        for _ in 0..RECORDS / 64 {
            let mut batch = writer.batch();
            for _ in 0..64 {
                batch.push(black_box(&record))?;
            }
            batch.publish()?;
        }
        let time = start.elapsed();
        drain(&mut reader)?;
        Ok(time)
    })?;
    bench.run(&format!("receive, {size} B"), RECORDS, || {
        for _ in 0..RECORDS {
            writer.publish(&record)?;
        }
        let start = Instant::now();
        for _ in 0..RECORDS {
            reader.recv_into(&mut record)?;
            black_box(&record);
        }
        Ok(start.elapsed())
    })
}

fn drain<const N: usize>(reader: &mut Reader<[u64; N]>) -> Outcome {
    while reader.try_recv()?.is_some() {}
    Ok(())
}

fn bytes(bench: &Bench, dir: &Path) -> Outcome {
    let mut writer: Writer<[u8]> = Writer::builder().run_dir(dir).capacity(1 << 20).create("bytes")?;
    let mut reader: Reader<[u8]> = Reader::builder().run_dir(dir).open("bytes")?;
    let record = [1; 64];
    let mut received = Vec::new();
    bench.run("publish, 64 bytes of any size", RECORDS, || {
        let start = Instant::now();
        for _ in 0..RECORDS {
            writer.publish(black_box(&record))?;
        }
        let time = start.elapsed();
        while reader.try_recv_into(&mut received)? {}
        Ok(time)
    })?;
    bench.run("receive, 64 bytes of any size", RECORDS, || {
        for _ in 0..RECORDS {
            writer.publish(&record)?;
        }
        let start = Instant::now();
        for _ in 0..RECORDS {
            reader.recv_into(&mut received)?;
            black_box(&received);
        }
        Ok(start.elapsed())
    })
}

#[derive(Serialize, Deserialize, Clone)]
struct Process {
    pid: u32,
    name: String,
    cpu: f64,
}

fn postcard(bench: &Bench, dir: &Path) -> Outcome {
    let mut writer: Writer<Process, Postcard> = Writer::builder().run_dir(dir).capacity(1 << 20).create("postcard")?;
    let mut reader: Reader<Process, Postcard> = Reader::builder().run_dir(dir).open("postcard")?;
    let record = Process { pid: 4711, name: "a-process-of-some-name".into(), cpu: 0.25 };
    bench.run("publish, postcard", RECORDS, || {
        let start = Instant::now();
        for _ in 0..RECORDS {
            writer.publish(black_box(&record))?;
        }
        let time = start.elapsed();
        while reader.try_recv()?.is_some() {}
        Ok(time)
    })?;
    bench.run("receive, postcard", RECORDS, || {
        for _ in 0..RECORDS {
            writer.publish(&record)?;
        }
        let start = Instant::now();
        for _ in 0..RECORDS {
            black_box(reader.recv()?);
        }
        Ok(start.elapsed())
    })
}

fn lossless(bench: &Bench, dir: &Path) -> Outcome {
    let mut writer: Writer<[u64; 8]> = Writer::builder().run_dir(dir).mode(Mode::Lossless).create("lossless")?;
    let mut reader: Reader<[u64; 8]> = Reader::builder().run_dir(dir).open("lossless")?;
    let record = [1; 8];
    bench.run("publish and receive, lossless, 64 B", RECORDS, || {
        let start = Instant::now();
        for _ in 0..RECORDS {
            writer.publish(black_box(&record))?;
            black_box(reader.recv()?);
        }
        Ok(start.elapsed())
    })
}

fn newest(bench: &Bench, dir: &Path) -> Outcome {
    let mut writer: Writer<[u64; 8]> = Writer::builder().run_dir(dir).mode(Mode::Latest).create("newest")?;
    let mut reader: Reader<[u64; 8]> = Reader::builder().run_dir(dir).start(Start::Latest).open("newest")?;
    bench.run("write the newest value, 64 B", RECORDS, || {
        let start = Instant::now();
        for number in 0..u64::from(RECORDS) {
            writer.publish(black_box(&[number; 8]))?;
        }
        Ok(start.elapsed())
    })?;
    bench.run("write and read the newest value, 64 B", RECORDS, || {
        let start = Instant::now();
        for number in 0..u64::from(RECORDS) {
            writer.publish(black_box(&[number; 8]))?;
            black_box(reader.try_recv()?);
        }
        Ok(start.elapsed())
    })?;
    let mut record = [0; 8];
    bench.run("the same into memory that is used again", RECORDS, || {
        let start = Instant::now();
        for number in 0..u64::from(RECORDS) {
            writer.publish(black_box(&[number; 8]))?;
            black_box(reader.try_recv_into(&mut record)?);
            black_box(&record);
        }
        Ok(start.elapsed())
    })?;
    bench.run("look for a newer value, none there", RECORDS, || {
        black_box(reader.try_recv()?);
        let start = Instant::now();
        for _ in 0..RECORDS {
            black_box(reader.try_recv()?);
        }
        Ok(start.elapsed())
    })
}

fn beginnings(bench: &Bench, dir: &Path) -> Outcome {
    let mut round = 0;
    bench.run("create a channel, and close it", 1, || {
        round += 1;
        let start = Instant::now();
        drop(Writer::<[u64; 8]>::builder().run_dir(dir).create(&format!("created{round}"))?);
        Ok(start.elapsed())
    })?;
    let mut writer: Writer<[u64; 8]> = Writer::builder().run_dir(dir).create("opened")?;
    writer.publish(&[7; 8])?;
    bench.run("open a channel, receive a record", 1, || {
        let start = Instant::now();
        let mut reader: Reader<[u64; 8]> = Reader::builder().run_dir(dir).open("opened")?;
        black_box(reader.recv()?);
        let time = start.elapsed();
        drop(reader);
        // The writer welcomes it, and notices that it has gone.
        writer.publish(&[7; 8])?;
        writer.readers()?;
        Ok(time)
    })
}

/// Publishing to readers that all sleep: what it costs the writer, and when the last one is awake.
fn crowd(bench: &Bench, dir: &Path, readers: usize) -> Outcome {
    let name = format!("crowd{readers}");
    let mut writer: Writer<u64> = Writer::builder().run_dir(dir).create(&name)?;
    let begun = Instant::now();
    let nanoseconds = move || begun.elapsed().as_nanos() as u64;
    let (awake, last) = (&AtomicUsize::new(0), &AtomicU64::new(0));
    std::thread::scope(|scope| -> Outcome {
        for _ in 0..readers {
            let mut reader: Reader<u64> = Reader::builder().run_dir(dir).spin(Spin::new(0)).open(&name)?;
            scope.spawn(move || {
                while reader.recv().is_ok() {
                    last.fetch_max(nanoseconds(), Ordering::Relaxed);
                    awake.fetch_add(1, Ordering::Release);
                }
            });
        }
        writer.wait_for_readers(readers, Duration::from_secs(10))?;
        let mut publish = |whole: bool| -> Result<Duration, Box<dyn Error>> {
            // Armed is not yet asleep.
            while inspect(Some(dir), &name)?.is_none_or(|it| it.readers.iter().any(|reader| !reader.asleep)) {}
            std::thread::sleep(Duration::from_millis(1));
            awake.store(0, Ordering::Relaxed);
            let start = nanoseconds();
            writer.publish(&start)?;
            let time = nanoseconds() - start;
            while awake.load(Ordering::Acquire) < readers {
                std::thread::sleep(Duration::from_micros(100));
            }
            Ok(Duration::from_nanos(if whole { last.load(Ordering::Relaxed) - start } else { time }))
        };
        bench.run(&format!("publish, {readers} asleep"), 1, || publish(false))?;
        bench.run(&format!("until the last of {readers} is awake"), 1, || publish(true))?;
        drop(writer);
        Ok(())
    })
}

fn main() -> Outcome {
    let bench = Bench::from_arguments();
    let dir = tempfile::tempdir()?;
    let dir = &dir.path().join("run");
    plain::<1>(&bench, dir)?;
    plain::<6>(&bench, dir)?;
    plain::<8>(&bench, dir)?;
    plain::<128>(&bench, dir)?;
    plain::<8192>(&bench, dir)?;
    bytes(&bench, dir)?;
    postcard(&bench, dir)?;
    lossless(&bench, dir)?;
    newest(&bench, dir)?;
    beginnings(&bench, dir)?;
    [1, 2, 8, 64].into_iter().try_for_each(|readers| crowd(&bench, dir, readers))
}
