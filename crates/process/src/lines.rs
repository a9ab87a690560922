//! A command's output line by line.

use crate::child::Child;
use crate::command::Command;
use crate::error::{SpawnError, WaitError};
use crate::report::ExitReport;
use crate::stdio::Stdio;
use crate::streams::Which;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io;
use std::time::Duration;

/// From which stream a line came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// stdout, or the terminal.
    Stdout,
    /// stderr.
    Stderr,
}

/// A line of either stream, without its ending.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Line {
    /// Where it was written.
    pub source: Source,
    /// What was written.
    pub bytes: Vec<u8>,
}

impl Line {
    /// As text; what is no UTF-8 is replaced.
    #[must_use]
    pub fn text(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.bytes)
    }
}

/// A line longer than this is an error: a command that never ends its line must not fill the memory.
const LONGEST: usize = 16 << 20;
/// How much is read at a time.
pub(crate) const AHEAD: usize = 8 * 1024;
/// Killing takes microseconds; a kernel that holds a process back is left to the watch.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes in, lines out.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    bytes: Vec<u8>,
    /// What was handed out.
    start: usize,
    /// Up to here there is no end of a line.
    seen: usize,
    pub(crate) ended: bool,
}

impl Splitter {
    /// What one read gave; nothing is the end.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.ended |= bytes.is_empty();
        self.bytes.drain(..self.start);
        self.seen -= self.start;
        self.start = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next line without its ending; the last one may have none.
    pub(crate) fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let end = self.bytes[self.seen..].iter().position(|&byte| byte == b'\n').map(|at| self.seen + at);
        let Some(end) = end.or((self.ended && self.start < self.bytes.len()).then_some(self.bytes.len())) else {
            self.seen = self.bytes.len();
            if self.seen - self.start >= LONGEST {
                let message = format!("a line is longer than {LONGEST} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            return Ok(None);
        };
        let line = &self.bytes[self.start..end];
        let complete = end < self.bytes.len();
        let line = if complete { line.strip_suffix(b"\r").unwrap_or(line) } else { line }.to_vec();
        self.start = (end + 1).min(self.bytes.len());
        self.seen = self.start;
        Ok(Some(line))
    }

    /// Read, but not handed out.
    pub(crate) fn ahead(&self) -> usize {
        self.bytes.len() - self.start
    }
}

/// A line as text; what is no UTF-8 is an error.
pub(crate) fn strict(line: Vec<u8>) -> io::Result<String> {
    String::from_utf8(line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Starts a command whose lines are wanted.
pub(crate) fn prepare(command: &Command, both: bool) -> Command {
    let mut command = command.clone();
    if command.pty.is_none() {
        command.stdio[0].get_or_insert(Stdio::null());
        command.stdout(Stdio::piped());
        if both {
            command.stderr(Stdio::piped());
        }
    }
    command
}

/// A running command and what was read of it. Keeps the streams in the child, so that its `wait` reads what is left of
/// them.
#[derive(Debug)]
struct Reading {
    child: Child,
    stdout: Splitter,
    stderr: Splitter,
    both: bool,
    failed: bool,
}

impl Reading {
    fn start(command: &Command, both: bool) -> Result<Reading, SpawnError> {
        let mut child = prepare(command, both).spawn()?;
        // Nobody could write to it, and a command that reads it to the end would wait for ever.
        child.close_stdin();
        Ok(Reading { child, stdout: Splitter::default(), stderr: Splitter::default(), both, failed: false })
    }

    /// The next line of either stream. After an error there is no next.
    fn next(&mut self) -> Option<io::Result<Line>> {
        if self.failed {
            return None;
        }
        let line = self.line().transpose();
        self.failed = matches!(line, Some(Err(_)));
        line
    }

    fn line(&mut self) -> io::Result<Option<Line>> {
        let mut buf = [0; AHEAD];
        loop {
            if let Some(bytes) = self.stdout.line()? {
                return Ok(Some(Line { source: Source::Stdout, bytes }));
            }
            if let Some(bytes) = self.stderr.line()? {
                return Ok(Some(Line { source: Source::Stderr, bytes }));
            }
            let child = &mut self.child;
            let stdout = child.stdout.as_ref().map(|stream| &stream.0).or(child.pty.as_ref().map(|pty| &pty.read));
            let stdout = stdout.filter(|_| !self.stdout.ended);
            let stderr = child.stderr.as_ref().map(|stream| &stream.0).filter(|_| !self.stderr.ended);
            // Without anybody who wants it, stderr is read only while a line of stdout is waited for.
            let (which, stream) = match (stdout, stderr) {
                (None, None) => return Ok(None),
                (None, Some(_)) if !self.both => return Ok(None),
                (Some(stdout), None) => (Which::Stdout, stdout),
                (None, Some(stderr)) => (Which::Stderr, stderr),
                (Some(stdout), Some(stderr)) => {
                    let mut watched = [PollFd::new(stdout, PollFlags::IN), PollFd::new(stderr, PollFlags::IN)];
                    match rustix::event::poll(&mut watched, None) {
                        Err(Errno::INTR) => continue,
                        result => result?,
                    };
                    if watched[0].revents().is_empty() { (Which::Stderr, stderr) } else { (Which::Stdout, stdout) }
                }
            };
            let len = stream.read(&mut buf)?;
            match which {
                Which::Stderr if !self.both => {
                    stream.discard(len);
                    self.stderr.ended = len == 0;
                }
                Which::Stderr => self.stderr.push(&buf[..len]),
                _ => self.stdout.push(&buf[..len]),
            }
        }
    }

    fn finish(mut self) -> Result<ExitReport, WaitError> {
        let traffic = &self.child.link().traffic;
        traffic.discard(Which::Stdout, self.stdout.ahead());
        traffic.discard(Which::Stderr, self.stderr.ahead());
        self.child.wait()
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if self.child.link().is_ours() {
            self.child.handle().kill();
            let _ = self.child.wait_timeout(PATIENCE);
        }
    }
}

macro_rules! lines {
    ($(#[$doc:meta])* $name:ident, $item:ty, $map:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(Reading);

        impl $name {
            /// The command behind the lines.
            #[must_use]
            pub fn child(&self) -> &Child {
                &self.0.child
            }

            /// Waits for the end, throwing away what was not read (and counting it as such), and reports.
            ///
            /// # Errors
            /// As [`Child::wait`].
            pub fn finish(self) -> Result<ExitReport, WaitError> {
                self.0.finish()
            }
        }

        impl Iterator for $name {
            type Item = io::Result<$item>;

            /// The next line without its ending. After an error, for instance the output limit's, there is no next.
            fn next(&mut self) -> Option<Self::Item> {
                let line = self.0.next()?.and_then($map);
                self.0.failed |= line.is_err();
                Some(line)
            }
        }
    };
}

lines! {
    /// The lines of a running command's stdout (or terminal), read only as they are asked for. Dropping it kills the
    /// tree and waits for that.
    ///
    /// A stderr that is piped goes to nobody: while a line is waited for, it is read and thrown away (and counted as
    /// such), so that a command that writes to it gets on. To have it among the lines, use [`Stdio::merged`], or
    /// [`Command::stream_both`].
    ///
    /// A line that is no UTF-8 is an error and the last; see [`bytes`](Self::bytes) and [`lossy`](Self::lossy).
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// let mut lines = Command::new("yes").stream()?;
    /// assert_eq!(lines.next().unwrap()?, "y");
    /// drop(lines); // `yes` has ended here
    /// # Ok::<(), std::io::Error>(())
    /// ```
    Lines, String, |line| strict(line.bytes)
}

lines! {
    /// As [`Lines`], in bytes.
    ByteLines, Vec<u8>, |line| Ok(line.bytes)
}

lines! {
    /// As [`Lines`]; what is no UTF-8 is replaced by U+FFFD.
    LossyLines, String, |line| Ok(line.text().into_owned())
}

lines! {
    /// The lines of stdout and stderr, each with its [`Source`], in the order in which they are read. Between two
    /// streams the kernel keeps no order: a line of one may overtake one of the other. Otherwise as [`Lines`].
    ///
    /// ```
    /// use ginnel_process::{Command, Source};
    ///
    /// let lines = Command::new("sh").args(["-c", "echo out; echo err >&2"]).stream_both()?;
    /// let mut seen: Vec<(Source, String)> =
    ///     lines.map(|line| line.map(|line| (line.source, line.text().into_owned()))).collect::<Result<_, _>>()?;
    /// seen.sort_by_key(|(source, _)| *source == Source::Stderr);
    /// assert_eq!(seen, [(Source::Stdout, "out".to_owned()), (Source::Stderr, "err".to_owned())]);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    BothLines, Line, Ok
}

impl Lines {
    pub(crate) fn start(command: &Command) -> Result<Lines, SpawnError> {
        Reading::start(command, false).map(Lines)
    }

    /// The same lines in bytes.
    #[must_use]
    pub fn bytes(self) -> ByteLines {
        ByteLines(self.0)
    }

    /// The same lines as text, whatever their bytes are.
    ///
    /// ```
    /// use ginnel_process::Command;
    ///
    /// let mut lines = Command::new("printf").arg("gr\\374n\n").stream()?.lossy();
    /// assert_eq!(lines.next().unwrap()?, "gr\u{fffd}n");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn lossy(self) -> LossyLines {
        LossyLines(self.0)
    }
}

impl BothLines {
    pub(crate) fn start(command: &Command) -> Result<BothLines, SpawnError> {
        Reading::start(command, true).map(BothLines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for piece in pieces.iter().chain([&b"".as_slice()]) {
            splitter.push(piece);
            while let Some(line) = splitter.line().unwrap() {
                lines.push(line);
            }
        }
        assert_eq!(splitter.ahead(), 0);
        lines
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"one\r\n\ntwo\r\r\nthree\rno end\r";
        let wanted: [&[u8]; 4] = [b"one", b"", b"two\r", b"three\rno end\r"];
        for cut in 1..text.len() {
            let pieces: Vec<&[u8]> = text.chunks(cut).collect();
            assert_eq!(split(&pieces), wanted, "{cut}");
        }
        assert!(split(&[]).is_empty());
    }

    #[test]
    fn a_line_without_end_is_an_error() {
        let mut splitter = Splitter::default();
        splitter.push(&vec![b'x'; LONGEST - 1]);
        assert!(splitter.line().unwrap().is_none());
        splitter.push(b"x");
        splitter.line().unwrap_err();
    }
}
