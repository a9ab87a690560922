//! Many channels, one reader.

use crate::clock;
use crate::error::RecvError;
use crate::reader::{Reader, Watch};
use crate::tether;
use ginnel_base::Deadline;
use ginnel_codec::{Codec, Plain};
use ginnel_memory::Spin;
use rustix::event::epoll;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use std::mem::MaybeUninit;
use std::sync::Arc;
use std::time::Duration;

/// Reads several channels as one: fairly, with one wait for all.
///
/// The writers stay independent of each other, which is how many producers share a consumer without any lock: each has
/// a channel of its own.
///
/// Each turn begins behind the channel that delivered last, so a busy channel cannot starve another.
#[derive(Debug)]
pub struct MergedReader<T: ?Sized, C: Codec<T> = Plain> {
    readers: Vec<Option<Reader<T, C>>>,
    next: usize,
    epoll: OwnedFd,
    interrupt: Interrupt,
    spin: Spin,
}

/// What one of the merged channels delivered.
#[derive(Debug)]
pub struct Merged<R> {
    /// Which channel: the number that [`MergedReader::push`] returned.
    pub source: usize,
    /// The record, or why there is none. After an error that is not [transient](RecvError::is_transient) the channel is
    /// dropped.
    pub record: Result<R, RecvError>,
}

/// Ends a wait from another thread.
#[derive(Debug, Clone)]
pub(crate) struct Interrupt(Arc<OwnedFd>);

impl Interrupt {
    pub(crate) fn raise(&self) {
        // A counter that is full has been raised before.
        let _ = rustix::io::write(&*self.0, &1_u64.to_ne_bytes());
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn raised(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&*self.0, &mut count).is_ok()
    }
}

impl<T: ?Sized, C: Codec<T>> MergedReader<T, C> {
    /// A merged reader of no channels yet.
    pub fn new() -> Result<Self, RecvError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(failed)?;
        let interrupt = Interrupt(Arc::new(tether::eventfd().map_err(failed)?));
        epoll::add(&epoll, &*interrupt.0, epoll::EventData::new_u64(0), epoll::EventFlags::IN).map_err(failed)?;
        Ok(Self { readers: Vec::new(), next: 0, epoll, interrupt, spin: Spin::default() })
    }

    /// Adds a channel; returns the number by which its records are known.
    pub fn push(&mut self, reader: Reader<T, C>) -> Result<usize, RecvError> {
        let data = epoll::EventData::new_u64(1 + self.readers.len() as u64);
        epoll::add(&self.epoll, reader.as_fd(), data, epoll::EventFlags::IN).map_err(failed)?;
        self.readers.push(Some(reader));
        Ok(self.readers.len() - 1)
    }

    /// How many channels are still open.
    #[must_use]
    pub fn open_channels(&self) -> usize {
        self.readers.iter().flatten().count()
    }

    pub(crate) fn interrupt(&self) -> Interrupt {
        self.interrupt.clone()
    }

    /// The next record of any channel, if one is there. Never blocks.
    pub fn try_recv(&mut self) -> Option<Merged<C::Owned>> {
        let count = self.readers.len();
        for turn in 0..count {
            let source = (self.next + turn) % count;
            let Some(reader) = &mut self.readers[source] else { continue };
            let record = match reader.try_recv() {
                Ok(None) => continue,
                Ok(Some(record)) => Ok(record),
                Err(error) => Err(error),
            };
            self.next = source + 1;
            if record.as_ref().is_err_and(|error| !error.is_transient()) {
                self.readers[source] = None; // closing its descriptor takes it out of the epoll set
            }
            return Some(Merged { source, record });
        }
        None
    }

    /// The next record of any channel. Waits while a channel is open; `None` when none is.
    pub fn recv(&mut self) -> Option<Merged<C::Owned>> {
        self.recv_until(Deadline::NEVER)
    }

    /// The next record of any channel, waiting up to `limit`. `None` if none came or no channel is open.
    pub fn recv_timeout(&mut self, limit: Duration) -> Option<Merged<C::Owned>> {
        self.recv_until(Deadline::after(limit))
    }

    fn recv_until(&mut self, deadline: Deadline) -> Option<Merged<C::Owned>> {
        loop {
            if let Some(merged) = self.try_recv() {
                return Some(merged);
            }
            if self.open_channels() == 0 || deadline.passed() || self.interrupt.raised() {
                return None;
            }
            let readers = &self.readers;
            let ready = || readers.iter().flatten().any(Reader::ready).then_some(());
            if self.spin.until(ready).is_none()
                && let Err((source, error)) = self.sleep(deadline)
            {
                return Some(Merged { source, record: Err(error) });
            }
        }
    }

    fn sleep(&mut self, deadline: Deadline) -> Result<(), (usize, RecvError)> {
        for (source, reader) in self.readers.iter_mut().enumerate() {
            let Some(reader) = reader else { continue };
            if reader.watch().map_err(|error| (source, error))? == Watch::Ready {
                return Ok(());
            }
        }
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 1];
        match epoll::wait(&self.epoll, &mut events, clock::remaining(deadline, None).as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(source) => Err((0, failed(source))),
        }
    }
}

fn failed(source: Errno) -> RecvError {
    RecvError::System { what: "wait for several channels", source }
}
