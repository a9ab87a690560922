//! A client of one service: finds it, calls it, follows it through absence, restart and growth.

mod call;
mod pipeline;

pub use call::{BaselineError, BatchReply};

use crate::learned::{DEFAULT_CEILING, Learned};
use crate::state::{Cadence, State};
use ginnel_base::Deadline;
use ginnel_session::{Abort, Agreement, ClientConfig, ConnectError, Endpoint, Refusal, Session, SessionError, Wait};
use ginnel_wire::{Batch, BatchBuilder, Envelope, Profiles, Status};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often, and in which steps, a call that has lost its session looks for a new one.
const RECONNECTS: u32 = 20;
const RECONNECT_PAUSE: Duration = Duration::from_millis(5);
const SHARED_MEMORY: Profiles = Profiles(Profiles::SHM_HYBRID.0 | Profiles::SHM_FUTEX.0);
/// How long a client does without shared memory after a region could not be attached: the first time, and the longest.
const SHARED_MEMORY_PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// Most reconnections of one call because a response did not fit.
const MAX_OVERFLOWS: u32 = 8;

/// How a client behaves.
#[derive(Debug, Clone)]
pub struct BaselineOptions {
    /// What is proposed to the server. Payload limits are where learning starts.
    pub session: ClientConfig,
    /// Deadline of a call that names none: connecting, sending, waiting and retries all together.
    pub call_timeout: Duration,
    /// Deadline of a refresh.
    pub connect_timeout: Duration,
    /// Largest request or response payload to learn, in bytes.
    pub ceiling: u32,
}

impl Default for BaselineOptions {
    /// 30 seconds for a call, 5 for a refresh, learning up to [`DEFAULT_CEILING`].
    fn default() -> Self {
        let mut session = ClientConfig::default();
        session.response.max_payload = 64 << 10;
        Self {
            session,
            call_timeout: Duration::from_secs(30),
            connect_timeout: Duration::from_secs(5),
            ceiling: DEFAULT_CEILING,
        }
    }
}

/// What a client has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct BaselineCounters {
    /// Sessions begun from [`State::Disconnected`] or [`State::NotFound`] and the like.
    pub connects: u64,
    /// Sessions begun because the last one broke or was too small.
    pub reconnects: u64,
    /// Calls that succeeded.
    pub calls: u64,
    /// Calls that failed.
    pub errors: u64,
    /// Requests that were sent a second time.
    pub retries: u64,
    /// Calls that needed larger limits.
    pub overflows: u64,
}

/// A client of one service.
///
/// [`BaselineClient::refresh`] drives it: call it before calls, or on a timer; it connects when that is due and costs
/// next to nothing otherwise. Calls never connect a client that is not ready, but they replace a session that breaks
/// under them, once. All operations block, each within its deadline; [`BaselineClient::abort_handle`] ends them from
/// other threads. One thread at a time; a forked child needs a client of its own.
#[derive(Debug)]
pub struct BaselineClient {
    endpoint: Endpoint,
    options: BaselineOptions,
    cadence: Cadence,
    session: Option<Session>,
    abort: Abort,
    request: Learned,
    response: Learned,
    // Shared memory could not be attached: not proposed before this, and how long the next pause is.
    no_shared_memory: Deadline,
    shared_memory_pause: Duration,
    last_id: u64,
    counters: BaselineCounters,
    scratch: Vec<u8>,
    last_error: Option<Arc<ConnectError>>,
}

/// What an attempt at a call came to, short of a response.
enum Setback {
    /// The session is gone; another may do.
    Lost(SessionError),
    /// The session's request limit is too small.
    RequestOverflow { len: usize, limit: u32 },
    /// The server's response limit is too small.
    ResponseOverflow,
    /// Nothing would change by trying again.
    Final(BaselineError),
}

