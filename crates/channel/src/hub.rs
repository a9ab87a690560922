//! The writer's ends of its readers' tethers (see [`crate::tether`]).

use crate::tether::{self, Join, Waker};
use ginnel_memory::ring::{ATTENTION_JOINED, Admission, Mode, Producer};
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use std::mem::MaybeUninit;

const LISTENER: u64 = u64::MAX;
/// Marks the events of a pidfd; the rest is the slot, like for the socket.
const DEATH: u64 = 1 << 32;
/// The event of any stranger.
const STRANGER: u64 = u64::MAX - 1;
/// The event of an interrupt (see [`Hub::interrupt_by`]).
const INTERRUPT: u64 = u64::MAX - 2;
/// Strangers that are kept; beyond that the oldest is dropped. Honest ones introduce themselves within microseconds.
const MAX_STRANGERS: usize = 16;
/// Refused connections that are taken from the queue in one go; the rest waits for the next look.
const MAX_ACCEPTS: usize = 2 * ginnel_memory::ring::Geometry::MAX_READERS;

#[derive(Debug)]
pub(crate) struct Hub {
    listener: Option<OwnedFd>,
    epoll: OwnedFd,
    readers: Vec<Tied>,
    /// Connections that have not yet said which slot they belong to: a reader connects before it can announce itself.
    strangers: Vec<Stranger>,
    /// Readers that joined, as a count that never falls.
    pub(crate) joined: u64,
    pub(crate) wakes: u64,
}

/// One reader, as the writer knows it.
#[derive(Debug)]
struct Tied {
    socket: OwnedFd,
    waker: Waker,
    slot: usize,
    token: u64,
    /// The writer no longer keeps records for it. Its slot stays its own until it leaves, for it still writes there.
    evicted: bool,
    /// Watches the process that greeted from an exported end: the `Command` may hold a copy of that end, so that the hang-up
    /// comes late.
    pidfd: Option<OwnedFd>,
}

/// A connection that is not tied yet: it has not introduced itself, or descriptors ran out while it was welcomed.
#[derive(Debug)]
struct Stranger {
    socket: OwnedFd,
    join: Option<Join>,
}

impl Hub {
    pub(crate) fn new(listener: Option<OwnedFd>) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(listener) = &listener {
            epoll::add(&epoll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        }
        Ok(Self { listener, epoll, readers: Vec::new(), strangers: Vec::new(), joined: 0, wakes: 0 })
    }

