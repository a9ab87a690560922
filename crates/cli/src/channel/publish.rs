//! `ginnel channel pub`: standard input becomes records.

use super::framing::{Cut, Framing};
use super::{ModeName, Place};
use crate::interrupt::Interrupt;
use crate::outcome::{Failure, complain};
use crate::quantity;
use clap::Args;
use ginnel::channel::{OnFull, PublishError, Writer};
use rustix::io::Errno;
use rustix::stdio::stdin;
use std::process::ExitCode;
use std::time::Duration;

/// How much is read from standard input at a time.
const CHUNK: usize = 256 << 10;
/// How often a wait that only another process can end looks for Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Arguments of `ginnel channel pub`.
#[derive(Args)]
#[command(after_help = "\
A record is a line with its newline; a longer line than --max-record becomes several records (with --mode latest: an error).
With --framed a record is any bytes, each behind its length (4 bytes, little-endian).

A lossless pub waits for its first reader, and ends when its readers have read everything. It fails when the last one leaves while
there is more to publish; with --keep it waits for another instead.

Examples:
  ginnel channel pub log --mode lossless < big.txt     one reader at least gets every byte
  vmstat 1 | ginnel channel pub vmstat                 who is too slow misses lines and is told how many
  echo '{\"on\":true}' | ginnel channel pub settings --mode latest --keep

Exit codes:
  0    everything was published, and (lossless) read by every reader that stayed
  1    it failed; or the last reader of a lossless channel left before the end
  2    the command line is wrong
  130  ended by Ctrl-C (143: by SIGTERM); the channel was closed properly")]
pub(super) struct Publish {
    /// The channel's name: 1 to 128 characters of A-Z a-z 0-9 . _ -
    name: String,
    /// What happens when a reader is too slow
    #[arg(long, value_enum, default_value = "lossy")]
    mode: ModeName,
    /// Read records of any bytes, each behind its length (4 bytes, little-endian), instead of lines
    #[arg(long)]
    framed: bool,
    /// Size of the ring in bytes, or as 64K, 4M, 1G
    #[arg(long, value_name = "SIZE", value_parser = quantity::size, default_value = "4M")]
    capacity: u64,
    /// The longest record [default: a quarter of the capacity]
    #[arg(long, value_name = "SIZE", value_parser = quantity::size)]
    max_record: Option<u64>,
    /// Wait for so many readers before the first record [default: 1 if lossless, else 0]
    #[arg(long, value_name = "N")]
    readers: Option<usize>,
    /// Keep the channel after the end of the input, until Ctrl-C
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    place: Place,
}

/// Why publishing ends before the input does.
enum Stop {
    Interrupted,
    Failed(Failure),
}

impl<E: Into<Failure>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Publish {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let interrupt = Interrupt::watch()?;
        // Full is an answer here, not a wait: a wait must notice Ctrl-C.
        let mut settings =
            Writer::builder().mode(self.mode.into()).capacity(self.capacity as usize).on_full(OnFull::Fail);
        if let Some(max) = self.max_record {
            settings = settings.max_record(max as usize);
        }
        if let Some(dir) = &self.place.run_dir {
            settings = settings.run_dir(dir);
        }
        let writer: Writer<[u8]> = settings.create(&self.name)?;
        let lossless = self.mode == ModeName::Lossless;
        let framing = match self.framed {
            true => Framing::Frames,
            false => Framing::Lines { split: self.mode != ModeName::Latest },
        };
        let readers = self.readers.unwrap_or(usize::from(lossless));
        let mut publisher = Publisher { writer, interrupt, framing, lossless, keep: self.keep };
        match publisher.all(readers) {
            Ok(()) => Ok(ExitCode::SUCCESS),
            Err(Stop::Interrupted) => Ok(publisher.interrupt.code()),
            Err(Stop::Failed(failure)) => Err(failure),
        }
    }
}

struct Publisher {
    writer: Writer<[u8]>,
    interrupt: Interrupt,
    framing: Framing,
    lossless: bool,
    /// Whether the channel stays when its readers do not.
    keep: bool,
}

impl Publisher {
    fn all(&mut self, readers: usize) -> Result<(), Stop> {
        self.wait_for_readers(readers)?;
        self.publish_input()?;
        if self.keep {
            // So many never come: this waits for Ctrl-C, and welcomes readers meanwhile.
            self.wait_for_readers(usize::MAX)?;
        }
        if self.lossless { self.deliver() } else { Ok(()) }
    }

