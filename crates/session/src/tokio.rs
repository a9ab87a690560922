//! The async face: the same handshake, core and carriers, driven by tokio's reactor.
//!
//! Futures may be dropped at any time: a dropped `recv` loses nothing; a dropped `send` that was in the middle of a message
//! leaves the session [`SessionError::Broken`]. Deadlines are [`::tokio::time::timeout`]. Over shared memory a wait that
//! outlasts a short spin occupies a thread of the runtime's blocking pool, since only a thread can sleep on the profile's
//! futex.

use crate::carrier::Carrier;
use crate::config::{ClientConfig, ServerConfig};
use crate::core::{Core, Role, Transmit};
use crate::credentials::PeerCredentials;
use crate::directory::Trust;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, HandshakeError, ListenError, SessionError};
use crate::greeting::Greeting;
use crate::handshake::judge_ack;
use crate::inbound::Framing;
use crate::listener;
use crate::mailbox::Mailbox;
use crate::session::{Agreement, Established, Link, client_hello, establish};
use crate::shm::Slot;
use crate::socket;
use crate::sys;
use crate::wait::{Abort, Wait};
use ::tokio::io::Interest;
use ::tokio::io::unix::AsyncFd;
use ginnel_wire::{Envelope, Message};
use rustix::io::Errno;
use std::os::fd::OwnedFd;
use std::time::Duration;

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
    /// Takes the endpoint and listens. What may block, the lock of the run directory and the probe of a stale name, is done by
    /// the runtime's blocking pool. A future that is dropped frees the name again.
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
        let (established, peer) = done.map_err(|_| no_hello(SessionError::Aborted))??;
        Session::new(Role::Server, established, peer).map_err(HandshakeError::Answer)
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
    mailbox: Mailbox,
    link: AsyncLink,
    agreement: Agreement,
}

