//! A server: one endpoint, a reactor or several, many sessions.

use crate::cost::Execution;
use crate::counters::Counters;
use crate::executor::{Executor, Pool};
use crate::failure::Failure;
use crate::handler::Handler;
use crate::introspect::Introspect;
use crate::learned::{DEFAULT_CEILING, Learned};
use crate::mail::{Letter, Office};
use crate::reactor::Reactor;
use crate::router::{Interface, Router};
use crate::sync::lock;
use ginnel_base::Deadline;
use ginnel_session::{DEFAULT_MAX_PAYLOAD, Endpoint, ListenError, Listener, ServerConfig, ServerLayout2};
use ginnel_wire::Profiles;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long [`Server::stop`] gives running handlers.
const STOP_GRACE: Duration = Duration::from_millis(500);

/// The profiles of netipc over shared memory.
pub(crate) const SHARED_MEMORY: Profiles = Profiles(Profiles::SHM_HYBRID.0 | Profiles::SHM_FUTEX.0);

/// Most items of one batch when nothing else is said.
pub const DEFAULT_MAX_BATCH_ITEMS: u32 = 65_536;

/// The order in which the calls of one session are answered. Sessions of layout 1 are always answered in the order of
/// their requests, because peers of that layout may count on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Order {
    /// As they complete.
    #[default]
    Completion,
    /// As they were asked. An answer waits for those of all calls before; the items of a stream do not, its end does.
    Fifo,
}

/// How a server behaves.
#[derive(Clone)]
pub struct ServerOptions {
    /// What sessions are offered. A payload limit of 0 stands for one that is learned: it starts at 1024 bytes and
    /// grows with what clients propose and handlers need, up to [`DEFAULT_CEILING`]. Any other limit is fixed.
    pub session: ServerConfig,
    /// Most sessions at once. When there are as many, the one that has been idle longest makes room for a newcomer, if
    /// it has been idle for [`idle_timeout`](Self::idle_timeout); else the newcomer is refused in the handshake.
    pub max_sessions: usize,
    /// How long a session must have waited for a request before it makes room. While there is room it may wait for
    /// ever.
    pub idle_timeout: Duration,
    /// Most items of one batch, whatever the client proposed: the handler runs once for each. A client that sends more
    /// is told LIMIT_EXCEEDED, and its session ends.
    pub max_batch_items: u32,
    /// How long a client may leave a response untaken before it is dropped.
    pub send_timeout: Duration,
    /// Most requests of one session that are under way at once. What comes beyond stays with the client.
    pub window: usize,
    /// The order in which the calls of one session are answered.
    pub order: Order,
    /// Most bytes of requests, of all sessions together, that wait for a thread or are worked on. Beyond it requests
    /// stay with their clients until some are answered.
    pub request_budget: usize,
    /// Threads that do input and output, each for its share of the sessions: a session stays with the one that it was
    /// given to, in turns. The first one also takes connections, and has all netipc sessions over shared memory. 0
    /// counts as 1. `request_budget` is shared out equally; only idle sessions of the first make room.
    pub reactors: usize,
    /// Where handlers run.
    pub execution: Execution,
    /// The measured cost up to which a handler runs on the reactor's thread, if nothing else is to be done there.
    pub inline_budget: Duration,
    /// Runs handlers that do not run on the reactor's thread; `None` stands for a [`Pool`] of the server's own.
    pub executor: Option<Arc<dyn Executor>>,
    /// Whether other processes of this user may see what the server does (`ginnel top`).
    pub introspect: Introspect,
}

