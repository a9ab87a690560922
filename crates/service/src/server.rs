//! A server: one endpoint, one service, many sessions.

use crate::accept::accept_until_drained;
use crate::handler::Handler;
use crate::learned::{DEFAULT_CEILING, Learned};
use crate::places::Places;
use ginnel_base::Deadline;
use ginnel_session::{Abort, DEFAULT_MAX_PAYLOAD, Endpoint, ListenError, Listener, ServerConfig};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long [`Server::stop`] gives running handlers.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// Most items of one batch when nothing else is said.
pub const DEFAULT_MAX_BATCH_ITEMS: u32 = 65_536;

/// How a server behaves.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// What sessions are offered. A payload limit of 0 stands for one that is learned: it starts at 1024 bytes and grows
    /// with what clients propose and handlers need, up to [`DEFAULT_CEILING`]. Any other limit is fixed.
    pub session: ServerConfig,
    /// Most sessions at once. When there are as many, the one that has been idle longest makes room for a newcomer, if it has been
    /// idle for [`idle_timeout`](Self::idle_timeout); else the newcomer is refused in the handshake.
    pub max_sessions: usize,
    /// How long a session must have waited for a request before it makes room. While there is room it may wait for ever.
    pub idle_timeout: Duration,
    /// Most items of one batch, whatever the client proposed: the handler runs once for each. A client that sends more is told
    /// LIMIT_EXCEEDED, and its session ends.
    pub max_batch_items: u32,
    /// How long a client may leave a response untaken before it is dropped.
    pub send_timeout: Duration,
}

impl Default for ServerOptions {
    /// Learned limits, 64 sessions that make room after five idle seconds, batches of up to [`DEFAULT_MAX_BATCH_ITEMS`], 30 seconds.
    fn default() -> Self {
        let session = ServerConfig { max_request_payload: 0, max_response_payload: 0, ..ServerConfig::default() };
        Self {
            session,
            max_sessions: 64,
            idle_timeout: Duration::from_secs(5),
            max_batch_items: DEFAULT_MAX_BATCH_ITEMS,
            send_timeout: Duration::from_secs(30),
        }
    }
}

/// What a server has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ServerCounters {
    /// Sessions begun.
    pub sessions: u64,
    /// Sessions of this moment.
    pub active: u64,
    /// Connections refused in the handshake, or whose handshake failed.
    pub refused: u64,
    /// Connections dropped because no HELLO came.
    pub silent: u64,
    /// Connections refused because the process had no file descriptor or thread left. They count as refused, too.
    pub exhausted: u64,
    /// Idle sessions that ended because a newcomer needed their place.
    pub made_room: u64,
    /// Requests received, a batch being one.
    pub requests: u64,
    /// Requests whose handler failed or panicked.
    pub failures: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) sessions: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) silent: AtomicU64,
    pub(crate) exhausted: AtomicU64,
    pub(crate) made_room: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
}

/// What the threads of a server share.
pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
    pub(crate) code: u16,
    pub(crate) handler: Box<dyn Handler>,
    pub(crate) max_batch_items: u32,
    pub(crate) send_timeout: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) counters: Counters,
    /// Ends accepting and the wait for further requests.
    pub(crate) draining: Abort,
    /// Ends the sending of responses, too.
    pub(crate) stopping: Abort,
    pub(crate) places: Places,
    limits: Mutex<(Learned, Learned)>,
}

impl Shared {
    /// The limits to offer a client that proposes requests of `proposed` bytes. They are remembered only once that client is
    /// accepted ([`learn_request`](Self::learn_request)): who is refused must not make the regions of the others larger.
    pub(crate) fn limits_for(&self, proposed: usize) -> (u32, u32) {
        let mut limits = *lock(&self.limits);
        limits.0.hold(proposed);
        (limits.0.current, limits.1.current)
    }

    /// A client that proposed requests of `proposed` bytes was accepted.
    pub(crate) fn learn_request(&self, proposed: usize) {
        lock(&self.limits).0.hold(proposed);
    }

