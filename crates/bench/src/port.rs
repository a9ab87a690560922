//! A descriptor whose attempts block in the kernel or wait in the reactor, as the form says.

use crate::plan::Form;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::mpsc::{Sender, channel};
use std::task::{Context, Poll, Waker};

/// For what a descriptor is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Reading,
    Writing,
}

/// A descriptor in one of the two forms.
#[derive(Debug)]
pub(crate) enum Port {
    Blocking(OwnedFd),
    #[cfg(feature = "tokio")]
    Async(tokio::io::unix::AsyncFd<OwnedFd>),
}

impl Port {
    pub(crate) fn new(fd: OwnedFd, form: Form) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, form == Form::Async)?;
        match form {
            Form::Blocking => Ok(Self::Blocking(fd)),
            #[cfg(feature = "tokio")]
            Form::Async => crate::sys::async_fd(fd).map(Self::Async),
            #[cfg(not(feature = "tokio"))]
            Form::Async => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Makes the attempt `operation` until it neither is interrupted nor has to wait.
    #[inline]
    pub(crate) async fn attempt<R>(
        &self,
        purpose: For,
        mut operation: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<R>,
    ) -> io::Result<R> {
        loop {
            match operation(self.as_fd()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.ready(purpose).await?,
                other => return Ok(other?),
            }
        }
    }

    /// Waits until an attempt is worth making.
    async fn ready(&self, purpose: For) -> io::Result<()> {
        match self {
            // A descriptor that blocks says so only when the kernel could not wait, such as after a timeout.
            Self::Blocking(_) => Err(Errno::AGAIN.into()),
            #[cfg(feature = "tokio")]
            Self::Async(fd) => {
                let mut guard = match purpose {
                    For::Reading => fd.readable().await?,
                    For::Writing => fd.writable().await?,
                };
                // The attempt before this has failed, but what made it fail may be over since: ask the kernel.
                if !is_ready(fd.as_fd(), purpose) {
                    guard.clear_ready();
                }
                Ok(())
            }
        }
        .map(|()| {
            let _ = purpose;
        })
    }
}

#[cfg(feature = "tokio")]
fn is_ready(fd: BorrowedFd<'_>, purpose: For) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let events = match purpose {
        For::Reading => PollFlags::IN,
        For::Writing => PollFlags::OUT,
    };
    poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) != Ok(0)
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Blocking(fd) => fd.as_fd(),
            #[cfg(feature = "tokio")]
            Self::Async(fd) => fd.as_fd(),
        }
    }
}

/// A thread that waits where no reactor can, for the async form.
#[derive(Debug)]
pub(crate) struct Watcher {
    ask: Sender<()>,
    done: Port,
}

impl Watcher {
    /// `wait` is called on that thread, once for each [`wait`](Self::wait). The thread ends with this, or with the
    /// process if it sleeps then.
    pub(crate) fn start(mut wait: impl FnMut() + Send + 'static) -> io::Result<Self> {
        let done = eventfd(0, EventfdFlags::CLOEXEC)?;
        let theirs = done.try_clone()?;
        let (ask, asked) = channel();
        ginnel_base::thread::spawn("ginnel-bench-wait", move || {
            for () in asked {
                wait();
                let _ = rustix::io::write(&theirs, &1u64.to_ne_bytes()); // it has room for every question
            }
        })?;
        Ok(Self { ask, done: Port::new(done, Form::Async)? })
    }

    /// Waits in the reactor for what the thread waits for.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        self.ask.send(()).map_err(|_| io::Error::other("the thread that waits has died"))?;
        self.done.attempt(For::Reading, |fd| rustix::io::read(fd, &mut [0; 8])).await.map(|_| ())
    }
}

/// Lets other tasks run, and the reactor. In the blocking form it does nothing.
pub(crate) async fn yield_now(form: Form) {
    #[cfg(feature = "tokio")]
    if form == Form::Async {
        tokio::task::yield_now().await;
    }
    #[cfg(not(feature = "tokio"))]
    let _ = form;
}

/// Fills `bytes` from a stream.
#[inline]
pub(crate) async fn read_whole(port: &Port, bytes: &mut [u8]) -> io::Result<usize> {
    let mut at = 0;
    while at < bytes.len() {
        match port.attempt(For::Reading, |fd| rustix::io::read(fd, &mut bytes[at..])).await? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            len => at += len,
        }
    }
    Ok(at)
}

/// Writes all of `bytes` to a stream.
#[inline]
pub(crate) async fn write_whole(port: &Port, bytes: &[u8]) -> io::Result<()> {
    let mut at = 0;
    while at < bytes.len() {
        at += port.attempt(For::Writing, |fd| rustix::io::write(fd, &bytes[at..])).await?;
    }
    Ok(())
}

/// Runs a future in its form: the blocking one is ready when it is first polled, because every operation blocks.
pub(crate) fn run<T>(form: Form, future: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match form {
        Form::Blocking => match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::Error::other("an operation of the blocking form did not block")),
        },
        #[cfg(feature = "tokio")]
        Form::Async => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            tokio::task::LocalSet::new().block_on(&runtime, future)
        }
        #[cfg(not(feature = "tokio"))]
        Form::Async => Err(io::ErrorKind::Unsupported.into()),
    }
}