impl Default for ServerOptions {
    /// Both layouts, sockets and rings, learned limits, 64 sessions that make room after five idle seconds, batches of
    /// up to [`DEFAULT_MAX_BATCH_ITEMS`], 30 seconds, 64 requests under way for each session, 64 MiB of requests, 50
    /// microseconds inline.
    fn default() -> Self {
        let session = ServerConfig {
            max_request_payload: 0,
            max_response_payload: 0,
            supported: Profiles::BASELINE | Profiles::RING,
            layout_2: Some(ServerLayout2::default()),
            ..ServerConfig::default()
        };
        Self {
            session,
            max_sessions: 64,
            idle_timeout: Duration::from_secs(5),
            max_batch_items: DEFAULT_MAX_BATCH_ITEMS,
            send_timeout: Duration::from_secs(30),
            window: 64,
            order: Order::Completion,
            request_budget: 64 << 20,
            reactors: 1,
            execution: Execution::Auto,
            inline_budget: Duration::from_micros(50),
            executor: None,
            introspect: Introspect::On,
        }
    }
}

impl std::fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerOptions")
            .field("session", &self.session)
            .field("max_sessions", &self.max_sessions)
            .field("window", &self.window)
            .field("order", &self.order)
            .field("execution", &self.execution)
            .finish_non_exhaustive()
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

/// What of a reactor's state others wait for.
#[derive(Debug, Default)]
struct Stand {
    sessions: usize,
    /// Reactors that take nobody in any more. When all do, the name is free.
    closed: usize,
}

/// The place of a session among those of its server, whichever reactor has it.
pub(crate) struct Place(Arc<Shared>);

impl Place {
    pub(crate) fn take(shared: &Arc<Shared>) -> Self {
        lock(&shared.stand).sessions += 1;
        Self(Arc::clone(shared))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        lock(&self.0.stand).sessions -= 1;
        self.0.changed.notify_all();
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Place")
    }
}

/// What a server and its reactor share.
pub(crate) struct Shared {
    pub(crate) endpoint: Endpoint,
    pub(crate) options: ServerOptions,
    pub(crate) router: Router,
    pub(crate) counters: Counters,
    executor: Arc<dyn Executor>,
    stopping: AtomicBool,
    limits: Mutex<(Learned, Learned)>,
    stand: Mutex<Stand>,
    changed: Condvar,
}

impl Shared {
    /// The limits to offer a client that proposes requests of `proposed` bytes. They are remembered only once that
    /// client is accepted ([`learn_request`](Self::learn_request)): who is refused must not make the regions of the
    /// others larger. In layout 2 nothing is as large as the limits are, so that nothing needs to be learned.
    pub(crate) fn limits_for(&self, proposed: usize, layout_2: bool) -> (u32, u32) {
        let mut limits = *lock(&self.limits);
        if layout_2 {
            return (limits.0.ceiling(), limits.1.ceiling());
        }
        limits.0.hold(proposed);
        (limits.0.current, limits.1.current)
    }

    /// A client that proposed requests of `proposed` bytes was accepted.
    pub(crate) fn learn_request(&self, proposed: usize) {
        lock(&self.limits).0.hold(proposed);
    }

    /// A request has no answer.
    pub(crate) fn failed(&self, failure: &Failure) {
        if *failure == Failure::Unsupported {
            return;
        }
        self.counters.failures.add(1);
        if let Failure::Overflow { needed } = failure {
            // 0: unknown. The next session gets more, if the ceiling allows.
            let response = &mut lock(&self.limits).1;
            if !response.hold(*needed) {
                response.double();
            }
        }
    }

