//! What carries the bytes of a session: sockets and shared memory behind one contract. Nothing here sleeps.

mod porter;
mod ring;
mod slot;
mod socket;

pub use porter::Attended;
pub(crate) use ring::RingLink;
pub use slot::Doorbell;
pub(crate) use slot::Slot;
pub(crate) use socket::{Socket, recv, recv_with, send};

use crate::error::SessionError;
use std::fmt::Debug;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// An end of a ring session as the carrier that a session has in it. For the fuzzers.
#[cfg(fuzzing)]
#[must_use]
pub fn of_ring(ring: crate::ring::Ring) -> Box<dyn Carrier> {
    Box::new(RingLink::new(ring))
}

/// A way to move bytes. Attempts never block; where to wait is said by [`Carrier::source`].
pub trait Carrier: Debug + Send {
    /// Sends `head` and `body` as one packet, or as much of them as a stream takes. `None`: not now.
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError>;

    /// Sends several packets, each a head and a body, as [`Carrier::try_send`] does one after the other; the bytes that
    /// were taken of all of them. `None`: none of them now. An error behind the first of them is told by the next
    /// attempt.
    fn try_send_many(&mut self, packets: &[(&[u8], &[u8])]) -> Result<Option<usize>, SessionError> {
        let mut sent = None;
        for (head, body) in packets {
            match self.try_send(head, body) {
                Ok(Some(len)) => {
                    sent = Some(sent.unwrap_or(0) + len);
                    if len < head.len() + body.len() {
                        break;
                    }
                }
                Err(error) if sent.is_none() => return Err(error),
                Ok(None) | Err(_) => break,
            }
        }
        Ok(sent)
    }

    /// Receives into `space`; the length of a packet that was cut exceeds it. `None`: not now.
    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError>;

    /// Length of the message that the next receive will hand out, if the carrier can tell; else 0. Asked before each
    /// receive, because such a carrier hands nothing out into less.
    fn due(&mut self) -> usize {
        0
    }

    /// Where to wait until an attempt is worth making.
    fn source(&self) -> Source<'_>;

    /// To be called right before a wait: whatever comes after it ends the wait. False if there is something already.
    fn arm(&mut self) -> bool {
        true
    }

    /// Whether an attempt is worth making, without a system call: for those that spin. `None`: only an attempt or a
    /// wait tells.
    fn has_news(&mut self) -> Option<bool> {
        None
    }

    /// How long a wait after [`Carrier::arm`] may last at most before the next look; `None`: as long as you like.
    fn nap_limit(&self) -> Option<Duration> {
        None
    }

    /// The socket: readable when a message may be there, or (in shared memory) when the peer has hung up.
    fn socket(&self) -> BorrowedFd<'_>;
}

/// Where a carrier tells that an attempt is worth making.
#[derive(Debug)]
pub enum Source<'a> {
    /// A descriptor: readable or writable, as `poll` says. `packets` if it keeps their boundaries.
    Socket {
        /// The descriptor.
        fd: BorrowedFd<'a>,
        /// Whether it keeps the boundaries of packets.
        packets: bool,
    },
    /// A word of shared memory that tells what arrives, and the hang-up.
    Doorbell(Doorbell),
    /// Two descriptors, of which either may become readable after [`Carrier::arm`]: then an attempt to receive, and one
    /// to send what had no room, are worth making. Before the next wait it is armed again, which empties the bell. Both
    /// are only waited for.
    Ring {
        /// The peer has sent something, or read something.
        bell: BorrowedFd<'a>,
        /// The peer has hung up.
        socket: BorrowedFd<'a>,
    },
}

/// The carrier that a session has agreed on.
#[derive(Debug)]
pub(crate) enum Link {
    Socket(Socket),
    Slot(Box<Slot>),
}

impl Link {
    /// The slot, if it is one.
    pub(crate) fn slot(&self) -> Option<&Slot> {
        match self {
            Self::Socket(_) => None,
            Self::Slot(slot) => Some(slot),
        }
    }

    pub(crate) fn into_carrier(self) -> Box<dyn Carrier> {
        match self {
            Self::Socket(socket) => Box::new(socket),
            Self::Slot(slot) => slot,
        }
    }

    fn carrier(&mut self) -> &mut dyn Carrier {
        match self {
            Self::Socket(socket) => socket,
            Self::Slot(slot) => &mut **slot,
        }
    }
}

impl Carrier for Link {
    fn try_send(&mut self, head: &[u8], body: &[u8]) -> Result<Option<usize>, SessionError> {
        self.carrier().try_send(head, body)
    }

    fn try_send_many(&mut self, packets: &[(&[u8], &[u8])]) -> Result<Option<usize>, SessionError> {
        self.carrier().try_send_many(packets)
    }

    fn try_recv(&mut self, space: &mut [u8]) -> Result<Option<usize>, SessionError> {
        self.carrier().try_recv(space)
    }

    fn due(&mut self) -> usize {
        self.carrier().due()
    }

    fn source(&self) -> Source<'_> {
        match self {
            Self::Socket(socket) => socket.source(),
            Self::Slot(slot) => slot.source(),
        }
    }

    fn arm(&mut self) -> bool {
        self.carrier().arm()
    }

    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket) => socket.socket(),
            Self::Slot(slot) => slot.socket(),
        }
    }
}
