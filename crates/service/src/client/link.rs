//! One connection of a client: the protocol, what carries it, and which calls are open on it.

use super::slots::Key;
use ginnel_base::Deadline;
use ginnel_session::carrier::{Carrier, Source};
use ginnel_session::proto::{Connection, Input, Pool};
use ginnel_session::{Agreement, Parts, SessionError};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::net::Shutdown;
use std::io;
use std::sync::Arc;
use std::time::Instant;

/// Where news of a connection are told. Copies of the carrier's descriptors, so that a sleeper needs no lock and no
/// connection.
#[derive(Debug)]
pub(super) struct Watch {
    pub(super) socket: OwnedFd,
    pub(super) bell: Option<OwnedFd>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) connection: Connection,
    pub(super) carrier: Box<dyn Carrier>,
    pub(super) agreement: Agreement,
    pub(super) watch: Arc<Watch>,
    /// Calls that wait for their final answer, by id, which rises.
    pub(super) open: Vec<(u64, Key)>,
    /// Of layout 1, where the ids are chosen here.
    pub(super) last_id: u64,
    /// No new calls: the server leaves, or takes nothing more.
    pub(super) retiring: bool,
    /// How often everything was out.
    pub(super) flushes: u64,
    /// Bytes that the carrier has taken.
    pub(super) written: u64,
    /// Something waits for the carrier to take it.
    pub(super) unsent: bool,
    /// A request has just left on a socket, and nothing else is under way: its answer cannot be there yet.
    pub(super) fresh: bool,
    /// When it was last sure to be alive.
    pub(super) alive: Instant,
    /// Tells it from the client's other connections, before and after.
    pub(super) serial: u64,
    generation: u64,
}

impl Link {
    pub(super) fn new(parts: Parts, serial: u64, now: Instant) -> io::Result<Self> {
        let Parts { connection, carrier, agreement, .. } = parts;
        let watch = match carrier.source() {
            Source::Socket { fd, .. } => Watch { socket: fd.try_clone_to_owned()?, bell: None },
            Source::Ring { bell, socket } => {
                Watch { socket: socket.try_clone_to_owned()?, bell: Some(bell.try_clone_to_owned()?) }
            }
            // Of the slot profiles, which are not proposed.
            Source::Doorbell(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok(Self {
            connection,
            carrier,
            agreement,
            watch: Arc::new(watch),
            open: Vec::new(),
            last_id: 0,
            retiring: false,
            flushes: 0,
            written: 0,
            unsent: false,
            fresh: false,
            alive: now,
            serial,
            generation: ginnel_base::fork_generation(),
        })
    }

    pub(super) fn is_layout_2(&self) -> bool {
        self.connection.layout_2().is_some()
    }

    /// Nobody waits for anything of it.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty() && !self.unsent
    }

    pub(super) fn is_ring(&self) -> bool {
        self.watch.bell.is_some()
    }

    /// Writes as far as the carrier takes it.
    pub(super) fn flush(&mut self, now: Instant, pool: &mut Pool) -> Result<(), SessionError> {
        while let Some(transmit) = self.connection.poll_transmit(&[]) {
            self.unsent = true;
            match self.carrier.try_send(transmit.head, transmit.body)? {
                Some(len) => {
                    self.connection.transmitted(now, len, pool);
                    self.written += len as u64;
                }
                None => return Ok(()),
            }
        }
        if std::mem::take(&mut self.unsent) {
            self.flushes += 1;
        }
        Ok(())
    }

    /// Receives once. Whether there was something.
    pub(super) fn receive(&mut self, now: Instant, pool: &mut Pool) -> Result<bool, SessionError> {
        if !self.connection.wants_input() {
            return Ok(false);
        }
        let due = self.carrier.due();
        match self.carrier.try_recv(self.connection.space(due, pool)) {
            Ok(Some(len)) => {
                self.alive = now;
                self.connection.handle(now, Input::Received(len));
                Ok(true)
            }
            Ok(None) => Ok(false),
            Err(SessionError::Closed) => {
                self.connection.handle(now, Input::HungUp);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether a look is worth more than a sleep. `None`: only the kernel knows.
    pub(super) fn has_news(&mut self) -> Option<bool> {
        self.carrier.has_news()
    }

    /// Prepares a sleep; `None` if there is something already.
    pub(super) fn nap(&mut self) -> Option<Bed> {
        if !self.carrier.arm() {
            return None;
        }
        let limit = Deadline::after_some(self.carrier.nap_limit());
        let until = limit.min(self.connection.poll_timeout());
        Some(Bed { watch: Arc::clone(&self.watch), write: self.unsent && !self.is_ring(), until, serial: self.serial })
    }

    pub(super) fn find(&self, id: u64) -> Option<usize> {
        match (self.open.first(), self.open.last()) {
            (Some(first), _) if first.0 == id => Some(0),
            (_, Some(last)) if last.0 == id => Some(self.open.len() - 1),
            _ => self.open.binary_search_by_key(&id, |(id, _)| *id).ok(),
        }
    }
}

impl Drop for Link {
    /// The copies of the socket may live on for a moment, so the hang-up is said. Not in a forked child, where the
    /// connection is the parent's.
    fn drop(&mut self) {
        if self.generation == ginnel_base::fork_generation() {
            let _ = rustix::net::shutdown(&self.watch.socket, Shutdown::Both);
        }
    }
}

/// Where to sleep until a connection has news.
#[derive(Debug)]
pub(super) struct Bed {
    pub(super) watch: Arc<Watch>,
    /// The socket is waited for to take more, too.
    pub(super) write: bool,
    /// The connection wants the time by then.
    pub(super) until: Deadline,
    /// Of the connection.
    #[cfg_attr(not(feature = "tokio"), allow(dead_code))]
    pub(super) serial: u64,
}

/// How to sleep until any connection has news. There is one but for a moment now and then.
#[derive(Debug)]
pub(super) struct Nap {
    pub(super) bed: Bed,
    pub(super) others: Vec<Bed>,
}

impl Nap {
    pub(super) fn beds(&self) -> impl Iterator<Item = &Bed> {
        std::iter::once(&self.bed).chain(&self.others)
    }

    /// When the first of the connections wants the time.
    pub(super) fn until(&self) -> Deadline {
        self.beds().fold(Deadline::NEVER, |until, bed| until.min(bed.until))
    }

    /// Sleeps until there is news, `nudge` is readable, or `until` has come. It may return for nothing.
    pub(super) fn sleep(&self, nudge: &OwnedFd, until: Deadline) {
        let timeout = self.until().min(until).timespec();
        let nudge = PollFd::new(nudge, PollFlags::IN);
        let events = |bed: &Bed| if bed.write { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let socket = PollFd::new(&self.bed.watch.socket, events(&self.bed));
        // A signal and an error look like news: the next turn finds none, or the error.
        let _ = match &self.bed.watch.bell {
            None if self.others.is_empty() => poll(&mut [socket, nudge], timeout.as_ref()),
            Some(bell) if self.others.is_empty() => {
                poll(&mut [socket, nudge, PollFd::new(bell, PollFlags::IN)], timeout.as_ref())
            }
            _ => {
                let mut fds = vec![nudge];
                for bed in self.beds() {
                    fds.push(PollFd::new(&bed.watch.socket, events(bed)));
                    fds.extend(bed.watch.bell.as_ref().map(|bell| PollFd::new(bell, PollFlags::IN)));
                }
                poll(&mut fds, timeout.as_ref())
            }
        };
    }
}
