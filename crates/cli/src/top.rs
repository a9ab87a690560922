//! `ginnel top`: all servers and clients of this user, live.

use crate::interrupt::Interrupt;
use crate::outcome::{Failure, conclude, say};
use crate::quantity;
use crate::service::Place;
use crate::service::row::{Row, Sample};
use clap::{Args, ValueEnum};
use ginnel_base::Deadline;
use ginnel_service::introspect::Introspection;
use rustix::io::Errno;
use screen::{Key, Screen};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

mod frame;
mod screen;

/// The first rates are there after this, whatever the interval is.
const FIRST: Duration = Duration::from_millis(300);

/// Show all servers and clients of this user, live.
#[derive(Args)]
#[command(after_help = "\
Keys: q or Ctrl-C ends, s sorts by the next column, r reverses.
Where standard output is no terminal, one table is printed each time, without colour.

Looking costs the endpoints nothing: they publish what they do in shared memory, ten times a second at most.
SESS: open sessions. BUSY: requests without an answer. P50, P99: how long handlers (of a client: calls) took.
STATE: alive, drain (it takes no more connections), dead, ? (this user may not ask).

Examples:
  ginnel top
  ginnel top --sort latency --interval 500ms
  ginnel top --count 1 | sort

Exit codes: 0 ended by q or Ctrl-C or --count, 1 it failed, 2 the command line is wrong,
128 + N ended by signal N (143 for TERM)")]
pub(crate) struct Top {
    /// How often the screen is made anew
    #[arg(long, short = 'd', value_name = "TIME", value_parser = interval, default_value = "1s")]
    interval: Duration,
    /// End after this many times
    #[arg(long, short = 'n', value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// What comes first: the largest of these (service, pid: the smallest)
    #[arg(long, short, value_enum, default_value_t)]
    sort: Sort,
    /// The other way round
    #[arg(long, short)]
    reverse: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Sort {
    /// Requests per second
    #[default]
    Requests,
    /// Failures per second
    Failures,
    /// Bytes per second, in and out
    Bytes,
    /// The time within which 99 % of the handlers were done
    Latency,
    /// Open sessions
    Sessions,
    /// The service's name
    Service,
    /// The process id
    Pid,
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = quantity::duration(text)?;
    if interval < Duration::from_millis(50) { Err("the least is 50ms".to_owned()) } else { Ok(interval) }
}

impl Sort {
    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    fn next(self) -> Self {
        let all = Self::value_variants();
        let at = all.iter().position(|sort| *sort == self).unwrap_or(0);
        all[(at + 1) % all.len()]
    }

    fn apply(self, rows: &mut [Row], reverse: bool) {
        // So that equal ones do not change places from one screen to the next.
        rows.sort_by(|a, b| (&a.service, a.side, a.pid, &a.name).cmp(&(&b.service, b.side, b.pid, &b.name)));
        let largest = |key: fn(&Row) -> f64| move |a: &Row, b: &Row| key(b).total_cmp(&key(a));
        match self {
            Self::Requests => rows.sort_by(largest(|row| row.rate.requests)),
            Self::Failures => rows.sort_by(largest(|row| row.rate.failures)),
            Self::Bytes => rows.sort_by(largest(|row| row.rate.bytes_in + row.rate.bytes_out)),
            Self::Latency => rows.sort_by(largest(|row| row.p99.unwrap_or_default().as_secs_f64())),
            Self::Sessions => rows.sort_by(largest(|row| row.figures.active as f64)),
            Self::Pid => rows.sort_by_key(|row| row.pid),
            Self::Service => {}
        }
        if reverse {
            rows.reverse();
        }
    }
}

impl Top {
    pub(crate) fn run(self) -> ExitCode {
        conclude(self.watch())
    }

    fn watch(mut self) -> Result<ExitCode, Failure> {
        let cannot = |what: &'static str| move |error: Errno| Failure::new(format!("cannot {what}: {error}"));
        // Before anything is changed that must be put back.
        let interrupt = Interrupt::watch()?;
        let mut before = self.look()?;
        let mut screen = std::io::stdout().is_terminal().then(|| Screen::open(&interrupt)).transpose()?;
        let mut shown = 0;
        let mut next = Deadline::after(FIRST.min(self.interval));
        let mut now = self.look()?;
        loop {
            // The first screen comes at once, without rates.
            if let Some(screen) = &mut screen {
                let mut rows = now.rows(&before);
                self.sort.apply(&mut rows, self.reverse);
                let size = screen.size();
                screen.show(&frame::frame(&rows, size, &self.sort.name(), screen.colour))?;
            }
            let key = match &mut screen {
                Some(screen) => screen.wait(next).map_err(cannot("wait for a key"))?,
                None => screen::sleep(&interrupt, next).map_err(cannot("wait"))?,
            };
            match key {
                Key::Signal => return Ok(interrupt.code()),
                Key::Quit => return Ok(ExitCode::SUCCESS),
                Key::Sort => self.sort = self.sort.next(),
                Key::Reverse => self.reverse = !self.reverse,
                Key::Other => {}
                Key::Time => {
                    before = std::mem::replace(&mut now, self.look()?);
                    next = Deadline::after(self.interval);
                    if screen.is_none() {
                        let mut rows = now.rows(&before);
                        self.sort.apply(&mut rows, self.reverse);
                        if !say(frame::plain(&rows))? {
                            return Ok(ExitCode::SUCCESS);
                        }
                    }
                    shown += 1;
                    if self.count.is_some_and(|count| shown >= count) {
                        return Ok(ExitCode::SUCCESS);
                    }
                }
            }
        }
    }

    fn look(&self) -> Result<Sample, Failure> {
        Ok(Sample::new(Introspection::list(self.place.run_dir.as_deref())?))
    }
}
