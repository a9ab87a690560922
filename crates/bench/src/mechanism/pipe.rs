//! Two pipes, with names or without.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::plan::Plan;
use crate::port::{Port, read_whole, write_whole};
use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{CWD, Mode, OFlags, mknodat, open};
use rustix::pipe::{PipeFlags, fcntl_getpipe_size, fcntl_setpipe_size, pipe_with};
use std::io;
use std::path::Path;

/// One pipe in each direction.
pub(super) struct Pipe {
    pub(super) named: bool,
}

/// Where to read and where to write.
pub(super) struct End {
    reader: Port,
    writer: Port,
    buffer: Option<u64>,
}

impl Mechanism for Pipe {
    type End = End;

    fn facts(&self) -> Facts {
        let facts = if self.named {
            Facts::new("fifo", "two FIFOs in the run directory")
        } else {
            Facts::new("pipe", "two anonymous pipes")
        };
        Facts { has_buffer: true, ..facts }
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let (reader, writer) = match (self.named, role) {
            (false, Role::Server) => {
                let (reader, to_us) = pipe_with(PipeFlags::CLOEXEC)?;
                let (from_us, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                link.give(&(), &[from_us.as_fd(), to_us.as_fd()])?;
                (reader, writer)
            }
            (false, Role::Client) => {
                let [reader, writer] = link.take_fds()?;
                (reader, writer)
            }
            (true, role) => self.by_name(role, link)?,
        };
        let buffer = apply(&reader, link.plan())?;
        Ok(End { reader: link.port(reader)?, writer: link.port(writer)?, buffer })
    }
}

impl Pipe {
    /// The names exist until the client says that it has opened them.
    fn by_name(&self, role: Role, link: &mut Link<'_>) -> io::Result<(OwnedFd, OwnedFd)> {
        let (to_server, to_client) = (link.path("s")?, link.path("c")?);
        if role == Role::Client {
            link.take::<()>()?;
            let ends = (open_fifo(&to_client)?, open_fifo(&to_server)?);
            link.give(&(), &[])?;
            return Ok(ends);
        }
        let made = [&to_server, &to_client]
            .iter()
            .try_for_each(|path| mknodat(CWD, *path, rustix::fs::FileType::Fifo, Mode::RUSR | Mode::WUSR, 0));
        let ends = made.map_err(io::Error::from).and_then(|()| {
            let ends = (open_fifo(&to_server)?, open_fifo(&to_client)?);
            link.give(&(), &[])?;
            link.take::<()>()?;
            Ok(ends)
        });
        for path in [&to_server, &to_client] {
            let _ = std::fs::remove_file(path); // it may not even have been made
        }
        ends
    }
}

/// For reading and writing: neither end waits for the other to open it.
fn open_fifo(path: &Path) -> io::Result<OwnedFd> {
    Ok(open(path, OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?)
}

/// Sets the buffer if one is asked for, and reads it back.
fn apply(pipe: &OwnedFd, plan: &Plan) -> io::Result<Option<u64>> {
    let Some(bytes) = plan.buffer else { return Ok(None) };
    fcntl_setpipe_size(pipe, bytes)?;
    Ok(Some(fcntl_getpipe_size(pipe)? as u64))
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        write_whole(&self.writer, message).await
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        read_whole(&self.reader, message).await
    }

    fn buffer(&self) -> Option<u64> {
        self.buffer
    }
}
