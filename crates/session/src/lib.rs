//! Sessions of the netipc protocol: the byte level between two processes of one machine.
//!
//! A [`Listener`] takes an [`Endpoint`]; a client [connects](Session::connect); both get a [`Session`] that carries
//! whole messages within the limits they agreed on. What carries the bytes is negotiated: a SEQPACKET socket (the
//! field's), a Unix stream, TCP, or shared memory with the socket as liveness signal.
//!
//! The protocol itself is in [`proto`], as state machines that own no socket and no clock. The blocking face here and
//! the async one (feature `tokio`) drive the same ones.
//!
//! Every wait takes a [`Wait`]: a deadline, an [`Abort`], or both. Nothing polls on a timer: stop, abort and hang-up
//! act at once, also on a thread that sleeps on shared memory.
//!
//! Bytes, limits and rules: `docs/spec/netipc-v1.md`, and for what Ginnel's own peers say to each other (layout 2)
//! `docs/spec/ginnel-wire-2.md`. Drivers of many sessions speak both: [`Incoming::into_parts`] and [`Connector`].
#![deny(unsafe_code)]

mod bind;
pub mod carrier;
mod config;
mod connector;
mod credentials;
mod directory;
mod drive;
mod endpoint;
mod error;
mod layout2;
mod listener;
mod parts;
pub mod proto;
pub mod ring;
mod session;
mod shm;
mod socket;
#[allow(unsafe_code)]
mod sys;
mod wait;

pub use config::{
    ClientConfig, ClientLayout2, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_PAYLOAD, DEFAULT_MESSAGE_TIMEOUT, Limits,
    ServerConfig, ServerLayout2,
};
pub use connector::Connector;
pub use credentials::{InvocationIdError, PeerCredentials, UidPolicy, token_from_invocation_id};
#[cfg(feature = "tokio")]
pub use drive::tokio;
pub use endpoint::Endpoint;
pub use error::{
    CloseReason, ConnectError, EndpointError, HandshakeError, ListenError, ProtocolError, Refusal, RefuseReason,
    SessionError, WritableDir,
};
pub use listener::{Incoming, Listener};
pub use parts::Parts;
pub use session::{Agreement, Session};
pub use wait::{Abort, Wait};
