//! The typed clients as futures, on top of [`ginnel_service::Client`]: many requests at once over one connection, from
//! many tasks. What the answers mean is decided where the blocking clients decide it.

use crate::client::{
    CgroupsSnapshot, INCREMENT_METHOD, Increment, NetipcError, SNAPSHOT_METHOD, STRING_REVERSE_METHOD, StringReverse,
};
use crate::lookup::Lookup;
use crate::plain::{decode_increment, decode_string, encode_increment, encode_string};
use crate::run::{LOOKUP_ATTEMPTS, LookupRun, increments};
use crate::snapshot::{Snapshot, encode_snapshot_request};
use crate::split::{LookupAnswer, LookupCeilings, LookupError};
use ginnel_service::{CallError, CallOptions, Client, ClientOptions, Deadline, Response};
use ginnel_session::Endpoint;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// An asynchronous client of service `S`, as [`ServiceClient`](crate::ServiceClient) is a blocking one. Clones share
/// the connection, which is made when the first call needs it and made anew when it breaks.
///
/// Every call ends within [`ClientOptions::call_timeout`], all requests and retries together. The services only read,
/// so a request whose connection breaks is sent once more. Dropping a future takes its call back.
///
/// ```
/// use ginnel_netipc::{AsyncServiceClient, INCREMENT_METHOD, Increment, increment_handler};
/// use ginnel_service::{ClientOptions, Server, ServerOptions};
/// use ginnel_session::Endpoint;
///
/// let dir = tempfile::tempdir()?;
/// let endpoint = Endpoint::seqpacket(dir.path(), "increment")?;
/// let server = Server::start(&endpoint, ServerOptions::default(), INCREMENT_METHOD, increment_handler())?;
/// let client = AsyncServiceClient::<Increment>::new(&endpoint, ClientOptions::default())?;
/// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
/// assert_eq!(runtime.block_on(client.increment(41))?, 42);
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct AsyncServiceClient<S> {
    base: Client,
    ceilings: LookupCeilings,
    /// [`reconnects`](ginnel_service::ClientCounters::reconnects), plus one, when the server last refused larger
    /// requests: another server may take them.
    refused: Arc<AtomicU64>,
    service: PhantomData<fn() -> S>,
}

impl<S> Clone for AsyncServiceClient<S> {
    fn clone(&self) -> Self {
        Self {
            base: self.base.clone(),
            ceilings: self.ceilings,
            refused: Arc::clone(&self.refused),
            service: PhantomData,
        }
    }
}

impl<S> AsyncServiceClient<S> {
    /// A client that is not connected yet.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new(endpoint: &Endpoint, options: ClientOptions) -> std::io::Result<Self> {
        let base = Client::new(endpoint, options)?;
        Ok(Self { base, ceilings: LookupCeilings::default(), refused: Arc::default(), service: PhantomData })
    }

    /// The client below: state, agreement, counters.
    #[must_use]
    pub fn base(&self) -> &Client {
        &self.base
    }

    fn options(&self) -> CallOptions {
        CallOptions::at_most(self.base.options().call_timeout).idempotent()
    }

    async fn ask(&self, method: u16, request: Vec<u8>) -> Result<Response, CallError> {
        self.base.call_async_with(method, &request, &self.options()).await
    }
}

impl AsyncServiceClient<Increment> {
    /// The value plus one.
    ///
    /// # Errors
    /// [`NetipcError::AsyncCall`], [`NetipcError::Response`].
    pub async fn increment(&self, value: u64) -> Result<u64, NetipcError> {
        let mut request = Vec::new();
        encode_increment(&mut request, value);
        Ok(decode_increment(&self.ask(INCREMENT_METHOD, request).await?)?)
    }

    /// Each value plus one, all in one request.
    ///
    /// # Errors
    /// [`NetipcError::AsyncCall`], [`NetipcError::Response`], [`NetipcError::Count`].
    pub async fn increment_batch(&self, values: &[u64]) -> Result<Vec<u64>, NetipcError> {
        let (mut request, mut answers) = (Vec::new(), Vec::new());
        if values.is_empty() {
            return Ok(answers);
        }
        for value in values {
            encode_increment(&mut request, *value);
        }
        let options = self.options();
        let reply = self.base.batch_async(INCREMENT_METHOD, request.chunks_exact(8), &options).await?;
        increments(reply.items(), values.len(), &mut answers)?;
        Ok(answers)
    }
}

