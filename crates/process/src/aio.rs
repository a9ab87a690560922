//! The same streams and the same end for the tokio runtime: each is the blocking one behind an `AsyncFd`, with the same
//! counters and limits.
//!
//! What runs commands is in `aio_run`.

use crate::link::Link;
use crate::pty::PtyMaster;
use crate::streams::{ChildStderr, ChildStdin, ChildStdout, Counted};
use crate::sys;
use std::future::Future;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::sync::oneshot;

impl AsRawFd for Counted {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// A stream of a command for tokio: reads stdout, stderr or a terminal; writes stdin or a terminal.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use ginnel_process::{Command, Stdio};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
/// let mut stdin = child.stdin.take().unwrap().into_async().unwrap();
/// let mut stdout = child.stdout.take().unwrap().into_async().unwrap();
/// stdin.write_all(b"through").await.unwrap();
/// drop(stdin);
/// let mut text = String::new();
/// stdout.read_to_string(&mut text).await.unwrap();
/// assert_eq!(text, "through");
/// assert!(child.wait_async().await.unwrap().success());
/// # });
/// ```
#[derive(Debug)]
pub struct AsyncStream(AsyncFd<Counted>);

impl AsyncStream {
    pub(crate) fn new(stream: Counted, interest: Interest) -> io::Result<AsyncStream> {
        // The flag belongs to our end of the pipe alone; the command's stays as it is.
        crate::capture::nonblocking(&stream)?;
        Ok(AsyncStream(sys::watch(stream, interest)?))
    }
}

impl AsyncStream {
    pub(crate) fn into_counted(self) -> Counted {
        self.0.into_inner()
    }
}

macro_rules! into_async {
    ($($type:ty, $field:tt, $interest:expr;)*) => {$(
        impl $type {
            /// The stream for the tokio runtime that this is called in.
            ///
            /// # Errors
            /// When the runtime cannot watch it.
            ///
            /// # Panics
            /// Outside a tokio runtime with I/O enabled, as tokio does.
            pub fn into_async(self) -> io::Result<AsyncStream> {
                AsyncStream::new(self.$field, $interest)
            }
        }
    )*};
}

into_async! {
    ChildStdin, 0, Interest::WRITABLE;
    ChildStdout, 0, Interest::READABLE;
    ChildStderr, 0, Interest::READABLE;
    PtyMaster, read, Interest::READABLE | Interest::WRITABLE;
}

impl AsyncRead for AsyncStream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let space = buf.initialize_unfilled();
            if let Ok(result) = guard.try_io(|stream| stream.get_ref().read(space)) {
                return Poll::Ready(result.map(|len| buf.advance(len)));
            }
        }
    }
}

impl AsyncWrite for AsyncStream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|stream| stream.get_ref().write(buf)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: a pipe is closed by dropping it.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The shepherd's pidfd, readable when it has ended.
pub(crate) struct End(Arc<Link>);

impl AsRawFd for End {
    fn as_raw_fd(&self) -> RawFd {
        self.0.shepherd.as_raw_fd()
    }
}

impl AsFd for End {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.shepherd.as_fd()
    }
}

/// The shepherd's socket, by which its report comes.
pub(crate) struct Said(Arc<Link>);

impl AsRawFd for Said {
    fn as_raw_fd(&self) -> RawFd {
        self.0.socket().as_raw_fd()
    }
}

impl AsFd for Said {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.socket()
    }
}

/// The end of a tree, to be asked for by a runtime.
pub(crate) struct Ending {
    link: Arc<Link>,
    end: AsyncFd<End>,
    said: AsyncFd<Said>,
    settled: Option<oneshot::Receiver<()>>,
    over: bool,
}

impl Ending {
    pub(crate) fn new(link: &Arc<Link>) -> io::Result<Ending> {
        let end = sys::watch(End(Arc::clone(link)), Interest::READABLE)?;
        let said = sys::watch(Said(Arc::clone(link)), Interest::READABLE)?;
        Ok(Ending { link: Arc::clone(link), end, said, settled: None, over: false })
    }

    /// Ready when the report is there, or is known not to come: then `Link::report` does not block.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !self.over {
            ready!(self.poll_once(context));
            self.over = true;
        }
        Poll::Ready(())
    }

    /// Not to be asked again once it is ready.
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if let Some(settled) = &mut self.settled {
            return Pin::new(settled).poll(context).map(drop);
        }
        // A report is enough: the kernel may hold back a shepherd for the sake of a process that it does not let die.
        let mut over = self.link.is_over() || self.end.poll_read_ready(context).is_ready();
        while !over && let Poll::Ready(Ok(mut news)) = self.said.poll_read_ready(context) {
            over = self.link.wait(Some(Instant::now())) || self.link.is_lost();
            news.clear_ready();
        }
        if !over {
            return Poll::Pending;
        }
        if self.link.is_over() || self.link.has_reported() {
            return Poll::Ready(());
        }
        Pin::new(self.settled.insert(settle_elsewhere(&self.link))).poll(context).map(drop)
    }
}

/// The shepherd was killed: what is left of it and its tree is ended by a thread of its own, for that may take some
/// seconds. Without a thread the caller does it.
fn settle_elsewhere(link: &Arc<Link>) -> oneshot::Receiver<()> {
    let ((over, heard), link) = (oneshot::channel(), Arc::clone(link));
    let _ = ginnel_base::thread::spawn("ginnel-lost", move || {
        link.wait(None);
        link.settle();
        // Whoever has given the wait up does not hear it.
        let _ = over.send(());
    });
    heard
}
