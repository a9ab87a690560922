//! The async face: the same handshake, core and carriers, driven by tokio's reactor.
//!
//! Futures may be dropped at any time: a dropped `recv` loses nothing; a dropped `send` that was in the middle of a
//! message leaves the session [`SessionError::Broken`]. Deadlines are [`::tokio::time::timeout`]. Only a thread can
//! sleep on the futex of the shared-memory profile: a wait that outlasts a short spin is handed to a thread of this
//! process that sleeps for up to 63 sessions at once. No session occupies a thread of the runtime.

pub use super::readiness::Readiness;
use crate::agreement::Agreement;
use crate::carrier::{self, Carrier, Link, Slot, Source};
use crate::config::{ClientConfig, ServerConfig};
use crate::credentials::PeerCredentials;
use crate::directory::Trust;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, HandshakeError, ListenError, SessionError};
use crate::listener;
use crate::proto::{Body, Connection, End, Event, Framing, Input, Pace, Pool, Received, Role, Timing, Transmit};
use crate::session::{Established, attach, client_hello};
use crate::socket;
use crate::sys;
use crate::wait::Wait;
use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ginnel_wire::{Envelope, Message};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::task::Poll;
use std::time::{Duration, Instant};

/// Memory that a session keeps for the next messages. Larger ones are allocated each time.
const KEEP: usize = 16 << 20;
/// A full backlog has no event to wait for.
const BACKLOG_PAUSE: Duration = Duration::from_millis(2);

/// A listening endpoint; see [`crate::Listener`], which it wraps.
#[derive(Debug)]
pub struct Listener {
    inner: crate::Listener,
    ready: AsyncFd<OwnedFd>,
    handshake_timeout: Duration,
}

impl Listener {
    /// Takes the endpoint and listens. What may block, the lock of the run directory and the probe of a stale name, is
    /// done by the runtime's blocking pool. A future that is dropped frees the name again.
    ///
    /// # Errors
    /// As [`crate::Listener::bind`].
    pub async fn bind(endpoint: &Endpoint, config: ServerConfig) -> Result<Self, ListenError> {
        let handshake_timeout = config.handshake_timeout;
        let blocking = {
            let endpoint = endpoint.clone();
            ::tokio::task::spawn_blocking(move || crate::Listener::bind(&endpoint, config))
        };
        let inner = blocking.await.map_err(|ended| ListenError::Io {
            doing: "bind, because the runtime ended",
            endpoint: endpoint.to_string(),
            source: std::io::Error::other(ended),
        })??;
        let ready = std::os::fd::AsFd::as_fd(&inner)
            .try_clone_to_owned()
            .and_then(|fd| sys::async_fd(fd, Interest::READABLE))
            .map_err(|source| ListenError::Io { doing: "register", endpoint: endpoint.to_string(), source })?;
        Ok(Self { inner, ready, handshake_timeout })
    }

    /// Where it listens; a TCP port of 0 has become the real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        self.inner.endpoint()
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system's refusal.
    pub async fn accept(&self) -> Result<Incoming, SessionError> {
        let accepted = self.ready.async_io(Interest::READABLE, |_| would_block(self.inner.try_accept())).await;
        let inner = accepted.map_err(io("accept"))??;
        Ok(Incoming { inner, timeout: self.handshake_timeout })
    }
}

/// A connection whose handshake is not over. Spawn its handshake, and a client that says nothing delays nobody.
#[derive(Debug)]
pub struct Incoming {
    inner: listener::Incoming,
    timeout: Duration,
}

impl Incoming {
    /// Who connected; `None` over TCP.
    #[must_use]
    pub fn peer(&self) -> Option<PeerCredentials> {
        self.inner.peer()
    }

