//! Clients of one service.

pub(crate) mod baseline;
mod callable;
mod core;
mod error;
#[cfg(feature = "tokio")]
mod future;
mod link;
mod op;
mod options;
mod response;
mod shared;
mod slots;
mod stream;
#[cfg(feature = "tokio")]
mod task;
mod tell;
mod turn;

pub use baseline::{BaselineClient, BaselineCounters, BaselineError, BaselineOptions, BatchReply};
pub use callable::{Callable, Notified, Streaming};
pub use error::CallError;
#[cfg(feature = "tokio")]
pub use future::CallFuture;
pub use options::{CallOptions, ClientOptions};
pub use response::Response;
pub use stream::Items;
#[cfg(feature = "tokio")]
pub use stream::{AsyncItems, StreamFuture};

use crate::state::State;
use ginnel_session::{Agreement, ConnectError, Endpoint};
use ginnel_wire::{BatchBuilder, HelloAck2, MethodHash, Reply};
use op::{Next, Op};
use shared::Shared;
use slots::Ask;
use std::sync::Arc;

/// What a client has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ClientCounters {
    /// First connections.
    pub connects: u64,
    /// Connections after one that broke or was too small.
    pub reconnects: u64,
    /// Calls that were answered; streams that were begun.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Requests that were sent a second time, although the server may have begun them.
    pub retries: u64,
    /// Calls that needed larger limits.
    pub overflows: u64,
}

/// A client of one service: many calls at once over one connection, from many threads and tasks.
///
/// Clones share the connection. It is made when the first call needs it, in layout 2 where the server has it and else
/// in layout 1 (then without streams and one-way calls), and made anew when it breaks. While the server is absent or
/// refuses, calls fail at once with [`CallError::NotReady`], and attempts to connect are made with growing pauses, or
/// they wait for it ([`CallOptions::wait_for_server`]).
///
/// Every call has a deadline. It has one outcome: its answer, or an error. A call whose connection breaks is sent again
/// only if that is known to be harmless: the server has not begun it, or it is [idempotent](CallOptions::idempotent),
/// and then once.
///
/// The thread that calls reads its answer itself: of the threads that wait, one at a time drives the connection for
/// all. No thread runs in the background. Futures (feature `tokio`) are served by a task of the runtime in which the
/// first of them is polled, or by whatever thread waits in a call.
///
/// A process that `fork` makes does not touch its parent's connection: calls fail with [`CallError::Forked`].
///
/// ```
/// use ginnel_service::{Client, ClientOptions, Failure, Request, Server, ServerOptions};
/// use ginnel_session::Endpoint;
///
/// let dir = tempfile::tempdir()?;
/// let endpoint = Endpoint::seqpacket(dir.path(), "shout")?;
/// let shout = |request: &Request<'_>, response: &mut Vec<u8>| -> Result<(), Failure> {
///     response.extend(request.payload.to_ascii_uppercase());
///     Ok(())
/// };
/// let server = Server::start(&endpoint, ServerOptions::default(), 7, shout)?;
///
/// let client = Client::new(&endpoint, ClientOptions::default())?;
/// let other = client.clone();
/// let thread = std::thread::spawn(move || other.call(7, b"hello").unwrap().to_vec());
/// assert_eq!(&*client.call(7, b"there")?, b"THERE");
/// assert_eq!(thread.join().unwrap(), b"HELLO");
/// server.stop();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