    /// Ends every sleep for as long as `interrupt` is readable.
    pub(crate) fn interrupt_by(&self, interrupt: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, interrupt, epoll::EventData::new_u64(INTERRUPT), epoll::EventFlags::IN)
    }

    /// Ties a reader whose socket and pipe were made here, for a child.
    pub(crate) fn tie(&mut self, socket: OwnedFd, waker: Waker, slot: usize, token: u64) -> Result<(), Errno> {
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(slot as u64), events)?;
        self.enlist(Tied { socket, waker, slot, token, evicted: false, pidfd: None });
        Ok(())
    }

    fn enlist(&mut self, tied: Tied) {
        self.readers.push(tied);
        self.joined += 1;
    }

    /// How many readers are tied and not evicted.
    pub(crate) fn len(&self) -> usize {
        self.readers.iter().filter(|tied| !tied.evicted).count()
    }

    /// Does what readers asked for by the attention word: welcomes those who joined, wakes those who sleep.
    #[cold]
    pub(crate) fn attend(&mut self, producer: &mut Producer) -> Result<(), Errno> {
        let bits = producer.control().take_attention();
        let accepted = if bits & ATTENTION_JOINED != 0 { self.accept(producer) } else { Ok(()) };
        if accepted.is_err() {
            // Whoever could not be welcomed is still to be looked for at the next opportunity.
            producer.control().raise(ATTENTION_JOINED);
        }
        let before = self.wakes;
        for tied in &self.readers {
            if producer.control().take_armed(tied.slot) {
                tied.waker.wake();
                self.wakes += 1;
            }
        }
        if self.wakes > before {
            producer.woke();
        }
        accepted
    }

    /// Takes waiting connections from the listener's queue and looks for readers that have gone.
    fn accept(&mut self, producer: &mut Producer) -> Result<(), Errno> {
        self.reap(producer)?;
        let mut outcome = Ok(());
        for stranger in std::mem::take(&mut self.strangers) {
            outcome = outcome.and(self.introduce(producer, stranger));
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        for _ in 0..MAX_ACCEPTS {
            let Some(listener) = &self.listener else { return outcome };
            match rustix::net::accept_with(listener, flags) {
                Ok(socket) => {
                    let data = epoll::EventData::new_u64(STRANGER);
                    epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN | epoll::EventFlags::RDHUP)?;
                    outcome = outcome.and(self.introduce(producer, Stranger { socket, join: None }));
                }
                Err(Errno::AGAIN) => return outcome,
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(other) => return Err(other),
            }
        }
        producer.control().raise(ATTENTION_JOINED); // there may be more
        outcome
    }

    /// Hears who a connection is: ties it, keeps it as a stranger until it says so, or drops it.
    fn introduce(&mut self, producer: &mut Producer, mut stranger: Stranger) -> Result<(), Errno> {
        if stranger.join.is_none() {
            let mut bytes = [0; Join::BYTES + 1];
            match rustix::net::recv(&stranger.socket, &mut bytes, RecvFlags::DONTWAIT) {
                Ok((got, _)) => match Join::decode(&bytes[..got]) {
                    None => return Ok(()),
                    join => stranger.join = join,
                },
                Err(Errno::AGAIN | Errno::INTR) => {
                    self.keep(stranger);
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
        let Some(Join { slot, token }) = stranger.join else { return Ok(()) };
        if !producer.control().holds(slot, token) {
            return Ok(()); // not what it claims to be
        }
        if let Some(index) = self.readers.iter().position(|tied| tied.slot == slot) {
            if self.readers[index].token == token {
                return Ok(()); // the second with one claim
            }
            // The slot changed hands: its former reader is dead, whether or not that news has been read yet.
            self.untie(producer, index);
        }
        match Waker::new() {
            Ok(waker) => self.welcome(producer, stranger.socket, waker, Join { slot, token }),
            Err(error) => {
                self.keep(stranger);
                Err(error)
            }
        }
    }

    fn keep(&mut self, stranger: Stranger) {
        if self.strangers.len() == MAX_STRANGERS {
            // Rather one that never said anything than one that waits for a descriptor.
            let silent = self.strangers.iter().position(|stranger| stranger.join.is_none()).unwrap_or(0);
            self.strangers.remove(silent);
        }
        self.strangers.push(stranger);
    }

    fn welcome(&mut self, producer: &mut Producer, socket: OwnedFd, waker: Waker, join: Join) -> Result<(), Errno> {
        let Join { slot, token } = join;
        if tether::welcome(socket.as_fd(), waker.reading.as_fd()).is_err() {
            return Ok(()); // gone already
        }
        if producer.geometry().mode == Mode::Lossless && producer.admit(slot, token) == Admission::Refused {
            return Ok(());
        }
        tracing::debug!(slot, "a reader joined");
        let events = epoll::EventFlags::IN | epoll::EventFlags::RDHUP;
        epoll::modify(&self.epoll, &socket, epoll::EventData::new_u64(slot as u64), events)?;
        self.enlist(Tied { socket, waker, slot, token, evicted: false, pidfd: None });
        Ok(())
    }

    /// Frees the slots of readers that are gone.
    pub(crate) fn reap(&mut self, producer: &mut Producer) -> Result<(), Errno> {
        self.wait(producer, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }), false)
    }

    /// Sleeps until a reader joins, leaves or releases space, or `timeout` passes.
    pub(crate) fn wait(
        &mut self,
        producer: &mut Producer,
        timeout: Option<&Timespec>,
        accept: bool,
    ) -> Result<(), Errno> {
        let mut events = [MaybeUninit::<epoll::Event>::uninit(); 32];
        let (ready, _) = match epoll::wait(&self.epoll, &mut events, timeout) {
            Err(Errno::INTR) => return Ok(()),
            ready => ready?,
        };
        let mut joins = false;
        for event in ready {
            match event.data.u64() {
                LISTENER | STRANGER => joins = true,
                INTERRUPT => {}
                slot if slot & DEATH != 0 => self.bury(producer, (slot & !DEATH) as usize),
                slot => self.hear(producer, slot as usize),
            }
        }
        if joins && accept {
            self.attend_joins(producer)?;
        }
        Ok(())
    }

    fn attend_joins(&mut self, producer: &mut Producer) -> Result<(), Errno> {
        producer.control().raise(ATTENTION_JOINED);
        self.attend(producer)
    }

    /// Takes what the reader in `slot` sent: word of space, or its end.
    fn hear(&mut self, producer: &mut Producer, slot: usize) {
        let Some(index) = self.readers.iter().position(|tied| tied.slot == slot) else { return };
        let mut bytes = [0; 64];
        // One at a time: what is left raises the next event, and a reader that floods delays nobody else.
        match rustix::net::recv(&self.readers[index].socket, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((got, _)) if got > 0 => {
                if tether::greets(&bytes[..got]) {
                    self.watch(producer, index);
                }
            }
            Err(Errno::AGAIN | Errno::INTR) => {}
            _ => self.untie(producer, index),
        }
    }

    /// A child took over the end that was exported to it: from now on its death is news, whoever else holds that end.
    fn watch(&mut self, producer: &mut Producer, index: usize) {
        let tied = &mut self.readers[index];
        let Some(info) = producer.control().readers().find(|info| info.slot == tied.slot) else { return };
        match tether::watch(info.identity) {
            Ok(pidfd) => {
                let data = epoll::EventData::new_u64(tied.slot as u64 | DEATH);
                if epoll::add(&self.epoll, &pidfd, data, epoll::EventFlags::IN).is_ok() {
                    tied.pidfd = Some(pidfd);
                }
            }
            Err(Errno::SRCH) => self.untie(producer, index), // it died before its greeting was read
            Err(_) => {}
        }
    }

    fn bury(&mut self, producer: &mut Producer, slot: usize) {
        if let Some(index) = self.readers.iter().position(|tied| tied.slot == slot) {
            self.untie(producer, index);
        }
    }

    fn untie(&mut self, producer: &mut Producer, index: usize) {
        let tied = self.readers.swap_remove(index);
        // Closing would do, were there never a copy of the descriptor: a child between `fork` and `exec` has one, and what
        // it keeps in the set would speak for the slot's next reader.
        let _ = epoll::delete(&self.epoll, &tied.socket);
        if let Some(pidfd) = &tied.pidfd {
            let _ = epoll::delete(&self.epoll, pidfd);
        }
        producer.dismiss(tied.slot, tied.token);
        tracing::debug!(slot = tied.slot, "a reader left");
    }

    /// Ends the membership of the reader in `slot`, which may go on reading as in a lossy channel.
    pub(crate) fn evict(&mut self, producer: &mut Producer, slot: usize, token: u64) {
        match self.readers.iter_mut().find(|tied| tied.slot == slot && tied.token == token) {
            Some(tied) => {
                tied.evicted = true;
                producer.evict(slot, token);
            }
            None => producer.dismiss(slot, token),
        }
    }
}
