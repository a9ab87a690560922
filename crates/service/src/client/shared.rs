//! What the clones of a client share: the state behind its lock, and how it is driven.

use super::core::Core;
use super::error::{CallError, Loss};
use super::link::Nap;
use super::op::{Next, Op};
use super::options::ClientOptions;
use super::response::Response;
use ginnel_base::Deadline;
use ginnel_base::lead::{self, Driven, Lead, Wish};
use ginnel_session::proto::Timing;
use ginnel_session::{ConnectError, Connector, Endpoint, Refusal, Wait};
use ginnel_wire::Profiles;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long rings are not proposed after they could not be attached.
const NO_RINGS: Duration = Duration::from_secs(60);
/// Requests smaller than this are not proposed, in bytes.
const LEAST: u32 = 64;
/// Looks of one who has given the lock away for another to take.
const COURTESY: u32 = 64;

#[derive(Debug)]
pub(super) struct Shared {
    core: Mutex<Core>,
    /// Threads that want the lock while another has it: one that spins with it lets them in.
    entrants: AtomicUsize,
    /// Ends the nap of the one that drives.
    nudge: OwnedFd,
    connector: Mutex<Connector>,
    pub(super) endpoint: Endpoint,
    pub(super) options: ClientOptions,
    /// The process that made it: see [`ginnel_base::fork_generation`].
    generation: u64,
}

impl Shared {
    pub(super) fn new(endpoint: &Endpoint, options: ClientOptions) -> std::io::Result<Arc<Self>> {
        let mut session = options.session.clone();
        // A slot carries one request at a time.
        let slots = Profiles::SHM_HYBRID | Profiles::SHM_FUTEX;
        session.supported = session.supported.without(slots) | Profiles::BASELINE;
        session.preferred = session.preferred.without(slots);
        let shared = Arc::new(Self {
            core: Mutex::new(Core::new(endpoint, &options)),
            entrants: AtomicUsize::new(0),
            nudge: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            connector: Mutex::new(Connector::new(endpoint.clone(), session)),
            endpoint: endpoint.clone(),
            options,
            generation: ginnel_base::fork_generation(),
        });
        if let Some(telling) = &mut lead::lock(&*shared).telling {
            telling.belongs_to(Arc::downgrade(&shared));
        }
        Ok(shared)
    }

    fn is_ours(&self) -> bool {
        self.generation == ginnel_base::fork_generation()
    }

