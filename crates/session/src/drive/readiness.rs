//! One descriptor in tokio's reactor, for drivers that poll by themselves.

use crate::sys;
use rustix::fd::OwnedFd;
use std::io;
use std::task::{Context, Poll, ready};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor that tokio's reactor watches: a copy of one that a [`Carrier`](crate::carrier::Carrier) names.
#[derive(Debug)]
pub struct Readiness(AsyncFd<OwnedFd>);

impl Readiness {
    /// Has it watched for reading, and for writing if `write`. Within a runtime that has I/O.
    ///
    /// # Errors
    /// If the reactor cannot watch it.
    pub fn new(fd: OwnedFd, write: bool) -> io::Result<Self> {
        let interest = if write { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
        sys::async_fd(fd, interest).map(Self)
    }

    /// Whether it became readable since this was asked last; then try until there is nothing more, and ask again. Else
    /// the task of `cx` is woken when it does.
    ///
    /// # Errors
    /// If the runtime ends.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_read_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }

    /// The same of writing.
    ///
    /// # Errors
    /// As [`Readiness::poll_readable`].
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.0.poll_write_ready(cx))?.clear_ready();
        Poll::Ready(Ok(()))
    }
}
