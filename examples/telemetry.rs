//! One writer that never waits, many readers, one of them too slow: it is told exactly what it missed.
//!
//! Run it: `cargo run -p ginnel --example telemetry`

use ginnel::channel::{Reader, RecvError, Writer};
use std::error::Error;
use std::process::Command;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Plain memory: published as it is, without any encoding.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Sample {
    number: u64,
    temperature: f64,
}

const SAMPLES: u64 = 300_000;
const READERS: usize = 4;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var("PACE") {
        Ok(pace) => read(&pace),
        Err(_) => write(),
    }
}

fn write() -> Result<(), Box<dyn Error>> {
    // The process id keeps two runs of this example apart; a real program has one fixed name.
    let mut writer: Writer<Sample> = Writer::create(&format!("telemetry-{}", std::process::id()))?;
    let mut children = Vec::new();
    for reader in 0..READERS {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("PACE", if reader == 0 { "slow" } else { "fast" });
        writer.export(&mut command, "TELEMETRY")?;
        children.push(command.spawn()?);
    }
    if !writer.wait_for_readers(READERS, Duration::from_secs(10))? {
        return Err("the readers did not come".into());
    }

    for number in 0..SAMPLES {
        writer.publish(&Sample { number, temperature: 20.0 + (number % 100) as f64 / 10.0 })?;
        if number % 1000 == 0 {
            std::thread::sleep(Duration::from_millis(1)); // a million samples a second at most
        }
    }
    let counters = writer.counters();
    writer.close();
    println!(
        "sent {SAMPLES} samples; waited for nobody ({} times), woke sleeping readers {} times",
        counters.waits, counters.wakes
    );
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a reader's account is wrong".into());
        }
    }
    Ok(())
}

fn read(pace: &str) -> Result<(), Box<dyn Error>> {
    let mut reader: Reader<Sample> = Reader::from_env("TELEMETRY")?;
    let (mut received, mut missed, mut next, mut hottest) = (0, 0, 0, f64::MIN);
    for sample in reader.iter() {
        match sample {
            Ok(sample) => {
                assert_eq!(sample.number, next, "in order, and no gap that was not told of");
                next += 1;
                received += 1;
                hottest = sample.temperature.max(hottest);
            }
            Err(RecvError::Lagged { skipped }) => {
                missed += skipped;
                next += skipped;
            }
            Err(error) => return Err(error.into()),
        }
        if pace == "slow" && received % 1000 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    println!(
        "a {pace} reader received {received} and missed {missed}: {} in all; hottest {hottest}",
        received + missed
    );
    assert_eq!(received + missed, SAMPLES);
    assert!(pace == "fast" || missed > 0, "the slow reader was not slow");
    Ok(())
}