    /// Waits for the HELLO, for as long as [`ServerConfig::handshake_timeout`] says, and answers it.
    ///
    /// # Errors
    /// As [`crate::Incoming::handshake`].
    pub async fn handshake(mut self) -> Result<Session, HandshakeError> {
        let no_hello = HandshakeError::NoHello;
        let hello = async {
            let ready = std::os::fd::AsFd::as_fd(&self.inner).try_clone_to_owned();
            let ready = ready.and_then(|fd| sys::async_fd(fd, Interest::READABLE));
            let ready = ready.map_err(io("register")).map_err(no_hello)?;
            while !self.inner.try_receive_hello()? {
                let mut guard = ready.readable().await.map_err(io("wait")).map_err(no_hello)?;
                if !self.inner.try_receive_hello()? {
                    guard.clear_ready();
                }
            }
            Ok(())
        };
        ::tokio::time::timeout(self.timeout, hello).await.map_err(|_| no_hello(SessionError::TimedOut))??;
        // Making a region may touch a disk's worth of memory: not on the reactor.
        let inner = self.inner;
        let done = ::tokio::task::spawn_blocking(move || inner.establish()).await;
        let established = done.map_err(|_| no_hello(SessionError::Aborted))??;
        Session::new(established).map_err(HandshakeError::Answer)
    }
}

/// A negotiated session; see [`crate::Session`].
///
/// ```
/// use ginnel_session::{ClientConfig, Endpoint, ServerConfig, tokio::{Listener, Session}};
/// use ginnel_wire::{Envelope, Status};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let dir = tempfile::tempdir()?;
/// let endpoint = Endpoint::seqpacket(dir.path(), "echo")?;
/// let listener = Listener::bind(&endpoint, ServerConfig::default()).await?;
/// let server = tokio::spawn(async move {
///     let mut session = listener.accept().await.unwrap().handshake().await.unwrap();
///     let request = session.recv().await.unwrap();
///     let (envelope, payload) = (request.envelope, request.payload.to_vec());
///     session.send(&Envelope::response_to(&envelope, Status::OK, 0), &payload).await.unwrap();
/// });
/// let mut session = Session::connect(&endpoint, &ClientConfig::default()).await?;
/// session.send(&Envelope::request(1, 7, 0), b"hello").await?;
/// assert_eq!(session.recv().await?.payload, b"hello");
/// # server.await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Session {
    drive: Drive,
    // The message that was handed out last.
    current: Option<Received>,
    agreement: Agreement,
}

/// A connection and what carries it.
#[derive(Debug)]
struct Drive {
    connection: Connection,
    link: AsyncLink,
    pool: Pool,
    // How long the peer may stand still in the middle of a message.
    pace: Pace,
    // No other silence is timed here: deadlines are the runtime's, see the top of this file.
    begun: Instant,
}

#[derive(Debug)]
enum AsyncLink {
    Socket { fd: AsyncFd<OwnedFd>, packets: bool },
    Slot(Box<Slot>),
}

impl Session {
    /// Connects and shakes hands.
    ///
    /// # Errors
    /// As [`crate::Session::connect`].
    pub async fn connect(endpoint: &Endpoint, config: &ClientConfig) -> Result<Self, ConnectError> {
        let trust = Trust::at(endpoint, config)?;
        let fd = connect_socket(endpoint).await?;
        let peer = socket::peer_credentials(&fd, endpoint);
        trust.accept(peer)?;
        let hello = client_hello(fd.get_ref(), endpoint, config);
        let packets = endpoint.is_seqpacket();
        let begun = Instant::now();
        let connection = Connection::client(hello, packets, Timing::default(), begun);
        let mut drive = Drive {
            connection,
            link: AsyncLink::Socket { fd, packets },
            pool: Pool::new(KEEP),
            pace: Pace::new(None),
            begun,
        };
        drive.flush(&[]).await.map_err(ConnectError::Session)?;
        let ack = match drive.event().await.map_err(ConnectError::Session)? {
            Event::Established(ack) => ack,
            Event::Ended(End::Refused(refusal)) => return Err(refusal.into()),
            Event::Ended(end) => return Err(ConnectError::Session(end.to_error())),
            // A client is told nothing else before its session stands.
            _ => return Err(ConnectError::Session(SessionError::Closed)),
        };
        let Drive { connection, link: AsyncLink::Socket { fd, .. }, .. } = drive else {
            return Err(ConnectError::Session(SessionError::Closed));
        };
        let fd = fd.into_inner();
        let link = if ack.selected.is_shared_memory() {
            let endpoint = endpoint.clone();
            let attach = move || attach(&endpoint, fd, &ack, &Wait::forever());
            ::tokio::task::spawn_blocking(attach).await.map_err(|_| ConnectError::Session(SessionError::Aborted))??
        } else {
            attach(endpoint, fd, &ack, &Wait::forever())?
        };
        Self::new(Established { connection, ack, link, peer, within_message: None }).map_err(ConnectError::Session)
    }

