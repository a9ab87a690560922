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
//!
//! On other systems than Linux there are the protocol ([`proto`]), its settings and its errors: what carries the bytes and
//! what waits is Linux's so far.
#![deny(unsafe_code)]
// What carriers and drivers use of the rest.
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports))]

mod agreement;
#[cfg(target_os = "linux")]
mod bind;
#[cfg(target_os = "linux")]
pub mod carrier;
mod config;
#[cfg(target_os = "linux")]
mod connector;
mod credentials;
#[cfg(target_os = "linux")]
mod directory;
#[cfg(target_os = "linux")]
mod drive;
mod endpoint;
mod error;
#[cfg(target_os = "linux")]
mod layout2;
#[cfg(target_os = "linux")]
mod listener;
#[cfg(target_os = "linux")]
mod parts;
pub mod proto;
#[cfg(target_os = "linux")]
pub mod ring;
#[cfg(target_os = "linux")]
mod session;
#[cfg(target_os = "linux")]
mod shm;
#[cfg(target_os = "linux")]
mod socket;
#[allow(unsafe_code)]
#[cfg(target_os = "linux")]
mod sys;
#[cfg(target_os = "linux")]
mod wait;

pub use agreement::Agreement;
pub use config::{
    ClientConfig, ClientLayout2, DEFAULT_HANDSHAKE_TIMEOUT, DEFAULT_MAX_PAYLOAD, DEFAULT_MESSAGE_TIMEOUT, Limits,
    ServerConfig, ServerLayout2,
};
#[cfg(target_os = "linux")]
pub use connector::Connector;
pub use credentials::{InvocationIdError, PeerCredentials, UidPolicy, token_from_invocation_id};
#[cfg(all(feature = "tokio", target_os = "linux"))]
pub use drive::tokio;
pub use endpoint::Endpoint;
pub use error::{
    CloseReason, ConnectError, EndpointError, HandshakeError, ListenError, ProtocolError, Refusal, RefuseReason,
    SessionError, WritableDir,
};
#[cfg(target_os = "linux")]
pub use listener::{Incoming, Listener};
#[cfg(target_os = "linux")]
pub use parts::Parts;
#[cfg(target_os = "linux")]
pub use session::Session;
#[cfg(target_os = "linux")]
pub use wait::{Abort, Wait};
