//! What a server calls to answer a request.

use crate::context::Context;
use ginnel_session::Agreement;
use ginnel_wire::Status;

/// One request: a message, or one item of a batch.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// Its bytes. They are a private copy: nothing changes them while the handler runs.
    pub payload: &'a [u8],
    /// Most bytes the response may have. A handler that needs more says [`Failure::Overflow`].
    pub response_limit: usize,
    /// The session it came by: who asks, and with which limits.
    pub session: &'a Agreement,
    /// How long the client waits, and whether it still does.
    pub context: &'a Context,
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The request cannot be decoded. The client is told BAD_ENVELOPE and the session ends.
    #[error("the request cannot be decoded")]
    Malformed,
    /// The response is larger than [`Request::response_limit`]. The client is told LIMIT_EXCEEDED and the session ends;
    /// the server learns the size, and grants it to the next session within its ceiling.
    #[error("the response needs {needed} bytes")]
    Overflow {
        /// Bytes the response would have; 0 if that is not known.
        needed: usize,
    },
    /// The service failed. The client is told INTERNAL_ERROR, and the session goes on.
    #[error("the service failed")]
    Internal,
    /// The server has no such method. The client is told UNSUPPORTED.
    #[error("there is no such method")]
    Unsupported,
    /// The handler ended without an answer: its [`Responder`](crate::Responder) was dropped. The client is told
    /// INTERNAL_ERROR.
    #[error("the handler ended without an answer")]
    Aborted,
    /// The server has no room for the request now; it was not begun. The client is told INTERNAL_ERROR.
    #[error("the server has no room for the request now")]
    Unavailable,
    /// The client no longer wants the answer.
    #[error("the call was cancelled")]
    Cancelled,
    /// The client has stopped waiting.
    #[error("the deadline of the call has passed")]
    DeadlineExceeded,
}

impl Failure {
    /// What the client is told.
    #[must_use]
    pub fn status(self) -> Status {
        match self {
            Self::Malformed => Status::BAD_ENVELOPE,
            Self::Overflow { .. } => Status::LIMIT_EXCEEDED,
            Self::Unsupported => Status::UNSUPPORTED,
            Self::Internal | Self::Aborted | Self::Unavailable | Self::Cancelled | Self::DeadlineExceeded => {
                Status::INTERNAL_ERROR
            }
        }
    }

    /// Whether the session ends after it: a peer that sends nonsense, or needs limits that this session will never
    /// have.
    pub(crate) fn ends_session(self) -> bool {
        matches!(self, Self::Malformed | Self::Overflow { .. })
    }
}

/// Answers the requests of one service. Called by several threads at once; a panic costs the request
/// ([`Failure::Internal`]) and nothing else. A handler whose measured cost is small runs on the reactor's own thread.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request` by appending to `response`, which is empty.
    ///
    /// # Errors
    /// Why there is no answer; what was written to `response` is dropped then.
    fn handle(&self, request: &Request<'_>, response: &mut Vec<u8>) -> Result<(), Failure>;
}

impl<F> Handler for F
where
    F: Fn(&Request<'_>, &mut Vec<u8>) -> Result<(), Failure> + Send + Sync + 'static,
{
    fn handle(&self, request: &Request<'_>, response: &mut Vec<u8>) -> Result<(), Failure> {
        self(request, response)
    }
}
