//! The server's side: a socket that listens, and connections on their way to becoming sessions.

use crate::bind::{Bound, bind};
use crate::carrier::{Carrier, Link, Slot, Socket, send};
use crate::config::ServerConfig;
use crate::credentials::PeerCredentials;
use crate::drive::blocking::Drive;
use crate::endpoint::Endpoint;
use crate::error::{HandshakeError, ListenError, RefuseReason, SessionError};
use crate::layout2::{Offering, answer};
use crate::proto::{Connection, Event, Offer, Timing, Verdict};
use crate::session::{Established, Session};
use crate::shm;
use crate::socket;
use crate::wait::Wait;
use ginnel_wire::{Hello, HelloAck, Profiles, Status};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long clients that say nothing may hold up the refusal of the others when descriptors are short.
const TURN_AWAY: Duration = Duration::from_millis(20);
/// How many numbers to try for a region. As many may be taken by what clients of a dead server still hold.
const NUMBERS: u32 = 1024;
const SHARED_MEMORY: Profiles = Profiles(Profiles::SHM_HYBRID.0 | Profiles::SHM_FUTEX.0);

/// A listening endpoint. Dropping it frees its name; sessions go on.
///
/// The socket is mode 0600 from its first moment, whatever the umask. A name left behind by a dead server is taken
/// over; one of a live server is refused.
#[derive(Debug)]
pub struct Listener {
    bound: Bound,
    endpoint: Arc<Endpoint>,
    config: ServerConfig,
    // Where the regions of shared-memory sessions go; `None` where there can be none.
    regions: Option<Arc<OwnedFd>>,
    accepted: Arc<AtomicU64>,
    // Given up for a moment to refuse with when the process has no descriptor left.
    reserve: Mutex<Option<OwnedFd>>,
    turned_away: AtomicU64,
}

impl Listener {
    /// Takes the endpoint and listens.
    ///
    /// # Errors
    /// [`ListenError::InUse`] if a server lives there, [`ListenError::WritableDir`] if others could put theirs in its
    /// place, or the system's refusal.
    ///
    /// It may block for some time: for the directory's lock, which is usually held for less than a millisecond, and to
    /// find out whether a socket that refuses connections is stale.
    pub fn bind(endpoint: &Endpoint, config: ServerConfig) -> Result<Self, ListenError> {
        if endpoint.tcp_address().is_some() && config.token == 0 {
            return Err(ListenError::TokenRequired { endpoint: endpoint.to_string() });
        }
        let bound = bind(endpoint, &config)?;
        let regions = match endpoint.service() {
            Some((run_dir, _)) if endpoint.is_seqpacket() => {
                let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
                rustix::fs::openat(CWD, run_dir, flags, Mode::empty()).ok().map(Arc::new)
            }
            _ => None,
        };
        let endpoint = match rustix::net::getsockname(&bound.socket).ok().map(std::net::SocketAddr::try_from) {
            // Port 0 has become a real one.
            Some(Ok(address)) => Endpoint::tcp_beyond_loopback(address),
            _ => endpoint.clone(),
        };
        tracing::info!(%endpoint, "listening");
        let reserve = Mutex::new(spare(&bound.socket));
        let (accepted, turned_away) = (Arc::default(), AtomicU64::new(0));
        Ok(Self { bound, endpoint: Arc::new(endpoint), config, regions, accepted, reserve, turned_away })
    }

    /// Where it listens; a TCP port of 0 has become the real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The wait's end, or the system's refusal. Where that is a lack of file descriptors, the connections that wait
    /// have been refused before it returns: one descriptor is kept for that.
    pub fn accept(&self, wait: &Wait<'_>) -> Result<Incoming, SessionError> {
        loop {
            if let Some(incoming) = self.try_accept()? {
                return Ok(incoming);
            }
            wait.poll(self.as_fd(), PollFlags::IN)?;
        }
    }