    fn new(established: Established) -> Result<Self, SessionError> {
        let Established { mut connection, ack, link, peer, within_message } = established;
        let link = match link {
            Link::Slot(slot) => {
                connection.set_framing(Framing::Slot(slot.longest()));
                AsyncLink::Slot(slot)
            }
            Link::Socket(socket) => {
                let packets = socket.packets();
                AsyncLink::Socket { fd: register(socket.into_fd())?, packets }
            }
        };
        let drive =
            Drive { connection, link, pool: Pool::new(KEEP), pace: Pace::new(within_message), begun: Instant::now() };
        Ok(Self { drive, current: None, agreement: Agreement::new(&ack, peer) })
    }

    /// What both sides agreed on.
    #[must_use]
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// Requests that wait for their response. Always 0 for a server.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        match self.drive.connection.role() {
            Role::Client => self.drive.connection.in_flight(),
            Role::Server => 0,
        }
    }

    /// Sends one message; see [`crate::Session::send`].
    ///
    /// # Errors
    /// As [`crate::Session::send`].
    pub async fn send(&mut self, envelope: &Envelope, payload: &[u8]) -> Result<(), SessionError> {
        self.drop_current();
        self.drive.connection.send(self.drive.begun, envelope, Body::Lent(payload.len()))?;
        let sent = self.drive.flush(payload).await;
        if sent.is_err() {
            self.drive.connection.take_back();
        }
        sent
    }

    /// Receives the next message; see [`crate::Session::recv`]. The future may be dropped and asked for again.
    ///
    /// # Errors
    /// As [`crate::Session::recv`].
    pub async fn recv(&mut self) -> Result<Message<'_>, SessionError> {
        self.drop_current();
        loop {
            match self.drive.event().await? {
                Event::Message(message) => return Ok(self.current.insert(message).message()),
                Event::Ended(end) => return Err(end.to_error()),
                // Of the handshake, which is over.
                _ => {}
            }
        }
    }

    fn drop_current(&mut self) {
        // A send that was dropped has left its payload to nobody.
        self.drive.connection.take_back();
        if let Some(read) = self.current.take() {
            self.drive.pool.put(read.into_buffer());
        }
    }
}

impl Drive {
    /// Writes all that is queued; see the blocking driver's.
    async fn flush(&mut self, lent: &[u8]) -> Result<(), SessionError> {
        while let Some(Transmit { head, body, .. }) = self.connection.poll_transmit(lent) {
            let sent = match &mut self.link {
                AsyncLink::Socket { fd, .. } => attempt(fd, Interest::WRITABLE, |fd| carrier::send(fd, head, body))?,
                AsyncLink::Slot(slot) => slot.try_send(head, body)?,
            };
            match sent {
                Some(len) => self.connection.transmitted(self.begun, len, &mut self.pool),
                None => self.wait_to_send().await?,
            }
        }
        Ok(())
    }

