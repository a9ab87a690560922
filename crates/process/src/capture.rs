//! Running a command to its end with everything it writes, in bounded memory and without a deadlock.
//!
//! [`Capture`] is what both faces share: it takes from streams that are ready and gives to stdin. Here it is driven by
//! `poll`, in
//! `aio` by a runtime.

use crate::child::Child;
use crate::command::Command;
use crate::error::{RunError, WaitError};
use crate::frame::cause;
use crate::input::{self, Input, Tee, Trouble};
use crate::link::Link;
use crate::report::ExitReport;
use crate::streams::{ChildStdin, Counted, Which};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::sync::Arc;
use std::time::Instant;

/// What a command wrote, and how it ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Output {
    /// What it wrote to stdout (or the terminal), up to the capture limit.
    pub stdout: Vec<u8>,
    /// What it wrote to stderr, up to the capture limit.
    pub stderr: Vec<u8>,
    /// How it ended. Its `discarded` counts say what the limit cut off.
    pub report: ExitReport,
}

impl Output {
    /// Whether anything was cut off by the capture limit.
    #[must_use]
    pub fn truncated(&self) -> bool {
        self.report.stdout.discarded + self.report.stderr.discarded > 0
    }

    /// This output, if the command ended with code 0.
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// let error = Command::new("sh").args(["-c", "echo no such planet >&2; exit 3"]).run()?.ok().unwrap_err();
    /// assert_eq!(error.report.code(), Some(3));
    /// assert_eq!(error.to_string(), "the command failed: exit code 3: no such planet");
    /// # Ok::<(), ginnel_process::RunError>(())
    /// ```
    ///
    /// # Errors
    /// [`Unsuccessful`](crate::Unsuccessful), with the report and the last line of stderr.
    pub fn ok(self) -> Result<Output, crate::Unsuccessful> {
        if self.report.success() {
            return Ok(self);
        }
        Err(crate::Unsuccessful::new(self.report, &self.stderr))
    }
}

/// One stream that is read to its end.
#[derive(Debug)]
pub(crate) struct Sink {
    stream: Counted,
    which: Which,
    kept: Vec<u8>,
    most: usize,
    tee: Option<Tee>,
}

/// What a pipe holds by default.
pub(crate) const CHUNK: usize = 64 * 1024;

impl Sink {
    /// One read; false at the end.
    pub(crate) fn take(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let len = self.stream.read(buf)?;
        let room = len.min(self.most - self.kept.len());
        self.kept.extend_from_slice(&buf[..room]);
        self.stream.discard(len - room);
        if let Some(tee) = self.tee.as_ref().filter(|_| len > 0) {
            tee.write(&buf[..len])?;
        }
        Ok(len > 0)
    }
}

impl AsFd for Sink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Sink {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// What is still to be written to stdin.
#[derive(Debug)]
pub(crate) struct Feed {
    stream: ChildStdin,
    input: Arc<[u8]>,
    at: usize,
}

impl Feed {
    /// One write; false when there is no more to do. A command that does not want its input is no error.
    pub(crate) fn give(&mut self) -> io::Result<bool> {
        match self.stream.0.write(&self.input[self.at..]) {
            Ok(len) => self.at += len,
            // So a pipe, and so a terminal.
            Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::PIPE | Errno::IO)) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(self.at < self.input.len())
    }
}

impl AsFd for Feed {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl AsRawFd for Feed {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// The streams of a command that is run to its end.
#[derive(Debug, Default)]
pub(crate) struct Capture {
    pub(crate) sinks: Vec<Sink>,
    pub(crate) feed: Option<Feed>,
    trouble: Option<Trouble>,
}

impl Capture {
    /// Takes what is to be captured from `last`, and gives the input to `first`: two ends of a pipeline, or one
    /// command.
    pub(crate) fn new(
        command: &Command,
        input: Option<&Input>,
        first: Option<&mut Child>,
        last: &mut Child,
    ) -> io::Result<Capture> {
        let mut capture = Capture::default();
        let child = match first {
            Some(first) => first,
            None => &mut *last,
        };
        let stdin = match (child.stdin.take(), child.pty.as_ref(), input) {
            (Some(stdin), ..) => Some(stdin),
            (None, Some(pty), Some(_)) => Some(ChildStdin(pty.read.try_clone()?)),
            _ => None,
        };
        match (stdin, input) {
            (Some(stream), Some(Input::Bytes(bytes))) => {
                let end = child.pty.as_ref().map(|pty| pty.end_of(bytes));
                let input = end.map_or_else(|| Arc::clone(bytes), |end| [bytes, end.as_slice()].concat().into());
                // A write to a pipe with less room than asked for would wait, and nobody would read meanwhile.
                nonblocking(&stream)?;
                capture.feed = (!input.is_empty()).then_some(Feed { stream, input, at: 0 });
            }
            (Some(stream), Some(Input::Reader(once))) => {
                let reader =
                    once.take().ok_or_else(|| io::Error::other("the reader of its input was used up before"))?;
                capture.trouble = Some(input::feed(reader, stream, child.handle())?);
            }
            _ => {}
        }
        capture.sinks = sinks(last, command.capture_limit, &command.tees);
        Ok(capture)
    }

    /// Everything is read and thrown away.
    pub(crate) fn nothing(child: &mut Child) -> Capture {
        Capture { sinks: sinks(child, 0, &[None, None]), ..Capture::default() }
    }

