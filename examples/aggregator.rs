//! Many producers, many consumers: a thread copies the producers' channels into one that every consumer reads.
//!
//! Run it: `cargo run -p ginnel --example aggregator`

use ginnel::channel::{Aggregator, MergedReader, Mode, Reader, Writer};
use std::error::Error;
use std::process::{Child, Command};
use std::time::Duration;

const PRODUCERS: u64 = 3;
const CONSUMERS: usize = 2;
const RECORDS: u64 = 20_000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var("ROLE").as_deref() {
        Ok("producer") => produce(),
        Ok(_) => consume(),
        Err(_) => aggregate(),
    }
}

fn aggregate() -> Result<(), Box<dyn Error>> {
    // The consumers first: a lossless channel loses nothing from the moment that a reader is there.
    let mut output: Writer<u64> = Writer::builder().mode(Mode::Lossless).anonymous()?;
    let mut children: Vec<Child> = Vec::new();
    for _ in 0..CONSUMERS {
        let mut command = Command::new(std::env::current_exe()?);
        output.export(command.env("ROLE", "consumer"), "INPUT")?;
        children.push(command.spawn()?);
    }
    if !output.wait_for_readers(CONSUMERS, Duration::from_secs(10))? {
        return Err("the consumers did not come".into());
    }

    let mut inputs: MergedReader<u64> = MergedReader::new()?;
    for producer in 0..PRODUCERS {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("ROLE", "producer").env("PRODUCER", producer.to_string());
        inputs.push(Reader::builder().mode(Mode::Lossless).export_writer(&mut command, "OUTPUT")?)?;
        children.push(command.spawn()?);
    }

    // Ends when every producer has closed its channel; its own end closes the output.
    let aggregated = Aggregator::spawn(inputs, output)?.join()?;
    println!("copied {} records of {PRODUCERS} producers to {CONSUMERS} consumers", aggregated.records);
    assert_eq!((aggregated.records, aggregated.missed), (PRODUCERS * RECORDS, 0));
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a child failed".into());
        }
    }
    Ok(())
}

/// Numbers that tell who sent them and in which order.
fn produce() -> Result<(), Box<dyn Error>> {
    let producer: u64 = std::env::var("PRODUCER")?.parse()?;
    let mut writer: Writer<u64> = Writer::from_env("OUTPUT")?;
    for number in 0..RECORDS {
        writer.publish(&(producer << 32 | number))?;
    }
    Ok(())
}

fn consume() -> Result<(), Box<dyn Error>> {
    let mut reader: Reader<u64> = Reader::from_env("INPUT")?;
    let mut received = [0; PRODUCERS as usize];
    for record in reader.iter() {
        let record = record?;
        let (producer, number) = ((record >> 32) as usize, record & 0xffff_ffff);
        assert_eq!(number, received[producer], "each producer's order is kept");
        received[producer] += 1;
    }
    println!("consumer {} received {received:?}", std::process::id());
    assert_eq!(received, [RECORDS; PRODUCERS as usize], "every consumer receives everything");
    Ok(())
}
