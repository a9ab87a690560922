//! The two ends of a ring session.

use super::RingError;
use super::bell::{Ear, Ringer, bell, ear, end_of_pipe};
use crate::carrier::recv_with;
use crate::error::{ProtocolError, SessionError};
use crate::wait::Wait;
use ginnel_base::Deadline;
use ginnel_memory::byte_ring::{ByteConsumer, ByteProducer, PairSizes, RingPair, Side};
use ginnel_memory::{Spin, fence};
use ginnel_wire::{HelloAck2, RING_DESCRIPTORS};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use std::time::Duration;

/// What a server makes before it answers: memory and bells of one session.
#[derive(Debug)]
pub struct RingOffer {
    pair: RingPair,
    ear: Ear,
    ringer_ends: (OwnedFd, OwnedFd),
    client_ear: OwnedFd,
    client_ends: (OwnedFd, OwnedFd),
}

impl RingOffer {
    /// Memory for a session with this number, and its bells.
    ///
    /// # Errors
    /// The sizes cannot be, or the system has no memory or descriptors for it: offer another profile then.
    pub fn create(request_ring: u32, response_ring: u32, session_id: u64) -> Result<Self, RingError> {
        let sizes = sizes(request_ring, response_ring, u32::MAX)?;
        let system = |source| RingError::System { doing: "make a bell", source };
        let copy = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 0).map_err(system);
        let pair = RingPair::create(sizes, session_id)?;
        let (ear, client_write) = bell().map_err(system)?;
        let (client_ear, write) = bell().map_err(system)?;
        let read = copy(client_ear.as_fd())?;
        let client_read = copy(ear.as_fd())?;
        let client_ear = client_ear.into_fd();
        Ok(Self { pair, ear, ringer_ends: (write, read), client_ear, client_ends: (client_write, client_read) })
    }

    /// What goes to the client with HELLO_ACK, in the order of the protocol.
    #[must_use]
    pub fn descriptors(&self) -> [BorrowedFd<'_>; RING_DESCRIPTORS as usize] {
        [self.pair.fd(), self.client_ear.as_fd(), self.client_ends.0.as_fd(), self.client_ends.1.as_fd()]
    }

    /// The server's end, once HELLO_ACK was sent on `socket`.
    #[must_use]
    pub fn accept(self, socket: OwnedFd) -> Ring {
        let (write, read) = self.ringer_ends;
        Ring::new(self.pair.split(Side::Server), self.ear, Ringer::new(write, read), socket)
    }
}

fn sizes(requests: u32, responses: u32, limit: u32) -> Result<PairSizes, RingError> {
    let sizes = PairSizes::new(requests as usize, responses as usize);
    sizes.filter(|_| requests.max(responses) <= limit).ok_or(RingError::Sizes { requests, responses, limit })
}

/// One end of a ring session: a carrier of packets.
#[derive(Debug)]
pub struct Ring {
    producer: ByteProducer,
    consumer: ByteConsumer,
    ear: Ear,
    ringer: Ringer,
    socket: OwnedFd,
    /// Bytes of the packet that had no room.
    blocked: Option<usize>,
    /// Rings may be in the ear: there was a sleep since it was emptied.
    slept: bool,
    /// The peer is asked to ring.
    announced: bool,
    /// The announcement may have been missed: no sleep may be long.
    unsure: bool,
    /// Empty looks since the socket was last asked.
    looks: u32,
    gone: bool,
}

impl Ring {
    /// One who only ever looks and never sleeps asks the socket for a hang-up after so many looks: a fraction of a
    /// millisecond.
    const LOOKS: u32 = 1 << 14;

    /// The client's end: from what came with `ack`, whose rings may have `ring_limit` bytes each at most.
    ///
    /// # Errors
    /// Anything that is not as `ack` and the protocol say. What came is closed then.
    pub fn attach(socket: OwnedFd, fds: Vec<OwnedFd>, ack: &HelloAck2, ring_limit: u32) -> Result<Self, RingError> {
        let expected = RING_DESCRIPTORS as usize;
        let [memory, hears, write, read]: [OwnedFd; RING_DESCRIPTORS as usize] =
            fds.try_into().map_err(|fds: Vec<OwnedFd>| RingError::Descriptors { found: fds.len(), expected })?;
        let sizes = sizes(ack.request_ring, ack.response_ring, ring_limit)?;
        let ear = ear(hears).ok_or(RingError::Bell { index: 1 })?;
        let write = end_of_pipe(write, OFlags::WRONLY).ok_or(RingError::Bell { index: 2 })?;
        let read = end_of_pipe(read, OFlags::RDONLY).ok_or(RingError::Bell { index: 3 })?;
        let pair = RingPair::inherit(memory, sizes, ack.session_id)?;
        Ok(Self::new(pair.split(Side::Client), ear, Ringer::new(write, read), socket))
    }

    fn new(cursors: (ByteProducer, ByteConsumer), ear: Ear, ringer: Ringer, socket: OwnedFd) -> Self {
        fence::prepare();
        let (producer, consumer) = cursors;
        Self {
            producer,
            consumer,
            ear,
            ringer,
            socket,
            blocked: None,
            slept: false,
            announced: false,
            unsure: false,
            looks: 0,
            gone: false,
        }
    }

    /// The largest packet that the sending ring can take, in bytes. The session's packets are at most a quarter of the
    /// ring.
    #[must_use]
    pub fn max_packet(&self) -> usize {
        self.producer.shape().max_record()
    }

