//! `ginnel channel sub`: records become standard output.

use super::Place;
use super::framing::Framing;
use crate::outcome::{Failure, complain};
use crate::quantity;
use clap::{Args, ValueEnum};
use ginnel::channel::{CloseCause, OpenError, Reader, RecvError, Spin, Start, Watch};
use ginnel_base::Deadline;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::stdio::stdout;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// How much is written to standard output at a time.
const CHUNK: usize = 256 << 10;
/// As good as for ever, and still a moment that a clock can tell.
const FOR_EVER: Duration = Duration::from_secs(u32::MAX as u64);
/// How often lags are reported while they go on.
const REPORT_EVERY: Duration = Duration::from_secs(1);

const MISSED: u8 = 3;
const TIMED_OUT: u8 = 4;

/// Arguments of `ginnel channel sub`.
#[derive(Args)]
#[command(after_help = "\
Waits until the channel exists. Writes the records as they are, one after the other: for a channel that `pub` feeds with
lines, exactly the bytes that it read. With --framed each record comes behind its length (4 bytes, little-endian).

Examples:
  ginnel channel sub log > copy.txt
  ginnel channel sub vmstat --from latest | head -5
  ginnel channel sub settings --count 1 --timeout 2

Exit codes:
  0  the writer closed the channel, --count was reached, or the reader of standard output went away
  1  it failed, or the writer died; what it had published was written
  2  the command line is wrong
  3  as 0, but records were overwritten before they were read (how many: see standard error)
  4  nothing came within --timeout")]
pub(super) struct Subscribe {
    /// The channel's name
    name: String,
    /// Where to begin: at the oldest record that is still there, or behind the newest
    #[arg(long, value_enum, default_value = "oldest")]
    from: From,
    /// End after N records
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Write each record behind its length (4 bytes, little-endian)
    #[arg(long)]
    framed: bool,
    /// Give up when the channel, or a next record, does not come for so long
    #[arg(long, value_name = "TIME", value_parser = quantity::duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    place: Place,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    Oldest,
    Latest,
}

impl Subscribe {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        // Ctrl-C may end this process at any time: a reader leaves nothing behind, and its writer is told by the
        // kernel.
        if self.count == Some(0) {
            return Ok(ExitCode::SUCCESS);
        }
        let start = if self.from == From::Latest { Start::Latest } else { Start::Oldest };
        let mut settings = Reader::builder().start(start).wait(self.timeout.unwrap_or(FOR_EVER));
        if let Some(dir) = &self.place.run_dir {
            settings = settings.run_dir(dir);
        }
        let reader: Reader<[u8]> = settings.open(&self.name).map_err(|error| match error {
            OpenError::Absent { .. } | OpenError::Dead { .. } => Failure::with_code(TIMED_OUT, error.to_string()),
            other => other.into(),
        })?;
        let framing = if self.framed { Framing::Frames } else { Framing::Lines { split: true } };
        let mut subscription = Subscription {
            reader,
            framing,
            wanted: self.count.unwrap_or(u64::MAX),
            timeout: self.timeout,
            idle_since: None,
            spin: Spin::default(),
            out: Vec::with_capacity(2 * CHUNK),
            lags: Lags::default(),
        };
        let ended = subscription.all();
        let missed = subscription.lags.conclude(&self.name, subscription.reader.counters().received);
        ended?;
        Ok(if missed > 0 { ExitCode::from(MISSED) } else { ExitCode::SUCCESS })
    }
}

struct Subscription {
    reader: Reader<[u8]>,
    framing: Framing,
    wanted: u64,
    timeout: Option<Duration>,
    idle_since: Option<Instant>,
    spin: Spin,
    out: Vec<u8>,
    lags: Lags,
}

