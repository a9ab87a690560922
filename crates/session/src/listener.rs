//! The server's side: a socket that listens, and connections on their way to becoming sessions.

use crate::bind::{Bound, bind};
use crate::carrier::Carrier;
use crate::config::ServerConfig;
use crate::core::Role;
use crate::credentials::PeerCredentials;
use crate::endpoint::Endpoint;
use crate::error::{HandshakeError, ListenError, RefuseReason, SessionError};
use crate::greeting::Greeting;
use crate::handshake::{Offer, Verdict, judge_hello};
use crate::session::{Established, Link, Session, receive_greeting, socket_framing};
use crate::shm;
use crate::socket::{self, Socket};
use crate::wait::Wait;
use ginnel_wire::{ENVELOPE_LEN, Hello, HelloAck, Profiles};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SHARED_MEMORY: Profiles = Profiles(Profiles::SHM_HYBRID.0 | Profiles::SHM_FUTEX.0);

/// A listening endpoint. Dropping it frees its name; sessions go on.
///
/// The socket is mode 0600 from its first moment, whatever the umask. A name left behind by a dead server is taken over;
/// one of a live server is refused.
#[derive(Debug)]
pub struct Listener {
    bound: Bound,
    endpoint: Arc<Endpoint>,
    config: ServerConfig,
    // Where the regions of shared-memory sessions go; `None` where there can be none.
    regions: Option<Arc<OwnedFd>>,
    accepted: AtomicU64,
}

impl Listener {
    /// Takes the endpoint and listens.
    ///
    /// # Errors
    /// [`ListenError::InUse`] if a server lives there, [`ListenError::WritableDir`] if others could put theirs in its place, or
    /// the system's refusal.
    ///
    /// It may block for some time: for the directory's lock, which is usually held for less than a millisecond, and to find out
    /// whether a socket that refuses connections is stale.
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
        Ok(Self { bound, endpoint: Arc::new(endpoint), config, regions, accepted: AtomicU64::new(0) })
    }

    /// Where it listens; a TCP port of 0 has become the real one.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The wait's end, or the system's refusal (such as no file descriptors left).
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
    /// The system's refusal (such as no file descriptors left).
    pub fn try_accept(&self) -> Result<Option<Incoming>, SessionError> {
        loop {
            match rustix::net::accept_with(&self.bound.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                Ok(socket) => return Ok(Some(self.incoming(socket))),
                Err(Errno::AGAIN) => return Ok(None),
                // The client has left already.
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(errno) => return Err(SessionError::Io { doing: "accept", source: errno.into() }),
            }
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
        Incoming {
            carrier: Socket::new(socket, packets),
            endpoint: Arc::clone(&self.endpoint),
            regions: self.regions.clone(),
            greeting: Greeting::new(packets),
            offer,
            peer,
        }
    }
}

impl AsFd for Listener {
    /// Readable when a connection waits.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.bound.socket.as_fd()
    }
}

/// A connection whose handshake is not over. Dropping it closes it.
///
/// It can be moved to another thread, or be polled together with others ([`Incoming::try_receive_hello`]), so that a client
/// that says nothing delays nobody.
#[derive(Debug)]
pub struct Incoming {
    carrier: Socket,
    endpoint: Arc<Endpoint>,
    regions: Option<Arc<OwnedFd>>,
    greeting: Greeting,
    offer: Offer,
    peer: Option<PeerCredentials>,
}

impl AsFd for Incoming {
    /// Readable when more of the HELLO may be there.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.carrier.fd()
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
        while self.greeting.packet().is_none() {
            match self.carrier.try_recv(self.greeting.space()).map_err(HandshakeError::NoHello)? {
                Some(len) => self.greeting.received(len),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The client's proposal, once it has arrived and can be read.
    #[must_use]
    pub fn hello(&self) -> Option<Hello> {
        Hello::decode(self.greeting.packet()?.get(ENVELOPE_LEN..)?).ok()
    }

    /// Waits for the HELLO and answers it.
    ///
    /// # Errors
    /// Why there is no session. The client was told if [`HandshakeError::Refused`].
    pub fn handshake(mut self, wait: &Wait<'_>) -> Result<Session, HandshakeError> {
        receive_greeting(&mut self.carrier, &mut self.greeting, wait).map_err(HandshakeError::NoHello)?;
        self.finish()
    }

    /// Answers a HELLO that has arrived. Does not block.
    ///
    /// # Errors
    /// Why there is no session. The client was told if [`HandshakeError::Refused`].
    pub fn finish(self) -> Result<Session, HandshakeError> {
        let (established, peer) = self.establish()?;
        Ok(Session::new(Role::Server, established, peer))
    }

    /// Judges and answers; what is left is to put a driver on it.
    pub(crate) fn establish(mut self) -> Result<(Established, Option<PeerCredentials>), HandshakeError> {
        let mut verdict = self.judge();
        let mut region = None;
        if let Verdict::Accept(ack) = &verdict
            && ack.selected.is_shared_memory()
        {
            match self.make_region(ack) {
                Some(made) => region = Some(made),
                None => {
                    // This session goes without: judged again, as a server that never had shared memory.
                    self.offer.supported = self.offer.supported.without(SHARED_MEMORY);
                    verdict = self.judge();
                }
            }
        }
        match verdict {
            Verdict::Accept(ack) => self.accept(ack, region),
            Verdict::Refuse(reason) => {
                answer(self.carrier.fd(), &HelloAck::rejection(reason.status()))?;
                Err(HandshakeError::Refused { status: reason.status(), reason })
            }
            Verdict::Close(reason) => Err(HandshakeError::Closed(reason)),
        }
    }

    fn judge(&self) -> Verdict {
        judge_hello(self.greeting.packet().unwrap_or_default(), &self.offer)
    }

    fn make_region(&self, ack: &HelloAck) -> Option<shm::OwnedRegion> {
        let (run_dir, service) = self.endpoint.service()?;
        let layout = shm::Layout::for_limits(self.offer.max_request_payload, self.offer.max_response_payload)?;
        shm::create(self.regions.as_ref()?, run_dir, service, ack.session_id, layout)
            .inspect_err(|errno| tracing::warn!(%errno, session = ack.session_id, "no shared memory for this session"))
            .ok()
    }

    fn accept(
        self,
        ack: HelloAck,
        region: Option<shm::OwnedRegion>,
    ) -> Result<(Established, Option<PeerCredentials>), HandshakeError> {
        let link = match region {
            // This side listens to the region before the client is told of it.
            Some(region) => {
                Link::Slot(shm::Slot::server(region, self.carrier.into_fd()).map_err(HandshakeError::Answer)?)
            }
            None => Link::Socket(self.carrier, socket_framing(&self.endpoint, &ack)),
        };
        answer(link.fd(), &ack.packet())?;
        tracing::debug!(session = ack.session_id, profile = %ack.selected, peer = ?self.peer, "session accepted");
        Ok((Established { ack, link }, self.peer))
    }
}

fn answer(socket: BorrowedFd<'_>, packet: &[u8]) -> Result<(), HandshakeError> {
    // A fresh connection has room for 80 bytes; a peer that made it otherwise gets none.
    match socket::send(socket, packet, &[]) {
        Ok(Some(len)) if len == packet.len() => Ok(()),
        Ok(_) => Err(HandshakeError::Answer(SessionError::Closed)),
        Err(error) => Err(HandshakeError::Answer(error)),
    }
}
