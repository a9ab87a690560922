//! What a connection is told, and what it tells.

use super::inbound::Received;
use super::timers::Silence;
#[cfg(doc)]
use super::{Connection, Timing};
use crate::error::{ProtocolError, Refusal, SessionError};
use ginnel_wire::{HelloAck, HelloAck2, Kind};
use std::time::Duration;

/// Which side of a session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Sends requests, receives responses.
    Client,
    /// Receives requests, sends responses.
    Server,
}

impl Role {
    pub(super) fn sends(self) -> Kind {
        match self {
            Self::Client => Kind::Request,
            Self::Server => Kind::Response,
        }
    }

    pub(super) fn receives(self) -> Kind {
        match self {
            Self::Client => Kind::Response,
            Self::Server => Kind::Request,
        }
    }
}

/// What has happened outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// This many bytes were put into [`Connection::space`]; more than fit, if the carrier cut a packet.
    Received(usize),
    /// The peer has hung up: nothing more will arrive. What has arrived is still told.
    HungUp,
    /// Time has passed, no more.
    Tick,
}

/// What has come of it.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Server: the client's first message is there. [`Connection::judge`] it, then [`Connection::accept`] or
    /// [`Connection::refuse`].
    Greeted,
    /// The session stands, as this says. At a server its acceptance is out.
    Established(HelloAck),
    /// The same of a session of layout 2, whose calls are those of [`Connection::call`] and its like.
    Established2(HelloAck2),
    /// A request at a server, a response to a request in flight at a client. In layout 2 [`Received::head`] says what
    /// it is: a request or a METHODS at a server; a response, an item, an end, an error or a METHODS_ACK at a client.
    Message(Received),
    /// Layout 2, server: the client does not want the answer of this call any more. It takes a final answer all the
    /// same: what there is, or CANCELLED.
    Cancelled {
        /// The call, which has no final answer yet.
        id: u64,
    },
    /// Layout 2, server: this call's stream may go on.
    Credit {
        /// The call, which has no final answer yet.
        id: u64,
        /// How many more items.
        items: u32,
    },
    /// Layout 2: the peer will leave. At a client, calls above `last_id` were not begun and get no answer: they may be
    /// sent elsewhere. At a server, the client sends no more requests.
    GoAway {
        /// The last call that will be answered (of a server), or that was sent (of a client).
        last_id: u64,
        /// How long a server will stay for those at most, if it says.
        drain: Option<Duration>,
    },
    /// After [`Connection::conclude`]: all is sent. Shut the sending half of the carrier down, and go on receiving.
    Flushed,
    /// Nothing more will be received. Told once, and last, but for [`Silence::Stalled`] after a hang-up;
    /// [`Connection::end`] repeats it. What was queued may still be sent.
    Ended(End),
}

/// Why nothing more will be received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// The peer has hung up.
    HungUp,
    /// The peer broke the protocol.
    Protocol(ProtocolError),
    /// Client: the server refused, or answered nonsense.
    Refused(Refusal),
    /// Client: it proposed layout 2 to a server of layout 1, which told so or closed without an answer. To be greeted
    /// in layout 1 on a fresh connection.
    FallBack,
    /// Server: the client was told that it is refused, and all of that is out.
    Dismissed,
    /// The peer kept silent for longer than [`Timing`] allows.
    Silent(Silence),
    /// [`Connection::conclude`] has waited long enough.
    Concluded,
    /// The system has no memory for what arrives.
    NoMemory {
        /// How much was needed at once.
        bytes: usize,
    },
}

impl End {
    /// The same as an error of a session. A refusal has an error of its own ([`crate::ConnectError::Refused`]).
    #[must_use]
    pub fn to_error(self) -> SessionError {
        match self {
            Self::Protocol(error) => SessionError::Protocol(error),
            Self::Silent(Silence::WithinMessage) => SessionError::Stalled,
            Self::Silent(_) => SessionError::TimedOut,
            Self::NoMemory { bytes } => SessionError::NoMemory { bytes },
            Self::HungUp | Self::Refused(_) | Self::FallBack | Self::Dismissed | Self::Concluded => {
                SessionError::Closed
            }
        }
    }
}
