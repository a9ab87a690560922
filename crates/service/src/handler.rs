//! What a server calls to answer a request.

use crate::context::Context;
use crate::failure::Failure;
use ginnel_session::Agreement;

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
