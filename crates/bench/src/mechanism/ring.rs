//! Ginnel's RING: a session of layout 2 whose messages travel in two rings of shared memory.

use super::session::{limit, too_large};
use super::{Facts, Link, Mechanism, Role, Transport};
use crate::plan::{Form, Plan};
use ginnel_memory::Spin;
use ginnel_session::carrier::Source;
use ginnel_session::proto::{Body, Call, Event, Input, Pool, Timing};
use ginnel_session::{
    ClientConfig, ClientLayout2, Connector, Endpoint, Limits, Listener, Parts, ServerConfig, ServerLayout2,
    SessionError, Wait,
};
use ginnel_wire::{Profiles, Reply};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io;
use std::time::Instant;

/// A session over RING.
pub(super) struct Ring;

/// Buffers that are kept for the next messages.
const KEEP: usize = 16 << 20;
/// The only method.
const METHOD: u16 = 1;
/// Most calls in flight.
const WINDOW: u32 = 4096;

impl Mechanism for Ring {
    type End = End;

    fn facts(&self) -> Facts {
        let facts = Facts::new("ginnel-ring", "Ginnel's session over RING: two byte rings in shared memory");
        Facts { max_depth: Some(WINDOW as usize), answers_each: true, ..facts }
    }

    fn refuses(&self, plan: &Plan) -> Option<String> {
        too_large(plan)
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let directory = link.directory()?.to_owned();
        let endpoint = Endpoint::seqpacket(directory, &format!("r{}", link.pair)).map_err(io::Error::other)?;
        let limit = limit(link.plan());
        let wait = Wait::at_most(link.plan().patience);
        let supported = Profiles::BASELINE | Profiles::RING;
        let parts = if role == Role::Client {
            link.take::<()>()?;
            let limits = Limits { max_payload: limit, max_items: 1 };
            let config = ClientConfig {
                supported,
                preferred: Profiles::RING,
                request: limits,
                response: limits,
                layout_2: Some(ClientLayout2 { request_window: WINDOW, ..Default::default() }),
                ..Default::default()
            };
            Connector::new(endpoint, config).connect(&wait, Timing::default()).map_err(io::Error::other)?
        } else {
            let config = ServerConfig {
                supported,
                preferred: Profiles::RING,
                max_request_payload: limit,
                max_response_payload: limit,
                layout_2: Some(ServerLayout2 { request_window: WINDOW, ..Default::default() }),
                ..Default::default()
            };
            let listener = Listener::bind(&endpoint, config).map_err(io::Error::other)?;
            link.give(&(), &[])?;
            let mut incoming = listener.accept(&wait).map_err(io::Error::other)?;
            let begun = Instant::now();
            while !incoming.try_receive_hello().map_err(io::Error::other)? {
                if begun.elapsed() > link.plan().patience {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                std::thread::yield_now();
            }
            incoming.into_parts(Timing::default(), Instant::now()).map_err(io::Error::other)?
        };
        if parts.agreement.profile != Profiles::RING {
            return Err(io::Error::other(format!("the session has profile {:?}, not RING", parts.agreement.profile)));
        }
        End::new(parts, role, link.plan().form)
    }
}

/// The smallest driver of a session over RING, in both forms.
pub(super) struct End {
    parts: Parts,
    role: Role,
    pool: Pool,
    spin: Spin,
    /// Of the requests that a server has to answer, in their order.
    asked: VecDeque<u64>,
    /// The clock of the protocol's timeouts, of which there are none here.
    now: Instant,
    #[cfg(feature = "tokio")]
    reactor: Option<[tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>; 2]>,
}

impl End {
    fn new(parts: Parts, role: Role, form: Form) -> io::Result<Self> {
        #[cfg(feature = "tokio")]
        let reactor = match (form, parts.carrier.source()) {
            (Form::Async, Source::Ring { bell, socket }) => {
                let register = |fd: std::os::fd::BorrowedFd<'_>| crate::sys::async_fd(fd.try_clone_to_owned()?);
                Some([register(bell)?, register(socket)?])
            }
            _ => None,
        };
        let _ = form;
        Ok(Self {
            parts,
            role,
            pool: Pool::new(KEEP),
            spin: Spin::default(),
            asked: VecDeque::new(),
            now: Instant::now(),
            #[cfg(feature = "tokio")]
            reactor,
        })
    }

