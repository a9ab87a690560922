//! The writer's ends of its readers' tethers (see [`crate::tether`]).

use crate::crier::{Crier, ONE_BY_ONE};
use crate::discovery;
use crate::shrink::Files;
use crate::tether::{self, Join};
use ginnel_memory::ring::{ATTENTION_ARMED, ATTENTION_JOINED, Admission, Control, Mode, Producer};
use rustix::event::{Timespec, epoll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SocketFlags};
use std::mem::MaybeUninit;
use std::sync::Arc;

const LISTENER: u64 = u64::MAX;
/// The event of any stranger.
const STRANGER: u64 = u64::MAX - 1;
/// The event of an interrupt (see [`Hub::interrupt_by`]).
const INTERRUPT: u64 = u64::MAX - 2;
/// Strangers that are kept; beyond that the oldest is dropped. Honest ones introduce themselves within microseconds.
const MAX_STRANGERS: usize = 16;
/// Connections that are taken from the queue in one go: all that can be in it. What comes meanwhile waits for the next
/// look.
const MAX_ACCEPTS: usize = discovery::BACKLOG as usize + 1;

#[derive(Debug)]
pub(crate) struct Hub {
    listener: Option<OwnedFd>,
    epoll: OwnedFd,
    readers: Vec<Tied>,
    /// Connections that have not yet said which slot they belong to: a reader connects before it can announce itself.
    strangers: Vec<Stranger>,
    /// Readers that joined, as a count that never falls.
    pub(crate) joined: u64,
    wakes: u64,
    crier: Crier,
    /// One descriptor kept back, in whose place a connection is accepted that cannot be kept: to say so to it.
    reserve: Option<OwnedFd>,
    /// What the ring lies in.
    pub(crate) files: Files,
}

/// One reader, as the writer knows it.
#[derive(Debug)]
struct Tied {
    socket: Arc<OwnedFd>,
    slot: usize,
    token: u64,
    /// The writer no longer keeps records for it. Its slot stays its own until it leaves, for it still writes there.
    evicted: bool,
    /// Exported to a child that is yet to send a socket of its own.
    exported: bool,
}

/// A connection that is not tied yet, because it has not introduced itself.
#[derive(Debug)]
struct Stranger(OwnedFd);

const READABLE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::RDHUP);
const ACCEPTED: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

impl Tied {
    /// Takes one message: word of space, or the socket of a child that has taken its place. False if it hung up.
    fn hear(&mut self, epoll: &OwnedFd) -> Result<bool, Errno> {
        let mut bytes = [0; 16];
        if !self.exported {
            return rustix::net::recv(&*self.socket, &mut bytes, RecvFlags::DONTWAIT).map(|(got, _)| got > 0);
        }
        let (got, renewed) = tether::receive(&self.socket, &mut bytes, RecvFlags::DONTWAIT)?;
        if let Some(socket) = renewed {
            epoll::add(epoll, &socket, epoll::EventData::new_u64(self.slot as u64), READABLE)?;
            let _ = epoll::delete(epoll, &*self.socket);
            (self.socket, self.exported) = (Arc::new(socket), false);
        }
        Ok(got > 0)
    }
}

impl Hub {
    pub(crate) fn new(listener: Option<OwnedFd>, files: Files, control: Control) -> Result<Self, Errno> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        if let Some(listener) = &listener {
            epoll::add(&epoll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        }
        let reserve = listener.is_some().then(tether::eventfd).transpose()?;
        let (readers, strangers, crier) = (Vec::new(), Vec::new(), Crier::new(control));
        Ok(Self { listener, epoll, readers, strangers, joined: 0, wakes: 0, crier, reserve, files })
    }

