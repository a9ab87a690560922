//! Why a call has no answer.

use crate::state::State;
use ginnel_codec::{DecodeError, EncodeError};
use ginnel_session::{ConnectError, SessionError};
use ginnel_wire::{Failure, Features, Status};
use std::sync::Arc;

/// Why a call has no answer, or a stream no further item.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no connection, and none is to be had at the moment. Nothing was sent.
    #[error("the service is not ready ({state}){}", reason(.source))]
    NotReady {
        /// What is known about the service.
        state: State,
        /// Why the last attempt to connect failed, if one was made.
        source: Option<Arc<ConnectError>>,
    },
    /// The deadline passed, at the caller or at the server. Whether the request was executed is not known.
    #[error("the deadline passed")]
    TimedOut,
    /// As many calls are in flight as the connection takes. Nothing was sent.
    #[error("the window is full: {in_flight} calls are in flight")]
    WouldBlock {
        /// Calls without their final answer.
        in_flight: usize,
    },
    /// The service failed in its own way.
    #[error("the service failed with code {code}: {message}")]
    Application {
        /// The interface's own number.
        code: u32,
        /// For people.
        message: String,
        /// The same request may succeed later.
        retryable: bool,
        /// For programs; the meaning belongs to `code`.
        details: Vec<u8>,
    },
    /// The server answered with a status that is neither OK nor the service's own.
    #[error("the server answered {status}{}", colon(.message))]
    Status {
        /// The status.
        status: Status,
        /// What the server adds for people; may be empty.
        message: String,
        /// The same request may succeed later.
        retryable: bool,
    },
    /// Larger than the server takes, or than the client may learn. Nothing was sent.
    #[error("a request of {len} bytes is more than the service takes or this client may learn ({limit} bytes)")]
    RequestTooLarge {
        /// Bytes of the request.
        len: usize,
        /// Bytes that the connection takes.
        limit: u32,
    },
    /// More items than the connection takes. Nothing was sent.
    #[error("a batch of {items} items is more than the service takes ({limit})")]
    TooManyItems {
        /// Items of the batch.
        items: u32,
        /// Items that the connection takes.
        limit: u32,
    },
    /// Layout 1: the response is larger than the server grants, even after it was asked for more.
    #[error("the response is larger than the {limit} bytes that the server grants")]
    ResponseTooLarge {
        /// Bytes that the server grants.
        limit: u32,
    },
    /// The server cannot do this: it did not grant the feature, or speaks layout 1. Nothing was sent.
    #[error("the server does not offer {feature}")]
    Unsupported {
        /// What it lacks.
        feature: Features,
    },
    /// The request cannot be encoded. Nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The answer, or an item, is none of the method's: the server's method is another.
    #[error("the answer cannot be decoded: {0}")]
    Decode(#[from] DecodeError),
    /// The answer has not the shape of its request.
    #[error("the response does not match its request")]
    Mismatch,
    /// The connection broke. Whether the request was executed is not known.
    #[error("the connection broke before the answer: {source}")]
    Lost {
        /// How.
        source: Arc<SessionError>,
    },
    /// [`Client::close`](crate::Client::close) was called. Whether the request was executed is not known.
    #[error("the client was closed")]
    Closed,
    /// This process was made by `fork`, and the client is its parent's. Make one of your own.
    #[error("the client belongs to the process that this one was forked from")]
    Forked,
}

fn reason(source: &Option<Arc<ConnectError>>) -> String {
    source.as_ref().map(|source| format!(": {source}")).unwrap_or_default()
}

fn colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

impl CallError {
    /// From the answer of a server.
    pub(super) fn from_answer(status: Status, failure: Option<&Failure<'_>>) -> Self {
        let failure = failure.copied().unwrap_or_default();
        let (message, retryable) = (failure.message.to_owned(), failure.retryable);
        match status {
            Status::APPLICATION => {
                Self::Application { code: failure.code, message, retryable, details: failure.details.to_vec() }
            }
            Status::DEADLINE_EXCEEDED => Self::TimedOut,
            status => Self::Status { status, message, retryable },
        }
    }

    /// Whether the server says that the same request may succeed later, or nothing was sent because there was no
    /// connection or no room.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Application { retryable, .. } | Self::Status { retryable, .. } => *retryable,
            Self::NotReady { .. } | Self::WouldBlock { .. } => true,
            _ => false,
        }
    }
}

/// Why an attempt at a call came to nothing.
#[derive(Debug, Clone)]
pub(super) enum Loss {
    /// The connection broke.
    Lost(Arc<SessionError>),
    /// The server has not begun it.
    NotBegun,
    /// Layout 1: the response does not fit the session.
    Overflow,
    /// Nothing would change by trying again.
    Final(Box<CallError>),
}

impl From<CallError> for Loss {
    fn from(error: CallError) -> Self {
        Self::Final(Box::new(error))
    }
}
