//! The client's way to a session in the best layout that its server has.

use crate::agreement::Agreement;
use crate::carrier::{Carrier, RingLink, Socket, recv, send};
use crate::config::{ClientConfig, ClientLayout2};
use crate::directory::Trust;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, SessionError};
use crate::layout2::propose_2;
use crate::parts::Parts;
use crate::proto::{Connection, End, Event, Framing, Input, Pool, Timing};
use crate::ring::{self, Ring, RingError};
use crate::session::{attach, client_hello};
use crate::socket;
use crate::wait::Wait;
use ginnel_base::Deadline;
use ginnel_wire::{HelloAck, HelloAck2, Profiles};
use rustix::event::PollFlags;
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a server over TCP is taken for one of layout 1: nothing tells that it was restarted.
const MEMORY: Duration = Duration::from_secs(60);

/// Connects to one endpoint, again and again: in layout 2 where [`ClientConfig::layout_2`] proposes it and the server
/// has it, else in layout 1, and it remembers a server that has not.
#[derive(Debug)]
pub struct Connector {
    endpoint: Endpoint,
    config: ClientConfig,
    plain: Mutex<Option<Plain>>,
}

/// The server that was found to speak layout 1 only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Plain {
    /// By its socket's device and inode: a restarted server has another.
    Inode(u64, u64),
    Until(Deadline),
}

enum Greeted {
    One(HelloAck),
    Two(HelloAck2),
    FallBack,
}

impl Connector {
    /// For sessions with the server at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint, config: ClientConfig) -> Self {
        Self { endpoint, config, plain: Mutex::new(None) }
    }

    /// Where it connects to.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// What it proposes.
    #[must_use]
    pub fn config(&self) -> &ClientConfig {
        &self.config
    }

    /// What it proposes, to change before the next session: limits that were learned.
    pub fn config_mut(&mut self) -> &mut ClientConfig {
        &mut self.config
    }

    /// Whether the server that is there now is remembered as one of layout 1.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        match *self.plain.lock().unwrap_or_else(PoisonError::into_inner) {
            None => false,
            Some(Plain::Until(over)) => !over.passed(),
            Some(inode) => self.inode() == Some(inode),
        }
    }

    fn inode(&self) -> Option<Plain> {
        let stat = rustix::fs::stat(self.endpoint.path()?).ok()?;
        Some(Plain::Inode(stat.st_dev, stat.st_ino))
    }

    /// Connects and shakes hands, all before `wait` is over. It blocks. `timing` says how long the server may keep
    /// silent afterwards.
    ///
    /// # Errors
    /// Nobody there, refused, or cut short; see [`ConnectError`]. [`ConnectError::refusal`] tells what a server
    /// answered in either layout. After [`ConnectError::SharedMemory`] and [`ConnectError::Rings`] connect again
    /// without those profiles.
    pub fn connect(&self, wait: &Wait<'_>, timing: Timing) -> Result<Parts, ConnectError> {
        if let Some(own) = self.config.layout_2
            && !self.is_plain()
        {
            // Before the connection: a server that is replaced in between is tried again.
            let seen = self.inode().unwrap_or_else(|| Plain::Until(Deadline::after(MEMORY)));
            if let Some(parts) = self.attempt(Some(&own), wait, timing)? {
                return Ok(parts);
            }
            tracing::debug!(endpoint = %self.endpoint, "the server speaks layout 1 only");
            *self.plain.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        }
        self.attempt(None, wait, timing)?.ok_or(ConnectError::Session(SessionError::Closed))
    }

    /// `None`: greet it in layout 1.
    fn attempt(
        &self,
        own: Option<&ClientLayout2>,
        wait: &Wait<'_>,
        timing: Timing,
    ) -> Result<Option<Parts>, ConnectError> {
        let endpoint = &self.endpoint;
        let trust = Trust::at(endpoint, &self.config)?;
        let socket = socket::connect(endpoint, wait)?;
        let peer = socket::peer_credentials(&socket, endpoint);
        trust.accept(peer)?;
        let (packets, now) = (endpoint.is_seqpacket(), Instant::now());
        let descriptors = endpoint.tcp_address().is_none();
        let mut connection = match own {
            Some(own) => {
                let size = socket::packet_size(&socket, endpoint, self.config.packet_size);
                let hello = propose_2(&self.config, own, size, descriptors);
                Connection::client_2(hello, own.max_ring, packets, Timing::default(), now)
            }
            None => {
                let hello = client_hello(&socket, endpoint, &self.config);
                Connection::client(hello, packets, Timing::default(), now)
            }
        };
        let mut fds = Vec::new();
        let greeted = greet(&mut connection, &socket, (packets, descriptors), &mut fds, wait)?;
        let (carrier, agreement): (Box<dyn Carrier>, _) = match greeted {
            Greeted::FallBack => return Ok(None),
            Greeted::One(ack) => {
                let link = attach(endpoint, socket, &ack, wait)?;
                if let Some(slot) = link.slot() {
                    connection.set_framing(Framing::Slot(slot.longest()));
                }
                (link.into_carrier(), Agreement::new(&ack, peer))
            }
            Greeted::Two(ack) => {
                let carrier: Box<dyn Carrier> = if ack.selected == Profiles::RING {
                    let max_ring = own.map_or(0, |own| own.max_ring);
                    let ring = Ring::attach(socket, fds, &ack, max_ring).map_err(ConnectError::Rings)?;
                    Box::new(RingLink::new(ring))
                } else if fds.is_empty() {
                    Box::new(Socket::new(socket, packets))
                } else {
                    return Err(ConnectError::Rings(RingError::Descriptors { found: fds.len(), expected: 0 }));
                };
                (carrier, Agreement::new_2(&ack, peer))
            }
        };
        connection.set_timing(timing, Instant::now());
        Ok(Some(Parts { connection, carrier, agreement }))
    }
}

