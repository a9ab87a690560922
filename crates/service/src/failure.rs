//! Why a request has no answer, and how each layout tells it.

use ginnel_wire::Status;
use std::borrow::Cow;

/// Why a request has no answer.
///
/// A client of layout 2 is told the status that each variant names, and for [`Application`](Self::Application) all that
/// it holds. Layout 1 has fewer statuses: there those that it lacks are INTERNAL_ERROR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The request cannot be decoded: BAD_ENVELOPE. A session of layout 1 ends with it.
    #[error("the request cannot be decoded")]
    Malformed,
    /// The request is not one of the method's: BAD_ENVELOPE with the reason. A session of layout 1 ends with it.
    #[error("the request cannot be decoded: {reason}")]
    Undecodable {
        /// What is wrong with it, for people.
        reason: Cow<'static, str>,
    },
    /// The response is larger than [`Request::response_limit`](crate::Request::response_limit): LIMIT_EXCEEDED. A
    /// session of layout 1 ends with it. The server learns the size, and grants it to the next session within its
    /// ceiling.
    #[error("the response needs {needed} bytes")]
    Overflow {
        /// Bytes the response would have; 0 if that is not known.
        needed: usize,
    },
    /// The service failed: INTERNAL_ERROR.
    #[error("the service failed")]
    Internal,
    /// The server has no such method, or not for such calls: UNSUPPORTED.
    #[error("there is no such method")]
    Unsupported,
    /// The handler ended without an answer, because its [`Responder`](crate::Responder) was dropped: ABORTED, or
    /// INTERNAL_ERROR in layout 1.
    #[error("the handler ended without an answer")]
    Aborted,
    /// The server has no room for the request now, which was not begun: UNAVAILABLE and retryable, or INTERNAL_ERROR in
    /// layout 1.
    #[error("the server has no room for the request now")]
    Unavailable,
    /// The client no longer wants the answer: CANCELLED, or INTERNAL_ERROR in layout 1.
    #[error("the call was cancelled")]
    Cancelled,
    /// The client has stopped waiting: DEADLINE_EXCEEDED, or INTERNAL_ERROR in layout 1.
    #[error("the deadline of the call has passed")]
    DeadlineExceeded,
    /// The service failed in a way of its own: APPLICATION with all of it, or INTERNAL_ERROR in layout 1.
    #[error(transparent)]
    Application(Box<ApplicationError>),
}

/// An error of a service's own.
///
/// Code, message and details have at most 4,080 bytes together on the wire: a longer message is cut, and details that
/// do not fit are left out.
#[derive(Debug, Clone, PartialEq, Eq, Default, thiserror::Error)]
#[error("the service says {message:?} (code {code})")]
pub struct ApplicationError {
    /// The interface's own number for it.
    pub code: u32,
    /// For people.
    pub message: Cow<'static, str>,
    /// The same request may succeed later.
    pub retryable: bool,
    /// For programs; their meaning belongs to `code`.
    pub details: Vec<u8>,
}

impl ApplicationError {
    /// An error that is not retryable and has no details.
    #[must_use]
    pub fn new(code: u32, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), ..Self::default() }
    }

    /// Says that the same request may succeed later.
    #[must_use]
    pub fn retryable(self) -> Self {
        Self { retryable: true, ..self }
    }

    /// Adds what programs may want to know.
    #[must_use]
    pub fn with_details(self, details: impl Into<Vec<u8>>) -> Self {
        Self { details: details.into(), ..self }
    }
}

impl From<ApplicationError> for Failure {
    fn from(error: ApplicationError) -> Self {
        Self::Application(Box::new(error))
    }
}

impl Failure {
    /// What a client of layout 2 is told.
    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::Malformed | Self::Undecodable { .. } => Status::BAD_ENVELOPE,
            Self::Overflow { .. } => Status::LIMIT_EXCEEDED,
            Self::Unsupported => Status::UNSUPPORTED,
            Self::Internal => Status::INTERNAL_ERROR,
            Self::Aborted => Status::ABORTED,
            Self::Unavailable => Status::UNAVAILABLE,
            Self::Cancelled => Status::CANCELLED,
            Self::DeadlineExceeded => Status::DEADLINE_EXCEEDED,
            Self::Application(_) => Status::APPLICATION,
        }
    }

    /// What a client of layout 1 is told.
    #[must_use]
    pub fn status_in_layout_1(&self) -> Status {
        match self {
            Self::Malformed | Self::Undecodable { .. } | Self::Overflow { .. } | Self::Unsupported => self.status(),
            _ => Status::INTERNAL_ERROR,
        }
    }

    /// What a client of layout 2 is told beside the status.
    pub(crate) fn structured(&self) -> Option<ginnel_wire::Failure<'_>> {
        match self {
            Self::Application(error) => Some(ginnel_wire::Failure {
                code: error.code,
                retryable: error.retryable,
                message: &error.message,
                details: &error.details,
            }),
            Self::Undecodable { reason } => Some(ginnel_wire::Failure { message: reason, ..Default::default() }),
            Self::Unavailable => Some(ginnel_wire::Failure { retryable: true, ..Default::default() }),
            _ => None,
        }
    }

    /// Whether a session of layout 1 ends after it: a peer that sends nonsense, or needs limits that this session will
    /// never have.
    pub(crate) fn ends_session(&self) -> bool {
        matches!(self, Self::Malformed | Self::Undecodable { .. } | Self::Overflow { .. })
    }
}