impl Subscription {
    /// Writes until the end, or until nobody reads it any more.
    fn all(&mut self) -> Result<(), Failure> {
        let mut record = Vec::new();
        loop {
            match self.next(&mut record) {
                Ok(true) => {
                    self.put(&record)?;
                    let complete = self.reader.counters().received >= self.wanted;
                    if complete {
                        self.flush()?;
                        return Ok(());
                    }
                    if self.out.len() >= CHUNK && !self.flush()? {
                        return Ok(());
                    }
                }
                Ok(false) => {
                    if !self.flush()? || !self.sleep()? {
                        return Ok(());
                    }
                }
                Err(RecvError::Lagged { skipped }) => self.lags.add(skipped),
                Err(RecvError::Closed { cause: CloseCause::Closed }) => {
                    self.flush()?;
                    return Ok(());
                }
                Err(error) => {
                    self.flush()?;
                    let received = self.reader.counters().received;
                    return Err(Failure::new(format!("{error}; {received} records were received before")));
                }
            }
        }
    }

    /// Takes the next record, if there is one soon.
    #[inline]
    fn next(&mut self, record: &mut Vec<u8>) -> Result<bool, RecvError> {
        if self.reader.try_recv_into(record)? {
            return Ok(true);
        }
        if self.out.is_empty() {
            let reader = &mut self.reader;
            let look = || match reader.try_recv_into(record) {
                Ok(false) => None,
                other => Some(other),
            };
            return self.spin.until(look).unwrap_or(Ok(false));
        }
        Ok(false)
    }

    fn put(&mut self, record: &[u8]) -> Result<(), Failure> {
        self.idle_since = None;
        self.framing.put(record, &mut self.out).map_err(|_| {
            Failure::new(format!(
                "a record of {} bytes is too long for --framed, which has 4 bytes for it",
                record.len()
            ))
        })
    }

    /// Writes what has gathered; `false` if nobody reads standard output any more.
    fn flush(&mut self) -> Result<bool, Failure> {
        let mut rest = &self.out[..];
        while !rest.is_empty() {
            match rustix::io::write(stdout(), rest) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::PIPE) => return Ok(false),
                Err(Errno::INTR) => {}
                // Whoever shares our standard output has made it non-blocking.
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&stdout(), PollFlags::OUT)], None)),
                Err(error) => return Err(Failure::new(format!("cannot write to standard output: {error}"))),
            }
        }
        self.out.clear();
        Ok(true)
    }

    /// Sleeps until there is news; `false` if standard output is not read any more.
    fn sleep(&mut self) -> Result<bool, Failure> {
        let now = Instant::now();
        let idle_since = *self.idle_since.get_or_insert(now);
        let left = self.timeout.map(|timeout| timeout.saturating_sub(now - idle_since));
        if left == Some(Duration::ZERO) {
            let waited = self.timeout.unwrap_or_default().as_secs_f64();
            return Err(Failure::with_code(TIMED_OUT, format!("no record came within {waited} seconds")));
        }
        if self.reader.watch()? == Watch::Ready {
            return Ok(true);
        }
        let left = Deadline::after_some(left).timespec();
        let out = stdout();
        // No events are asked of standard output: its errors come unasked.
        let mut fds = [PollFd::new(&self.reader, PollFlags::IN), PollFd::new(&out, PollFlags::empty())];
        match poll(&mut fds, left.as_ref()) {
            Ok(_) => Ok(!fds[1].revents().contains(PollFlags::ERR)),
            Err(Errno::INTR) => Ok(true),
            Err(error) => Err(error.into()),
        }
    }
}

/// Counts what was missed, and tells standard error, though not each time.
#[derive(Default)]
struct Lags {
    missed: u64,
    reported: Option<Instant>,
}

impl Lags {
    fn add(&mut self, skipped: u64) {
        self.missed += skipped;
        if self.reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
            complain(format_args!("too slow: {} records missed so far", self.missed));
            self.reported = Some(Instant::now());
        }
    }

    /// Tells the total.
    fn conclude(&self, name: &str, received: u64) -> u64 {
        if self.missed > 0 {
            let Self { missed, .. } = self;
            complain(format_args!(
                "{missed} records of {name:?} were overwritten before they were read, {received} were received"
            ));
        }
        self.missed
    }
}