impl Client {
    /// A client that is not connected yet. It does no I/O.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new(endpoint: &Endpoint, options: ClientOptions) -> std::io::Result<Self> {
        Ok(Self { shared: Shared::new(endpoint, options)? })
    }

    /// Where the service is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// How it behaves.
    #[must_use]
    pub fn options(&self) -> &ClientOptions {
        &self.shared.options
    }

    /// What is known about the service. Does no I/O: a server that has gone while nobody called is found out by the
    /// next call.
    #[must_use]
    pub fn state(&self) -> State {
        self.shared.enter().map_or(State::Disconnected, |core| core.state())
    }

    /// Why the last attempt to connect failed; `None` once one has succeeded. Does no I/O.
    #[must_use]
    pub fn last_error(&self) -> Option<Arc<ConnectError>> {
        self.shared.enter().ok()?.last_error.clone()
    }

    /// Limits and peer of the present connection, if there is one. Does no I/O.
    #[must_use]
    pub fn agreement(&self) -> Option<Agreement> {
        Some(self.shared.enter().ok()?.link.as_ref()?.agreement)
    }

    /// What the server granted in layout 2: interface, schema hash, features, windows. `None` without a connection, and
    /// with a server of layout 1. Does no I/O.
    #[must_use]
    pub fn layout_2(&self) -> Option<HelloAck2> {
        self.shared.enter().ok()?.link.as_ref()?.connection.layout_2().copied()
    }

    /// Calls that are on their way and have no final answer yet, those included that nobody waits for any more.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.enter().map_or(0, |core| core.in_flight())
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ClientCounters {
        self.shared.enter().map(|core| core.counters).unwrap_or_default()
    }

    /// Connects if there is no connection. Blocks for [`ClientOptions::call_timeout`] at most. Calls do so by
    /// themselves; this is for those that want to know.
    ///
    /// # Errors
    /// [`CallError::NotReady`], [`CallError::TimedOut`], [`CallError::Forked`].
    pub fn connect(&self) -> Result<(), CallError> {
        self.connect_with(&CallOptions::default())
    }

    /// The same until a deadline, which may wait for a server that is absent.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn connect_with(&self, options: &CallOptions) -> Result<(), CallError> {
        let mut op = self.op(Ask::Connection, options);
        self.shared.finish(&mut op, &[]).map(|_| ())
    }

    /// Ends the connection: calls in flight fail with [`CallError::Closed`]. The next call connects again.
    pub fn close(&self) {
        self.shared.close();
    }

    fn op(&self, ask: Ask, options: &CallOptions) -> Op {
        Op::new(ask, options, self.shared.options.call_timeout)
    }

    /// The options of a call: its own, and what its method says.
    fn options_of<M: Callable>(method: M, options: &CallOptions) -> CallOptions {
        CallOptions { idempotent: options.idempotent || method.is_idempotent(), ..*options }
    }

    fn unary(&self, ask: Ask, payload: &[u8], options: &CallOptions) -> Result<Response, CallError> {
        let mut op = self.op(ask, options);
        self.shared.finish(&mut op, payload)?.ok_or(CallError::Mismatch)
    }

    /// Calls `method` with `request` and waits for the answer, at most for [`ClientOptions::call_timeout`]. Blocks.
    ///
    /// `method` is a [`Method`](crate::Method), or a number where requests and answers are bytes.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call<M: Callable>(&self, method: M, request: &M::Request) -> Result<M::Response, CallError> {
        self.call_with(method, request, &CallOptions::default())
    }

    /// The same as `options` say.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call_with<M: Callable>(
        &self,
        method: M,
        request: &M::Request,
        options: &CallOptions,
    ) -> Result<M::Response, CallError> {
        let ask = Ask::Call { method: method.number(), reply: Reply::One, batch: None };
        M::read(self.unary(ask, &M::write(request)?, &Self::options_of(method, options))?)
    }

    /// The same, but where the window is full it does not wait for room. It does wait for the answer.
    ///
    /// # Errors
    /// [`CallError::WouldBlock`] if the window is full; see [`CallError`].
    pub fn try_call<M: Callable>(
        &self,
        method: M,
        request: &M::Request,
        options: &CallOptions,
    ) -> Result<M::Response, CallError> {
        let ask = Ask::Call { method: method.number(), reply: Reply::One, batch: None };
        let mut op = self.op(ask, &Self::options_of(method, options));
        op.no_wait = true;
        M::read(self.shared.finish(&mut op, &M::write(request)?)?.ok_or(CallError::Mismatch)?)
    }

    /// Calls `method` without an answer, not even an error. Returns when the carrier has taken all of it. Blocks.
    ///
    /// `method` is a [`OneWay`](crate::OneWay), or a number where requests are bytes.
    ///
    /// # Errors
    /// [`CallError::Unsupported`] where the server takes no such calls; see [`CallError`].
    pub fn send<M: Notified>(&self, method: M, request: &M::Request, options: &CallOptions) -> Result<(), CallError> {
        let ask = Ask::Call { method: method.number(), reply: Reply::None, batch: None };
        let mut op = self.op(ask, options);
        self.shared.finish(&mut op, &M::write(request)?).map(|_| ())
    }

    /// Calls `method` for each of `requests` in one message; the answers come in their order. Blocks. No requests are
    /// an error of the server's, since a batch has one at least: ask for some.
    ///
    /// # Errors
    /// See [`CallError`]: one error stands for all of them.
    pub fn batch<'i, M: Callable>(
        &self,
        method: M,
        requests: impl IntoIterator<Item = &'i M::Request, IntoIter: ExactSizeIterator>,
        options: &CallOptions,
    ) -> Result<M::Responses, CallError>
    where
        M::Request: 'i,
    {
        let (ask, payload) = batch(method, requests)?;
        M::read_all(self.unary(ask, &payload, &Self::options_of(method, options))?)
    }

    /// Asks which methods the server has, with their hashes. Blocks.
    ///
    /// # Errors
    /// [`CallError::Unsupported`] where the server does not tell; see [`CallError`].
    pub fn methods(&self, options: &CallOptions) -> Result<Vec<MethodHash>, CallError> {
        self.unary(Ask::Methods, &[], options)?.methods()
    }

    /// Calls `method` for a stream of answers. The deadline is that of the whole stream. The server sends as many items
    /// ahead as the connection's stream window has; it may send more as they are taken. Blocks until the request is on
    /// its way.
    ///
    /// `method` is a [`StreamMethod`](crate::StreamMethod), or a number where requests and items are bytes.
    ///
    /// # Errors
    /// [`CallError::Unsupported`] where the server has no streams; see [`CallError`].
    pub fn stream<M: Streaming>(
        &self,
        method: M,
        request: &M::Request,
        options: &CallOptions,
    ) -> Result<Items<M>, CallError> {
        let mut op = self.op(Ask::Call { method: method.number(), reply: Reply::Stream, batch: None }, options);
        op.only_open = true;
        match self.shared.run(&mut op, &M::write(request)?) {
            Next::Open(key) => Ok(Items::new(Arc::clone(&self.shared), key, op.deadline)),
            Next::Done(Err(error)) => Err(error),
            _ => Err(CallError::Closed),
        }
    }
}

