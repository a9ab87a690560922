//! A session with blocking operations: the core, driven over a carrier.

use crate::carrier::{Carrier, Interest};
use crate::config::{ClientConfig, Limits};
use crate::core::{Core, Role, Transmit};
use crate::credentials::PeerCredentials;
use crate::directory::Trust;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, SessionError};
use crate::greeting::Greeting;
use crate::handshake::{judge_ack, propose};
use crate::inbound::Framing;
use crate::mailbox::Mailbox;
use crate::shm;
use crate::socket::{self, Socket};
use crate::wait::{Abort, Wait};
use ginnel_wire::{Envelope, Hello, HelloAck, Message, Profiles};
use rustix::fd::OwnedFd;
use std::os::fd::{AsFd, BorrowedFd};

/// What both sides agreed on, and with whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    /// The server's number of this session.
    pub session_id: u64,
    /// How messages travel: [`Profiles::BASELINE`] or one of the shared-memory profiles.
    pub profile: Profiles,
    /// Limits of what the client sends.
    pub request: Limits,
    /// Limits of what the server sends.
    pub response: Limits,
    /// Largest packet in bytes.
    pub packet_size: u32,
    /// Who is at the other end; `None` over TCP.
    pub peer: Option<PeerCredentials>,
}

impl Agreement {
    pub(crate) fn new(ack: &HelloAck, peer: Option<PeerCredentials>) -> Self {
        Self {
            session_id: ack.session_id,
            profile: ack.selected,
            request: Limits { max_payload: ack.max_request_payload, max_items: ack.max_request_items },
            response: Limits { max_payload: ack.max_response_payload, max_items: ack.max_response_items },
            packet_size: ack.packet_size,
            peer,
        }
    }
}

/// A negotiated session: messages in, messages out.
///
/// Owned by one thread at a time. A client may have many requests in flight and receives responses in whatever order the
/// server answers. Every operation takes a [`Wait`] that bounds it. Dropping the session closes it; a forked child must not
/// use it.
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
    role: Role,
    mailbox: Mailbox,
    carrier: Box<dyn Carrier>,
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
        let mut carrier = Socket::new(socket, endpoint.is_seqpacket());
        greet(&mut carrier, &hello, wait).map_err(ConnectError::Session)?;
        let mut answer = Greeting::new(endpoint.is_seqpacket());
        receive_greeting(&mut carrier, &mut answer, wait).map_err(ConnectError::Session)?;
        let ack = judge_ack(answer.packet().unwrap_or_default(), &hello)?;
        let established = establish(endpoint, carrier.into_fd(), ack, wait)?;
        Ok(Self::new(Role::Client, established, peer))
    }

    pub(crate) fn new(role: Role, established: Established, peer: Option<PeerCredentials>) -> Self {
        let Established { ack, link } = established;
        let (framing, carrier): (_, Box<dyn Carrier>) = match link {
            Link::Socket(mut socket, framing) => {
                socket.allow_sleep();
                (framing, Box::new(socket))
            }
            Link::Slot(slot) => (Framing::Slot(slot.longest()), Box::new(slot)),
        };
        let mailbox = Mailbox::new(Core::new(role, framing, &ack));
        Self { role, mailbox, carrier, agreement: Agreement::new(&ack, peer) }
    }

    /// Allows `abort` to end the session, and not only a wait: over a socket, raising it hangs up. A server still sends what it
    /// has to say, a client does not.
    ///
    /// In return a [`Session::recv`] whose wait watches this abort and no other costs one system call instead of two. Without
    /// an abort it does so anyway.
    pub fn end_with(&mut self, abort: &Abort) {
        self.carrier.end_with(abort, self.role);
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

    /// Sends one message; `envelope.payload_len` is set to the payload's.
    ///
    /// While the peer takes no more, a client receives responses meanwhile, so that two full sockets cannot block each
    /// other; [`Session::recv`] hands them out later.
    ///
    /// # Errors
    /// Limits, ids and kinds are refused before anything is sent, and the session goes on. A wait that ends in the middle
    /// of a message leaves the session [`SessionError::Broken`].
    pub fn send(&mut self, envelope: &Envelope, payload: &[u8], wait: &Wait<'_>) -> Result<(), SessionError> {
        let mut transmit = self.mailbox.begin_send(envelope, payload.len())?;
        let sent = self.transmit(&mut transmit, payload, wait);
        self.mailbox.end_send(&transmit, sent.is_ok());
        sent
    }

    fn transmit(&mut self, transmit: &mut Transmit, payload: &[u8], wait: &Wait<'_>) -> Result<(), SessionError> {
        while let Some((head, body)) = transmit.next(payload) {
            match self.carrier.try_send(head, body)? {
                Some(len) => transmit.advance(len),
                None if self.mailbox.expects_responses() => {
                    if self.carrier.wait(Interest::Both, wait)?.receive {
                        self.receive_early()?;
                    }
                }
                None => {
                    self.carrier.wait(Interest::Send, wait)?;
                }
            }
        }
        Ok(())
    }

    /// Takes what has arrived out of the carrier, so that the peer can go on.
    fn receive_early(&mut self) -> Result<(), SessionError> {
        loop {
            self.mailbox.stash()?;
            match self.carrier.try_recv(self.mailbox.core.space())? {
                Some(len) => self.mailbox.core.received(len)?,
                None => return Ok(()),
            }
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
        self.mailbox.drop_current()?;
        while !self.mailbox.hand_out() {
            let len = self.carrier.recv(self.mailbox.core.space(), wait)?;
            self.mailbox.core.received(len)?;
        }
        self.mailbox.message().ok_or(SessionError::Broken)
    }

    /// The message that the last [`Session::recv`] returned, until the next call that changes the session.
    #[must_use]
    pub fn message(&self) -> Option<Message<'_>> {
        self.mailbox.message()
    }

    /// Closes so that the peer still reads what was sent: a close with unread bytes would reset the connection, which some
    /// peers see before the last message. What still arrives is dropped until the peer hangs up or `wait` is over.
    pub fn close_gently(self, wait: &Wait<'_>) {
        let fd = self.carrier.fd();
        if rustix::net::shutdown(fd, rustix::net::Shutdown::Write).is_err() {
            return;
        }
        let mut scratch = [0; 4096];
        loop {
            match socket::recv(fd, &mut scratch, false) {
                Ok(Some(_)) if wait.check().is_ok() => {}
                Ok(None) if wait.poll(fd, rustix::event::PollFlags::IN).is_ok() => {}
                _ => return,
            }
        }
    }

    /// Whether the peer has hung up, without waiting and without reading.
    #[must_use]
    pub fn is_hung_up(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::from_borrowed_fd(self.carrier.fd(), PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        poll(&mut fds, Some(&now)).is_ok() && !fds[0].revents().is_empty()
    }
}

impl AsFd for Session {
    /// The socket, for `poll` and the like: readable when [`Session::recv`] may find a message. In shared memory nothing
    /// travels there, and it only tells that the peer has hung up. Do not read from it or write to it.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.carrier.fd()
    }
}