    /// Ends every sleep for as long as `interrupt` is readable.
    pub(crate) fn interrupt_by(&self, interrupt: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, interrupt, epoll::EventData::new_u64(INTERRUPT), epoll::EventFlags::IN)
    }

    /// Ties a reader whose socket was made here; `exported` if it is for a child.
    pub(crate) fn tie(
        &mut self,
        producer: &mut Producer,
        socket: OwnedFd,
        exported: bool,
        join: Join,
    ) -> Result<(), Errno> {
        let Join { slot, token } = join;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(slot as u64), READABLE)?;
        self.enlist(producer, Tied { socket: Arc::new(socket), slot, token, evicted: false, exported });
        Ok(())
    }

    fn enlist(&mut self, producer: &mut Producer, tied: Tied) {
        producer.control().welcome(tied.slot, tied.token);
        self.crier.add(tied.slot, &tied.socket);
        self.readers.push(tied);
        self.joined += 1;
    }

    /// How many sleeping readers were woken.
    pub(crate) fn wakes(&self) -> u64 {
        self.wakes + self.crier.woken()
    }

    /// How many readers are tied and not evicted.
    pub(crate) fn len(&self) -> usize {
        self.readers.iter().filter(|tied| !tied.evicted).count()
    }

    /// Does what readers asked for by the attention word: welcomes those who joined, wakes those who sleep. Says
    /// whether somebody wanted more than to be woken.
    #[cold]
    pub(crate) fn attend(&mut self, producer: &mut Producer) -> Result<bool, Errno> {
        let bits = producer.control().take_attention();
        // A reader may have taken its bit away from the word, for which the producer still waits.
        let joined = bits & ATTENTION_JOINED != 0 || producer.joining();
        let accepted = if joined { self.accept(producer) } else { Ok(()) };
        match accepted {
            // Those whose bit was taken had connected before they set it.
            Ok(()) => producer.welcomed(),
            // Whoever could not be welcomed is still to be looked for at the next opportunity.
            Err(_) => producer.control().raise(ATTENTION_JOINED),
        }
        if self.wake(producer) || bits & ATTENTION_ARMED != 0 {
            producer.woke();
        }
        accepted.map(|()| joined)
    }

    /// Wakes those who sleep, or has them woken; says whether it woke one itself.
    fn wake(&mut self, producer: &Producer) -> bool {
        // A child sends its socket before it sleeps.
        for tied in self.readers.iter_mut().filter(|tied| tied.exported) {
            if tied.hear(&self.epoll).is_ok() && !tied.exported {
                self.crier.add(tied.slot, &tied.socket);
            }
        }
        if self.readers.len() > ONE_BY_ONE && self.crier.call() {
            return false;
        }
        let before = self.wakes;
        for tied in &self.readers {
            if producer.control().take_armed(tied.slot) {
                tether::wake(tied.socket.as_fd());
                self.wakes += 1;
            }
        }
        self.wakes > before
    }

    /// Takes waiting connections from the listener's queue and looks for readers that have gone.
    fn accept(&mut self, producer: &mut Producer) -> Result<(), Errno> {
        self.reap(producer)?;
        for stranger in std::mem::take(&mut self.strangers) {
            self.introduce(producer, stranger);
        }
        for _ in 0..MAX_ACCEPTS {
            let Some(listener) = &self.listener else { return Ok(()) };
            match rustix::net::accept_with(listener, ACCEPTED) {
                Ok(socket) => match epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(STRANGER), READABLE) {
                    Ok(()) => self.introduce(producer, Stranger(socket)),
                    Err(_) => tether::refuse(socket.as_fd()),
                },
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(error @ (Errno::MFILE | Errno::NFILE)) => return self.refuse_all(producer, error),
                Err(other) => return Err(other),
            }
        }
        producer.control().raise(ATTENTION_JOINED); // there may be more
        Ok(())
    }

    /// Refuses whoever waits in the queue, because this process is out of descriptors: nobody may believe that it will
    /// be woken.
    #[cold]
    fn refuse_all(&mut self, producer: &mut Producer, error: Errno) -> Result<(), Errno> {
        let Some(listener) = &self.listener else { return Ok(()) };
        self.reserve = None;
        let mut refused = 0;
        let outcome = loop {
            match rustix::net::accept_with(listener, ACCEPTED) {
                Ok(socket) => {
                    tether::refuse(socket.as_fd());
                    refused += 1;
                }
                Err(Errno::AGAIN) => break Ok(()),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(other) => break Err(other),
            }
            if refused > MAX_ACCEPTS {
                break Ok(());
            }
        };
        self.reserve = tether::eventfd().ok();
        tracing::warn!(refused, %error, "no file descriptor is left for readers that join: raise the limit (ulimit -n)");
        if outcome.is_err() && producer.geometry().mode == Mode::Lossless {
            // They cannot even be told. They must not hold the others up: their places are taken from them.
            let unknown: Vec<_> = producer.control().readers().map(|info| (info.slot, info.token)).collect();
            for (slot, token) in unknown {
                if !self.readers.iter().any(|tied| (tied.slot, tied.token) == (slot, token)) {
                    producer.dismiss(slot, token);
                }
            }
            return Ok(());
        }
        outcome
    }

    /// Hears who a connection is: ties it, keeps it as a stranger until it says so, or drops it.
    fn introduce(&mut self, producer: &mut Producer, stranger: Stranger) {
        let mut bytes = [0; Join::BYTES + 1];
        let join = match rustix::net::recv(&stranger.0, &mut bytes, RecvFlags::DONTWAIT) {
            Ok((got, _)) => Join::decode(&bytes[..got]),
            Err(Errno::AGAIN | Errno::INTR) => {
                if self.strangers.len() == MAX_STRANGERS {
                    self.strangers.remove(0);
                }
                self.strangers.push(stranger);
                return;
            }
            Err(_) => None,
        };
        let Some(Join { slot, token }) = join else { return };
        if !producer.control().holds(slot, token) {
            return; // not what it claims to be
        }
        if let Some(index) = self.readers.iter().position(|tied| tied.slot == slot) {
            if self.readers[index].token == token {
                return; // the second with one claim
            }
            // The slot changed hands: its former reader is dead, whether or not that news has been read yet.
            self.untie(producer, index);
        }
        if producer.geometry().mode == Mode::Lossless && producer.admit(slot, token) == Admission::Refused {
            return;
        }
        let socket = stranger.0;
        if epoll::modify(&self.epoll, &socket, epoll::EventData::new_u64(slot as u64), READABLE).is_err() {
            producer.evict(slot, token);
            return tether::refuse(socket.as_fd());
        }
        tracing::debug!(slot, "a reader joined");
        self.enlist(producer, Tied { socket: Arc::new(socket), slot, token, evicted: false, exported: false });
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
        self.attend(producer).map(drop)
    }

    /// Takes what the reader in `slot` sent: word of space, or its end.
    fn hear(&mut self, producer: &mut Producer, slot: usize) {
        let Some(index) = self.readers.iter().position(|tied| tied.slot == slot) else { return };
        // One at a time: what is left raises the next event, and a reader that floods delays nobody else.
        let exported = self.readers[index].exported;
        let heard = self.readers[index].hear(&self.epoll);
        if exported && !self.readers[index].exported {
            self.crier.add(slot, &self.readers[index].socket);
        }
        match heard {
            Ok(true) | Err(Errno::AGAIN | Errno::INTR | Errno::MFILE) => {}
            Ok(false) | Err(_) => self.untie(producer, index),
        }
    }

    fn untie(&mut self, producer: &mut Producer, index: usize) {
        let tied = self.readers.swap_remove(index);
        // Closing would do, were there never a copy of the descriptor: a child between `fork` and `exec` has one, and
        // what it keeps in the set would speak for the slot's next reader.
        let _ = epoll::delete(&self.epoll, &*tied.socket);
        self.crier.remove(tied.slot);
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
