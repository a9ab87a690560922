//! Ginnel's sessions of layout 1: over the SEQPACKET socket, and over shared memory with one slot each way.

use super::{Facts, Link, Mechanism, Role, Transport};
use crate::payload::ACK;
use crate::plan::{Form, Plan};
use ginnel_session::{ClientConfig, Endpoint, Limits, Listener, ServerConfig, Session, Wait};
use ginnel_wire::{Envelope, Profiles, Status};
use std::io;

/// A session with one profile.
#[derive(Clone, Copy)]
pub(super) struct SessionOver {
    name: &'static str,
    about: &'static str,
    profile: Profiles,
    max_depth: Option<usize>,
}

impl SessionOver {
    pub(super) const SEQPACKET: Self = Self {
        name: "ginnel-seqpacket",
        about: "Ginnel's session over its socket",
        profile: Profiles::BASELINE,
        max_depth: None,
    };
    pub(super) const SHM: Self = Self {
        name: "ginnel-shm",
        about: "Ginnel's session over shared memory, one slot each way",
        profile: Profiles::SHM_FUTEX,
        max_depth: Some(1),
    };
}

/// Payload limits of both directions.
pub(super) fn limit(plan: &Plan) -> u32 {
    u32::try_from(plan.size.max(ACK)).unwrap_or(u32::MAX)
}

pub(super) fn too_large(plan: &Plan) -> Option<String> {
    let most = ginnel_wire::MAX_PAYLOAD_LEN;
    (plan.size > most as usize).then(|| format!("a message of a session has at most {most} bytes"))
}

impl Mechanism for SessionOver {
    type End = End;

    fn facts(&self) -> Facts {
        Facts { max_depth: self.max_depth, answers_each: true, ..Facts::new(self.name, self.about) }
    }

    fn refuses(&self, plan: &Plan) -> Option<String> {
        too_large(plan)
    }

    async fn open(&self, role: Role, link: &mut Link<'_>) -> io::Result<End> {
        let directory = link.directory()?.to_owned();
        let endpoint = Endpoint::seqpacket(directory, &format!("e{}", link.pair)).map_err(io::Error::other)?;
        let (limit, form) = (limit(link.plan()), link.plan().form);
        let wait = Wait::at_most(link.plan().patience);
        let supported = Profiles::BASELINE | self.profile;
        let server = ServerConfig {
            supported,
            preferred: self.profile,
            max_request_payload: limit,
            max_response_payload: limit,
            ..Default::default()
        };
        let limits = Limits { max_payload: limit, max_items: 1 };
        let client = ClientConfig {
            supported,
            preferred: self.profile,
            request: limits,
            response: limits,
            ..Default::default()
        };
        let session = match (role, form) {
            (Role::Server, Form::Blocking) => {
                let listener = Listener::bind(&endpoint, server).map_err(io::Error::other)?;
                link.give(&(), &[])?;
                let incoming = listener.accept(&wait).map_err(io::Error::other)?;
                AnySession::Blocking(incoming.handshake(&wait).map_err(io::Error::other)?)
            }
            (Role::Client, Form::Blocking) => {
                link.take::<()>()?;
                AnySession::Blocking(Session::connect(&endpoint, &client, &wait).map_err(io::Error::other)?)
            }
            #[cfg(feature = "tokio")]
            (Role::Server, Form::Async) => {
                let listener =
                    ginnel_session::tokio::Listener::bind(&endpoint, server).await.map_err(io::Error::other)?;
                link.give(&(), &[])?;
                let incoming = listener.accept().await.map_err(io::Error::other)?;
                AnySession::Async(incoming.handshake().await.map_err(io::Error::other)?)
            }
            #[cfg(feature = "tokio")]
            (Role::Client, Form::Async) => {
                link.take::<()>()?;
                let session = ginnel_session::tokio::Session::connect(&endpoint, &client).await;
                AnySession::Async(session.map_err(io::Error::other)?)
            }
            #[cfg(not(feature = "tokio"))]
            (_, Form::Async) => return Err(io::ErrorKind::Unsupported.into()),
        };
        let end = End { session, role, next: 1, asked: None };
        let agreed = end.profile();
        if agreed != self.profile {
            return Err(io::Error::other(format!("the session has profile {agreed:?}, not {:?}", self.profile)));
        }
        Ok(end)
    }
}

enum AnySession {
    Blocking(Session),
    #[cfg(feature = "tokio")]
    Async(ginnel_session::tokio::Session),
}

pub(super) struct End {
    session: AnySession,
    role: Role,
    next: u64,
    /// Of the request that a server has to answer.
    asked: Option<Envelope>,
}

/// The number of the only method.
const METHOD: u16 = 1;

impl End {
    fn profile(&self) -> Profiles {
        match &self.session {
            AnySession::Blocking(session) => session.agreement().profile,
            #[cfg(feature = "tokio")]
            AnySession::Async(session) => session.agreement().profile,
        }
    }

    fn envelope(&mut self) -> io::Result<Envelope> {
        match self.role {
            Role::Client => {
                let id = self.next;
                self.next += 1;
                Ok(Envelope::request(METHOD, id, 0))
            }
            Role::Server => {
                let asked = self.asked.take().ok_or_else(|| io::Error::other("nothing was asked"))?;
                Ok(Envelope::response_to(&asked, Status::OK, 0))
            }
        }
    }
}

impl Transport for End {
    #[inline]
    async fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let envelope = self.envelope()?;
        match &mut self.session {
            AnySession::Blocking(session) => session.send(&envelope, message, &Wait::forever()),
            #[cfg(feature = "tokio")]
            AnySession::Async(session) => session.send(&envelope, message).await,
        }
        .map_err(io::Error::other)
    }

    #[inline]
    async fn recv(&mut self, message: &mut Vec<u8>) -> io::Result<usize> {
        let got = match &mut self.session {
            AnySession::Blocking(session) => session.recv(&Wait::forever()),
            #[cfg(feature = "tokio")]
            AnySession::Async(session) => session.recv().await,
        }
        .map_err(io::Error::other)?;
        let len = got.payload.len().min(message.len());
        message[..len].copy_from_slice(&got.payload[..len]);
        let (envelope, len) = (got.envelope, got.payload.len());
        if self.role == Role::Server {
            self.asked = Some(envelope);
        }
        Ok(len)
    }
}
