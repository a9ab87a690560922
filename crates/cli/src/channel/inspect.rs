//! `ginnel channel ls`, `stat`, `clean`: channels seen from outside.

use super::Place;
use crate::outcome::{Failure, complain, say};
use crate::quantity;
use clap::Args;
use ginnel::channel::{ChannelInfo, Mode, clean, half_made, inspect, list};
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Over how long `stat` measures the rate.
const GLANCE: Duration = Duration::from_millis(250);

/// Arguments of `ginnel channel ls`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel channel ls
  ginnel channel ls --json | jq -r '.[] | select(.alive == false) | .name'

Exit codes: 0 done (also without any channel), 1 it failed, 2 the command line is wrong")]
pub(super) struct List {
    /// Print one JSON array
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `ginnel channel stat`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  ginnel channel stat log
  ginnel channel stat log --watch        a new measurement each second, until the channel is gone
  ginnel channel stat log --watch 200ms --json | jq .rate.records

Exit codes: 0 done, 1 there is no such channel or it failed, 2 the command line is wrong")]
pub(super) struct Stat {
    /// The channel's name
    name: String,
    /// Print one JSON object (with --watch: one each time, each on a line)
    #[arg(long)]
    json: bool,
    /// Measure again and again, until the channel is gone
    #[arg(long, value_name = "TIME", value_parser = quantity::duration, num_args = 0..=1, default_missing_value = "1s")]
    watch: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

/// Arguments of `ginnel channel clean`.
#[derive(Args)]
#[command(after_help = "\
A writer is dead when the kernel says that nobody holds the channel's lock. Everything else stays.

Exit codes: 0 done (also if there was nothing to do), 1 it failed, 2 the command line is wrong")]
pub(super) struct Clean {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// A channel in JSON.
#[derive(Serialize)]
struct Shown<'a> {
    name: &'a str,
    mode: &'static str,
    record: Option<usize>,
    max_record: usize,
    capacity: u64,
    writer: Process,
    uid: u32,
    alive: Option<bool>,
    closed: bool,
    position: u64,
    published: Option<u64>,
    max_readers: usize,
    readers: Vec<ShownReader>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate: Option<Rate>,
}

#[derive(Serialize)]
struct Process {
    pid: u32,
    start: u64,
}

#[derive(Serialize)]
struct ShownReader {
    process: Process,
    sequence: u64,
    lag: u64,
    missed: u64,
    asleep: bool,
    welcomed: bool,
    alive: Option<bool>,
}

/// Per second.
#[derive(Serialize, Clone, Copy)]
struct Rate {
    records: Option<f64>,
    bytes: f64,
}

impl List {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let channels = list(self.place.run_dir.as_deref())?;
        match half_made(self.place.run_dir.as_deref())? {
            0 => {}
            count => complain(format_args!(
                "the writers of {count} more died while creating them: `ginnel channel clean` frees their memory"
            )),
        }
        if self.json {
            let shown: Vec<Shown<'_>> = channels.iter().map(|channel| shown(channel, None)).collect();
            say(serde_json::to_string(&shown)?)?;
        } else {
            say(table(&channels).trim_end())?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Stat {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let dir = self.place.run_dir.as_deref();
        let mut before = (look(dir, &self.name)?.ok_or_else(|| self.absent())?, Instant::now());
        loop {
            std::thread::sleep(self.watch.unwrap_or(GLANCE));
            let Some(channel) = look(dir, &self.name)? else {
                return if self.watch.is_some() { Ok(ExitCode::SUCCESS) } else { Err(self.absent()) };
            };
            let rate = Rate::between(&before.0, &channel, before.1.elapsed());
            before = (channel, Instant::now());
            let text =
                if self.json { serde_json::to_string(&shown(&before.0, Some(rate)))? } else { page(&before.0, rate) };
            if !say(text)? || self.watch.is_none() {
                return Ok(ExitCode::SUCCESS);
            }
        }
    }

    fn absent(&self) -> Failure {
        Failure::new(format!("there is no channel {:?}: see `ginnel channel ls`", self.name))
    }
}

impl Clean {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let cleaned = clean(self.place.run_dir.as_deref())?;
        if self.json {
            say(serde_json::json!({ "channels": cleaned.channels, "strays": cleaned.strays }))?;
            return Ok(ExitCode::SUCCESS);
        }
        for name in &cleaned.channels {
            say(format_args!("removed channel {name}: its writer is dead"))?;
        }
        for file in &cleaned.strays {
            say(format_args!("removed {file}: it belonged to no channel"))?;
        }
        if cleaned.channels.is_empty() && cleaned.strays.is_empty() {
            say("nothing to remove")?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn look(dir: Option<&Path>, name: &str) -> Result<Option<ChannelInfo>, Failure> {
    Ok(inspect(dir, name)?)
}

impl Rate {
    fn between(before: &ChannelInfo, after: &ChannelInfo, elapsed: Duration) -> Self {
        // Another writer has begun anew: everything it published is new.
        let same = before.writer == after.writer;
        let per_second = |before: u64, after: u64| {
            let new = if same { after.saturating_sub(before) } else { after };
            new as f64 / elapsed.as_secs_f64()
        };
        let records = before.published.zip(after.published).map(|(before, after)| per_second(before, after));
        Self { records, bytes: per_second(before.position, after.position) }
    }
}

fn shown(channel: &ChannelInfo, rate: Option<Rate>) -> Shown<'_> {
    let process = |identity: ginnel::channel::Identity| Process { pid: identity.pid, start: identity.start };
    let readers = channel.readers.iter().map(|reader| ShownReader {
        process: process(reader.process),
        sequence: reader.sequence,
        lag: reader.lag,
        missed: reader.missed,
        asleep: reader.asleep,
        welcomed: reader.welcomed,
        alive: reader.alive,
    });
    Shown {
        name: &channel.name,
        mode: mode(channel.mode),
        record: channel.record,
        max_record: channel.max_record,
        capacity: channel.capacity,
        writer: process(channel.writer),
        uid: channel.uid,
        alive: channel.alive,
        closed: channel.closed,
        position: channel.position,
        published: channel.published,
        max_readers: channel.max_readers,
        readers: readers.collect(),
        rate,
    }
}

fn table(channels: &[ChannelInfo]) -> String {
    let width = channels.iter().map(|channel| channel.name.len()).max().unwrap_or(0).max(7);
    let mut text = format!(
        "{:width$}  {:8}  {:>9}  {:>8}  {:6}  {:>7}  {:>10}\n",
        "CHANNEL", "MODE", "CAPACITY", "WRITER", "STATE", "READERS", "PUBLISHED"
    );
    for channel in channels {
        let published = channel.published.map_or_else(|| "?".to_owned(), |count| count.to_string());
        let _ = writeln!(
            text,
            "{:width$}  {:8}  {:>9}  {:>8}  {:6}  {:>7}  {:>10}",
            channel.name,
            mode(channel.mode),
            bytes(channel.capacity as f64),
            channel.writer.pid,
            state(channel),
            channel.readers.len(),
            published,
        );
    }
    text
}

fn page(channel: &ChannelInfo, rate: Rate) -> String {
    let published = channel.published.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let records = rate.records.map_or_else(|| "?".to_owned(), |records| format!("{records:.0}"));
    let record = match channel.record {
        Some(len) => format!("{len} bytes each"),
        None => format!("up to {} bytes", channel.max_record),
    };
    let mut text = format!(
        "channel   {}\nmode      {}\nrecord    {record}\ncapacity  {}\nwriter    {}, {} (uid {})\n\
         position  {published} records, {} bytes of ring\nrate      {records} records/s, {}/s of ring\nreaders   {} of {}",
        channel.name,
        mode(channel.mode),
        bytes(channel.capacity as f64),
        channel.writer,
        state(channel),
        channel.uid,
        channel.position,
        bytes(rate.bytes),
        channel.readers.len(),
        channel.max_readers,
    );
    for reader in &channel.readers {
        let state = match (reader.alive, reader.asleep) {
            (Some(false), _) => "dead",
            (None, _) => "unknown",
            (Some(true), true) => "asleep",
            (Some(true), false) => "awake",
        };
        let welcomed =
            if reader.welcomed || reader.alive == Some(false) { "" } else { " (the writer has not welcomed it yet)" };
        let _ = write!(
            text,
            "\n  {}, {state}{welcomed}: next record {}, {} behind, {} missed",
            reader.process,
            reader.sequence,
            bytes(reader.lag as f64),
            reader.missed
        );
    }
    text
}

fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Lossy => "lossy",
        Mode::Lossless => "lossless",
        Mode::Latest => "latest",
        _ => "unknown",
    }
}

fn state(channel: &ChannelInfo) -> &'static str {
    match channel.alive {
        Some(false) => "dead",
        _ if channel.closed => "closed",
        Some(true) => "alive",
        None => "?",
    }
}

/// A number of bytes for people.
fn bytes(count: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = (count, 0);
    while scaled.0 >= 1024.0 && scaled.1 + 1 < units.len() {
        scaled = (scaled.0 / 1024.0, scaled.1 + 1);
    }
    let digits = usize::from(scaled.1 > 0 && scaled.0.fract() != 0.0);
    format!("{:.digits$} {}", scaled.0, units[scaled.1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_shown_in_the_largest_fitting_unit() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(1023.0), "1023 B");
        assert_eq!(bytes(4096.0), "4 KiB");
        assert_eq!(bytes(1.5 * 1024.0 * 1024.0), "1.5 MiB");
    }
}