    /// Takes a connection that waits already; `None` if there is none.
    ///
    /// # Errors
    /// As [`Listener::accept`]; refusing may take 20 ms, where a client has connected and not said HELLO.
    pub fn try_accept(&self) -> Result<Option<Incoming>, SessionError> {
        loop {
            match rustix::net::accept_with(&self.bound.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(self.incoming(socket))),
                Err(Errno::AGAIN) => return Ok(None),
                // The client has left already.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => {
                    if matches!(errno, Errno::MFILE | Errno::NFILE) {
                        self.turn_away();
                    }
                    return Err(SessionError::Io { doing: "accept", source: errno.into() });
                }
            }
        }
    }

    /// How many connections were refused because the process had no file descriptor left.
    #[must_use]
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Refuses all connections that wait, with the number of the descriptor that was kept. A client that is left in the
    /// backlog hangs: nothing tells it that it will not be served.
    fn turn_away(&self) {
        let mut reserve = self.reserve.lock().unwrap_or_else(PoisonError::into_inner);
        if reserve.is_none() {
            // Lost to another thread the last time.
            *reserve = spare(&self.bound.socket);
        }
        let patience = Wait::at_most(TURN_AWAY);
        while reserve.take().is_some() {
            match rustix::net::accept_with(&self.bound.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => {
                    let mut incoming = self.incoming(socket);
                    incoming.offer.refuse.get_or_insert(RefuseReason::Exhausted);
                    let refused = incoming.handshake(&patience);
                    tracing::debug!(endpoint = %self.endpoint, ?refused, "turned away");
                    self.turned_away.fetch_add(1, Ordering::Relaxed);
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => {
                    *reserve = spare(&self.bound.socket);
                    return;
                }
            }
            *reserve = spare(&self.bound.socket);
        }
    }

    fn incoming(&self, socket: OwnedFd) -> Incoming {
        socket::prepare(&socket, &self.endpoint);
        let session_id = self.accepted.fetch_add(1, Ordering::Relaxed) + 1;
        let packet_size = socket::packet_size(&socket, &self.endpoint, self.config.packet_size);
        let mut offer = Offer::new(&self.config, packet_size, session_id);
        if self.regions.is_none() {
            offer.supported = offer.supported.without(SHARED_MEMORY) | Profiles::BASELINE;
        }
        let peer = socket::peer_credentials(&socket, &self.endpoint);
        if let Some(peer) = peer
            && !self.config.clients.accepts(peer.uid, self.bound.owner)
        {
            offer.refuse = Some(RefuseReason::User { uid: peer.uid });
        }
        let packets = self.endpoint.is_seqpacket();
        let now = Instant::now();
        let connection = Connection::server(packets, Timing::default(), now);
        Incoming {
            drive: Drive::new(connection, Socket::new(socket, packets), now),
            endpoint: Arc::clone(&self.endpoint),
            regions: self.regions.clone(),
            offer,
            peer,
            message_timeout: self.config.message_timeout,
            numbers: Arc::clone(&self.accepted),
            offering: Offering::new(&self.config, self.endpoint.tcp_address().is_none()),
        }
    }
}

/// A descriptor that can be given up at any time.
fn spare(socket: &OwnedFd) -> Option<OwnedFd> {
    rustix::io::fcntl_dupfd_cloexec(socket, 0).ok()
}

impl AsFd for Listener {
    /// Readable when a connection waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bound.socket.as_fd()
    }
}

/// A connection whose handshake is not over. Dropping it closes it.
///
/// It can be moved to another thread, or be polled together with others ([`Incoming::try_receive_hello`]), so that a
/// client that says nothing delays nobody.
#[derive(Debug)]
pub struct Incoming {
    pub(crate) drive: Drive<Socket>,
    endpoint: Arc<Endpoint>,
    regions: Option<Arc<OwnedFd>>,
    message_timeout: Duration,
    numbers: Arc<AtomicU64>,
    pub(crate) offer: Offer,
    pub(crate) peer: Option<PeerCredentials>,
    // Layout 2, if it is offered.
    pub(crate) offering: Option<Offering>,
}

impl AsFd for Incoming {
    /// Readable when more of the HELLO may be there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.drive.carrier.socket()
    }
}

impl Incoming {
    /// Who connected; `None` over TCP.
    #[must_use]
    pub fn peer(&self) -> Option<PeerCredentials> {
        self.peer
    }

    /// What the client will be offered.
    #[must_use]
    pub fn offer(&self) -> &Offer {
        &self.offer
    }

    /// The offer, to change before [`Incoming::finish`]: limits that were learned, or a reason to refuse.
    pub fn offer_mut(&mut self) -> &mut Offer {
        &mut self.offer
    }

    /// Reads what has arrived of the HELLO; true once it is complete.
    ///
    /// # Errors
    /// The client left.
    pub fn try_receive_hello(&mut self) -> Result<bool, HandshakeError> {
        while self.drive.connection.greeting().is_none() {
            if !self.drive.try_receive().map_err(HandshakeError::NoHello)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The client's proposal, once it has arrived and can be read.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        self.drive.connection.hello()
    }

    /// What the answer to a HELLO that has arrived will be, as the offer stands. Nothing is sent. [`Verdict::Close`]
    /// before it has arrived.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.drive.connection.judge(&self.offer)
    }