    /// A response of `needed` bytes (0: unknown) did not fit: the next session gets more, if the ceiling allows.
    pub(crate) fn learn_response(&self, needed: usize) {
        let response = &mut lock(&self.limits).1;
        if !response.hold(needed) {
            response.double();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All states behind these locks are whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`Server::drain`] left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "sessions may have been cut off"]
pub struct Drained {
    /// Sessions that were cut off at the deadline, their response unsent.
    pub cut_off: usize,
    /// Of these, sessions whose handler still runs: nothing can end it, and its thread is left to itself.
    pub stuck: usize,
}

/// A running server. Dropping it stops it.
///
/// Every session has a thread; a client that says nothing has none. A handler that panics or hangs costs its own session.
pub struct Server {
    shared: Arc<Shared>,
    endpoint: Endpoint,
    accepting: Option<JoinHandle<()>>,
}

impl Server {
    /// Takes the endpoint and serves requests of method `code` with `handler`.
    ///
    /// # Errors
    /// Why the endpoint cannot be taken; see [`ListenError`].
    pub fn start(
        endpoint: &Endpoint,
        options: ServerOptions,
        code: u16,
        handler: impl Handler,
    ) -> Result<Self, ListenError> {
        let ServerOptions { session, max_sessions, max_batch_items, send_timeout, idle_timeout } = options;
        let limits = (learned(session.max_request_payload), learned(session.max_response_payload));
        let handshake_timeout = session.handshake_timeout;
        let listener = Listener::bind(endpoint, session)?;
        let endpoint = listener.endpoint().clone();
        let failed = |doing| {
            let endpoint = endpoint.to_string();
            move |source| ListenError::Io { doing, endpoint, source }
        };
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            code,
            handler: Box::new(handler),
            max_batch_items,
            send_timeout,
            handshake_timeout,
            counters: Counters::default(),
            draining: Abort::new().map_err(failed("make an eventfd"))?,
            stopping: Abort::new().map_err(failed("make an eventfd"))?,
            places: Places::new(max_sessions, idle_timeout),
            limits: Mutex::new(limits),
        });
        let of_thread = Arc::clone(&shared);
        let accepting =
            ginnel_base::thread::spawn("ginnel-accept", move || accept_until_drained(&listener, &of_thread))
                .map_err(failed("start a thread"))?;
        Ok(Self { shared, endpoint, accepting: Some(accepting) })
    }

    /// Where it listens; a TCP port of 0 has become the real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether it takes connections. False only after a fault of this library: the thread that accepts has panicked, which is
    /// logged and counted ([`ginnel_base::thread::panicked`]). Its name is free then, and sessions that have begun go on.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.accepting.as_ref().is_some_and(|accepting| !accepting.is_finished())
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ServerCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        ServerCounters {
            sessions: of(&counters.sessions),
            active: self.shared.places.taken() as u64,
            refused: of(&counters.refused),
            silent: of(&counters.silent),
            exhausted: of(&counters.exhausted),
            made_room: of(&counters.made_room),
            requests: of(&counters.requests),
            failures: of(&counters.failures),
        }
    }

    /// Stops accepting and frees the name, lets every session finish the request it is at, and returns when all have, or at
    /// the latest after `timeout`: sessions that are left then are cut off.
    pub fn drain(mut self, timeout: Duration) -> Drained {
        self.end(Some(timeout))
    }

    /// Stops at once: accepting, waiting and sending end, idle sessions close. Running handlers get half a second; after
    /// that their sessions are hung up on and their threads left to themselves.
    pub fn stop(mut self) {
        let _ = self.end(None);
    }

    fn end(&mut self, patience: Option<Duration>) -> Drained {
        let Some(accepting) = self.accepting.take() else { return Drained { cut_off: 0, stuck: 0 } };
        self.shared.draining.raise();
        // It ends at once: it waits for nothing but this.
        let _ = accepting.join();
        let mut cut_off = 0;
        if let Some(timeout) = patience {
            cut_off = self.shared.places.wait_until_empty(Deadline::after(timeout));
        }
        self.shared.stopping.raise();
        if cut_off > 0 {
            self.shared.places.hang_up_on_all();
        }
        let mut stuck = self.shared.places.wait_until_empty(Deadline::after(STOP_GRACE));
        if stuck > 0 {
            self.shared.places.hang_up_on_all();
            stuck = self.shared.places.wait_until_empty(Deadline::after(Duration::ZERO));
            tracing::warn!(service = %self.endpoint, stuck, "handlers still run");
        }
        tracing::info!(service = %self.endpoint, cut_off, stuck, "stopped");
        Drained { cut_off, stuck }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.end(None);
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}

fn learned(configured: u32) -> Learned {
    match configured {
        0 => Learned::new(DEFAULT_MAX_PAYLOAD, DEFAULT_CEILING),
        fixed => Learned::new(fixed, fixed),
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("endpoint", &self.endpoint).finish_non_exhaustive()
    }
}
