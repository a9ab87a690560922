//! What wakes the sleeper of a ring session: a pipe, of which a byte is a ring.
//!
//! An eventfd would do with one descriptor, and lets a hostile peer block whoever rings it: both share one open file
//! description, the peer clears its `O_NONBLOCK` and fills the counter, and no flag of a single write can help. On a
//! pipe `RWF_NOWAIT` does.

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{FileType, OFlags};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::pipe::PipeFlags;
use std::io::{IoSlice, IoSliceMut};

/// Kernels before 6.4 do not know it for pipes: there `O_NONBLOCK` decides.
const NOWAIT: ReadWriteFlags = ReadWriteFlags::NOWAIT;
/// The offset of something that has none.
const HERE: u64 = u64::MAX;

/// Both ends of a new bell.
pub(super) fn bell() -> Result<(Ear, OwnedFd), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
    Ok((Ear(read), write))
}

/// The side that rings.
#[derive(Debug)]
pub(super) struct Ringer {
    write: OwnedFd,
    /// Never read. A write into a pipe without a reader raises SIGPIPE, which would end this process for its peer's
    /// death.
    _read: OwnedFd,
}

impl Ringer {
    pub(super) fn new(write: OwnedFd, read: OwnedFd) -> Self {
        Self { write, _read: read }
    }

    /// Wakes the peer. Never blocks; a full pipe is a bell that rings already.
    pub(super) fn ring(&self) {
        let one = [1];
        if rustix::io::pwritev2(&self.write, &[IoSlice::new(&one)], HERE, NOWAIT) == Err(Errno::OPNOTSUPP) {
            let _ = rustix::io::write(&self.write, &one);
        }
    }
}

/// The side that hears.
#[derive(Debug)]
pub(super) struct Ear(OwnedFd);

impl Ear {
    /// Takes what has been rung, or part of it. Never blocks.
    pub(super) fn drain(&self) {
        let mut rings = [0; 256];
        let read = rustix::io::preadv2(&self.0, &mut [IoSliceMut::new(&mut rings)], HERE, NOWAIT);
        if read == Err(Errno::OPNOTSUPP) {
            let _ = rustix::io::read(&self.0, &mut rings);
        }
    }

    pub(super) fn into_fd(self) -> OwnedFd {
        self.0
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What came from a peer, if it is the end of a pipe that `mode` says.
pub(super) fn end_of_pipe(fd: OwnedFd, mode: OFlags) -> Option<OwnedFd> {
    let stat = rustix::fs::fstat(&fd).ok()?;
    let flags = rustix::fs::fcntl_getfl(&fd).ok()?;
    let fits = FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && flags & OFlags::RWMODE == mode;
    fits.then_some(fd)
}

/// The read end that came from a peer.
pub(super) fn ear(fd: OwnedFd) -> Option<Ear> {
    end_of_pipe(fd, OFlags::RDONLY).map(Ear)
}
