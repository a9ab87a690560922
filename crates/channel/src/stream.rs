//! Readers under tokio.

use crate::error::{CloseCause, RecvError};
use crate::reader::{Reader, Watch};
use ginnel_codec::{Codec, Plain};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::Errno;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;

/// A reader as a [`Stream`](futures_core::Stream) of records, woken by tokio's reactor.
///
/// Lags and undecodable records are items; the stream ends when the channel is closed, or after an item that tells of
/// the writer's death or a corrupt channel.
#[derive(Debug)]
pub struct ReaderStream<T: ?Sized, C: Codec<T> = Plain> {
    reader: Reader<T, C>,
    // A duplicate of the reader's epoll descriptor, so that neither borrows the other.
    readiness: AsyncFd<OwnedFd>,
    ended: bool,
}

impl<T: ?Sized, C: Codec<T>> Reader<T, C> {
    /// Turns this reader into an async stream.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime with its I/O driver enabled.
    pub fn into_stream(self) -> Result<ReaderStream<T, C>, RecvError> {
        let failed = |source| RecvError::System { what: "register the reader with the runtime", source };
        let fd = rustix::io::fcntl_dupfd_cloexec(self.as_fd(), 3).map_err(failed)?;
        let readiness =
            crate::sys::register(fd).map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
        Ok(ReaderStream { reader: self, readiness, ended: false })
    }
}

impl<T: ?Sized, C: Codec<T>> ReaderStream<T, C> {
    /// Receives the next record. Cancel-safe: dropping the future loses nothing.
    pub async fn recv(&mut self) -> Result<C::Owned, RecvError> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The reader again.
    #[must_use]
    pub fn into_reader(self) -> Reader<T, C> {
        self.reader
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<C::Owned, RecvError>> {
        // A channel that always has a record would otherwise never let its thread's other tasks run.
        let budget = ready!(tokio::task::coop::poll_proceed(context));
        loop {
            if let Some(record) = self.reader.try_recv()? {
                budget.made_progress();
                return Poll::Ready(Ok(record));
            }
            if self.reader.watch()? == Watch::Ready {
                continue;
            }
            let failed = |error: std::io::Error| RecvError::System {
                what: "wait for the runtime",
                source: Errno::from_io_error(&error).unwrap_or(Errno::IO),
            };
            // Readiness that came before the last look is stale; what comes after it is an edge of its own.
            ready!(self.readiness.poll_read_ready(context)).map_err(failed)?.clear_ready();
        }
    }
}

impl<T: ?Sized, C: Codec<T>> futures_core::Stream for ReaderStream<T, C> {
    type Item = Result<C::Owned, RecvError>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.ended {
            return Poll::Ready(None);
        }
        let item = ready!(this.poll_recv(context));
        if let Err(error) = &item {
            this.ended = !error.is_transient();
            if matches!(error, RecvError::Closed { cause: CloseCause::Closed }) {
                return Poll::Ready(None);
            }
        }
        Poll::Ready(Some(item))
    }
}