    fn publish_input(&mut self) -> Result<(), Stop> {
        let max = self.writer.max_record();
        let mut buffer = vec![0; CHUNK + self.framing.longest(max)];
        let (mut filled, mut ended) = (0, false);
        while !ended {
            if !self.interrupt.readable(stdin())? {
                return Err(Stop::Interrupted);
            }
            match rustix::io::read(stdin(), &mut buffer[filled..]) {
                Ok(0) => ended = true,
                Ok(read) => filled += read,
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(error) => return Err(Failure::new(format!("cannot read standard input: {error}")).into()),
            }
            let taken = self.publish_records(&buffer[..filled], max, ended)?;
            buffer.copy_within(taken..filled, 0);
            filled -= taken;
        }
        if filled > 0 {
            let message = format!("the input ends inside a record, {filled} bytes after record {}", self.published());
            return Err(Failure::new(message).into());
        }
        Ok(())
    }

    /// Publishes the whole records at the beginning of `input`; returns how many bytes they took.
    fn publish_records(&mut self, input: &[u8], max: usize, ended: bool) -> Result<usize, Stop> {
        // Whether anybody reads is looked at before a part of the ring is used again, however small the ring is.
        let part = max / 4;
        let mut taken = 0;
        loop {
            if self.lossless && taken < input.len() && self.writer.readers()? == 0 {
                if self.writer.counters().joined > 0 {
                    if !self.keep {
                        return Err(self.left().into());
                    }
                    complain("the last reader left: waiting for another");
                }
                self.wait_for_readers(1)?;
            }
            let until = taken + part;
            let mut batch = self.writer.batch();
            let blocked = loop {
                if taken > until {
                    break None;
                }
                match self.framing.cut(&input[taken..], max, ended) {
                    Cut::More => {
                        batch.publish()?;
                        return Ok(taken);
                    }
                    Cut::TooLong { len } => {
                        batch.publish()?;
                        return Err(self.too_long(len, max).into());
                    }
                    Cut::Record { payload, consumed } => match batch.push(payload) {
                        Ok(()) => taken += consumed,
                        Err(PublishError::Full { .. }) => {
                            taken += consumed;
                            break Some(payload);
                        }
                        Err(error) => return Err(error.into()),
                    },
                }
            };
            batch.publish()?;
            if let Some(record) = blocked {
                self.publish_patiently(record)?;
            }
        }
    }

    /// Publishes a record that there was no room for.
    fn publish_patiently(&mut self, record: &[u8]) -> Result<(), Stop> {
        loop {
            self.look()?;
            match self.writer.publish_timeout(record, LOOK_EVERY) {
                Err(PublishError::Timeout { .. }) => {}
                other => return Ok(other?),
            }
        }
    }

    fn wait_for_readers(&mut self, readers: usize) -> Result<(), Stop> {
        while !self.writer.wait_for_readers(readers, LOOK_EVERY)? {
            self.look()?;
        }
        Ok(())
    }

    /// Waits until the readers have read everything.
    fn deliver(&mut self) -> Result<(), Stop> {
        while !self.writer.drain(LOOK_EVERY)? {
            self.look()?;
        }
        if self.published() > 0 && self.writer.readers()? == 0 {
            // A reader leaves when it sees the end, and that it has not seen yet.
            return Err(self.left().into());
        }
        Ok(())
    }

    fn left(&self) -> Failure {
        Failure::new(format!(
            "the last reader of {:?} left before the end: it may not have read all of the {} records",
            self.writer.name().unwrap_or_default(),
            self.published()
        ))
    }

    fn look(&self) -> Result<(), Stop> {
        if self.interrupt.came() { Err(Stop::Interrupted) } else { Ok(()) }
    }

    fn published(&self) -> u64 {
        self.writer.counters().records
    }

    fn too_long(&self, len: usize, max: usize) -> Failure {
        let number = self.published() + 1;
        Failure::new(match self.framing {
            Framing::Frames => {
                format!("record {number} claims {len} bytes, more than the limit of {max}: raise --max-record")
            }
            Framing::Lines { .. } => {
                format!("line {number} is longer than the limit of {max} bytes for a value: raise --max-record")
            }
        })
    }
}