impl AsyncServiceClient<StringReverse> {
    /// The bytes in reverse.
    ///
    /// # Errors
    /// [`NetipcError::AsyncCall`], [`NetipcError::Response`].
    pub async fn reverse(&self, text: &[u8]) -> Result<Vec<u8>, NetipcError> {
        let mut request = Vec::new();
        encode_string(&mut request, text, usize::MAX)?;
        Ok(decode_string(&self.ask(STRING_REVERSE_METHOD, request).await?)?.to_vec())
    }
}

/// A snapshot in memory of its own, checked.
#[derive(Debug)]
pub struct OwnedSnapshot(Response);

impl OwnedSnapshot {
    /// All cgroups.
    ///
    /// # Errors
    /// None that [`AsyncServiceClient::snapshot`] has not told.
    pub fn get(&self) -> Result<Snapshot<'_>, NetipcError> {
        Ok(Snapshot::decode(&self.0)?)
    }

    /// The payload, for [`CgroupCache::apply`](crate::CgroupCache::apply).
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0
    }
}

impl AsyncServiceClient<CgroupsSnapshot> {
    /// All cgroups.
    ///
    /// # Errors
    /// [`NetipcError::AsyncCall`], [`NetipcError::Response`].
    pub async fn snapshot(&self) -> Result<OwnedSnapshot, NetipcError> {
        let mut request = Vec::new();
        encode_snapshot_request(&mut request);
        let answer = self.ask(SNAPSHOT_METHOD, request).await?;
        Snapshot::decode(&answer)?;
        Ok(OwnedSnapshot(answer))
    }
}

impl<L: Lookup> AsyncServiceClient<L> {
    /// Bounds of later lookups.
    pub fn set_ceilings(&mut self, ceilings: LookupCeilings) {
        self.ceilings = ceilings;
    }

    /// Answers for all keys, in their order, in as many requests as it takes, all of one generation. Should the
    /// provider's data change in between, the lookup starts again, up to twice.
    ///
    /// # Errors
    /// [`NetipcError::AsyncCall`] if any request fails, [`NetipcError::Lookup`]; no partial answer.
    pub async fn lookup<'k>(&self, keys: &'k [L::Key<'k>]) -> Result<LookupAnswer<L>, NetipcError> {
        let options = self.options();
        let deadline = options.deadline.unwrap_or(Deadline::NEVER);
        let mut attempt = 1;
        loop {
            match self.lookup_once(keys, &CallOptions::until(deadline).idempotent()).await {
                Err(NetipcError::Lookup(LookupError::GenerationChanged { .. })) if attempt < LOOKUP_ATTEMPTS => {
                    attempt += 1;
                }
                answer => return answer,
            }
        }
    }

    async fn lookup_once<'k>(
        &self,
        keys: &'k [L::Key<'k>],
        options: &CallOptions,
    ) -> Result<LookupAnswer<L>, NetipcError> {
        // The limits are the connection's.
        self.base.connect_async(options).await?;
        let mut run = LookupRun::<L>::new(keys, self.ceilings)?;
        let mut request = Vec::new();
        loop {
            let connection = self.base.counters().reconnects + 1;
            let mut may_grow = self.refused.load(Ordering::Relaxed) != connection;
            let limits = self.base.agreement().map(|agreed| (agreed.request, agreed.response));
            if !run.next(limits, may_grow, &mut request)? {
                return Ok(run.finish()?);
            }
            match self.base.call_async_with(L::METHOD, request.as_slice(), options).await {
                Ok(payload) => run.answer(&payload)?,
                Err(CallError::RequestTooLarge { .. }) if run.too_large(&mut may_grow)? => {
                    if !may_grow {
                        // To ask for more has cost a connection, which is the one that it holds for.
                        let connection = self.base.counters().reconnects + 1;
                        self.refused.store(connection, Ordering::Relaxed);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}
