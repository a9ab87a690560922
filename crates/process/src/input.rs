//! What a command is given to read, and who else hears what it writes.

use crate::child::Handle;
use crate::streams::ChildStdin;
use rustix::io::Errno;
use std::fmt;
use std::io::{self, Read, Write};
use std::sync::{Arc, Mutex, PoisonError};

/// What `run` writes to stdin.
#[derive(Clone, Debug)]
pub(crate) enum Input {
    /// The same for every run.
    Bytes(Arc<[u8]>),
    /// For one run.
    Reader(Once),
}

/// A reader that the first run takes.
#[derive(Clone)]
pub(crate) struct Once(Arc<Mutex<Option<Box<dyn Read + Send>>>>);

impl Once {
    pub(crate) fn new(reader: impl Read + Send + 'static) -> Once {
        Once(Arc::new(Mutex::new(Some(Box::new(reader)))))
    }

    pub(crate) fn take(&self) -> Option<Box<dyn Read + Send>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl fmt::Debug for Once {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Once(..)")
    }
}

/// Chunks one after the other, as a reader.
pub(crate) struct Chunks<I: Iterator> {
    chunks: I,
    current: Option<I::Item>,
    at: usize,
}

impl<I: Iterator> Chunks<I> {
    pub(crate) fn new(chunks: I) -> Chunks<I> {
        Chunks { chunks, current: None, at: 0 }
    }
}

impl<I: Iterator<Item: AsRef<[u8]>>> Read for Chunks<I> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(chunk) = &self.current {
                let left = &chunk.as_ref()[self.at..];
                if !left.is_empty() {
                    let len = left.len().min(buf.len());
                    buf[..len].copy_from_slice(&left[..len]);
                    self.at += len;
                    return Ok(len);
                }
            }
            (self.current, self.at) = (self.chunks.next(), 0);
            if self.current.is_none() {
                return Ok(0);
            }
        }
    }
}

/// Why a reader ended too early, once it has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Trouble(Arc<Mutex<Option<io::Error>>>);

impl Trouble {
    pub(crate) fn take(&self) -> Option<io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, error: io::Error) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
    }
}

/// A thread that writes what the reader has to the command, until either has enough. Nobody waits for it: a reader that
/// blocks would hold up the end of a command that needs nothing more. A reader that fails ends the tree.
pub(crate) fn feed(mut reader: Box<dyn Read + Send>, mut stdin: ChildStdin, handle: Handle) -> io::Result<Trouble> {
    let trouble = Trouble::default();
    let told = trouble.clone();
    ginnel_base::thread::spawn("ginnel-feed", move || {
        if let Err(error) = copy(&mut reader, &mut stdin) {
            told.put(error);
            handle.kill();
        }
    })?;
    Ok(trouble)
}

fn copy(reader: &mut dyn Read, stdin: &mut ChildStdin) -> io::Result<()> {
    let mut buf = vec![0; 64 * 1024];
    loop {
        let len = match reader.read(&mut buf) {
            Ok(0) => return Ok(()),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match stdin.write_all(&buf[..len]) {
            // A command that does not want its input is no error.
            Err(error) if error.raw_os_error() == Some(Errno::PIPE.raw_os_error()) => return Ok(()),
            result => result?,
        }
    }
}

/// Gets a copy of a stream.
#[derive(Clone)]
pub(crate) struct Tee(Arc<Mutex<Box<dyn Write + Send>>>);

impl Tee {
    pub(crate) fn new(writer: impl Write + Send + 'static) -> Tee {
        Tee(Arc::new(Mutex::new(Box::new(writer))))
    }

    pub(crate) fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        writer.write_all(bytes)?;
        writer.flush()
    }
}

impl fmt::Debug for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tee(..)")
    }
}