    /// Waits for the HELLO and answers it.
    ///
    /// # Errors
    /// Why there is no session. The client was told if [`HandshakeError::Refused`].
    pub fn handshake(mut self, wait: &Wait<'_>) -> Result<Session, HandshakeError> {
        while self.drive.connection.greeting().is_none() {
            if let Event::Ended(end) = self.drive.event(wait).map_err(HandshakeError::NoHello)? {
                return Err(HandshakeError::NoHello(end.to_error()));
            }
        }
        self.finish()
    }

    /// Answers a HELLO that has arrived. Does not block.
    ///
    /// # Errors
    /// Why there is no session. The client was told if [`HandshakeError::Refused`].
    pub fn finish(self) -> Result<Session, HandshakeError> {
        Ok(Session::new(self.establish()?))
    }

    /// Judges and answers; what is left is to put a driver on it.
    pub(crate) fn establish(mut self) -> Result<Established, HandshakeError> {
        let mut verdict = self.drive.connection.judge(&self.offer);
        let mut region = None;
        if let Verdict::Accept(ack) = &verdict
            && ack.selected.is_shared_memory()
        {
            match self.make_region() {
                Some(made) => {
                    region = Some(made);
                    // It may have another number now.
                    verdict = self.drive.connection.judge(&self.offer);
                }
                None => {
                    // This session goes without: judged again, as a server that never had shared memory.
                    self.offer.supported = self.offer.supported.without(SHARED_MEMORY);
                    verdict = self.drive.connection.judge(&self.offer);
                }
            }
        }
        match verdict {
            Verdict::Accept(ack) => self.accept(ack, region),
            Verdict::Refuse(reason) => {
                let status = reason.status();
                self.refuse(status)?;
                Err(HandshakeError::Refused { status, reason })
            }
            Verdict::Close(reason) => Err(HandshakeError::Closed(reason)),
        }
    }

    /// Makes the region. A number whose name is taken by one that may still be in use is skipped for good: a client of
    /// a dead server that lingers must not cost this session its shared memory.
    fn make_region(&mut self) -> Option<shm::OwnedRegion> {
        let endpoint = Arc::clone(&self.endpoint);
        let (run_dir, service) = endpoint.service()?;
        let layout = shm::Layout::for_limits(self.offer.max_request_payload, self.offer.max_response_payload)?;
        let dir = self.regions.as_ref()?;
        for _ in 0..NUMBERS {
            let session = self.offer.session_id;
            match shm::create(dir, run_dir, service, session, layout) {
                Ok(region) => return Some(region),
                Err(Errno::EXIST) => {
                    tracing::debug!(session, "this number's region is still in use: skipped");
                    self.offer.session_id = self.numbers.fetch_add(1, Ordering::Relaxed) + 1;
                }
                Err(errno) => {
                    tracing::warn!(%errno, session, "no shared memory for this session");
                    return None;
                }
            }
        }
        None
    }

    fn refuse(mut self, status: Status) -> Result<(), HandshakeError> {
        self.drive.connection.refuse(status, self.drive.begun);
        answer(&mut self.drive.connection, self.drive.carrier.socket(), &[], self.drive.begun)
    }

    fn accept(self, ack: HelloAck, region: Option<shm::OwnedRegion>) -> Result<Established, HandshakeError> {
        let begun = self.drive.begun;
        let Drive { mut connection, carrier, .. } = self.drive;
        connection.accept(&ack, begun);
        let link = match region {
            // This side listens to the region before the client is told of it.
            Some(region) => {
                match Slot::server(region, carrier.into_fd()) {
                    Ok(slot) => Link::Slot(Box::new(slot)),
                    Err((socket, error)) => {
                        // Out of descriptors or threads: told, so that it comes again.
                        let refusal = HelloAck::rejection(RefuseReason::Exhausted.status());
                        let _ = send(socket.as_fd(), &refusal, &[]);
                        return Err(HandshakeError::Answer(error));
                    }
                }
            }
            None => Link::Socket(carrier),
        };
        answer(&mut connection, link.socket(), &[], begun)?;
        tracing::debug!(session = ack.session_id, profile = %ack.selected, peer = ?self.peer, "session accepted");
        Ok(Established { connection, ack, link, peer: self.peer, within_message: Some(self.message_timeout) })
    }
}