/// Says HELLO and takes the answer, with the descriptors that come with it.
fn greet(
    connection: &mut Connection,
    socket: &OwnedFd,
    (packets, descriptors): (bool, bool),
    fds: &mut Vec<OwnedFd>,
    wait: &Wait<'_>,
) -> Result<Greeted, ConnectError> {
    let (now, mut pool) = (Instant::now(), Pool::new(0));
    let poll = |events| wait.poll(socket.as_fd(), events).map_err(ConnectError::Session);
    while let Some(transmit) = connection.poll_transmit(&[]) {
        match send(socket, transmit.head, transmit.body) {
            Ok(Some(len)) => connection.transmitted(now, len, &mut pool),
            Ok(None) => _ = poll(PollFlags::OUT)?,
            // A server that closes at once may have said why.
            Err(SessionError::Closed) => break,
            Err(error) => return Err(ConnectError::Session(error)),
        }
    }
    loop {
        match connection.poll_event(&mut pool) {
            Some(Event::Established(ack)) => return Ok(Greeted::One(ack)),
            Some(Event::Established2(ack)) => return Ok(Greeted::Two(ack)),
            Some(Event::Ended(End::FallBack)) => return Ok(Greeted::FallBack),
            Some(Event::Ended(End::Refused(refusal))) => {
                return Err(match connection.server_facts() {
                    Some(server) => ConnectError::Refused2 { refusal, server: Box::new(server) },
                    None => refusal.into(),
                });
            }
            Some(Event::Ended(end)) => return Err(ConnectError::Session(end.to_error())),
            // A client is told nothing else before its session stands.
            Some(_) => {}
            None => {
                let space = connection.space(0, &mut pool);
                let received = if descriptors {
                    match ring::recv(socket, space) {
                        Ok(Some((0, _))) => Err(SessionError::Closed),
                        Ok(Some((len, came))) => {
                            fds.extend(came);
                            Ok(Some(len))
                        }
                        Ok(None) => Ok(None),
                        Err(RingError::System { source: Errno::CONNRESET, .. }) => Err(SessionError::Closed),
                        Err(error) => return Err(ConnectError::Rings(error)),
                    }
                } else {
                    recv(socket, space, packets)
                };
                match received {
                    Ok(Some(len)) => connection.handle(now, Input::Received(len)),
                    Ok(None) => _ = poll(PollFlags::IN)?,
                    Err(SessionError::Closed) => connection.handle(now, Input::HungUp),
                    Err(error) => return Err(ConnectError::Session(error)),
                }
            }
        }
    }
}