impl BaselineClient {
    /// A client that is not connected yet.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn new(endpoint: &Endpoint, options: BaselineOptions) -> std::io::Result<Self> {
        let session = &options.session;
        Ok(Self {
            endpoint: endpoint.clone(),
            request: Learned::new(session.request.max_payload, options.ceiling),
            response: Learned::new(session.response.max_payload, options.ceiling),
            no_shared_memory: Deadline::after(Duration::ZERO),
            shared_memory_pause: SHARED_MEMORY_PAUSE.0,
            options,
            cadence: Cadence::new(),
            session: None,
            abort: Abort::new()?,
            last_id: 0,
            counters: BaselineCounters::default(),
            scratch: Vec::new(),
            last_error: None,
        })
    }

    /// What is known about the service. Does no I/O.
    #[must_use]
    pub fn state(&self) -> State {
        self.cadence.state()
    }

    /// Why the last attempt to connect failed: what [`State`] only sums up. `None` once an attempt has succeeded. Does
    /// no I/O.
    #[must_use]
    pub fn last_error(&self) -> Option<&ConnectError> {
        self.last_error.as_deref()
    }

    /// Limits and peer of the present session.
    #[must_use]
    pub fn agreement(&self) -> Option<&Agreement> {
        self.session.as_ref().map(Session::agreement)
    }

    /// What it has done so far.
    #[must_use]
    pub fn counters(&self) -> BaselineCounters {
        self.counters
    }

    /// Ends the operation under way and those to come, until [`Abort::clear`] or [`BaselineClient::close`]; a session
    /// over a socket ends with them, and the next [`BaselineClient::refresh`] begins another. For other threads.
    #[must_use]
    pub fn abort_handle(&self) -> Abort {
        self.abort.clone()
    }

    /// Connects if that is due: when there is no session, when the last one broke or its server has gone, and, after a
    /// refusal, when its back-off is over. Returns the state after it; [`BaselineClient::last_error`] says why it is
    /// not ready.
    pub fn refresh(&mut self) -> State {
        if self.state().is_ready() && self.session.as_ref().is_none_or(Session::is_hung_up) {
            self.lose();
        }
        if self.cadence.is_due(Instant::now()) {
            let broken = self.state() == State::Broken;
            // After a restart the server may take what it has refused before.
            self.request.forget_refusals();
            let deadline = Deadline::after(self.options.connect_timeout);
            if self.connect(deadline).is_ok() {
                *if broken { &mut self.counters.reconnects } else { &mut self.counters.connects } += 1;
            }
        }
        self.state()
    }

    /// Closes the session and clears the abort. A later refresh connects again.
    pub fn close(&mut self) {
        self.session = None;
        self.cadence.disconnected();
        self.abort.clear();
    }

    /// Calls method `code` and waits for the response, at most for [`BaselineOptions::call_timeout`].
    ///
    /// # Errors
    /// See [`BaselineClient::call_until`].
    pub fn call(&mut self, code: u16, payload: &[u8]) -> Result<&[u8], BaselineError> {
        self.call_until(code, payload, Deadline::after(self.options.call_timeout))
    }

    /// Calls method `code` and waits for the response until `deadline`. The response is valid until the next operation.
    ///
    /// If the session breaks, the same bytes are sent once more on a new one, so a request may be executed twice.
    /// Limits that are too small are negotiated anew.
    ///
    /// # Errors
    /// [`BaselineError::NotReady`] at once and without I/O if there is no session. A status is an answer and is not
    /// tried again.
    pub fn call_until(
        &mut self,
        code: u16,
        payload: &[u8],
        deadline: impl Into<Deadline>,
    ) -> Result<&[u8], BaselineError> {
        let envelope = Envelope::request(code, self.next_id(), 0);
        self.exchange(&envelope, payload, deadline.into())?;
        Ok(self.response_payload())
    }

    /// Sends `items` as one batch and waits for the answers, until `deadline`. One item travels as a single message.
    ///
    /// # Errors
    /// As [`BaselineClient::call_until`]; one status answers for all items. No items are answered at once, without I/O.
    pub fn call_batch<'i>(
        &mut self,
        code: u16,
        items: impl IntoIterator<Item = &'i [u8], IntoIter: ExactSizeIterator>,
        deadline: impl Into<Deadline>,
    ) -> Result<BatchReply<'_>, BaselineError> {
        let deadline = deadline.into();
        let mut items = items.into_iter();
        if items.len() == 0 {
            self.check_ready()?;
            return Batch::parse(&[], 0).map(BatchReply::Batch).map_err(|_| BaselineError::Mismatch);
        }
        let mut envelope = Envelope::request(code, self.next_id(), 0);
        if items.len() == 1 {
            self.exchange(&envelope, items.next().unwrap_or_default(), deadline)?;
            return Ok(BatchReply::Single(self.response_payload()));
        }
        let mut builder = BatchBuilder::reuse(std::mem::take(&mut self.scratch), items.len());
        for item in items {
            builder.push(item).map_err(|full| self.too_large(full.size as usize))?;
        }
        let count = builder.len() as u32;
        let payload = builder.finish();
        envelope = envelope.with_batch(count);
        let done = self.exchange(&envelope, &payload, deadline);
        self.scratch = payload;
        done?;
        Batch::parse(self.response_payload(), count).map(BatchReply::Batch).map_err(|_| BaselineError::Mismatch)
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn check_ready(&self) -> Result<(), BaselineError> {
        if self.state().is_ready() { Ok(()) } else { Err(BaselineError::NotReady(self.state())) }
    }

    fn response_payload(&self) -> &[u8] {
        self.session.as_ref().and_then(Session::message).map_or(&[], |message| message.payload)
    }

    /// Sends `payload` and waits for its response, through whatever setbacks a call survives.
    fn exchange(&mut self, envelope: &Envelope, payload: &[u8], deadline: Deadline) -> Result<(), BaselineError> {
        self.check_ready()?;
        let done = self.exchange_through(envelope, payload, deadline);
        match done {
            Ok(()) => self.counters.calls += 1,
            Err(_) => self.counters.errors += 1,
        }
        done
    }

    fn exchange_through(
        &mut self,
        envelope: &Envelope,
        payload: &[u8],
        deadline: Deadline,
    ) -> Result<(), BaselineError> {
        let (mut retried, mut overflows) = (false, 0);
        loop {
            match self.attempt(envelope, payload, deadline) {
                Ok(()) => return Ok(()),
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Lost(error)) => self.recover(error, &mut retried, 1, deadline)?,
                Err(Setback::RequestOverflow { len, limit }) => self.grow_request(len, limit, deadline)?,
                Err(Setback::ResponseOverflow) => self.grow_response(&mut overflows, deadline)?,
            }
        }
    }

    fn attempt(&mut self, envelope: &Envelope, payload: &[u8], deadline: Deadline) -> Result<(), Setback> {
        // A fast answer needs no wait that would see it.
        if self.abort.is_raised() {
            return Err(Setback::Lost(SessionError::Aborted));
        }
        let wait = Wait::until(deadline).or_abort(&self.abort);
        let session = self.session.as_mut().ok_or(Setback::Lost(SessionError::Closed))?;
        // A send that the peer cut short may have been answered: a server refuses what it has only half read.
        let sent = session.send(envelope, payload, &wait);
        let received = match sent {
            Ok(()) | Err(SessionError::Closed) => session.recv(&wait).map(|message| message.envelope),
            Err(SessionError::PayloadTooLarge { len, limit }) => return Err(Setback::RequestOverflow { len, limit }),
            Err(SessionError::TooManyItems { items, limit }) => {
                return Err(Setback::Final(BaselineError::TooManyItems { items, limit }));
            }
            Err(error) => return Err(Setback::Lost(error)),
        };
        let response = received.map_err(Setback::Lost)?;
        if response.code != envelope.code || response.message_id != envelope.message_id {
            self.lose();
            return Err(Setback::Final(BaselineError::Mismatch));
        }
        match response.status {
            Status::OK
                if (response.batch, response.item_count) != (envelope.batch, envelope.item_count) && envelope.batch =>
            {
                self.lose();
                Err(Setback::Final(BaselineError::Mismatch))
            }
            Status::OK => Ok(()),
            Status::LIMIT_EXCEEDED => Err(Setback::ResponseOverflow),
            status => Err(Setback::Final(BaselineError::Status(status))),
        }
    }

    /// After a session was lost under a call: a new one for one more try, or the error that ends the call.
    fn recover(
        &mut self,
        error: SessionError,
        retried: &mut bool,
        requests: u64,
        deadline: Deadline,
    ) -> Result<(), BaselineError> {
        self.lose();
        match error {
            SessionError::TimedOut => return Err(BaselineError::TimedOut),
            SessionError::Aborted => return Err(BaselineError::Aborted),
            error if std::mem::replace(retried, true) => return Err(BaselineError::Session(error)),
            error => tracing::debug!(service = %self.endpoint, %error, "session lost, trying once more"),
        }
        self.request.forget_refusals();
        self.reconnect(deadline)?;
        self.counters.retries += requests;
        Ok(())
    }

    /// A session that takes requests of `len` bytes, or the error that ends the call with the old limits in place.
    fn grow_request(&mut self, len: usize, limit: u32, deadline: Deadline) -> Result<(), BaselineError> {
        if !self.request.hold(len) {
            return Err(BaselineError::RequestTooLarge { len, limit });
        }
        self.counters.overflows += 1;
        self.lose();
        self.reconnect(deadline)?;
        // A refused size was taken back: one large request must not cost the client its service.
        match self.agreement().map(|agreement| agreement.request.max_payload) {
            Some(granted) if (granted as usize) < len => Err(BaselineError::RequestTooLarge { len, limit: granted }),
            _ => Ok(()),
        }
    }

    fn make_room(&mut self, len: usize, deadline: Deadline) -> Result<(), BaselineError> {
        match self.agreement().map(|agreement| agreement.request.max_payload) {
            Some(limit) if len > limit as usize => self.grow_request(len, limit, deadline),
            _ => Ok(()),
        }
    }

    fn too_large(&self, len: usize) -> BaselineError {
        let limit = self.agreement().map_or(self.request.current, |agreement| agreement.request.max_payload);
        BaselineError::RequestTooLarge { len, limit }
    }

    /// A session whose server grants larger responses. A server that has not grown gets one more chance: it may learn
    /// only after it has answered.
    fn grow_response(&mut self, overflows: &mut u32, deadline: Deadline) -> Result<(), BaselineError> {
        let granted = self.agreement().map_or(0, |agreement| agreement.response.max_payload);
        self.counters.overflows += 1;
        *overflows += 1;
        self.response.double();
        self.lose();
        self.reconnect(deadline)?;
        let now = self.agreement().map_or(0, |agreement| agreement.response.max_payload);
        if (now > granted || *overflows == 1) && *overflows < MAX_OVERFLOWS {
            return Ok(());
        }
        Err(BaselineError::ResponseTooLarge { limit: now })
    }

    fn reconnect(&mut self, deadline: Deadline) -> Result<(), BaselineError> {
        for attempt in 1.. {
            let error = match self.connect(deadline) {
                Ok(()) => {
                    self.counters.reconnects += 1;
                    return Ok(());
                }
                Err(error) => error,
            };
            let again = matches!(self.state(), State::NotFound | State::Disconnected)
                && !matches!(*error, ConnectError::Refused(Refusal::LimitExceeded { .. }));
            match &*error {
                ConnectError::Session(SessionError::TimedOut) => return Err(BaselineError::TimedOut),
                ConnectError::Session(SessionError::Aborted) => return Err(BaselineError::Aborted),
                _ if !again || attempt == RECONNECTS => return Err(BaselineError::Connect(error)),
                _ => {}
            }
            match Wait::until(deadline).or_abort(&self.abort).pause(RECONNECT_PAUSE) {
                Ok(()) => {}
                Err(SessionError::Aborted) => return Err(BaselineError::Aborted),
                Err(_) => return Err(BaselineError::TimedOut),
            }
        }
        unreachable!("the loop above returns")
    }

    fn proposes_shared_memory(&self) -> bool {
        !(self.options.session.supported & SHARED_MEMORY).is_empty() && self.no_shared_memory.passed()
    }

    /// One session, with another attempt at once where the first has shown how.
    fn connect(&mut self, deadline: Deadline) -> Result<(), Arc<ConnectError>> {
        self.session = None;
        self.cadence.connecting();
        let connected = loop {
            match self.connect_once(deadline) {
                Err(ConnectError::SharedMemory { path, reason }) if self.proposes_shared_memory() => {
                    let pause = self.shared_memory_pause;
                    tracing::warn!(path = %path.display(), reason, ?pause, "no shared memory with this service for a while");
                    self.no_shared_memory = Deadline::after(pause);
                    self.shared_memory_pause = (pause * 2).min(SHARED_MEMORY_PAUSE.1);
                }
                // Ends: each size is smaller than the one before.
                Err(ConnectError::Refused(Refusal::LimitExceeded { proposed })) if self.request.roll_back() => {
                    tracing::debug!(service = %self.endpoint, proposed, "request size refused and taken back");
                }
                done => break done,
            }
        };
        match connected {
            Ok(session) => {
                self.request.accept();
                if session.agreement().profile.is_shared_memory() {
                    self.shared_memory_pause = SHARED_MEMORY_PAUSE.0;
                }
                self.cadence.connected();
                self.last_error = None;
                tracing::debug!(service = %self.endpoint, session = session.agreement().session_id, "connected");
                self.session = Some(session);
                Ok(())
            }
            Err(error) => {
                let jitter = u64::from(std::process::id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
                self.cadence.failed(&error, Instant::now(), jitter);
                tracing::debug!(service = %self.endpoint, state = %self.state(), %error, "not connected");
                let error = Arc::new(error);
                self.last_error = Some(Arc::clone(&error));
                Err(error)
            }
        }
    }

    fn connect_once(&self, deadline: Deadline) -> Result<Session, ConnectError> {
        let mut config = self.options.session.clone();
        let wanted = !(config.supported & SHARED_MEMORY).is_empty();
        if wanted && !self.proposes_shared_memory() {
            config.supported = config.supported.without(SHARED_MEMORY) | Profiles::BASELINE;
        }
        config.request.max_payload = self.request.current;
        config.response.max_payload = self.response.current;
        let mut session = Session::connect(&self.endpoint, &config, &Wait::until(deadline).or_abort(&self.abort))?;
        session.end_with(&self.abort);
        Ok(session)
    }

    fn lose(&mut self) {
        self.session = None;
        self.cadence.broke();
    }

    fn fail(&mut self, error: BaselineError) -> BaselineError {
        self.counters.errors += 1;
        error
    }
}