fn batch<'i, M: Callable>(
    method: M,
    requests: impl IntoIterator<Item = &'i M::Request, IntoIter: ExactSizeIterator>,
) -> Result<(Ask, Vec<u8>), CallError>
where
    M::Request: 'i,
{
    let requests = requests.into_iter();
    let mut builder = BatchBuilder::new(requests.len());
    for request in requests {
        let too_large = |full: ginnel_wire::BatchFull| {
            let len = usize::try_from(full.size).unwrap_or(usize::MAX);
            CallError::RequestTooLarge { len, limit: u32::MAX }
        };
        builder.push(&M::write(request)?).map_err(too_large)?;
    }
    let items = builder.len() as u32;
    Ok((Ask::Call { method: method.number(), reply: Reply::One, batch: Some(items) }, builder.finish()))
}

#[cfg(feature = "tokio")]
mod asynchronous {
    use super::future::RawCall;
    use super::{
        Ask, CallError, CallFuture, CallOptions, Callable, Client, Notified, Reply, StreamFuture, Streaming, batch,
    };
    use ginnel_wire::MethodHash;

    impl Client {
        /// [`Client::call`] as a future. The request leaves when it is first polled. Dropping it takes the call back:
        /// the server is told. To be polled within one tokio runtime, which has I/O and time.
        pub fn call_async<'p, M: Callable>(&self, method: M, request: &'p M::Request) -> CallFuture<'p, M> {
            self.call_async_with(method, request, &CallOptions::default())
        }

        /// [`Client::call_with`] as a future; see [`Client::call_async`].
        pub fn call_async_with<'p, M: Callable>(
            &self,
            method: M,
            request: &'p M::Request,
            options: &CallOptions,
        ) -> CallFuture<'p, M> {
            let ask = Ask::Call { method: method.number(), reply: Reply::One, batch: None };
            let op = self.op(ask, &Self::options_of(method, options));
            CallFuture::new(M::write(request).map(|payload| RawCall::new(&self.shared, op, payload)))
        }

        /// [`Client::send`] as a future.
        ///
        /// # Errors
        /// As [`Client::send`].
        pub async fn send_async<M: Notified>(
            &self,
            method: M,
            request: &M::Request,
            options: &CallOptions,
        ) -> Result<(), CallError> {
            let ask = Ask::Call { method: method.number(), reply: Reply::None, batch: None };
            RawCall::new(&self.shared, self.op(ask, options), M::write(request)?).outcome().await.map(|_| ())
        }

        /// [`Client::batch`] as a future.
        ///
        /// # Errors
        /// As [`Client::batch`].
        pub async fn batch_async<'i, M: Callable>(
            &self,
            method: M,
            requests: impl IntoIterator<Item = &'i M::Request, IntoIter: ExactSizeIterator>,
            options: &CallOptions,
        ) -> Result<M::Responses, CallError>
        where
            M::Request: 'i,
        {
            let (ask, payload) = batch(method, requests)?;
            let op = self.op(ask, &Self::options_of(method, options));
            M::read_all(RawCall::new(&self.shared, op, payload.into()).await?)
        }

        /// [`Client::methods`] as a future.
        ///
        /// # Errors
        /// As [`Client::methods`].
        pub async fn methods_async(&self, options: &CallOptions) -> Result<Vec<MethodHash>, CallError> {
            RawCall::new(&self.shared, self.op(Ask::Methods, options), (&[]).into()).await?.methods()
        }

        /// [`Client::connect_with`] as a future.
        ///
        /// # Errors
        /// As [`Client::connect`].
        pub async fn connect_async(&self, options: &CallOptions) -> Result<(), CallError> {
            let op = self.op(Ask::Connection, options);
            RawCall::new(&self.shared, op, (&[]).into()).outcome().await.map(|_| ())
        }

        /// [`Client::stream`] as a future of a [`Stream`](futures_core::Stream), which takes the call back when it is
        /// dropped before its end.
        pub fn stream_async<'p, M: Streaming>(
            &self,
            method: M,
            request: &'p M::Request,
            options: &CallOptions,
        ) -> StreamFuture<'p, M> {
            let mut op = self.op(Ask::Call { method: method.number(), reply: Reply::Stream, batch: None }, options);
            op.only_open = true;
            StreamFuture::new(M::write(request).map(|payload| RawCall::new(&self.shared, op, payload)))
        }
    }
}
