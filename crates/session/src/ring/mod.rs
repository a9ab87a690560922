//! The RING profile: a session's messages in two byte rings of one sealed memfd, a bell for each direction, and the
//! socket of the handshake as the sign of life (`docs/spec/ginnel-wire-2.md`, chapter 3).
//!
//! ```text
//! server                                              client
//! RingOffer::create(sizes, session id)
//! send HELLO_ACK and offer.descriptors()  ------->    recv HELLO_ACK and descriptors
//! offer.accept(socket) = Ring                         Ring::attach(socket, descriptors, &ack)
//! ```
//!
//! A [`Ring`] carries packets, as a SEQPACKET socket does: a message that is larger than the session's packets goes in
//! chunks ([`Packets`](ginnel_wire::Packets)), so it may be larger than the ring. Attempts never block. Before it
//! sleeps, a side calls [`Ring::arm`] and then waits for both [`Ring::bell`] and [`Ring::socket`] to become readable;
//! [`Ring::wait`] does that for threads, a reactor puts both into its epoll.
//!
//! Nothing here is waited for in memory alone: the death of the peer is the hang-up of the socket, whatever its memory
//! says.

mod bell;
mod descriptors;
mod link;
#[cfg(test)]
mod tests;

pub use descriptors::{recv, send};
pub use link::{Ring, RingOffer};

use ginnel_memory::SegmentError;
use rustix::io::Errno;

/// Why there is no ring session.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RingError {
    /// The memory could not be made, or is not what the handshake said.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Not as many descriptors as a ring session takes.
    #[error("the peer sent {found} descriptors, a ring session takes {expected}")]
    Descriptors {
        /// How many came.
        found: usize,
        /// How many should.
        expected: usize,
    },
    /// The message did not fit: it had more bytes or more descriptors than any of this protocol.
    #[error("the peer's message was cut: it has more bytes or descriptors than the handshake allows")]
    Cut,
    /// A descriptor that should be the end of a pipe is none.
    #[error("descriptor {index} of the peer's is not the end of a pipe that it should be")]
    Bell {
        /// Which one.
        index: usize,
    },
    /// The rings would be larger than this side takes, or of no size that can be.
    #[error(
        "rings of {requests} and {responses} bytes: each must be a power of two, at least a page and at most {limit}"
    )]
    Sizes {
        /// Bytes of the ring for requests.
        requests: u32,
        /// Bytes of the ring for responses.
        responses: u32,
        /// The most that this side takes.
        limit: u32,
    },
    /// The system refused.
    #[error("cannot {doing}: {source}")]
    System {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: Errno,
    },
}
