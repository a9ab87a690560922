//! A server: one endpoint, one service, many sessions.

use crate::accept::accept_until_drained;
use crate::handler::Handler;
use crate::learned::{DEFAULT_CEILING, Learned};
use ginnel_session::{Abort, DEFAULT_MAX_PAYLOAD, Endpoint, ListenError, Listener, ServerConfig};
use rustix::net::Shutdown;
use std::collections::HashMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

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
    /// Most sessions at once. Who comes later is refused in the handshake.
    pub max_sessions: usize,
    /// Most items of one batch, whatever the client proposed: the handler runs once for each. A client that sends more is told
    /// LIMIT_EXCEEDED, and its session ends.
    pub max_batch_items: u32,
    /// How long a client may leave a response untaken before it is dropped.
    pub send_timeout: Duration,
}

impl Default for ServerOptions {
    /// Learned limits, 64 sessions, batches of up to [`DEFAULT_MAX_BATCH_ITEMS`], 30 seconds.
    fn default() -> Self {
        let session = ServerConfig { max_request_payload: 0, max_response_payload: 0, ..ServerConfig::default() };
        Self {
            session,
            max_sessions: 64,
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
    max_sessions: usize,
    limits: Mutex<(Learned, Learned)>,
    active: Mutex<Active>,
    left: Condvar,
}

#[derive(Default)]
struct Active {
    last: u64,
    // A second descriptor of each session's socket: a session whose handler hangs is hung up on from outside.
    sockets: HashMap<u64, OwnedFd>,
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

    fn active(&self) -> MutexGuard<'_, Active> {
        lock(&self.active)
    }

    fn hang_up_on_all(&self) {
        for socket in self.active().sockets.values() {
            let _ = rustix::net::shutdown(socket, Shutdown::Both);
        }
    }

    /// Waits until no session is left, at most until `deadline`; how many are left.
    fn wait_until_empty(&self, deadline: Instant) -> usize {
        let mut active = self.active();
        while !active.sockets.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            active = self.left.wait_timeout(active, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        active.sockets.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // All states behind these locks are whole after any panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of the sessions that a server may have; given back on drop, panic or not.
pub(crate) struct Slot {
    shared: Arc<Shared>,
    id: u64,
}

impl Slot {
    pub(crate) fn take(shared: &Arc<Shared>, socket: BorrowedFd<'_>) -> Option<Self> {
        let socket = socket.try_clone_to_owned().ok()?;
        let mut active = shared.active();
        if active.sockets.len() >= shared.max_sessions {
            return None;
        }
        active.last += 1;
        let id = active.last;
        active.sockets.insert(id, socket);
        Some(Self { shared: Arc::clone(shared), id })
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.shared.active().sockets.remove(&self.id);
        self.shared.left.notify_all();
    }
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
        let ServerOptions { session, max_sessions, max_batch_items, send_timeout } = options;
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
            max_sessions,
            limits: Mutex::new(limits),
            active: Mutex::default(),
            left: Condvar::new(),
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

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ServerCounters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.shared.counters;
        ServerCounters {
            sessions: of(&counters.sessions),
            active: self.shared.active().sockets.len() as u64,
            refused: of(&counters.refused),
            silent: of(&counters.silent),
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
            let now = Instant::now();
            cut_off =
                self.shared.wait_until_empty(now.checked_add(timeout).unwrap_or(now + Duration::from_secs(86400)));
        }
        self.shared.stopping.raise();
        if cut_off > 0 {
            self.shared.hang_up_on_all();
        }
        let mut stuck = self.shared.wait_until_empty(Instant::now() + STOP_GRACE);
        if stuck > 0 {
            self.shared.hang_up_on_all();
            stuck = self.shared.wait_until_empty(Instant::now());
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
