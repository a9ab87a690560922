//! What a call brings back: answers, or why there are none.

use crate::state::State;
use ginnel_session::{ConnectError, SessionError};
use ginnel_wire::{Batch, Status};
use std::sync::Arc;

/// Why a call has no response.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BaselineError {
    /// There is no session. Nothing was tried: [`BaselineClient::refresh`](crate::BaselineClient::refresh) connects.
    #[error("the service is not ready: {0}")]
    NotReady(State),
    /// The deadline passed; whether the request was executed is not known.
    #[error("the deadline passed")]
    TimedOut,
    /// Aborted; whether the request was executed is not known.
    #[error("aborted")]
    Aborted,
    /// The server answered, with a status that is not OK.
    #[error("the server answered {0}")]
    Status(Status),
    /// Larger than the server takes, or than the client may learn.
    #[error(
        "a request of {len} bytes is more than the service takes or this client may learn; the session takes {limit} bytes"
    )]
    RequestTooLarge {
        /// Bytes of the request.
        len: usize,
        /// Bytes the session takes.
        limit: u32,
    },
    /// More items than the session takes.
    #[error("a batch of {items} items is more than the service takes ({limit})")]
    TooManyItems {
        /// Items of the batch.
        items: u32,
        /// Items the session takes.
        limit: u32,
    },
    /// The response is larger than the server grants, even after asking for more.
    #[error("the response is larger than the {limit} bytes that the server grants")]
    ResponseTooLarge {
        /// Bytes the server grants.
        limit: u32,
    },
    /// The response is to another method, or has not the shape of its request.
    #[error("the response does not match its request")]
    Mismatch,
    /// The session broke, and so did the one it was tried again on.
    #[error("the session broke twice: {0}")]
    Session(#[source] SessionError),
    /// The session broke and no other could be had.
    #[error("the session broke and there is no other: {0}")]
    Connect(#[source] Arc<ConnectError>),
}

/// The answers to a batch, borrowed from the client.
#[derive(Debug, Clone, Copy)]
pub enum BatchReply<'a> {
    /// To a batch of one, which travelled as a single message.
    Single(&'a [u8]),
    /// To all others.
    Batch(Batch<'a>),
}

impl<'a> BatchReply<'a> {
    /// Number of answers: that of the requests.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Single(_) => 1,
            Self::Batch(batch) => batch.len(),
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The answer to item `index`.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        match self {
            Self::Single(payload) => (index == 0).then_some(*payload),
            Self::Batch(batch) => batch.get(index),
        }
    }
}