    /// The state, and the time in it.
    pub(super) fn enter(&self) -> Result<MutexGuard<'_, Core>, CallError> {
        // Before the lock: in a forked child, a thread that is not there may hold it.
        if !self.is_ours() {
            return Err(CallError::Forked);
        }
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(_) => {
                // Relaxed: a hint. The lock orders everything else.
                self.entrants.fetch_add(1, Ordering::Relaxed);
                let core = lead::lock(self);
                self.entrants.fetch_sub(1, Ordering::Relaxed);
                core
            }
        };
        core.now = Instant::now();
        Ok(core)
    }

    /// To be called before the lock is given back, by those that do not wait.
    pub(super) fn alarm(&self, core: &mut Core) {
        if std::mem::take(&mut core.alarm) {
            lead::attend(self, core);
        }
    }

    /// Runs a call to its end on the calling thread.
    pub(super) fn run(&self, op: &mut Op, body: &[u8]) -> Next {
        let mut core = match self.enter() {
            Ok(core) => core,
            Err(error) => return Next::Done(Err(error)),
        };
        loop {
            let next = op.next(&mut core, body);
            self.alarm(&mut core);
            match next {
                Next::Wait(until) => {
                    (core, _) = lead::wait(self, core, until, op);
                    core.now = Instant::now();
                }
                Next::Connect => {
                    drop(core);
                    self.connect(op.deadline);
                    core = match self.enter() {
                        Ok(core) => core,
                        Err(error) => return Next::Done(Err(error)),
                    };
                }
                done => return done,
            }
        }
    }

    pub(super) fn finish(&self, op: &mut Op, body: &[u8]) -> Result<Option<Response>, CallError> {
        match self.run(op, body) {
            Next::Done(done) => done,
            // Only those that ask for it are told of an open call.
            _ => Err(CallError::Closed),
        }
    }

    /// Waits for what `wish` says; whether it came in time.
    pub(super) fn wait<'a>(
        &'a self,
        core: MutexGuard<'a, Core>,
        until: Deadline,
        wish: &mut impl Wish<Core>,
    ) -> (MutexGuard<'a, Core>, bool) {
        let (mut core, granted) = lead::wait(self, core, until, wish);
        core.now = Instant::now();
        (core, granted)
    }

    /// One attempt to connect, for whoever was told [`Next::Connect`]. It blocks.
    pub(super) fn connect(&self, deadline: Deadline) {
        let until = deadline.min(Deadline::after(self.options.connect_timeout));
        let connected = self.connect_until(until);
        let mut core = lead::lock(self);
        core.now = Instant::now();
        core.connecting = false;
        match connected {
            Ok(parts) => {
                if let Err(error) = core.connected(parts, self.options.plain_window) {
                    let endpoint = self.endpoint.to_string();
                    core.failed(ConnectError::Io { endpoint, source: error });
                }
            }
            Err(error) => {
                tracing::debug!(%error, "not connected");
                core.failed(error);
            }
        }
        core.arrived();
        self.alarm(&mut core);
    }

    /// Whoever was told [`Next::Connect`] could not even try.
    #[cfg(feature = "tokio")]
    pub(super) fn not_connected(&self) {
        let Ok(mut core) = self.enter() else { return };
        core.connecting = false;
        core.cadence.disconnected();
        core.arrived();
        self.alarm(&mut core);
    }

    fn connect_until(&self, until: Deadline) -> Result<ginnel_session::Parts, ConnectError> {
        let mut timing = Timing::default();
        timing.unanswered = Some(self.options.unanswered);
        let mut connector = self.connector.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            {
                let core = lead::lock(self);
                let config = connector.config_mut();
                config.request.max_payload = core.request.current;
                config.response.max_payload = core.response.current;
                let rings = self.options.session.supported.contains(Profiles::RING) && core.no_rings.passed();
                config.supported =
                    if rings { config.supported | Profiles::RING } else { config.supported.without(Profiles::RING) };
            }
            let error = match connector.connect(&Wait::until(until), timing) {
                Ok(parts) => return Ok(parts),
                Err(error) => error,
            };
            let mut core = lead::lock(self);
            let again = match &error {
                ConnectError::Refused2 { refusal: Refusal::LimitExceeded { .. }, server } => {
                    core.request.limit_to(server.max_request_payload)
                }
                // Ends: each size is smaller than the one before.
                ConnectError::Refused(Refusal::LimitExceeded { .. }) => {
                    let half = core.request.current / 2;
                    core.request.roll_back() || half >= LEAST && core.request.limit_to(half)
                }
                ConnectError::Rings(reason) if core.no_rings.passed() => {
                    tracing::warn!(%reason, pause = ?NO_RINGS, "no rings with this service for a while");
                    core.no_rings = Deadline::after(NO_RINGS);
                    true
                }
                _ => false,
            };
            if !again {
                return Err(error);
            }
        }
    }

    /// Ends the connection and its calls.
    pub(super) fn close(&self) {
        let Ok(mut core) = self.enter() else { return };
        core.lose_all(&Loss::from(CallError::Closed));
        core.cadence.disconnected();
        self.alarm(&mut core);
    }

    /// Lets those in that want the lock.
    fn let_in<'a>(&'a self, core: MutexGuard<'a, Core>) -> MutexGuard<'a, Core> {
        drop(core);
        for _ in 0..COURTESY {
            if self.entrants.load(Ordering::Relaxed) == 0 {
                break;
            }
            std::hint::spin_loop();
        }
        std::thread::yield_now();
        lead::lock(self)
    }

    /// What a thread that drives does, and what a task does (which does not `spin`).
    pub(super) fn turn_once<'a>(
        &'a self,
        mut core: MutexGuard<'a, Core>,
        spins: bool,
    ) -> (MutexGuard<'a, Core>, Option<Nap>) {
        if std::mem::take(&mut core.napped) {
            core.now = Instant::now();
        }
        if core.step() {
            return (core, None);
        }
        if spins {
            let crowded = |core: &Core| self.entrants.load(Ordering::Relaxed) > 0 || core.lead.called() > 0;
            let mut spin = std::mem::take(&mut core.spin);
            let news = spin.until(|| {
                let state = &mut *core;
                // Two connections at once are rare, and only one can be spun for.
                let Some(link) = state.link.as_mut().filter(|_| state.leaving.is_empty()) else { return Some(false) };
                match link.has_news() {
                    Some(true) => Some(true),
                    Some(false) if crowded(state) => Some(false),
                    Some(false) => None,
                    None => Some(false),
                }
            });
            core.spin = spin;
            match news {
                Some(true) => return (core, None),
                Some(false) if core.link.as_ref().is_some_and(|link| link.is_ring()) => {
                    return (self.let_in(core), None);
                }
                _ => {}
            }
        }
        let nap = core.nap();
        core.napped = nap.is_some();
        (core, nap)
    }
}

impl Driven for Shared {
    type State = Core;
    type Nap = Nap;

    fn mutex(&self) -> &Mutex<Core> {
        &self.core
    }

    fn lead(core: &mut Core) -> &mut Lead {
        &mut core.lead
    }

    fn can_drive(core: &Core) -> bool {
        core.link.is_some() || !core.leaving.is_empty()
    }

    fn turn<'a>(&'a self, core: MutexGuard<'a, Core>) -> (MutexGuard<'a, Core>, Option<Nap>) {
        let (mut core, nap) = self.turn_once(core, true);
        // The one that drives has seen it.
        core.alarm = false;
        (core, nap)
    }

    fn nap(&self, nap: Nap, until: Deadline) {
        nap.sleep(&self.nudge, until);
    }

    fn nudge(&self) {
        // A full counter is as readable as can be.
        let _ = rustix::io::write(&self.nudge, &1u64.to_ne_bytes());
    }

    fn hush(&self) {
        let _ = rustix::io::read(&self.nudge, &mut [0; 8]);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let ours = self.is_ours();
        let core = self.core.get_mut().unwrap_or_else(PoisonError::into_inner);
        for link in core.link.take().into_iter().chain(std::mem::take(&mut core.leaving)) {
            if ours {
                drop(link);
            } else {
                // The parent's: not a word to its server. The descriptors stay until the child ends.
                std::mem::forget(link);
            }
        }
        if let Some(telling) = core.telling.as_mut().filter(|_| !ours) {
            telling.leave();
        }
        core.lead.end_task();
    }
}
