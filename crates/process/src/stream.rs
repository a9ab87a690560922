//! A command's output line by line.

use crate::child::Child;
use crate::command::Command;
use crate::error::{SpawnError, WaitError};
use crate::report::ExitReport;
use crate::streams::Counted;
use std::io::{self, BufRead, BufReader, Read};
use std::time::Duration;

/// The lines of a running command's stdout (or terminal), read only as they are asked for. Dropping it kills the tree and waits for that.
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
    child: Child,
    failed: bool,
}

#[derive(Debug)]
struct Source(Counted);

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

/// A line longer than this is an error: a command that never ends its line must not fill the memory.
const LONGEST: u64 = 16 << 20;
/// Killing takes microseconds; a kernel that holds a process back is left to the watch.
const PATIENCE: Duration = Duration::from_secs(5);

impl Lines {
    pub(crate) fn start(command: &Command) -> Result<Lines, SpawnError> {
        let mut child = command.spawn()?;
        let stdout = child.stdout.take().map(|stream| stream.0);
        let source = stdout.or(child.pty.take().map(|pty| pty.read));
        let source = source.ok_or_else(|| SpawnError::Invalid {
            program: command.program.clone(),
            reason: "there is no stdout to read lines from".to_owned(),
        })?;
        Ok(Lines { reader: BufReader::new(Source(source)), child, failed: false })
    }

    /// The command behind the lines.
    #[must_use]
    pub fn child(&self) -> &Child {
        &self.child
    }

    /// Waits for the end, throwing away what was not read, and reports.
    ///
    /// # Errors
    /// As [`Child::wait`].
    pub fn finish(mut self) -> Result<ExitReport, WaitError> {
        let _ = io::copy(&mut self.reader, &mut io::sink());
        self.child.wait()
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
        if self.child.link().is_ours() {
            self.child.handle().kill();
            let _ = self.child.wait_timeout(PATIENCE);
        }
    }
}
