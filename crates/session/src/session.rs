//! A session with blocking operations: a connection, driven over a carrier.

use crate::agreement::Agreement;
use crate::carrier::{Carrier, Link, Slot, Socket};
use crate::config::ClientConfig;
use crate::credentials::PeerCredentials;
use crate::directory::Trust;
use crate::drive::blocking::Drive;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, SessionError};
use crate::proto::{Body, Connection, End, Event, Framing, Pace, Received, Role, Timing, propose};
use crate::shm;
use crate::socket;
use crate::wait::{Abort, Wait};
use ginnel_wire::{Envelope, Hello, HelloAck, Message, Profiles};
use rustix::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

/// A negotiated session: messages in, messages out.
///
/// Owned by one thread at a time. A client may have many requests in flight and receives responses in whatever order
/// the server answers. Every operation takes a [`Wait`] that bounds it. Dropping the session closes it; a forked child
/// must not use it.
///
/// ```
/// use ginnel_session::{ClientConfig, Endpoint, Listener, ServerConfig, Session, Wait};
/// use ginnel_wire::{Envelope, Status};
/// use std::time::Duration;
///
/// let dir = tempfile::tempdir()?;
/// let endpoint = Endpoint::seqpacket(dir.path(), "echo")?;
/// let listener = Listener::bind(&endpoint, ServerConfig::default())?;
/// let wait = Wait::at_most(Duration::from_secs(5));
/// std::thread::scope(|scope| {
///     scope.spawn(|| {
///         let mut session = listener.accept(&wait).unwrap().handshake(&wait).unwrap();
///         let request = session.recv(&wait).unwrap();
///         let (envelope, payload) = (request.envelope, request.payload.to_vec());
///         session.send(&Envelope::response_to(&envelope, Status::OK, 0), &payload, &wait).unwrap();
///     });
///     let mut session = Session::connect(&endpoint, &ClientConfig::default(), &wait)?;
///     session.send(&Envelope::request(1, 7, 0), b"hello", &wait)?;
///     assert_eq!(session.recv(&wait)?.payload, b"hello");
///     Ok::<(), Box<dyn std::error::Error>>(())
/// })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Session {
    drive: Drive<Link>,
    // The message that was handed out last.
    current: Option<Received>,
    agreement: Agreement,
}

impl Session {
    /// Connects and shakes hands, all before `wait` is over.
    ///
    /// # Errors
    /// Nobody there, refused, or cut short; see [`ConnectError`]. After [`ConnectError::SharedMemory`] connect again
    /// without the shared-memory profiles: a session's profile cannot change.
    pub fn connect(endpoint: &Endpoint, config: &ClientConfig, wait: &Wait<'_>) -> Result<Self, ConnectError> {
        let trust = Trust::at(endpoint, config)?;
        let socket = socket::connect(endpoint, wait)?;
        let peer = socket::peer_credentials(&socket, endpoint);
        trust.accept(peer)?;
        let hello = client_hello(&socket, endpoint, config);
        let packets = endpoint.is_seqpacket();
        let begun = Instant::now();
        let connection = Connection::client(hello, packets, Timing::default(), begun);
        let mut drive = Drive::new(connection, Socket::new(socket, packets), begun);
        drive.flush(&[], wait).map_err(ConnectError::Session)?;
        let ack = match drive.event(wait).map_err(ConnectError::Session)? {
            Event::Established(ack) => ack,
            Event::Ended(End::Refused(refusal)) => return Err(refusal.into()),
            Event::Ended(end) => return Err(ConnectError::Session(end.to_error())),
            // A client is told nothing else before its session stands.
            _ => return Err(ConnectError::Session(SessionError::Closed)),
        };
        let Drive { connection, carrier, .. } = drive;
        let link = attach(endpoint, carrier.into_fd(), &ack, wait)?;
        Ok(Self::new(Established { connection, ack, link, peer, within_message: None }))
    }

    pub(crate) fn new(established: Established) -> Self {
        let Established { mut connection, ack, link, peer, within_message } = established;
        if let Link::Slot(slot) = &link {
            connection.set_framing(Framing::Slot(slot.longest()));
        }
        let mut drive = Drive::new(connection, link, Instant::now());
        drive.pace = Pace::new(within_message);
        drive.allow_sleep();
        Self { drive, current: None, agreement: Agreement::new(&ack, peer) }
    }

