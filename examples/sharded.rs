//! Work spread over several processes by key: each key always meets the same worker, in order, without any lock.
//!
//! Run it: `cargo run -p ginnel --example sharded`

use ginnel::channel::{
    CloseCause, MergedReader, Mode, Postcard, Reader, RecvError, Sharded, Writer, shard_name, shard_of,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::process::Command;
use std::time::Duration;

/// One booking on one account.
#[derive(Serialize, Deserialize)]
struct Booking {
    account: String,
    amount: i64,
}

/// What a worker reports at its end: the balance of every account that it met.
type Balances = BTreeMap<String, i64>;

const WORKERS: usize = 3;
const ACCOUNTS: usize = 20;
const BOOKINGS: usize = 30_000;

fn main() -> Result<(), Box<dyn Error>> {
    match std::env::var("SHARD") {
        Ok(channel) => work(&channel),
        Err(_) => route(),
    }
}

fn route() -> Result<(), Box<dyn Error>> {
    let name = format!("bookings-{}", std::process::id());
    let lossless = || Writer::builder().mode(Mode::Lossless);
    let mut bookings: Sharded<Booking, Postcard> = Sharded::create(&name, WORKERS, lossless)?;
    let mut reports: MergedReader<Balances, Postcard> = MergedReader::new()?;
    let mut children = Vec::new();
    for worker in 0..WORKERS {
        let mut command = Command::new(std::env::current_exe()?);
        command.env("SHARD", shard_name(&name, worker));
        reports.push(Reader::builder().mode(Mode::Lossless).export_writer(&mut command, "REPORT")?)?;
        children.push(command.spawn()?);
    }
    for writer in bookings.writers_mut() {
        if !writer.wait_for_readers(1, Duration::from_secs(10))? {
            return Err("a worker did not come".into());
        }
    }

    let mut expected = Balances::new();
    for n in 0..BOOKINGS {
        let account = format!("account {}", n * 7 % ACCOUNTS);
        let amount = n as i64 % 100 - 40;
        *expected.entry(account.clone()).or_default() += amount;
        let booking = Booking { account, amount };
        bookings.publish(booking.account.as_str(), &booking)?;
    }
    drop(bookings); // closes the channels: the workers finish and report

    let mut balances = Balances::new();
    while let Some(merged) = reports.recv() {
        match merged.record {
            Ok(report) => {
                println!("worker {} kept {} accounts", merged.source, report.len());
                for (account, balance) in report {
                    assert_eq!(shard_of(account.as_str(), WORKERS), merged.source, "each account has its worker");
                    assert_eq!(balances.insert(account, balance), None, "and only one");
                }
            }
            Err(RecvError::Closed { cause: CloseCause::Closed }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for mut child in children {
        if !child.wait()?.success() {
            return Err("a worker failed".into());
        }
    }
    assert_eq!(balances, expected, "together they kept the books");
    println!("{BOOKINGS} bookings on {ACCOUNTS} accounts add up");
    Ok(())
}

fn work(channel: &str) -> Result<(), Box<dyn Error>> {
    let mut bookings: Reader<Booking, Postcard> = Reader::open(channel)?;
    let mut balances = Balances::new();
    for booking in bookings.iter() {
        let Booking { account, amount } = booking?;
        *balances.entry(account).or_default() += amount;
    }
    let mut report: Writer<Balances, Postcard> = Writer::from_env("REPORT")?;
    report.publish(&balances)?;
    Ok(())
}