    pub(crate) fn executor(&self) -> &dyn Executor {
        &*self.executor
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Sessions of all reactors.
    pub(crate) fn sessions(&self) -> usize {
        lock(&self.stand).sessions
    }

    /// A reactor takes nobody in any more.
    pub(crate) fn has_closed(&self) {
        lock(&self.stand).closed += 1;
        self.changed.notify_all();
    }

    pub(crate) fn counters(&self) -> ServerCounters {
        let counters = &self.counters;
        ServerCounters {
            sessions: counters.sessions.get(),
            active: self.sessions() as u64,
            refused: counters.refused.get(),
            silent: counters.silent.get(),
            exhausted: counters.exhausted.get(),
            made_room: counters.made_room.get(),
            requests: counters.requests.get(),
            failures: counters.failures.get(),
        }
    }

    /// Waits until `done`, at most until `deadline`; the sessions that are left.
    fn wait_for(&self, deadline: Deadline, done: impl Fn(&Stand) -> bool) -> usize {
        let mut stand = lock(&self.stand);
        while !done(&stand) && !deadline.passed() {
            stand = match deadline.remaining() {
                Some(left) => self.changed.wait_timeout(stand, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.changed.wait(stand).unwrap_or_else(PoisonError::into_inner),
            };
        }
        stand.sessions
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
/// One thread, the reactor, does all input and output and waits for no client; several share the sessions out if
/// [`ServerOptions::reactors`] says so. A handler whose measured cost is small runs on it, others run on an executor.
/// One that panics costs its request; one that hangs on the executor costs its own session.
///
/// A handler that has been cheap and then hangs holds up the reactor, and with it every session, because it is only
/// measured afterwards. Give a method that may block [`Execution::Executor`].
///
/// In a process made by `fork` there is no reactor: the server is the parent's, and dropping, draining or stopping it
/// in the child does nothing.
pub struct Server {
    shared: Arc<Shared>,
    /// The first takes connections.
    reactors: Vec<(Arc<Office>, JoinHandle<()>)>,
    /// The process that the reactor's thread is of.
    process: u32,
}

impl Server {
    /// Takes the endpoint and serves requests of method `code` with `handler`: [`serve`](Self::serve) with a single
    /// method and an interface that says nothing of itself.
    ///
    /// # Errors
    /// Why the endpoint cannot be taken; see [`ListenError`].
    pub fn start(
        endpoint: &Endpoint,
        options: ServerOptions,
        code: u16,
        handler: impl Handler,
    ) -> Result<Self, ListenError> {
        Self::serve(endpoint, options, Router::new(Interface::default()).handler(code, "", handler))
    }

    /// Takes the endpoint and serves the methods of `router`, to clients of layout 1 and, if
    /// [`ServerConfig::layout_2`] says so, of layout 2. What that says of the interface and of the window is replaced by
    /// what the router and [`ServerOptions::window`] say.
    ///
    /// # Errors
    /// Why the endpoint cannot be taken; see [`ListenError`].
    pub fn serve(endpoint: &Endpoint, options: ServerOptions, router: Router) -> Result<Self, ListenError> {
        let (shared, mut reactor) = Self::prepare(endpoint, options, router)?;
        let mut server = Self { shared, reactors: Vec::new(), process: std::process::id() };
        let endpoint = server.shared.endpoint.to_string();
        let io = |doing| {
            let endpoint = endpoint.clone();
            move |source| ListenError::Io { doing, endpoint, source }
        };
        let mut crew = Vec::new();
        for _ in 1..server.shared.options.reactors {
            crew.push(Reactor::new(Arc::clone(&server.shared), None).map_err(io("make an epoll"))?);
        }
        let offices = crew.iter().map(|reactor| Arc::clone(reactor.office())).collect();
        reactor.set_crew(offices);
        for reactor in std::iter::once(reactor).chain(crew) {
            let office = Arc::clone(reactor.office());
            let thread = ginnel_base::thread::spawn("ginnel-reactor", move || reactor.run());
            server.reactors.push((office, thread.map_err(io("start a thread"))?));
        }
        Ok(server)
    }

    /// Takes the endpoint.
    pub(crate) fn prepare(
        endpoint: &Endpoint,
        options: ServerOptions,
        router: Router,
    ) -> Result<(Arc<Shared>, Reactor), ListenError> {
        let mut session = options.session.clone();
        if session.layout_2.is_none() {
            // In layout 1 the same bit would be another profile's.
            session.supported = session.supported.without(Profiles::RING);
        }
        if let Some(layout_2) = &mut session.layout_2 {
            layout_2.interface_id = router.interface().id;
            layout_2.schema_hash = router.interface().schema_hash;
            layout_2.request_window = u32::try_from(options.window).unwrap_or(u32::MAX).max(1);
        }
        let listener = Listener::bind(endpoint, session)?;
        let endpoint = listener.endpoint().clone();
        let executor = match &options.executor {
            Some(executor) => Arc::clone(executor),
            None => Arc::new(Pool::new()),
        };
        let session = &options.session;
        let limits = (learned(session.max_request_payload), learned(session.max_response_payload));
        let shared = Arc::new(Shared {
            endpoint: endpoint.clone(),
            options,
            router,
            counters: Counters::default(),
            executor,
            stopping: AtomicBool::new(false),
            limits: Mutex::new(limits),
            stand: Mutex::default(),
            changed: Condvar::new(),
        });
        let reactor = Reactor::new(Arc::clone(&shared), Some(listener)).map_err(|source| ListenError::Io {
            doing: "make an epoll",
            endpoint: shared.endpoint.to_string(),
            source,
        })?;
        Ok((shared, reactor))
    }

    /// Where it listens; a TCP port of 0 has become the real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// Whether it takes connections. False only after a fault of this library: the reactor's thread has panicked, which
    /// is logged and counted ([`ginnel_base::thread::panicked`]). Its name is free then, and its sessions are closed.
    #[must_use]
    pub fn is_accepting(&self) -> bool {
        self.reactors.first().is_some_and(|(_, thread)| !thread.is_finished())
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> ServerCounters {
        self.shared.counters()
    }

    /// Stops accepting and frees the name, lets every session finish the requests it is at, and returns when all have,
    /// or at the latest after `timeout`: sessions that are left then are cut off.
    pub fn drain(mut self, timeout: Duration) -> Drained {
        self.end(Some(timeout))
    }

    /// Stops at once: accepting, waiting and sending end, idle sessions close. Running handlers are told, and get half
    /// a second; after that their sessions are closed and their threads left to themselves.
    pub fn stop(mut self) {
        let _ = self.end(None);
    }

    fn end(&mut self, patience: Option<Duration>) -> Drained {
        let nothing = Drained { cut_off: 0, stuck: 0 };
        let reactors = std::mem::take(&mut self.reactors);
        if reactors.is_empty() {
            return nothing;
        }
        if self.process != std::process::id() {
            // The threads are the parent's: they can neither be joined here nor let go, and no bell must be rung.
            std::mem::forget(reactors);
            return nothing;
        }
        let shared = &self.shared;
        let empty = |stand: &Stand| stand.closed >= reactors.len() && stand.sessions == 0;
        let tell = |letter: fn(Duration) -> Letter| {
            let within = patience.unwrap_or_default();
            reactors.iter().for_each(|(office, _)| office.post(letter(within)));
        };
        let mut cut_off = 0;
        if let Some(timeout) = patience {
            tell(Letter::Drain);
            cut_off = shared.wait_for(Deadline::after(timeout), empty);
        }
        // Before the letter: a handler that runs on the reactor's own thread keeps it from reading.
        shared.stopping.store(true, Ordering::Relaxed);
        tell(|_| Letter::Stop);
        let stuck = shared.wait_for(Deadline::after(STOP_GRACE), empty);
        tell(|_| Letter::End);
        if stuck > 0 {
            tracing::warn!(service = %shared.endpoint, stuck, "handlers still run");
        }
        // A handler that hangs on the reactor's own thread keeps it: then it is left to itself.
        if shared.wait_for(Deadline::after(STOP_GRACE), empty) == 0 {
            for (_, thread) in reactors {
                let _ = thread.join();
            }
        }
        tracing::info!(service = %shared.endpoint, cut_off, stuck, "stopped");
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
        f.debug_struct("Server").field("endpoint", &self.shared.endpoint).finish_non_exhaustive()
    }
}

fn learned(configured: u32) -> Learned {
    match configured {
        0 => Learned::new(DEFAULT_MAX_PAYLOAD, DEFAULT_CEILING),
        fixed => Learned::new(fixed, fixed),
    }
}
