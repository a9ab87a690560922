//! Many producers, one consumer: a channel each, read as one. No lock is shared, and none of them can hold up another.
//!
//! Run it: `cargo run -p ginnel --example merged`

use ginnel::channel::{CloseCause, MergedReader, Mode, Reader, RecvError, Writer};
use std::error::Error;
use std::process::Command;

const PRODUCERS: usize = 3;
const RECORDS: u64 = 50_000;

fn main() -> Result<(), Box<dyn Error>> {
    if std::env::var_os("OUTPUT").is_some() { produce() } else { consume() }
}

fn consume() -> Result<(), Box<dyn Error>> {
    let mut merged: MergedReader<u64> = MergedReader::new()?;
    let mut children = Vec::new();
    for _ in 0..PRODUCERS {
        // The channel is made here, by its reader; the child inherits the writer's part.
        let mut command = Command::new(std::env::current_exe()?);
        merged.push(Reader::builder().mode(Mode::Lossless).export_writer(&mut command, "OUTPUT")?)?;
        children.push(command.spawn()?);
    }

    let mut received = [0; PRODUCERS];
    let mut turns = 0;
    let mut last = None;
    while let Some(record) = merged.recv() {
        match record.record {
            Ok(number) => {
                assert_eq!(number, received[record.source], "each producer's records stay in order");
                received[record.source] += 1;
                turns += u64::from(last.replace(record.source) != Some(record.source));
            }
            Err(RecvError::Closed { cause: CloseCause::Closed }) => println!("producer {} is done", record.source),
            Err(error) => return Err(error.into()),
        }
    }
    println!("{received:?} records from {PRODUCERS} processes; the source changed {turns} times");
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a producer failed".into());
        }
    }
    assert_eq!(received, [RECORDS; PRODUCERS]);
    Ok(())
}

fn produce() -> Result<(), Box<dyn Error>> {
    let mut writer: Writer<u64> = Writer::from_env("OUTPUT")?;
    for number in 0..RECORDS {
        writer.publish(&number)?; // waits where the consumer is slower
    }
    Ok(())
}