    /// Writes as far as the ring takes it; whether all is out.
    #[inline]
    fn write(&mut self) -> Result<bool, SessionError> {
        let Parts { connection, carrier, .. } = &mut self.parts;
        while let Some(transmit) = connection.poll_transmit(&[]) {
            match carrier.try_send(transmit.head, transmit.body)? {
                Some(len) => connection.transmitted(self.now, len, &mut self.pool),
                None => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Reads once; whether anything came.
    #[inline]
    fn read(&mut self) -> Result<bool, SessionError> {
        let Parts { connection, carrier, .. } = &mut self.parts;
        if !connection.wants_input() {
            return Ok(false);
        }
        let due = carrier.due();
        let Some(len) = carrier.try_recv(connection.space(due, &mut self.pool))? else { return Ok(false) };
        connection.handle(self.now, Input::Received(len));
        Ok(true)
    }

    /// Waits until an attempt is worth making: spins first.
    async fn wait(&mut self) -> io::Result<()> {
        let carrier = &mut self.parts.carrier;
        if self.spin.until(|| carrier.has_news().unwrap_or(true).then_some(())).is_some() || !carrier.arm() {
            return Ok(());
        }
        #[cfg(feature = "tokio")]
        if let Some(fds) = &self.reactor {
            return readable(fds).await;
        }
        let Source::Ring { bell, socket } = carrier.source() else {
            return Err(io::Error::other("this is no ring"));
        };
        let mut fds = [bell, socket].map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
        let nap = carrier.nap_limit().and_then(|nap| Timespec::try_from(nap).ok());
        let _ = poll(&mut fds, nap.as_ref()); // an interruption is as good as news
        Ok(())
    }
}

/// Waits in the reactor until either is readable.
#[cfg(feature = "tokio")]
async fn readable(fds: &[tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>; 2]) -> io::Result<()> {
    use std::task::Poll;
    std::future::poll_fn(|context| {
        for fd in fds {
            if let Poll::Ready(guard) = fd.poll_read_ready(context) {
                // What comes after this is an edge of its own, and whoever waits has looked before.
                guard?.clear_ready();
                return Poll::Ready(Ok(()));
            }
        }
        Poll::Pending
    })
    .await
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut body = self.pool.take_empty(message.len());
        body.extend_from_slice(message);
        let (connection, now) = (&mut self.parts.connection, self.now);
        match self.role {
            Role::Client => {
                let call = Call { method: METHOD, reply: Reply::One, timeout: None, ..Call::default() };
                connection.call(now, &call, Body::Owned(body)).map_err(io::Error::other)?;
            }
            Role::Server => {
                let id = self.asked.pop_front().ok_or_else(|| io::Error::other("nothing was asked"))?;
                connection.respond(now, id, Body::Owned(body)).map_err(io::Error::other)?;
            }
        }
        while !self.write().map_err(io::Error::other)? {
            self.wait().await?;
        }
        Ok(())
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        loop {
            match self.parts.connection.poll_event(&mut self.pool) {
                Some(Event::Message(got)) => {
                    if let (Role::Server, Some(head)) = (self.role, got.head()) {
                        self.asked.push_back(head.id);
                    }
                    let payload = got.payload();
                    let len = payload.len().min(message.len());
                    message[..len].copy_from_slice(&payload[..len]);
                    let len = payload.len();
                    self.pool.put(got.into_buffer());
                    return Ok(len);
                }
                Some(Event::Ended(end)) => return Err(io::Error::other(end.to_error())),
                Some(_) => continue,
                None => {}
            }
            if !self.read().map_err(io::Error::other)? {
                self.write().map_err(io::Error::other)?;
                self.wait().await?;
            }
        }
    }
}
