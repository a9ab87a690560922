//! A command's output line by line.

use crate::child::Child;
use crate::command::Command;
use crate::error::{SpawnError, WaitError};
use crate::report::ExitReport;
use crate::streams::Which;
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

/// The lines of a running command's stdout (or terminal), read only as they are asked for. Dropping it kills the tree and waits for that.
///
/// A stderr that is piped goes to nobody: while a line is waited for, it is read and thrown away (and counted as such), so that a command
/// that writes to it gets on. To have it among the lines, use [`Stdio::merged`](crate::Stdio::merged).
///
/// ```
/// use ginnel_process::Command;
///
/// let mut lines = Command::new("yes").stream()?;
/// assert_eq!(lines.next().unwrap()?, "y");
/// drop(lines); // `yes` has ended here
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Lines {
    reader: BufReader<Source>,
    failed: bool,
}

/// Keeps the streams in the child, so that its `wait` reads what is left of them.
#[derive(Debug)]
struct Source(Child);

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let child = &mut self.0;
        let stdout = child.stdout.as_ref().map(|stream| &stream.0).or(child.pty.as_ref().map(|pty| &pty.read));
        let Some(stdout) = stdout else { return Ok(0) };
        while let Some(stderr) = &child.stderr {
            let mut watched = [PollFd::new(stdout, PollFlags::IN), PollFd::new(stderr, PollFlags::IN)];
            match rustix::event::poll(&mut watched, None) {
                Err(Errno::INTR) => continue,
                result => result?,
            };
            if !watched[0].revents().is_empty() {
                break;
            }
            let len = stderr.0.read(buf)?;
            stderr.0.discard(len);
            if len == 0 {
                child.stderr = None;
            }
        }
        stdout.read(buf)
    }
}

/// A line longer than this is an error: a command that never ends its line must not fill the memory.
const LONGEST: u64 = 16 << 20;
/// Killing takes microseconds; a kernel that holds a process back is left to the watch.
const PATIENCE: Duration = Duration::from_secs(5);

impl Lines {
    pub(crate) fn start(command: &Command) -> Result<Lines, SpawnError> {
        let mut child = command.spawn()?;
        // Nobody could write to it, and a command that reads it to the end would wait for ever.
        child.close_stdin();
        Ok(Lines { reader: BufReader::new(Source(child)), failed: false })
    }

    /// The command behind the lines.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.reader.get_ref().0
    }

    /// Waits for the end, throwing away what was not read (and counting it as such), and reports.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn finish(mut self) -> Result<ExitReport, WaitError> {
        let ahead = self.reader.buffer().len();
        let child = &mut self.reader.get_mut().0;
        child.link().traffic.discard(Which::Stdout, ahead);
        child.wait()
    }

    fn read_line(&mut self) -> io::Result<Option<String>> {
        let mut line = Vec::new();
        let len = self.reader.by_ref().take(LONGEST).read_until(b'\n', &mut line)?;
        if len as u64 == LONGEST && line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line is longer than {LONGEST} bytes")));
        }
        if len == 0 {
            return Ok(None);
        }
        if line.last() == Some(&b'\n') {
            line.pop();
            if line.last() == Some(&b'\r') {
                line.pop();
            }
        }
        let valid = String::from_utf8(line);
        valid.map(Some).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

impl Iterator for Lines {
    type Item = io::Result<String>;

    /// The next line without its ending. After an error, for instance the output limit's, there is no next.
    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let line = self.read_line().transpose();
        self.failed = matches!(line, Some(Err(_)));
        line
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let child = &mut self.reader.get_mut().0;
        if child.link().is_ours() {
            child.handle().kill();
            let _ = child.wait_timeout(PATIENCE);
        }
    }
}