/// A handshake that succeeded, and what carries its messages: the part of a session that both faces share.
pub(crate) struct Established {
    pub(crate) ack: HelloAck,
    pub(crate) link: Link,
}

pub(crate) enum Link {
    Socket(Socket, Framing),
    Slot(shm::Slot),
}

impl Link {
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket, _) => socket.fd(),
            Self::Slot(slot) => slot.fd(),
        }
    }
}

/// The client's side of an accepted handshake. Blocks only where a server is still writing its region.
pub(crate) fn establish(
    endpoint: &Endpoint,
    socket: OwnedFd,
    ack: HelloAck,
    wait: &Wait<'_>,
) -> Result<Established, ConnectError> {
    let link = match endpoint.service() {
        Some((run_dir, service)) if ack.selected.is_shared_memory() => {
            let path = run_dir.join(shm::region_name(service, ack.session_id));
            let region = shm::attach(&path, wait)?;
            Link::Slot(shm::Slot::client(region, socket, ack.max_response_payload).map_err(ConnectError::Session)?)
        }
        _ => Link::Socket(Socket::new(socket, endpoint.is_seqpacket()), socket_framing(endpoint, &ack)),
    };
    Ok(Established { ack, link })
}

pub(crate) fn socket_framing(endpoint: &Endpoint, ack: &HelloAck) -> Framing {
    if endpoint.is_seqpacket() { Framing::Packets(ack.packet_size) } else { Framing::Stream }
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

fn greet(carrier: &mut Socket, hello: &Hello, wait: &Wait<'_>) -> Result<(), SessionError> {
    let packet = hello.packet();
    let mut sent = 0;
    while sent < packet.len() {
        match carrier.try_send(&packet[sent..], &[])? {
            Some(len) => sent += len,
            None => {
                carrier.wait(Interest::Send, wait)?;
            }
        }
    }
    Ok(())
}

pub(crate) fn receive_greeting(
    carrier: &mut Socket,
    greeting: &mut Greeting,
    wait: &Wait<'_>,
) -> Result<(), SessionError> {
    while greeting.packet().is_none() {
        match carrier.try_recv(greeting.space())? {
            Some(len) => greeting.received(len),
            None => {
                carrier.wait(Interest::Receive, wait)?;
            }
        }
    }
    Ok(())
}
