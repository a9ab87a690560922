//! Running a command to its end with everything it writes, in bounded memory and without a deadlock.

use crate::child::Child;
use crate::command::Command;
use crate::error::{RunError, WaitError};
use crate::frame::cause;
use crate::link::Link;
use crate::report::ExitReport;
use crate::streams::{ChildStdin, Counted, Which};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::AsFd;
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
}

/// One stream that is read to its end.
struct Sink {
    stream: Counted,
    which: Which,
    kept: Vec<u8>,
    most: usize,
}

/// What a pipe holds by default.
const CHUNK: usize = 64 * 1024;

impl Sink {
    fn new(stream: Counted, which: Which, most: usize) -> Sink {
        Sink { stream, which, kept: Vec::new(), most }
    }

    /// One read; false at the end.
    fn take(&mut self, buf: &mut [u8]) -> io::Result<bool> {
        let len = self.stream.read(buf)?;
        let room = len.min(self.most - self.kept.len());
        self.kept.extend_from_slice(&buf[..room]);
        self.stream.discard(len - room);
        Ok(len > 0)
    }
}

/// What is still to be written to stdin.
struct Feed {
    stream: ChildStdin,
    input: Arc<[u8]>,
    at: usize,
}

impl Feed {
    /// One write; false when there is no more to do. A command that does not want its input is no error.
    fn give(&mut self) -> io::Result<bool> {
        match self.stream.0.write(&self.input[self.at..]) {
            Ok(len) => self.at += len,
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        Ok(self.at < self.input.len())
    }
}

pub(crate) fn run(command: &Command) -> Result<Output, RunError> {
    let mut child = command.spawn()?;
    let mut feed = None;
    if let Some((stream, input)) = child.stdin.take().zip(command.input.clone())
        && !input.is_empty()
    {
        // A write to a pipe with less room than asked for would wait, and nobody would read meanwhile.
        rustix::fs::fcntl_setfl(&stream, rustix::fs::OFlags::NONBLOCK).map_err(io::Error::from)?;
        feed = Some(Feed { stream, input, at: 0 });
    }
    let mut sinks = sinks(&mut child, command.capture_limit);
    let link = Arc::clone(child.link());
    if let Err(error) = pump(&link, &mut sinks, &mut feed) {
        // The output limit is an end like the timeout, told by the report; what was captured until then stands.
        if !link.traffic.exceeded() {
            drop(sinks);
            child.handle().kill();
            let _ = child.wait();
            return Err(error.into());
        }
    }
    drop(feed);
    let [stdout, stderr] = [Which::Stdout, Which::Stderr].map(|which| {
        let index = sinks.iter().position(|sink| sink.which == which);
        index.map(|index| sinks.swap_remove(index).kept).unwrap_or_default()
    });
    drop(sinks);
    let report = child.wait().map_err(|error: WaitError| RunError::Wait(error))?;
    Ok(Output { stdout, stderr, report })
}

/// Reads what nobody wants to its end.
pub(crate) fn discard(child: &mut Child) {
    let mut sinks = sinks(child, 0);
    let link = Arc::clone(child.link());
    while let Err(error) = pump(&link, &mut sinks, &mut None) {
        tracing::debug!(%error, "reading what nobody wants");
        if !link.traffic.exceeded() {
            link.stop(cause::STOPPED, None, false);
        }
        // The stream that failed is of no use; closing it lets the command notice.
        sinks.clear();
    }
}

fn sinks(child: &mut Child, most: usize) -> Vec<Sink> {
    let terminal = child.pty.take().map(|pty| pty.read);
    let stdout = terminal.or(child.stdout.take().map(|stream| stream.0));
    let stderr = child.stderr.take().map(|stream| stream.0);
    let sinks = [
        stdout.map(|stream| Sink::new(stream, Which::Stdout, most)),
        stderr.map(|stream| Sink::new(stream, Which::Stderr, most)),
    ];
    sinks.into_iter().flatten().collect()
}

/// Reads and writes whatever is ready until all streams have ended, or the shepherd has and nothing is left to read: a process that was
/// left behind on purpose may hold a pipe open for ever.
fn pump(link: &Link, sinks: &mut [Sink], feed: &mut Option<Feed>) -> io::Result<()> {
    let mut buf = vec![0; CHUNK];
    let mut open: Vec<bool> = vec![true; sinks.len()];
    let mut ended = false;
    while open.contains(&true) || (feed.is_some() && !ended) {
        let mut watched: Vec<PollFd<'_>> = Vec::with_capacity(5);
        watched.push(PollFd::new(&link.shepherd, PollFlags::IN));
        // Its report comes this way, also from one that the kernel does not let go; and nothing more, once it was killed.
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
                open[*index] = sinks[*index].take(&mut buf)?;
            }
        }
        if let Some(writer) = feed.as_mut()
            && events[first + ready.len()]
            && !writer.give()?
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