#[derive(Debug)]
enum AsyncLink {
    Socket { fd: AsyncFd<OwnedFd>, packets: bool },
    Slot(Slot),
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
        let packet = hello.packet();
        let mut sent = 0;
        while sent < packet.len() {
            let done = fd.async_io(Interest::WRITABLE, |fd| would_block(socket::send(fd, &packet[sent..], &[]))).await;
            sent += done.map_err(io("send")).and_then(|done| done).map_err(ConnectError::Session)?;
        }
        let packets = endpoint.is_seqpacket();
        let mut answer = Greeting::new(packets);
        while answer.packet().is_none() {
            let received = receive(&fd, answer.space(), packets).await.map_err(ConnectError::Session)?;
            answer.received(received);
        }
        let ack = judge_ack(answer.packet().unwrap_or_default(), &hello)?;
        let fd = fd.into_inner();
        let established = if ack.selected.is_shared_memory() {
            let endpoint = endpoint.clone();
            let attach = move || establish(&endpoint, fd, ack, &Wait::forever());
            ::tokio::task::spawn_blocking(attach).await.map_err(|_| ConnectError::Session(SessionError::Aborted))??
        } else {
            establish(endpoint, fd, ack, &Wait::forever())?
        };
        Self::new(Role::Client, established, peer).map_err(ConnectError::Session)
    }

    fn new(role: Role, established: Established, peer: Option<PeerCredentials>) -> Result<Self, SessionError> {
        let Established { ack, link } = established;
        let (framing, link) = match link {
            Link::Slot(slot) => (Framing::Slot(slot.longest()), AsyncLink::Slot(slot)),
            Link::Socket(socket, framing) => {
                let packets = framing != Framing::Stream;
                let fd = register(socket.into_fd())?;
                (framing, AsyncLink::Socket { fd, packets })
            }
        };
        let mailbox = Mailbox::new(Core::new(role, framing, &ack));
        Ok(Self { mailbox, link, agreement: Agreement::new(&ack, peer) })
    }

    /// What both sides agreed on.
    #[must_use]
    pub fn agreement(&self) -> &Agreement {
        &self.agreement
    }

    /// Requests that wait for their response. Always 0 for a server.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.mailbox.in_flight()
    }

    /// Sends one message; see [`crate::Session::send`].
    ///
    /// # Errors
    /// As [`crate::Session::send`].
    pub async fn send(&mut self, envelope: &Envelope, payload: &[u8]) -> Result<(), SessionError> {
        let mut transmit = self.mailbox.begin_send(envelope, payload.len())?;
        let sent = self.transmit(&mut transmit, payload).await;
        self.mailbox.end_send(&transmit, sent.is_ok());
        sent
    }

    async fn transmit(&mut self, transmit: &mut Transmit, payload: &[u8]) -> Result<(), SessionError> {
        while let Some((head, body)) = transmit.next(payload) {
            let sent = match &mut self.link {
                AsyncLink::Socket { fd, .. } => {
                    match fd.try_io(Interest::WRITABLE, |fd| would_block(socket::send(fd, head, body))) {
                        Ok(sent) => Some(sent?),
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                        Err(error) => return Err(io("send")(error)),
                    }
                }
                AsyncLink::Slot(slot) => slot.try_send(head, body)?,
            };
            match sent {
                Some(len) => transmit.advance(len),
                None => self.wait_to_send().await?,
            }
        }
        Ok(())
    }

    /// Waits until more can be sent, receiving responses meanwhile.
    async fn wait_to_send(&mut self) -> Result<(), SessionError> {
        let pump = self.mailbox.expects_responses();
        match &mut self.link {
            AsyncLink::Socket { fd, packets } => {
                let interest = if pump { Interest::READABLE | Interest::WRITABLE } else { Interest::WRITABLE };
                let ready = fd.ready(interest).await.map_err(io("wait"))?.ready();
                if pump && ready.is_readable() {
                    self.mailbox.stash()?;
                    let space = self.mailbox.core.space();
                    match fd.try_io(Interest::READABLE, |fd| would_block(socket::recv(fd, space, *packets))) {
                        Ok(received) => self.mailbox.core.received(received?)?,
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(error) => return Err(io("receive")(error)),
                    }
                }
            }
            AsyncLink::Slot(slot) => {
                wait_for_slot(slot).await;
                self.mailbox.stash()?;
                if let Some(len) = slot.try_recv(self.mailbox.core.space())? {
                    self.mailbox.core.received(len)?;
                }
            }
        }
        self.mailbox.stash()
    }

    /// Receives the next message; see [`crate::Session::recv`]. The future may be dropped and asked for again.
    ///
    /// # Errors
    /// As [`crate::Session::recv`].
    pub async fn recv(&mut self) -> Result<Message<'_>, SessionError> {
        self.mailbox.drop_current()?;
        while !self.mailbox.hand_out() {
            let space = self.mailbox.core.space();
            let len = match &mut self.link {
                AsyncLink::Socket { fd, packets } => receive(fd, space, *packets).await?,
                AsyncLink::Slot(slot) => match slot.try_recv(space)? {
                    Some(len) => len,
                    None => {
                        wait_for_slot(slot).await;
                        continue;
                    }
                },
            };
            self.mailbox.core.received(len)?;
        }
        self.mailbox.message().ok_or(SessionError::Broken)
    }
}

async fn receive(fd: &AsyncFd<OwnedFd>, space: &mut [u8], packets: bool) -> Result<usize, SessionError> {
    fd.async_io(Interest::READABLE, |fd| would_block(socket::recv(fd, space, packets))).await.map_err(io("receive"))?
}

async fn wait_for_slot(slot: &Slot) {
    let waiter = slot.waiter();
    if waiter.spin() {
        return;
    }
    let Ok(abort) = Abort::new() else { return ::tokio::task::yield_now().await };
    let _raised_on_drop = RaiseOnDrop(abort.clone());
    // Fails only when the runtime shuts down, and then nobody asks again.
    let _ = ::tokio::task::spawn_blocking(move || waiter.sleep(&abort)).await;
}

struct RaiseOnDrop(Abort);

impl Drop for RaiseOnDrop {
    fn drop(&mut self) {
        self.0.raise();
    }
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
