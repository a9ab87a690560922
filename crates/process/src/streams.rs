//! The parent's ends of a command's streams: plain descriptors that count.

use crate::frame::cause;
use crate::link::Link;
use crate::pty::read_master;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Which stream a descriptor carries, as an index into the link's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
}

/// A descriptor whose traffic counts for the exit report and the output limit.
#[derive(Debug)]
pub(crate) struct Counted {
    fd: OwnedFd,
    link: Arc<Link>,
    which: Which,
    terminal: bool,
}

impl Counted {
    pub(crate) fn new(fd: OwnedFd, link: Arc<Link>, which: Which) -> Counted {
        Counted { fd, link, which, terminal: false }
    }

    pub(crate) fn terminal(fd: OwnedFd, link: Arc<Link>) -> Counted {
        Counted { fd, link, which: Which::Stdout, terminal: true }
    }

    pub(crate) fn try_clone(&self) -> io::Result<Counted> {
        Ok(Counted { fd: self.fd.try_clone()?, link: Arc::clone(&self.link), ..*self })
    }

    pub(crate) fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        let traffic = &self.link.traffic;
        let allowed = traffic.allowance(buf.len());
        if allowed == 0 {
            // Only one byte more makes it too much: output of exactly the limit is within it.
            let more = traffic.exceeded() || self.read_raw(&mut [0])? > 0;
            return if more { Err(self.too_much()) } else { Ok(0) };
        }
        let len = self.read_raw(&mut buf[..allowed])?;
        let within = traffic.count_output(self.which, len);
        if within < len {
            traffic.discard(self.which, len - within);
            let error = self.too_much();
            // What is within the limit is not lost; the next read tells.
            return if within == 0 { Err(error) } else { Ok(within) };
        }
        Ok(len)
    }

    fn too_much(&self) -> io::Error {
        self.link.traffic.exceed();
        self.link.stop(cause::OUTPUT_LIMIT, None, false);
        io::Error::other("the command wrote more than its output limit; it is being ended")
    }

    /// So many of the bytes read were wanted by nobody.
    pub(crate) fn discard(&self, len: usize) {
        self.link.traffic.discard(self.which, len);
    }

    fn read_raw(&self, buf: &mut [u8]) -> io::Result<usize> {
        if self.terminal {
            return Ok(read_master(&self.fd, buf)?);
        }
        Ok(rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut *buf))?)
    }

    pub(crate) fn write(&self, buf: &[u8]) -> io::Result<usize> {
        let len = rustix::io::retry_on_intr(|| rustix::io::write(&self.fd, buf))?;
        self.link.traffic.count(Which::Stdin, len);
        Ok(len)
    }
}

impl AsFd for Counted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

macro_rules! reader {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(pub(crate) Counted);

        impl Read for $name {
            fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
                self.0.read(buf)
            }
        }

        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.0.as_fd()
            }
        }

        impl From<$name> for OwnedFd {
            /// The bare descriptor, for instance to be another command's stdin. What is read from it is no longer
            /// counted.
            fn from(stream: $name) -> OwnedFd {
                stream.0.fd
            }
        }
    };
}

reader! {
    /// What a command writes to stdout. Blocking; nothing is read ahead. With `max_output`, a read past the limit is an
    /// error and ends the tree.
    ChildStdout
}
reader! {
    /// What a command writes to stderr. As [`ChildStdout`].
    ChildStderr
}

/// A command's stdin. Blocking: a command that does not read slows its writer down. Dropping it is end of file.
///
/// A command that has closed its stdin makes a write fail with `BrokenPipe` (in a program that, as Rust's do, ignores
/// `SIGPIPE`).
#[derive(Debug)]
pub struct ChildStdin(pub(crate) Counted);

impl Write for ChildStdin {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsFd for ChildStdin {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<ChildStdin> for OwnedFd {
    /// The bare descriptor, for instance to be another command's stdout. What is written to it is no longer counted.
    fn from(stream: ChildStdin) -> OwnedFd {
        stream.0.fd
    }
}