    /// Waits until more can be sent, receiving responses meanwhile.
    async fn wait_to_send(&mut self) -> Result<(), SessionError> {
        let early = self.connection.expects_responses();
        match &mut self.link {
            AsyncLink::Socket { fd, .. } => {
                let interest = if early { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
                // Cleared by the attempt that finds nothing.
                let _ = fd.ready(interest).await.map_err(io("wait"))?;
            }
            AsyncLink::Slot(slot) => wait_for_slot(slot).await,
        }
        if !early {
            return Ok(());
        }
        loop {
            self.connection.gather(&mut self.pool);
            if let Some(end) = self.connection.end() {
                return Err(end.to_error());
            }
            if !self.try_receive()? {
                return Ok(());
            }
        }
    }

    /// Receives once, if there is something.
    fn try_receive(&mut self) -> Result<bool, SessionError> {
        let received = match &mut self.link {
            AsyncLink::Socket { fd, packets } => {
                let space = self.connection.space(0, &mut self.pool);
                attempt(fd, Interest::READABLE, |fd| carrier::recv(fd, space, *packets))?
            }
            AsyncLink::Slot(slot) => {
                let due = slot.due();
                slot.try_recv(self.connection.space(due, &mut self.pool))?
            }
        };
        if let Some(len) = received {
            self.connection.handle(self.begun, Input::Received(len));
            if self.connection.is_mid_message() {
                self.pace.gained(Instant::now(), len);
            } else {
                self.pace.rest();
            }
        }
        Ok(received.is_some())
    }

    /// The next event. After [`Event::Ended`] it is an error.
    async fn event(&mut self) -> Result<Event, SessionError> {
        loop {
            if let Some(event) = self.connection.poll_event(&mut self.pool) {
                return Ok(event);
            }
            if let Some(end) = self.connection.end() {
                return Err(end.to_error());
            }
            match self.try_receive() {
                Ok(true) => {}
                Ok(false) => match &mut self.link {
                    AsyncLink::Socket { fd, .. } => {
                        let ready = fd.ready(Interest::READABLE);
                        let _ = match self.pace.due().instant() {
                            None => ready.await,
                            Some(due) => {
                                ::tokio::time::timeout_at(due.into(), ready).await.map_err(|_| SessionError::Stalled)?
                            }
                        }
                        .map_err(io("wait"))?;
                    }
                    AsyncLink::Slot(slot) => wait_for_slot(slot).await,
                },
                Err(SessionError::Closed) => self.connection.handle(self.begun, Input::HungUp),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Attempts what the descriptor may be ready for; `None`: not now, and the reactor knows.
fn attempt<T>(
    fd: &AsyncFd<OwnedFd>,
    interest: Interest,
    attempt: impl FnOnce(&OwnedFd) -> Result<Option<T>, SessionError>,
) -> Result<Option<T>, SessionError> {
    match fd.try_io(interest, |fd| would_block(attempt(fd))) {
        Ok(done) => done.map(Some),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(io("use the socket")(error)),
    }
}

async fn wait_for_slot(slot: &mut Slot) {
    // As long as the known peers look before they sleep.
    for _ in 0..128 {
        if !slot.arm() {
            return;
        }
        std::hint::spin_loop();
    }
    let Source::Doorbell(bell) = slot.source() else { return };
    let mut bell = Some(bell);
    let mut attended = None;
    std::future::poll_fn(|context| {
        if let Some(bell) = bell.take() {
            match bell.attend(context.waker()) {
                Ok(care) => attended = Some(care),
                // The system has no thread for it: look again, as others have their turn.
                Err(_) => context.waker().wake_by_ref(),
            }
            return Poll::Pending;
        }
        attended.as_ref().map_or(Poll::Ready(()), |care| care.poll(context))
    })
    .await;
}

async fn connect_socket(endpoint: &Endpoint) -> Result<AsyncFd<OwnedFd>, ConnectError> {
    let failed = |errno: Errno| ConnectError::not_connected(endpoint, errno);
    let register = |fd| register(fd).map_err(ConnectError::Session);
    let fd = socket::unbound_socket(endpoint).map_err(failed)?;
    loop {
        match endpoint.connect(&fd) {
            Ok(()) | Err(Errno::ISCONN) => break,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ::tokio::time::sleep(BACKLOG_PAUSE).await,
            Err(Errno::INPROGRESS) => {
                let fd = register(fd)?;
                let _ = fd.writable().await.map_err(io("wait")).map_err(ConnectError::Session)?;
                rustix::net::sockopt::socket_error(&fd).and_then(|outcome| outcome).map_err(failed)?;
                socket::connected(fd.get_ref(), endpoint).map_err(failed)?;
                return Ok(fd);
            }
            Err(errno) => return Err(failed(errno)),
        }
    }
    socket::connected(&fd, endpoint).map_err(failed)?;
    register(fd)
}

fn register(fd: OwnedFd) -> Result<AsyncFd<OwnedFd>, SessionError> {
    sys::async_fd(fd, Interest::READABLE | Interest::WRITABLE).map_err(io("register"))
}

/// "Not now" in tokio's words; any other outcome goes through it untouched.
fn would_block<T>(outcome: Result<Option<T>, SessionError>) -> std::io::Result<Result<T, SessionError>> {
    match outcome {
        Ok(Some(value)) => Ok(Ok(value)),
        Ok(None) => Err(std::io::ErrorKind::WouldBlock.into()),
        Err(error) => Ok(Err(error)),
    }
}

fn io(doing: &'static str) -> impl Fn(std::io::Error) -> SessionError {
    move |source| SessionError::Io { doing, source }
}
