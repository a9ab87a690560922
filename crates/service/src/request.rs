//! A request that may outlive the handler that got it.

use crate::context::Context;
use crate::handler::Request;
use crate::mail::{Letter, Office};
use ginnel_session::Agreement;
use ginnel_session::proto::Received;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What each request counts for beside its own bytes: a flood of empty ones must not be free.
const OVERHEAD: usize = 256;

/// What the requests of a reactor's sessions may hold together.
#[derive(Debug)]
pub(crate) struct Budget {
    held: AtomicUsize,
    most: usize,
    office: Arc<Office>,
}

impl Budget {
    /// With no budget at all no request would ever be taken: then it is one after the other.
    pub(crate) fn new(budget: usize, office: Arc<Office>) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), most: budget.max(1), office })
    }

    /// Bytes under way, and the most that may be.
    pub(crate) fn figures(&self) -> (usize, usize) {
        (self.held.load(Ordering::Relaxed), self.most)
    }

    /// Whether requests are to be left where they are, because too many bytes of them are under way.
    pub(crate) fn is_full(&self) -> bool {
        self.held.load(Ordering::Relaxed) >= self.most
    }
}

/// Bytes of a request that waits for an executor, or is used by it.
pub(crate) struct Held {
    bytes: usize,
    budget: Arc<Budget>,
}

impl Held {
    pub(crate) fn new(message: &Received, budget: &Arc<Budget>) -> Self {
        let bytes = message.held() + OVERHEAD;
        budget.held.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, budget: Arc::clone(budget) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let before = self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
        if before >= self.budget.most && before - self.bytes < self.budget.most {
            // The answer may come much later, and sessions wait for this. The letter's lock carries the count.
            self.budget.office.post(Letter::Room);
        }
    }
}

/// A request in memory of its own, for a handler that answers later or from another thread.
///
/// While it lives, its bytes count against [`ServerOptions::request_budget`](crate::ServerOptions::request_budget): drop
/// it when it has been read.
pub struct OwnedRequest {
    message: Received,
    context: Context,
    // After the message: its bytes are given back when they are gone.
    _held: Held,
}

impl OwnedRequest {
    pub(crate) fn new(message: Received, context: Context, held: Held) -> Self {
        Self { message, context, _held: held }
    }

    /// Its bytes. They are a private copy: nothing changes them.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.message.payload()
    }

    /// How many items it has, if it is a batch: then the payload is a [`Batch`](ginnel_wire::Batch).
    #[must_use]
    pub fn batch(&self) -> Option<u32> {
        batch(&self.message)
    }

    /// The method that was asked for.
    #[must_use]
    pub fn method(&self) -> u16 {
        self.message.envelope.code
    }

    /// Most bytes that the response, or an item of the stream, may have.
    #[must_use]
    pub fn response_limit(&self) -> usize {
        self.session().response.max_payload as usize
    }

    /// The session it came by.
    #[must_use]
    pub fn session(&self) -> &Agreement {
        self.context.session()
    }

    /// How long the client waits, and whether it still does.
    #[must_use]
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The same, as a [`Handler`](crate::Handler) gets it.
    #[must_use]
    pub fn as_request(&self) -> Request<'_> {
        Request {
            payload: self.payload(),
            response_limit: self.response_limit(),
            session: self.session(),
            context: &self.context,
        }
    }
}

impl fmt::Debug for OwnedRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let len = self.payload().len();
        f.debug_struct("OwnedRequest").field("method", &self.method()).field("len", &len).finish_non_exhaustive()
    }
}

/// Items of a batch.
pub(crate) fn batch(message: &Received) -> Option<u32> {
    let envelope = &message.envelope;
    (envelope.batch && envelope.item_count >= 1).then_some(envelope.item_count)
}
