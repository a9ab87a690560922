//! Typed clients of the five services, on top of [`ginnel_service::BaselineClient`].
//!
//! A client is driven by [`ServiceClient::refresh`] and called when ready; absence, restart and growing limits are the
//! base's business.

use crate::error::{DecodeError, EncodeError};
use crate::lookup::Lookup;
use crate::plain::{decode_increment, decode_string, encode_increment, encode_string};
use crate::run::{LOOKUP_ATTEMPTS, LookupRun, increments};
use crate::snapshot::{Snapshot, encode_snapshot_request};
use crate::split::{LookupAnswer, LookupCeilings, LookupError};
use ginnel_service::{BaselineClient, BaselineError, BaselineOptions, BatchReply, Deadline, State};
use ginnel_session::Endpoint;
use std::marker::PhantomData;
use std::time::Duration;

/// Method code of INCREMENT.
pub const INCREMENT_METHOD: u16 = 1;
/// Method code of CGROUPS_SNAPSHOT.
pub const SNAPSHOT_METHOD: u16 = 2;
/// Method code of STRING_REVERSE.
pub const STRING_REVERSE_METHOD: u16 = 3;

/// Why a service did not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetipcError {
    /// No response, or a status that is not OK.
    #[error(transparent)]
    Call(#[from] BaselineError),
    /// The same of an asynchronous client.
    #[cfg(feature = "tokio")]
    #[error(transparent)]
    AsyncCall(#[from] ginnel_service::CallError),
    /// A response that is none of this service.
    #[error("malformed response: {0}")]
    Response(#[from] DecodeError),
    /// What was asked cannot be encoded.
    #[error("cannot encode the request: {0}")]
    Request(#[from] EncodeError),
    /// The responses do not make one answer.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// A batch was answered with another number of items.
    #[error("{answered} answers to a batch of {asked}")]
    Count {
        /// Items asked.
        asked: usize,
        /// Items answered.
        answered: usize,
    },
}

/// The INCREMENT service, used by tests and benchmarks.
#[derive(Debug)]
pub enum Increment {}
/// The STRING_REVERSE service, used by tests.
#[derive(Debug)]
pub enum StringReverse {}
/// The CGROUPS_SNAPSHOT service.
#[derive(Debug)]
pub enum CgroupsSnapshot {}

/// A client of service `S`: [`Increment`], [`StringReverse`], [`CgroupsSnapshot`],
/// [`CgroupsLookup`](crate::CgroupsLookup) or [`AppsLookup`](crate::AppsLookup).
///
/// Every call blocks at most for [`BaselineOptions::call_timeout`], all requests and retries together, and fails at
/// once while the client is not ready. One thread at a time.
///
/// ```
/// use ginnel_netipc::{INCREMENT_METHOD, Increment, ServiceClient, increment_handler};
/// use ginnel_service::{BaselineOptions, Server, ServerOptions};
/// use ginnel_session::Endpoint;
///
/// let dir = tempfile::tempdir()?;
/// let endpoint = Endpoint::seqpacket(dir.path(), "increment")?;
/// let server = Server::start(&endpoint, ServerOptions::default(), INCREMENT_METHOD, increment_handler())?;
/// let mut client = ServiceClient::<Increment>::new(&endpoint, BaselineOptions::default())?;
/// assert!(client.refresh().is_ready());
/// assert_eq!(client.increment(41)?, 42);
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ServiceClient<S> {
    base: BaselineClient,
    timeout: Duration,
    request: Vec<u8>,
    ceilings: LookupCeilings,
    /// Whether the server may still be asked to take larger requests.
    may_grow: bool,
    service: PhantomData<S>,
}

impl<S> ServiceClient<S> {
    /// A client that is not connected yet.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new(endpoint: &Endpoint, options: BaselineOptions) -> std::io::Result<Self> {
        let timeout = options.call_timeout;
        let base = BaselineClient::new(endpoint, options)?;
        let ceilings = LookupCeilings::default();
        Ok(Self { base, timeout, request: Vec::new(), ceilings, may_grow: true, service: PhantomData })
    }

    /// Connects if that is due; see [`BaselineClient::refresh`].
    pub fn refresh(&mut self) -> State {
        let was_ready = self.base.state().is_ready();
        let state = self.base.refresh();
        // Another server may take what the last one refused.
        self.may_grow |= state.is_ready() && !was_ready;
        state
    }

    /// The client below: state, agreement, counters, abort.
    #[must_use]
    pub fn base(&self) -> &BaselineClient {
        &self.base
    }

    fn deadline(&self) -> Deadline {
        Deadline::after(self.timeout)
    }
}

impl ServiceClient<Increment> {
    /// The value plus one.
    ///
    /// # Errors
    /// [`NetipcError::Call`], [`NetipcError::Response`].
    pub fn increment(&mut self, value: u64) -> Result<u64, NetipcError> {
        self.request.clear();
        encode_increment(&mut self.request, value);
        Ok(decode_increment(self.base.call(INCREMENT_METHOD, &self.request)?)?)
    }

    /// Each value plus one, all in one request; `answers` is emptied first.
    ///
    /// # Errors
    /// [`NetipcError::Call`], [`NetipcError::Response`], [`NetipcError::Count`].
    pub fn increment_batch(&mut self, values: &[u64], answers: &mut Vec<u64>) -> Result<(), NetipcError> {
        self.request.clear();
        for value in values {
            encode_increment(&mut self.request, *value);
        }
        let deadline = self.deadline();
        let reply = self.base.call_batch(INCREMENT_METHOD, self.request.chunks_exact(8), deadline)?;
        match reply {
            BatchReply::Single(item) => increments([item], values.len(), answers),
            BatchReply::Batch(batch) => increments(batch.iter(), values.len(), answers),
        }
    }
}

impl ServiceClient<StringReverse> {
    /// The bytes in reverse, borrowed until the next call.
    ///
    /// # Errors
    /// [`NetipcError::Call`], [`NetipcError::Response`].
    pub fn reverse(&mut self, text: &[u8]) -> Result<&[u8], NetipcError> {
        self.request.clear();
        encode_string(&mut self.request, text, usize::MAX)?;
        Ok(decode_string(self.base.call(STRING_REVERSE_METHOD, &self.request)?)?)
    }
}

impl ServiceClient<CgroupsSnapshot> {
    /// All cgroups, borrowed until the next call.
    ///
    /// # Errors
    /// [`NetipcError::Call`], [`NetipcError::Response`].
    pub fn snapshot(&mut self) -> Result<Snapshot<'_>, NetipcError> {
        Ok(Snapshot::decode(self.snapshot_payload()?)?)
    }

    pub(crate) fn snapshot_payload(&mut self) -> Result<&[u8], BaselineError> {
        self.request.clear();
        encode_snapshot_request(&mut self.request);
        self.base.call(SNAPSHOT_METHOD, &self.request)
    }
}

impl<L: Lookup> ServiceClient<L> {
    /// Bounds of later lookups.
    pub fn set_ceilings(&mut self, ceilings: LookupCeilings) {
        self.ceilings = ceilings;
    }

    /// Answers for all keys, in their order, in as many requests as it takes, all of one generation. Should the
    /// provider's data change in between, the lookup starts again, up to twice.
    ///
    /// # Errors
    /// [`NetipcError::Call`] if any request fails, [`NetipcError::Lookup`]; no partial answer.
    pub fn lookup<'k>(&mut self, keys: &'k [L::Key<'k>]) -> Result<LookupAnswer<L>, NetipcError> {
        let deadline = self.deadline();
        let mut request = std::mem::take(&mut self.request);
        let mut attempt = 1;
        let answer = loop {
            match self.lookup_once(keys, &mut request, deadline) {
                Err(NetipcError::Lookup(LookupError::GenerationChanged { .. })) if attempt < LOOKUP_ATTEMPTS => {
                    attempt += 1
                }
                answer => break answer,
            }
        };
        self.request = request;
        answer
    }

    fn lookup_once<'k>(
        &mut self,
        keys: &'k [L::Key<'k>],
        request: &mut Vec<u8>,
        deadline: Deadline,
    ) -> Result<LookupAnswer<L>, NetipcError> {
        let mut run = LookupRun::<L>::new(keys, self.ceilings)?;
        let limits = |base: &BaselineClient| base.agreement().map(|agreed| (agreed.request, agreed.response));
        while run.next(limits(&self.base), self.may_grow, request)? {
            match self.base.call_until(L::METHOD, request, deadline) {
                Ok(payload) => run.answer(payload)?,
                Err(BaselineError::RequestTooLarge { .. }) if run.too_large(&mut self.may_grow)? => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(run.finish()?)
    }
}