    /// These streams are read and thrown away.
    #[cfg(feature = "tokio")]
    pub(crate) fn of(streams: Vec<(Counted, Which)>) -> Capture {
        let sink = |(stream, which)| Sink { stream, which, kept: Vec::new(), most: 0, tee: None };
        Capture { sinks: streams.into_iter().map(sink).collect(), ..Capture::default() }
    }

    /// What was kept of stdout and stderr.
    pub(crate) fn kept(mut self) -> [Vec<u8>; 2] {
        [Which::Stdout, Which::Stderr].map(|which| {
            let index = self.sinks.iter().position(|sink| sink.which == which);
            index.map(|index| self.sinks.swap_remove(index).kept).unwrap_or_default()
        })
    }

    /// Why the input ended too early, if it did.
    pub(crate) fn trouble(&self) -> Option<io::Error> {
        self.trouble.as_ref().and_then(Trouble::take)
    }
}

pub(crate) fn nonblocking(fd: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

pub(crate) fn run(command: &Command) -> Result<Output, RunError> {
    let mut child = command.spawn()?;
    let result = fill(command, command.input.as_ref(), None, &mut child);
    if result.is_err() {
        child.handle().kill();
    }
    let report = child.wait();
    conclude(result?, report)
}

/// Reads all that is to be captured. What fails leaves the tree to the caller.
pub(crate) fn fill(
    command: &Command,
    input: Option<&Input>,
    first: Option<&mut Child>,
    last: &mut Child,
) -> io::Result<Capture> {
    let mut capture = Capture::new(command, input, first, last)?;
    let link = Arc::clone(last.link());
    let result = pump(&link, &mut capture);
    capture.feed = None;
    match result {
        // The output limit is an end like the timeout, told by the report; what was captured until then stands.
        Err(error) if !link.traffic.exceeded() => Err(error),
        _ => Ok(capture),
    }
}

pub(crate) fn conclude(capture: Capture, report: Result<ExitReport, WaitError>) -> Result<Output, RunError> {
    if let Some(error) = capture.trouble() {
        return Err(error.into());
    }
    let [stdout, stderr] = capture.kept();
    Ok(Output { stdout, stderr, report: report? })
}

/// Reads what nobody wants to its end.
pub(crate) fn discard(child: &mut Child) {
    let mut capture = Capture::nothing(child);
    let link = Arc::clone(child.link());
    while let Err(error) = pump(&link, &mut capture) {
        tracing::debug!(%error, "reading what nobody wants");
        if !link.traffic.exceeded() {
            link.stop(cause::STOPPED, None, false);
        }
        // The stream that failed is of no use; closing it lets the command notice.
        capture.sinks.clear();
    }
}

fn sinks(child: &mut Child, most: usize, tees: &[Option<Tee>; 2]) -> Vec<Sink> {
    let terminal = child.pty.take().map(|pty| pty.read);
    let stdout = terminal.or(child.stdout.take().map(|stream| stream.0));
    let stderr = child.stderr.take().map(|stream| stream.0);
    let [first, second] = tees.clone();
    let sink = |stream, which, tee| Sink { stream, which, kept: Vec::new(), most, tee };
    let sinks = [
        stdout.map(|stream| sink(stream, Which::Stdout, first)),
        stderr.map(|stream| sink(stream, Which::Stderr, second)),
    ];
    sinks.into_iter().flatten().collect()
}

/// Not ready, although it looked so.
pub(crate) fn again(result: io::Result<bool>) -> io::Result<bool> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(true),
        result => result,
    }
}

/// Reads and writes whatever is ready until all streams have ended, or the shepherd has and nothing is left to read: a
/// process that was left behind on purpose may hold a pipe open for ever.
fn pump(link: &Link, capture: &mut Capture) -> io::Result<()> {
    let Capture { sinks, feed, .. } = capture;
    let mut buf = vec![0; CHUNK];
    let mut open: Vec<bool> = vec![true; sinks.len()];
    let mut ended = false;
    while open.contains(&true) || (feed.is_some() && !ended) {
        let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(5);
        watched.push(PollFd::new(&link.shepherd, PollFlags::IN));
        // Its report comes this way, also from one that the kernel does not let go; and nothing more, once it was
        // killed.
        let heard = !link.is_lost();
        watched.extend(heard.then(|| PollFd::from_borrowed_fd(link.socket(), PollFlags::IN)));
        let first = watched.len();
        let ready: Vec<usize> = (0..sinks.len()).filter(|index| open[*index]).collect();
        watched.extend(ready.iter().map(|index| PollFd::from_borrowed_fd(sinks[*index].stream.as_fd(), PollFlags::IN)));
        watched.extend(feed.iter().map(|feed| PollFd::new(&feed.stream, PollFlags::OUT)));
        let now = Instant::now();
        let left = if ended { Some(now) } else { link.next_look() }.map(|moment| moment.saturating_duration_since(now));
        let timeout = left.and_then(|left| rustix::event::Timespec::try_from(left).ok());
        match rustix::event::poll(&mut watched, timeout.as_ref()) {
            Err(Errno::INTR) => continue,
            result => result?,
        };
        let events: Vec<bool> = watched.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(watched);
        let mut moved = false;
        for (place, index) in ready.iter().enumerate() {
            if events[first + place] {
                moved = true;
                open[*index] = again(sinks[*index].take(&mut buf))?;
            }
        }
        if let Some(writer) = feed.as_mut()
            && events[first + ready.len()]
            && !again(writer.give())?
        {
            *feed = None;
        }
        if ended && !moved {
            break;
        }
        let asked = (heard && events[1]) || !events.contains(&true);
        ended = ended || events[0] || (asked && link.wait(Some(now)));
    }
    Ok(())
}