    /// Sends `head` and `body` as one packet. `None`: there is no room now.
    ///
    /// # Errors
    /// The peer is gone, or its words are not what they can be.
    #[inline]
    pub fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
        let len = head.len().saturating_add(body.len());
        if len > self.max_packet() {
            return Err(SessionError::io("send")(Errno::MSGSIZE));
        }
        if self.gone {
            return Err(SessionError::Closed);
        }
        if !self.producer.push(&[head, body]).map_err(ProtocolError::Ring)? {
            self.blocked = Some(len);
            self.look_for_hang_up()?;
            return Ok(None);
        }
        if self.blocked.take().is_some() {
            self.producer.disarm();
        }
        if self.producer.take_armed() {
            self.ringer.ring();
        }
        Ok(Some(len))
    }

    /// Receives a packet into `space`. `None`: there is none, or `space` is smaller than [`due`](Self::due) says.
    ///
    /// # Errors
    /// The peer is gone and everything that it sent was received; or its words are not what they can be.
    #[inline]
    pub fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError> {
        // Before the look: what was sent before the end is seen by it.
        let ended = self.gone || self.consumer.closed();
        let Some(record) = self.consumer.peek().map_err(ProtocolError::Ring)? else {
            return self.nothing(ended).map(|()| None);
        };
        let len = record.len();
        let Some(space) = space.get_mut(..len) else { return Ok(None) };
        record.copy_out(0, space);
        record.release();
        if self.consumer.should_flush() {
            self.tell();
        }
        self.looks = 0;
        if std::mem::take(&mut self.announced) {
            self.consumer.disarm(); // spares the peer a ring that nobody waits for
        }
        Ok(Some(len))
    }

    fn nothing(&mut self, ended: bool) -> Result<(), SessionError> {
        self.tell();
        if ended { Err(SessionError::Closed) } else { self.look_for_hang_up() }
    }

    /// Tells the peer what was read.
    fn tell(&mut self) {
        if self.consumer.flush() {
            self.ringer.ring();
        }
    }

    fn look_for_hang_up(&mut self) -> Result<(), SessionError> {
        self.looks += 1;
        if self.looks >= Self::LOOKS {
            self.ask_socket()?;
        }
        Ok(())
    }

    /// Whether the socket has hung up is known afterwards.
    fn ask_socket(&mut self) -> Result<(), SessionError> {
        self.looks = 0;
        match recv_with(&self.socket, &mut [0; 1], false, RecvFlags::DONTWAIT) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(ProtocolError::SocketData.into()),
            Err(_) => {
                self.gone = true;
                Ok(())
            }
        }
    }

    /// Bytes of the packet that the next receive will hand out; 0 if there is none.
    #[inline]
    #[must_use]
    pub fn due(&mut self) -> usize {
        // What is wrong is said by the receive.
        self.consumer.peek().ok().flatten().map_or(0, |record| record.len())
    }

    /// To be called right before a sleep: whatever comes after it makes [`bell`](Self::bell) or
    /// [`socket`](Self::socket) readable. False if there is something already: a packet, room for the one that had
    /// none, or the end.
    ///
    /// # Errors
    /// The peer sends on the socket, which carries nothing.
    pub fn arm(&mut self) -> Result<bool, SessionError> {
        self.tell();
        // Before the announcement: a ring that answers it stays.
        if std::mem::replace(&mut self.slept, true) {
            self.ear.drain();
        }
        self.announced = true;
        self.unsure = self.consumer.arm() == fence::Heavy::Unsure;
        if self.blocked.is_some() {
            self.unsure |= self.producer.arm() == fence::Heavy::Unsure;
        }
        self.ask_socket()?;
        Ok(!self.has_news())
    }

    /// Whether an attempt is worth making.
    #[inline]
    #[must_use]
    pub fn has_news(&mut self) -> bool {
        // A word that is wrong is news, too.
        let room = |producer: &mut ByteProducer, len| producer.has_room(len).unwrap_or(true);
        self.gone
            || self.consumer.ready()
            || self.consumer.closed()
            || self.blocked.is_some_and(|len| room(&mut self.producer, len))
    }

    /// How long a sleep may last at most after [`arm`](Self::arm); `None`: as long as you like.
    #[must_use]
    pub fn nap_limit(&self) -> Option<Duration> {
        self.unsure.then_some(Duration::from_millis(fence::UNSURE_NAP_MS))
    }

    /// Sleeps until an attempt is worth making, having looked for it as long as `spin` allows.
    ///
    /// # Errors
    /// `wait` is over; or as [`arm`](Self::arm).
    pub fn wait(&mut self, spin: &mut Spin, wait: &Wait<'_>) -> Result<(), SessionError> {
        if spin.until(|| self.has_news().then_some(())).is_some() {
            return Ok(());
        }
        while self.arm()? {
            wait.check()?;
            if !spin.sleeps() && spin.until(|| self.has_news().then_some(())).is_some() {
                return Ok(());
            }
            let left = [wait.remaining(), self.nap_limit(), (!spin.sleeps()).then_some(Duration::ZERO)];
            let timeout = Deadline::after_some(left.into_iter().flatten().min()).timespec();
            let mut fds = vec![PollFd::new(&self.ear, PollFlags::IN), PollFd::new(&self.socket, PollFlags::IN)];
            fds.extend(wait.abort().map(|abort| PollFd::new(abort, PollFlags::IN)));
            match poll(&mut fds, timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(SessionError::io("wait for the bell")(errno)),
            }
        }
        Ok(())
    }

    /// The bell: readable when an attempt is worth making, after [`arm`](Self::arm). Only to wait for.
    #[must_use]
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.ear.as_fd()
    }

    /// The socket: readable when the peer has hung up. Only to wait for.
    #[must_use]
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Ring {
    /// Says that nothing more will come; the socket's hang-up says the same, a moment later.
    fn drop(&mut self) {
        self.producer.close();
        if self.producer.take_armed() {
            self.ringer.ring();
        }
    }
}