    /// Allows `abort` to end the session, and not only a wait: over a socket, raising it hangs up. A server still sends
    /// what it has to say, a client does not.
    ///
    /// In return a [`Session::recv`] whose wait watches this abort and no other costs one system call instead of two.
    /// Without an abort it does so anyway.
    pub fn end_with(&mut self, abort: &Abort) {
        self.drive.end_with(abort);
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

    /// Sends one message; `envelope.payload_len` is set to the payload's.
    ///
    /// While the peer takes no more, a client receives responses meanwhile, so that two full sockets cannot block each
    /// other; [`Session::recv`] hands them out later.
    ///
    /// # Errors
    /// Limits, ids and kinds are refused before anything is sent, and the session goes on. A wait that ends in the
    /// middle of a message leaves the session [`SessionError::Broken`].
    pub fn send(&mut self, envelope: &Envelope, payload: &[u8], wait: &Wait<'_>) -> Result<(), SessionError> {
        self.drop_current();
        self.drive.queue(envelope, Body::Lent(payload.len()))?;
        let sent = self.drive.flush(payload, wait);
        if sent.is_err() {
            self.drive.connection.take_back();
        }
        sent
    }

    fn drop_current(&mut self) {
        if let Some(read) = self.current.take() {
            self.drive.pool.put(read.into_buffer());
        }
    }

    /// Receives the next message: a request at the server, a response to any request in flight at the client.
    ///
    /// The message is valid until the next call. Its payload is as long as announced and within the agreed limits, the
    /// directory of a batch of several items is valid, and a response belongs to a request in flight.
    ///
    /// # Errors
    /// After [`SessionError::TimedOut`] and [`SessionError::Aborted`] it may be called again; what has arrived is kept.
    /// Any other error ends the session.
    pub fn recv(&mut self, wait: &Wait<'_>) -> Result<Message<'_>, SessionError> {
        self.drop_current();
        loop {
            match self.drive.event(wait)? {
                Event::Message(message) => return Ok(self.current.insert(message).message()),
                Event::Ended(end) => return Err(end.to_error()),
                // Of the handshake, which is over.
                _ => {}
            }
        }
    }

    /// The message that the last [`Session::recv`] returned, until the next call that changes the session.
    #[must_use]
    pub fn message(&self) -> Option<Message<'_>> {
        self.current.as_ref().map(Received::message)
    }

    /// Closes so that the peer still reads what was sent: a close with unread bytes would reset the connection, which
    /// some peers see before the last message. What still arrives is dropped until the peer hangs up or `wait` is over.
    pub fn close_gently(mut self, wait: &Wait<'_>) {
        // The end of the wait is the wait's.
        self.drive.conclude(Duration::MAX);
        while let Ok(event) = self.drive.event(wait) {
            match event {
                Event::Flushed => {
                    let socket = self.drive.carrier.socket();
                    if rustix::net::shutdown(socket, rustix::net::Shutdown::Write).is_err() {
                        return;
                    }
                }
                Event::Ended(_) => return,
                _ => {}
            }
        }
    }

    /// Whether the peer has hung up, without waiting and without reading.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::from_borrowed_fd(self.drive.carrier.socket(), PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().is_empty()
    }
}

impl AsFd for Session {
    /// The socket, for `poll` and the like: readable when [`Session::recv`] may find a message. In shared memory
    /// nothing travels there, and it only tells that the peer has hung up. Do not read from it or write to it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.drive.carrier.socket()
    }
}

/// A handshake that succeeded, and what carries its messages: the part of a session that both faces share.
pub(crate) struct Established {
    pub(crate) connection: Connection,
    pub(crate) ack: HelloAck,
    pub(crate) link: Link,
    pub(crate) peer: Option<PeerCredentials>,
    /// How long the peer may stand still in the middle of a message. A client waits as long as its call says.
    pub(crate) within_message: Option<Duration>,
}

/// The client's carrier after an accepted handshake. Blocks only where a server is still writing its region.
pub(crate) fn attach(
    endpoint: &Endpoint,
    socket: OwnedFd,
    ack: &HelloAck,
    wait: &Wait<'_>,
) -> Result<Link, ConnectError> {
    let Some((run_dir, service)) = endpoint.service().filter(|_| ack.selected.is_shared_memory()) else {
        return Ok(Link::Socket(Socket::new(socket, endpoint.is_seqpacket())));
    };
    let path = run_dir.join(shm::region_name(service, ack.session_id));
    let region = shm::attach(&path, wait)?;
    // Without a watch it is the shared memory that is not to be had: the next session goes without.
    let slot = Slot::client(region, socket, ack.max_response_payload)
        .map_err(|error| ConnectError::SharedMemory { path, reason: error.to_string() })?;
    Ok(Link::Slot(Box::new(slot)))
}

/// The HELLO for this socket. Shared memory is proposed only where it can be: on seqpacket sockets.
pub(crate) fn client_hello(socket: &OwnedFd, endpoint: &Endpoint, config: &ClientConfig) -> Hello {
    let mut hello = propose(config, socket::packet_size(socket, endpoint, config.packet_size));
    if !endpoint.is_seqpacket() {
        let shared = Profiles::SHM_HYBRID | Profiles::SHM_FUTEX;
        hello.supported = hello.supported.without(shared) | Profiles::BASELINE;
    }
    hello
}
